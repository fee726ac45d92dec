//! What else MQTT asks of a server, and what clients must not get away with.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use devmon_collector::intake::Limits;

use crate::client::{Client, DEADLINE, Hello, PINGRESP, SUBACK, UNSUBACK, packet, string};
use crate::collector::{Collector, wait_for};

#[test]
fn a_subscription_is_refused_politely() {
    let collector = Collector::start();
    for (version, properties, code) in [(4, &[][..], 0x80), (5, &[0][..], 0x87)] {
        let mut client = Client::connect(collector.addr, &Hello::new(version, "d"));
        let filters = [string("devmon/#"), vec![1], string("#"), vec![0]].concat();
        client.send(&packet(0x82, &[&[0, 9], properties, &filters].concat()));
        let (kind, body) = client.read().unwrap();
        assert_eq!(kind, SUBACK);
        assert_eq!(body, [&[0, 9], properties, &[code, code]].concat());
        client.send(&packet(
            0xa2,
            &[&[0, 10], properties, &string("#")[..]].concat(),
        ));
        let (kind, body) = client.read().unwrap();
        assert_eq!(kind, UNSUBACK);
        assert_eq!(body[..2], [0, 10]);
        client.ping();
        assert_eq!(client.read().unwrap().0, PINGRESP);
    }
}

#[test]
fn a_client_of_mqtt_5_is_told_what_it_may_do() {
    let limits = Limits {
        in_flight: 20,
        ..Limits::default()
    };
    let collector = Collector::with(limits, None);
    let (mut client, connack) = Client::connect_raw(collector.addr, &Hello::new(5, ""));
    assert_eq!(connack[..2], [0, 0]);
    let properties = &connack[3..];
    let has = |bytes: &[u8]| properties.windows(bytes.len()).any(|w| w == bytes);
    assert!(has(&[33, 0, 20]), "receive maximum");
    assert!(has(&[36, 1]), "maximum QoS");
    assert!(has(&[39, 0, 0x20, 0, 0]), "maximum packet size: 2 MiB");
    assert!(has(b"assigned-"), "a client id");
    // A topic alias in place of the topic.
    let payload = br#"{"ts":1795450000000,"metrics":{"a":1}}"#;
    let first = [
        &string("devmon/v1/0/d/metrics")[..],
        &[0, 1, 3, 35, 0, 5],
        payload,
    ]
    .concat();
    let second = [&string("")[..], &[0, 2, 3, 35, 0, 5], payload].concat();
    client.send(&packet(0x32, &first));
    client.send(&packet(0x32, &second));
    assert_eq!((client.puback(), client.puback()), (1, 2));
    assert_eq!(collector.samples(), 2);
}

#[test]
fn an_empty_client_id_needs_a_clean_session_in_3_1_1() {
    let collector = Collector::start();
    Client::connect(collector.addr, &Hello::new(4, ""));
    let hello = Hello {
        clean: false,
        ..Hello::new(4, "")
    };
    let (mut client, connack) = Client::connect_raw(collector.addr, &hello);
    assert_eq!(connack, [0, 2], "identifier rejected");
    assert_eq!(client.end(), None);
}

#[test]
fn whoever_says_nothing_is_let_go_in_time() {
    let limits = Limits {
        connect_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let collector = Collector::with(limits, None);
    let mut silent = TcpStream::connect(collector.addr).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    silent.write_all(&[0x10]).unwrap(); // a beginning is not enough
    let begin = Instant::now();
    let end = std::io::Read::read(&mut silent, &mut [0]).unwrap_or(0);
    assert_eq!(end, 0);
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn one_connection_too_many_is_closed_and_a_place_is_free_again() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let collector = Collector::with(limits, None);
    let first = Client::connect(collector.addr, &Hello::new(4, "a"));
    let _second = Client::connect(collector.addr, &Hello::new(4, "b"));
    let mut third = TcpStream::connect(collector.addr).unwrap();
    third.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(std::io::Read::read(&mut third, &mut [0]).unwrap_or(0), 0);
    drop(first);
    wait_for("a place", || collector.intake.status().connections == 1);
    Client::connect(collector.addr, &Hello::new(4, "c"));
}

#[test]
fn any_bytes_end_one_connection_at_most() {
    let collector = Collector::start();
    let mut state = 1u32;
    let mut noise = |length: usize| -> Vec<u8> {
        let next = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        next.take(length).collect()
    };
    for round in 0..300 {
        let bytes = noise(64);
        let mut stream = if round % 2 == 0 {
            TcpStream::connect(collector.addr).unwrap()
        } else {
            // After a proper CONNECT, with every kind of packet in front.
            let version = [4, 5][round / 2 % 2];
            Client::connect(collector.addr, &Hello::new(version, &format!("n{round}"))).stream
        };
        let bytes = packet((round as u8).rotate_left(4), &bytes);
        let sent = stream.write_all(&bytes);
        drop((sent, stream));
    }
    let mut client = Client::connect(collector.addr, &Hello::new(4, "d"));
    client.publish("devmon/v1/0/d/metrics", r#"{"metrics":{"a":1}}"#, 1);
    assert_eq!(client.puback(), 1);
    wait_for("only it is left", || {
        collector.intake.status().connections == 1
    });
}

/// A message of so many bytes, most of them blanks.
fn large(client: &Client, bytes: usize, packet_id: u16) -> Vec<u8> {
    let mut payload = br#"{"metrics":{"n":1}}"#.to_vec();
    payload.resize(bytes, b' ');
    client.publish_packet(TOPIC, &payload, 1, packet_id)
}

const TOPIC: &str = "devmon/v1/0/d/metrics";

#[test]
fn large_packets_wait_for_each_others_memory_and_small_ones_do_not() {
    let limits = Limits {
        receiving_bytes: 256 << 10,
        ..Limits::default()
    };
    let collector = Collector::with(limits, None);
    let [mut first, mut second, mut small] =
        ["a", "b", "c"].map(|id| Client::connect(collector.addr, &Hello::new(4, id)));
    let packet = large(&first, 150 << 10, 1);
    first.send(&packet[..100_000]);
    wait_for("the first has its place", || {
        (collector.receiving)().bytes > 0
    });
    let bytes = (collector.receiving)().bytes;
    assert!((150 << 10..256 << 10).contains(&bytes), "{bytes}");
    let whole = large(&second, 150 << 10, 2);
    let sender = std::thread::spawn(move || {
        second.send(&whole);
        second
    });
    wait_for("the second waits", || (collector.receiving)().waiting == 1);
    for id in 1..20 {
        small.publish(TOPIC, r#"{"metrics":{"n":1}}"#, id);
        assert_eq!(small.puback(), id);
    }
    assert_eq!(collector.intake.status().messages, 19);
    first.send(&packet[100_000..]);
    assert_eq!(first.puback(), 1);
    assert_eq!(sender.join().unwrap().puback(), 2);
    wait_for("all is given back", || (collector.receiving)().bytes == 0);
}

#[test]
fn who_holds_memory_that_others_wait_for_and_does_not_get_on_is_let_go() {
    let limits = Limits {
        receiving_bytes: 256 << 10,
        packet_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let collector = Collector::with(limits, None);
    let [mut stuck, mut next] =
        ["a", "b"].map(|id| Client::connect(collector.addr, &Hello::new(4, id)));
    let packet = large(&stuck, 150 << 10, 1);
    stuck.send(&packet[..100_000]);
    wait_for("it has its place", || (collector.receiving)().bytes > 0);
    let whole = large(&next, 150 << 10, 2);
    next.send(&whole);
    assert_eq!(next.puback(), 2);
    assert_eq!(stuck.end(), None);
}

#[test]
fn a_slow_packet_may_take_its_time_while_nobody_waits() {
    let limits = Limits {
        packet_timeout: Duration::from_millis(1),
        ..Limits::default()
    };
    let collector = Collector::with(limits, None);
    let mut client = Client::connect(collector.addr, &Hello::new(4, "a"));
    let packet = large(&client, 200 << 10, 1);
    for part in packet.chunks(10 << 10) {
        client.send(part);
        // Another client's way there and back takes longer than the timeout, all together.
        Client::connect(collector.addr, &Hello::new(4, "b"));
    }
    assert_eq!(client.puback(), 1);
}

#[test]
fn nobody_gets_memory_before_it_has_said_who_it_is() {
    let limits = Limits {
        connect_timeout: DEADLINE * 2,
        ..Limits::default()
    };
    let collector = Collector::with(limits, None);
    let mut stranger = TcpStream::connect(collector.addr).unwrap();
    stranger.set_read_timeout(Some(DEADLINE)).unwrap();
    stranger.write_all(&[0x10, 0xff, 0xff, 0x03]).unwrap(); // a CONNECT of 64 KiB
    assert_eq!(std::io::Read::read(&mut stranger, &mut [0]).unwrap_or(0), 0);
}

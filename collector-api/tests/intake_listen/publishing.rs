//! PUBACK means on disk.

use std::time::Duration;

use devmon_collector::intake::{Limits, Publish};
use devmon_collector::store::engine::Store;
use devmon_core::wire::Reason;

use crate::client::{Client, DISCONNECT, Hello, PINGRESP, PUBACK};
use crate::collector::{Collector, Gate, wait_for};

const TOPIC: &str = "devmon/v1/0/d/metrics";

fn message(seq: u64) -> String {
    format!(
        r#"{{"v":1,"boot":"B","seq":{seq},"frames":[{{"ts":{},"source":"s","metrics":{{"n":{seq}}}}}]}}"#,
        1_795_450_000_000 + seq
    )
}

#[test]
fn puback_comes_after_the_commit_and_not_before() {
    for version in [4, 5] {
        let collector = Collector::start();
        let mut client = Client::connect(collector.addr, &Hello::new(version, "d"));
        collector.store.set(Gate::Closed);
        client.publish(TOPIC, message(1), 7);
        wait_for("the commit has begun", || collector.store.arrived() == 1);
        client.ping();
        assert_eq!(client.read().unwrap().0, PINGRESP, "no PUBACK before it");
        assert!(collector.store.device("d").is_none());
        collector.store.set(Gate::Open);
        assert_eq!(client.puback(), 7);
        assert_eq!(collector.store.device("d").unwrap().series, 1);
    }
}

#[test]
fn pubacks_come_in_order_however_many_are_in_flight() {
    let limits = Limits {
        in_flight: 10,
        ..Limits::default()
    };
    for (limits, what) in [
        (limits, "a window of 10"),
        (Limits::default(), "the default"),
    ] {
        let collector = Collector::with(limits, None);
        let mut client = Client::connect(collector.addr, &Hello::new(4, "d"));
        let packets: Vec<u8> = (1..=5000u16)
            .flat_map(|id| client.publish_packet(TOPIC, message(id.into()).as_bytes(), 1, id))
            .collect();
        let mut writer = client.stream.try_clone().unwrap();
        let sending =
            std::thread::spawn(move || std::io::Write::write_all(&mut writer, &packets).unwrap());
        for id in 1..=5000 {
            assert_eq!(client.puback(), id, "{what}");
        }
        sending.join().unwrap();
        assert_eq!(collector.samples(), 5000);
    }
}

#[test]
fn what_can_not_be_stored_is_not_acknowledged_and_the_client_is_let_go() {
    for version in [4, 5] {
        let collector = Collector::start();
        let hello =
            Hello::new(version, "d").will("devmon/v1/0/d/status", r#"{"status":"offline"}"#);
        let mut client = Client::connect(collector.addr, &hello);
        client.publish(TOPIC, message(1), 1);
        assert_eq!(client.puback(), 1);
        collector.store.set(Gate::Broken);
        client.publish(TOPIC, message(2), 2);
        // A letter is not acknowledged either.
        client.publish("nowhere", "x", 3);
        match (version, client.read()) {
            (4, None) => {}
            (5, Some((DISCONNECT, body))) => assert_eq!(body[0], 0x89, "server busy"),
            (_, other) => panic!("{other:?}"),
        }
        assert!(collector.intake.status().problem.is_some());
        collector.store.set(Gate::Open);
        let mut client = Client::connect(collector.addr, &hello);
        client.publish(TOPIC, message(2), 2);
        assert_eq!(client.puback(), 2, "the same client, once there is room");
        assert_eq!(collector.intake.status().problem, None);
        assert_eq!(
            collector.presence("d"),
            None,
            "the device was not to blame: no will"
        );
    }
}

#[test]
fn qos_0_is_stored_without_an_answer() {
    let collector = Collector::start();
    let mut client = Client::connect(collector.addr, &Hello::new(4, "d"));
    let packet = client.publish_packet(TOPIC, message(1).as_bytes(), 0, 0);
    client.send(&packet);
    wait_for("it is stored", || collector.samples() == 1);
    client.ping();
    assert_eq!(client.read().unwrap().0, PINGRESP);
}

#[test]
fn qos_2_ends_the_connection() {
    for (version, reason) in [(4, None), (5, Some(0x9b))] {
        let collector = Collector::start();
        let mut client = Client::connect(collector.addr, &Hello::new(version, "d"));
        let packet = client.publish_packet(TOPIC, message(1).as_bytes(), 2, 1);
        client.send(&packet);
        assert_eq!(client.end(), reason);
        assert_eq!(collector.samples(), 0);
    }
}

#[test]
fn a_payload_over_the_limit_is_a_dead_letter_and_a_packet_over_it_the_end() {
    for (version, reason) in [(4, None), (5, Some(0x95))] {
        let collector = Collector::start();
        let mut client = Client::connect(collector.addr, &Hello::new(version, "d"));
        let payload = vec![b' '; 1_900_000];
        client.publish(TOPIC, &payload, 1);
        assert_eq!(client.puback(), 1);
        let letter = collector.store.dead_letters(None, 1).unwrap().remove(0);
        assert_eq!(letter.reason, Reason::PayloadTooLarge);
        assert_eq!(letter.payload.len(), payload.len());
        // Only its beginning: the length alone ends it, before the rest is taken.
        let packet = client.publish_packet(TOPIC, &vec![b' '; 3 << 20], 1, 2);
        client.send(&packet[..100]);
        assert_eq!(client.end(), reason);
    }
}

#[test]
fn a_real_client_of_each_version_gets_every_message_through() {
    let collector = Collector::start();
    let port = collector.addr.port();
    collector.runtime.block_on(async {
        let mut options = rumqttc::MqttOptions::new("three", "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(5));
        let (client, mut events) = rumqttc::AsyncClient::new(options, 10);
        let sending = tokio::spawn(async move {
            for seq in 0..1000 {
                let qos = rumqttc::QoS::AtLeastOnce;
                client
                    .publish("devmon/v1/0/three/metrics", qos, false, message(seq))
                    .await
                    .unwrap();
            }
            client
        });
        let mut acked = 0;
        while acked < 1000 {
            use rumqttc::{Event, Packet};
            acked += u32::from(matches!(
                events.poll().await.unwrap(),
                Event::Incoming(Packet::PubAck(_))
            ));
        }
        sending.await.unwrap();

        let mut options = rumqttc::v5::MqttOptions::new("five", "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(5));
        let (client, mut events) = rumqttc::v5::AsyncClient::new(options, 10);
        let sending = tokio::spawn(async move {
            for seq in 0..1000 {
                let qos = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
                client
                    .publish("devmon/v1/0/five/metrics", qos, true, message(seq))
                    .await
                    .unwrap();
            }
            client
        });
        let mut acked = 0;
        while acked < 1000 {
            use rumqttc::v5::{Event, mqttbytes::v5::Packet};
            acked += u32::from(matches!(
                events.poll().await.unwrap(),
                Event::Incoming(Packet::PubAck(_))
            ));
        }
        sending.await.unwrap();
    });
    assert_eq!(collector.samples(), 2000);
    assert_eq!(collector.store.devices(None, 10, &|_| true).len(), 2);
}

#[test]
fn at_shutdown_clients_are_told_and_what_was_not_acknowledged_is_theirs() {
    let collector = Collector::start();
    let mut three = Client::connect(collector.addr, &Hello::new(4, "three"));
    let mut five = Client::connect(collector.addr, &Hello::new(5, "five"));
    wait_for("both are counted", || {
        collector.intake.status().connections == 2
    });
    collector.store.set(Gate::Closed);
    three.publish(TOPIC, message(1), 1);
    wait_for("the commit has begun", || collector.store.arrived() == 1);
    collector.stop.send(true).unwrap();
    assert_eq!(five.end(), Some(0x8b), "server shutting down");
    let mut acknowledged = false;
    while let Some((kind, _)) = three.read() {
        acknowledged |= kind == PUBACK;
    }
    assert!(!acknowledged);
    wait_for("none is left", || {
        collector.intake.status().connections == 0
    });
}

#[test]
fn what_waits_is_charged_as_what_it_was_decoded_to() {
    let collector = Collector::start();
    collector.store.set(Gate::Closed);
    let queued = || collector.intake.status().queued_bytes as usize;
    let submit = |payload: Vec<u8>| {
        let before = queued();
        let publish = Publish::new(TOPIC, payload);
        drop(collector.runtime.block_on(collector.intake.submit(publish)));
        queued() - before
    };
    let overhead = TOPIC.len() + 512;
    let plain = message(1).into_bytes();
    let length = plain.len();
    assert_eq!(submit(plain), 4 * length + overhead);

    // 1000 texts of 1000 bytes, in a few KiB. More of them than would fit if each stayed charged with all that it might have been.
    for seq in 2..8 {
        let texts: Vec<String> = (0..1000)
            .map(|n| format!("\"t{n}\":\"{}\"", "x".repeat(1000)))
            .collect();
        let payload = format!(
            r#"{{"v":1,"boot":"B","seq":{seq},"frames":[{{"ts":1795450000000,"source":"s","metrics":{{{}}}}}]}}"#,
            texts.join(",")
        );
        let packed = zstd::bulk::compress(payload.as_bytes(), 3).unwrap();
        assert!(packed.len() < 20_000, "{} bytes", packed.len());
        let charged = submit(packed);
        assert!(
            (payload.len()..payload.len() * 3 / 2).contains(&charged),
            "{charged} for {}",
            payload.len()
        );
    }
    // Nothing came of it: only what is kept as a dead letter waits.
    let charged = submit(b"\x28\xb5\x2f\xfd not zstd".to_vec());
    assert!(charged < 1000, "{charged}");

    collector.store.set(Gate::Open);
    wait_for("all is committed", || queued() == 0);
    assert_eq!(collector.samples(), 6001);
}

//! Last wills, keep-alive, and two connections of one client id.

use std::time::Instant;

use crate::client::{Client, DISCONNECT, Hello};
use crate::collector::{Collector, wait_for};

const STATUS: &str = "devmon/v1/0/d/status";
const ONLINE: &str = r#"{"status":"online"}"#;
const OFFLINE: &str = r#"{"status":"offline"}"#;

fn online(collector: &Collector, hello: &Hello) -> Client {
    let mut client = Client::connect(collector.addr, hello);
    client.publish(STATUS, ONLINE, 1);
    assert_eq!(client.puback(), 1);
    assert_eq!(collector.presence("d").as_deref(), Some("online"));
    client
}

fn hello(version: u8) -> Hello {
    Hello::new(version, "d").will(STATUS, OFFLINE)
}

#[test]
fn a_connection_that_is_lost_leaves_its_will() {
    for version in [4, 5] {
        let collector = Collector::start();
        drop(online(&collector, &hello(version)));
        wait_for("the will", || {
            collector.presence("d").as_deref() == Some("offline")
        });
    }
}

#[test]
fn a_graceful_end_leaves_none_unless_it_asks_for_it() {
    for (version, disconnect, leaves) in [
        (4, &[0xe0u8, 0][..], false),
        (5, &[0xe0, 0], false),
        (5, &[0xe0, 1, 0x00], false),
        (5, &[0xe0, 1, 0x04], true), // disconnect with will message
    ] {
        let collector = Collector::start();
        let mut client = online(&collector, &hello(version));
        client.send(disconnect);
        assert_eq!(client.end(), None);
        wait_for("the connection is gone", || {
            collector.intake.status().connections == 0
        });
        let expected = if leaves { "offline" } else { "online" };
        assert_eq!(
            collector.presence("d").as_deref(),
            Some(expected),
            "{disconnect:?}"
        );
    }
}

#[test]
fn a_protocol_error_is_an_ungraceful_end() {
    let collector = Collector::start();
    let mut client = online(&collector, &hello(4));
    client.send(&[0xff; 8]);
    assert_eq!(client.end(), None);
    wait_for("the will", || {
        collector.presence("d").as_deref() == Some("offline")
    });
}

#[test]
fn silence_for_one_and_a_half_keep_alives_is_the_end() {
    for (version, reason) in [(4, None), (5, Some(0x8d))] {
        let collector = Collector::start();
        let hello = Hello {
            keep_alive_s: 1,
            ..hello(version)
        };
        let mut client = online(&collector, &hello);
        let silent_since = Instant::now();
        assert_eq!(client.end(), reason, "keep alive timeout");
        let silence = silent_since.elapsed().as_millis();
        assert!((1400..5000).contains(&silence), "{silence} ms");
        wait_for("the will", || {
            collector.presence("d").as_deref() == Some("offline")
        });
    }
}

#[test]
fn pings_keep_a_silent_client() {
    let collector = Collector::start();
    let hello = Hello {
        keep_alive_s: 1,
        ..hello(4)
    };
    let mut client = online(&collector, &hello);
    let begin = Instant::now();
    while begin.elapsed().as_millis() < 3000 {
        client.ping();
        assert!(client.read().is_some());
        std::thread::sleep(std::time::Duration::from_millis(500)); // the client's own pace
    }
    assert_eq!(collector.presence("d").as_deref(), Some("online"));
}

#[test]
fn the_newer_connection_of_a_client_id_ends_the_older_and_has_the_last_word() {
    for version in [4, 5] {
        let collector = Collector::start();
        let mut older = online(&collector, &hello(version));
        let mut newer = Client::connect(collector.addr, &hello(version));
        // The older one's will was published before the newer one was welcomed.
        assert_eq!(collector.presence("d").as_deref(), Some("offline"));
        newer.publish(STATUS, ONLINE, 1);
        assert_eq!(newer.puback(), 1);
        match (version, older.read()) {
            (4, None) => {}
            (5, Some((DISCONNECT, body))) => assert_eq!(body[0], 0x8e, "session taken over"),
            (_, other) => panic!("{other:?}"),
        }
        wait_for("one is left", || collector.intake.status().connections == 1);
        assert_eq!(collector.presence("d").as_deref(), Some("online"));
        newer.ping();
        assert!(newer.read().is_some());
    }
}

#[test]
fn a_device_that_is_forgotten_is_sent_away_without_its_will_and_may_come_again() {
    for version in [4, 5] {
        let collector = Collector::start();
        let mut client = online(&collector, &hello(version));
        let mut other = Client::connect(collector.addr, &Hello::new(version, "other"));
        (collector.close)("nobody");
        (collector.close)("d");
        let reason = client.end();
        assert_eq!(reason, (version == 5).then_some(0x98)); // administrative action
        wait_for("the connection is gone", || {
            collector.intake.status().connections == 1
        });
        assert_eq!(collector.presence("d").as_deref(), Some("online"));
        other.publish("devmon/v1/0/other/status", ONLINE, 1);
        assert_eq!(other.puback(), 1);
        drop(online(&collector, &hello(version)));
    }
}

//! Devices that appear, change and are forgotten; sources that fail; the end.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::collector::Collector;

fn about(sources: &[(&str, &str, Option<&str>)]) -> String {
    let source = |(name, state, reason): &(&str, &str, Option<&str>)| json!({"name": name, "state": state, "reason": reason, "interval_ms": 1000});
    let sources: Vec<Json> = sources.iter().map(source).collect();
    json!({"v": 1, "device": "d", "ts": 1, "agent": {"version": "1"}, "host": {}, "sources": sources, "descriptors": []}).to_string()
}

#[test]
fn changes_of_devices_and_sources_are_told_once_each() {
    let collector = Collector::start();
    let mut client = collector.client("types=device,status,source");
    collector.publish("d", "status", r#"{"status":"online"}"#);
    collector.publish(
        "d",
        "about",
        about(&[
            ("cpu", "ok", None),
            ("gpu", "unavailable", Some("no driver")),
        ]),
    );
    collector.publish(
        "d",
        "about",
        about(&[
            ("cpu", "failing", Some("late")),
            ("gpu", "unavailable", Some("no driver")),
        ]),
    );
    collector.sample("d", "cpu", 1, r#"{"a":1}"#);
    collector.publish("d", "status", r#"{"status":"online"}"#);
    collector.publish("d", "about", about(&[("cpu", "failing", Some("late"))]));
    collector.publish("d", "status", r#"{"status":"offline"}"#);
    assert!(collector.store.purge("d").unwrap());
    collector.events.forgotten("d");
    let expected = [
        ("device", json!({"change": "appeared"})),
        ("status", json!({"status": "online", "previous": null})),
        (
            "source",
            json!({"source": "cpu", "state": "ok", "reason": null, "previous": null}),
        ),
        (
            "source",
            json!({"source": "gpu", "state": "unavailable", "reason": "no driver", "previous": null}),
        ),
        (
            "source",
            json!({"source": "cpu", "state": "failing", "reason": "late", "previous": "ok"}),
        ),
        (
            "source",
            json!({"source": "gpu", "state": null, "reason": null, "previous": "unavailable"}),
        ),
        ("status", json!({"status": "offline", "previous": "online"})),
        ("device", json!({"change": "forgotten"})),
    ];
    for (kind, mut data) in expected {
        let mut event = client.next().unwrap();
        let ts = event.data["ts"].take().as_i64().unwrap();
        assert!(ts > 0);
        data["device"] = json!("d");
        data["ts"] = Json::Null;
        assert_eq!((event.kind.as_str(), event.data), (kind, data));
    }
    // One that was forgotten and comes again is new.
    collector.sample("d", "cpu", 2, r#"{"a":1}"#);
    assert_eq!(client.next().unwrap().data["change"], "appeared");
}

#[test]
fn a_device_that_falls_silent_becomes_stale_and_comes_back() {
    let collector = Collector::start();
    let mut client = collector.client("types=status");
    collector.sample("d", "cpu", 1, r#"{"a":1}"#);
    assert_eq!(client.next().unwrap().data["status"], "online");
    let stale = client.next().unwrap().data; // after 15 s
    assert_eq!(
        (&stale["status"], &stale["previous"]),
        (&json!("stale"), &json!("online"))
    );
    collector.sample("d", "cpu", 2, r#"{"a":1}"#);
    assert_eq!(client.next().unwrap().data["previous"], "stale");
}

#[test]
fn streams_end_at_once_when_the_collector_does() {
    let mut collector = Collector::start();
    let mut clients = ["", "min_interval=1h", "device=nobody"].map(|q| collector.client(q));
    collector.sample("d", "cpu", 1, r#"{"a":1}"#);
    let begin = Instant::now();
    collector.stop.send(true).unwrap();
    for client in &mut clients {
        client.cut_at(Duration::from_secs(3)); // one that goes on ends the test, too
        while client.next().is_some() {}
    }
    let server = collector.server.take().unwrap();
    collector.runtime.block_on(server).unwrap();
    let took = begin.elapsed();
    assert!(
        took < Duration::from_secs(2),
        "{took:?}; the server's own deadline is 5 s"
    );
}

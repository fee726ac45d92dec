//! What is sent to whom, and what is refused.

use serde_json::json;

use crate::client::Client;
use crate::collector::{Collector, T};

const DISK: &str = r#"{"/home":{"used_bytes":1,"utilization":0.5},"x~y":true,"state":"a\nb"}"#;

#[test]
fn a_stored_frame_is_sent_with_its_paths_and_values() {
    let collector = Collector::start();
    let mut client = collector.client("types=samples");
    for header in [
        "content-type: text/event-stream\r\n",
        "cache-control: no-store\r\n",
    ] {
        assert!(client.head.contains(header), "{}", client.head);
    }
    collector.sample("d", "disk", 1, DISK);
    collector.publish(
        "d",
        "metrics",
        r#"{"ts":1795450000002,"metrics":{"a":{"b":1}}}"#,
    );
    let event = client.next().unwrap();
    assert_eq!(event.kind, "samples");
    assert_eq!(
        event.data,
        json!({"device": "d", "source": "disk", "ts": T + 1, "values": {"/disk/~1home/used_bytes": 1, "/disk/~1home/utilization": 0.5,
               "/disk/x~0y": true, "/disk/state": "a\nb"}})
    );
    let short = client.next().unwrap();
    assert_eq!(
        short.data,
        json!({"device": "d", "source": null, "ts": T + 2, "values": {"/a/b": 1}})
    );
    assert_ne!(event.id, short.id);
}

#[test]
fn a_repeat_is_not_sent_and_what_is_refused_neither() {
    let collector = Collector::start();
    let mut client = collector.client("types=samples");
    collector.sample("d", "cpu", 1, r#"{"a":1}"#);
    collector.sample("d", "cpu", 1, r#"{"a":1}"#);
    collector.publish("d", "metrics", "{not json");
    collector.sample("d", "cpu", 2, r#"{"a":2}"#);
    let seen = [client.next().unwrap(), client.next().unwrap()];
    assert_eq!(seen.map(|e| e.data["ts"].as_i64().unwrap() - T), [1, 2]);
}

#[test]
fn a_client_gets_the_devices_paths_and_types_that_it_asked_for() {
    let collector = Collector::start();
    let mut clients = [
        "types=samples&device=edge_*&device=other",
        "types=samples&path=/disk/*/utilization&path=/cpu",
        "types=device,status&path=/nothing/here",
    ]
    .map(|query| collector.client(query));
    for device in ["edge_1", "lab", "other"] {
        collector.sample(device, "disk", 1, DISK);
        collector.sample(device, "cpu", 1, r#"{"a":1,"b":2}"#);
        collector.sample(device, "memory", 1, r#"{"a":1}"#);
    }
    collector.sample("edge_1", "cpu", 9, r#"{"a":1}"#);
    collector.sample("last", "cpu", 1, r#"{"a":1}"#);
    let [devices, paths, others] = &mut clients;
    let seen: Vec<_> = (0..7).map(|_| devices.next().unwrap().data).collect();
    let names: Vec<_> = seen.iter().map(|e| e["device"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["edge_1"; 3]);
    assert_eq!(names[3..], ["other", "other", "other", "edge_1"]);
    let values: Vec<_> = (0..2)
        .map(|_| paths.next().unwrap().data["values"].take())
        .collect();
    assert_eq!(values[0], json!({"/disk/~1home/utilization": 0.5}));
    assert_eq!(values[1], json!({"/cpu/a": 1, "/cpu/b": 2}));
    for device in ["edge_1", "lab", "other", "last"] {
        for (kind, key, value) in [
            ("device", "change", "appeared"),
            ("status", "status", "online"),
        ] {
            let event = others.next().unwrap();
            assert_eq!(
                (event.kind.as_str(), &event.data["device"]),
                (kind, &json!(device))
            );
            assert_eq!(event.data[key], value);
        }
    }
}

#[test]
fn mistakes_are_named_and_only_reading_is_possible() {
    let collector = Collector::start();
    for (query, parameter) in [
        ("types=sample", "types"),
        ("device=a%2Fb", "device"),
        ("path=cpu", "path"),
        ("min_interval=5ms", "min_interval"),
        ("min_interval=soon", "min_interval"),
        ("last_event_id=7", "last_event_id"),
        ("token=x", "token"),
    ] {
        let head = Client::ask(collector.addr, query, None).head;
        assert!(head.starts_with("HTTP/1.1 400"), "{parameter}: {head}");
        assert!(head.contains("application/problem+json"), "{head}");
    }
    let head = Client::ask(collector.addr, "", Some("evil")).head;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    assert_eq!(
        collector
            .events
            .counters()
            .clients
            .load(std::sync::atomic::Ordering::Relaxed),
        0
    );
}

#[test]
fn more_clients_than_there_may_be_are_turned_away_until_one_goes() {
    let collector = Collector::with(std::time::Duration::from_secs(30), 2);
    let first = collector.client("");
    let _second = collector.client("");
    let head = Client::ask(collector.addr, "", None).head;
    assert!(
        head.starts_with("HTTP/1.1 503") && head.contains("retry-after"),
        "{head}"
    );
    drop(first);
    crate::collector::wait_for("room", || {
        Client::ask(collector.addr, "", None)
            .head
            .starts_with("HTTP/1.1 200")
    });
}

//! The fleet: newest values by pattern, and forgetting a device.

use std::sync::Arc;

use devmon_collector::query::descriptors::DescriptorCache;
use devmon_collector::query::devices::DeviceFilter;
use devmon_collector::query::fleet::{Pattern, latest};
use devmon_core::wire::TimestampMs;
use devmon_core::wire::about::{Presence, SourceState};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::support::{Collector, MemoryStore, about};

const T: i64 = 1_795_450_000_000;
const URL: &str = "/api/v1/latest?path=/disk/*/utilization";

fn fleet() -> Collector {
    let collector = Collector::start();
    for device in ["a", "b", "c"] {
        for (path, value) in [
            ("/cpu/utilization", 0.5),
            ("/disk/~1/utilization", 0.25),
            ("/disk/~1home/utilization", 0.75),
            ("/disk/~1home/utilization/deeper", 1.0),
            ("/diskette/x/utilization", 1.0),
        ] {
            collector.store.put(device, path, T, value);
        }
    }
    collector.store.put("d", "/cpu/utilization", T, 0.0);
    collector.store.put_device("e", |_| {}); // has never sent a sample
    collector
}

/// The items of all pages.
fn walk(collector: &Collector, first: &str) -> Vec<Json> {
    let (mut items, mut url) = (Vec::new(), first.to_owned());
    loop {
        let body = collector.json(&url);
        items.extend(body["items"].as_array().unwrap().clone());
        let Some(cursor) = body["next_cursor"].as_str() else {
            return items;
        };
        url = format!("{first}&cursor={cursor}");
    }
}

#[test]
fn a_pattern_finds_its_metrics_on_every_device() {
    let collector = fleet();
    collector.store.put_device("b", |d| {
        d.presence = Some(Presence::Offline);
        d.about = Some(about(
            "b",
            &[("disk", SourceState::Ok, 1000)],
            &[["/disk/{mount}/utilization", "1", "gauge", ""]],
        ));
    });
    let items = walk(&collector, URL);
    assert_eq!(items.len(), 6);
    assert_eq!(
        items[2],
        json!({"device": "b", "status": "offline", "path": "/disk/~1/utilization", "value": 0.25, "ts": T, "unit": "1", "kind": "gauge"})
    );
    assert_eq!(
        (&items[5]["device"], &items[5]["path"], &items[5]["unit"]),
        (
            &json!("c"),
            &json!("/disk/~1home/utilization"),
            &json!(null)
        )
    );
}

#[test]
fn pages_of_the_fleet_lose_none_and_repeat_none() {
    let collector = fleet();
    for rest in [
        "",
        "&path=/cpu/utilization",
        "&path=/disk/*/*&path=/*/utilization",
    ] {
        let url = format!("{URL}{rest}");
        let whole = walk(&collector, &url);
        for limit in 1..6 {
            assert_eq!(
                walk(&collector, &format!("{url}&limit={limit}")),
                whole,
                "{url} by {limit}"
            );
        }
        let mut keys: Vec<_> = whole
            .iter()
            .map(|i| (i["device"].to_string(), i["path"].to_string()))
            .collect();
        keys.dedup();
        assert_eq!(keys.len(), whole.len());
        assert!(keys.is_sorted());
    }
    assert_eq!(
        walk(&collector, "/api/v1/latest?path=/cpu/utilization&limit=1").len(),
        4
    );
    assert_eq!(
        walk(&collector, "/api/v1/latest?path=/nothing"),
        [] as [Json; 0]
    );
    for (url, parameter) in [
        ("/api/v1/latest", "path"),
        ("/api/v1/latest?path=disk", "path"),
        ("/api/v1/latest?path=/a&path=/a", "path"),
        ("/api/v1/latest?path=/a&limit=1001", "limit"),
        ("/api/v1/latest?path=/a&cursor=ZGE", "cursor"),
    ] {
        let answer = collector.get(url);
        assert_eq!(
            (answer.status, &answer.json()["errors"][0]["parameter"]),
            (400, &json!(parameter)),
            "{url}"
        );
    }
}

proptest! {
    #[test]
    fn a_pattern_matches_segment_by_segment(
        pattern in prop::collection::vec("[ab*]", 1..4), path in prop::collection::vec("[ab]", 1..4),
    ) {
        let expected = pattern.len() == path.len() && pattern.iter().zip(&path).all(|(p, s)| p == "*" || p == s);
        let text = |segments: &[String]| format!("/{}", segments.join("/"));
        let matches = text(&pattern).parse::<Pattern>().unwrap().matches(&text(&path).parse().unwrap());
        prop_assert_eq!(matches, expected);
        let cache = DescriptorCache::default();
        let store = MemoryStore::default();
        store.put("d", &text(&path), T, 1);
        let patterns = [text(&pattern).parse().unwrap()];
        let page = latest(&store, &cache, &patterns, &DeviceFilter::default(), None, 9, TimestampMs(T));
        prop_assert_eq!(page.items.len(), usize::from(expected));
    }
}

#[test]
fn newest_values_come_of_the_devices_that_are_meant() {
    let collector = Collector::start();
    for id in ["edge-1", "edge-2", "hub"] {
        collector.store.put(id, "/cpu/utilization", T, 0.5);
        let labels = [("id".to_owned(), id.to_owned())].into();
        let site = [("site".to_owned(), "berlin".to_owned())].into();
        collector.store.put_device(id, |d| {
            d.labels = Some(Arc::new(if id == "hub" { labels } else { site }));
            d.presence = (id == "edge-2").then_some(Presence::Offline);
        });
    }
    for (query, expected) in [
        ("device=edge-*", &["edge-1", "edge-2"][..]),
        ("device=hub&device=edge-1", &["edge-1", "hub"]),
        ("label=site:berlin", &["edge-1", "edge-2"]),
        ("label=id", &["hub"]),
        ("q=EDGE&status=offline", &["edge-2"]),
        ("status=online,stale", &["edge-1", "hub"]),
        ("device=nobody", &[]),
    ] {
        for limit in [1, 100] {
            let url = format!("/api/v1/latest?path=/cpu/utilization&{query}&limit={limit}");
            let items = walk(&collector, &url);
            let devices: Vec<_> = items
                .iter()
                .map(|i| i["device"].as_str().unwrap())
                .collect();
            assert_eq!(devices, expected, "{query} by {limit}");
        }
        let url = format!("/api/v1/devices?{query}");
        let items = walk(&collector, &url);
        let devices: Vec<_> = items.iter().map(|i| i["id"].as_str().unwrap()).collect();
        assert_eq!(devices, expected, "{url}");
    }
    for (query, parameter) in [
        ("device=a%20b", "device"),
        ("device=a**", "device"),
        ("label=A:b", "label"),
        ("status=on", "status"),
    ] {
        let answer = collector.get(&format!("/api/v1/latest?path=/a&{query}"));
        let body = crate::errors::problem(&answer, 400, "invalid-parameter", "/api/v1/latest");
        assert_eq!(body["errors"][0]["parameter"], parameter);
    }
}

#[test]
fn a_device_is_forgotten_by_whoever_holds_the_token() {
    let token = [("authorization", "Bearer correct-horse-battery")];
    let (tell, told) = std::sync::mpsc::channel();
    let collector = Collector::with_forgotten("correct-horse-battery", tell);
    collector.store.put("d", "/a", T, 1.0);
    collector.store.put("e", "/a", T, 1.0);
    let call = |method: &str, url: &str| collector.call(method, url, &token);
    assert_eq!(
        collector.call("DELETE", "/api/v1/devices/d", &[]).status,
        401
    );
    assert_eq!(call("GET", "/api/v1/devices/d").status, 200);
    let answer = call("DELETE", "/api/v1/devices/d");
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(call("GET", "/api/v1/devices/d").status, 404);
    assert_eq!(call("DELETE", "/api/v1/devices/d").status, 404);
    assert_eq!(told.try_iter().collect::<Vec<_>>(), ["d"]);
    assert_eq!(call("GET", "/api/v1/devices/e").status, 200);
    let answer = call("POST", "/api/v1/devices/e");
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, Some("GET, HEAD, PATCH, DELETE"))
    );
}

#[test]
fn without_a_token_nothing_is_forgotten() {
    let collector = fleet();
    let answer = collector.call("DELETE", "/api/v1/devices/a", &[]);
    assert_eq!(answer.status, 403);
    let body = answer.json();
    assert_eq!(body["type"], "https://devmon.invalid/problems/forbidden");
    assert!(
        body["detail"].as_str().unwrap().contains("api_token_file"),
        "{body}"
    );
    assert_eq!(collector.get("/api/v1/devices/a").status, 200);
}

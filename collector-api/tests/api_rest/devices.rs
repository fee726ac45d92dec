//! Devices, their metrics, their newest values.

use std::collections::BTreeSet;

use devmon_core::wire::TimestampMs;
use devmon_core::wire::about::{Presence, SourceState};
use serde_json::{Value as Json, json};

use crate::support::{Collector, about};

const T: i64 = 1_795_450_000_000;

/// Follows `next_cursor` to the end; the `Link` header has to lead to the same pages.
fn walk(collector: &Collector, url: &str) -> Vec<Vec<Json>> {
    let mut pages = Vec::new();
    let mut at = url.to_owned();
    loop {
        let answer = collector.get(&at);
        assert_eq!(answer.status, 200, "{at}: {}", answer.text());
        let body = answer.json();
        pages.push(body["items"].as_array().unwrap().clone());
        let link = answer.header("link").map(str::to_owned);
        match body["next_cursor"].as_str() {
            None => {
                assert!(body["next_cursor"].is_null() && link.is_none());
                return pages;
            }
            Some(cursor) => {
                let link = link.expect("a link to the next page");
                let target = link
                    .strip_prefix('<')
                    .and_then(|l| l.strip_suffix(">; rel=\"next\""))
                    .expect("RFC 8288");
                assert!(target.ends_with(cursor), "{target} {cursor}");
                at = target.to_owned();
            }
        }
    }
}

#[test]
fn a_device_is_listed_and_shown_by_the_contract() {
    let collector = Collector::start();
    let now = TimestampMs::now();
    let sources = [
        ("cpu", SourceState::Ok, 1_000),
        ("gpu", SourceState::Quarantined, 5_000),
        ("disk", SourceState::Failing, 5_000),
        ("x/y", SourceState::Unavailable, 5_000),
    ];
    collector
        .store
        .put("edge_device_01", "/cpu/utilization", T, 0.5);
    collector
        .store
        .put("edge_device_01", "/cpu/load/1m", T + 7, 0.5);
    collector
        .store
        .put("edge_device_01", "/x~1y/z", T + 9, 1_i64);
    collector
        .store
        .put("edge_device_01", "/cpu2/load", T + 99, 0.5);
    collector.store.put_device("edge_device_01", |d| {
        d.first_seen = TimestampMs(T);
        d.last_seen = now;
        d.about = Some(about("edge_device_01", &sources, &[]));
    });
    assert_eq!(
        collector.json("/api/v1/devices"),
        json!({"items": [{"id": "edge_device_01", "status": "online", "first_seen": T, "last_seen": now.0, "sources": 4, "metrics": 4, "problems": 2, "labels": {}}],
               "next_cursor": null})
    );
    assert_eq!(
        collector.json("/api/v1/devices/edge_device_01"),
        json!({"id": "edge_device_01", "status": "online", "first_seen": T, "last_seen": now.0, "sources_count": 4, "metrics": 4, "problems": 2,
               "labels": {}, "agent_labels": {}, "operator_labels": {}, "agent": {"version": "0.1.0"},
               "host": {"hostname": "edge-01", "os": null, "kernel": null, "arch": null, "cpus": 2, "boot_ts": null},
               "sources": [
                   {"name": "cpu", "state": "ok", "reason": null, "interval_ms": 1000, "version": "0.1.0", "last_ts": T + 7},
                   {"name": "gpu", "state": "quarantined", "reason": "no driver", "interval_ms": 5000, "version": "0.1.0", "last_ts": null},
                   {"name": "disk", "state": "failing", "reason": "no driver", "interval_ms": 5000, "version": "0.1.0", "last_ts": null},
                   {"name": "x/y", "state": "unavailable", "reason": "no driver", "interval_ms": 5000, "version": "0.1.0", "last_ts": T + 9}]})
    );
    collector.store.put_device("esp:32", |_| {});
    for url in ["/api/v1/devices/esp:32", "/api/v1/devices/esp%3A32"] {
        let body = collector.json(url);
        assert_eq!(
            (&body["agent"], &body["host"], &body["sources"]),
            (&Json::Null, &Json::Null, &json!([]))
        );
    }
}

#[test]
fn status_follows_the_documented_rule() {
    let collector = Collector::start();
    let now = TimestampMs::now();
    let silent =
        |id: &str, ms: i64, presence: Option<Presence>, sources: &[(&str, SourceState, u64)]| {
            collector.store.put_device(id, |d| {
                d.last_metrics = Some(TimestampMs(now.0 - ms));
                d.presence = presence;
                d.about = (!sources.is_empty()).then(|| about(id, sources, &[]));
            });
        };
    let online = Some(Presence::Online);
    silent(
        "a_fresh",
        10_000,
        online,
        &[("cpu", SourceState::Ok, 1_000)],
    );
    silent(
        "b_silent",
        20_000,
        online,
        &[("cpu", SourceState::Ok, 1_000)],
    );
    silent(
        "c_slow",
        20_000,
        online,
        &[
            ("cpu", SourceState::Ok, 60_000),
            ("gpu", SourceState::Unavailable, 1_000),
        ],
    );
    silent(
        "d_slow_silent",
        190_000,
        online,
        &[("cpu", SourceState::Ok, 60_000)],
    );
    silent("e_gone", 10, Some(Presence::Offline), &[]);
    silent("f_shell", 10_000, None, &[]);
    silent("g_shell_silent", 20_000, None, &[]);
    silent("h_new", 0, online, &[]);
    for (id, ms) in [("i_minute", 170_000), ("j_minute_silent", 190_000)] {
        silent(id, ms, None, &[]);
        collector.store.put_device(id, |d| {
            d.gaps.heard(None, TimestampMs(now.0 - ms - 60_000));
            d.gaps.heard(None, TimestampMs(now.0 - ms));
        });
    }
    collector
        .store
        .put_device("h_new", |d| d.last_metrics = None);
    let ids = |url: &str| -> Vec<String> {
        let body = collector.json(url);
        body["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| d["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        ids("/api/v1/devices?status=online"),
        ["a_fresh", "c_slow", "f_shell", "h_new", "i_minute"]
    );
    assert_eq!(
        ids("/api/v1/devices?status=stale"),
        [
            "b_silent",
            "d_slow_silent",
            "g_shell_silent",
            "j_minute_silent"
        ]
    );
    assert_eq!(ids("/api/v1/devices?status=offline"), ["e_gone"]);
    assert_eq!(
        ids("/api/v1/devices?status=stale&q=SHELL"),
        ["g_shell_silent"]
    );
    assert_eq!(ids("/api/v1/devices?q=nobody"), [""; 0]);
    assert_eq!(
        collector.json("/api/v1/status")["devices"],
        json!({"online": 5, "stale": 4, "offline": 1})
    );
}

#[test]
fn pages_of_250_devices_lose_none_and_repeat_none() {
    let collector = Collector::start();
    for i in 0..250 {
        collector
            .store
            .put_device(&format!("device-{i:03}.a:b"), |_| {});
    }
    for (url, sizes) in [
        ("/api/v1/devices", vec![100, 100, 50]),
        ("/api/v1/devices?limit=125", vec![125, 125]),
        ("/api/v1/devices?q=-1&limit=99", vec![99, 1]),
    ] {
        let pages = walk(&collector, url);
        assert_eq!(
            pages.iter().map(Vec::len).collect::<Vec<_>>(),
            sizes,
            "{url}"
        );
        let ids: Vec<_> = pages
            .concat()
            .iter()
            .map(|d| d["id"].as_str().unwrap().to_owned())
            .collect();
        assert!(ids.is_sorted());
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    }
}

#[test]
fn pages_of_2500_metrics_lose_none_and_repeat_none() {
    let collector = Collector::start();
    for i in 0..2_500 {
        collector
            .store
            .put("d", &format!("/größe/~1n~0{}/{i}", i % 7), T, i64::from(i));
    }
    collector.store.put("d", "/größe2", T, 1.0);
    let pages = walk(
        &collector,
        "/api/v1/devices/d/metrics?prefix=/gr%C3%B6%C3%9Fe&limit=1000",
    );
    assert_eq!(
        pages.iter().map(Vec::len).collect::<Vec<_>>(),
        [1000, 1000, 500]
    );
    let paths: BTreeSet<_> = pages
        .concat()
        .iter()
        .map(|m| m["path"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(paths.len(), 2_500);
    assert!(paths.iter().all(|p| p.starts_with("/größe/~1n~0")));
    // Pages that end just before a path which the last one is a prefix of: 12 before 120.
    let short = walk(
        &collector,
        "/api/v1/devices/d/metrics?prefix=/gr%C3%B6%C3%9Fe&limit=77",
    );
    assert_eq!(short.concat(), pages.concat());
    let all = collector.json("/api/v1/devices/d/latest?prefix=/gr%C3%B6%C3%9Fe");
    assert_eq!(all["items"].as_array().unwrap().len(), 2_500);
}

#[test]
fn metrics_carry_what_their_descriptor_says() {
    let collector = Collector::start();
    collector
        .store
        .put("d", "/disk/~1home/used_bytes", T, 1_i64);
    collector
        .store
        .put("d", "/disk/~1home/used_bytes", T + 5, 2_i64);
    collector.store.put("d", "/diskette", T, "full");
    collector.store.put_device("d", |d| {
        d.about = Some(about(
            "d",
            &[],
            &[["/disk/{mount}/used_bytes", "By", "gauge", "Space in use."]],
        ));
    });
    let used = json!({"path": "/disk/~1home/used_bytes", "unit": "By", "kind": "gauge", "help": "Space in use.", "labels": {"mount": "/home"},
                      "type": "integer", "first_ts": T, "last_ts": T + 5});
    let diskette = json!({"path": "/diskette", "unit": null, "kind": null, "help": null, "labels": {}, "type": "text", "first_ts": T, "last_ts": T});
    assert_eq!(
        collector.json("/api/v1/devices/d/metrics"),
        json!({"items": [used, diskette], "next_cursor": null})
    );
    assert_eq!(
        collector.json("/api/v1/devices/d/metrics?prefix=/disk"),
        json!({"items": [used], "next_cursor": null})
    );
    assert_eq!(
        collector.json("/api/v1/devices/d/metrics?prefix=%2Fdisk%2F~1home"),
        json!({"items": [used], "next_cursor": null})
    );
    assert_eq!(
        collector.json("/api/v1/devices/d/metrics?prefix=/nothing"),
        json!({"items": [], "next_cursor": null})
    );
}

#[test]
fn newest_values_come_flat_or_as_the_tree() {
    let collector = Collector::start();
    for (path, value) in [
        ("/cpu/core/0/utilization", 0.031),
        ("/cpu/utilization", 0.125),
    ] {
        collector.store.put("edge_device_01", path, T, value);
    }
    collector
        .store
        .put("edge_device_01", "/disk/~1home/ok", T, true);
    collector.store.put(
        "edge_device_01",
        "/cpu",
        T,
        "a leaf where others have a branch",
    );
    collector.store.put_device("edge_device_01", |d| {
        d.about = Some(about(
            "edge_device_01",
            &[],
            &[["/cpu/utilization", "1", "gauge", ""]],
        ));
    });
    assert_eq!(
        collector.json("/api/v1/devices/edge_device_01/latest?prefix=/cpu/utilization"),
        json!({"device": "edge_device_01", "items": [{"path": "/cpu/utilization", "value": 0.125, "ts": T, "unit": "1", "kind": "gauge"}]})
    );
    let flat = collector.json("/api/v1/devices/edge_device_01/latest?format=flat");
    assert_eq!(flat["items"].as_array().unwrap().len(), 4);
    assert_eq!(
        collector.json("/api/v1/devices/edge_device_01/latest?format=tree"),
        json!({"device": "edge_device_01", "metrics": {"cpu": {"utilization": 0.125, "core": {"0": {"utilization": 0.031}}}, "disk": {"/home": {"ok": true}}}})
    );
}

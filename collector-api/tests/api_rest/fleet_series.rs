//! One metric of many devices over time.

use std::sync::Arc;

use devmon_core::wire::about::{Presence, SourceState};
use serde_json::{Value as Json, json};

use crate::errors::problem;
use crate::support::{Collector, about};

const T: i64 = 1_795_450_020_000; // a whole minute

fn url(rest: &str) -> String {
    format!("/api/v1/series?from={T}&to={}&{rest}", T + 120_000)
}

/// Three devices, of which the second has no samples in the second minute, and two file systems each.
fn fleet() -> Collector {
    let collector = Collector::start();
    for (n, device) in ["a", "b", "c"].into_iter().enumerate() {
        for i in 0..12_i64 {
            if device == "b" && i >= 6 {
                continue;
            }
            let value = (i + n as i64 * 100) as f64;
            let store = &collector.store;
            store.put(device, "/cpu/utilization", T + i * 10_000 + n as i64, value);
            store.put(device, "/disk/~1/utilization", T + i * 10_000, value);
            store.put(device, "/disk/~1home/utilization", T + i * 10_000, value);
            store.put(device, "/net/bytes_total", T + i * 10_000, i * 10);
        }
    }
    collector.store.put_device("d", |_| {});
    collector
}

/// The series of all pages, whose times are the same.
fn walk(collector: &Collector, first: &str) -> Vec<Json> {
    let (mut series, mut url, mut t) = (Vec::new(), first.to_owned(), Json::Null);
    loop {
        let answer = collector.get(&url);
        assert_eq!(answer.status, 200, "{url}: {}", answer.text());
        let body = answer.json();
        assert!(t.is_null() || t == body["t"]);
        t = body["t"].clone();
        series.extend(body["series"].as_array().unwrap().clone());
        let Some(cursor) = body["next_cursor"].as_str() else {
            assert_eq!(answer.header("link"), None);
            return series;
        };
        let link = answer.header("link").unwrap();
        assert!(
            link.starts_with("</api/v1/series?") && link.contains(cursor),
            "{link}"
        );
        url = format!("{first}&cursor={cursor}");
    }
}

#[test]
fn one_metric_of_many_devices_comes_on_common_times() {
    let collector = fleet();
    collector.store.put_device("c", |d| {
        d.about = Some(about("c", &[], &[["/cpu/utilization", "1", "gauge", ""]]));
    });
    let body = collector.json(&url("path=/cpu/utilization&step=1m&agg=min,max"));
    let column = |device: &str, agg: &str, v: Json| {
        let about = if device == "c" {
            (json!("1"), json!("gauge"))
        } else {
            (json!(null), json!(null))
        };
        json!({"device": device, "path": "/cpu/utilization", "unit": about.0, "kind": about.1, "agg": agg, "v": v})
    };
    assert_eq!(
        body,
        json!({"from": T, "to": T + 120_000, "step_ms": 60_000, "tier": "raw", "t": [T, T + 60_000],
               "series": [column("a", "min", json!([0.0, 6.0])), column("a", "max", json!([5.0, 11.0])),
                          column("b", "min", json!([100.0, null])), column("b", "max", json!([105.0, null])),
                          column("c", "min", json!([200.0, 206.0])), column("c", "max", json!([205.0, 211.0]))],
               "next_cursor": null})
    );
    let rate = collector.json(&url("path=/net/*&step=2m&agg=rate&device=a"));
    assert_eq!(
        (&rate["t"], &rate["series"][0]["v"]),
        (&json!([T - 60_000, T + 60_000]), &json!([1.0, 1.0]))
    );
    let none = collector.json(&url("path=/gpu/*/utilization&step=1m"));
    assert_eq!(
        (&none["t"], &none["series"]),
        (&json!([T, T + 60_000]), &json!([]))
    );
}

#[test]
fn every_series_is_that_of_its_device() {
    let collector = fleet();
    for rest in [
        "step=10s&agg=avg,count,last",
        "step=7s&agg=rate",
        "points=5&agg=sum",
    ] {
        let all = walk(
            &collector,
            &url(&format!(
                "path=/disk/*/utilization&path=/net/bytes_total&{rest}"
            )),
        );
        let mut expected = Vec::new();
        for device in ["a", "b", "c"] {
            let one = format!(
                "/api/v1/devices/{device}/series?path=/disk/*/utilization&path=/net/bytes_total&from={T}&to={}&{rest}",
                T + 120_000
            );
            for column in collector.json(&one)["series"].as_array().unwrap() {
                let mut column = column.clone();
                column["device"] = device.into();
                expected.push(column);
            }
        }
        assert_eq!(all, expected, "{rest}");
    }
}

#[test]
fn pages_of_the_fleet_are_by_device_and_path() {
    let collector = fleet();
    for rest in [
        "path=/*/*&path=/disk/*/*&step=1m",
        "path=/cpu/utilization&points=9&agg=max,min",
    ] {
        let whole = walk(&collector, &url(rest));
        for limit in [1, 2, 3, 100] {
            assert_eq!(
                walk(&collector, &url(&format!("{rest}&limit={limit}"))),
                whole,
                "{rest} by {limit}"
            );
        }
        let name = |s: &Json| (s["device"].to_string(), s["path"].to_string());
        assert!(whole.is_sorted_by_key(name), "{rest}");
    }
    // The pages keep times and step of the first.
    let url = "/api/v1/series?path=/cpu/utilization&from=-1h&points=100&limit=1";
    let first = collector.json(url);
    collector.store.put_device("b", |d| {
        let sources = [("cpu", SourceState::Ok, 600_000)];
        d.about = Some(about("b", &sources, &[]));
    });
    let next = collector.json(&format!(
        "{url}&cursor={}",
        first["next_cursor"].as_str().unwrap()
    ));
    for key in ["from", "to", "step_ms", "t"] {
        assert_eq!(first[key], next[key], "{key}");
    }
    assert_eq!(
        (&first["series"][0]["device"], &next["series"][0]["device"]),
        (&json!("a"), &json!("b"))
    );
}

#[test]
fn a_page_ends_before_it_is_too_long() {
    let collector = fleet();
    // 120 000 rows of two columns: four series are 960 000 points, five would be more than a million.
    let long = url("path=/disk/*/*&path=/net/*&step=1&agg=min,max");
    let answer = collector.get(&long);
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    let body = answer.json();
    assert_eq!(body["series"].as_array().unwrap().len(), 8);
    assert_eq!(walk(&collector, &long).len(), 18); // nine series
    let beyond = format!(
        "/api/v1/series?path=/net/*&from={T}&to={}&step=1&agg=min,max,avg,sum,last,count,rate",
        T + 200_000
    );
    let beyond = collector.get(&beyond);
    let body = problem(&beyond, 422, "too-many-points", "/api/v1/series");
    assert!(
        body["detail"].as_str().unwrap().contains("longer step"),
        "{body}"
    );
}

#[test]
fn series_come_of_the_devices_that_are_meant() {
    let collector = fleet();
    let site = [("site".to_owned(), "berlin".to_owned())].into();
    collector.store.put_device("b", |d| {
        d.labels = Some(Arc::new(site));
        d.presence = Some(Presence::Offline);
    });
    for (rest, expected) in [
        ("", &["a", "b", "c"][..]),
        ("&device=a&device=c", &["a", "c"]),
        ("&label=site:berlin", &["b"]),
        ("&status=online", &["a", "c"]),
        ("&q=B", &["b"]),
        ("&device=nobody", &[]),
    ] {
        let all = walk(
            &collector,
            &url(&format!("path=/cpu/utilization&step=1m{rest}")),
        );
        let devices: Vec<_> = all.iter().map(|s| s["device"].as_str().unwrap()).collect();
        assert_eq!(devices, expected, "{rest}");
    }
}

#[test]
fn points_do_not_undercut_the_slowest_source_that_is_meant() {
    let collector = fleet();
    for (device, interval) in [("a", 1_000), ("b", 20_000)] {
        collector.store.put_device(device, |d| {
            let sources = [
                ("cpu", SourceState::Ok, interval),
                ("disk", SourceState::Ok, 60_000),
            ];
            d.about = Some(about(device, &sources, &[]));
        });
    }
    let step = |rest: &str| collector.json(&url(rest))["step_ms"].clone();
    assert_eq!(step("path=/cpu/utilization&points=1000"), 20_000);
    assert_eq!(step("path=/cpu/utilization&points=1000&device=a"), 1_000);
    assert_eq!(step("path=/*/utilization&points=1000&device=a"), 60_000);
    assert_eq!(step("path=/cpu/utilization&points=2"), 60_000);
}

#[test]
fn a_table_has_a_row_for_each_device_path_and_time() {
    let collector = fleet();
    let url = url("path=/cpu/utilization&step=1m&agg=min,max&limit=2");
    let table = collector.call("GET", &url, &[("accept", "text/csv")]);
    assert_eq!(
        table.header("content-type"),
        Some("text/csv; charset=utf-8; header=present")
    );
    assert!(table.header("link").unwrap().contains("cursor="));
    let later = T + 60_000;
    assert_eq!(
        table.text(),
        format!(
            "device,path,t,min,max\r\na,/cpu/utilization,{T},0.0,5.0\r\na,/cpu/utilization,{later},6.0,11.0\r\n\
             b,/cpu/utilization,{T},100.0,105.0\r\nb,/cpu/utilization,{later},,\r\n"
        )
    );
}

#[test]
fn what_is_asked_wrongly_is_named() {
    let collector = fleet();
    for (query, parameter) in [
        ("step=1m", "path"),
        ("path=/a", "step"),
        ("path=/a&agg=avg", "agg"),
        ("path=/a&step=1m&points=5", "points"),
        ("path=/a&step=0", "step"),
        ("path=/a&step=1m&agg=median", "agg"),
        ("path=/a&step=1m&limit=1001", "limit"),
        ("path=/a&step=1m&status=on", "status"),
        ("path=/a&step=1m&from=now&to=-1h", "from"),
        ("path=/a&step=1m&cursor=ZGE", "cursor"),
        ("path=/a&step=1m&prefix=/a", "prefix"),
    ] {
        let answer = collector.get(&format!("/api/v1/series?{query}"));
        let body = problem(&answer, 400, "invalid-parameter", "/api/v1/series");
        assert_eq!(body["errors"][0]["parameter"], parameter, "{query}");
    }
}

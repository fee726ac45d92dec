//! Series over HTTP: forms, exactness, pages, bounds.

use devmon_core::wire::TimestampMs;
use devmon_core::wire::about::SourceState;
use serde_json::{Value as Json, json};

use crate::errors::problem;
use crate::support::{Collector, about};

const T: i64 = 1_795_450_000_000;

fn url(rest: &str) -> String {
    format!("/api/v1/devices/d/series?{rest}")
}

#[test]
fn raw_samples_come_on_the_union_of_times_with_gaps() {
    let collector = Collector::start();
    collector.store.put("d", "/cpu/utilization", T, 0.125);
    collector
        .store
        .put("d", "/cpu/utilization", T + 2_000, 0.25);
    collector.store.put("d", "/größe/a~1b", T + 1_000, "voll");
    collector.store.put("d", "/größe/a~1b", T + 2_000, true);
    collector.store.put("d", "/cpu/utilization", T + 9_000, 1.0); // `to` is exclusive
    collector.store.put_device("d", |d| {
        d.about = Some(about("d", &[], &[["/cpu/utilization", "1", "gauge", ""]]))
    });
    let rest = format!(
        "path=/cpu/utilization&path=%2Fgr%C3%B6%C3%9Fe%2Fa~1b&from={T}&to={}",
        T + 9_000
    );
    assert_eq!(
        collector.json(&url(&rest)),
        json!({"device": "d", "from": T, "to": T + 9_000, "step_ms": null, "tier": "raw", "t": [T, T + 1_000, T + 2_000],
               "series": [{"path": "/cpu/utilization", "unit": "1", "kind": "gauge", "agg": null, "v": [0.125, null, 0.25]},
                          {"path": "/größe/a~1b", "unit": null, "kind": null, "agg": null, "v": [null, "voll", true]}],
               "next_cursor": null})
    );
    let empty = collector.json(&url(&format!("path=/cpu/utilization&from={T}&to={T}")));
    assert_eq!(
        (&empty["t"], &empty["series"][0]["v"]),
        (&json!([]), &json!([]))
    );
}

#[test]
fn a_path_with_stars_is_all_that_fit_it() {
    let collector = Collector::start();
    for path in [
        "/cpu/utilization",
        "/disk/~1/utilization",
        "/disk/~1home/utilization",
        "/disk/~1/used_bytes",
        "/disk/a/b/utilization",
    ] {
        collector.store.put("d", path, T, 0.5);
    }
    let paths = |rest: &str| -> Vec<String> {
        let body = collector.json(&url(&format!("{rest}&from={T}&to={}", T + 10)));
        let series = body["series"].as_array().unwrap();
        let label = |s: &Json| match s["agg"].as_str() {
            None => s["path"].as_str().unwrap().to_owned(),
            Some(agg) => format!("{agg} {}", s["path"].as_str().unwrap()),
        };
        series.iter().map(label).collect()
    };
    assert_eq!(
        paths("path=/disk/*/utilization"),
        ["/disk/~1/utilization", "/disk/~1home/utilization"]
    );
    assert_eq!(
        paths("path=/disk/~1home/utilization&path=/cpu/utilization&path=/disk/*/*"),
        [
            "/disk/~1home/utilization",
            "/cpu/utilization",
            "/disk/~1/used_bytes",
            "/disk/~1/utilization"
        ]
    );
    assert_eq!(
        paths("path=/*/utilization&path=/disk/a/*/utilization&step=10&agg=min,max"),
        [
            "min /cpu/utilization",
            "max /cpu/utilization",
            "min /disk/a/b/utilization",
            "max /disk/a/b/utilization"
        ]
    );
    let none = collector.get(&url("path=/gpu/*/utilization"));
    let body = problem(&none, 404, "not-found", "/api/v1/devices/d/series");
    assert!(
        body["detail"]
            .as_str()
            .unwrap()
            .contains("/gpu/*/utilization")
    );
    for i in 0..51 {
        collector.store.put("d", &format!("/many/{i}"), T, 1.0);
    }
    let many = collector.get(&url("path=/many/*"));
    let body = problem(&many, 400, "invalid-parameter", "/api/v1/devices/d/series");
    let error = &body["errors"][0];
    assert_eq!(error["parameter"], "path");
    assert!(
        error["detail"]
            .as_str()
            .unwrap()
            .contains("more than 50 metrics"),
        "{error}"
    );
    let nobody = collector.get("/api/v1/devices/nobody/series?path=/a/*");
    problem(&nobody, 404, "not-found", "/api/v1/devices/nobody/series");
}

#[test]
fn numbers_keep_every_digit() {
    let collector = Collector::start();
    let values = [i64::MAX, i64::MIN, 9_007_199_254_740_993];
    for (i, value) in values.iter().enumerate() {
        collector.store.put("d", "/n", T + i as i64, *value);
    }
    let floats = [-0.0, 0.1 + 0.2, 5e-324, f64::MAX, 1e21, 3.0];
    for (i, value) in floats.iter().enumerate() {
        collector.store.put("d", "/x", T + i as i64, *value);
    }
    let answer = collector.get(&url(&format!("path=/n&path=/x&from={T}&to={}", T + 100)));
    let text = answer.text();
    assert!(
        text.contains(
            "\"v\":[9223372036854775807,-9223372036854775808,9007199254740993,null,null,null]"
        ),
        "{text}"
    );
    assert!(
        text.contains("\"v\":[-0.0,0.30000000000000004,5e-324,") && text.contains(",3.0]"),
        "{text}"
    );
    let read: Vec<f64> = answer.json()["series"][1]["v"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect();
    assert!(
        read.iter()
            .zip(floats)
            .all(|(a, b)| a.to_bits() == b.to_bits())
    );
    let stepped = collector.get(&url(&format!(
        "path=/n&from={T}&to={}&step=1&agg=max",
        T + 3
    )));
    assert!(
        stepped
            .text()
            .contains("\"v\":[9223372036854775807,-9223372036854775808,9007199254740993]")
    );
    let sum = collector.get(&url(&format!(
        "path=/n&from={T}&to={}&step=1d&agg=sum",
        T + 3
    )));
    assert!(
        sum.text().contains("\"v\":[9007199254740992]"),
        "{}",
        sum.text()
    );
}

#[test]
fn every_form_of_time_names_the_same_range() {
    let collector = Collector::start();
    let from = 1_795_456_800_000;
    collector.store.put("d", "/a", from, 1.0);
    for form in [
        "2026-11-23T18:00:00Z",
        "2026-11-23T19:00:00%2B01:00",
        "2026-11-23T19:00:00+01:00",
        "1795456800",
        "1795456800.0",
        "1795456800000",
    ] {
        let body = collector.json(&url(&format!("path=/a&from={form}&to=1795456801")));
        assert_eq!(
            (&body["from"], &body["to"], &body["t"]),
            (&json!(from), &json!(from + 1_000), &json!([from])),
            "{form}"
        );
    }
    let before = TimestampMs::now().0;
    let body = collector.json(&url("path=/a"));
    let (from, to) = (body["from"].as_i64().unwrap(), body["to"].as_i64().unwrap());
    assert!((before..=TimestampMs::now().0).contains(&to) && to - from == 3_600_000);
    let body = collector.json(&url("path=/a&from=-6h&to=now"));
    assert_eq!(
        body["to"].as_i64().unwrap() - body["from"].as_i64().unwrap(),
        6 * 3_600_000
    );
}

#[test]
fn buckets_start_at_multiples_of_the_step() {
    let collector = Collector::start();
    for i in 0..25_i64 {
        collector.store.put("d", "/a", T + i * 1_000, i);
    }
    let body = collector.json(&url(&format!(
        "path=/a&from={}&to={}&step=10s",
        T + 5_000,
        T + 40_000
    )));
    assert_eq!(
        (&body["step_ms"], &body["tier"]),
        (&json!(10_000), &json!("raw"))
    );
    assert_eq!(body["t"], json!([T, T + 10_000, T + 20_000, T + 30_000]));
    assert_eq!(
        (&body["series"][0]["agg"], &body["series"][0]["v"]),
        (&json!("avg"), &json!([7.0, 14.5, 22.0, null]))
    );
    for (agg, v) in [
        ("min", json!([5, 10, 20, null])),
        ("max", json!([9, 19, 24, null])),
        ("sum", json!([35, 145, 110, null])),
        ("count", json!([5, 10, 5, null])),
        ("last", json!([9, 19, 24, null])),
        ("rate", json!([1.0, 1.0, 1.0, null])),
    ] {
        let body = collector.json(&url(&format!(
            "path=/a&from={}&to={}&step=10000&agg={agg}",
            T + 5_000,
            T + 40_000
        )));
        assert_eq!(
            (&body["series"][0]["agg"], &body["series"][0]["v"]),
            (&json!(agg), &v)
        );
    }
}

#[test]
fn several_aggregates_are_columns_of_one_pass() {
    let collector = Collector::start();
    for i in 0..20_i64 {
        collector.store.put("d", "/a", T + i * 1_000, i);
        collector.store.put("d", "/b", T + i * 1_000, i * 2);
    }
    let ask = |agg: &str| {
        let rest = format!(
            "path=/a&path=/b&from={T}&to={}&step=10s&agg={agg}",
            T + 20_000
        );
        collector.get(&url(&rest))
    };
    let body = ask("min,avg,max").json();
    let column = |path: &str, agg: &str, v: Json| json!({"path": path, "unit": null, "kind": null, "agg": agg, "v": v});
    assert_eq!(
        body["series"],
        json!([
            column("/a", "min", json!([0, 10])),
            column("/a", "avg", json!([4.5, 14.5])),
            column("/a", "max", json!([9, 19])),
            column("/b", "min", json!([0, 20])),
            column("/b", "avg", json!([9.0, 29.0])),
            column("/b", "max", json!([18, 38])),
        ])
    );
    for (agg, says) in [
        ("min,median", "none of avg"),
        ("min,min", "stands twice"),
        ("min,", "none of avg"),
    ] {
        let answer = ask(agg);
        let error = answer.json()["errors"][0].clone();
        assert_eq!(
            (answer.status, &error["parameter"]),
            (400, &json!("agg")),
            "{agg}"
        );
        assert!(error["detail"].as_str().unwrap().contains(says), "{error}");
    }
}

#[test]
fn the_answer_says_which_tier_it_is_from() {
    let collector = Collector::start();
    let hour = T - T.rem_euclid(3_600_000);
    for i in 0..120_i64 {
        collector.store.put("d", "/a", hour + i * 60_000, i);
    }
    let ask = |rest: &str| {
        collector.json(&url(&format!(
            "path=/a&from={hour}&to={}&{rest}",
            hour + 7_200_000
        )))
    };
    for (rest, tier) in [
        ("", "raw"),
        ("step=10m", "raw"),
        ("step=1h", "1h"),
        ("step=1d&agg=last", "1h"),
    ] {
        assert_eq!(ask(rest)["tier"], tier, "{rest}");
    }
    collector.store.keep(hour + 3_600_000, 0);
    for (rest, tier) in [
        ("step=10m", "1m"),
        ("step=90s", "raw"),
        ("step=1h", "1h"),
        ("points=9", "1m"),
    ] {
        assert_eq!(ask(rest)["tier"], tier, "{rest}");
    }
    let sums = ask("step=1h&agg=sum");
    assert_eq!(sums["series"][0]["v"], json!([1770, 5370]));
    assert_eq!(ask("step=10m&agg=sum")["series"][0]["v"][0], 45);
    assert_eq!(
        ask("step=90s&agg=sum")["series"][0]["v"][0],
        json!(null),
        "raw samples are gone"
    );
}

#[test]
fn texts_and_booleans_go_by_the_contract() {
    let collector = Collector::start();
    for (i, value) in [true, false, true, true].into_iter().enumerate() {
        collector.store.put("d", "/on", T + i as i64 * 1_000, value);
        collector
            .store
            .put("d", "/state", T + i as i64 * 1_000, format!("s{i}"));
    }
    for (agg, on, state) in [
        ("last", json!([true]), json!(["s3"])),
        ("count", json!([4]), json!([4])),
        ("avg", json!([0.75]), json!([null])),
        ("sum", json!([3]), json!([null])),
        ("min", json!([0]), json!([null])),
        ("max", json!([1]), json!([null])),
        ("rate", json!([1.0 / 3.0]), json!([null])), // on → off is a reset
    ] {
        let body = collector.json(&url(&format!(
            "path=/on&path=/state&from={T}&to={}&step=10s&agg={agg}",
            T + 10_000
        )));
        assert_eq!(
            (&body["series"][0]["v"], &body["series"][1]["v"]),
            (&on, &state),
            "{agg}"
        );
    }
}

#[test]
fn points_bound_the_buckets_and_do_not_undercut_the_interval() {
    let collector = Collector::start();
    for i in 0..360_i64 {
        collector.store.put("d", "/cpu/a", T + i * 10_000, i);
    }
    let ask = |points: u32| {
        collector.json(&url(&format!(
            "path=/cpu/a&from={T}&to={}&points={points}",
            T + 3_600_000
        )))
    };
    assert_eq!(ask(100)["step_ms"], 60_000);
    assert_eq!(
        ask(10_000)["step_ms"],
        500,
        "nothing is known of the interval"
    );
    collector.store.put_device("d", |d| {
        d.about = Some(about(
            "d",
            &[
                ("cpu", SourceState::Ok, 10_000),
                ("slow", SourceState::Ok, 60_000),
            ],
            &[],
        ));
    });
    let body = ask(10_000);
    assert_eq!(body["step_ms"], 10_000);
    assert!(
        body["series"][0]["v"]
            .as_array()
            .unwrap()
            .iter()
            .all(|v| !v.is_null())
    );
}

/// Follows the cursors and joins times and values of the first series.
fn walk(collector: &Collector, first: &str) -> (Vec<Json>, Vec<Json>, usize) {
    let (mut t, mut v, mut pages, mut at) = (Vec::new(), Vec::new(), 0, first.to_owned());
    loop {
        let answer = collector.get(&at);
        assert_eq!(answer.status, 200, "{at}: {}", answer.text());
        let body = answer.json();
        t.extend(body["t"].as_array().unwrap().clone());
        v.extend(body["series"][0]["v"].as_array().unwrap().clone());
        pages += 1;
        let Some(cursor) = body["next_cursor"].as_str() else {
            return (t, v, pages);
        };
        at = format!("{first}&cursor={cursor}");
        let link = answer.header("link").unwrap();
        assert!(
            link.contains(cursor) && link.ends_with("; rel=\"next\""),
            "{link}"
        );
    }
}

#[test]
fn pages_of_a_series_join_to_the_whole() {
    let collector = Collector::start();
    for i in 0..2_500_i64 {
        collector.store.put("d", "/a", T + i * 1_000 + i % 7, i * i);
        if i % 3 == 0 {
            collector.store.put("d", "/b", T + i * 1_000 + 500, i);
        }
    }
    for rest in [
        "path=/a&path=/b",
        "path=/b&path=/a&step=7s&agg=rate",
        "path=/a&step=1s&agg=rate",
        "path=/a&points=900&agg=sum",
        "path=/a&step=1m&agg=last",
    ] {
        let base = url(&format!("{rest}&from={}&to={}", T + 1, T + 2_400_000));
        let (t, v, pages) = walk(&collector, &base);
        assert_eq!(pages, 1);
        let (t2, v2, pages) = walk(&collector, &format!("{base}&limit=7"));
        assert!((t, v) == (t2, v2) && pages > 5, "{rest}");
    }
}

#[test]
fn a_page_keeps_the_range_of_the_first_when_time_goes_on() {
    let collector = Collector::start();
    let now = TimestampMs::now().0;
    for i in 1..=20_i64 {
        collector.store.put("d", "/a", now - i * 1_000, i);
    }
    let first = collector.json(&url("path=/a&from=-1h&points=100&limit=5"));
    let next = collector.json(&url(&format!(
        "path=/a&from=-1h&points=100&limit=5&cursor={}",
        first["next_cursor"].as_str().unwrap()
    )));
    for key in ["from", "to", "step_ms"] {
        assert_eq!(first[key], next[key], "{key}");
    }
    let foreign = format!("path=/a&cursor={}", first["next_cursor"].as_str().unwrap());
    assert_eq!(
        collector.get(&url(&foreign)).json()["errors"][0]["parameter"],
        "cursor"
    );
}

#[test]
fn a_cursor_goes_on_in_its_own_range_only() {
    let collector = Collector::start();
    for i in 0..20_i64 {
        collector.store.put("d", "/a", T + i, i);
    }
    let asked = |from: i64, more: &str| {
        let query = format!("path=/a&from={from}&to={}&limit=5{more}", T + 19);
        collector.get(&url(&query))
    };
    let first = asked(T, "").json();
    let more = format!("&cursor={}", first["next_cursor"].as_str().unwrap());
    assert_eq!(asked(T, &more).status, 200);
    let other = asked(T + 1, &more);
    let said = &other.json()["errors"][0];
    assert_eq!((other.status, &said["parameter"]), (400, &json!("cursor")));
    assert!(said["detail"].as_str().unwrap().contains("from="), "{said}");
}

#[test]
fn too_many_points_are_refused_with_what_to_do() {
    let collector = Collector::start();
    let mut paths = String::new();
    for i in 0..11 {
        collector.store.put("d", &format!("/p/{i}"), T, 1.0);
        paths.push_str(&format!("path=/p/{i}&"));
    }
    let answer = collector.get(&url(&format!("{paths}from=0&to={T}&step=1s&limit=100000")));
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (422, Some("application/problem+json"))
    );
    let body = answer.json();
    assert_eq!(
        body["type"],
        "https://devmon.invalid/problems/too-many-points"
    );
    assert!(
        body["detail"].as_str().unwrap().contains("longer step"),
        "{body}"
    );
    // A wide range with few samples is no trouble.
    assert_eq!(
        collector.json(&url(&format!("path=/p/0&from=0&to={}", T + 1)))["t"],
        json!([T])
    );
}

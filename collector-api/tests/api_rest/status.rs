//! The collector's own state, dead letters, probes, the dashboard's place.

use std::sync::atomic::Ordering::SeqCst;

use devmon_core::wire::{Reason, TimestampMs};
use serde_json::json;

use crate::support::{Collector, call};
use devmon_collector::intake::BrokerStatus;

#[test]
fn status_has_the_documented_figures() {
    let collector = Collector::start();
    collector.store.put("d", "/a", 1, 1.0);
    let mut body = collector.json("/api/v1/status");
    let started = body["started"].take().as_i64().unwrap();
    assert!((0..60_000).contains(&TimestampMs::now().since(TimestampMs(started))));
    let rejected = body["intake"]["rejected"].take();
    let reasons: Vec<_> = rejected
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut expected: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
    expected.sort_unstable();
    assert_eq!(reasons, expected);
    assert_eq!(
        body,
        json!({"version": env!("CARGO_PKG_VERSION"), "started": null, "devices": {"online": 1, "stale": 0, "offline": 0}, "series": 1,
               "intake": {"mode": "listener", "connections": 0, "messages": 7, "samples": 8, "duplicates": 9, "dead_letters": 1, "rejected": null,
                          "last_commit_ms": 2.1, "broker": null},
               "store": {"state": "ok", "reason": null, "journal_bytes": 1, "blocks": 2, "database_bytes": 3, "head_samples": 4, "dead_letters_bytes": 5,
                         "archive_files": 6, "archive_bytes": 7, "oldest_day": 1_795_392_000_000_i64, "oldest_day_1m": null, "oldest_day_1h": null},
               "events": {"clients": 0, "sent": 0, "gaps": 0, "dropped": 0}, "remote_write": [], "home_assistant": null})
    );
    collector.store.set_degraded(Some("set aside"));
    let store = collector.json("/api/v1/status")["store"].take();
    assert_eq!(
        (&store["state"], &store["reason"]),
        (&json!("degraded"), &json!("set aside"))
    );
    collector.store.set_problem(Some("no space left"));
    let store = collector.json("/api/v1/status")["store"].take();
    assert_eq!(
        (&store["state"], &store["reason"]),
        (&json!("failing"), &json!("no space left"))
    );
}

#[test]
fn dead_letters_come_newest_first_and_whole_on_demand() {
    let collector = Collector::start();
    collector.store.put_letter(17, "{not json");
    collector.store.put_letter(18, &b"\xff\x00"[..]);
    let long = "é".repeat(3_000);
    collector.store.put_letter(u64::MAX, format!("x{long}"));
    let body = collector.json("/api/v1/dead-letters");
    assert_eq!(
        body["items"][2],
        json!({"id": "17", "ts": 1_795_450_060_000_i64, "topic": "devmon/v1/0/d/metrics", "reason": "invalid_json",
               "detail": "key must be a string at line 1 column 2", "size": 9, "payload": "{not json", "payload_encoding": "utf-8"})
    );
    assert_eq!(
        (
            &body["items"][1]["payload"],
            &body["items"][1]["payload_encoding"]
        ),
        (&json!("/wA="), &json!("base64"))
    );
    let shown = &body["items"][0];
    assert_eq!(
        (&shown["truncated"], &shown["size"]),
        (&json!(true), &json!(6_001))
    );
    assert_eq!(
        shown["payload"].as_str().unwrap().len(),
        4_095,
        "cut before a character, not within it"
    );

    let page = collector.json("/api/v1/dead-letters?limit=2");
    let next = format!(
        "/api/v1/dead-letters?limit=2&cursor={}",
        page["next_cursor"].as_str().unwrap()
    );
    assert_eq!(collector.json(&next)["items"][0]["id"], "17");

    let answer = collector.get("/api/v1/dead-letters/18");
    assert_eq!(
        (
            answer.status,
            answer.header("content-type"),
            &answer.body[..]
        ),
        (200, Some("application/octet-stream"), &b"\xff\x00"[..])
    );
    assert_eq!(
        collector
            .get(&format!("/api/v1/dead-letters/{}", u64::MAX))
            .body
            .len(),
        6_001
    );
    assert_eq!(collector.get("/api/v1/dead-letters/16").status, 404);
    assert_eq!(
        collector.get("/api/v1/dead-letters/x").json()["errors"][0]["parameter"],
        "id"
    );
}

#[test]
fn probes_tell_alive_from_ready() {
    let collector = Collector::start();
    assert_eq!(collector.json("/livez"), json!({"status": "ok"}));
    assert_eq!(collector.json("/readyz"), json!({"status": "ok"}));
    let broker = |connected, last_error: Option<&str>| {
        *collector.broker.lock().unwrap() = Some(BrokerStatus {
            address: "broker:8883".into(),
            connected,
            last_error: last_error.map(str::to_owned),
        });
    };
    broker(false, None);
    assert_eq!(
        collector.json("/readyz"),
        json!({"status": "degraded", "reason": "no connection to the broker broker:8883"}),
        "and 200: nothing is better with another collector"
    );
    let refused = "no connection to the broker broker:8883: connection refused";
    broker(false, Some("connection refused"));
    assert_eq!(collector.json("/readyz")["reason"], refused);
    collector.store.set_degraded(Some("a day is missing"));
    let both = format!("a day is missing; {refused}");
    assert_eq!(
        collector.json("/readyz"),
        json!({"status": "degraded", "reason": both})
    );
    collector.store.set_degraded(None);
    broker(true, Some("connection refused"));
    assert_eq!(collector.json("/readyz"), json!({"status": "ok"}));
    collector.store.set_degraded(Some("a day is missing"));
    assert_eq!(
        collector.json("/readyz"),
        json!({"status": "degraded", "reason": "a day is missing"})
    );
    collector.store.set_problem(Some("no space left on device"));
    assert_eq!(collector.json("/livez"), json!({"status": "ok"}));
    let answer = collector.get("/readyz");
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (503, Some("application/problem+json"))
    );
    assert!(
        answer.json()["detail"]
            .as_str()
            .unwrap()
            .contains("no space left on device")
    );
}

#[test]
fn while_the_store_opens_probes_answer_and_calls_are_told_how_far_it_is() {
    let mut collector = Collector::opening(None);
    assert_eq!(collector.json("/livez"), json!({"status": "ok"}));
    assert_eq!(
        collector.get("/").status,
        200,
        "the dashboard needs no store"
    );
    for url in [
        "/readyz",
        "/api/v1/devices",
        "/api/v1/status",
        "/api/v1/devices/d/latest",
    ] {
        let answer = collector.get(url);
        assert_eq!(
            (
                answer.status,
                answer.header("content-type"),
                answer.header("retry-after")
            ),
            (503, Some("application/problem+json"), Some("2")),
            "{url}"
        );
        let problem = answer.json();
        assert_eq!(problem["type"], "https://devmon.invalid/problems/not-ready");
        assert_eq!(problem["detail"], "opening: half way");
    }
    assert_eq!(collector.get("/api/v1/nothing").status, 404);
    let events = collector.get("/api/v1/events");
    assert_eq!(
        (events.status, events.header("content-type")),
        (200, Some("text/event-stream")),
        "a browser gives up at an error"
    );
    // No id: the browser names the last one that it has seen when it comes again.
    assert_eq!(events.text(), "retry: 2000\n: opening: half way\n\n");
    assert_eq!(collector.get("/api/v1/events?path=cpu").status, 400);
    collector.open();
    assert_eq!(collector.json("/readyz"), json!({"status": "ok"}));
    assert_eq!(collector.get("/api/v1/devices").status, 200);

    let token = "a token that nobody knows";
    let closed = Collector::opening(Some(token));
    assert_eq!(closed.get("/api/v1/devices").status, 401, "the token first");
    assert_eq!(closed.get("/api/v1/events").status, 401);
    assert_eq!(closed.get("/readyz").status, 503);
}

#[test]
fn probes_wait_behind_no_other_call() {
    let collector = Collector::start();
    let held = collector.store.2.lock().unwrap();
    let addr = collector.addr;
    let calls: Vec<_> = (0..32)
        .map(|_| std::thread::spawn(move || call(addr, "GET", "/api/v1/devices/held", &[]).status))
        .collect();
    while collector.store.1.load(SeqCst) < 16 {
        std::thread::yield_now();
    }
    for url in ["/readyz", "/livez"] {
        assert_eq!(collector.json(url), json!({"status": "ok"}), "{url}");
    }
    assert_eq!(collector.store.1.load(SeqCst), 16, "the others wait");
    drop(held);
    for call in calls {
        assert_eq!(call.join().unwrap(), 404);
    }
}

#[test]
fn a_store_that_does_not_answer_is_not_ready() {
    let collector = Collector::start();
    let hang = collector.store.hang();
    let answer = collector.get("/readyz");
    assert_eq!(answer.status, 503);
    assert!(
        answer.text().contains("its disk is busy, or hangs"),
        "{}",
        answer.text()
    );
    assert_eq!(collector.json("/livez"), json!({"status": "ok"}));
    drop(hang);
    assert_eq!(collector.json("/readyz"), json!({"status": "ok"}));
}

#[test]
fn the_first_page_is_the_dashboard_or_says_how_to_build_it() {
    let collector = Collector::start();
    let answer = collector.get("/");
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    let policy = answer.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'self';") && policy.contains("frame-ancestors 'none'"),
        "{policy}"
    );
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    match answer.header("etag") {
        Some(tag) => {
            let again = collector.call("GET", "/", &[("if-none-match", tag)]);
            assert_eq!((again.status, again.body.len()), (304, 0));
            assert_eq!(answer.header("cache-control"), Some("no-cache"));
            for name in answer
                .text()
                .split('"')
                .filter_map(|part| part.strip_prefix("./assets/"))
            {
                assert_eq!(
                    collector.get(&format!("/assets/{name}")).status,
                    200,
                    "{name}"
                );
            }
        }
        None => assert!(
            answer.text().contains("npm run build") && answer.text().contains("/api/v1/status")
        ),
    }
    for missing in [
        "/assets/nothing.js",
        "/assets/..%2Findex.html",
        "/assets/%FF",
        "/index.html",
    ] {
        assert_eq!(collector.get(missing).status, 404, "{missing}");
    }
}

//! Who comes again gets what it has missed, or is told that it can not.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::collector::{Collector, T, wait_for};

#[test]
fn nothing_is_lost_or_doubled_over_connections_that_break_anywhere() {
    let collector = Collector::start();
    let first = collector.client("types=samples");
    let mut place = first.place.clone();
    drop(first);
    let done = AtomicBool::new(false);
    let count = 3_000;
    let mut seen: Vec<(String, i64)> = Vec::new();
    let mut connections = 0;
    let give_up = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for ms in 0..count {
                let device = format!("d{}", ms % 7);
                collector.sample(&device, "cpu", ms, r#"{"a":1,"b":{"c":0.5}}"#);
            }
            done.store(true, Relaxed);
        });
        let mut random: u64 = 7;
        loop {
            let was_done = done.load(Relaxed);
            connections += 1;
            let mut client = Client::connect(collector.addr, "types=samples", place.as_deref());
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            // Broken off after some events, or in the middle of waiting for one.
            client.cut_at(Duration::from_millis(1 + (random >> 33) % 40));
            let most = if was_done {
                u64::MAX
            } else {
                (random >> 40) % 300
            };
            let mut came = 0;
            while came < most
                && let Some(event) = client.next()
            {
                assert_eq!(event.kind, "samples", "{event:?}");
                seen.push((
                    event.id.clone().unwrap(),
                    event.data["ts"].as_i64().unwrap() - T,
                ));
                came += 1;
            }
            place = client.place.clone();
            // On a busy machine a connection may be cut before anything came.
            let is_late = Instant::now() > give_up;
            if was_done && came == 0 && (seen.len() >= count as usize || is_late) {
                break;
            }
        }
    });
    assert!(connections > 10, "only {connections} connections");
    let ids: HashSet<_> = seen.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), seen.len(), "an id came twice");
    let times: Vec<_> = seen.iter().map(|(_, ms)| *ms).collect();
    assert_eq!(
        times,
        (0..count).collect::<Vec<_>>(),
        "what was stored, in order"
    );
}

#[test]
fn an_id_of_another_start_is_a_gap_and_then_it_goes_on() {
    let collector = Collector::start();
    let old = "00000000000000ab-41";
    let made_up = {
        let place = collector.client("").place.unwrap();
        format!("{}-99", place.split_once('-').unwrap().0)
    };
    for last in [old, &made_up] {
        let mut client = Client::connect(collector.addr, "types=samples", Some(last));
        let gap = client.next().unwrap();
        assert_eq!((gap.kind.as_str(), gap.id), ("gap", None));
        assert_eq!(
            (&gap.data["from"], &gap.data["reason"]),
            (&last.into(), &"restarted".into())
        );
        assert_eq!(gap.data["to"].as_str(), client.place.as_deref());
        collector.sample(if last == old { "a" } else { "b" }, "cpu", 1, r#"{"a":1}"#);
        assert_eq!(client.next().unwrap().kind, "samples");
    }
    // The query parameter does the same, and the header has precedence.
    let mut client = Client::connect(collector.addr, &format!("last_event_id={old}"), None);
    assert_eq!(client.next().unwrap().kind, "gap");
    let place = client.place.clone().unwrap();
    let query = format!("last_event_id={old}&types=samples");
    let mut client = Client::connect(collector.addr, &query, Some(&place));
    collector.sample("c", "cpu", 1, r#"{"a":1}"#);
    assert_eq!(client.next().unwrap().kind, "samples");
}

#[test]
fn who_was_away_too_long_is_told_so_and_gets_the_newest_of_each_thing() {
    let collector = Collector::start();
    let mut client = collector.client("types=samples");
    collector.sample("quiet", "cpu", 1, r#"{"a":1}"#);
    let before = client.next().unwrap().id.unwrap();
    let place = {
        collector.sample("quiet", "cpu", 2, r#"{"a":2}"#);
        before
    };
    drop(client);
    for ms in 0..90 {
        collector.large("loud", ms);
    }
    let follower = collector.events.follow(None).unwrap();
    wait_for("all events", || follower.end() > 92 + 4); // two devices, each of which appeared and is online
    let mut client = Client::connect(collector.addr, "types=samples", Some(&place));
    let gap = client.next().unwrap();
    assert_eq!(
        (gap.kind.as_str(), &gap.data["reason"]),
        ("gap", &"expired".into())
    );
    assert_eq!(gap.data["from"], place);
    let newest = [client.next().unwrap(), client.next().unwrap()];
    let times = newest
        .each_ref()
        .map(|e| e.data["ts"].as_i64().unwrap() - T);
    assert_eq!(times, [2, 89], "of each device the newest");
    assert_eq!(gap.data["to"].as_str(), newest[1].id.as_deref());
}

/// The id that an answer says, if it does.
fn event_id(collector: &Collector, url: &str) -> Option<String> {
    let head = Client::head_of(collector.addr, url);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut lines = head.lines();
    let id = lines.find_map(|line| line.strip_prefix("event-id: "));
    id.map(str::to_owned)
}

#[test]
fn a_stream_goes_on_from_an_answer_and_nothing_between_the_two_is_missed() {
    let collector = Collector::start();
    collector.sample("d", "cpu", 1, r#"{"a":1}"#);
    let range = "from=1795449000000&to=1795450000000"; // of a time that is over, which else is kept
    for (n, url) in [
        "/api/v1/devices?follow=true".to_owned(),
        "/api/v1/latest?path=/cpu/a&follow=true".to_owned(),
        "/api/v1/devices/d/latest?follow=true".to_owned(),
        "/api/v1/devices/d/latest?follow=true&format=tree".to_owned(),
        format!("/api/v1/devices/d/series?path=/cpu/a&{range}&follow=true"),
        format!("/api/v1/series?path=/cpu/a&{range}&step=1h&follow=true"),
    ]
    .into_iter()
    .enumerate()
    {
        // Nobody follows now, so that without this call no event would be made.
        assert_eq!(collector.events.counters().clients.load(Relaxed), 0);
        let id = event_id(&collector, &url);
        let id = id.unwrap_or_else(|| panic!("no id for {url}"));
        let ms = 2 + 2 * i64::try_from(n).unwrap();
        collector.sample("d", "cpu", ms, r#"{"a":2}"#);
        collector.publish("d", "status", r#"{"status":"offline"}"#);
        let mut client = Client::connect(collector.addr, "device=d", Some(&id));
        let sample = client.next().unwrap();
        assert_eq!(
            (&*sample.kind, &sample.data["ts"]),
            ("samples", &(T + ms).into()),
            "{url}"
        );
        let status = client.next().unwrap();
        assert_eq!(
            (&*status.kind, &status.data["status"]),
            ("status", &"offline".into()),
            "{url}"
        );
        collector.publish("d", "status", r#"{"status":"online"}"#);
        assert_eq!(client.next().unwrap().data["status"], "online");
        drop(client);
        wait_for("no client", || {
            collector.events.counters().clients.load(Relaxed) == 0
        });
    }
}

#[test]
fn an_answer_that_nobody_goes_on_from_says_no_id_and_makes_no_events() {
    let collector = Collector::start();
    for url in ["/api/v1/devices", "/api/v1/devices?follow=false"] {
        assert_eq!(event_id(&collector, url), None, "{url}");
    }
    collector.sample("d", "cpu", 1, r#"{"a":1}"#);
    let follower = collector.events.follow(None).unwrap();
    assert_eq!(follower.end(), 1, "no event has been made");
    let head = Client::head_of(collector.addr, "/api/v1/devices?follow=perhaps");
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
}

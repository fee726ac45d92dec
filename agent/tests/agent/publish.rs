//! What reaches a real broker, whatever happens to it, to the agent or to a source.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Broker, Plugins, Process, agent, json, metrics, publish};

/// Descriptors but for the agent's own.
fn plugins_descriptors(about: &serde_json::Value) -> usize {
    let all = about["descriptors"].as_array().into_iter().flatten();
    all.filter(|d| !d["path"].as_str().unwrap().starts_with("/agent/"))
        .count()
}

#[test]
fn frames_states_and_presence_go_to_their_topics() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/v1/0/d1/+");
    let plugins = Plugins::with(&["abi-1-2", "nan", "two-a"]);
    std::fs::write(plugins.path("libbad.so"), "no library").unwrap();
    let running = publish("d1", &broker, &plugins, &["--interval", "500ms"]);

    let online = sub.wait_for("online", |l| json(l, "/status"));
    assert_eq!(online["status"], "online");
    let (first, second) = (
        sub.wait_for("metrics", metrics),
        sub.wait_for("metrics", metrics),
    );
    let (first_id, second_id) = (first.id.unwrap(), second.id.unwrap());
    assert_eq!((first_id.seq, second_id.seq), (0, 1));
    assert_eq!(first_id.boot, second_id.boot);
    assert_eq!(first_id.boot.len(), 26, "a ULID");
    for frame in first.frames.iter().chain(&second.frames) {
        let interval = if frame.source.as_deref() == Some("new") {
            700
        } else {
            500
        };
        assert_eq!(
            frame.ts.unwrap().0 % interval,
            0,
            "ticks are multiples of the interval"
        );
    }

    // A late subscriber finds what is retained, and no metrics.
    let mut late = broker.subscribe("devmon/v1/0/d1/about");
    let about = late.wait_for("about with the plugins' descriptors", |l| {
        json(l, "/about").filter(|a| plugins_descriptors(a) == 2)
    });
    let source = |name: &str| {
        let sources = about["sources"].as_array().unwrap();
        sources
            .iter()
            .find(|s| s["name"] == name)
            .unwrap_or_else(|| panic!("{about:#}"))
    };
    assert_eq!(source("new")["interval_ms"], 700);
    assert_eq!(source("new")["facts"], json!({"age": "newer"}));
    assert_eq!(
        source("two-a")["facts"],
        json!({"package": "test-plugin-two-a"})
    );
    assert_eq!(source("libbad.so")["state"], "failing");
    assert_eq!(about["descriptors"][0]["path"], "/new/rounds");

    running.signal("KILL");
    let gone = sub.wait_for("the last will", |l| {
        json(l, "/status").filter(|s| s["status"] == "offline")
    });
    assert_eq!(gone["reason"], "connection lost");
    let mut late = broker.subscribe("devmon/v1/0/d1/+");
    let status = late.wait_for("retained status", |l| json(l, "/status"));
    assert_eq!(status["status"], "offline");
}

#[test]
fn sigterm_delivers_what_is_pending_says_goodbye_and_ends_with_0() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    let mut running = publish("d2", &broker, &plugins, &["--interval", "200ms"]);
    sub.wait_for("metrics", metrics);
    let asked = Instant::now();
    running.signal("TERM");
    let gone = sub.wait_for("offline", |l| {
        json(l, "/status").filter(|s| s["status"] == "offline")
    });
    assert_eq!(gone["reason"], "shutdown");
    assert!(gone["ts"].is_i64());
    assert_eq!(running.ended().code(), Some(0), "{}", running.seen());
    assert!(asked.elapsed() < Duration::from_secs(10));
}

#[test]
fn everything_published_while_the_broker_was_dead_arrives() {
    let mut broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    let mut running = publish("d3", &broker, &plugins, &["--interval", "100ms"]);
    let mut seen = BTreeSet::new();
    let seq = |l: &str| metrics(l).map(|m| m.id.unwrap().seq);
    while seen.len() < 5 {
        seen.insert(sub.wait_for("metrics", seq));
    }
    // The broker keeps nothing. So that none of its own losses count, it dies when all that it acknowledged was delivered: the agent stands still meanwhile.
    running.signal("STOP");
    broker.marker();
    sub.wait_for("marker", |l| {
        seen.extend(seq(l));
        l.starts_with("marker").then_some(())
    });
    let before = *seen.last().unwrap();
    broker.kill();
    drop(sub);
    running.signal("CONT");
    running.wait_for_line("not connected");
    std::thread::sleep(Duration::from_secs(2)); // the outage: some 20 ticks
    running.signal("STOP");
    broker.restart();
    let mut sub = broker.subscribe("devmon/#");
    running.signal("CONT");

    // What was measured after the outage comes first, what gathered meanwhile behind it; then nothing is missing.
    let first = sub.wait_for("metrics after the outage", seq);
    assert!(
        first >= before + 10,
        "live data did not go first: {first} after {before}"
    );
    seen.insert(first);
    let until = Instant::now() + Duration::from_secs(30);
    let last = first + 20;
    while !(before..=last).all(|seq| seen.contains(&seq)) {
        assert!(
            Instant::now() < until,
            "missing of {before}..={last}: {seen:?}"
        );
        seen.insert(sub.wait_for("metrics", seq));
    }
    assert!((0..=last).all(|seq| seen.contains(&seq)), "{seen:?}");
}

#[test]
fn a_hung_source_delays_nobody() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    plugins.c_as("bad", "libhangs.so", &["MODE=LOOP", "VERSION=1"]); // after its trial
    let config = plugins.config("isolation = 'inline'\n");
    let mut running = publish(
        "d4",
        &broker,
        &plugins,
        &["--interval", "200ms", "--config", &config],
    );
    let failing = |l: &str| {
        let about = json(l, "/about")?;
        let sources = about["sources"].as_array()?.clone();
        let hangs = sources.into_iter().find(|s| s["name"] == "hangs")?;
        let reason = hangs["reason"].as_str()?;
        (hangs["state"] == "failing" && reason.contains("collect has not returned for"))
            .then_some(())
    };
    // Up to the verdict and after it, the other source is published at each tick.
    let mut ticks: Vec<i64> = Vec::new();
    sub.wait_for("the hung source is failing", |l| {
        ticks.extend(metrics(l).map(|m| m.frames[0].ts.unwrap().0));
        failing(l)
    });
    for _ in 0..5 {
        ticks.push(sub.wait_for("metrics", metrics).frames[0].ts.unwrap().0);
    }
    assert!(ticks.len() >= 10, "{ticks:?}");
    // A busy machine may skip a tick now and then, a blocked agent skips all until the deadline.
    let gaps = ticks.windows(2).filter(|w| w[1] - w[0] > 600).count();
    assert!(gaps == 0, "{ticks:?}");
    running.signal("TERM");
    assert_eq!(
        running.ended().code(),
        Some(0),
        "a hung source does not hinder the end"
    );
}

#[test]
fn a_source_that_panicked_is_made_anew() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["panics-in-collect"]);
    let _running = publish("d5", &broker, &plugins, &["--interval", "200ms"]);
    sub.wait_for("a good round", metrics);
    sub.wait_for("the panic as a reason", |l| {
        let about = json(l, "/about")?;
        let reason = about["sources"][1]["reason"].as_str()?.to_owned();
        (reason == "panicked: boom in round two").then_some(())
    });
    sub.wait_for("a good round of its next life", metrics);
}

#[test]
fn a_message_too_large_for_a_broker_travels_in_parts() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&[]);
    // A C plugin whose tree has 8 000 leaves, some 250 KB.
    let source = plugins.path("wide.c");
    std::fs::write(&source, WIDE_C).unwrap();
    let mut cc = std::process::Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"])
        .arg(plugins.path("libwide.so"));
    assert!(cc.arg(source).status().unwrap().success());
    let _running = publish("d6", &broker, &plugins, &["--interval", "1s"]);
    let mut leaves = BTreeSet::new();
    let mut tick = None;
    while leaves.len() < 8_000 {
        let message = sub.wait_for("metrics", |l| {
            assert!(l.len() < 128 * 1024, "{} bytes", l.len());
            metrics(l)
        });
        for frame in message.frames {
            if *tick.get_or_insert(frame.ts) == frame.ts {
                leaves.extend(frame.metrics.leaves().map(|(path, _)| path));
            }
        }
    }
}

const WIDE_C: &str = r#"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
uint32_t devmon_plugin_abi(void) { return 1; }
void *devmon_plugin_new(const char *c) { (void)c; return malloc(1); }
char *devmon_plugin_collect(void *p) {
    (void)p;
    char *text = malloc(400000), *at = text + sprintf(text, "{\"a\":0");
    for (int i = 1; i < 8000; i++) at += sprintf(at, ",\"a_rather_long_name_%d\":%d", i, i);
    sprintf(at, "}");
    return text;
}
void devmon_plugin_free(char *t) { free(t); }
void devmon_plugin_drop(void *p) { free(p); }
"#;

/// Three rounds of nearly 1 MiB each, through the smallest outbox that there is, put together for an hour: a batch may not gather them all, and the outbox has no room for one.
#[test]
fn large_rounds_in_a_batch_leave_early_and_lose_nothing_while_the_broker_answers() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&[]);
    let source = plugins.path("texts.c");
    let texts_c = WIDE_C
        .replace("malloc(400000)", "malloc(1000000)")
        .replace("i < 8000", "i < 900")
        .replace("%d\\\":%d\", i, i", "%d\\\":\\\"%01000d\\\"\", i, i");
    std::fs::write(&source, texts_c).unwrap();
    let mut cc = std::process::Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"])
        .arg(plugins.path("libtexts.so"));
    assert!(cc.arg(source).status().unwrap().success());
    let config = plugins.config("interval = '1s'\npublish_every = '1h'\noutbox_bytes = 262144\n");
    let running = publish("d8", &broker, &plugins, &["--config", &config]);
    let mut leaves: std::collections::BTreeMap<_, BTreeSet<_>> = Default::default();
    while leaves.values().filter(|l| l.len() == 900).count() < 3 {
        let message = sub.wait_for("metrics", metrics);
        let of_plugin = |f: &&devmon_core::wire::Frame| f.source.as_deref() == Some("texts");
        for frame in message.frames.iter().filter(of_plugin) {
            let tick = leaves.entry(frame.ts.unwrap().0).or_default();
            tick.extend(frame.metrics.leaves().map(|(path, _)| path));
        }
    }
    let status = crate::support::run(&["status", "--json"], &plugins);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["dropped"], serde_json::json!({}), "{status}");
    let peak_kb = crate::support::peak_kb(&running);
    assert!(peak_kb < 40_000, "{peak_kb} kB");
}

#[test]
fn shards_and_prefix_are_honoured_and_the_ready_line_names_all() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("site/a/v1/#");
    let plugins = Plugins::with(&["two-a", "two-b"]);
    let mut command = agent();
    command.args([
        "run",
        "--device",
        "edge_device_01",
        "--topic-prefix",
        "site/a",
    ]);
    command.args([
        "--shards",
        "16",
        "--interval",
        "200ms",
        "--mqtt",
        &broker.url(),
    ]);
    command.arg("--plugin-dir").arg(plugins.0.path());
    let mut running = Process::output_of(&mut command);
    let ready = running.wait_for_line("ready");
    let expected = format!(
        "ready device=edge_device_01 mqtt={} sources=two-a,two-b",
        broker.url()
    );
    assert_eq!(ready, expected);
    sub.wait_for("the topic of shard 11", |l| {
        l.starts_with("site/a/v1/11/edge_device_01/metrics ")
            .then_some(())
    });
}

//! Receivers that are down, collectors that are killed: nothing is missing, or it is counted.

use std::process::Command;

use crate::collector::{Collector, TOKEN, frames, now_ms, wait_for};
use crate::gate::{Gate, Way};
use crate::receivers::{Kind, Receiver, free_addr};

/// Seals often, so that all but what is kept for forwarding would be trimmed.
const SMALL_SEALS: &str = "[store]\nseal_samples = 500\nseal_journal_bytes = 65536\n";

fn times(count: usize, begin: i64) -> Vec<i64> {
    (0..count)
        .map(|n| begin + 10 * i64::try_from(n).unwrap())
        .collect()
}

#[test]
fn a_target_that_was_down_has_all_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let addr = free_addr();
    let url = Receiver::url(addr);
    let collector = Collector::start(
        dir.path(),
        &format!(
            "{SMALL_SEALS}[[remote_write]]\nurl = '{url}'\nmax_samples = 500\nmax_delay = '50ms'\n"
        ),
    );
    let begin = now_ms() - 60_000;
    collector.publish("d", "metrics", &frames(0, 1_000, begin));
    wait_for("it fails, and says so", || {
        let target = collector.target();
        let failures = target["failures"]["connection"].as_u64()?;
        (target["state"] == "failing" && failures > 1).then_some(())
    });
    assert!(collector.target()["behind_seconds"].as_f64().unwrap() > 0.0);

    let receiver = Receiver::start(Kind::VictoriaMetrics, addr, dir.path());
    wait_for("all are there", || {
        (receiver.times_of_v0("d").len() == 1_000).then_some(())
    });
    receiver.stop();
    collector.publish("d", "metrics", &frames(1_000, 1_000, begin));
    let receiver = Receiver::start(Kind::VictoriaMetrics, addr, dir.path());
    wait_for("all are there again", || {
        (receiver.times_of_v0("d").len() == 2_000).then_some(())
    });
    assert_eq!(receiver.times_of_v0("d"), times(2_000, begin));
    assert!(
        collector
            .get("/metrics")
            .contains("devmon_collector_remote_write_samples_sent_total{target=")
    );
}

/// The receiver is given a part, the collector is killed while it waits for an answer, with all sealed.
fn killed(kind: Kind) {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(kind, free_addr(), dir.path());
    let mut ways = vec![Way::Through; 20];
    ways.push(Way::Hang);
    let gate = Gate::open(Some(receiver.addr), &ways);
    let config = format!(
        "{SMALL_SEALS}[[remote_write]]\nurl = 'http://{}/api/v1/write'\nname = 'x'\nmax_samples = 100\nmax_delay = '10ms'\n",
        gate.addr
    );
    let begin = now_ms() - 60_000;
    let collector = Collector::start(dir.path(), &config);
    for part in 0..10 {
        collector.publish("d", "metrics", &frames(part * 100, 100, begin));
    }
    wait_for("a request hangs", || (gate.seen() == 21).then_some(()));
    collector.kill_9();
    assert!(
        receiver.times_of_v0("d").len() < 1_000,
        "it was killed too late to show anything"
    );

    let collector = Collector::start(dir.path(), &config);
    wait_for("it sends again", || (gate.seen() > 21).then_some(()));
    gate.all(Way::Through);
    collector.publish("d", "metrics", &frames(1_000, 100, begin));
    wait_for("all are there", || {
        (receiver.times_of_v0("d").len() >= 1_100).then_some(())
    });
    assert_eq!(receiver.times_of_v0("d"), times(1_100, begin));
    let dropped = collector.target()["samples_dropped"].clone();
    assert!(
        dropped.as_object().unwrap().values().all(|n| n == 0),
        "{dropped}"
    );
}

#[test]
fn a_collector_killed_while_it_forwards_to_victoria_metrics_loses_nothing() {
    killed(Kind::VictoriaMetrics);
}

#[test]
fn a_collector_killed_while_it_forwards_to_prometheus_loses_nothing() {
    killed(Kind::PatientPrometheus);
}

#[test]
fn what_was_forwarded_before_a_restart_is_not_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::open(None, &[Way::Answer("204 No Content")]);
    let config = format!(
        "[[remote_write]]\nurl = 'http://{}/w'\nname = 'x'\nmax_delay = '10ms'\n",
        gate.addr
    );
    let begin = now_ms();
    let collector = Collector::start(dir.path(), &config);
    collector.publish("d", "metrics", &frames(0, 50, begin));
    wait_for("all are sent", || {
        (collector.target()["samples_sent"] == 500).then_some(())
    });
    wait_for("and noted", || {
        (collector.target()["behind_bytes"] == 0).then_some(())
    });
    collector.kill_9();
    let collector = Collector::start(dir.path(), &config);
    collector.publish("d", "metrics", &frames(50, 1, begin));
    wait_for("news is sent", || {
        (collector.target()["samples_sent"] != 0).then_some(())
    });
    assert_eq!(collector.target()["samples_sent"], 10);
}

/// The commands that open a store know no configuration, and seal.
#[test]
fn a_store_at_rest_keeps_what_waits_to_be_forwarded() {
    let dir = tempfile::tempdir().unwrap();
    let addr = free_addr();
    let url = Receiver::url(addr);
    let config =
        format!("{SMALL_SEALS}[[remote_write]]\nurl = '{url}'\nname = 'x'\nmax_delay = '10ms'\n");
    let begin = now_ms() - 60_000;
    let collector = Collector::start(dir.path(), &config);
    for part in 0..3 {
        collector.publish("d", "metrics", &frames(part * 333, 333, begin));
    }
    collector.stop();
    for _ in 0..2 {
        let compacted = Command::new(env!("CARGO_BIN_EXE_devmon-collector"))
            .args(["compact", "--data-dir"])
            .arg(dir.path().join("data"))
            .output()
            .unwrap();
        assert!(compacted.status.success(), "{compacted:?}");
    }
    let receiver = Receiver::start(Kind::VictoriaMetrics, addr, dir.path());
    let _collector = Collector::start(dir.path(), &config);
    wait_for("all are there", || {
        (receiver.times_of_v0("d").len() == 999).then_some(())
    });
    assert_eq!(receiver.times_of_v0("d"), times(999, begin));
}

#[test]
fn samples_of_a_forgotten_device_are_not_forwarded_but_counted() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::open(None, &[Way::Answer("503 Service Unavailable")]);
    let token = dir.path().join("token"); // forgetting asks for one
    std::fs::write(&token, TOKEN).unwrap();
    let config = format!(
        "api_token_file = '{}'\n[[remote_write]]\nurl = 'http://{}/w'\nmax_samples = 10\nmax_delay = '10ms'\n",
        token.display(),
        gate.addr
    );
    let collector = Collector::start(dir.path(), &config);
    collector.publish("kept", "metrics", &frames(0, 1, now_ms()));
    wait_for("it is tried", || (gate.seen() > 0).then_some(()));
    collector.publish("gone", "metrics", &frames(0, 3, now_ms()));
    collector.forget("gone");
    gate.all(Way::Answer("204 No Content"));
    wait_for("they are counted", || {
        (collector.target()["samples_dropped"]["device_forgotten"] == 30).then_some(())
    });
    assert_eq!(collector.target()["samples_sent"], 10);
}

#[test]
fn beyond_the_bound_the_oldest_is_left_out_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let addr = free_addr();
    let url = Receiver::url(addr);
    let config = format!(
        "{SMALL_SEALS}[[remote_write]]\nurl = '{url}'\nmax_samples = 100\nmax_delay = '10ms'\nmax_behind_bytes = 50000\n"
    );
    let collector = Collector::start(dir.path(), &config);
    let begin = now_ms() - 60_000;
    for part in 0..5 {
        collector.publish("d", "metrics", &frames(part * 500, 500, begin));
    }
    let dropped = |collector: &Collector| {
        collector.target()["samples_dropped"]["too_far_behind"]
            .as_u64()
            .unwrap()
    };
    wait_for("the bound is kept", || {
        let target = collector.target();
        (dropped(&collector) > 0 && target["behind_bytes"].as_u64()? <= 50_000).then_some(())
    });
    let metrics = collector.get("/metrics");
    assert!(metrics.contains("reason=\"too_far_behind\""), "{metrics}");

    let receiver = Receiver::start(Kind::VictoriaMetrics, addr, dir.path());
    wait_for("it catches up", || {
        let target = collector.target();
        (target["samples_sent"].as_u64()? > 0 && target["behind_bytes"] == 0).then_some(())
    });
    let sent = collector.target()["samples_sent"].as_u64().unwrap();
    assert_eq!(sent + dropped(&collector), 25_000);
    // What is there is the newest, without a gap.
    let there = wait_for("what was sent is there", || {
        let there = receiver.times_of_v0("d");
        (there.len() as u64 == sent / 10).then_some(there)
    });
    let all = times(2_500, begin);
    assert_eq!(there, all[all.len() - there.len()..]);
}

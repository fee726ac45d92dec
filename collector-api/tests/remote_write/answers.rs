//! What the answers of a target mean.

use std::time::{Duration, Instant};

use crate::collector::{Collector, frame, frames, now_ms, wait_for};
use crate::gate::{Gate, Way};
use crate::receivers::{Kind, Receiver, free_addr};

#[test]
fn what_a_target_refuses_is_counted_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let addr = free_addr();
    let receiver = Receiver::start(Kind::Prometheus, addr, dir.path());
    let url = Receiver::url(addr);
    let collector = Collector::start(
        dir.path(),
        &format!("[[remote_write]]\nurl = '{url}'\nmax_delay = '10ms'\n"),
    );
    let now = now_ms();
    collector.publish("d", "metrics", &frames(0, 1, now));
    wait_for("it is taken", || {
        (receiver.times_of_v0("d").len() == 1).then_some(())
    });
    let two_days_ago = now - 2 * 86_400_000;
    collector.publish(
        "d",
        "metrics",
        &[frame(1, two_days_ago, "s", r#"{"v0":1,"v1":2}"#)],
    );
    wait_for("it is refused", || {
        (collector.target()["samples_dropped"]["bad_request"] == 2).then_some(())
    });
    collector.publish("d", "metrics", &frames(2, 1, now));
    wait_for("the next is taken", || {
        (receiver.times_of_v0("d").len() == 2).then_some(())
    });
    let target = collector.target();
    let said = target["last_refusal"].as_str().unwrap();
    assert!(
        said.starts_with("400 Bad Request: ") && said.contains("out of"),
        "{said}"
    );
    assert_eq!(
        (&target["state"], &target["samples_sent"]),
        (&"ok".into(), &20.into())
    );
}

#[test]
fn a_target_that_asks_for_a_pause_gets_it_and_then_all() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(Kind::VictoriaMetrics, free_addr(), dir.path());
    let ways = [
        Way::Answer("503 Service Unavailable\r\nretry-after: 3"),
        Way::Answer("429 Too Many Requests"),
        Way::Answer("301 Moved Permanently\r\nlocation: http://127.0.0.1:1/"),
        Way::Through,
    ];
    let gate = Gate::open(Some(receiver.addr), &ways);
    let token = dir.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let collector = Collector::start(
        dir.path(),
        &format!(
            "[[remote_write]]\nurl = 'http://{}/api/v1/write'\nmax_delay = '10ms'\nbearer_token_file = '{}'\nheaders = {{ X-Scope-OrgID = 'tenant' }}\n",
            gate.addr,
            token.display()
        ),
    );
    let begin = Instant::now();
    collector.publish("d", "metrics", &frames(0, 10, now_ms()));
    wait_for("all are there", || {
        (receiver.times_of_v0("d").len() == 10).then_some(())
    });
    assert!(begin.elapsed() > Duration::from_secs(3), "it did not wait");
    let target = collector.target();
    let failures = [
        "server_error",
        "too_many_requests",
        "unexpected",
        "connection",
    ];
    assert_eq!(
        failures.map(|kind| target["failures"][kind].as_u64().unwrap()),
        [1, 1, 1, 0]
    );
    assert_eq!(target["state"], "ok");
    let head = gate.heads().pop().unwrap().to_lowercase();
    for line in [
        "post /api/v1/write http/1.1",
        "content-encoding: snappy",
        "content-type: application/x-protobuf",
        "x-prometheus-remote-write-version: 0.1.0",
        "user-agent: devmon-collector/",
        "authorization: bearer s3cret",
        "x-scope-orgid: tenant",
    ] {
        assert!(head.contains(line), "{line} in {head}");
    }
    assert!(!collector.get("/api/v1/status").contains("s3cret"));
}

#[test]
fn what_is_older_than_a_target_takes_is_left_out_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::open(None, &[Way::Answer("204 No Content")]);
    let collector = Collector::start(
        dir.path(),
        &format!(
            "[[remote_write]]\nurl = 'http://{}/w'\nmax_sample_age = '1h'\nmax_delay = '10ms'\n",
            gate.addr
        ),
    );
    let now = now_ms();
    let mut messages = frames(0, 2, now - 7_200_000);
    messages.extend(frames(2, 1, now));
    collector.publish("d", "metrics", &messages);
    wait_for("the young ones are sent", || {
        (collector.target()["samples_sent"] == 10).then_some(())
    });
    assert_eq!(collector.target()["samples_dropped"]["too_old"], 20);
}

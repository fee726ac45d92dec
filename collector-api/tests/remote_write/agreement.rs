//! Receivers hold the samples of the store, under the names and labels of `/metrics/devices`.

use std::collections::BTreeSet;

use crate::collector::{Collector, frame, now_ms, wait_for};
use crate::receivers::{Held, Kind, Receiver, free_addr};

const ABOUT: &str = r#"{"v":1,"device":"d","ts":1,"agent":{"version":"0"},"host":{},"sources":[{"name":"disk","state":"ok","interval_ms":1000},{"name":"cpu","state":"ok","interval_ms":1000},{"name":"odd","state":"ok","interval_ms":1000}],"descriptors":[
{"path":"/disk/{mount}/used_bytes","unit":"By","kind":"gauge","help":"h"},
{"path":"/disk/{mount}/read","unit":"By","kind":"counter","help":"h"},
{"path":"/cpu/core/{core}/utilization","unit":"1","kind":"gauge","help":"h"},
{"path":"/cpu/throttled","unit":"","kind":"state","help":"h"},
{"path":"/cpu/model","unit":"","kind":"text","help":"h"}]}"#;

const ROUNDS: i64 = 20;

fn metrics(round: i64) -> [(&'static str, String); 3] {
    [
        (
            "disk",
            format!(
                r#"{{"/home":{{"used_bytes":{},"read":{}}}}}"#,
                1_000_000_000_000_i64 + round,
                round * 7
            ),
        ),
        (
            "cpu",
            format!(
                r#"{{"core":{{"0":{{"utilization":{}}},"1":{{"utilization":0.5}}}},"throttled":{},"model":"A \"quoted\" CPU"}}"#,
                0.1 + round as f64 / 3.0,
                round % 2 == 0
            ),
        ),
        // Two paths that come out alike, and what no descriptor speaks of.
        (
            "odd",
            format!(r#"{{"a_b":{round},"a":{{"b":{}}},"größe":-0.0}}"#, -round),
        ),
    ]
}

fn agrees(kind: Kind) {
    let dir = tempfile::tempdir().unwrap();
    let addr = free_addr();
    let receiver = Receiver::start(kind, addr, dir.path());
    let collector = Collector::start(
        dir.path(),
        &format!(
            "[[remote_write]]\nurl = '{}'\nexclude = ['/cpu/core/1/**']\nexternal_labels = {{ site = 'lab', device = 'never' }}",
            Receiver::url(addr)
        ),
    );
    collector.publish("d", "about", &[ABOUT.replace('\n', "")]);
    let begin = now_ms() - 1000 * ROUNDS;
    for round in 0..ROUNDS {
        let all = metrics(round).map(|(source, metrics)| {
            frame(
                usize::try_from(round).unwrap(),
                begin + 1000 * round,
                source,
                &metrics,
            )
        });
        collector.publish("d", "metrics", &all);
    }
    let expected_series = 8;
    let held = wait_for("the receiver holds all", || {
        let held = receiver.held("d");
        let all = held.values().map(|series| series.len() as i64).sum::<i64>();
        (all >= expected_series * ROUNDS).then_some(held)
    });

    let exposed: BTreeSet<String> = collector
        .get("/metrics/devices?device=d")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with("devmon_device_"))
        .filter(|line| !line.contains("core=\"1\""))
        .map(|line| {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap();
            let labels = labels.strip_suffix('}').unwrap().replace("\\\"", "\u{1}");
            let mut all: Vec<_> = labels.split(',').map(str::to_owned).collect();
            all.extend([format!("__name__=\"{name}\""), "site=\"lab\"".to_owned()]);
            all.sort();
            all.join(",").replace('\u{1}', "\\\"")
        })
        .collect();
    assert_eq!(held.keys().cloned().collect::<BTreeSet<_>>(), exposed);

    let values = |held: &Held, part: &str| -> Vec<(i64, f64)> {
        let (_, series) = held
            .iter()
            .find(|(labels, _)| labels.contains(part))
            .unwrap();
        series.iter().map(|(t, v)| (*t, *v)).collect()
    };
    let sent = |value: fn(i64) -> f64| -> Vec<(i64, f64)> {
        (0..ROUNDS)
            .map(|round| (begin + 1000 * round, value(round)))
            .collect()
    };
    for (part, value) in [
        (
            "\"devmon_disk_used_bytes\"",
            (|n| 1e12 + n as f64) as fn(i64) -> f64,
        ),
        ("\"devmon_disk_read_bytes_total\"", |n| (n * 7) as f64),
        ("\"devmon_cpu_core_utilization\",core=\"0\"", |n| {
            0.1 + n as f64 / 3.0
        }),
        ("\"devmon_cpu_throttled\"", |n| {
            f64::from(u8::from(n % 2 == 0))
        }),
        ("\"devmon_cpu_model_info\"", |_| 1.0),
        ("path=\"/odd/a/b\"", |n| -n as f64),
        ("path=\"/odd/a_b\"", |n| n as f64),
    ] {
        let (held, sent) = (values(&held, part), sent(value));
        assert_eq!(held.len(), sent.len(), "{part}");
        for (held, sent) in held.into_iter().zip(sent) {
            // victoria-metrics 1.79 keeps 12 decimal digits.
            let same = (held.1 - sent.1).abs() <= 1e-12 * sent.1.abs();
            assert!(held.0 == sent.0 && same, "{part}: {held:?}, not {sent:?}");
        }
    }
    let target = wait_for("the collector says so", || {
        let target = collector.target();
        (target["samples_sent"] == expected_series * ROUNDS && target["behind_bytes"] == 0)
            .then_some(target)
    });
    assert_eq!(target["state"], "ok", "{target}");
    assert_eq!(target["behind_seconds"], 0.0);
    collector.stop();
}

#[test]
fn victoria_metrics_holds_what_the_store_holds_under_the_same_names() {
    agrees(Kind::VictoriaMetrics);
}

#[test]
fn prometheus_holds_what_the_store_holds_under_the_same_names() {
    agrees(Kind::Prometheus);
}

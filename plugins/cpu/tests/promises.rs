//! The promises of `/cpu`, on this machine's own `/proc`.

use std::time::{Duration, Instant};

use devmon_core::{MetricSource, MetricTree, Node, Value};
use devmon_plugin_cpu::{CpuSource, read::Roots};

const MINIMUM_INTERVAL: Duration = Duration::from_millis(200);

fn float(tree: &MetricTree, path: &str) -> Option<f64> {
    tree.leaves()
        .find(|(p, _)| p.as_str() == path)
        .and_then(|(_, v)| v.as_f64())
}

/// Keeps a core busy past sysinfo's minimum interval.
fn burn() {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(250) {
        std::hint::spin_loop();
    }
}

#[test]
fn first_round_publishes_no_utilization() {
    let start = Instant::now();
    let mut source = CpuSource::new("{}").unwrap();
    let tree = source.collect().unwrap();
    assert!(float(&tree, "/load/1m").is_some());
    // On a stalled machine 200 ms may pass in between; then there is an interval to average over.
    if start.elapsed() < MINIMUM_INTERVAL {
        assert_eq!(tree.get("utilization"), None);
        assert_eq!(tree.get("core"), None);
    }
}

#[test]
fn a_busy_interval_shows_as_utilization_of_all_and_of_each_core() {
    let mut source = CpuSource::new("{}").unwrap();
    burn();
    let tree = source.collect().unwrap();
    let all = float(&tree, "/utilization").unwrap();
    assert!(all > 0.0 && all <= 1.0, "{all}");
    let Some(Node::Branch(cores)) = tree.get("core") else {
        panic!("no cores: {tree:?}")
    };
    assert!(cores.children().len() >= 1);
    for i in 0..cores.children().len() {
        let core = float(&tree, &format!("/core/{i}/utilization")).unwrap();
        assert!((0.0..=1.0).contains(&core), "core {i}: {core}");
    }
}

#[test]
fn a_round_too_soon_repeats_nothing() {
    let mut source = CpuSource::new("{}").unwrap();
    burn();
    assert!(float(&source.collect().unwrap(), "/utilization").is_some());
    let start = Instant::now();
    let tree = source.collect().unwrap();
    if start.elapsed() < MINIMUM_INTERVAL {
        assert_eq!(
            tree.get("utilization"),
            None,
            "an old value as if it were new"
        );
    }
}

#[test]
fn a_core_that_comes_or_goes_starts_a_new_baseline() {
    let cpus = tempfile::tempdir().unwrap();
    let online = cpus.path().join("online");
    std::fs::write(&online, "0-1\n").unwrap();
    let roots = Roots {
        cpus: cpus.path().into(),
        ..Roots::default()
    };
    let mut source = CpuSource::with_roots("{}", roots).unwrap();
    std::fs::write(&online, "0\n").unwrap();
    burn();
    let tree = source.collect().unwrap();
    assert_eq!(tree.get("utilization"), None);
    burn();
    assert!(float(&source.collect().unwrap(), "/utilization").is_some());
}

#[test]
fn an_unreadable_proc_is_a_failure_and_not_an_old_value() {
    let roots = Roots {
        proc: "/nonexistent".into(),
        ..Roots::default()
    };
    let error = CpuSource::with_roots("{}", roots)
        .unwrap()
        .collect()
        .unwrap_err();
    assert!(error.to_string().contains("/nonexistent/stat"), "{error}");
}

#[test]
fn facts_name_the_cores() {
    let facts = CpuSource::new("{}").unwrap().facts();
    assert!(
        matches!(facts.get("cores"), Some(Node::Leaf(Value::Integer(n))) if *n >= 1),
        "{facts:?}"
    );
    facts.validate().unwrap();
}

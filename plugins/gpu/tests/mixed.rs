//! NVIDIA beside AMD and Intel: neither hides, moves or slows the other.

mod fake;
mod machine;

use std::time::{Duration, Instant};

use devmon_core::{CollectError, MetricSource as _, MetricTree};
use devmon_plugin_gpu::RETRY_MOST;
use fake::Fake;
use machine::{Machine, NVIDIA};

fn named(tree: &MetricTree, what: &str) -> Vec<String> {
    let all = tree.leaves().map(|(p, v)| format!("{p} {v}"));
    all.filter(|leaf| leaf.contains(what)).collect()
}

/// Two NVIDIA cards, as the fake NVML has them, and an AMD one before them on the bus.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.amd(0, "0000:01:00.0");
    machine.card(1, "0000:02:00.0", NVIDIA, "nvidia");
    machine.card(2, "0000:03:00.0", NVIDIA, "nvidia");
    machine
}

const NAMES: [&str; 3] = [
    "/0/name NVIDIA Fake 0",
    "/1/name NVIDIA Fake 1",
    "/2/name AMD Radeon PRO W6800",
];

#[test]
fn nvidia_keeps_nvml_s_indices_and_the_others_follow() {
    let (machine, fake) = (machine(), Fake::build(&[]));
    let mut source = fake.source_on(machine.sys());
    assert_eq!(named(&source.collect().unwrap(), "/name"), NAMES);
    assert_eq!(named(&source.facts(), "/name"), NAMES);
}

#[test]
fn a_driver_that_comes_later_moves_nothing() {
    let (machine, fake) = (machine(), Fake::build(&[]));
    fake.switch("not_loaded", true);
    let mut source = fake.source_on(machine.sys());
    let start = Instant::now();
    let tree = source.collect_at(start).unwrap();
    assert_eq!(named(&tree, "/name"), NAMES[2..]);
    assert_eq!(named(&tree, "error"), [""; 0]);
    fake.switch("not_loaded", false);
    let tree = source.collect_at(start + RETRY_MOST).unwrap();
    assert_eq!(named(&tree, "/name"), NAMES);
}

#[test]
fn a_missing_driver_is_not_looked_for_in_every_round() {
    let (machine, fake) = (machine(), Fake::build(&[]));
    fake.switch("not_loaded", true);
    let mut source = fake.source_on(machine.sys());
    let start = Instant::now();
    let before = fake.attempts();
    for second in 0..3600 {
        source
            .collect_at(start + Duration::from_secs(second))
            .unwrap();
    }
    // At 0, 1, 3, 7, … s, then every 5 minutes.
    let attempts = fake.attempts() - before;
    assert!((2..25).contains(&attempts), "{attempts}");
}

#[test]
fn nvml_that_breaks_shows_errors_for_its_gpus_only() {
    let (machine, fake) = (machine(), Fake::build(&[]));
    let mut source = fake.source_on(machine.sys());
    let start = Instant::now();
    source.collect_at(start).unwrap();
    fake.switch("mismatch", true);
    // Broken, waiting, opened in vain.
    for ms in [0, 500, 1_000, 1_500] {
        let tree = source
            .collect_at(start + Duration::from_millis(ms))
            .unwrap();
        let errors = named(&tree, "/error");
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[0].starts_with("/0/") && errors[1].starts_with("/1/"));
        assert_eq!(named(&tree, "/2/utilization"), ["/2/utilization 0.37"]);
    }
    fake.switch("mismatch", false);
    let tree = source.collect_at(start + RETRY_MOST).unwrap();
    assert_eq!(named(&tree, "/error"), [""; 0]);
    assert_eq!(named(&tree, "/name"), NAMES);
}

#[test]
fn all_of_both_lost_is_a_failure() {
    let fake = Fake::build(&[]);
    let machine = Machine::new();
    let card = machine.card(0, "0000:01:00.0", machine::AMD, "amdgpu");
    card.device("gpu_busy_percent", "busy");
    fake.switch("lost0", true);
    fake.switch("lost1", true);
    let error = fake.source_on(machine.sys()).collect().unwrap_err();
    assert!(
        matches!(&error, CollectError::Failed(e) if ["GPU 0", "GPU 1", "0000:01:00.0"].iter().all(|gpu| e.contains(gpu))),
        "{error}"
    );
}

#[test]
fn facts_say_which_gpu_an_index_is() {
    let machine = Machine::new();
    machine.controller("0000:01:00.0", NVIDIA); // its driver is missing: its index stays free
    machine.amd(0, "0000:03:00.0");
    let expected = [
        "/1/driver amdgpu",
        "/1/name AMD Radeon PRO W6800",
        "/1/pci_address 0000:03:00.0",
    ];
    assert_eq!(named(&machine.source().facts(), "/1/"), expected);
}

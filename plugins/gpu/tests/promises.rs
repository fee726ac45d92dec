//! The promises of `/gpu`, on a fake NVML.

mod fake;

use std::time::{Duration, Instant};

use devmon_core::{CollectError, MetricSource, MetricTree};
use devmon_plugin_gpu::{GpuSource, RETRY_FIRST, RETRY_MOST};
use fake::Fake;

fn leaves(tree: &MetricTree) -> Vec<String> {
    tree.leaves().map(|(p, v)| format!("{p} {v}")).collect()
}

fn unavailable(result: Result<MetricTree, CollectError>) -> String {
    match result {
        Err(CollectError::Unavailable(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

const GPU_0: [&str; 9] = [
    "/0/lost false",
    "/0/memory/total_bytes 8589934592",
    "/0/memory/used_bytes 2147483648",
    "/0/memory/utilization 0.25",
    "/0/memory_controller/utilization 0.12",
    "/0/name NVIDIA Fake 0",
    "/0/power_watts 70.5",
    "/0/temperature_celsius 41",
    "/0/utilization 0.37",
];
/// It supports neither utilization nor power.
const GPU_1: [&str; 6] = [
    "/1/lost false",
    "/1/memory/total_bytes 8589934592",
    "/1/memory/used_bytes 2147483648",
    "/1/memory/utilization 0.25",
    "/1/name NVIDIA Fake 1",
    "/1/temperature_celsius 42",
];

#[test]
fn two_gpus_each_with_what_it_supports() {
    let fake = Fake::build(&[]);
    let mut source = fake.source();
    for _ in 0..3 {
        assert_eq!(
            leaves(&source.collect().unwrap()),
            [&GPU_0[..], &GPU_1].concat()
        );
    }
    assert_eq!(fake.inits(), 1, "opened once and kept");
}

#[test]
fn a_missing_symbol_costs_only_its_value() {
    let fake = Fake::build(&["NO_POWER", "NO_MEMORY"]);
    let leaves = leaves(&fake.source().collect().unwrap());
    assert_eq!(
        leaves,
        [
            "/0/lost false",
            "/0/memory_controller/utilization 0.12",
            "/0/name NVIDIA Fake 0",
            "/0/temperature_celsius 41",
            "/0/utilization 0.37",
            "/1/lost false",
            "/1/name NVIDIA Fake 1",
            "/1/temperature_celsius 42",
        ]
    );
}

#[test]
fn no_driver_is_unavailable_with_a_reason() {
    let options = r#"{"library":"/nonexistent/libnvidia-ml.so.1"}"#;
    let mut source = GpuSource::with_root(options, "/nonexistent/sys").unwrap();
    let reason = unavailable(source.collect());
    for part in [
        "no NVIDIA driver",
        "/nonexistent/libnvidia-ml.so.1",
        "Install",
        "`library`",
        "No AMD or Intel GPU",
        "/nonexistent/sys/class/drm",
    ] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    assert!(source.facts().is_empty());
}

#[test]
fn a_library_that_is_not_nvml_is_unavailable_with_a_reason() {
    let reason = unavailable(Fake::build(&["NO_INIT"]).source().collect());
    assert!(
        reason.contains("not NVIDIA's management library"),
        "{reason}"
    );
}

#[test]
fn an_unloaded_driver_is_unavailable_until_it_is_loaded() {
    let fake = Fake::build(&[]);
    fake.switch("not_loaded", true);
    let mut source = fake.source();
    let reason = unavailable(source.collect());
    assert!(reason.contains("modprobe nvidia"), "{reason}");
    fake.switch("not_loaded", false);
    assert!(source.collect().is_ok());
    assert!(!source.facts().is_empty(), "facts come with the driver");
}

#[test]
fn zero_gpus_are_unavailable_and_found_when_plugged_in() {
    let fake = Fake::build(&[]);
    fake.switch("no_gpus", true);
    let mut source = fake.source();
    let reason = unavailable(source.collect());
    assert!(reason.contains("sees no GPU"), "{reason}");
    fake.switch("no_gpus", false);
    assert!(source.collect().is_ok());
}

#[test]
fn a_lost_gpu_is_shown_and_the_other_goes_on() {
    let fake = Fake::build(&[]);
    let mut source = fake.source();
    let start = Instant::now();
    source.collect_at(start).unwrap();
    fake.switch("lost0", true);
    let tree = source.collect_at(start).unwrap();
    let leaves_now = leaves(&tree);
    assert!(
        leaves_now[0].starts_with("/0/error GPU 0: device fell off the bus"),
        "{leaves_now:?}"
    );
    assert_eq!(leaves_now[1], "/0/lost true");
    assert_eq!(leaves_now[2..], GPU_1);
    assert_eq!(fake.inits(), 1);
    // NVML is opened anew after 1 s, then 2 s, 4 s, … up to 5 min, and not in between.
    let mut now = start;
    let mut delay = RETRY_FIRST;
    for opened in 2..14 {
        source
            .collect_at(now + delay - Duration::from_millis(1))
            .unwrap();
        assert_eq!(fake.inits(), opened - 1, "too early");
        now += delay;
        source.collect_at(now).unwrap();
        assert_eq!(fake.inits(), opened);
        delay = (delay * 2).min(RETRY_MOST);
    }
    assert_eq!(delay, RETRY_MOST);
    fake.switch("lost0", false);
    let tree = source.collect_at(now + delay).unwrap();
    assert_eq!(leaves(&tree), [&GPU_0[..], &GPU_1].concat());
    // All is well: no more reopening, and the next loss starts at the shortest delay.
    let opened = fake.inits();
    now += 10 * RETRY_MOST;
    source.collect_at(now).unwrap();
    assert_eq!(fake.inits(), opened);
    fake.switch("lost1", true);
    source.collect_at(now).unwrap();
    source.collect_at(now + RETRY_FIRST).unwrap();
    assert_eq!(fake.inits(), opened + 1);
}

#[test]
fn all_gpus_lost_is_a_failure_that_names_them() {
    let fake = Fake::build(&[]);
    let mut source = fake.source();
    fake.switch("lost0", true);
    fake.switch("lost1", true);
    let error = source.collect().unwrap_err();
    assert!(
        matches!(&error, CollectError::Failed(e) if e.contains("GPU 0") && e.contains("GPU 1")),
        "{error}"
    );
}

#[test]
fn a_driver_upgrade_fails_is_waited_out_and_recovers() {
    let fake = Fake::build(&[]);
    let mut source = fake.source();
    let start = Instant::now();
    source.collect_at(start).unwrap();
    fake.switch("mismatch", true);
    let error = source.collect_at(start).unwrap_err();
    assert!(
        matches!(&error, CollectError::Failed(e) if e.contains("version mismatch")),
        "{error}"
    );
    let error = source.collect_at(start + RETRY_FIRST / 2).unwrap_err();
    assert!(
        matches!(&error, CollectError::Failed(e) if e.contains("anew in 1 s")),
        "{error}"
    );
    let reason = unavailable(source.collect_at(start + RETRY_FIRST));
    assert!(reason.contains("Reboot"), "{reason}");
    fake.switch("mismatch", false);
    let tree = source.collect_at(start + RETRY_FIRST).unwrap();
    assert_eq!(leaves(&tree).len(), GPU_0.len() + GPU_1.len());
    assert_eq!(fake.inits(), 2);
}

#[test]
fn gpus_that_answer_nothing_are_a_failure_and_not_zeros() {
    let fake = Fake::build(&[]);
    let mut source = fake.source();
    fake.switch("unknown", true);
    let start = Instant::now();
    let error = source.collect_at(start).unwrap_err();
    assert!(
        matches!(&error, CollectError::Failed(e) if e.contains("internal driver error")),
        "{error}"
    );
    fake.switch("unknown", false);
    assert!(source.collect_at(start + RETRY_FIRST).is_ok());
    assert_eq!(fake.inits(), 2, "opened anew");
}

#[test]
fn facts_name_driver_and_gpus() {
    let facts = Fake::build(&[]).source().facts();
    assert_eq!(
        leaves(&facts),
        [
            "/0/name NVIDIA Fake 0",
            "/0/uuid GPU-0000-0",
            "/1/name NVIDIA Fake 1",
            "/1/uuid GPU-0000-1",
            "/cuda_version 12.8",
            "/driver_version 570.86.15",
            "/nvml_version 12.570.86.15",
        ]
    );
}

#[test]
fn a_misspelt_option_is_refused_with_the_valid_one() {
    let error = GpuSource::new(r#"{"libary":"/x"}"#).err().unwrap();
    assert!(
        error.contains("`libary`") && error.contains("`library`"),
        "{error}"
    );
    assert!(GpuSource::new(r#"{"library":""}"#).is_err());
}

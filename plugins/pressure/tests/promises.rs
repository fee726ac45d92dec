//! The promises of `/pressure`, on a made-up machine.

mod machine;

use devmon_core::{CollectError, MetricSource, MetricTree};
use machine::Machine;

fn leaves(tree: &MetricTree) -> Vec<String> {
    tree.leaves().map(|(p, v)| format!("{p} {v}")).collect()
}

#[test]
fn ratios_and_seconds_and_no_full_of_cpu() {
    let leaves = leaves(&Machine::new().source().collect().unwrap());
    assert_eq!(leaves.len(), 20, "{leaves:?}");
    assert_eq!(
        leaves[..4],
        [
            "/cpu/some/avg10/utilization 0.125",
            "/cpu/some/avg300/utilization 0.0001",
            "/cpu/some/avg60/utilization 0.0035",
            "/cpu/some/stalled_seconds_total 1.5",
        ]
    );
    for leaf in [
        "/io/some/avg10/utilization 1.0",
        "/io/full/avg60/utilization 0.001",
        "/memory/full/stalled_seconds_total 4.2e-5",
    ] {
        assert!(leaves.iter().any(|l| l == leaf), "{leaf} in {leaves:?}");
    }
}

#[test]
fn one_missing_file_costs_only_its_resource() {
    let machine = Machine::new();
    std::fs::remove_file(machine.path().join("pressure/io")).unwrap();
    let tree = machine.source().collect().unwrap();
    let names: Vec<&str> = tree.children().map(|(name, _)| name).collect();
    assert_eq!(names, ["cpu", "memory"]);
}

#[test]
fn a_kernel_without_psi_is_unavailable_every_round() {
    let machine = Machine::new();
    std::fs::remove_dir_all(machine.path().join("pressure")).unwrap();
    let mut source = machine.source();
    for _ in 0..3 {
        let error = source.collect().unwrap_err();
        assert!(
            matches!(&error, CollectError::Unavailable(e) if e.contains("CONFIG_PSI")),
            "{error}"
        );
    }
}

#[test]
fn files_of_an_unknown_form_are_a_failure_and_not_zeros() {
    let machine = Machine::new();
    for name in ["cpu", "memory", "io"] {
        std::fs::write(machine.path().join("pressure").join(name), "none\n").unwrap();
    }
    let error = machine.source().collect().unwrap_err();
    assert!(matches!(error, CollectError::Failed(_)), "{error}");
}

//! Every leaf has a descriptor, every descriptor is well-formed and stands in the README.

use devmon_core::descriptor::{Descriptor, parse_toml};
use devmon_core::{MetricSource as _, MetricTree, rules};
use devmon_plugin_gpu::METRICS_TOML;

mod fake;
mod machine;

fn descriptors() -> Vec<Descriptor> {
    parse_toml(METRICS_TOML).expect("metrics.toml is well-formed")
}

#[test]
fn every_leaf_of_the_fake_is_described() {
    let fake = fake::Fake::build(&[]);
    let mut source = fake.source();
    assert_described(&source.collect().unwrap());
    fake.switch("lost0", true);
    let tree = source.collect().unwrap();
    assert!(tree.leaves().any(|(path, _)| path.as_str() == "/0/error"));
    assert_described(&tree);
}

#[test]
fn every_leaf_of_amd_and_intel_is_described() {
    let machine = machine::Machine::new();
    machine.amd(0, "0000:03:00.0");
    machine.xe(1, "0000:04:00.0");
    let mut source = machine.source();
    let start = std::time::Instant::now();
    source.collect_at(start).unwrap();
    let later = start + std::time::Duration::from_secs(1);
    let tree = source.collect_at(later).unwrap();
    for leaf in ["/0/suspended", "/1/utilization", "/1/energy_joules_total"] {
        assert!(tree.leaves().any(|(path, _)| path.as_str() == leaf));
    }
    assert_described(&tree);
}

#[test]
fn every_leaf_of_this_machine_is_described() {
    // A machine without a GPU has none.
    if let Ok(tree) = devmon_plugin_gpu::GpuSource::new("{}").unwrap().collect() {
        assert_described(&tree);
    }
}

fn assert_described(tree: &MetricTree) {
    assert!(tree.validate().is_ok_and(|leaves| leaves > 0));
    assert_eq!(rules::check_tree(&descriptors(), tree), []);
}

#[test]
fn names_units_and_kinds_agree() {
    assert_eq!(rules::check_descriptors(&descriptors()), []);
}

#[test]
fn readme_table_is_metrics_toml() {
    let readme = include_str!("../README.md");
    let rows = rules::readme_rows("gpu", &descriptors());
    let found: Vec<&str> = readme
        .lines()
        .filter(|l| l.starts_with("| `/gpu/"))
        .collect();
    assert_eq!(found, rows, "the table should read:\n{}", rows.join("\n"));
}

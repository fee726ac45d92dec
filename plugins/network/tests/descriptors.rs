//! Every leaf has a descriptor, every descriptor is well-formed and stands in the README.

use devmon_core::descriptor::{Descriptor, parse_toml};
use devmon_core::{MetricSource as _, MetricTree, rules};
use devmon_plugin_network::METRICS_TOML;

mod machine;

fn descriptors() -> Vec<Descriptor> {
    parse_toml(METRICS_TOML).expect("metrics.toml is well-formed")
}

#[test]
fn every_leaf_is_described() {
    let machine = machine::Machine::new();
    let mut tree = machine.source("{}").collect().unwrap();
    tree.set("interfaces_left_out", 1); // what a small machine does not show
    assert_described(&tree);
    let this = devmon_plugin_network::NetworkSource::new(r#"{"include":["*"]}"#);
    assert_described(&this.unwrap().collect().unwrap());
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
    let rows = rules::readme_rows("network", &descriptors());
    let found: Vec<&str> = readme
        .lines()
        .filter(|l| l.starts_with("| `/network/"))
        .collect();
    assert_eq!(found, rows, "the table should read:\n{}", rows.join("\n"));
}

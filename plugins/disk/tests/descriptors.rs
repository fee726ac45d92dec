//! Every leaf has a descriptor, every descriptor is well-formed and stands in the README.

use devmon_core::descriptor::{Descriptor, parse_toml};
use devmon_core::{MetricTree, rules};
use devmon_plugin_disk::METRICS_TOML;

fn descriptors() -> Vec<Descriptor> {
    parse_toml(METRICS_TOML).expect("metrics.toml is well-formed")
}

#[test]
fn every_leaf_is_described() {
    use devmon_core::MetricSource as _;
    use devmon_plugin_disk::DiskSource;
    assert_described(&DiskSource::new("{}").unwrap().collect().unwrap());
    // Those that a healthy machine does not show.
    let refuse = |_: &std::path::Path| Err(std::io::Error::other("no"));
    let mut source =
        DiskSource::with("{}", Default::default(), std::sync::Arc::new(refuse)).unwrap();
    let mut tree = source.collect().unwrap();
    tree.set("mounts_left_out", 1);
    assert!(
        tree.leaves()
            .any(|(path, _)| path.as_str().ends_with("/error"))
    );
    assert_described(&tree);
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
    let rows = rules::readme_rows("disk", &descriptors());
    let found: Vec<&str> = readme
        .lines()
        .filter(|l| l.starts_with("| `/disk/"))
        .collect();
    assert_eq!(found, rows, "the table should read:\n{}", rows.join("\n"));
}

//! What this source promises, on a fixture and on this machine: values, rules of names and units, and a README that is true.

use devmon_core::descriptor::{Descriptor, parse_toml};
use devmon_core::{MetricSource, MetricTree, rules};
use devmon_plugin_{{crate}}::{METRICS_TOML, Source};

fn descriptors() -> Vec<Descriptor> {
    parse_toml(METRICS_TOML).expect("metrics.toml is well-formed")
}

#[test]
fn a_known_machine_gives_known_values() {
    let proc = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixture");
    let mut source = Source::new(&format!("{{\"proc\":{proc:?}}}")).unwrap();
    let mut expected = MetricTree::new();
    expected.set("uptime_seconds", 350_735.47);
    assert_eq!(source.collect(), Ok(expected));
}

#[test]
fn what_can_not_be_read_is_a_failure_and_names_the_file() {
    let mut source = Source::new(r#"{"proc":"/nonexistent"}"#).unwrap();
    let error = source.collect().unwrap_err().to_string();
    assert!(error.contains("/nonexistent/uptime"), "{error}");
}

#[test]
fn this_machine_keeps_the_rules() {
    let tree = Source::new("{}").unwrap().collect().unwrap();
    assert!(tree.validate().unwrap() > 0);
    assert_eq!(rules::check_descriptors(&descriptors()), []);
    assert_eq!(rules::check_tree(&descriptors(), &tree), []);
}

#[test]
fn the_table_of_the_readme_is_metrics_toml() {
    let readme = include_str!("../README.md");
    let rows = rules::readme_rows("{{name}}", &descriptors());
    let found: Vec<_> = readme.lines().filter(|l| l.starts_with("| `/")).collect();
    assert_eq!(found, rows, "it should read:\n{}", rows.join("\n"));
}

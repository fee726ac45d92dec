//! Every leaf has a descriptor, every descriptor is well-formed and stands in the README.

use devmon_core::descriptor::{Descriptor, Kind, best_match, parse_toml};
use devmon_core::{MetricSource as _, MetricTree};
use devmon_plugin_processes::METRICS_TOML;

mod machine;

fn descriptors() -> Vec<Descriptor> {
    parse_toml(METRICS_TOML).expect("metrics.toml is well-formed")
}

#[test]
fn every_leaf_is_described() {
    let machine = machine::Machine::new();
    machine.write("50/stat", b"");
    let mut source = machine.source(r#"{"top":1,"max_names":1}"#);
    machine.collect(&mut source);
    machine.pass(10);
    let busy = machine::Is {
        started: 9,
        ticks: 500,
        ..machine::Is::default()
    };
    machine.process(40, b"sshd", busy); // at the top, when the one name is given away
    let tree = machine.collect(&mut source);
    for rare in ["names_left_out", "processes_left_out"] {
        assert!(tree.get(rare).is_some(), "{rare}");
    }
    assert_described(&tree);
    let this = devmon_plugin_processes::ProcessesSource::new("{}");
    assert_described(&this.unwrap().collect().unwrap());
}

fn assert_described(tree: &MetricTree) {
    assert!(tree.validate().is_ok_and(|leaves| leaves > 0));
    let descriptors = descriptors();
    for (path, value) in tree.leaves() {
        let Some(descriptor) = best_match(&descriptors, &path) else {
            panic!("{path} has no descriptor in metrics.toml")
        };
        let kinds: &[Kind] = match value.type_name() {
            "text" => &[Kind::Text, Kind::State],
            "boolean" => &[Kind::State],
            _ => &[Kind::Gauge, Kind::Counter],
        };
        assert!(
            kinds.contains(&descriptor.kind),
            "{path} = {value} as {:?}",
            descriptor.kind
        );
    }
}

#[test]
fn names_units_and_kinds_agree() {
    for d in descriptors() {
        let path = d.template.to_string();
        assert!(d.help.ends_with('.'), "{path}: help is a sentence");
        assert_eq!(d.kind == Kind::Counter, path.ends_with("_total"), "{path}");
        assert_eq!(d.unit == "By", path.contains("_bytes"), "{path}");
        assert_eq!(d.unit == "Cel", path.ends_with("_celsius"), "{path}");
        assert_eq!(d.unit == "W", path.ends_with("_watts"), "{path}");
        if path.ends_with("/utilization") {
            assert_eq!((d.unit.as_str(), d.kind), ("1", Kind::Gauge), "{path}");
        }
        if matches!(d.kind, Kind::State | Kind::Text) {
            assert_eq!(d.unit, "", "{path}");
        }
    }
}

#[test]
fn readme_table_is_metrics_toml() {
    let readme = include_str!("../README.md");
    let rows: Vec<String> = descriptors()
        .iter()
        .map(|d| {
            format!(
                "| `/processes{}` | {} | {} | {} |",
                d.template,
                d.unit,
                d.kind.as_str(),
                d.help
            )
        })
        .collect();
    let found: Vec<&str> = readme
        .lines()
        .filter(|l| l.starts_with("| `/processes/"))
        .collect();
    assert_eq!(found, rows, "the table should read:\n{}", rows.join("\n"));
}

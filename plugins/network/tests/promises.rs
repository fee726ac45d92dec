//! The promises of `/network`, on a made-up machine.

mod machine;

use std::fmt::Write as _;

use devmon_core::{CollectError, MetricSource, MetricTree};
use devmon_plugin_network::NetworkSource;
use devmon_plugin_network::read::MAX_INTERFACES;
use machine::Machine;

fn leaves(tree: &MetricTree) -> Vec<String> {
    tree.leaves().map(|(p, v)| format!("{p} {v}")).collect()
}

#[test]
fn counters_state_and_speed_of_what_is_not_virtual() {
    let tree = Machine::new().source("{}").collect().unwrap();
    assert_eq!(
        leaves(&tree),
        [
            "/eth0/received_bytes_total 1000",
            "/eth0/received_dropped_total 2",
            "/eth0/received_errors_total 1",
            "/eth0/received_packets_total 10",
            "/eth0/sent_bytes_total 2000",
            "/eth0/sent_dropped_total 4",
            "/eth0/sent_errors_total 3",
            "/eth0/sent_packets_total 20",
            "/eth0/speed_bytes_per_second 125000000",
            "/eth0/up true",
            "/tun0/received_bytes_total 50",
            "/tun0/received_dropped_total 0",
            "/tun0/received_errors_total 0",
            "/tun0/received_packets_total 5",
            "/tun0/sent_bytes_total 60",
            "/tun0/sent_dropped_total 0",
            "/tun0/sent_errors_total 0",
            "/tun0/sent_packets_total 6",
            "/tun0/up true",
        ]
    );
}

#[test]
fn a_link_that_goes_down_says_so_and_its_speed_is_asked_anew() {
    let machine = Machine::new();
    let mut source = machine.source("{}");
    source.collect().unwrap();
    machine.write("sys/class/net/eth0/speed", "2500\n");
    let unchanged = leaves(&source.collect().unwrap());
    assert!(
        unchanged.contains(&"/eth0/speed_bytes_per_second 125000000".into()),
        "kept for a minute: {unchanged:?}"
    );
    machine.write("sys/class/net/eth0/operstate", "down\n");
    machine.write("sys/class/net/eth0/speed", "-1\n");
    let down = leaves(&source.collect().unwrap());
    assert!(down.contains(&"/eth0/up false".into()), "{down:?}");
    assert!(!down.iter().any(|l| l.contains("speed")), "{down:?}");
    machine.write("sys/class/net/eth0/operstate", "up\n");
    machine.write("sys/class/net/eth0/speed", "2500\n");
    let up = leaves(&source.collect().unwrap());
    assert!(
        up.contains(&"/eth0/speed_bytes_per_second 312500000".into()),
        "{up:?}"
    );
}

#[test]
fn include_brings_virtual_ones_back_and_exclude_takes_away() {
    let machine = Machine::new();
    let names = |config| -> Vec<String> {
        let tree = machine.source(config).collect().unwrap();
        tree.children().map(|(name, _)| name.to_owned()).collect()
    };
    assert_eq!(
        names(r#"{"include":["*"]}"#),
        ["eth0", "lo", "tun0", "veth12"]
    );
    assert_eq!(names(r#"{"include":["veth*"]}"#), ["veth12"]);
    assert_eq!(names(r#"{"exclude":["tun*"]}"#), ["eth0"]);
}

#[test]
fn nothing_to_measure_is_unavailable_and_no_table_is_a_failure() {
    let machine = Machine::new();
    let error = machine
        .source(r#"{"include":["eht0"]}"#)
        .collect()
        .unwrap_err();
    assert!(
        matches!(&error, CollectError::Unavailable(e) if e.contains("`include`")),
        "{error}"
    );
    std::fs::remove_file(machine.path().join("proc/net/dev")).unwrap();
    let error = machine.source("{}").collect().unwrap_err();
    assert!(
        matches!(&error, CollectError::Failed(e) if e.contains("net/dev")),
        "{error}"
    );
}

#[test]
fn without_sys_only_state_and_speed_are_absent() {
    let machine = Machine::new();
    std::fs::remove_dir_all(machine.path().join("sys")).unwrap();
    let leaves = leaves(&machine.source("{}").collect().unwrap());
    assert_eq!(leaves.len(), 16, "{leaves:?}");
}

#[test]
fn a_thousand_interfaces_fit_a_frame_and_the_rest_is_counted() {
    let machine = Machine::new();
    let mut table = String::new();
    for n in 0..MAX_INTERFACES + 7 {
        writeln!(table, "eth{n}: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0").unwrap();
        machine.write(&format!("sys/class/net/eth{n}/operstate"), "up\n");
        machine.write(&format!("sys/class/net/eth{n}/speed"), "10\n");
    }
    machine.write("proc/net/dev", &table);
    let tree = machine.source("{}").collect().unwrap();
    assert_eq!(tree.validate(), Ok(MAX_INTERFACES * 10 + 1));
    assert!(leaves(&tree).contains(&"/interfaces_left_out 7".into()));
}

#[test]
fn a_misspelt_option_is_refused_with_the_valid_ones() {
    let error = NetworkSource::new(r#"{"exclde":["lo"]}"#).err().unwrap();
    assert!(
        error.contains("`exclde`") && error.contains("`exclude`"),
        "{error}"
    );
    assert!(NetworkSource::new(r#"{"include":["a["]}"#).is_err());
}

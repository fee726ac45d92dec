//! The promises of `/system`, on a made-up machine.

mod machine;

use devmon_core::{CollectError, MetricSource, MetricTree};
use devmon_plugin_system::SystemSource;
use machine::Machine;

fn leaves(tree: &MetricTree) -> Vec<String> {
    tree.leaves().map(|(p, v)| format!("{p} {v}")).collect()
}

#[test]
fn all_that_the_machine_tells() {
    assert_eq!(
        leaves(&Machine::new().source("{}").collect().unwrap()),
        [
            "/boot_time_seconds 1795473886",
            "/context_switches_total 600",
            "/interrupts_total 500",
            "/open_files/allocated 1359",
            "/open_files/max 9223372036854775807",
            "/processes/blocked 1",
            "/processes/idle 1",
            "/processes/running 1",
            "/processes/sleeping 2",
            "/processes/stopped 1",
            "/processes/threads 14",
            "/processes/total 7",
            "/processes/zombie 1",
            "/processes_created_total 700",
            "/uptime_seconds 1234.56",
            "/users 1",
        ]
    );
}

#[test]
fn what_cannot_be_read_costs_its_own_leaves_only() {
    let machine = Machine::new();
    for file in ["proc/stat", "proc/sys/fs/file-nr", "run/utmp"] {
        std::fs::remove_file(machine.path().join(file)).unwrap();
    }
    machine.write("proc/30/stat", b""); // it has ended
    let leaves = leaves(&machine.source("{}").collect().unwrap());
    assert_eq!(leaves.len(), 9, "{leaves:?}");
    assert!(
        leaves.contains(&"/processes/total 6".into()) && !leaves.contains(&"/users 0".into()),
        "{leaves:?}"
    );
}

#[test]
fn nobody_logged_in_is_a_true_zero() {
    let machine = Machine::new();
    machine.write("run/utmp", b"");
    let leaves = leaves(&machine.source("{}").collect().unwrap());
    assert!(leaves.contains(&"/users 0".into()), "{leaves:?}");
}

#[test]
fn processes_can_be_switched_off() {
    let tree = Machine::new()
        .source(r#"{"processes":false}"#)
        .collect()
        .unwrap();
    assert!(tree.get("processes").is_none() && tree.get("uptime_seconds").is_some());
}

#[test]
fn no_uptime_is_a_failure() {
    let machine = Machine::new();
    machine.write("proc/uptime", b"soon\n");
    let error = machine.source("{}").collect().unwrap_err();
    assert!(
        matches!(&error, CollectError::Failed(e) if e.contains("uptime") && e.contains("soon")),
        "{error}"
    );
}

#[test]
fn this_machine_runs_a_process() {
    let tree = SystemSource::new("{}").unwrap().collect().unwrap();
    let leaves = leaves(&tree);
    assert!(
        leaves.iter().any(|l| l.starts_with("/processes/total ")),
        "{leaves:?}"
    );
    assert!(SystemSource::new(r#"{"proceses":true}"#).is_err());
}

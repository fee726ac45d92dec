//! The promises of `/sensors`, on a made-up machine.

mod machine;

use devmon_core::{CollectError, MetricSource};
use devmon_plugin_sensors::SensorsSource;
use devmon_plugin_sensors::read::MAX_SENSORS;
use machine::Machine;

fn leaves(source: &mut SensorsSource) -> Vec<String> {
    let tree = source.collect().expect("sensors");
    tree.leaves().map(|(p, v)| format!("{p} {v}")).collect()
}

fn unavailable(source: &mut SensorsSource) -> String {
    match source.collect() {
        Err(CollectError::Unavailable(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_that_the_machine_tells() {
    assert_eq!(
        leaves(&mut Machine::new().source()),
        [
            "/coretemp/Core 0/temperature_celsius -4.5",
            "/coretemp/Package id 0/critical_celsius 100.0",
            "/coretemp/Package id 0/high_celsius 82.0",
            "/coretemp/Package id 0/temperature_celsius 48.0",
            "/nct6775/fan1/speed_rpm 1180",
            "/nct6775/temp1/temperature_celsius 31.0",
            "/nvme-0000:01:00.0/Composite/temperature_celsius 31.85",
            "/nvme-0000:02:00.0/Composite/temperature_celsius 32.85",
        ]
    );
}

#[test]
fn names_are_the_same_when_drivers_load_in_another_order() {
    let machine = Machine::new();
    let before = leaves(&mut machine.source());
    let hwmon = |n: u32| machine.path().join(format!("class/hwmon/hwmon{n}"));
    for (from, to) in [(0, 10), (3, 0), (1, 3), (2, 1)] {
        std::fs::rename(hwmon(from), hwmon(to)).unwrap();
    }
    assert_eq!(leaves(&mut machine.source()), before);
}

#[test]
fn a_faulty_sensor_costs_its_own_leaves_only() {
    let healthy = leaves(&mut Machine::new().source());
    let of_the_package = |leaf: &String| leaf.starts_with("/coretemp/Package id 0/");
    let others: Vec<String> = healthy.into_iter().filter(|l| !of_the_package(l)).collect();
    for input in ["", "N/A", "-128000", "255000", "99999999999999999999"] {
        let machine = Machine::new();
        machine.hwmon(0, "temp1_input", input);
        assert_eq!(leaves(&mut machine.source()), others, "{input:?}");
    }
    let machine = Machine::new();
    machine.hwmon(0, "temp1_fault", "1");
    assert_eq!(leaves(&mut machine.source()), others);

    // Opens, and gives EIO when it is read.
    let machine = Machine::new();
    let input = "class/hwmon/hwmon0/temp1_input";
    std::fs::remove_file(machine.path().join(input)).unwrap();
    machine.link(input, "/proc/self/mem");
    assert_eq!(leaves(&mut machine.source()), others);
}

#[test]
fn a_sensor_without_a_fault_and_a_fan_at_rest_stay() {
    let machine = Machine::new();
    machine.hwmon(0, "temp1_fault", "0");
    machine.hwmon(3, "fan1_input", "0");
    let leaves = leaves(&mut machine.source());
    for leaf in [
        "/coretemp/Package id 0/temperature_celsius 48.0",
        "/nct6775/fan1/speed_rpm 0",
    ] {
        assert!(leaves.iter().any(|l| l == leaf), "{leaf} in {leaves:?}");
    }
}

#[test]
fn thermal_zones_count_only_without_a_temperature_of_hwmon() {
    let machine = Machine::new();
    let before = leaves(&mut machine.source());
    machine.zone(0, "cpu-thermal", "51540");
    assert_eq!(leaves(&mut machine.source()), before);

    let machine = Machine::bare();
    machine.chip(0, "pwmfan", "devices/platform/fan");
    machine.hwmon(0, "fan1_input", "900");
    machine.zone(0, "cpu-thermal", "51540");
    machine.zone(1, "soc", "-274000"); // it is off
    machine.zone(2, "soc", "47000");
    machine.write("class/thermal/cooling_device0/type", "Processor");
    assert_eq!(
        leaves(&mut machine.source()),
        [
            "/cpu_thermal/temp1/temperature_celsius 51.54",
            "/pwmfan/fan1/speed_rpm 900",
            "/soc/temp2/temperature_celsius 47.0",
        ]
    );
}

#[test]
fn no_sensor_is_unavailable_until_a_driver_is_loaded() {
    let machine = Machine::bare();
    std::fs::create_dir(machine.path().join("class/thermal")).unwrap();
    let mut source = machine.source();
    for _ in 0..3 {
        let reason = unavailable(&mut source);
        for part in [
            "class/hwmon is missing",
            "class/thermal has no thermal_zone*/temp",
        ] {
            assert!(reason.contains(part), "{part} in {reason}");
        }
    }
    machine.chip(0, "k10temp", "devices/0000:00:18.3");
    assert!(unavailable(&mut source).contains("class/hwmon has no hwmon*/temp*_input"));
    machine.hwmon(0, "temp1_input", "50125");
    assert_eq!(
        leaves(&mut source),
        ["/k10temp/temp1/temperature_celsius 50.125"]
    );
}

#[test]
fn silence_is_unavailable_at_first_and_a_failure_once_there_were_values() {
    let machine = Machine::bare();
    machine.chip(0, "acpitz", "devices/LNXTHERM:00");
    machine.hwmon(0, "temp1_input", "-273200");
    let mut source = machine.source();
    let reason = unavailable(&mut source);
    assert!(
        reason.contains("hwmon0/temp1_input") && reason.contains("-273200"),
        "{reason}"
    );
    machine.hwmon(0, "temp1_input", "20000");
    assert_eq!(leaves(&mut source).len(), 1);
    machine.hwmon(0, "temp1_input", "");
    let error = source.collect().unwrap_err();
    assert!(matches!(error, CollectError::Failed(_)), "{error}");
    std::fs::remove_dir_all(machine.path().join("class/hwmon")).unwrap();
    unavailable(&mut source);
}

#[test]
fn the_number_of_sensors_is_bounded_and_the_rest_counted() {
    let machine = Machine::bare();
    machine.chip(0, "many", "devices/platform/many");
    for n in 1..=MAX_SENSORS + 3 {
        machine.hwmon(0, &format!("temp{n}_input"), "1000");
    }
    let leaves = leaves(&mut machine.source());
    assert_eq!(leaves.len(), MAX_SENSORS + 1);
    assert!(leaves.contains(&"/sensors_left_out 3".into()));
    assert!(leaves.iter().any(|l| l.starts_with("/many/temp512/")));
}

#[test]
fn this_machine_has_sensors_or_says_what_was_looked_for() {
    match SensorsSource::new("{}").unwrap().collect() {
        Ok(tree) => assert!(tree.validate().is_ok_and(|leaves| leaves > 0)),
        Err(CollectError::Unavailable(reason)) => {
            assert!(reason.contains("/sys/class/hwmon"), "{reason}");
        }
        Err(error) => panic!("{error}"),
    }
}

//! The promises of `/gpu` for AMD and Intel, on made-up machines.

mod machine;

use std::time::{Duration, Instant};

use devmon_core::{CollectError, MetricSource as _, MetricTree};
use devmon_plugin_gpu::GpuSource;
use machine::{AMD, INTEL, Machine, NVIDIA};

fn leaves(tree: &MetricTree) -> Vec<String> {
    tree.leaves().map(|(p, v)| format!("{p} {v}")).collect()
}

fn collect(source: &mut GpuSource) -> Vec<String> {
    leaves(&source.collect().expect("a GPU"))
}

/// Two rounds 2 s apart, with something done in between.
fn two_rounds(source: &mut GpuSource, between: impl FnOnce()) -> Vec<String> {
    let start = Instant::now();
    source.collect_at(start).expect("a GPU");
    between();
    let later = start + Duration::from_secs(2);
    leaves(&source.collect_at(later).expect("a GPU"))
}

fn unavailable(source: &mut GpuSource) -> String {
    match source.collect() {
        Err(CollectError::Unavailable(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_amd_gpu_with_all_it_measures() {
    let machine = Machine::new();
    machine.amd(0, "0000:03:00.0");
    let expected = [
        "/0/frequency_hertz 2575000000",
        "/0/memory/total_bytes 34342961152",
        "/0/memory/used_bytes 8585740288",
        "/0/memory/utilization 0.25",
        "/0/memory_controller/utilization 0.12",
        "/0/name AMD Radeon PRO W6800",
        "/0/power_watts 70.5",
        "/0/suspended false",
        "/0/temperature_celsius 41.5",
        "/0/utilization 0.37",
    ];
    assert_eq!(collect(&mut machine.source()), expected);
}

#[test]
fn an_apu_has_what_its_driver_gives_and_no_zeros() {
    let machine = Machine::new();
    let apu = machine.card(1, "0000:c1:00.0", AMD, "amdgpu");
    apu.device("gpu_busy_percent", "101");
    apu.device("hwmon/hwmon0/name", "amdgpu");
    apu.device("hwmon/hwmon0/power1_input", "9100000");
    let expected = [
        "/0/name AMD GPU 1002:73bf",
        "/0/power_watts 9.1",
        "/0/suspended false",
        "/0/utilization 1.0",
    ];
    assert_eq!(collect(&mut machine.source()), expected);
}

#[test]
fn an_intel_gpu_under_xe_is_as_awake_as_its_most_awake_gt() {
    let machine = Machine::new();
    let card = machine.xe(0, "0000:03:00.0");
    let mut source = machine.source();
    let rounds = two_rounds(&mut source, || {
        card.device("tile0/gt0/gtidle/idle_residency_ms", "6500");
        card.device("tile0/gt1/gtidle/idle_residency_ms", "9000");
        card.device("hwmon/hwmon4/energy1_input", "31000000");
    });
    let expected = [
        "/0/energy_joules_total 31.0",
        "/0/frequency_hertz 2400000000",
        "/0/memory/total_bytes 12884901888",
        "/0/name Intel GPU 8086:73bf",
        "/0/power_watts 15.0",
        "/0/suspended false",
        "/0/temperature_celsius 52.0",
        "/0/utilization 0.25",
    ];
    assert_eq!(rounds, expected);
}

#[test]
fn the_first_round_has_no_rates() {
    let machine = Machine::new();
    machine.xe(0, "0000:03:00.0");
    let leaves = collect(&mut machine.source());
    assert!(leaves.contains(&"/0/energy_joules_total 1.0".into()));
    let rates = |l: &&String| l.contains("utilization") || l.contains("power");
    assert_eq!(leaves.iter().find(rates), None);
}

#[test]
fn an_intel_gpu_under_i915_old_and_new() {
    let machine = Machine::new();
    let new = machine.card(0, "0000:00:02.0", INTEL, "i915");
    new.own("gt/gt0/rc6_residency_ms", "1000");
    new.own("gt/gt0/rps_act_freq_mhz", "350");
    new.own("gt_act_freq_mhz", "9");
    new.own("power/rc6_residency_ms", "9");
    new.device("hwmon/hwmon1/name", "i915_gt0");
    new.device("hwmon/hwmon1/energy1_input", "9");
    let old = machine.card(1, "0000:04:00.0", INTEL, "i915");
    old.own("power/rc6_residency_ms", "1000");
    old.own("gt_cur_freq_mhz", "600");
    let mut source = machine.source();
    let rounds = two_rounds(&mut source, || {
        new.own("gt/gt0/rc6_residency_ms", "3000");
        old.own("power/rc6_residency_ms", "2000");
    });
    let expected = [
        "/0/frequency_hertz 350000000",
        "/0/name Intel GPU 8086:73bf",
        "/0/suspended false",
        "/0/utilization 0.0",
        "/1/frequency_hertz 600000000",
        "/1/name Intel GPU 8086:73bf",
        "/1/suspended false",
        "/1/utilization 0.5",
    ];
    assert_eq!(rounds, expected);
}

#[test]
fn a_suspended_gpu_is_not_read_and_keeps_its_name() {
    let machine = Machine::new();
    let card = machine.amd(0, "0000:03:00.0");
    card.device("power/runtime_status", "suspended");
    // Whoever opened one of these would get an error and say so.
    card.unreadable(&["gpu_busy_percent", "mem_info_vram_used"]);
    let mut source = machine.source();
    let asleep = ["/0/name AMD Radeon PRO W6800", "/0/suspended true"];
    assert_eq!(collect(&mut source), asleep);
    card.device("power/runtime_status", "active");
    card.device("gpu_busy_percent", "5");
    assert!(collect(&mut source).contains(&"/0/utilization 0.05".into()));
    card.device("power/runtime_status", "suspending");
    assert_eq!(collect(&mut source), asleep);
}

#[test]
fn time_asleep_is_never_taken_for_time_at_work() {
    let machine = Machine::new();
    let card = machine.xe(0, "0000:03:00.0");
    let mut source = machine.source();
    // It slept between the two rounds, and its counters stood.
    let rounds = two_rounds(&mut source, || {
        card.device("power/runtime_suspended_time", "1900");
    });
    assert!(!rounds.iter().any(|l| l.contains("utilization")));
    assert!(!rounds.iter().any(|l| l.contains("power")));
}

#[test]
fn an_idle_gpu_that_may_sleep_is_left_alone_once_a_minute() {
    let machine = Machine::new();
    let card = machine.amd(0, "0000:03:00.0");
    card.device("power/control", "auto");
    card.device("power/autosuspend_delay_ms", "5000");
    card.device("gpu_busy_percent", "0");
    let mut source = machine.source();
    let start = Instant::now();
    let read: Vec<bool> = (0..120)
        .map(|s| source.collect_at(start + Duration::from_secs(s)).unwrap())
        .map(|tree| leaves(&tree).contains(&"/0/utilization 0.0".into()))
        .collect();
    let quiet: Vec<usize> = (0..120).filter(|s| !read[*s]).collect();
    assert_eq!(quiet, (60..66).collect::<Vec<_>>());
}

#[test]
fn what_is_no_gpu_is_passed_over() {
    let machine = Machine::new();
    machine.card(0, "0000:01:00.0", NVIDIA, "nouveau");
    machine.card(1, "0000:00:01.0", "0x1af4", "virtio-pci");
    machine.card(2, "0000:02:00.0", "0x1a03", "ast");
    machine.write("class/drm/card3/device/vendor", AMD); // simpledrm: no PCI device
    machine.write("class/drm/version", "drm 1.1.0");
    let mut source = machine.source();
    let reason = unavailable(&mut source);
    for part in [
        "no NVIDIA driver",
        "No AMD or Intel GPU",
        "card0 (nouveau), card1 (virtio-pci), card2 (ast), card3 (no driver)",
    ] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    // Connectors and the render node of a real one.
    let machine = Machine::new();
    machine.amd(0, "0000:03:00.0");
    machine.write("class/drm/card0-HDMI-A-1/status", "connected");
    machine.write("class/drm/renderD128/dev", "226:128");
    let leaves = collect(&mut machine.source());
    assert!(leaves.iter().all(|leaf| leaf.starts_with("/0/")));
}

#[test]
fn an_unreadable_gpu_shows_why_and_the_other_goes_on() {
    let machine = Machine::new();
    let broken = machine.card(0, "0000:03:00.0", AMD, "amdgpu");
    broken.device("gpu_busy_percent", "5");
    machine.amd(1, "0000:04:00.0");
    let mut source = machine.source();
    let before = collect(&mut source);
    broken.unreadable(&["gpu_busy_percent"]);
    let now = collect(&mut source);
    assert!(
        now[0].starts_with("/0/error 0000:03:00.0: cannot read") && now[0].contains("busy_percent"),
        "{now:?}"
    );
    let others = |all: &[String]| -> Vec<String> {
        all.iter()
            .filter(|leaf| leaf.starts_with("/1/"))
            .cloned()
            .collect()
    };
    assert_eq!(others(&now), others(&before));
    broken.device("gpu_busy_percent", "5");
    assert_eq!(collect(&mut source), before);
}

#[test]
fn one_unreadable_value_costs_only_itself() {
    let machine = Machine::new();
    let card = machine.amd(0, "0000:03:00.0");
    let mut source = machine.source();
    let mut expected = collect(&mut source);
    expected.retain(|leaf| !leaf.contains("power_watts") && !leaf.contains("temperature"));
    card.unreadable(&["hwmon/hwmon3/power1_average"]);
    card.device("hwmon/hwmon3/temp1_input", "hot");
    assert_eq!(collect(&mut source), expected);
}

#[test]
fn all_gpus_unreadable_is_a_failure_that_names_them() {
    let machine = Machine::new();
    let card = machine.card(0, "0000:03:00.0", AMD, "radeon");
    card.device("hwmon/hwmon0/name", "radeon");
    card.device("hwmon/hwmon0/temp1_input", "hot");
    let mut source = machine.source();
    let error = source.collect().unwrap_err();
    assert!(
        matches!(&error, CollectError::Failed(e) if e.contains("0000:03:00.0") && e.contains("\"hot\"")),
        "{error}"
    );
    // Its driver is loaded anew, and its sensors have another number.
    card.device("hwmon/hwmon0/name", "nvme");
    card.device("hwmon/hwmon7/name", "radeon");
    card.device("hwmon/hwmon7/temp1_input", "41000");
    assert!(collect(&mut source).contains(&"/0/temperature_celsius 41.0".into()));
}

#[test]
fn indices_follow_the_bus_and_stay() {
    let machine = Machine::new();
    let far = machine.amd(0, "0000:2d:00.0");
    machine.card(1, "0000:00:02.0", INTEL, "i915");
    let mut source = machine.source();
    let start = Instant::now();
    let names = |source: &mut GpuSource, seconds| {
        let tree = source.collect_at(start + Duration::from_secs(seconds));
        let mut names = leaves(&tree.unwrap());
        names.retain(|leaf| leaf.contains("/name"));
        names
    };
    let (intel, amd) = (
        "/0/name Intel GPU 8086:73bf",
        "/1/name AMD Radeon PRO W6800",
    );
    assert_eq!(names(&mut source, 0), [intel, amd]);
    far.unplug();
    assert_eq!(names(&mut source, 1), [intel]);
    // An enclosure between the two takes the next index, and the one that returns its own.
    let near = machine.card(2, "0000:10:00.0", INTEL, "xe");
    far.plug_in();
    assert_eq!(names(&mut source, 9), [intel], "looked again too early");
    let third = "/2/name Intel GPU 8086:73bf";
    assert_eq!(names(&mut source, 10), [intel, amd, third]);
    near.unplug();
    assert_eq!(names(&mut source, 11), [intel, amd]);
}

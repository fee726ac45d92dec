//! The promises of `/processes`, on a made-up machine.

mod machine;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use devmon_core::{CollectError, MetricSource, MetricTree};
use devmon_plugin_processes::ProcessesSource;
use devmon_plugin_processes::choose::STAYS;
use machine::{Is, Machine};

fn leaves(tree: &MetricTree) -> Vec<String> {
    tree.leaves().map(|(p, v)| format!("{p} {v}")).collect()
}

fn number(tree: &MetricTree, path: &str) -> Option<f64> {
    let mut leaves = tree.leaves();
    let found = leaves.find(|(p, _)| p.as_str() == path);
    found.map(|(_, value)| value.as_f64().expect("a number"))
}

/// Commands shown.
fn shown(tree: &MetricTree) -> Vec<String> {
    let mut names: Vec<String> = tree
        .leaves_below("")
        .filter_map(|(path, _)| {
            let segments: Vec<_> = path.segments().map(|s| s.into_owned()).collect();
            (segments[0] == "command").then(|| segments[1].clone())
        })
        .collect();
    names.dedup();
    names
}

/// A leaf of all commands and other.
fn sum(tree: &MetricTree, leaf: &str) -> f64 {
    let of_it = tree
        .leaves()
        .filter(|(path, _)| path.segments().last().is_some_and(|last| last == leaf));
    of_it.map(|(_, v)| v.as_f64().expect("a number")).sum()
}

fn busy(ticks: u64) -> Is {
    Is {
        ticks,
        ..Is::default()
    }
}

fn large(pages: u64) -> Is {
    Is {
        pages,
        ..Is::default()
    }
}

#[test]
fn all_that_the_machine_tells() {
    let machine = Machine::new();
    let mut source = machine.source(r#"{"top":2}"#);
    assert_eq!(
        leaves(&machine.collect(&mut source)),
        [
            "/command/init/count 1",
            "/command/init/cpu_seconds_total 0.0",
            "/command/init/resident_bytes 8192000",
            "/command/sshd/count 2",
            "/command/sshd/cpu_seconds_total 0.0",
            "/command/sshd/resident_bytes 6144000",
            "/other/count 1",
            "/other/cpu_seconds_total 0.0",
            "/other/resident_bytes 0",
        ]
    );
    machine.pass(10);
    let is = Is {
        started: 9,
        ticks: 270,
        pages: 1_000,
        flags: 0,
    };
    machine.process(40, b"sshd", is);
    assert_eq!(
        leaves(&machine.collect(&mut source)),
        [
            "/command/init/count 1",
            "/command/init/cpu_seconds_total 0.0",
            "/command/init/resident_bytes 8192000",
            "/command/init/utilization 0.0",
            "/command/sshd/count 2",
            "/command/sshd/cpu_seconds_total 2.0",
            "/command/sshd/resident_bytes 6144000",
            "/command/sshd/utilization 0.1", // 2 of 20 s, for there are two cores
            "/other/count 1",
            "/other/cpu_seconds_total 0.0",
            "/other/resident_bytes 0",
            "/other/utilization 0.0",
        ]
    );
}

#[test]
fn utilization_is_absent_without_an_interval_and_never_0_for_it() {
    let machine = Machine::new();
    let mut source = machine.source("{}");
    let no_utilization = |tree: &MetricTree| !leaves(tree).iter().any(|l| l.contains("utiliz"));
    assert!(no_utilization(&machine.collect(&mut source)));
    assert!(no_utilization(&machine.collect(&mut source)), "no time");
    machine.pass(10);
    assert!(!no_utilization(&machine.collect(&mut source)));
    std::fs::remove_file(machine.path().join("stat")).unwrap();
    assert!(no_utilization(&machine.collect(&mut source)), "no file");
    machine.pass(10);
    assert!(no_utilization(&machine.collect(&mut source)), "none before");
    machine.pass(10);
    assert!(!no_utilization(&machine.collect(&mut source)));
}

#[test]
fn any_command_is_a_legal_name_and_no_total() {
    let machine = Machine::bare();
    for (pid, command) in [
        &b") ("[..],
        b"a) S 1 (b",
        b"\xff\xfe",
        b"\xfe\xff",
        b"",
        b"a/b~",
        b"other",
        b"{command}",
    ]
    .into_iter()
    .enumerate()
    {
        machine.process(pid as u32, command, large(1));
    }
    let tree = machine.collect(&mut machine.source("{}"));
    let mut names = [
        ") (",
        "a) S 1 (b",
        "\u{fffd}\u{fffd}",
        "?",
        "a/b~",
        "other",
        "{command}",
    ];
    names.sort_unstable();
    assert_eq!(shown(&tree), names);
    let twice = "/command/\u{fffd}\u{fffd}/count";
    assert_eq!(number(&tree, twice), Some(2.0));
    assert_eq!(number(&tree, "/other/count"), Some(0.0));
}

#[test]
fn kernel_threads_are_one_command_for_each_kind() {
    let machine = Machine::new();
    for cpu in 0..64_u32 {
        let command = format!("kworker/{cpu}:1-events");
        let is = Is {
            flags: 0x0020_8040,
            ..Is::default()
        };
        machine.process(100 + cpu, command.as_bytes(), is);
    }
    let tree = machine.collect(&mut machine.source(r#"{"names":["kworker"]}"#));
    assert_eq!(number(&tree, "/command/kworker/count"), Some(65.0));
}

#[test]
fn a_pid_that_is_given_to_another_process_starts_anew() {
    let machine = Machine::new();
    let mut source = machine.source(r#"{"names":["a"]}"#);
    machine.process(90, b"a", busy(5_000));
    machine.collect(&mut source);
    machine.pass(10);
    let young = |ticks| Is {
        started: 3_605,
        ticks,
        ..Is::default()
    };
    // Less than the old one had, then more: it is another process either way.
    machine.process(90, b"a", young(300));
    let counter = "/command/a/cpu_seconds_total";
    assert_eq!(
        number(&machine.collect(&mut source), counter),
        Some(3.0),
        "all that the new one has used"
    );
    machine.pass(10);
    machine.process(90, b"a", young(450));
    assert_eq!(number(&machine.collect(&mut source), counter), Some(4.5));
}

#[test]
fn a_new_process_counts_whole_and_an_old_one_that_appears_from_now_on() {
    let machine = Machine::new();
    let mut source = machine.source(r#"{"names":["new","old"]}"#);
    machine.collect(&mut source);
    machine.pass(10);
    let new = Is {
        started: machine.seconds() - 4,
        ticks: 350,
        ..Is::default()
    };
    machine.process(90, b"new", new);
    let old = |ticks| Is {
        started: 100,
        ticks,
        ..Is::default()
    };
    machine.process(91, b"old", old(99_000));
    let tree = machine.collect(&mut source);
    assert_eq!(number(&tree, "/command/new/cpu_seconds_total"), Some(3.5));
    assert_eq!(number(&tree, "/command/old/cpu_seconds_total"), Some(0.0));
    machine.pass(10);
    machine.process(91, b"old", old(99_100));
    let tree = machine.collect(&mut source);
    assert_eq!(number(&tree, "/command/old/cpu_seconds_total"), Some(1.0));
}

#[test]
fn a_process_that_ends_while_it_is_read_is_no_error() {
    let machine = Machine::new();
    std::fs::create_dir(machine.path().join("77")).unwrap(); // listed, and gone
    let tree = machine.collect(&mut machine.source("{}"));
    assert_eq!(sum(&tree, "count"), 4.0);
    assert!(tree.get("processes_left_out").is_none());
}

#[test]
fn a_process_that_cannot_be_told_is_counted_as_left_out() {
    let machine = Machine::new();
    machine.write("77/stat", b"77 (a) S 1");
    let tree = machine.collect(&mut machine.source("{}"));
    assert_eq!(sum(&tree, "count"), 4.0);
    assert_eq!(number(&tree, "/processes_left_out"), Some(1.0));
}

#[test]
fn a_failed_round_loses_no_time() {
    let machine = Machine::new();
    let mut source = machine.source(r#"{"names":["sshd"]}"#);
    machine.collect(&mut source);
    machine.pass(10);
    std::fs::create_dir_all(machine.path().join("99/stat")).unwrap(); // opens, and cannot be read
    let error = machine.try_collect(&mut source).unwrap_err();
    assert!(
        matches!(&error, CollectError::Failed(e) if e.contains("99/stat")),
        "{error}"
    );
    machine.end(99);
    machine.pass(10);
    let is = Is {
        started: 9,
        ticks: 470,
        pages: 1_000,
        flags: 0,
    };
    machine.process(40, b"sshd", is);
    let tree = machine.collect(&mut source);
    assert_eq!(number(&tree, "/command/sshd/cpu_seconds_total"), Some(4.0));
    assert_eq!(number(&tree, "/command/sshd/utilization"), Some(0.1));
}

#[test]
fn no_process_at_all_is_a_failure() {
    let machine = Machine::bare();
    let mut source = machine.source("{}");
    let error = machine.try_collect(&mut source).unwrap_err();
    assert!(
        matches!(&error, CollectError::Failed(e) if e.contains("no process")),
        "{error}"
    );
    std::fs::remove_dir_all(machine.path()).unwrap();
    let error = machine.try_collect(&mut source).unwrap_err();
    assert!(
        matches!(&error, CollectError::Failed(e) if e.contains("cannot open")),
        "{error}"
    );
}

#[test]
fn the_top_is_by_processor_and_by_memory() {
    let machine = Machine::bare();
    let mut source = machine.source(r#"{"top":2}"#);
    for pid in 1..=9 {
        machine.process(pid, format!("small{pid}").as_bytes(), large(10));
    }
    for pid in 20..25_u32 {
        let name = format!("large{pid}");
        machine.process(pid, name.as_bytes(), large(100 * u64::from(pid)));
    }
    assert_eq!(shown(&machine.collect(&mut source)), ["large23", "large24"]);
    machine.pass(10);
    for (pid, ticks) in [(1, 500), (2, 900), (3, 100)] {
        let is = Is {
            ticks,
            pages: 10,
            ..Is::default()
        };
        machine.process(pid, format!("small{pid}").as_bytes(), is);
    }
    let tree = machine.collect(&mut source);
    assert_eq!(shown(&tree), ["large23", "large24", "small1", "small2"]);
    assert_eq!(sum(&tree, "count"), 14.0);
    assert_eq!(
        sum(&tree, "resident_bytes"),
        f64::from(4096 * (9 * 10 + 100 * (20 + 21 + 22 + 23 + 24)))
    );
    assert_eq!(sum(&tree, "utilization"), 0.75);
}

#[test]
fn an_idle_command_is_not_at_the_top() {
    let machine = Machine::bare();
    let mut source = machine.source("{}");
    machine.process(1, b"a", busy(0));
    machine.process(2, b"b", busy(0));
    machine.collect(&mut source);
    machine.pass(60);
    machine.process(1, b"a", busy(5)); // 50 ms a minute
    machine.process(2, b"b", busy(50));
    assert_eq!(shown(&machine.collect(&mut source)), ["b"]);
}

#[test]
fn two_that_take_turns_at_the_edge_are_both_shown() {
    let machine = Machine::bare();
    let mut source = machine.source(r#"{"top":1}"#);
    let mut seen = Vec::new();
    for round in 0..40 {
        let odd = round % 2;
        machine.process(1, b"a", large(100 + odd));
        machine.process(2, b"b", large(101 - odd));
        seen.push(shown(&machine.collect(&mut source)));
        machine.pass(10);
    }
    assert_eq!(seen[0], ["b"]);
    assert!(seen[1..].iter().all(|s| s == &["a", "b"]), "{seen:?}");
}

#[test]
fn a_command_goes_when_it_was_out_of_the_top_for_a_while() {
    let machine = Machine::bare();
    let mut source = machine.source(r#"{"top":1}"#);
    machine.process(1, b"a", large(1_000));
    assert_eq!(shown(&machine.collect(&mut source)), ["a"]);
    machine.process(2, b"b", large(3_000));
    machine.process(3, b"c", large(2_000));
    let end = STAYS.as_secs() / 10;
    for round in 1..end {
        machine.pass(10);
        let shown = shown(&machine.collect(&mut source));
        assert_eq!(shown, ["a", "b"], "round {round}");
    }
    machine.pass(10);
    assert_eq!(shown(&machine.collect(&mut source)), ["b"]);
}

#[test]
fn a_command_near_the_top_stays() {
    let machine = Machine::bare();
    let mut source = machine.source(r#"{"top":2}"#);
    machine.process(1, b"a", large(1_000));
    assert_eq!(shown(&machine.collect(&mut source)), ["a"]);
    machine.process(2, b"b", large(4_000));
    machine.process(3, b"c", large(3_000));
    machine.process(4, b"d", large(2_000)); // near the top, too, but it never was there
    for _ in 0..20 {
        machine.pass(STAYS.as_secs());
        assert_eq!(shown(&machine.collect(&mut source)), ["a", "b", "c"]);
    }
}

#[test]
fn time_that_the_kernel_takes_back_counts_once() {
    let machine = Machine::bare();
    let mut source = machine.source(r#"{"names":["a"]}"#);
    let mut seconds = Vec::new();
    for ticks in [500, 600, 550, 600, 650] {
        machine.process(1, b"a", busy(ticks));
        let tree = machine.collect(&mut source);
        seconds.push(number(&tree, "/command/a/cpu_seconds_total").unwrap());
        machine.pass(10);
    }
    assert_eq!(seconds, [0.0, 1.0, 1.0, 1.0, 1.5]);
}

#[test]
fn the_round_in_which_a_command_goes_counts_as_other() {
    let machine = Machine::bare();
    let mut source = machine.source(r#"{"top":1}"#);
    machine.process(1, b"a", large(1_000));
    machine.collect(&mut source);
    for (pid, name) in [(2, b"b"), (3, b"c")] {
        machine.process(pid, name, large(2_000));
    }
    machine.pass(10);
    machine.collect(&mut source);
    machine.pass(STAYS.as_secs());
    for (pid, name, ticks, pages) in [
        (1, b"a", 100, 1_000),
        (2, b"b", 20_000, 2_000),
        (3, b"c", 9_000, 2_000),
    ] {
        let is = Is {
            ticks,
            pages,
            ..Is::default()
        };
        machine.process(pid, name, is);
    }
    let tree = machine.collect(&mut source);
    assert_eq!(shown(&tree), ["b"]);
    let seconds = |name: &str| number(&tree, &format!("/{name}/cpu_seconds_total"));
    assert_eq!(seconds("command/b"), Some(200.0));
    assert_eq!(seconds("other"), Some(91.0));
}

#[test]
fn a_command_that_ended_is_a_true_0_and_then_goes() {
    let machine = Machine::new();
    let mut source = machine.source("{}");
    machine.collect(&mut source);
    machine.end(40);
    machine.end(41);
    machine.pass(10);
    let tree = machine.collect(&mut source);
    assert_eq!(number(&tree, "/command/sshd/count"), Some(0.0));
    assert_eq!(number(&tree, "/command/sshd/resident_bytes"), Some(0.0));
    machine.pass(STAYS.as_secs());
    assert_eq!(shown(&machine.collect(&mut source)), ["init"]);
}

#[test]
fn never_more_names_than_the_cap_over_the_life_of_the_source() {
    let machine = Machine::new();
    let mut source = machine.source(r#"{"top":2,"max_names":5,"names":["always"]}"#);
    let mut ever = std::collections::BTreeSet::new();
    let mut left_out = 0.0;
    for round in 0..60_u32 {
        let pid = 100 + round;
        machine.process(pid, format!("c{round}").as_bytes(), large(5_000));
        let tree = machine.collect(&mut source);
        ever.extend(shown(&tree));
        left_out += number(&tree, "/names_left_out").unwrap_or(0.0);
        assert_eq!(sum(&tree, "count"), 5.0, "round {round}");
        machine.pass(STAYS.as_secs());
        machine.end(pid);
    }
    assert_eq!(
        ever.iter().map(String::as_str).collect::<Vec<_>>(),
        ["always", "c0", "c1", "c2", "init"]
    );
    assert!(left_out > 50.0, "{left_out}");
    // One that was shown comes back.
    machine.process(100, b"c0", large(5_000));
    let tree = machine.collect(&mut source);
    assert_eq!(shown(&tree), ["always", "c0", "init"]);
    assert!(tree.get("names_left_out").is_none());
}

#[test]
fn names_are_always_shown() {
    let machine = Machine::new();
    let all = r#"{"top":1,"names":["sshd","nginx"]}"#;
    let tree = machine.collect(&mut machine.source(all));
    assert_eq!(shown(&tree), ["init", "nginx", "sshd"]);
    assert_eq!(number(&tree, "/command/nginx/count"), Some(0.0));

    let only = r#"{"names":["sshd","nginx"],"only_names":true}"#;
    let mut source = machine.source(only);
    for _ in 0..3 {
        let tree = machine.collect(&mut source);
        assert_eq!(shown(&tree), ["nginx", "sshd"]);
        assert_eq!(number(&tree, "/other/count"), Some(2.0));
        machine.pass(STAYS.as_secs());
    }
}

/// As the collector does: a series that is absent in a round has no increase there; one that is seen for the first time begins.
#[test]
fn counters_never_fall_and_their_increases_add_up_to_what_was_used() {
    let machine = Machine::bare();
    let mut source = machine.source(r#"{"top":2,"max_names":12}"#);
    let mut random = 1_u64;
    let mut below = |n: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % n
    };
    let mut running: BTreeMap<u32, (String, Is)> = BTreeMap::new();
    machine.process(1, b"init", busy(0));
    machine.collect(&mut source);
    let mut last: BTreeMap<String, f64> = BTreeMap::new();
    let (mut used, mut increases, mut unseen) = (0, 0.0, 0.0);
    let mut most_shown = 0;
    for round in 0..400 {
        machine.pass(60);
        // Some end, some use time, one begins.
        let ends: Vec<u32> = running.keys().copied().filter(|_| below(9) == 0).collect();
        for pid in ends {
            running.remove(&pid);
            machine.end(pid);
        }
        for (pid, (name, is)) in &mut running {
            let ticks = below(300) * below(4);
            is.ticks += ticks;
            used += ticks;
            machine.process(*pid, name.as_bytes(), *is);
        }
        let pid = 100 + below(30) as u32;
        if let std::collections::btree_map::Entry::Vacant(free) = running.entry(pid) {
            let is = Is {
                started: machine.seconds() - 1,
                ticks: below(50),
                pages: below(100),
                flags: 0,
            };
            used += is.ticks;
            let (name, is) = free.insert((format!("c{}", below(20)), is));
            machine.process(pid, name.as_bytes(), *is);
        }
        let tree = machine.collect(&mut source);
        most_shown = most_shown.max(shown(&tree).len());
        for (path, value) in tree.leaves() {
            if path.as_str().ends_with("/cpu_seconds_total") {
                let value = value.as_f64().unwrap();
                match last.insert(path.to_string(), value) {
                    Some(before) => {
                        assert!(value >= before, "round {round}: {path} {before} → {value}");
                        increases += value - before;
                    }
                    // The first value of a series has no increase.
                    None => unseen += value,
                }
            }
        }
    }
    assert!(used > 10_000 && most_shown >= 4, "{used} {most_shown}");
    assert!(unseen < 1.0, "{unseen}");
    let difference = increases + unseen - used as f64 / 100.0;
    assert!(difference.abs() < 1e-6, "{difference}");
}

/// The bound is the shortest time that the agent gives a round; this machine's files are slower than the kernel's own.
#[test]
fn five_thousand_processes_take_less_than_two_seconds() {
    let machine = Machine::bare();
    // A directory for each command, and links to it: making 5 000 directories is what would take long.
    for pid in 1..=200 {
        machine.process(pid, format!("c{pid}").as_bytes(), large(u64::from(pid)));
    }
    for pid in 201..=5_000_u32 {
        let link = machine.path().join(pid.to_string());
        std::os::unix::fs::symlink((pid % 200 + 1).to_string(), link).unwrap();
    }
    let mut source = machine.source("{}");
    for _ in 0..2 {
        let start = Instant::now();
        let tree = machine.collect(&mut source);
        let took = start.elapsed();
        eprintln!("5 000 processes took {took:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(sum(&tree, "count"), 5_000.0);
        assert_eq!(shown(&tree).len(), 10);
        machine.pass(10);
    }
}

#[test]
fn this_machine_uses_time_and_memory() {
    let command = std::fs::read_to_string("/proc/self/comm").unwrap();
    let command = command.trim_end();
    let config = serde_json::json!({ "names": [command] }).to_string();
    let mut source = ProcessesSource::new(&config).unwrap();
    source.collect().unwrap();
    let counter = format!("/command/{command}/cpu_seconds_total");
    let deadline = Instant::now() + Duration::from_secs(20);
    let tree = loop {
        // Processes come and go while others are read; this uses time as well.
        let ended = std::process::Command::new("true").status();
        assert!(ended.unwrap().success());
        let tree = source.collect().unwrap();
        tree.validate().unwrap();
        if number(&tree, &counter).unwrap() >= 0.1 && sum(&tree, "utilization") > 0.0 {
            break tree;
        }
        assert!(Instant::now() < deadline, "{:#?}", leaves(&tree));
    };
    let of_us = |leaf: &str| number(&tree, &format!("/command/{command}/{leaf}"));
    assert!(of_us("resident_bytes").unwrap() > 1_000_000.0);
    assert!(of_us("count").unwrap() >= 1.0);
    assert!((0.0..=1.0).contains(&of_us("utilization").unwrap()));
}

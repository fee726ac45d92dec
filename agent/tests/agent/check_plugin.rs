//! `check-plugin` and plugins that do each thing wrong: it is found, said with what to do, and is never the agent's own end.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::{Plugins, agent, text};

fn check(file: &Path, more: &[&str]) -> Output {
    agent()
        .arg("check-plugin")
        .arg(file)
        .args(more)
        .output()
        .unwrap()
}

/// What is found in a file; checks that the exit code agrees.
fn report(file: &Path, more: &[&str]) -> Value {
    let out = check(file, &[&["--json"], more].concat());
    let json: Value =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    let expected = i32::from(json["wrong"] != 0);
    assert_eq!(out.status.code(), Some(expected), "{json:#}");
    json
}

/// What is found in a plugin that does wrong what it is told to.
fn faulty(fault: &str, more: &[&str]) -> Value {
    let plugins = Plugins::with(&[]);
    plugins.c("faulty");
    let config = format!("{{\"do\":\"{fault}\"}}");
    let more = [&["--config", &config], more].concat();
    report(&plugins.path("libfaulty.so"), &more)
}

/// A finding of this level and rule with `part` in what is wrong, at its places or in what to do.
fn finds(report: &Value, level: &str, rule: &str, part: &str) {
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().any(|f| {
        f["level"] == level
            && f["rule"] == rule
            && f.to_string().contains(part)
            && f["advice"] != ""
    });
    assert!(found, "no {level} {rule} {part:?} in {report:#}");
}

/// Most of a check's time is spent between rounds: all at once.
fn each<T: Copy + Send>(cases: impl IntoIterator<Item = T>, test: impl Fn(T) + Sync) {
    let test = &test;
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || test(case));
        }
    });
}

#[test]
fn a_good_plugin_has_nothing_wrong() {
    let plugins = Plugins::with(&[]);
    plugins.c("faulty");
    let file = plugins.path("libfaulty.so");
    let found = report(&file, &[]);
    assert_eq!(
        (&found["wrong"], &found["look"], &found["rounds"]),
        (&0.into(), &0.into(), &1000.into()),
        "{found:#}"
    );
    assert_eq!(found["source"], "faulty");
    for part in ["p50_us", "p99_us", "max_us"] {
        assert!(found["speed"][part].as_f64().unwrap() > 0.0, "{found:#}");
    }
    let out = check(&file, &["--rounds", "10"]);
    let said = text(&out.stdout);
    assert!(said.contains("source faulty, C plugin ABI 1"), "{said}");
    assert!(said.ends_with("\nnothing wrong\n"), "{said}");
}

#[test]
fn what_ends_the_process_is_a_finding_with_its_place() {
    each(
        [
            ("crash", "crash", "SIGSEGV in collect, round 3"),
            ("overflow", "crash", "ran out of stack in collect, round 1"),
            ("exit", "crash", "exit code 3 in collect, round 2"),
            ("crash-in-new", "crash", "SIGABRT while a source was made"),
            (
                "crash-in-drop",
                "crash",
                "SIGABRT while a source was dropped",
            ),
            ("eat", "memory", "in collect, round 1"),
            (
                "crash-at-exit",
                "crash",
                "SIGABRT at the end of the process",
            ),
            ("hang-at-exit", "hang", "at the end of the process"),
            ("leaves-a-process", "crash", "SIGABRT in collect, round 2"),
            (
                "hang",
                "hang",
                "did not return for 2.0 s in collect, round 2",
            ),
        ],
        |(fault, rule, part)| {
            let found = faulty(fault, &["--rounds", "10", "--deadline", "2s"]);
            finds(&found, "wrong", rule, part);
            assert_eq!(found["wrong"], 1, "{found:#}");
        },
    );
    let plugins = Plugins::with(&[]);
    plugins.c("bad_start");
    let found = report(&plugins.path("libbad_start.so"), &[]);
    finds(&found, "wrong", "crash", "exit code 7 while it was loaded");
}

#[test]
fn a_round_without_a_good_tree_is_a_finding() {
    each(
        [
            ("null", "no-data", "none of 20 rounds had data"),
            ("empty", "no-data", "no tree had a leaf"),
            ("garbage", "failed", "invalid_json"),
            ("no-object", "tree", "no JSON object"),
            (
                "fails",
                "failed",
                "in 10 of 20 rounds, first with: sensor unplugged",
            ),
            ("refuse", "start", "told to refuse"),
            ("once", "start", "second source could not be made"),
        ],
        |(fault, rule, part)| {
            finds(&faulty(fault, &["--rounds", "20"]), "wrong", rule, part);
        },
    );
}

#[test]
fn all_limits_are_told_at_once() {
    let found = faulty("limits", &["--rounds", "10"]);
    for (rule, part) in [
        ("tree", "/list"),
        ("tree", "/big"),
        ("tree", "a name is empty"),
        ("tree", "deeper than 16 levels"),
        ("text", "/long"),
    ] {
        finds(&found, "wrong", rule, part);
    }
    let found = faulty("many", &["--rounds", "5"]);
    finds(&found, "wrong", "cardinality", "more than 10000 leaves");
    finds(&found, "wrong", "failed", "see what else is found");
    assert!(!found.to_string().contains("different paths"), "{found:#}");
    let found = faulty("texts", &["--rounds", "5"]);
    finds(&found, "wrong", "tree", "a round has 1.4 MiB as JSON");
}

#[test]
fn more_memory_than_the_agent_gives_is_a_finding() {
    let found = faulty("large", &["--rounds", "10"]);
    finds(
        &found,
        "wrong",
        "memory",
        "in the agent its limit is 128 MiB",
    );
    assert_eq!(found["wrong"], 1, "{found:#}");
}

#[test]
fn a_process_that_is_left_behind_is_a_finding_and_is_ended() {
    let found = faulty("forks", &["--rounds", "13"]);
    finds(&found, "wrong", "leak", "leaves a process running");
    assert_eq!(found["wrong"], 1, "{found:#}");
    let ours = "libfaulty.so\u{0}13"; // no other test asks so often
    let left = std::fs::read_dir("/proc").unwrap().flatten().filter(|e| {
        let line = std::fs::read_to_string(e.path().join("cmdline")).unwrap_or_default();
        line.contains("check-plugin-child") && line.contains(ours)
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn names_units_and_descriptors_are_held_to_the_rules() {
    let found = faulty("names", &["--rounds", "10"]);
    for part in ["/used_mb", "/latency_ms", "/cpu_percent"] {
        finds(&found, "wrong", "name", part);
        finds(&found, "wrong", "described", "has no descriptor");
    }
    finds(&found, "wrong", "range", "/disk/utilization");
    finds(&found, "look", "described", "/answer"); // of which there is no leaf

    let found = faulty("describes-wrongly", &["--rounds", "10"]);
    finds(
        &found,
        "wrong",
        "kind",
        "is of type integer, described as text",
    );
    finds(&found, "wrong", "unit", "a text or state has a unit");
    finds(&found, "wrong", "name", "unit By is not in its name");
    finds(&found, "wrong", "kind", "/seen");
    finds(&found, "look", "help", "/answer");

    finds(
        &faulty("undescribed", &["--rounds", "10"]),
        "wrong",
        "described",
        "describes nothing",
    );
    finds(
        &faulty("bad-describe", &["--rounds", "10"]),
        "wrong",
        "described",
        "gague",
    );
}

#[test]
fn what_only_many_rounds_show_is_seen() {
    each(
        [
            ("fell", "wrong", "counter", "/seen_total"),
            ("strays", "wrong", "cardinality", "200 different paths"),
            ("changes", "wrong", "kind", "was a"),
            ("prints", "look", "prints", "round 1"),
            ("over", "look", "range", "/utilization"),
        ],
        |(fault, level, rule, part)| {
            finds(&faulty(fault, &["--rounds", "200"]), level, rule, part);
        },
    );
    finds(
        &faulty("slow", &["--rounds", "2"]),
        "wrong",
        "speed",
        "a round took 2.1 s",
    );
}

#[test]
fn leaks_of_memory_files_and_threads_are_seen() {
    each(
        [
            ("leak", "memory grew by"),
            ("trickle", "bytes a round, and did not stop"),
            ("files", "900 more open files"),
            ("threads", "more threads"),
        ],
        |(fault, part)| {
            let rounds = if fault == "threads" { "100" } else { "1000" };
            finds(&faulty(fault, &["--rounds", rounds]), "wrong", "leak", part);
        },
    );
}

#[test]
fn what_is_no_plugin_is_said_with_all_that_it_lacks() {
    let plugins = Plugins::with(&["abi-2-0", "other-layout"]);
    for stem in ["empty", "partial", "abi9", "unresolved"] {
        plugins.c(stem);
    }
    let whole = std::fs::read(plugins.path("libabi9.so")).unwrap();
    std::fs::write(plugins.path("libcut.so"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(plugins.path("plugin.txt"), "x").unwrap();
    each(
        [
            ("libempty.so", "entry", "neither the Rust nor the C entry"),
            (
                "libpartial.so",
                "entry",
                "lacks devmon_plugin_collect, devmon_plugin_free, devmon_plugin_drop",
            ),
            ("libabi9.so", "abi", "built for ABI C 9"),
            ("libunresolved.so", "load", "no_such_function_anywhere"),
            ("libcut.so", "file", "truncated"),
            ("plugin.txt", "file", "not a shared library"),
            ("plugin.txt", "file", "does not take a file of this name"),
            ("libtest_plugin_abi_2_0.so", "abi", "built for ABI 2.0"),
            ("libtest_plugin_other_layout.so", "abi", "its types differ"),
        ],
        |(file, rule, part)| {
            finds(
                &report(&plugins.path(file), &["--rounds", "10"]),
                "wrong",
                rule,
                part,
            );
        },
    );
}

#[test]
fn rust_plugins_are_judged_alike() {
    let plugins = Plugins::with(&[
        "panics-in-new",
        "panics-in-collect",
        "nan",
        "huge",
        "unavailable",
        "abi-1-0",
    ]);
    each(
        [
            (
                "panics_in_new",
                "wrong",
                "start",
                "panicked in its constructor",
            ),
            (
                "panics_in_collect",
                "wrong",
                "panic",
                "in round 2: boom in round two",
            ),
            ("nan", "wrong", "value", "/bad"),
            ("huge", "wrong", "cardinality", "more than 10000 leaves"),
            ("unavailable", "look", "unavailable", "no such hardware"),
        ],
        |(file, level, rule, part)| {
            let file = plugins.path(&format!("libtest_plugin_{file}.so"));
            finds(&report(&file, &["--rounds", "20"]), level, rule, part);
        },
    );
    let older = report(
        &plugins.path("libtest_plugin_abi_1_0.so"),
        &["--rounds", "20"],
    );
    assert_eq!(older["wrong"], 0, "{older:#}");
    let file = plugins.path("libtest_plugin_unavailable.so");
    assert_eq!(check(&file, &[]).status.code(), Some(0));
    assert_eq!(
        check(&file, &["--strict"]).status.code(),
        Some(1),
        "only with --strict"
    );
}

#[test]
fn a_bad_command_line_ends_with_78() {
    let plugins = Plugins::with(&[]);
    plugins.c("faulty");
    let file = plugins.path("libfaulty.so");
    for (file, more) in [
        (plugins.path("libnone.so"), &[][..]),
        (file.clone(), &["--rounds", "0"]),
        (file.clone(), &["--deadline", "1ms"]),
        (file.clone(), &["--config", "agent.toml"]),
        (file, &["--config", "[1]"]),
    ] {
        let out = check(&file, more);
        assert_eq!(out.status.code(), Some(78), "{more:?}: {out:?}");
        assert!(!out.stderr.is_empty());
    }
}

//! What plugins may do to their agent, and what changes in the directory do to a running one.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use devmon_core::{Node, Value};
use serde_json::Value as Json;

use crate::support::{
    Broker, DEADLINE, Plugins, Process, agent, compile, json, metrics, peak_kb, program, publish,
    run, text,
};

/// The named source in an `about` message.
fn source(line: &str, name: &str) -> Option<Json> {
    let about = json(line, "/about")?;
    let sources = about["sources"].as_array()?;
    sources.iter().find(|s| s["name"] == name).cloned()
}

fn wait_for_state(sub: &mut Process, name: &str, state: &str, part: &str) {
    sub.wait_for(&format!("{name} {state}: {part}"), |line| {
        let source = source(line, name)?;
        let reason = source["reason"].as_str().unwrap_or_default();
        (source["state"] == state && reason.contains(part)).then_some(())
    });
}

/// An integer leaf of a source, in a metrics message.
fn leaf(line: &str, source: &str, name: &str) -> Option<i64> {
    let message = metrics(line)?;
    let frame = message
        .frames
        .iter()
        .find(|f| f.source.as_deref() == Some(source))?;
    match frame.metrics.get(name) {
        Some(Node::Leaf(Value::Integer(i))) => Some(*i),
        _ => None,
    }
}

/// The descriptor of this path in an `about` message.
fn describes(line: &str, path: &str) -> Option<Json> {
    let about = json(line, "/about")?;
    let all = about["descriptors"].as_array()?;
    all.iter().find(|d| d["path"] == path).cloned()
}

/// Times of a source's frames in a metrics message.
fn ticks_of(line: &str, source: &str) -> Vec<i64> {
    let frames = metrics(line).map(|m| m.frames).unwrap_or_default();
    let of = frames
        .iter()
        .filter(|f| f.source.as_deref() == Some(source));
    of.map(|f| f.ts.unwrap().0).collect()
}

fn missed_none(ticks: &BTreeSet<i64>, interval_ms: usize) {
    let (first, last) = (*ticks.first().unwrap(), *ticks.last().unwrap());
    let expected: BTreeSet<i64> = (first..=last).step_by(interval_ms).collect();
    let missed: Vec<_> = expected.difference(ticks).collect();
    assert!(
        ticks.len() > 5 && missed.is_empty(),
        "missed {missed:?} of {first}..={last}"
    );
}

#[test]
fn whatever_a_plugin_does_costs_nobody_else_a_tick() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a", "huge", "panics-in-collect"]);
    let bad = [
        ("segfault", "SEGFAULT", "failing", "signal 11 (SIGSEGV"),
        (
            "exits",
            "EXIT",
            "failing",
            "ended by itself with code 3; it said: licence has run out",
        ),
        ("memory", "MEMORY", "failing", "signal 11"),
        ("loops", "LOOP", "failing", "did not answer within"),
        ("garbage", "GARBAGE", "failing", "an array is no metric"),
        ("not-utf8", "NOT_UTF8", "failing", "not UTF-8"),
        ("shouts", "SHOUT", "failing", "xxxxxx"),
    ];
    for (name, mode, ..) in bad {
        let defines = [&format!("MODE={mode}"), "VERSION=1"];
        plugins.c_as("bad", &format!("lib{name}.so"), &defines);
    }
    let whole = std::fs::read(plugins.path("libexits.so")).unwrap();
    std::fs::write(plugins.path("libcut.so"), &whole[..whole.len() / 2]).unwrap();
    let deep = format!("#!/bin/sh\necho {}x 1\n", "a/".repeat(30_000));
    std::fs::write(plugins.path("deep"), deep).unwrap();
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(plugins.path("deep"), executable).unwrap();
    let mut agent = publish("i1", &broker, &plugins, &["--interval", "200ms"]);

    let mut waiting: BTreeSet<_> = bad
        .iter()
        .map(|b| b.0)
        .chain(["cut", "huge", "panics", "deep", "descriptors"])
        .collect();
    let mut ticks = BTreeSet::new();
    let until = Instant::now() + Duration::from_secs(40);
    while !waiting.is_empty() {
        assert!(Instant::now() < until, "{waiting:?}: {}", agent.seen());
        sub.wait_for("anything", |line| {
            for (name, _, state, part) in bad {
                if source(line, name).is_some_and(|s| {
                    s["state"] == state && s["reason"].as_str().is_some_and(|r| r.contains(part))
                }) {
                    waiting.remove(name);
                }
            }
            for (name, key, part) in [
                ("libcut.so", "cut", "truncated"),
                ("huge", "huge", "more than 10000 leaves"),
                ("panics", "panics", "panicked: boom in round two"),
                ("deep", "deep", "deeper than 16 levels"),
            ] {
                let reason = source(line, name).map(|s| s["reason"].to_string());
                if reason.is_some_and(|r| r.contains(part)) {
                    waiting.remove(key);
                }
            }
            // One plugin's are too many for a message: another's are there all the same.
            let about = json(line, "/about").unwrap_or_default();
            let all = about["descriptors"].as_array().into_iter().flatten();
            if all
                .filter_map(|d| d["path"].as_str())
                .any(|p| p.starts_with("/agent/"))
                && source(line, "shouts").is_some()
            {
                waiting.remove("descriptors");
            }
            ticks.extend(ticks_of(line, "two-a"));
            metrics(line).map(drop)
        });
    }
    missed_none(&ticks, 200);
    let peak_kb = peak_kb(&agent);
    assert!(peak_kb < 40_000, "its memory stays bounded: {peak_kb} kB");
    agent.signal("TERM");
    assert_eq!(agent.ended().code(), Some(0));
}

#[test]
fn a_file_dropped_changed_and_removed_is_followed_within_five_seconds() {
    for isolation in ["process", "inline"] {
        let broker = Broker::start();
        let mut sub = broker.subscribe("devmon/#");
        let plugins = Plugins::with(&["two-a"]);
        let config = plugins.config(&format!("isolation = '{isolation}'\n"));
        let args = ["--interval", "500ms", "--config", &config];
        let mut agent = publish("i2", &broker, &plugins, &args);
        sub.wait_for("metrics", metrics);

        let mut ticks = BTreeSet::new();
        let version = |sub: &mut Process, ticks: &mut BTreeSet<i64>, expected: i64| {
            let dropped = Instant::now();
            sub.wait_for("the new version", |line| {
                ticks.extend(ticks_of(line, "two-a"));
                (leaf(line, "tank", "version") == Some(expected)).then_some(())
            });
            let took = dropped.elapsed();
            assert!(
                took < Duration::from_secs(5),
                "{isolation} {expected}: {took:?}"
            );
        };
        plugins.c_as("bad", "libtank.so", &["MODE=0", "VERSION=1"]);
        let dropped = Instant::now();
        let (mut runs, mut described) = (false, false);
        sub.wait_for("the new file's source and its descriptor", |line| {
            ticks.extend(ticks_of(line, "two-a"));
            runs |= leaf(line, "tank", "version") == Some(1);
            let rounds = describes(line, "/tank/rounds");
            described |= rounds.is_some_and(|d| d["help"] == "Rounds so far.");
            (runs && described).then_some(())
        });
        let took = dropped.elapsed();
        assert!(took < Duration::from_secs(5), "{isolation}: {took:?}");

        // Written over in place, by a tool that knows nothing of renames.
        let other = plugins.path("elsewhere");
        compile("bad", &other, &["MODE=0", "VERSION=2"]);
        let cp = Command::new("cp")
            .arg(&other)
            .arg(plugins.path("libtank.so"))
            .status();
        assert!(cp.unwrap().success());
        version(&mut sub, &mut ticks, 2);
        // The same again, while it is mapped and runs: the round after it would end in SIGBUS or SIGSEGV.
        for expected in [3, 4] {
            compile("bad", &other, &["MODE=0", &format!("VERSION={expected}")]);
            std::fs::copy(&other, plugins.path("libtank.so")).unwrap();
            version(&mut sub, &mut ticks, expected);
        }
        missed_none(&ticks, 500);

        // Cut short in place: the source runs on as it was, and says so.
        let file = std::fs::File::options()
            .write(true)
            .open(plugins.path("libtank.so"));
        file.unwrap().set_len(1_000).unwrap();
        wait_for_state(&mut sub, "tank", "ok", "the file was changed, and refused");
        sub.wait_for("it runs on", |line| {
            leaf(line, "tank", "version").filter(|v| *v == 4)
        });

        std::fs::remove_file(plugins.path("libtank.so")).unwrap();
        wait_for_state(&mut sub, "tank", "stopped", "its file was removed");
        agent.signal("TERM");
        assert_eq!(agent.ended().code(), Some(0), "{}", agent.seen());
    }
}

#[test]
fn a_name_that_becomes_free_goes_to_the_file_that_waited_for_it() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    let first = plugins.path("libtest_plugin_two_a.so");
    std::fs::copy(&first, plugins.path("libzz.so")).unwrap();
    let _agent = publish("i3", &broker, &plugins, &["--interval", "200ms"]);
    wait_for_state(
        &mut sub,
        "libzz.so",
        "failing",
        "already taken by libtest_plugin_two_a.so",
    );
    std::fs::remove_file(first).unwrap();
    sub.wait_for("two-a from the other file", |line| {
        source(line, "two-a").filter(|s| s["file"] == "libzz.so" && s["state"] == "ok")
    });
}

#[test]
fn an_executable_dropped_in_is_a_source() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    let _agent = publish("i4", &broker, &plugins, &["--interval", "500ms"]);
    sub.wait_for("metrics", metrics);
    let script = |name: &str, text: &str| {
        let path = plugins.path(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let described =
        "[[metric]]\npath = \"/level\"\nunit = \"1\"\nkind = \"gauge\"\nhelp = \"How full.\"\n";
    std::fs::write(plugins.path("well.metrics.toml"), described).unwrap();
    script("well.sh", "echo level 7; echo config/source $DEVMON_SOURCE");
    // Whichever comes first.
    let (mut valued, mut described) = (false, false);
    sub.wait_for("its value and its descriptor", |line| {
        valued |= leaf(line, "well", "level") == Some(7);
        described |= describes(line, "/well/level").is_some();
        (valued && described).then_some(())
    });
    script("broken", "echo no such well >&2; exit 4");
    wait_for_state(
        &mut sub,
        "broken",
        "failing",
        "ended by itself with code 4: no such well",
    );
    script("absent", "echo no pump here >&2; exit 69");
    wait_for_state(&mut sub, "absent", "unavailable", "no pump here");
    script("slow", "sleep 1000");
    wait_for_state(
        &mut sub,
        "slow",
        "failing",
        "did not end within 1.8 s and was killed",
    );
    script("well.sh", "echo level 8");
    sub.wait_for("its new value", |line| {
        leaf(line, "well", "level").filter(|v| *v == 8)
    });
}

#[test]
fn a_script_that_can_not_be_run_says_what_to_do_about_it() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&[]);
    let script = |name: &str, mode: u32, text: &str| {
        let path = plugins.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    script("well.sh", 0o644, "#!/bin/sh\necho level 7\n");
    script("pump", 0o755, "#!/opt/no-such-perl -w\nprint 1;\n");
    script("tank", 0o755, "#!/bin/sh\r\necho level 7\r\n");
    script("lake", 0o755, "#!/usr/bin/env sh\r\necho level 7\r\n");
    let agent = publish("i12", &broker, &plugins, &["--interval", "200ms"]);
    let mut missing = vec![
        ("well.sh", "not executable: chmod +x /"),
        (
            "pump",
            "cannot be run: its interpreter /opt/no-such-perl does not exist",
        ),
        (
            "tank",
            "cannot be run: its first line ends in a carriage return",
        ),
        ("lake", "its first line ends in a carriage return"),
    ];
    sub.wait_for("all four with their reasons", |line| {
        missing.retain(|(name, part)| {
            let source = source(line, name).unwrap_or_default();
            let reason = source["reason"].as_str().unwrap_or_default();
            !(source["state"] == "failing" && reason.contains(part))
        });
        missing.is_empty().then_some(())
    });
    script("well.sh", 0o755, "#!/bin/sh\necho level 7\n");
    sub.wait_for("its value", |line| leaf(line, "well", "level"));
    let warned = agent.seen().matches("not executable").count();
    assert_eq!(warned, 1, "{}", agent.seen());
}

#[test]
fn a_script_that_fails_at_each_round_fills_no_log() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let flag = elsewhere.path().join("flag").display().to_string();
    let script = |name: &str, text: &str| {
        std::fs::write(plugins.path(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(plugins.path(name), executable).unwrap();
    };
    script("pump", "echo no such pump >&2; exit 1");
    script(
        "tank",
        &format!(
            "rm {flag} 2>/dev/null && {{ echo tank is empty >&2; exit 1; }}; touch {flag}; echo level 7"
        ),
    );
    let agent = publish("i13", &broker, &plugins, &["--interval", "200ms"]);
    for _ in 0..10 {
        sub.wait_for("good rounds in between", |line| leaf(line, "tank", "level"));
    }
    for (part, most) in [
        ("source is failing source=\"tank\"", 1),
        ("source is ok source=\"tank\"", 1),
        ("said=\"tank is empty\"", 1),
        ("source is failing source=\"pump\"", 1),
        ("said=\"no such pump\"", 1),
    ] {
        let log = agent.seen();
        assert_eq!(log.matches(part).count(), most, "{part}: {log}");
    }
}

#[test]
fn a_process_that_a_script_left_with_its_output_is_named_and_not_the_script() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&[]);
    plugins.script("pump", "sleep 1000 & echo level 7");
    let _agent = publish("i15", &broker, &plugins, &["--interval", "200ms"]);
    let part = "ended, but a process that it started still held its output after 1.8 s";
    wait_for_state(&mut sub, "pump", "failing", part);
}

#[test]
fn what_a_source_writes_without_end_fills_no_log_and_is_seen() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&[]);
    plugins.script(
        "same",
        "yes err >&2 & sleep 0.3; kill $!; wait; echo level 7",
    );
    plugins.script("others", "seq 20000 >&2; echo level 7");
    plugins.c_as("bad", "libchatty.so", &["MODE=CHATTER", "VERSION=1"]);
    let agent = publish("i16", &broker, &plugins, &["--interval", "500ms"]);
    let all = ["same", "others", "chatty"];
    let part = "more than 100 lines to standard error in a round";
    let (mut noisy, mut waiting) = (Vec::from(all), Vec::from(all));
    sub.wait_for("all three are ok, with a remark", |line| {
        noisy.retain(|name| {
            let source = source(line, name).unwrap_or_default();
            let reason = source["reason"].as_str().unwrap_or_default();
            !(source["state"] == "ok" && reason.contains(part))
        });
        noisy.is_empty().then_some(())
    });
    for _ in 0..3 {
        sub.wait_for("more rounds", |line| {
            waiting.retain(|name| ticks_of(line, name).is_empty());
            waiting.is_empty().then_some(())
        });
        waiting = all.into();
    }
    let log = agent.seen();
    let said = log.lines().filter(|l| l.contains("said=")).count();
    assert!((3..=120).contains(&said), "{said} lines");
    assert_eq!(log.matches("said=\"err\"").count(), 1, "{log}");
}

#[test]
fn a_source_says_soon_that_it_has_nothing_to_measure_however_seldom_it_is_asked() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["unavailable"]);
    let _agent = publish("i11", &broker, &plugins, &["--interval", "24h"]);
    wait_for_state(&mut sub, "unavailable", "unavailable", "no such hardware");
}

#[test]
fn an_edit_by_others_is_never_run() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&[]);
    let path = plugins.path("well.sh");
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
    std::fs::write(&path, "#!/bin/sh\necho level 7; echo file $DEVMON_FILE\n").unwrap();
    mode(0o755).unwrap();
    let agent = publish("i7", &broker, &plugins, &["--interval", "200ms"]);
    let level = |sub: &mut Process| sub.wait_for("a level", |line| leaf(line, "well", "level"));
    assert_eq!(level(&mut sub), 7);

    mode(0o777).unwrap();
    std::fs::write(&path, "#!/bin/sh\necho level 666\n").unwrap();
    wait_for_state(&mut sub, "well", "ok", "everyone may write to it");
    for _ in 0..5 {
        assert_eq!(
            level(&mut sub),
            7,
            "it runs from its copy: {}",
            agent.seen()
        );
    }
    // What root wrote and closed to others is run; the note of the refusal goes.
    std::fs::write(&path, "#!/bin/sh\necho level 8\n").unwrap();
    mode(0o755).unwrap();
    sub.wait_for("its new value", |line| {
        let level = leaf(line, "well", "level")?;
        assert_ne!(level, 666);
        (level == 8).then_some(())
    });

    let dir = plugins.0.path();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    wait_for_state(&mut sub, "well", "ok", "its directory");
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    sub.wait_for("the note is gone", |line| {
        source(line, "well").filter(|s| s["reason"].is_null())
    });
}

#[test]
fn files_that_hang_while_they_are_loaded_hold_up_no_others() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    for i in 0..3 {
        plugins.c_as("at_load", &format!("liba_stuck{i}.so"), &[]);
    }
    let started = Instant::now();
    let _agent = publish("i8", &broker, &plugins, &["--interval", "200ms"]);
    sub.wait_for("metrics of the good one", |line| {
        metrics(line)?
            .frames
            .iter()
            .find(|f| f.source.as_deref() == Some("two-a"))
            .map(drop)
    });
    assert!(
        started.elapsed() < Duration::from_secs(9),
        "{:?}",
        started.elapsed()
    );
    for i in 3..6 {
        plugins.c_as("at_load", &format!("liba_stuck{i}.so"), &[]);
    }
    plugins.c_as("bad", "libtank.so", &["MODE=0", "VERSION=1"]);
    let dropped = Instant::now();
    sub.wait_for("the good one", |line| leaf(line, "tank", "version"));
    let took = dropped.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    wait_for_state(&mut sub, "liba_stuck0.so", "failing", "it is tried again");
}

#[test]
fn a_file_that_could_not_be_loaded_once_is_tried_again() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    let flag = plugins.path("busy");
    std::fs::write(&flag, "").unwrap();
    let define = format!("FLAG={}", flag.display());
    plugins.c_as("at_load", "libslow.so", &[&define]);
    let _agent = publish("i9", &broker, &plugins, &["--interval", "200ms"]);
    let refused = "while it was loaded, it did not answer within 10.0 s";
    wait_for_state(&mut sub, "libslow.so", "failing", refused);
    let again = run(&["retry", "libslow.so"], &plugins);
    assert!(
        text(&again.stdout).contains("libslow.so is looked at again"),
        "{again:?}"
    );
    std::fs::remove_file(flag).unwrap();
    // The look that was asked for still hangs; it is the next one that comes by itself.
    sub.wait_for("its metrics", |line| leaf(line, "slow", "version"));
}

#[test]
fn half_a_script_is_not_run_while_its_writer_pauses() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    let _agent = publish("i13", &broker, &plugins, &["--interval", "200ms"]);
    sub.wait_for("metrics of the first", |line| {
        (!ticks_of(line, "two-a").is_empty()).then_some(())
    });
    let executable = std::fs::Permissions::from_mode(0o755);
    let mut half = std::fs::File::create(plugins.path("half.sh")).unwrap();
    half.set_permissions(executable.clone()).unwrap();
    half.write_all(b"#!/bin/sh\necho level 1\n").unwrap();
    // Another one comes later, and is looked at and run.
    std::fs::write(plugins.path("later.new"), "#!/bin/sh\necho level 7\n").unwrap();
    std::fs::set_permissions(plugins.path("later.new"), executable).unwrap();
    std::fs::rename(plugins.path("later.new"), plugins.path("later.sh")).unwrap();
    for _ in 0..5 {
        sub.wait_for("metrics of the later", |line| {
            assert_eq!(leaf(line, "half", "level"), None, "half of it was run");
            leaf(line, "later", "level")
        });
    }
    half.write_all(b"echo whole 2\n").unwrap();
    drop(half);
    sub.wait_for("metrics of the whole", |line| leaf(line, "half", "whole"));
}

#[test]
fn another_directory_put_in_the_place_of_the_first_is_followed() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let place = Plugins::with(&[]);
    let made = |name: &str, version: &str| {
        std::fs::create_dir(place.path(name)).unwrap();
        let defines = ["MODE=0", version];
        compile("bad", &place.path(&format!("{name}/libtank.so")), &defines);
    };
    made("plugins", "VERSION=1");
    made("next", "VERSION=2");
    let (dir, state) = (place.path("plugins"), place.path("state"));
    let mut command = agent();
    command.args(["run", "--device", "i10", "--mqtt", &broker.url()]);
    command
        .args(["--interval", "200ms", "--plugin-dir"])
        .arg(&dir);
    let mut agent = Process::errors_of(command.arg("--state-dir").arg(&state));
    sub.wait_for("version 1", |line| {
        leaf(line, "tank", "version").filter(|v| *v == 1)
    });
    std::fs::rename(&dir, place.path("old")).unwrap();
    std::fs::rename(place.path("next"), &dir).unwrap();
    let swapped = Instant::now();
    sub.wait_for("version 2", |line| {
        leaf(line, "tank", "version").filter(|v| *v == 2)
    });
    let took = swapped.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");

    // The old copy goes, since nothing runs from it.
    let until = Instant::now() + Duration::from_secs(10);
    while std::fs::read_dir(state.join("plugins")).unwrap().count() > 1 {
        assert!(Instant::now() < until, "the copies stay");
        std::thread::sleep(Duration::from_millis(20)); // polls; nothing says when a file goes
    }
    compile("bad", &dir.join("new"), &["MODE=0", "VERSION=3"]);
    std::fs::rename(dir.join("new"), dir.join("libtank.so")).unwrap();
    sub.wait_for("version 3", |line| {
        leaf(line, "tank", "version").filter(|v| *v == 3)
    });

    std::fs::rename(&dir, place.path("gone")).unwrap();
    wait_for_state(&mut sub, "tank", "stopped", "its file was removed");
    agent.wait_for_line("the plugin directory is gone");
    std::fs::rename(place.path("gone"), &dir).unwrap();
    agent.wait_for_line("the plugin directory is there");
}

#[test]
fn a_c_plugin_with_the_name_of_a_bundled_one_runs_in_a_process() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    let defines = ["MODE=SEGFAULT", "VERSION=1"];
    plugins.c_as("bad", "libdevmon_plugin_memory.so", &defines);
    let mut agent = publish("i10", &broker, &plugins, &["--interval", "200ms"]);
    wait_for_state(&mut sub, "memory", "failing", "signal 11 (SIGSEGV");
    agent.signal("TERM");
    assert_eq!(agent.ended().code(), Some(0), "the agent lives");
}

#[test]
fn a_source_has_a_timeout_of_its_own() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&[]);
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::write(plugins.path("slow"), "#!/bin/sh\nsleep 1000\n").unwrap();
    std::fs::set_permissions(plugins.path("slow"), executable).unwrap();
    let config = plugins.path("agent.toml");
    std::fs::write(&config, "[sources.slow]\ntimeout = \"600ms\"\n").unwrap();
    let args = ["--interval", "1s", "--config", config.to_str().unwrap()];
    let _agent = publish("i9", &broker, &plugins, &args);
    let part = "did not end within 0.6 s and was killed";
    wait_for_state(&mut sub, "slow", "failing", part);
}

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks
        .flatten()
        .map(|t| std::fs::read_to_string(t.path().join("children")));
    let lists: Vec<String> = lists.map(Result::unwrap_or_default).collect();
    let ids = lists.iter().flat_map(|l| l.split_whitespace());
    ids.map(|id| id.parse().unwrap()).collect()
}

fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn hosts_do_not_outlive_an_agent_that_is_killed() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a", "two-b"]);
    let mut agent = publish("i5", &broker, &plugins, &["--interval", "200ms"]);
    sub.wait_for("metrics of both", |line| {
        (metrics(line)?.frames.len() == 3).then_some(())
    });
    let hosts = children(agent.pid());
    assert_eq!(hosts.len(), 2, "{hosts:?}");
    let called: BTreeSet<String> = hosts.iter().map(|pid| comm(*pid)).collect();
    assert_eq!(
        called,
        ["devmon:two-a", "devmon:two-b"].map(str::to_owned).into()
    );
    agent.signal("KILL");
    agent.ended();
    let until = Instant::now() + Duration::from_secs(5);
    while hosts.iter().any(|pid| runs(*pid)) {
        assert!(Instant::now() < until, "{hosts:?} still run");
        std::thread::sleep(Duration::from_millis(10)); // polls; they are not our children
    }
}

#[test]
fn what_an_executable_started_does_not_outlive_an_agent_that_is_killed() {
    let broker = Broker::start();
    let plugins = Plugins::with(&[]);
    let script = "#!/bin/sh\nsleep 1000 & echo left $! >&2\nwait\n";
    std::fs::write(plugins.path("slow"), script).unwrap();
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(plugins.path("slow"), executable).unwrap();
    let config = plugins.config("[sources.slow]\ntimeout = \"10m\"\n");
    let args = ["--interval", "200ms", "--config", &config];
    let mut agent = publish("i14", &broker, &plugins, &args);
    let left: u32 = agent.wait_for("what it started", |line| {
        let (_, pid) = line.split_once("said=\"left ")?;
        pid.split('"').next()?.parse().ok()
    });
    let _left = Left(left);
    let warden = children(agent.pid());
    assert_eq!(warden.len(), 1);
    assert_eq!(comm(warden[0]), "devmon:slow");
    let all = [warden.clone(), children(warden[0]), vec![left]].concat();
    assert_eq!(all.len(), 3, "with the script: {all:?}");
    agent.signal("KILL");
    agent.ended();
    let until = Instant::now() + DEADLINE;
    while all.iter().any(|pid| runs(*pid)) {
        assert!(Instant::now() < until, "{all:?}: some still run");
        std::thread::sleep(Duration::from_millis(10)); // polls; they are not our children
    }
}

/// What a process is called in lists.
fn comm(pid: u32) -> String {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    comm.trim().to_owned()
}

/// A process that a plugin left behind; ended with the test, if it is still there.
struct Left(u32);

impl Drop for Left {
    fn drop(&mut self) {
        let pid = self.0.to_string();
        let _ = Command::new("kill").args(["-KILL", &pid]).output();
    }
}

#[test]
fn a_plugin_that_leaves_a_process_behind_delays_nobody() {
    for (how, defines) in [
        ("at once", &[][..]),
        ("later", &["LATE"]),
        ("out of reach", &["DETACHED"]),
        ("later and out of reach", &["LATE", "DETACHED"]),
    ] {
        let broker = Broker::start();
        let mut sub = broker.subscribe("devmon/#");
        let plugins = Plugins::with(&["two-a"]);
        plugins.c_as("forks", "libforks.so", defines);
        let mut agent = publish("i7", &broker, &plugins, &["--interval", "200ms"]);
        let left = agent.wait_for(how, |line| {
            let (_, pid) = line.split_once("said=\"left ")?;
            pid.split('"').next()?.parse().ok()
        });
        let _left = Left(left);
        // The child lives for longer than anybody waits here.
        sub.wait_for(how, |line| {
            metrics(line)?
                .frames
                .iter()
                .any(|f| f.source.as_deref() == Some("two-a"))
                .then_some(())
        });
        let is_late = defines.contains(&"LATE");
        let name = if is_late { "forks" } else { "libforks.so" };
        wait_for_state(&mut sub, name, "failing", "signal 6 (SIGABRT");
        let until = Instant::now() + Duration::from_secs(10);
        while !defines.contains(&"DETACHED") && runs(left) {
            assert!(Instant::now() < until, "{how}: {left} still runs");
            std::thread::sleep(Duration::from_millis(10)); // polls; it is not our child
        }
        agent.signal("TERM");
        assert_eq!(agent.ended().code(), Some(0), "{how}");
    }
}

#[test]
fn memory_that_the_kernel_counts_nowhere_is_limited_too() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    plugins.c_as("bad", "libshared.so", &["MODE=SHARED", "VERSION=1"]);
    let config = plugins.config("[sources.shared]\nmemory_bytes = 33554432\n");
    let args = ["--interval", "200ms", "--config", &config];
    let _agent = publish("i8", &broker, &plugins, &args);
    wait_for_state(
        &mut sub,
        "shared",
        "failing",
        "MiB of memory (its limit is 32 MiB)",
    );
}

#[test]
fn the_memory_of_all_that_an_executable_starts_is_limited_and_what_they_share_counts_once() {
    let plugins = Plugins::with(&[]);
    let modes: [(&str, &[&str]); 3] = [
        ("forks", &["FORKS=4", "BEYOND"]),
        ("shared", &["SHARED", "BEYOND"]),
        ("copy", &["FORKS=4", "COPY"]),
    ];
    let mut config = String::new();
    for (name, defines) in modes {
        program("large", &plugins.path(name), defines);
        config += &format!("[sources.{name}]\nmemory_bytes = 67108864\n");
    }
    let config = plugins.config(&config);
    let args = ["collect", "--device", "d", "--format", "json"];
    let out = run(&[&args[..], &["--config", &config]].concat(), &plugins);
    let collected: Json = serde_json::from_slice(&out.stdout).unwrap();
    for source in collected["sources"].as_array().unwrap() {
        let reason = source["reason"].as_str().unwrap_or_default();
        if source["name"] == "copy" {
            assert_eq!(source["state"], "ok", "{reason}");
        } else {
            let part = "MiB of memory (its limit is 64 MiB) and was killed";
            assert_eq!(source["state"], "failing");
            assert!(reason.contains(part), "{source}");
        }
    }
    assert_eq!(collected["sources"].as_array().unwrap().len(), 3);
}

#[test]
fn the_memory_of_what_a_plugin_starts_counts_as_its_own() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&[]);
    plugins.c_as("bad", "libparent.so", &["MODE=CHILDREN", "VERSION=1"]);
    let config = plugins.config("[sources.parent]\nmemory_bytes = 33554432\n");
    let args = ["--interval", "200ms", "--config", &config];
    let _agent = publish("i12", &broker, &plugins, &args);
    wait_for_state(
        &mut sub,
        "parent",
        "failing",
        "MiB of memory (its limit is 32 MiB)",
    );
}

#[test]
fn a_plugin_that_can_not_be_made_and_says_nothing_is_shown_with_its_limit() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&[]);
    plugins.c("faulty");
    let config = plugins.config("[sources.faulty]\nconfig = { do = 'large' }\n");
    let _agent = publish("i17", &broker, &plugins, &["--config", &config]);
    let part = "returned NULL and gave no reason; if it lacked memory: its limit is 128 MiB";
    wait_for_state(&mut sub, "faulty", "failing", part);
}

#[test]
fn the_least_limits_that_can_be_set_let_a_plugin_run() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    plugins.script("well", "echo level 7 | cat");
    let least = "memory_bytes = 16777216\nopen_files = 16\n";
    let config = plugins.config(&format!("[sources.two-a]\n{least}[sources.well]\n{least}"));
    let args = ["--interval", "200ms", "--config", &config];
    let _agent = publish("i18", &broker, &plugins, &args);
    for name in ["two-a", "well"] {
        sub.wait_for(name, |line| ticks_of(line, name).pop());
    }
}

#[test]
fn under_pressure_the_kernel_takes_a_host_before_the_agent() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    let agent = publish("i9", &broker, &plugins, &["--interval", "200ms"]);
    sub.wait_for("metrics of the plugin", |line| {
        (metrics(line)?.frames.len() == 2).then_some(())
    });
    let score = |pid: u32| -> i32 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        text.trim().parse().unwrap()
    };
    let hosts = children(agent.pid());
    assert_eq!(hosts.len(), 1, "{hosts:?}");
    assert!(score(hosts[0]) >= 500 && score(agent.pid()) < 500);
}

#[test]
fn a_leak_ends_its_process_and_not_the_agent() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    plugins.c_as("bad", "libmemory.so", &["MODE=MEMORY", "VERSION=1"]);
    let config = plugins.config("[sources.memory]\nmemory_bytes = 33554432\n");
    let args = ["--interval", "200ms", "--config", &config];
    let agent = publish("i6", &broker, &plugins, &args);
    wait_for_state(&mut sub, "memory", "failing", "signal 11");
    let peak_kb = peak_kb(&agent);
    assert!(
        peak_kb < 40_000,
        "the agent itself stays small: {peak_kb} kB"
    );
}

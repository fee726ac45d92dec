//! Plugins of every age and behaviour, through the binary.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::{Plugins, agent, run, text};

fn verdicts(plugins: &Plugins) -> Vec<Value> {
    let out = run(&["plugins", "--json"], plugins);
    assert!(out.status.success(), "{}", text(&out.stderr));
    serde_json::from_slice::<Vec<Value>>(&out.stdout).unwrap()
}

fn verdict(plugins: &Plugins, file: &str) -> Value {
    let all = verdicts(plugins);
    all.iter()
        .find(|v| v["file"] == file)
        .cloned()
        .unwrap_or_else(|| panic!("{file} is not in {all:?}"))
}

/// Output of `collect`, and whether it succeeded.
fn collect(plugins: &Plugins, more: &[&str]) -> (Value, bool) {
    let args = [&["collect", "--format", "json", "--device", "d"], more].concat();
    let out = run(&args, plugins);
    let json = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    (json, out.status.success())
}

fn source<'a>(collected: &'a Value, name: &str) -> &'a Value {
    let sources = collected["sources"].as_array().unwrap();
    sources.iter().find(|s| s["name"] == name).unwrap()
}

#[test]
fn older_and_newer_plugins_load_in_this_agent() {
    let plugins = Plugins::with(&["abi-1-0", "abi-1-2", "nan"]);
    let old = verdict(&plugins, "libtest_plugin_abi_1_0.so");
    assert_eq!(
        (&old["source"], &old["version"]),
        (&json!("old"), &json!("1.0.7"))
    );
    assert_eq!(old["abi"], "Rust plugin ABI 1.0");
    let new = verdict(&plugins, "libtest_plugin_abi_1_2.so");
    assert_eq!(new["abi"], "Rust plugin ABI 1.2");
    let (collected, ok) = collect(&plugins, &[]);
    assert!(ok);
    assert_eq!(collected["metrics"]["old"], json!({"rounds": 2.0}));
    assert_eq!(collected["metrics"]["new"], json!({"rounds": 2.0}));
}

#[test]
fn another_major_version_is_refused_by_name() {
    let plugins = Plugins::with(&["abi-2-0"]);
    let v = verdict(&plugins, "libtest_plugin_abi_2_0.so");
    let reason = "built for ABI 2.0, this agent has 1.1: rebuild the plugin or update the agent";
    assert_eq!(
        (&v["loaded"], &v["reason"]),
        (&json!(false), &json!(reason))
    );
}

#[test]
fn types_that_differ_are_refused_with_what_differs_and_no_more() {
    let plugins = Plugins::with(&["other-layout"]);
    let v = verdict(&plugins, "libtest_plugin_other_layout.so");
    let reason = v["reason"].as_str().unwrap();
    assert!(reason.starts_with("its types differ"), "{reason}");
    assert!(
        reason.contains("Expected") && !reason.contains("version"),
        "{reason}"
    );
    assert!(reason.len() < 400, "{reason}");
}

#[test]
fn many_plugins_of_one_type_are_all_different() {
    let plugins = Plugins::with(&["two-a", "two-b"]);
    let (collected, ok) = collect(&plugins, &[]);
    assert!(ok);
    for name in ["two-a", "two-b"] {
        let package = &collected["metrics"][name]["package"];
        assert_eq!(package, &format!("test-plugin-{name}"));
    }
}

#[test]
fn the_first_file_has_a_name_and_the_second_is_refused() {
    let plugins = Plugins::with(&["two-a"]);
    let file = plugins.path("libtest_plugin_two_a.so");
    std::fs::copy(file, plugins.path("libzz.so")).unwrap();
    assert_eq!(verdict(&plugins, "libtest_plugin_two_a.so")["loaded"], true);
    let second = verdict(&plugins, "libzz.so");
    let reason = "source name \"two-a\" is already taken by libtest_plugin_two_a.so";
    assert_eq!(second["reason"], reason);
}

#[test]
fn what_is_no_plugin_is_refused_and_hurts_nobody() {
    let plugins = Plugins::with(&["nan"]);
    for stem in ["empty", "partial", "abi9", "unresolved"] {
        plugins.c(stem);
    }
    let whole = std::fs::read(plugins.path("libtest_plugin_nan.so")).unwrap();
    std::fs::write(plugins.path("libcut.so"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(plugins.path("libnone.so"), "").unwrap();
    std::fs::write(plugins.path("libtext.so"), "INPUT(libc.so.6)\n").unwrap();
    std::fs::create_dir(plugins.path("libdir.so")).unwrap();
    let all = verdicts(&plugins);
    for (file, part) in [
        (
            "libempty.so",
            "not a plugin: it has neither the Rust nor the C entry",
        ),
        ("libpartial.so", "lacks the function devmon_plugin_collect"),
        ("libabi9.so", "built for ABI C 9, this agent has C 1"),
        (
            "libunresolved.so",
            "undefined symbol: no_such_function_anywhere",
        ),
        ("libcut.so", "truncated"),
        ("libnone.so", "empty"),
        ("libtext.so", "not a shared library"),
        ("libdir.so", "not a regular file"),
    ] {
        let verdict = all.iter().find(|v| v["file"] == file).unwrap();
        let reason = verdict["reason"].as_str().unwrap();
        assert!(reason.contains(part), "{file}: {reason}");
    }
    let (collected, ok) = collect(&plugins, &[]);
    assert!(ok);
    assert_eq!(collected["metrics"]["nan"]["good"], 1.5);
}

#[test]
fn each_bad_source_fails_alone_with_its_reason() {
    let bad = [
        "panics-in-new",
        "panics-in-collect",
        "hangs",
        "huge",
        "nan",
        "two-a",
    ];
    // One that hangs in its trial does not come inline, whatever the configuration says.
    for isolation in ["inline", "process"] {
        let plugins = Plugins::with(&bad);
        let config = plugins.config(&format!("interval = '1s'\nisolation = '{isolation}'\n"));
        each_fails_alone(&collect(&plugins, &["--config", &config]));
    }
}

fn each_fails_alone((collected, ok): &(Value, bool)) {
    assert!(!*ok, "a failing source is a failure");
    for (name, state, part) in [
        (
            "panics-in-new",
            "failing",
            "panicked in its constructor: no such sensor",
        ),
        ("panics", "failing", "panicked: boom in round two"),
        ("hangs", "failing", "did not answer within 1.8 s"),
        ("huge", "failing", "more than 10000 leaves"),
        ("nan", "ok", "/bad is not a finite number"),
    ] {
        let s = source(collected, name);
        assert_eq!(s["state"], state, "{s}");
        assert!(s["reason"].as_str().unwrap().contains(part), "{s}");
    }
    assert_eq!(
        collected["metrics"]["nan"],
        json!({"below": {"good": 2}, "good": 1.5})
    );
    assert_eq!(
        collected["metrics"]["two-a"],
        json!({"package": "test-plugin-two-a"})
    );
    assert!(
        collected["metrics"].get("huge").is_none(),
        "nothing of it is published"
    );
}

#[test]
fn unavailable_is_no_failure() {
    let (collected, ok) = collect(&Plugins::with(&["unavailable"]), &[]);
    assert!(ok);
    let s = source(&collected, "unavailable");
    assert_eq!(
        (&s["state"], &s["reason"]),
        (&json!("unavailable"), &json!("no such hardware"))
    );
}

#[test]
fn a_c_plugin_runs_and_says_why_it_does_not() {
    let plugins = Plugins::with(&[]);
    plugins.c("good");
    let (collected, ok) = collect(&plugins, &[]);
    assert!(ok);
    assert_eq!(
        collected["metrics"]["good"],
        json!({"rounds": 2, "tank": {"level": 0.5}})
    );
    let flat = run(&["collect", "--format", "flat"], &plugins);
    assert!(
        text(&flat.stdout).contains("/good/tank/level 0.5 1\n"),
        "{flat:?}"
    );

    let config = plugins.path("agent.toml");
    std::fs::write(&config, "[sources.good]\nconfig = { mode = 'refuse' }\n").unwrap();
    let (collected, ok) = collect(&plugins, &["--config", config.to_str().unwrap()]);
    assert!(!ok);
    let s = source(&collected, "good");
    assert_eq!(s["reason"], "cannot start: told to refuse");
}

/// Puts a shell script into the directory.
fn script(plugins: &Plugins, name: &str, body: &str) {
    let path = plugins.path(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn what_is_the_agents_own_in_the_environment_is_not_passed_on() {
    let plugins = Plugins::with(&[]);
    let names = "DEVMON_LOG DEVMON_PASSWORD NOTIFY_SOCKET DEVMON_SOURCE DEVMON_FILE PUMP PATH";
    let body = format!("for n in {names}; do env | grep -q \"^$n=\" && echo $n 1; done; true");
    script(&plugins, "well.sh", &body);
    let out = agent()
        .args(["collect", "--format", "json", "--device", "d"])
        .arg("--plugin-dir")
        .arg(plugins.0.path())
        .arg("--state-dir")
        .arg(plugins.path("state"))
        .envs([("DEVMON_LOG", "warn"), ("DEVMON_PASSWORD", "secret")])
        .envs([("NOTIFY_SOCKET", "/nowhere"), ("PUMP", "north")])
        .output()
        .unwrap();
    let collected: Value = serde_json::from_slice(&out.stdout).unwrap();
    let passed = json!({"DEVMON_FILE": 1, "DEVMON_SOURCE": 1, "PATH": 1, "PUMP": 1});
    assert_eq!(collected["metrics"]["well"], passed);
}

#[test]
fn a_description_that_can_not_be_used_is_the_sources_reason() {
    let plugins = Plugins::with(&[]);
    script(&plugins, "well.sh", "echo level 7");
    let text_of = "[[metric]]\npath = \"/level\"\nunit = \"1\"\nkind = \"meter\"\n";
    std::fs::write(plugins.path("well.metrics.toml"), text_of).unwrap();
    let (collected, ok) = collect(&plugins, &[]);
    assert!(ok, "its values count all the same");
    assert_eq!(collected["metrics"]["well"], json!({"level": 7}));
    let well = source(&collected, "well");
    let reason = well["reason"].as_str().unwrap();
    assert_eq!(well["state"], "ok");
    assert!(
        reason.contains("its metrics have no units: /") && reason.contains("well.metrics.toml: "),
        "{reason}"
    );
    let check = run(&["check", "--device", "d"], &plugins);
    let said = text(&check.stderr);
    assert!(said.contains("warning: well: its descriptors"), "{said}");
}

#[test]
fn the_limits_of_a_source_hold_while_its_library_is_loaded_and_are_named() {
    let plugins = Plugins::with(&[]);
    plugins.c_as("at_load", "libmodel.so", &["MIB=200"]);
    let refused = verdict(&plugins, "libmodel.so");
    let reason = refused["reason"].as_str().unwrap();
    assert!(
        reason.contains("128 MiB of memory") && reason.contains("memory_bytes"),
        "{reason}"
    );
    assert!(reason.contains("[sources.model]"), "{reason}");
    let config = plugins.config("[sources.model]\nmemory_bytes = 1073741824\n");
    let (collected, ok) = collect(&plugins, &["--config", &config]);
    assert!(ok, "{collected}");
    assert_eq!(collected["metrics"]["model"], json!({"version": 1}));
}

#[test]
fn a_source_can_be_switched_off() {
    let plugins = Plugins::with(&["two-a", "two-b"]);
    let config = plugins.path("agent.toml");
    std::fs::write(&config, "[sources.two-a]\nenabled = false\n").unwrap();
    let (collected, _) = collect(&plugins, &["--config", config.to_str().unwrap()]);
    assert!(collected["metrics"].get("two-a").is_none());
    assert!(collected["metrics"].get("two-b").is_some());
}

#[test]
fn what_is_switched_off_is_not_tried_and_nobody_is_warned_of_it() {
    let plugins = Plugins::with(&["hangs"]);
    std::fs::write(plugins.path("libtext.so"), "INPUT(libc.so.6)\n").unwrap();
    let off = ["hangs", "text", "nowhere"].map(|n| format!("[sources.{n}]\nenabled = false\n"));
    let config = plugins.config(&format!("isolation = 'inline'\n{}", off.concat()));
    for command in ["check", "collect"] {
        let out = run(&[command, "--device", "d", "--config", &config], &plugins);
        assert!(out.status.success());
        assert_eq!(text(&out.stderr), "", "{command}");
    }
}

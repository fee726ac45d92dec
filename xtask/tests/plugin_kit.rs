//! The plugin kit: the examples, and what `cargo xtask new-plugin` makes, are built as their READMEs say and loaded by the real agent.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

mod harness;

use std::path::Path;
use std::process::{Command, Output};

use harness::{bin_dir, root};
use serde_json::{Value as Json, json};

/// The agent, without the environment of whoever runs the tests.
fn agent(args: &[&str]) -> Command {
    let mut command = Command::new(bin_dir().join("devmon-agent"));
    for name in ["DEVICE_NAME", "AWS_IOT_ENDPOINT", "DEVMON_CONFIG"] {
        command.env_remove(name);
    }
    command.args(args);
    command
}

/// What `collect` reads from the plugins of a directory.
fn collect(plugins: &Path, more: &[&str]) -> Json {
    let mut command = agent(&["collect", "--format", "json", "--device", "d"]);
    let out = command
        .arg("--plugin-dir")
        .arg(plugins)
        .args(more)
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    serde_json::from_slice(&out.stdout).unwrap()
}

/// The unit of a path as `collect --format flat` prints it.
fn flat(plugins: &Path, more: &[&str]) -> String {
    let mut command = agent(&["collect", "--format", "flat", "--device", "d"]);
    let out = command.arg("--plugin-dir").arg(plugins).args(more).output();
    String::from_utf8(out.unwrap().stdout).unwrap()
}

fn succeeds(command: &mut Command) -> Output {
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{command:?}\n{said}\n{errors}");
    out
}

#[test]
fn the_minimal_plugin_counts_a_folder() {
    let dir = harness::tempdir();
    let plugins = dir.path().join("plugins");
    let folder = dir.path().join("folder");
    std::fs::create_dir_all(&plugins).unwrap();
    std::fs::create_dir_all(folder.join("below")).unwrap();
    std::fs::write(folder.join("a"), "12345").unwrap();
    std::fs::write(folder.join("b"), "").unwrap();
    let file = "libdevmon_plugin_folder.so";
    std::fs::copy(bin_dir().join(file), plugins.join(file)).unwrap();
    let config = dir.path().join("agent.toml");
    let text = format!("[sources.folder]\nconfig = {{ path = {folder:?} }}\n");
    std::fs::write(&config, text).unwrap();

    let more = ["--config", config.to_str().unwrap()];
    let collected = collect(&plugins, &more);
    let read = &collected["metrics"]["folder"];
    assert_eq!(
        (&read["files"], &read["size_bytes"]),
        (&json!(2), &json!(5))
    );
    assert!(read["oldest_age_seconds"].is_i64(), "{read}");
    assert!(flat(&plugins, &more).contains("/folder/size_bytes 5 By\n"));

    for name in ["a", "b"] {
        std::fs::remove_file(folder.join(name)).unwrap();
    }
    let empty = collect(&plugins, &more);
    let read = &empty["metrics"]["folder"];
    assert_eq!(
        *read,
        json!({"files": 0, "size_bytes": 0}),
        "no file has no age"
    );
}

#[test]
fn the_minimal_plugin_is_under_forty_lines() {
    let source = root().join("examples/minimal-plugin/src/lib.rs");
    let lines = std::fs::read_to_string(source).unwrap().lines().count();
    assert!(lines < 40, "{lines} lines");
}

#[test]
fn the_c_plugin_builds_without_a_warning_and_is_described() {
    let place = harness::tempdir();
    let plugins = place.path().join("not/there/yet");
    let mut make = Command::new("make");
    make.arg("-C").arg(root().join("examples/c-plugin"));
    succeeds(make.arg(format!("OUT={}", plugins.display())));
    let collected = collect(&plugins, &[]);
    let read = &collected["metrics"]["open_files"];
    assert!(read["open"].as_i64().unwrap() > 0, "{read}");
    assert!(read["open"].as_i64() < read["limit"].as_i64(), "{read}");
    let lines = flat(&plugins, &[]);
    let line = lines
        .lines()
        .find(|l| l.starts_with("/open_files/utilization "));
    assert!(line.unwrap().ends_with(" 1"), "{lines}");
}

/// Promise 2 of DESIGN.md, from the compiler to REST.
#[test]
fn a_c_plugin_dropped_into_a_running_agent_is_readable_over_rest_within_five_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (plugins, built) = (dir.path().join("plugins"), dir.path().join("built"));
    std::fs::create_dir_all(&plugins).unwrap();
    std::fs::create_dir_all(&built).unwrap();
    let data = dir.path().join("data");
    let collector = harness::collector(&data, &["--mqtt-listen", "127.0.0.1:0"]);
    let mqtt = collector.named("mqtt");
    let state = dir.path().join("state");
    let _agent = harness::agent("dropped", &plugins, &state, &["--mqtt", &mqtt]);
    let device = format!("{}/api/v1/devices/dropped", collector.named("http"));
    harness::wait_for("the agent's own metrics", || {
        let latest = harness::get(&format!("{device}/latest?prefix=/agent")).2;
        latest.contains("/agent/resident_bytes").then_some(())
    });
    let mut make = Command::new("make");
    make.arg("-C").arg(root().join("examples/c-plugin"));
    succeeds(make.arg(format!("OUT={}", built.display())));

    let file = "libopen_files.so";
    let dropped = std::time::Instant::now();
    succeeds(
        Command::new("cp")
            .arg(built.join(file))
            .arg(plugins.join(file)),
    );
    let item = harness::wait_for("its metric, described", || {
        let latest = harness::get_json(&format!("{device}/latest?prefix=/open_files"));
        let item = latest["items"].as_array()?.first()?.clone();
        let metrics = harness::get_json(&format!("{device}/metrics?prefix=/open_files"));
        let described = metrics["items"]
            .as_array()?
            .iter()
            .find(|m| m["path"] == item["path"])?;
        let help = described["help"].as_str()?;
        (!help.is_empty() && item["unit"].is_string() && item["value"].is_number()).then_some(item)
    });
    let took = dropped.elapsed();
    assert!(took.as_secs_f64() < 5.0, "{took:?}: {item}");
    println!("{item} after {took:?}");
}

#[test]
fn the_header_declares_what_the_agent_looks_for() {
    let path = root().join("devmon-core/include/devmon_plugin.h");
    let header = std::fs::read_to_string(path).unwrap();
    let rust = std::fs::read_to_string(root().join("devmon-core/src/abi/c.rs")).unwrap();
    let symbols: Vec<_> = rust
        .lines()
        .filter_map(|l| l.split_once("= b\"")?.1.split_once("\\0"))
        .map(|(symbol, _)| symbol)
        .collect();
    assert_eq!(symbols.len(), 7, "{symbols:?}");
    for symbol in symbols {
        assert!(header.contains(&format!("{symbol}(")), "{symbol}");
    }
    let abi = rust
        .lines()
        .find_map(|l| l.strip_prefix("pub const C_ABI: u32 = "));
    let number = abi.unwrap().trim_end_matches(';');
    assert!(header.contains(&format!("#define DEVMON_PLUGIN_ABI {number}\n")));
}

#[test]
fn a_new_plugin_passes_all_checks_at_once_and_runs() {
    let dir = harness::tempdir();
    let mut new = Command::new(env!("CARGO_BIN_EXE_xtask"));
    new.args(["new-plugin", "disk-health", "--out"]);
    succeeds(new.arg(dir.path()));
    let plugin = dir.path().join("disk-health");
    // Kept between runs: abi_stable takes half a minute.
    let target = bin_dir().with_file_name("new-plugin");
    let cargo = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.args(args).current_dir(&plugin);
        succeeds(command.env("CARGO_TARGET_DIR", &target));
    };
    cargo(&["fmt", "--check"]);
    let warnings = ["--all-targets", "--", "-D", "warnings"];
    cargo(&[&["clippy", "--quiet"], &warnings[..]].concat());
    cargo(&["test", "--quiet"]);
    cargo(&["build", "--quiet"]);

    let file = target.join("debug/libdevmon_plugin_disk_health.so");
    let plugins = dir.path().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    std::fs::copy(&file, plugins.join(file.file_name().unwrap())).unwrap();
    let collected = collect(&plugins, &[]);
    let uptime = &collected["metrics"]["disk-health"]["uptime_seconds"];
    assert!(uptime.as_f64().unwrap() > 0.0, "{collected}");
    let checked = agent(&["check-plugin", "--strict", "--rounds", "100"])
        .arg(&file)
        .output();
    let said = String::from_utf8(checked.unwrap().stdout).unwrap();
    assert!(said.ends_with("\nnothing wrong\n"), "{said}");
}

#[test]
fn a_new_plugin_of_the_repository_is_a_package_of_its_workspace() {
    let dir = harness::tempdir();
    let link = |path: &str| {
        std::os::unix::fs::symlink(root().join(path), dir.path().join(path)).unwrap();
    };
    std::fs::create_dir(dir.path().join("plugins")).unwrap();
    std::fs::copy(root().join("Cargo.toml"), dir.path().join("Cargo.toml")).unwrap();
    for folder in ["devmon-core", "agent", "collector-api", "xtask", "examples"] {
        link(folder);
    }
    for entry in std::fs::read_dir(root().join("plugins")).unwrap() {
        let name = entry.unwrap().file_name();
        link(&format!("plugins/{}", name.to_str().unwrap()));
    }
    let made = xtask::new_plugin::make(dir.path(), "disk-health", None).unwrap();
    assert!(made.is_member);
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--offline", "--no-deps", "--format-version=1"]);
    let out = succeeds(metadata.current_dir(&made.place));
    let json: Json = serde_json::from_slice(&out.stdout).unwrap();
    let packages = json["packages"].as_array().unwrap();
    let package = packages
        .iter()
        .find(|p| p["name"] == "devmon-plugin-disk-health")
        .unwrap();
    assert_eq!(package["edition"], "2024", "{package}");
}

#[test]
fn the_examples_pass_check_plugin() {
    let dir = harness::tempdir();
    let mut make = Command::new("make");
    make.arg("-C").arg(root().join("examples/c-plugin"));
    succeeds(make.arg(format!("OUT={}", dir.path().display())));
    let mut c = agent(&["check-plugin", "--strict"]);
    succeeds(c.arg(dir.path().join("libopen_files.so")));
    let mut rust = agent(&["check-plugin", "--strict"]);
    rust.arg(bin_dir().join("libdevmon_plugin_folder.so"));
    let config = format!("{{\"path\":{:?}}}", root().join("docs"));
    succeeds(rust.args(["--config", &config]));
}

#[test]
fn the_bundled_plugins_pass_check_plugin() {
    // Not strictly: descriptors of hardware and errors that are not here have no leaf.
    let folders = std::fs::read_dir(root().join("plugins")).unwrap();
    let mut checked = 0;
    for folder in folders.map(|entry| entry.unwrap().path()) {
        if folder.join("Cargo.toml").exists() {
            let name = folder.file_name().unwrap().display();
            let mut check = agent(&["check-plugin"]);
            succeeds(check.arg(bin_dir().join(format!("libdevmon_plugin_{name}.so"))));
            checked += 1;
        }
    }
    assert!(checked >= 8, "only {checked} plugins");
}

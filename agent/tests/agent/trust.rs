//! Whose files the agent runs: never what another user, or a plugin, left where it keeps its own.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Broker, Plugins, Process, agent, metrics, text};

const GOOD: &str = "#!/bin/sh\necho level 7\n";

fn put(path: &Path, script: &str, mode: u32) {
    std::fs::write(path, script).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What the agent's copy of a file with this content is called.
fn copy_of(stem: &str, end: &str, content: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, content.as_bytes());
    let hex = digest.as_ref().iter().take(8).map(|b| format!("{b:02x}"));
    format!("{stem}-{}{end}", hex.collect::<String>())
}

fn command(words: &[&str], plugins: &Plugins, tmp: &Path) -> Command {
    let mut command = agent();
    command
        .args(words)
        .args(["--device", "d", "--plugin-dir"])
        .arg(plugins.0.path())
        .arg("--state-dir")
        .arg(plugins.path("state"))
        .env("TMPDIR", tmp);
    command
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|e| e.unwrap().path()).collect()
}

#[test]
fn a_command_at_the_terminal_neither_runs_nor_leaves_copies_in_the_state_directory() {
    let (plugins, tmp) = (Plugins::with(&[]), tempfile::tempdir().unwrap());
    put(&plugins.path("well.sh"), GOOD, 0o755);
    let copies = plugins.path("state/plugins");
    std::fs::create_dir_all(&copies).unwrap();
    let planted = copies.join(copy_of("well", ".sh", GOOD));
    let (trace, evil) = (
        plugins.path("trace"),
        "#!/bin/sh\necho level 666\n: >> \"${0%/*}/../../trace\"\n",
    );
    put(&planted, evil, 0o500);
    for words in [
        &["collect", "--format", "flat"][..],
        &["plugins"],
        &["check"],
    ] {
        let out = command(words, &plugins, tmp.path()).output().unwrap();
        assert!(out.status.success(), "{words:?}: {out:?}");
        if words[0] == "collect" {
            assert_eq!(text(&out.stdout), "/well/level 7\n");
        }
        assert!(!trace.exists(), "{words:?} ran what was planted");
        assert_eq!(entries(&copies), [planted.as_path()], "{words:?}");
        assert_eq!(std::fs::read_to_string(&planted).unwrap(), evil);
        assert!(entries(tmp.path()).is_empty(), "{words:?} left something");
    }
}

#[test]
fn copies_that_another_user_left_do_not_keep_an_agent_from_running() {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root || !Path::new("/usr/bin/setpriv").exists() {
        eprintln!("SKIPPED, for it needs root and setpriv: an agent of another user");
        return;
    }
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&[]);
    put(&plugins.path("well.sh"), GOOD, 0o755);
    std::fs::set_permissions(plugins.0.path(), Permissions::from_mode(0o755)).unwrap();
    // Where that user may read it.
    std::fs::create_dir(plugins.path("bin")).unwrap();
    let program = plugins.path("bin/devmon-agent");
    std::fs::copy(agent().get_program(), &program).unwrap();
    let state = plugins.path("state");
    std::fs::create_dir_all(state.join("plugins")).unwrap();
    for dir in [&state, &state.join("plugins")] {
        chown(dir, Some(12_345), Some(12_345)).unwrap();
    }
    let roots = state.join("plugins").join(copy_of("well", ".sh", GOOD));
    put(&roots, GOOD, 0o500);
    let mut command = Command::new("/usr/bin/setpriv");
    command
        .args(["--reuid=12345", "--regid=12345", "--clear-groups"])
        .arg(&program)
        .args(["run", "--device", "t1", "--interval", "200ms", "--mqtt"])
        .args([&broker.url(), "--plugin-dir"])
        .arg(plugins.0.path())
        .arg("--state-dir")
        .arg(&state);
    let _agent = Process::errors_of(&mut command);
    sub.wait_for("its level", |line| {
        let frames = metrics(line)?.frames;
        let of = |f: &&devmon_core::wire::Frame| f.source.as_deref() == Some("well");
        frames.iter().find(of).map(drop)
    });
    assert_eq!(std::fs::metadata(&roots).unwrap().uid(), 12_345);
}

#[test]
fn check_makes_no_state_directory() {
    let (plugins, tmp) = (Plugins::with(&[]), tempfile::tempdir().unwrap());
    let out = command(&["check"], &plugins, tmp.path()).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    assert!(!plugins.path("state").exists());
    assert!(!text(&out.stderr).contains("state directory"), "{out:?}");
}

#[test]
fn an_agent_does_not_start_where_others_could_change_what_it_runs() {
    let (plugins, tmp) = (Plugins::with(&[]), tempfile::tempdir().unwrap());
    put(&plugins.path("well.sh"), GOOD, 0o755);
    let state = plugins.path("state");
    std::fs::create_dir_all(state.join("plugins")).unwrap();
    let refused = |part: &str| {
        let mut run = Process::errors_of(&mut command(&["run"], &plugins, tmp.path()));
        let said = run.wait_for_line("devmon-agent: ");
        assert!(said.contains(part), "{part}: {said}");
        assert!(said.contains("give another --state-dir"), "{said}");
        assert_eq!(run.ended().code(), Some(78), "{said}");
    };
    std::fs::set_permissions(&state, Permissions::from_mode(0o777)).unwrap();
    refused("everyone may write to it: chmod o-w");
    std::fs::set_permissions(&state, Permissions::from_mode(0o755)).unwrap();
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("SKIPPED, for it needs root: state directories of other users");
        return;
    }
    chown(state.join("plugins"), Some(12_345), None).unwrap();
    refused("state/plugins: it belongs to user 12345");
    chown(&state, Some(12_345), None).unwrap();
    refused("state: it belongs to user 12345");
}

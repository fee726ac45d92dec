//! What happens to samples when the broker, the agent or the disk is gone for a while.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Broker, DEADLINE, Plugins, Process, agent, metrics, publish, run};

/// Ticks of all frames in a subscriber's line, in ms.
fn ticks(line: &str) -> Option<Vec<i64>> {
    let frames = metrics(line)?.frames;
    let of_plugin = frames
        .iter()
        .filter(|f| f.source.as_deref() == Some("two-a"));
    Some(of_plugin.map(|f| f.ts.unwrap().0).collect())
}

/// Runs an agent with the broker dead, for at least so many ticks of 100 ms; ends it with this signal. The first and the last tick that it must have seen.
fn measure_alone(broker: &Broker, plugins: &Plugins, more: &[&str], signal: &str) -> (i64, i64) {
    let args = [&["--interval", "100ms"], more].concat();
    let mut agent = publish("s", broker, plugins, &args);
    agent.wait_for_line("not connected");
    let now = || devmon_core::wire::TimestampMs::now().0;
    let first = now() + 100;
    std::thread::sleep(Duration::from_secs(2)); // the outage
    let last = now() - 300; // of a tick, the answer, the writing
    agent.signal(signal);
    agent.ended();
    (
        first.div_euclid(100) * 100 + 100,
        last.div_euclid(100) * 100,
    )
}

/// Waits until every tick of this range has come.
fn wait_for_all(sub: &mut Process, (first, last): (i64, i64)) {
    let expected: Vec<i64> = (first..=last).step_by(100).collect();
    assert!(expected.len() > 10, "{first} {last}");
    let mut seen = BTreeSet::new();
    let until = Instant::now() + Duration::from_secs(30);
    while !expected.iter().all(|tick| seen.contains(tick)) {
        let missing: Vec<_> = expected.iter().filter(|t| !seen.contains(*t)).collect();
        assert!(Instant::now() < until, "missing: {missing:?}");
        seen.extend(sub.wait_for("metrics", ticks));
    }
}

fn no_broker() -> Broker {
    let mut broker = Broker::start();
    broker.kill();
    broker
}

#[test]
fn strict_spool_survives_kill_9() {
    let mut broker = no_broker();
    let plugins = Plugins::with(&["two-a"]);
    let config = plugins.path("agent.toml");
    std::fs::write(&config, "[spool]\ndurability = 'strict'\n").unwrap();
    let config = ["--config", config.to_str().unwrap()];
    let measured = measure_alone(&broker, &plugins, &config, "KILL");
    broker.restart();
    let mut sub = broker.subscribe("devmon/#");
    let _agent = publish("s", &broker, &plugins, &config);
    wait_for_all(&mut sub, measured);
}

#[test]
fn what_is_pending_at_sigterm_is_delivered_by_the_next_agent() {
    let mut broker = no_broker();
    let plugins = Plugins::with(&["two-a"]);
    let measured = measure_alone(&broker, &plugins, &[], "TERM");
    broker.restart();
    let mut sub = broker.subscribe("devmon/#");
    let agent = publish("s", &broker, &plugins, &[]);
    wait_for_all(&mut sub, measured);
    // And the disk is given back.
    let spool = plugins.path("state").join("spool");
    let until = Instant::now() + Duration::from_secs(20);
    while bytes_in(&spool) > 64 {
        assert!(Instant::now() < until, "{}", agent.seen());
        std::thread::sleep(Duration::from_millis(20)); // polls the file system
    }
}

fn bytes_in(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap().flatten();
    // What went meanwhile has none.
    let sizes = files.filter_map(|f| f.metadata().ok());
    sizes.map(|metadata| metadata.len()).sum()
}

/// A file system of this test; unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// `None`: without mounts, on the word of whoever runs the tests. A test that could not be run for another reason is a test that failed.
    fn mount(at: &'a Path, options: &str) -> Option<Self> {
        if std::env::var_os("DEVMON_SKIP_MOUNT_TESTS").is_some() {
            eprintln!("NOT RUN: DEVMON_SKIP_MOUNT_TESTS is set");
            return None;
        }
        std::fs::create_dir_all(at).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(at)
            .status();
        assert!(
            mount.unwrap().success(),
            "a tmpfs can not be mounted: run as root, or set DEVMON_SKIP_MOUNT_TESTS=1 to go without"
        );
        Some(Self(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_leaves_memory_and_is_used_again_when_it_has_room() {
    let mut broker = no_broker();
    let plugins = Plugins::with(&["two-a"]);
    let state = plugins.path("state");
    let Some(_disk) = SmallDisk::mount(&state, "size=256k,mode=0700") else {
        return;
    };
    let filler = state.join("filler");
    Command::new("dd")
        .args(["if=/dev/zero", "bs=1k"])
        .arg(format!("of={}", filler.display()))
        .output()
        .unwrap();
    let args = ["--interval", "100ms"];
    let mut agent = publish("s", &broker, &plugins, &args);
    agent.wait_for_line("not connected");
    let now = || devmon_core::wire::TimestampMs::now().0.div_euclid(100) * 100;
    let first = now() + 200;
    let refused = agent.wait_for_line("the spool can not be written");
    assert!(refused.contains("No space left"), "{refused}");
    std::fs::remove_file(filler).unwrap();
    agent.wait_for_line("the spool can be written again");
    let last = now() - 300;
    // Or the agent may deliver before there is a subscriber.
    agent.signal("STOP");
    broker.restart();
    let mut sub = broker.subscribe("devmon/#");
    agent.signal("CONT");
    wait_for_all(&mut sub, (first, last));
}

#[test]
fn a_read_only_spool_leaves_memory_and_says_so() {
    let mut broker = no_broker();
    let plugins = Plugins::with(&["two-a"]);
    let spool = plugins.path("state").join("spool");
    let Some(_disk) = SmallDisk::mount(&spool, "ro") else {
        return;
    };
    let mut agent = publish("s", &broker, &plugins, &["--interval", "100ms"]);
    let refused = agent.wait_for_line("the spool can not be written");
    assert!(refused.contains("Read-only file system"), "{refused}");
    let now = || devmon_core::wire::TimestampMs::now().0.div_euclid(100) * 100;
    let first = now() + 200;
    let until = Instant::now() + DEADLINE;
    loop {
        let status = run(&["status", "--json"], &plugins);
        // Nothing until it listens.
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        let problem = status["spool"]["problem"].as_str().unwrap_or_default();
        if problem.contains("Read-only file system") {
            break;
        }
        assert!(Instant::now() < until, "{status}");
        std::thread::sleep(Duration::from_millis(50)); // polls
    }
    std::thread::sleep(Duration::from_secs(2)); // the outage
    let last = now() - 300;
    // Or the agent may deliver before there is a subscriber.
    agent.signal("STOP");
    broker.restart();
    let mut sub = broker.subscribe("devmon/#");
    agent.signal("CONT");
    wait_for_all(&mut sub, (first, last));
}

#[test]
fn what_it_keeps_is_for_nobody_else_to_read() {
    let broker = no_broker();
    for exists in [false, true] {
        let plugins = Plugins::with(&["two-a"]);
        let state = plugins.path("state");
        if exists {
            // As an earlier agent or an operator made them.
            for dir in ["spool", "plugins"] {
                std::fs::create_dir_all(state.join(dir)).unwrap();
                let open = std::fs::Permissions::from_mode(0o755);
                std::fs::set_permissions(state.join(dir), open).unwrap();
            }
        }
        let config = plugins.config("[spool]\ndurability = 'strict'\n");
        let mut command = Command::new("sh");
        command
            .args(["-c", "umask 022; exec \"$0\" \"$@\""])
            .arg(agent().get_program())
            .args(["run", "--device", "s", "--interval", "100ms"])
            .args(["--mqtt", &broker.url(), "--config", &config, "--plugin-dir"])
            .arg(plugins.0.path())
            .arg("--state-dir")
            .arg(&state);
        let _agent = Process::errors_of(&mut command);
        let until = Instant::now() + DEADLINE;
        let mut seen = Vec::new();
        let has = |seen: &[(PathBuf, u32)], end: &str| {
            seen.iter()
                .any(|(path, _)| path.to_string_lossy().ends_with(end))
        };
        while ![".dmj", ".so", ".sock"].iter().all(|end| has(&seen, end)) {
            assert!(Instant::now() < until, "{seen:?}");
            std::thread::sleep(Duration::from_millis(20)); // polls the file system
            seen.clear();
            modes(&state, &mut seen);
        }
        for (path, mode) in &seen {
            let expected = match path.extension() {
                _ if path.is_dir() => 0o700,
                Some(end) if end == "so" => 0o500, // a copy is never written to again
                _ => 0o600,
            };
            assert_eq!(*mode, expected, "{} {mode:o}", path.display());
        }
        // A directory that the operator made is the operator's.
        let of_state = std::fs::metadata(&state).unwrap().permissions().mode() & 0o777;
        assert!(exists || of_state == 0o700, "{of_state:o}");
    }
}

/// Everything below a directory, with its permissions.
fn modes(dir: &Path, into: &mut Vec<(PathBuf, u32)>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        // The journal and the copies write beside and rename: what is gone again is no matter.
        let Ok(metadata) = std::fs::symlink_metadata(entry.path()) else {
            continue;
        };
        into.push((entry.path(), metadata.permissions().mode() & 0o777));
        if metadata.is_dir() {
            modes(&entry.path(), into);
        }
    }
}

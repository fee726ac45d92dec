//! What happens to samples when the broker, the agent or the disk is gone for a while.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Broker, Plugins, Process, metrics, publish};

/// Ticks of all frames in a subscriber's line, in ms.
fn ticks(line: &str) -> Option<Vec<i64>> {
    let frames = metrics(line)?.frames;
    Some(frames.iter().map(|f| f.ts.unwrap().0).collect())
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
    files.map(|f| f.metadata().unwrap().len()).sum()
}

/// A file system of this test; unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path, size: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={size}");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at)
            .status();
        assert!(
            mount.unwrap().success(),
            "mounting a tmpfs needs root; DEVMON_SKIP_MOUNT_TESTS=1 leaves these tests out"
        );
        Self(at)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_leaves_memory_and_is_used_again_when_it_has_room() {
    if std::env::var_os("DEVMON_SKIP_MOUNT_TESTS").is_some() {
        return;
    }
    let mut broker = no_broker();
    let plugins = Plugins::with(&["two-a"]);
    let state = plugins.path("state");
    let _disk = SmallDisk::mount(&state, "256k");
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
    broker.restart();
    let mut sub = broker.subscribe("devmon/#");
    wait_for_all(&mut sub, (first, last));
}

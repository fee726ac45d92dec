//! What an operator and the service manager tell a running agent, and hear from it; and what it does while its clock is wrong.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value as Json;

use crate::support::{
    Broker, DEADLINE, Plugins, Process, agent, json, metrics, publish, run, text,
};

fn status(plugins: &Plugins) -> Json {
    let out = run(&["status", "--json"], plugins);
    assert!(out.status.success(), "{}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn source<'a>(status: &'a Json, name: &str) -> &'a Json {
    let sources = status["sources"].as_array().unwrap();
    sources.iter().find(|s| s["name"] == name).unwrap()
}

fn failed(out: &Output) -> String {
    assert_eq!(out.status.code(), Some(1));
    text(&out.stderr)
}

#[test]
fn status_says_how_the_running_agent_does() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a", "unavailable"]);
    let none = failed(&run(&["status"], &plugins));
    assert!(
        none.contains("no agent answers at") && none.contains("is it running"),
        "{none}"
    );

    let mut agent = publish("c1", &broker, &plugins, &["--interval", "200ms"]);
    let acknowledged = |line: &str| {
        let frames = metrics(line)?.frames;
        let own = frames
            .iter()
            .find(|f| f.source.as_deref() == Some("agent"))?;
        let leaves: Vec<String> = own
            .metrics
            .leaves()
            .map(|(p, v)| format!("{p} {v}"))
            .collect();
        let connected = leaves.contains(&"/connected true".to_owned());
        (connected && leaves.iter().any(|l| l.starts_with("/resident_bytes "))).then_some(())
    };
    sub.wait_for("the agent's own metrics", acknowledged);
    let status = status(&plugins);
    assert_eq!(status["device"], "c1");
    assert_eq!(status["connected"], true);
    assert_eq!(status["pid"], agent.pid());
    assert!(status["acknowledged"].as_u64() > Some(0), "{status}");
    assert_eq!(source(&status, "two-a")["state"], "ok");
    assert_eq!(source(&status, "agent")["interval_ms"], 200);
    assert_eq!(source(&status, "unavailable")["reason"], "no such hardware");
    assert_eq!(status["isolation"]["two-a"], "process");

    let people = text(&run(&["status"], &plugins).stdout);
    assert!(
        people.contains("c1 (devmon-agent") && people.contains(": connected\n"),
        "{people}"
    );
    assert!(
        people.contains("unavailable       unavailable  process"),
        "{people}"
    );

    // A second agent with the same directory does not take the first one's socket or spool.
    let mut second = publish("c2", &broker, &plugins, &[]);
    let whose = format!("another agent (process {}) has ", agent.pid());
    let (mut socket, mut spool) = (false, false);
    second.wait_for("whose the directory is", |line| {
        socket |= line.contains("another agent answers there");
        if line.contains(&whose) {
            assert!(
                line.contains("give this one a --state-dir") && !line.contains("free space"),
                "{line}"
            );
            spool = true;
        }
        (socket && spool).then_some(())
    });
    drop(second);
    assert_eq!(self::status(&plugins)["device"], "c1");
    agent.signal("TERM");
    agent.ended();
}

#[test]
fn a_second_agent_leaves_the_copies_that_the_first_runs_from() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let (plugins, others) = (Plugins::with(&[]), Plugins::with(&["two-a"]));
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::write(plugins.path("well"), "#!/bin/sh\necho level 7\n").unwrap();
    std::fs::set_permissions(plugins.path("well"), executable).unwrap();
    let state = plugins.path("state").display().to_string();
    let args = ["--interval", "200ms", "--state-dir", &state];
    let first = publish("c10", &broker, &plugins, &args);
    let level = |line: &str| {
        let frames = metrics(line)?.frames;
        let well = |f: &&devmon_core::wire::Frame| f.source.as_deref() == Some("well");
        frames.iter().find(well).map(drop)
    };
    sub.wait_for("a level", level);
    let _second = publish("c11", &broker, &others, &args);
    sub.wait_for("metrics of the second", |line| {
        line.starts_with("devmon/v1/0/c11/metrics").then_some(())
    });
    for _ in 0..10 {
        sub.wait_for("a level", level);
    }
    let log = first.seen();
    assert!(!log.contains("source is failing"), "{log}");
}

/// It has two good rounds each time, so that it is the 20th crash in an hour: eight in a row would take two minutes of back-off.
#[test]
fn an_operator_lets_a_quarantined_source_in_again() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    plugins.c_as("bad", "libbad.so", &["MODE=EXIT", "VERSION=1"]);
    let running = publish("c3", &broker, &plugins, &["--interval", "200ms"]);
    sub.wait_for("metrics", metrics);
    let until = Instant::now() + Duration::from_secs(240);
    let bad = loop {
        let status = status(&plugins);
        let bad = source(&status, "bad").clone();
        if bad["state"] == "quarantined" {
            break bad;
        }
        assert!(Instant::now() < until, "{bad}: {}", running.seen());
        std::thread::sleep(Duration::from_millis(500)); // polls; `about` could be waited for, but not for so long
    };
    let reason = bad["reason"].as_str().unwrap();
    assert!(
        reason.contains("crashed 20 times") && reason.contains("devmon-agent retry bad"),
        "{reason}"
    );
    assert_eq!(status(&plugins)["crashes"]["bad"], 20);
    let people = text(&run(&["status"], &plugins).stdout);
    assert!(people.contains("       20  crashed 20 times"), "{people}");
    let retried = run(&["retry", "bad"], &plugins);
    assert!(
        text(&retried.stdout).contains("bad is tried again"),
        "{retried:?}"
    );
    // It is made anew and has its two good rounds.
    let quarantined = running.seen().matches("licence has run out").count();
    let until = Instant::now() + DEADLINE;
    while running.seen().matches("licence has run out").count() == quarantined {
        assert!(Instant::now() < until, "{}", running.seen());
        std::thread::sleep(Duration::from_millis(50)); // polls; the log has no lock to wait on
    }
    assert_eq!(source(&status(&plugins), "bad")["state"], "failing");
    let unknown = failed(&run(&["retry", "nobody"], &plugins));
    assert!(
        unknown.contains("no source or file is called \"nobody\"; there are: ")
            && unknown.contains("two-a"),
        "{unknown}"
    );
}

#[test]
fn the_control_socket_outlives_a_lack_of_descriptors() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&[]);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 40; exec \"$0\" \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_devmon-agent"));
    command.args(["run", "--device", "c8", "--mqtt", &broker.url()]);
    command.arg("--plugin-dir").arg(plugins.0.path());
    command.arg("--state-dir").arg(plugins.path("state"));
    let mut running = Process::errors_of(&mut command);
    sub.wait_for("about", |line| json(line, "/about"));
    let socket = plugins.path("state/control.sock");
    let idle: Vec<_> = (0..60)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    running.wait_for_line("the control socket takes nobody in");
    drop(idle);
    assert_eq!(status(&plugins)["device"], "c8");
}

#[test]
fn sighup_touches_only_what_changed() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a", "two-b"]);
    let config = plugins.config("interval = '500ms'\n[labels]\nsite = 'berlin'\n");
    let mut agent = publish("c4", &broker, &plugins, &["--config", &config]);
    sub.wait_for("metrics", metrics);
    let boot = |l: &str| metrics(l).map(|m| m.id.unwrap().boot);
    let before = sub.wait_for("metrics", boot);

    plugins.config("interval = '500ms'\n[sources.two-a]\ninterval = '200ms'\n[sources.two-b]\nenabled = false\n[labels]\nsite = 'bonn'\n");
    let is_in = |about: &Json, site: &str| about["labels"]["site"] == site;
    // It may have come before the second metrics.
    if !sub.seen().contains(r#""site":"berlin""#) {
        sub.wait_for("the labels", |line| {
            json(line, "/about").filter(|about| is_in(about, "berlin"))
        });
    }
    agent.signal("HUP");
    sub.wait_for("the new labels and intervals", |line| {
        let about = json(line, "/about").filter(|about| is_in(about, "bonn"))?;
        let sources = about["sources"].as_array()?.clone();
        let has = |name: &str, key: &str, value: Json| {
            sources.iter().any(|s| s["name"] == name && s[key] == value)
        };
        (has("two-a", "interval_ms", 200.into()) && has("two-b", "state", "stopped".into()))
            .then_some(())
    });
    assert_eq!(
        sub.wait_for("metrics", boot),
        before,
        "it is the same agent"
    );
    let log = agent.wait_for_line("configuration read again");
    assert!(log.contains("two-a") && log.contains("two-b"), "{log}");

    std::fs::write(&config, "intervall = '1s'\n").unwrap();
    agent.signal("HUP");
    let log = agent.wait_for_line("the configuration is not usable");
    assert!(
        log.contains("intervall") && log.contains("interval"),
        "{log}"
    );
    sub.wait_for("it goes on", metrics);
    // Offline was never said: the connection stood all the time.
    assert!(!sub.seen().contains("\"offline\""));
}

#[test]
fn sighup_connects_to_another_broker_and_keeps_what_waits() {
    let mut first = Broker::start();
    let second = Broker::start();
    let mut sub = second.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    first.kill();
    let config = plugins.config(&format!("mqtt = '{}'\ninterval = '200ms'\n", first.url()));
    let mut command = agent();
    command.args(["run", "--device", "c5", "--config", &config, "--plugin-dir"]);
    command
        .arg(plugins.0.path())
        .arg("--state-dir")
        .arg(plugins.path("state"));
    let mut agent = Process::errors_of(&mut command);
    agent.wait_for_line("not connected");
    plugins.config(&format!("mqtt = '{}'\ninterval = '200ms'\n", second.url()));
    agent.signal("HUP");
    // The very first message, measured for the other broker.
    sub.wait_for("message 0", |l| {
        metrics(l).filter(|m| m.id.as_ref().unwrap().seq == 0)
    });
}

#[test]
fn a_broker_that_is_left_on_purpose_hears_it_from_the_agent() {
    let (first, second) = (Broker::start(), Broker::start());
    let mut left = first.subscribe("devmon/#");
    let mut sub = second.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    let config = |broker: &Broker| {
        plugins.config(&format!("mqtt = '{}'\ninterval = '200ms'\n", broker.url()))
    };
    let mut command = agent();
    let path = config(&first);
    command.args(["run", "--device", "c10", "--config", &path, "--plugin-dir"]);
    command
        .arg(plugins.0.path())
        .arg("--state-dir")
        .arg(plugins.path("state"));
    let running = Process::errors_of(&mut command);
    left.wait_for("metrics", metrics);
    config(&second);
    running.signal("HUP");
    let offline = |line: &str| json(line, "/status").filter(|s| s["status"] == "offline");
    let status = left.wait_for("offline", offline);
    assert_eq!(status["reason"], "moved", "{status}");
    assert!(status["ts"].is_i64(), "{status}");
    sub.wait_for("online", |line| {
        json(line, "/status").filter(|s| s["status"] == "online")
    });
    sub.wait_for("metrics", metrics);
    // Everything that the first broker has to say is said, and no last will is in it.
    first.marker();
    left.wait_for_line("marker");
    assert!(!left.seen().contains("connection lost"), "{}", left.seen());
}

#[test]
fn the_service_manager_hears_of_ready_life_reload_and_end() {
    let broker = Broker::start();
    let plugins = Plugins::with(&["two-a"]);
    let socket = plugins.path("notify");
    let heard = UnixDatagram::bind(&socket).unwrap();
    heard.set_read_timeout(Some(DEADLINE)).unwrap();
    // The watchdog is for one process, which must say its own id: the shell becomes the agent.
    let mut command = Command::new("sh");
    command.args(["-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_devmon-agent"));
    command.args(["run", "--device", "c6", "--mqtt", &broker.url()]);
    command.arg("--plugin-dir").arg(plugins.0.path());
    command.arg("--state-dir").arg(plugins.path("state"));
    command
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "600000");
    let mut running = Process::errors_of(&mut command);
    let next = || {
        let mut buffer = [0; 256];
        let n = heard.recv(&mut buffer).unwrap();
        text(&buffer[..n])
    };
    let wait_for = |word: &str| while !next().contains(word) {};
    wait_for("READY=1");
    for _ in 0..5 {
        wait_for("WATCHDOG=1"); // each 200 ms, although nothing is due for 10 s
    }
    running.signal("HUP");
    wait_for("RELOADING=1");
    wait_for("READY=1");
    running.signal("TERM");
    wait_for("STOPPING=1");
    assert_eq!(running.ended().code(), Some(0));
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_millis()).unwrap()
}

/// An agent whose wall clock is that of 1970, and the file that holds by how much it is off.
fn in_1970(device: &str, broker: &Broker, plugins: &Plugins) -> (Process, PathBuf) {
    let preload = plugins.path("clock.preload");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/src/chaos/clock.c");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"])
        .arg(&preload)
        .arg(source);
    assert!(cc.status().unwrap().success());
    let offset = plugins.path("offset");
    let to_1970 = -(now_ms() - 30_000) * 1_000_000;
    std::fs::write(&offset, to_1970.to_ne_bytes()).unwrap();
    let mut command = agent();
    command.args(["run", "--device", device, "--interval", "200ms"]);
    command.args(["--mqtt", &broker.url(), "--plugin-dir"]);
    command
        .arg(plugins.0.path())
        .arg("--state-dir")
        .arg(plugins.path("state"));
    command
        .env("LD_PRELOAD", &preload)
        .env("DEVMON_CHAOS_CLOCK", &offset);
    (Process::errors_of(&mut command), offset)
}

#[test]
fn what_never_gets_a_time_is_not_lost_silently() {
    let broker = Broker::start();
    let plugins = Plugins::with(&["two-a"]);
    let (mut running, _) = in_1970("c9", &broker, &plugins);
    running.wait_for_line("the clock is not set");
    running.signal("TERM");
    let line = running.wait_for_line("what was measured has no time and is lost");
    assert!(line.contains("frames="), "{line}");
    assert_eq!(running.ended().code(), Some(0));
}

#[test]
fn what_is_measured_before_the_clock_is_set_is_never_of_1970() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    let start = now_ms();
    let (mut running, offset) = in_1970("c7", &broker, &plugins);
    running.wait_for_line("the clock is not set");
    std::thread::sleep(Duration::from_secs(2)); // ten rounds in 1970
    let status = status(&plugins);
    assert_eq!(status["clock"]["set"], false);
    assert!(
        status["clock"]["held_frames"].as_u64() > Some(5),
        "{status}"
    );
    assert!(
        !sub.seen().contains("/metrics"),
        "nothing was published: {}",
        sub.seen()
    );

    // The page is shared with the agent: it must be written in place.
    let file = std::fs::File::options().write(true).open(&offset).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &0_i64.to_ne_bytes(), 0).unwrap();
    let message = sub.wait_for("what was held", metrics);
    let mut times: Vec<i64> = message.frames.iter().map(|f| f.ts.unwrap().0).collect();
    times.sort_unstable();
    assert!(times.len() > 5, "{times:?}");
    assert!(
        times[0] >= start && times[times.len() - 1] <= now_ms(),
        "{start}: {times:?}"
    );
    assert!(
        times[times.len() - 1] - times[0] > 1_000,
        "each has its own time: {times:?}"
    );
}

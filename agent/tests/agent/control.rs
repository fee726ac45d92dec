//! What an operator tells a running agent, and hears from it.

use std::process::Output;

use serde_json::Value as Json;

use crate::support::{Broker, Plugins, json, metrics, publish, run, text};

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
    second.wait_for_line("another agent answers there");
    drop(second);
    assert_eq!(self::status(&plugins)["device"], "c1");
    agent.signal("TERM");
    agent.ended();
}

#[test]
fn an_operator_lets_a_quarantined_source_in_again() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a"]);
    let _agent = publish("c3", &broker, &plugins, &["--interval", "200ms"]);
    sub.wait_for("metrics", metrics);
    let retried = run(&["retry", "two-a"], &plugins);
    assert!(
        text(&retried.stdout).contains("two-a is tried again"),
        "{retried:?}"
    );
    let unknown = failed(&run(&["retry", "nobody"], &plugins));
    assert!(
        unknown.contains("no source is called \"nobody\"; there are: two-a"),
        "{unknown}"
    );
}

#[test]
fn sighup_touches_only_what_changed() {
    let broker = Broker::start();
    let mut sub = broker.subscribe("devmon/#");
    let plugins = Plugins::with(&["two-a", "two-b"]);
    let config = plugins.config("interval = '500ms'\n");
    let mut agent = publish("c4", &broker, &plugins, &["--config", &config]);
    sub.wait_for("metrics", metrics);
    let boot = |l: &str| metrics(l).map(|m| m.id.unwrap().boot);
    let before = sub.wait_for("metrics", boot);

    plugins.config("interval = '500ms'\n[sources.two-a]\ninterval = '200ms'\n[sources.two-b]\nenabled = false\n");
    agent.signal("HUP");
    sub.wait_for("the new intervals", |line| {
        let about = json(line, "/about")?;
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
    let mut command = crate::support::agent();
    command.args(["run", "--device", "c5", "--config", &config, "--plugin-dir"]);
    command
        .arg(plugins.0.path())
        .arg("--state-dir")
        .arg(plugins.path("state"));
    let mut agent = crate::support::Process::errors_of(&mut command);
    agent.wait_for_line("not connected");
    plugins.config(&format!("mqtt = '{}'\ninterval = '200ms'\n", second.url()));
    agent.signal("HUP");
    // The very first message, measured for the other broker.
    sub.wait_for("message 0", |l| {
        metrics(l).filter(|m| m.id.as_ref().unwrap().seq == 0)
    });
}

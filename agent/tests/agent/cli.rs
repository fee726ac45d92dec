//! What is typed wrongly, and what is printed.

use crate::support::{Plugins, Process, agent, run, text};

/// `EX_CONFIG` of sysexits.h: a service manager need not try again.
const EX_CONFIG: Option<i32> = Some(78);

#[test]
fn a_misspelt_key_ends_with_78_and_its_place() {
    let plugins = Plugins::with(&[]);
    let config = plugins.path("agent.toml");
    std::fs::write(&config, "device = 'd'\nintervall = '1s'\n").unwrap();
    for command in ["run", "check", "collect"] {
        let out = run(&[command, "--config", config.to_str().unwrap()], &plugins);
        assert_eq!(out.status.code(), EX_CONFIG);
        let said = text(&out.stderr);
        let place = format!("{}:2:1: ", config.display());
        assert!(
            said.contains(&place) && said.contains("did you mean \"interval\""),
            "{said}"
        );
    }
}

#[test]
fn a_bad_flag_or_variable_ends_with_78() {
    let plugins = Plugins::with(&[]);
    for args in [
        &["run", "--intervall", "1s"][..],
        &["run", "--interval", "10 parsecs"],
        &["run", "--device", "_x"],
        &["run", "--mqtt", "http://x"],
        &["--shards", "0"],
        &["fly"],
    ] {
        let out = run(args, &plugins);
        assert_eq!(out.status.code(), EX_CONFIG, "{args:?}");
    }
    let out = agent()
        .arg("check")
        .env("DEVMON_MQTT", "x")
        .output()
        .unwrap();
    assert_eq!(out.status.code(), EX_CONFIG);
    assert!(text(&out.stderr).contains("DEVMON_MQTT=\"x\""), "{out:?}");
    assert_eq!(
        agent().arg("--help").output().unwrap().status.code(),
        Some(0)
    );
}

#[test]
fn a_certificate_that_is_missing_is_named_with_the_settings_that_lead_to_it() {
    let plugins = Plugins::with(&[]);
    let config = plugins.config("device = 'd'\nmqtt = 'mqtts://127.0.0.1:1'\ncerts = 'keys'\n");
    let out = run(&["check", "--config", &config], &plugins);
    assert_eq!(out.status.code(), EX_CONFIG);
    let said = text(&out.stderr);
    let keys = plugins.path("keys");
    for part in [
        format!("{}/root-CA.crt", keys.display()),
        format!("certs = \"{}\"", keys.display()),
        "mqtt = \"mqtts://127.0.0.1:1\"".to_owned(),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
}

#[test]
fn the_printed_configuration_passes_its_own_check() {
    let plugins = Plugins::with(&["two-a"]);
    let printed = agent().arg("config").output().unwrap().stdout;
    let config = plugins.path("agent.toml");
    std::fs::write(&config, printed).unwrap();
    let out = run(
        &[
            "check",
            "--device",
            "d",
            "--config",
            config.to_str().unwrap(),
        ],
        &plugins,
    );
    assert!(out.status.success(), "{out:?}");
    let said = text(&out.stdout);
    assert!(
        said.starts_with("ok device=d mqtt=mqtt://127.0.0.1:1883 "),
        "{said}"
    );
    assert!(said.ends_with("sources=two-a\n"), "{said}");
}

#[test]
fn check_warns_of_a_source_that_no_plugin_provides() {
    let plugins = Plugins::with(&["two-a"]);
    let config = plugins.path("agent.toml");
    std::fs::write(&config, "[sources.two-aa]\ninterval = '1s'\n").unwrap();
    let out = run(
        &[
            "check",
            "--device",
            "d",
            "--config",
            config.to_str().unwrap(),
        ],
        &plugins,
    );
    let said = text(&out.stderr);
    assert!(
        said.contains("[sources.two-aa]") && said.contains("did you mean \"two-a\""),
        "{said}"
    );
}

#[test]
fn without_plugins_and_broker_the_agent_runs_says_so_and_ends_in_order() {
    let plugins = Plugins::with(&[]);
    let mut command = agent();
    command.args([
        "--device",
        "d",
        "--mqtt",
        "mqtt://127.0.0.1:1",
        "--plugin-dir",
    ]);
    let mut running = Process::errors_of(command.arg(plugins.0.path()));
    running.wait_for_line("no plugins");
    let refused = running.wait_for_line("not connected");
    assert!(refused.contains("is the broker running?"), "{refused}");
    running.signal("TERM");
    assert_eq!(running.ended().code(), Some(0));
}

#[test]
fn check_warns_of_what_would_cost_metrics_and_passes() {
    let plugins = Plugins::with(&["two-a", "panics-in-new"]);
    let state = plugins.path("state");
    std::fs::write(&state, "a file where the state directory should be").unwrap();
    let out = agent()
        .args(["check", "--device", "d", "--plugin-dir"])
        .arg(plugins.0.path())
        .arg("--state-dir")
        .arg(&state)
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    assert!(
        text(&out.stdout).ends_with("sources=panics-in-new,two-a\n"),
        "{out:?}"
    );
    let said = text(&out.stderr);
    for part in [
        "warning: panics-in-new: ",
        "can not be written to",
        "in memory only",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("warning: two-a"), "{said}");
}

#[test]
fn each_line_for_journald_has_its_priority_and_says_of_what_it_speaks() {
    let plugins = Plugins::with(&["panics-in-new", "two-a"]);
    let (device, format) = (["--device", "d"], ["--log-format", "journald"]);
    let out = run(&[&["collect"][..], &device, &format].concat(), &plugins);
    let said = text(&out.stderr);
    let log: Vec<_> = said.lines().filter(|l| l.starts_with('<')).collect();
    let has =
        |start: &str, part: &str| log.iter().any(|l| l.starts_with(start) && l.contains(part));
    assert!(has("<4>", "panics-in-new"), "{said}");
    assert!(!said.contains('\u{1b}'), "{said}");
}

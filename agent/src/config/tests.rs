//! Promises of the settings.

use super::*;

fn resolve(flags: Flags, env: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::resolve(&flags, |name| {
        let found = env.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| (*value).to_owned())
    })
}

fn in_file(text: &str) -> (tempfile::TempDir, Flags) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    let flags = Flags {
        config: Some(path),
        ..Flags::default()
    };
    (dir, flags)
}

#[test]
fn the_printed_default_is_the_default() {
    let (_dir, flags) = in_file(DEFAULT_TOML);
    let device = ("DEVMON_DEVICE", "d");
    let printed = resolve(flags, &[device]).unwrap();
    let plain = resolve(Flags::default(), &[device]).unwrap();
    assert_eq!(printed.mqtt, plain.mqtt);
    assert_eq!(printed.interval, plain.interval);
    assert_eq!(printed.topics, plain.topics);
    assert_eq!(printed.outbox_bytes, plain.outbox_bytes);
    assert_eq!(printed.spool, plain.spool);
    assert_eq!(printed.publish_every, plain.publish_every);
    assert_eq!(printed.compression, plain.compression);
    assert_eq!(printed.jitter, plain.jitter);
    assert!(printed.sources.is_empty());

    // The lines that are commented out are right, too.
    let all: String = DEFAULT_TOML
        .lines()
        .map(|l| match l.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{l}\n"),
        })
        .collect();
    let (_dir, flags) = in_file(&all);
    let all = resolve(flags, &[]).unwrap();
    assert!(all.sources.contains_key("disk"), "{all:?}");
    assert_eq!(all.labels["site"], "berlin");
}

#[test]
fn a_wrong_label_is_refused_with_its_place() {
    let long = format!("[labels]\na = 'x'\nsite = '{}'\n", "x".repeat(257));
    for (text, place, says) in [
        (
            "[labels]\na = 'x'\nSite = 'x'\n",
            ":3:1: ",
            "a-z, 0-9 and _",
        ),
        (&long, ":3:8: ", "256"),
        ("[labels]\nsite = 1\n", ":2:8: ", "string"),
    ] {
        let (_dir, flags) = in_file(text);
        let error = resolve(flags, &[("DEVMON_DEVICE", "d")]).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(says) && error.contains(place), "{error}");
    }
}

#[test]
fn batches_and_a_strict_spool_exclude_each_other() {
    let text = "publish_every = '1m'\n[spool]\ndurability = 'strict'\n";
    let (_dir, flags) = in_file(text);
    let error = resolve(flags, &[]).unwrap_err().to_string();
    assert!(error.contains("leave one of the two out"), "{error}");
}

#[test]
fn the_command_line_wins_over_environment_over_file() {
    let (_dir, file) = in_file("device = 'file'\ninterval = '30s'\n");
    assert_eq!(resolve(file.clone(), &[]).unwrap().device.as_str(), "file");
    let seed = ("DEVICE_NAME", "seed");
    let of = |flags: &Flags, env: &[_]| resolve(flags.clone(), env).unwrap().device;
    assert_eq!(of(&file, &[seed]).as_str(), "seed");
    let ours = ("DEVMON_DEVICE", "ours");
    assert_eq!(of(&file, &[seed, ours]).as_str(), "ours");
    let flags = Flags {
        device: Some("flag".parse().unwrap()),
        ..file.clone()
    };
    assert_eq!(of(&flags, &[seed, ours]).as_str(), "flag");
    let empty = ("DEVMON_DEVICE", "");
    assert_eq!(of(&file, &[empty]).as_str(), "file");
    let at = |env: &[_]| resolve(file.clone(), env).unwrap().interval.as_secs();
    assert_eq!((at(&[]), at(&[("DEVMON_INTERVAL", "5s")])), (30, 5));
}

#[test]
fn the_seeds_endpoint_means_tls() {
    let mqtt = |value| {
        let env = [("DEVMON_DEVICE", "d"), ("AWS_IOT_ENDPOINT", value)];
        resolve(Flags::default(), &env).map(|s| s.mqtt.to_string())
    };
    assert_eq!(
        mqtt("x-ats.iot.eu-west-1.amazonaws.com").unwrap(),
        "mqtts://x-ats.iot.eu-west-1.amazonaws.com:8883"
    );
    assert_eq!(mqtt("x:443").unwrap(), "mqtts://x:443");
    let error = mqtt("https://x").unwrap_err().to_string();
    assert!(error.starts_with("AWS_IOT_ENDPOINT="), "{error}");
}

#[test]
fn an_error_names_its_place() {
    for (text, place, part) in [
        (
            "device = 'd'\nintervall = '1s'\n",
            ":2:1: ",
            "did you mean \"interval\"",
        ),
        (
            "[sources.cpu]\nenable = true\n",
            ":2:1: ",
            "did you mean \"enabled\"",
        ),
        ("mqtt = 'http://x'\n", ":1:8: ", "mqtt://host:port"),
        ("device = '_x'\n", ":1:10: ", "not legal"),
        ("\ninterval = '1ms'\n", ":2:12: ", "100ms to 24h"),
        ("shards = 0\n", ":1:10: ", "nonzero"),
        ("topic_prefix = 'a+'\n", ":1:16: ", "topic prefix"),
        ("outbox_bytes = 5\n", ":1:16: ", "the least is"),
        ("[sources.cpu]\nconfig = 3\n", ":2:10: ", "map"),
        (
            "[sources.cpu]\nmemory_bytes = 1\n",
            ":2:16: ",
            "memory_bytes = 1 lets no plugin start; the least is 16777216",
        ),
        (
            "[sources.cpu]\nopen_files = 3\n",
            ":2:14: ",
            "the least is 16",
        ),
    ] {
        let (_dir, flags) = in_file(text);
        let error = resolve(flags, &[]).unwrap_err().to_string();
        assert!(
            error.contains(place) && error.contains(part),
            "{text}: {error}"
        );
    }
}

#[test]
fn a_sources_interval_is_its_own_else_the_plugins_else_the_general_one() {
    let (_dir, flags) = in_file("interval = '20s'\n[sources.a]\ninterval = '1s'\n");
    let settings = resolve(flags, &[("DEVMON_DEVICE", "d")]).unwrap();
    let of = |name, ms: Option<u64>| {
        settings
            .interval_of(name, ms.map(Duration::from_millis))
            .as_millis()
    };
    assert_eq!(of("a", Some(5_000)), 1_000);
    assert_eq!(of("b", Some(5_000)), 5_000);
    assert_eq!(of("b", None), 20_000);
    assert_eq!(of("b", Some(1)), 100);
}

#[test]
fn paths_in_a_file_are_relative_to_it() {
    let (dir, flags) = in_file("device = 'd'\ncerts = 'keys'\n");
    assert_eq!(resolve(flags, &[]).unwrap().certs, dir.path().join("keys"));
}

#[test]
fn what_is_read_again_makes_no_combination_that_the_start_refuses() {
    let read = |text: &str| {
        let (_dir, flags) = in_file(text);
        resolve(flags, &[("DEVMON_DEVICE", "d")]).unwrap()
    };
    let strict = read("[spool]\ndurability = 'strict'\n");
    let batches = read("publish_every = '5m'\ninterval = '3s'\n");
    let mut new = batches.clone();
    let kept = new.keep_until_restart(&strict);
    assert_eq!(new.spool, strict.spool);
    assert_eq!(new.publish_every, Duration::ZERO);
    assert_eq!(new.interval, Duration::from_secs(3), "the rest counts");
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(kept[1].starts_with("publish_every"), "{kept:?}");
    // The other way round, and without a strict spool, nothing stands against it.
    let mut new = strict.clone();
    assert_eq!(
        new.keep_until_restart(&batches),
        ["[spool] or outbox_bytes"]
    );
    assert_eq!(new.spool, batches.spool);
    let mut new = batches.clone();
    assert!(new.keep_until_restart(&read("")).is_empty());
    assert_eq!(new.publish_every, Duration::from_secs(300));
}

#[test]
fn a_library_is_loaded_with_the_limits_of_its_name_or_of_whichever_it_may_be() {
    let (_dir, flags) = in_file(
        "[sources.model]\nmemory_bytes = 1073741824\n[sources.pump]\nopen_files = 1000\n[sources.small]\nmemory_bytes = 16777216\n",
    );
    let settings = resolve(flags, &[("DEVMON_DEVICE", "d")]).unwrap();
    let of = |name: &str| {
        let limits = settings.trial_limits_of(name);
        (limits.memory_bytes >> 20, limits.open_files)
    };
    assert_eq!(of("model"), (1024, 256));
    assert_eq!(of("small"), (16, 256));
    assert_eq!(of("libother"), (1024, 1000), "it may be any of them");
}

//! What Home Assistant would find, and when it is told anew.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use crate::broker::{Broker, wait_for};
use crate::collector::{Collector, introduce, send};

const NODE: &str = "devmon-collector-home-assistant";
const ALL: &str = "[home_assistant]\nenabled = true\npaths = ['/cpu/**']\ninterval = '1s'\n";
const METRICS: &str = r#"{"utilization":0.125,"/home":{"read":7},"throttled":true,"model":"A"}"#;

fn url(broker: &Broker) -> String {
    format!("mqtt://127.0.0.1:{}", broker.port)
}

fn device_topic(device: &str, kind: &str) -> String {
    format!("devmon/ha/{NODE}/{device}/{kind}")
}

fn collector_topic() -> String {
    format!("devmon/ha/{NODE}/status")
}

/// The retained messages of discovery.
fn configs(broker: &Broker) -> Vec<(String, Json)> {
    let retained = broker.retained().into_iter();
    let configs = retained.filter(|(topic, _)| topic.starts_with("homeassistant/"));
    configs
        .map(|(topic, payload)| (topic, serde_json::from_str(&payload).unwrap()))
        .collect()
}

/// Waits until so many entities are announced, and no more have to be.
fn announced(broker: &Broker, entities: usize) -> Vec<(String, Json)> {
    wait_for("the entities are announced", || {
        let configs = configs(broker);
        (configs.len() == entities).then_some(configs)
    })
}

/// What Home Assistant would show as the value: it looks the key of the template up.
fn value(state: &str, config: &Json) -> Json {
    let template = config["value_template"].as_str().unwrap();
    let key = template
        .strip_prefix("{{ value_json['")
        .and_then(|rest| rest.strip_suffix("'] }}"));
    let state: Json = serde_json::from_str(state).unwrap();
    state[key.unwrap()].clone()
}

#[test]
fn discovery_is_retained_valid_and_nothing_that_the_collector_reads() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let collector = Collector::start(dir.path(), &url(&broker), ALL);
    introduce(&broker, "edge.1");
    send(&broker, "edge.1", 1, METRICS);
    let all = announced(&broker, 4);
    let retained = broker.retained();
    assert_eq!(retained[&collector_topic()], "online");
    assert_eq!(retained[&device_topic("edge.1", "status")], "online");
    let mut names = BTreeSet::new();
    for (topic, config) in &all {
        let levels: Vec<_> = topic.split('/').collect();
        let [_, component, node, entity, "config"] = levels[..] else {
            panic!("{topic}");
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        assert!(node == NODE && entity.chars().all(legal), "{topic}");
        assert!(names.insert(config["unique_id"].as_str().unwrap().to_owned()));
        assert_eq!(
            config["device"],
            json!({"identifiers": ["devmon/edge.1"], "name": "edge.1", "model": "Debian GNU/Linux 12 (bookworm)", "hw_version": "aarch64", "sw_version": "devmon-agent 0.1.0"})
        );
        let state = &retained[config["state_topic"].as_str().unwrap()];
        let shown = value(state, config);
        let word = |name: &str| config[name].as_str().unwrap_or_default().to_owned();
        let form = [
            word("unit_of_measurement"),
            word("device_class"),
            word("state_class"),
        ];
        let form = form.each_ref().map(String::as_str);
        match config["name"].as_str().unwrap() {
            "cpu utilization" => {
                assert_eq!((component, shown), ("sensor", json!(12.5)));
                assert_eq!(form, ["%", "", "measurement"]);
            }
            "cpu /home read" => {
                assert_eq!((component, shown), ("sensor", json!(7)));
                assert_eq!(form, ["B", "data_size", "total_increasing"]);
            }
            "cpu throttled" => {
                assert_eq!((component, shown), ("binary_sensor", json!("ON")));
                assert_eq!(form, ["", "", ""]);
            }
            "cpu model" => {
                assert_eq!((component, shown), ("sensor", json!("A")));
                assert_eq!(form, ["", "", ""]);
            }
            other => panic!("{other}"),
        }
        let available = config["availability"].as_array().unwrap();
        assert_eq!(available[0]["topic"], collector_topic());
        assert_eq!(available[1]["topic"], device_topic("edge.1", "status"));
        assert_eq!(available[2]["topic"], config["state_topic"]);
    }
    send(&broker, "edge.1", 2, &METRICS.replace("0.125", "0.25"));
    wait_for("the new value is there", || {
        let state = &broker.retained()[&device_topic("edge.1", "state")];
        state.contains("25.0").then_some(())
    });
    // What the devices sent, and nothing of what the collector said.
    collector.settled(3);
    let status = collector.status();
    assert_eq!(status["intake"]["dead_letters"], 0);
    let said = &status["home_assistant"];
    assert_eq!(
        (&said["devices"], &said["entities"]),
        (&json!(1), &json!(4))
    );
    let figures = ["up", "entities", "left_out"];
    let figures =
        figures.map(|name| collector.figure(&format!("devmon_collector_home_assistant_{name} ")));
    assert_eq!(figures, [Some(1.0), Some(4.0), Some(0.0)]);
    collector.stop();
    assert_eq!(broker.retained()[&collector_topic()], "offline");
}

#[test]
fn a_birth_message_brings_all_of_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let collector = Collector::start(dir.path(), &url(&broker), ALL);
    for device in ["a", "b"] {
        send(&broker, device, 1, METRICS);
    }
    let all = announced(&broker, 8);
    collector.settled(2);
    let watch = broker.watch();
    broker.publish("homeassistant/status", "offline");
    broker.publish("homeassistant/status", "online");
    let topics: BTreeSet<_> = all.into_iter().map(|(topic, _)| topic).collect();
    wait_for("all is said again", || {
        let said = watch.of("homeassistant/");
        let said: BTreeSet<_> = said.into_iter().map(|(topic, _)| topic).collect();
        topics.is_subset(&said).then_some(())
    });
    for device in ["a", "b"] {
        assert!(!watch.of(&device_topic(device, "status")).is_empty());
        assert!(!watch.of(&device_topic(device, "state")).is_empty());
    }
    assert_eq!(collector.status()["home_assistant"]["births"], 1);
}

#[test]
fn a_device_that_is_forgotten_is_taken_back_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let collector = Collector::start(dir.path(), &url(&broker), ALL);
    for device in ["gone", "stays"] {
        introduce(&broker, device); // or it would be stale soon
        send(&broker, device, 1, METRICS);
    }
    announced(&broker, 8);
    collector.forget("gone");
    announced(&broker, 4);
    wait_for("nothing of it is retained", || {
        let retained = broker.retained();
        let of_it = |(topic, payload): (&String, &String)| {
            topic.contains("gone") || payload.contains("gone")
        };
        (!retained.iter().any(of_it)).then_some(())
    });
    let retained = broker.retained();
    assert_eq!(retained[&device_topic("stays", "status")], "online");
    assert!(retained.contains_key(&device_topic("stays", "state")));
}

#[test]
fn who_goes_is_not_available_and_who_comes_back_is() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let collector = Collector::start(dir.path(), &url(&broker), ALL);
    introduce(&broker, "d");
    send(&broker, "d", 1, METRICS);
    let is = |topic: String, word: &str| {
        wait_for(&format!("{topic} is {word}"), || {
            let retained = broker.retained();
            (retained.get(&topic).map(String::as_str) == Some(word)).then_some(())
        });
    };
    is(device_topic("d", "status"), "online");
    broker.publish("devmon/v1/0/d/status", r#"{"status":"offline"}"#);
    is(device_topic("d", "status"), "offline");
    broker.publish("devmon/v1/0/d/status", r#"{"status":"online"}"#);
    is(device_topic("d", "status"), "online");
    is(collector_topic(), "online");
    collector.kill_9();
    is(collector_topic(), "offline");
    let _collector = Collector::start(dir.path(), &url(&broker), ALL);
    is(collector_topic(), "online");
}

#[test]
fn a_restart_says_nothing_twice_and_takes_back_what_is_no_longer_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let collector = Collector::start(dir.path(), &url(&broker), ALL);
    send(&broker, "d", 1, METRICS);
    send(&broker, "e", 1, METRICS);
    let before = announced(&broker, 8);
    collector.settled(2);
    collector.stop();

    let watch = broker.watch();
    let fewer =
        "[home_assistant]\nenabled = true\ndevices = ['d']\npaths = ['/cpu/*']\ninterval = '1s'\n";
    let collector = Collector::start(dir.path(), &url(&broker), fewer);
    let after = announced(&broker, 3);
    collector.settled(0);
    assert!(after.iter().all(|config| before.contains(config)));
    let said = watch.of("homeassistant/");
    let empty = said.iter().filter(|(_, payload)| payload.is_empty());
    assert_eq!((said.len(), empty.count()), (5, 5), "{said:?}");
    assert!(!broker.retained().contains_key(&device_topic("e", "state")));
    assert!(broker.retained().contains_key(&device_topic("d", "state")));
}

#[test]
fn a_broker_that_has_forgotten_all_is_told_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let port = broker.port;
    let _collector = Collector::start(dir.path(), &url(&broker), ALL);
    send(&broker, "d", 1, METRICS);
    announced(&broker, 4);
    drop(broker); // kill -9, and it keeps nothing on disk
    let broker = Broker::start_with(dir.path(), port, "allow_anonymous true\n", Vec::new());
    announced(&broker, 4);
    wait_for("the collector is there", || {
        (broker.retained().get(&collector_topic())? == "online").then_some(())
    });
}

/// The fenced blocks of a language in the document.
fn documented(language: &str) -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/home-assistant.md");
    let document = std::fs::read_to_string(path).unwrap();
    let blocks = document.split("```").skip(1).step_by(2);
    let of = blocks.filter_map(|block| block.strip_prefix(&format!("{language}\n")));
    of.map(str::to_owned).collect()
}

#[test]
fn the_document_shows_a_configuration_that_can_be_used_and_what_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("documented.toml");
    let config = &documented("toml")[0];
    std::fs::write(&file, config).unwrap();
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_devmon-collector"));
        check.env_clear().args(["check", "--config"]).arg(&file);
        let out = check.output().unwrap();
        let said = [out.stdout, out.stderr].concat();
        (out.status.code(), String::from_utf8(said).unwrap())
    };
    let (code, said) = check(config);
    assert!(code == Some(0) && said.contains("Home Assistant"), "{said}");
    // Without its broker it is a mistake.
    let (code, said) = check(&config.replace("broker =", "#broker ="));
    assert!(
        code == Some(78) && said.contains("needs a broker"),
        "{said}"
    );

    let broker = Broker::start(dir.path());
    let _collector = Collector::start(dir.path(), &url(&broker), ALL);
    introduce(&broker, "edge_device_01");
    send(&broker, "edge_device_01", 1, r#"{"utilization":0.125}"#);
    let shown: Json = serde_json::from_str(&documented("json")[0]).unwrap();
    assert_eq!(announced(&broker, 1)[0].1, shown);
}

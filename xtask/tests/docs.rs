//! The documentation is true: every command in it is run against the real programs, and every example answer has the shape of the real one.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

mod harness;

use std::process::Command;

use harness::{Program, agent, collector, get, plugin_dir, root, wait_for};
use serde_json::Value as Json;

/// A fenced block of a document: its language, its text and the line it starts on.
struct Block {
    language: String,
    text: String,
    line: usize,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (i, line) in document.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(language) => {
                open = true;
                blocks.push(Block {
                    language: language.to_owned(),
                    text: String::new(),
                    line: i + 1,
                });
            }
            None if open => {
                let block = blocks.last_mut().unwrap();
                block.text.push_str(line);
                block.text.push('\n');
            }
            None => {}
        }
    }
    assert!(!open, "a fence is not closed");
    blocks
}

/// Before each documented command: a `curl` that notes what was answered with an error, also within a pipe.
const NOTING_CURL: &str = r#"curl() { command curl --fail-with-body "$@" || { rc=$?; [ $rc -ne 22 ] || echo "curl $*" >>"$REFUSED"; return $rc; }; }"#;

/// Runs the documented commands; the documented addresses stand for the ones of this test. What they said, and which calls of the API were refused.
fn answers(commands: &str, http: &str, mqtt_port: &str) -> (String, String) {
    let commands = commands
        .replace("http://127.0.0.1:8765", http)
        .replace("-p 1883", &format!("-p {mqtt_port}"));
    let dir = harness::tempdir();
    let refused = dir.path().join("refused");
    let out = Command::new("sh")
        .args(["-uc", &format!("{NOTING_CURL}\nset -e\n{commands}")])
        .env("REFUSED", &refused)
        .current_dir(root())
        .output()
        .unwrap();
    let refused = std::fs::read_to_string(refused).unwrap_or_default();
    let stderr = String::from_utf8_lossy(&out.stderr);
    let good = out.status.success() || !refused.is_empty();
    assert!(good, "{commands}\n{stderr}");
    (String::from_utf8(out.stdout).unwrap(), refused)
}

/// The same, where no call may be refused.
fn shell(commands: &str, http: &str, mqtt_port: &str) -> String {
    let (said, refused) = answers(commands, http, mqtt_port);
    assert!(refused.is_empty(), "refused: {refused}\n{said}");
    said
}

/// Objects whose keys are data, not form.
const OPEN: [&str; 7] = [
    "labels",
    "agent_labels",
    "operator_labels",
    "rejected",
    "metrics",
    "facts",
    "values",
];

/// Checks that both have the same keys, at every level; of lists, the first items.
fn same_shape(at: &str, documented: &Json, real: &Json) {
    match (documented, real) {
        (Json::Object(d), Json::Object(r)) => {
            if OPEN.iter().any(|open| at.ends_with(&format!("/{open}"))) {
                return;
            }
            let keys = |o: &serde_json::Map<String, Json>| {
                o.keys().cloned().collect::<std::collections::BTreeSet<_>>()
            };
            assert_eq!(
                keys(d),
                keys(r),
                "at {at}: documented {documented}, real {real}"
            );
            for (key, value) in d {
                same_shape(&format!("{at}/{key}"), value, &r[key]);
            }
        }
        (Json::Array(d), Json::Array(r)) => match (d.first(), r.first()) {
            (Some(d), Some(r)) => same_shape(&format!("{at}/0"), d, r),
            (Some(_), None) => {
                panic!("at {at}: the real list is empty, so that nothing was compared")
            }
            _ => {}
        },
        (Json::Object(_) | Json::Array(_), _) | (_, Json::Object(_) | Json::Array(_)) => {
            panic!("at {at}: documented {documented}, real {real}")
        }
        // What may be missing is `null` in one of them.
        (Json::Null, _) | (_, Json::Null) => {}
        (d, r) => assert_eq!(
            std::mem::discriminant(d),
            std::mem::discriminant(r),
            "at {at}: documented {documented}, real {real}"
        ),
    }
}

fn running(dir: &std::path::Path) -> (Program, Program) {
    let collector = collector(&dir.join("data"), &["--mqtt-listen", "127.0.0.1:0"]);
    let mqtt = collector.named("mqtt");
    let agent = agent(
        "edge_device_01",
        &plugin_dir(dir),
        &dir.join("state"),
        &["--mqtt", &mqtt],
    );
    let url = format!(
        "{}/api/v1/devices/edge_device_01/latest?prefix=/cpu/utilization",
        collector.named("http")
    );
    wait_for("the first utilization", || {
        get(&url).2.contains("\"value\"").then_some(())
    });
    let url = format!("{}/api/v1/devices/edge_device_01", collector.named("http"));
    wait_for("about", || get(&url).2.contains("\"kernel\"").then_some(()));
    (collector, agent)
}

#[test]
fn every_documented_call_answers_as_documented() {
    let dir = harness::tempdir();
    let (collector, _agent) = running(dir.path());
    let http = collector.named("http");
    let mqtt = collector.named("mqtt");
    let port = mqtt.rsplit(':').next().unwrap();
    shell(
        "mosquitto_pub -p 1883 -q 1 -t devmon/v1/0/edge_device_01/metrics -m '{not json'",
        &http,
        port,
    );

    let document = std::fs::read_to_string(root().join("docs/rest-api.md")).unwrap();
    let blocks = blocks(&document);
    let mut compared = 0;
    for (i, block) in blocks.iter().enumerate() {
        if block.language != "sh" {
            continue;
        }
        let line = block.line;
        let (said, refused) = answers(&block.text, &http, port);
        let (language, documented) = match blocks.get(i + 1) {
            Some(next) => (next.language.as_str(), next.text.as_str()),
            None => ("", ""),
        };
        let json = |text: &str| -> Json {
            serde_json::from_str(text).unwrap_or_else(|e| panic!("line {line}: {e}: {text}"))
        };
        let at = format!("docs/rest-api.md:{line}");
        // What else a block says it says of other calls.
        let first = || answers(block.text.lines().next().unwrap(), &http, port).0;
        let mut documented_error = false;
        match language {
            "json" => {
                let (documented, real) = (json(documented), json(&first()));
                documented_error = documented["status"].as_u64().is_some_and(|s| s >= 400);
                if documented_error {
                    assert_eq!(documented["status"], real["status"], "{at}");
                    assert_eq!(documented["type"], real["type"], "{at}");
                }
                same_shape(&at, &documented, &real);
                compared += 1;
            }
            "text" => {
                let data = |text: &str| {
                    let data = text.lines().find_map(|l| l.strip_prefix("data: "));
                    json(data.unwrap_or_else(|| panic!("line {line}: no event: {text}")))
                };
                same_shape(&at, &data(documented), &data(&first()));
                compared += 1;
            }
            _ => {}
        }
        assert_eq!(!refused.is_empty(), documented_error, "{at}: {refused}");
        if block.text.contains("If-None-Match") {
            assert_eq!(said, "304", "{at}");
        }
    }
    assert!(compared >= 9, "only {compared} examples were found");
}

#[test]
fn every_command_of_the_other_documents_runs() {
    let dir = harness::tempdir();
    let (collector, _agent) = running(dir.path());
    let http = collector.named("http");
    let mqtt = collector.named("mqtt");
    let port = mqtt.rsplit(':').next().unwrap();
    let mut run = 0;
    for name in ["README.md", "docs/protocol.md", "docs/prometheus.md"] {
        for block in blocks(&std::fs::read_to_string(root().join(name)).unwrap()) {
            // `sh` blocks are run; what sets up a machine or runs for ever stands in blocks without a language, and is run by other tests.
            if block.language == "sh" {
                let bin = format!("{}/", harness::bin_dir().display());
                let plugins = dir.path().join("plugins");
                let text = block.text.replace("target/release/", &bin);
                let text = text.replace("target/demo/plugins", plugins.to_str().unwrap());
                let said = shell(&text, &http, port);
                if text.contains("collect --plugin-dir") {
                    assert!(said.contains("/memory/total_bytes"), "{said}");
                }
                run += 1;
            }
        }
    }
    assert!(run >= 3, "only {run} blocks were found");
    let latest = get(&format!("{http}/api/v1/devices/greenhouse/latest")).2;
    assert!(latest.contains("21.5"), "{latest}");
}

#[test]
fn every_command_of_the_plugin_guide_runs() {
    let document = std::fs::read_to_string(root().join("docs/plugins.md")).unwrap();
    let minimal = root().join("examples/minimal-plugin/src/lib.rs");
    let minimal = std::fs::read_to_string(minimal).unwrap();
    assert!(document.contains(&minimal), "it shows another plugin");

    let dir = harness::tempdir();
    let bin = harness::bin_dir();
    // Kept between runs, for abi_stable takes half a minute to build; a release build takes longer and shows no more.
    let target = bin.with_file_name("new-plugin");
    let mut said = String::new();
    for block in blocks(&document).iter().filter(|b| b.language == "sh") {
        let built = format!("{}/debug/", target.display());
        let text = block
            .text
            .replace("/tmp/devmon-tour/uptime/target/release/", &built)
            .replace("/tmp/devmon-tour", dir.path().to_str().unwrap())
            .replace("target/release/", &format!("{}/", bin.display()))
            .replace("cargo xtask", env!("CARGO_BIN_EXE_xtask"))
            .replace("--release", "");
        let text = format!("export CARGO_TARGET_DIR={}\n{text}", target.display());
        said.push_str(&shell(&text, "http://127.0.0.1:8765", "1883"));
    }
    for part in [
        "/uptime/uptime_seconds ",
        "/tasks/running ",
        "source open_files, C plugin ABI 1",
        "libtasks.so",
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    let good = said.matches("\nnothing wrong\n").count();
    assert_eq!(good, 3, "{said}");
}

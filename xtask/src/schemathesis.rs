//! `cargo xtask schemathesis`: calls made up from the OpenAPI document, thousands of them, against a real collector that holds data. Any answer of 5xx fails it, and any whose status, form, header
//! or field is not described; so does a call against the description that is not refused.
//!
//! The stream of events has no end, so a client that reads answers whole can not ask for it; `collector-api/tests` do. Devices are forgotten in a run of its own, the last.
//! What comes of it lies in `target/schemathesis/report`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value as Json;

use crate::collector::{self, Collector};
use crate::prepare::{self, heading};
use crate::target_dir;

/// schemathesis makes the calls and judges the answers; the validator knows what OpenAPI 3.1 is.
const PACKAGES: [&str; 2] = ["schemathesis==4.32.5", "openapi-spec-validator==0.9.0"];
const TOKEN: &str = "schemathesis-asks-a-lot";
const READY: Duration = Duration::from_secs(60);
/// Of the run that every `cargo xtask test` makes: about a minute.
const GATE_REQUESTS: u64 = 2_000;
/// Rounds that are tried until there were as many requests as wanted.
const MOST_ROUNDS: u32 = 50;
/// Samples of the device that the document's examples ask for, ten seconds apart.
const SAMPLES: u64 = 60;

#[derive(Args)]
pub(crate) struct Schemathesis {
    /// At least so many requests.
    #[arg(long, default_value_t = GATE_REQUESTS)]
    requests: u64,
    /// Where the random calls begin: a run that failed is repeated by its number.
    #[arg(long, default_value_t = 1)]
    seed: u32,
}

impl Default for Schemathesis {
    fn default() -> Self {
        Self {
            requests: GATE_REQUESTS,
            seed: 1,
        }
    }
}

impl Schemathesis {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        prepare::debian_packages(&[("mosquitto_pub", "mosquitto-clients")])?;
        let programs = prepare::python_packages("schemathesis", &PACKAGES)?;
        let program = collector::build(true)?;
        let place = tempfile::tempdir()?;
        let token = place.path().join("token");
        std::fs::write(&token, TOKEN)?;
        let config = format!("api_token_file = {token:?}\n");
        let data = place.path().join("data");
        let mut collector = Collector::start(&program, &data, &config, "info")?;
        if collector.wait_ready(READY)?.is_none() {
            bail!("the collector is not ready within {READY:?}");
        }
        fill(&collector)?;
        let report = target_dir().join("schemathesis").join("report");
        std::fs::create_dir_all(&report)?;
        check_document(&programs, &collector, &report)?;

        let mut requests = 0;
        for round in 0..MOST_ROUNDS {
            let seed = self.seed + round;
            heading(&format!(
                "schemathesis: seed {seed}, {requests} of {} requests made",
                self.requests
            ));
            let left = self.requests - requests;
            requests += ask(&programs, &collector, &report, seed, left, &Part::Reading)?;
            if requests >= self.requests {
                break;
            }
        }
        heading("schemathesis: forgetting devices");
        requests += ask(
            &programs,
            &collector,
            &report,
            self.seed,
            1,
            &Part::Forgetting,
        )?;
        if requests < self.requests {
            bail!("only {requests} requests in {MOST_ROUNDS} rounds");
        }
        let said = collector.terminate()?;
        if let Some(problem) = said.problems.first() {
            bail!("the collector logged a problem: {problem}");
        }
        println!("\n{requests} requests: every answer as it is described, none of 5xx.");
        Ok(())
    }
}

/// Sends what the examples of the document ask for, and a message that is refused.
fn fill(collector: &Collector) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let sample = |ago: u64| {
        let (ts, load) = ((now - ago * 10) * 1000, ago as f64 / 100.0);
        format!(
            r#"{{"ts":{ts},"metrics":{{"cpu":{{"utilization":{load}}},"disk":{{"/home":{{"utilization":0.5,"written_bytes_total":{}}}}},"gpu":{{"0":{{"name":"RTX 4090","on":true}}}}}}}}"#,
            SAMPLES - ago
        )
    };
    let mut lines: Vec<String> = (0..SAMPLES).rev().map(sample).collect();
    lines.push("{not json".to_owned());
    for device in ["edge_device_01", "edge_device_02"] {
        publish(collector, device, &lines.join("\n"))?;
    }
    // It is stored when it was acknowledged; the refused one is written a moment later.
    Ok(())
}

fn publish(collector: &Collector, device: &str, lines: &str) -> anyhow::Result<()> {
    let mqtt = collector.mqtt()?;
    let mut publisher = Command::new("mosquitto_pub")
        .args(["-h", &mqtt.ip().to_string(), "-p", &mqtt.port().to_string()])
        .args(["-q", "1", "-l", "-i", device])
        .args(["-t", &format!("devmon/v1/0/{device}/metrics")])
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start mosquitto_pub")?;
    let mut stdin = publisher.stdin.take().context("it was piped")?;
    writeln!(stdin, "{lines}")?;
    drop(stdin);
    let status = publisher.wait()?;
    if !status.success() {
        bail!("mosquitto_pub failed ({status})");
    }
    Ok(())
}

/// Whether it is OpenAPI 3.1, by the official schema.
fn check_document(programs: &Path, collector: &Collector, report: &Path) -> anyhow::Result<()> {
    let file = report.join("openapi.json");
    std::fs::write(&file, collector.json("/openapi.json")?.to_string())?;
    let validator = programs.join("openapi-spec-validator");
    prepare::run(
        report,
        &validator.display().to_string(),
        &["--schema", "3.1", "openapi.json"],
    )
}

enum Part {
    Reading,
    Forgetting,
}

/// One run of schemathesis; how many requests it made.
fn ask(
    programs: &Path,
    collector: &Collector,
    report: &Path,
    seed: u32,
    wanted: u64,
    part: &Part,
) -> anyhow::Result<u64> {
    let config = report.join("schemathesis.toml");
    std::fs::write(&config, CONFIG)?;
    let counted: PathBuf = report.join("events.ndjson");
    let mut command = Command::new(programs.join("schemathesis"));
    command
        .current_dir(report)
        .arg("--config-file")
        .arg(&config)
        .args(["run", &format!("{}/openapi.json", collector.http)])
        .args(["-H", &format!("Authorization: Bearer {TOKEN}")])
        .args([
            "--seed",
            &seed.to_string(),
            "--no-color",
            "--max-failures",
            "20",
        ])
        .args(["--generation-database", "none", "--workers", "4"])
        .args(["--report", "ndjson", "--report-ndjson-path"])
        .arg(&counted);
    match part {
        // Each example of a call is one request, and some follow from answers.
        Part::Reading => command
            .args(["--max-examples", &(wanted / 40).clamp(10, 200).to_string()])
            .args([
                "--exclude-path",
                "/api/v1/events",
                "--exclude-method",
                "DELETE",
            ]),
        Part::Forgetting => command.args(["--include-method", "DELETE", "--max-examples", "30"]),
    };
    let status = command.status().context("cannot start schemathesis")?;
    if !status.success() {
        bail!(
            "schemathesis found something ({status}); above is what. Again: cargo xtask schemathesis --seed {seed}"
        );
    }
    requests(&counted)
}

/// The requests that the events of a run tell of.
fn requests(file: &Path) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let count = |line: &str| {
        let event: Json = serde_json::from_str(line).unwrap_or_default();
        event
            .pointer("/ScenarioFinished/recorder/interactions")
            .and_then(Json::as_object)
            .map_or(0, |all| all.len() as u64)
    };
    Ok(text.lines().map(count).sum())
}

/// What the document alone can not say: which texts are cursors or PromQL, so that a call that fits it may be refused; that a form with one value is a form with a list of one; and that what is
/// wrong may be too long to be looked at.
const CONFIG: &str = r#"
[checks]
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 406, 413, 414, 415, 422, 431]

[[operations]]
include-method = "POST"
checks.negative_data_rejection.enabled = false
"#;

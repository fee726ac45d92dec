//! devmon under measurement, two ways in: the intake as a library, and the collector's MQTT listener. Both fsync before they acknowledge.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::feed::Messages;
use super::http::Client;
use super::measure::{Check, Measured, Queries, Questions, Stage, check_values};
use super::server::{self, Server, disk_parts, word};
use super::set::{Series, Set};
use super::stop;
use crate::children::Running;
use crate::target_dir;
use xtask::collector::encode;

const DEADLINE: Duration = Duration::from_secs(900);
/// Most paths of one call.
const PATHS: usize = 50;

/// Built programs.
pub(super) struct Ours {
    collector: PathBuf,
    intake: PathBuf,
}

impl Ours {
    pub(super) fn new() -> Self {
        let release = target_dir().join("release");
        Self {
            collector: release.join("devmon-collector"),
            intake: release.join("examples/intake"),
        }
    }

    /// This collector, which was built somehow; what needs other programs can not be done with it.
    pub(super) fn of(collector: PathBuf) -> Self {
        Self {
            collector,
            ..Self::new()
        }
    }

    pub(super) fn collector(&self) -> &Path {
        &self.collector
    }

    /// Messages from files through the real intake, in a process of its own.
    pub(super) fn in_process(
        &self,
        set: &Set,
        messages: &Messages,
        dir: &Path,
    ) -> anyhow::Result<Measured> {
        let data = dir.join("devmon-library");
        std::fs::create_dir_all(&data)?;
        let mut command = Command::new(&self.intake);
        command
            .arg(&data)
            .args(&messages.files)
            .stdin(Stdio::piped());
        let (mut process, line) = Running::ready_unless("intake", command, DEADLINE, &stop::check)?;
        let figure = |key| word(&line, key).and_then(|text| text.parse::<f64>().ok());
        let intake = Stage {
            wall_s: figure("wall_s=").context("intake: no wall_s")?,
            cpu_s: server::cpu_s(process.pid())?,
        };
        let peak_bytes = server::peak_bytes(process.pid())?;
        let status = process.close(DEADLINE)?;
        if !status.success() {
            bail!("intake ended with {status}");
        }
        self.after("devmon, library", set, &data, intake, None, peak_bytes)
    }

    /// The same messages through the collector's listener, from a generator that is a process of its own.
    pub(super) fn listener(
        &self,
        set: &Set,
        messages: &Messages,
        dir: &Path,
    ) -> anyhow::Result<Measured> {
        let data = dir.join("devmon-listener");
        std::fs::create_dir_all(&data)?;
        let (server, line) = self.start(&data)?;
        let before = server.cpu_s()?;
        let (wall_s, client_cpu_s) = publish(&line, messages)?;
        let intake = Stage {
            wall_s,
            cpu_s: server.cpu_s()? - before,
        };
        let peak_bytes = server.peak_bytes()?;
        server.stop()?;
        let name = "devmon, listener";
        self.after(name, set, &data, intake, Some(client_cpu_s), peak_bytes)
    }

    /// What comes behind the intake is the same for both ways.
    fn after(
        &self,
        name: &str,
        set: &Set,
        data: &Path,
        intake: Stage,
        client_cpu_s: Option<f64>,
        peak_bytes: u64,
    ) -> anyhow::Result<Measured> {
        // Without the room that is set aside for a full disk: of fixed size, and nothing lies in it.
        let parts = || {
            let mut parts = disk_parts(data)?;
            parts.retain(|(name, _)| name != "reserve");
            anyhow::Ok(parts)
        };
        let bytes = || anyhow::Ok(parts()?.iter().map(|(_, bytes)| bytes).sum());
        let intake_bytes = bytes()?;
        let compaction = self.compact(data)?;
        let compacted_bytes = bytes()?;
        let parts = parts()?;
        let server = self.start(data)?.0;
        let checks = check(set, &server.http)?;
        let questions = Questions::of(set);
        let (from, to) = set.range();
        let range = |device: &str, series: &Series, more: &str| {
            let path = encode(&series.pointer());
            format!("/api/v1/devices/{device}/series?path={path}&from={from}&to={to}{more}")
        };
        let queries = Queries {
            raw: server
                .http
                .latency(&questions.ask(|d, s| range(d, s, "")))?,
            average: server
                .http
                .latency(&questions.ask(|d, s| range(d, s, "&step=60s&agg=avg")))?,
            latest: server.http.latency(
                &questions.ask(|d, _| format!("/api/v1/devices/{d}/latest?format=flat")),
            )?,
            peak_bytes: server.peak_bytes()?,
        };
        Ok(Measured {
            name: name.into(),
            samples: set.samples(),
            intake,
            client_cpu_s,
            peak_bytes,
            intake_bytes,
            compaction,
            compacted_bytes,
            parts,
            ready_ms: server.ready_ms,
            queries,
            checks,
        })
    }

    pub(super) fn start(&self, data: &Path) -> anyhow::Result<(Server, String)> {
        let mut command = Command::new(&self.collector);
        command
            .args([
                "run",
                "--http",
                "127.0.0.1:0",
                "--mqtt-listen",
                "127.0.0.1:0",
            ])
            .arg("--data-dir")
            .arg(data)
            .env("DEVMON_LOG", "warn");
        Server::ready("devmon-collector", command, &data.with_extension("log"))
    }

    /// `devmon-collector compact`; where that is not there yet, only from the journal to the database.
    pub(super) fn compact(&self, data: &Path) -> anyhow::Result<Stage> {
        let (begin, before) = (Instant::now(), server::ended_children_cpu_s()?);
        let mut command = if self.can_compact()? {
            let mut command = Command::new(&self.collector);
            command.args(["compact", "--data-dir"]);
            command
        } else {
            println!("!! this devmon-collector has no command `compact`: it is only sealed");
            let mut command = Command::new(&self.intake);
            command.arg("--seal");
            command
        };
        command.arg(data);
        server::finish("compaction", command, &data.with_extension("log"))?;
        Ok(Stage {
            wall_s: begin.elapsed().as_secs_f64(),
            cpu_s: server::ended_children_cpu_s()? - before,
        })
    }

    fn can_compact(&self) -> anyhow::Result<bool> {
        let mut help = Command::new(&self.collector);
        let output = help.args(["compact", "--help"]).output()?;
        Ok(output.status.success())
    }
}

/// Sends messages to the collector whose ready line this is, from a process of its own. Seconds until the last PUBACK, and CPU seconds of the sender.
pub(super) fn publish(line: &str, messages: &Messages) -> anyhow::Result<(f64, f64)> {
    let mqtt = word(line, "mqtt=mqtt://").context("its ready line names no mqtt address")?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["bench", "publish", "--to", mqtt])
        .args(&messages.files)
        .stdin(Stdio::piped());
    let (mut process, line) = Running::ready_unless("publish", command, DEADLINE, &stop::check)?;
    let wall_s = word(&line, "wall_s=").and_then(|text| text.parse().ok());
    let cpu_s = server::cpu_s(process.pid())?;
    process.close(DEADLINE)?;
    Ok((wall_s.context("publish: no wall_s")?, cpu_s))
}

fn check(set: &Set, http: &Client) -> anyhow::Result<Vec<Check>> {
    let (from, to) = set.range();
    let mut counted = 0;
    for device in &set.devices {
        for some in device.series.chunks(PATHS) {
            let paths: Vec<_> = some.iter().map(|s| encode(&s.pointer())).collect();
            let answer = http.json(&format!(
                "/api/v1/devices/{}/series?path={}&from={from}&to={to}&step=1d&agg=count",
                device.id,
                paths.join("&path=")
            ))?;
            let series = answer.get("series").and_then(Value::as_array);
            let values = series
                .into_iter()
                .flatten()
                .filter_map(|s| s.get("v")?.as_array());
            counted += values.flatten().filter_map(Value::as_u64).sum::<u64>();
        }
    }
    let mut checks = vec![Check::count(set, counted)];
    for (device, series) in Questions::to_check(set) {
        let path = encode(&series.pointer());
        let answer = http.json(&format!(
            "/api/v1/devices/{device}/series?path={path}&from={from}&to={to}"
        ))?;
        let array = |pointer| answer.pointer(pointer).and_then(Value::as_array);
        let (times, values) = array("/t")
            .zip(array("/series/0/v"))
            .context("an answer without columns")?;
        let samples: Vec<_> = times
            .iter()
            .zip(values)
            .filter_map(|(t, v)| Some((t.as_i64()?, v.as_f64()?)))
            .collect();
        checks.push(check_values(set, series, &samples));
    }
    Ok(checks)
}

//! `cargo xtask bench promql`: PromQL over a large fleet, by default 100 000 devices of two metrics with an hour of samples, once in two minutes.
//!
//! The messages go through the collector's own listener, are fsynced and acknowledged; then one client asks, one question after the other. Each question is asked some times: the first answer, the
//! median, the slowest. The number of devices in the answers is checked; a wrong or failed answer ends the run. Writes no file.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value as Json;

use super::feed::Messages;
use super::ours::{self, Ours};
use super::synthetic::Random;
use super::{report, stop, store};
use crate::prepare::heading;
use crate::target_dir;
use xtask::collector::encode;

/// Two minutes: with one, the heads of 100 000 devices are full before the first seal is done, for all arrives at once, and the collector makes senders wait by closing connections.
const STEP_MS: i64 = 120_000;
const SITES: usize = 100;
/// Files of messages, each sent over a connection of its own.
const STREAMS: usize = 8;
/// How often each question is asked.
const TIMES: usize = 5;
const ABOUT: &str = r#"{"v":1,"agent":{"publish_every_ms":3600000},"descriptors":[{"path":"/rack/{site}/load","unit":"1","kind":"gauge","help":"A random walk."},{"path":"/rack/{site}/sent_total","unit":"1","kind":"counter","help":"Grows."}]}"#;

#[derive(Args)]
pub(crate) struct Promql {
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    devices: u32,
    /// Measure this collector, instead of a release build that is made first.
    #[arg(long, value_name = "PROGRAM")]
    collector: Option<PathBuf>,
    /// The programs are built, and this is one of them.
    #[arg(long, hide = true)]
    built: bool,
}

/// What is asked, and whether it is a range of an hour.
const QUESTIONS: [(&str, bool); 7] = [
    ("count(devmon_rack_load)", false),
    ("sum by (site) (devmon_rack_load)", false),
    ("topk(10, devmon_rack_load)", false),
    ("sum(rate(devmon_rack_sent_total[5m]))", false),
    ("sum by (site) (rate(devmon_rack_sent_total[5m]))", true),
    ("avg(devmon_rack_load)", true),
    ("quantile(0.99, devmon_rack_load)", false),
];

impl Promql {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let ours = match &self.collector {
            None if !self.built => return store::build_and_go(),
            None => Ours::new(),
            Some(program) => Ours::of(program.canonicalize().context("--collector")?),
        };
        stop::listen()?;
        let place = target_dir().join("bench");
        std::fs::create_dir_all(&place)?;
        let dir = tempfile::Builder::new()
            .prefix("promql-")
            .tempdir_in(&place)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let end_ms = i64::try_from(now)? / STEP_MS * STEP_MS;
        heading("Messages");
        let messages = self.messages(end_ms, dir.path())?;
        heading("Intake");
        let data = dir.path().join("devmon");
        std::fs::create_dir_all(&data)?;
        let (server, line) = ours.start(&data)?;
        let (wall_s, _) = ours::publish(&line, &messages)?;
        let before = server.resident_bytes()?;
        heading("Questions");
        let mut table = String::new();
        for (query, range) in QUESTIONS {
            let url = url(query, range, end_ms);
            let mut took = Vec::new();
            let mut answer = Json::Null;
            for _ in 0..TIMES {
                stop::check()?;
                let begin = Instant::now();
                let body = server.http.get(&url)?;
                took.push(begin.elapsed().as_secs_f64() * 1000.0);
                answer = serde_json::from_slice(&body).context("an answer that is not JSON")?;
            }
            let series = self.check(query, &answer)?;
            let first = took.first().copied().unwrap_or_default();
            took.sort_by(f64::total_cmp);
            let middle = took.get(TIMES / 2).copied().unwrap_or_default();
            let slowest = took.last().copied().unwrap_or_default();
            let what = if range { ", 1 h in steps of 60 s" } else { "" };
            println!("{query}{what}: {middle:.0} ms");
            let _ = writeln!(
                table,
                "| `{query}`{what} | {first:.0} | {middle:.0} | {slowest:.0} | {series} |"
            );
        }
        let (after, peak) = (server.resident_bytes()?, server.peak_bytes()?);
        server.stop()?;
        let mib = |bytes: u64| bytes >> 20;
        println!(
            "\n{}\n{} devices of 2 metrics, {} samples of each, in {wall_s:.0} s through the listener of {}; one client, each question {TIMES} times\n\n\
             | question | first, ms | median, ms | slowest, ms | series in the answer |\n|---|---:|---:|---:|---:|\n{table}\n\
             Resident: {} MiB before the questions, {} MiB after them, {} MiB at most.",
            report::machine()?,
            self.devices,
            3_600_000 / STEP_MS,
            ours.collector().display(),
            mib(before),
            mib(after),
            mib(peak),
        );
        Ok(())
    }

    /// Of each device what it says about itself, and one message with its hour.
    fn messages(&self, end_ms: i64, dir: &Path) -> anyhow::Result<Messages> {
        let mut all = Messages {
            files: Vec::new(),
            count: 0,
            bytes: 0,
        };
        let mut random = Random(5);
        for stream in 0..STREAMS.min(self.devices as usize) {
            let path = dir.join(format!("{stream}.messages"));
            let file = File::create(&path).with_context(|| path.display().to_string())?;
            let mut out = BufWriter::new(file);
            for device in (stream..self.devices as usize).step_by(STREAMS) {
                stop::check()?;
                let id = format!("rack-{device:06}");
                let mut put = |kind: &str, payload: &str| -> anyhow::Result<()> {
                    let topic = format!("devmon/v1/0/{id}/{kind}");
                    out.write_all(&u16::try_from(topic.len())?.to_le_bytes())?;
                    out.write_all(topic.as_bytes())?;
                    out.write_all(&u32::try_from(payload.len())?.to_le_bytes())?;
                    out.write_all(payload.as_bytes())?;
                    all.count += 1;
                    all.bytes += payload.len() as u64;
                    Ok(())
                };
                put("about", ABOUT)?;
                put("metrics", &hour(&id, device % SITES, end_ms, &mut random))?;
            }
            out.flush()?;
            all.files.push(path);
        }
        Ok(all)
    }

    /// How many series there are, and that they stand for all devices.
    fn check(&self, query: &str, answer: &Json) -> anyhow::Result<usize> {
        let result = answer.pointer("/data/result").and_then(Json::as_array);
        let result = result.with_context(|| format!("{query}: {answer}"))?;
        let devices = self.devices as usize;
        let expected = match query {
            _ if query.contains("by (site)") => devices.min(SITES),
            _ if query.starts_with("topk") => devices.min(10),
            _ => 1,
        };
        if result.len() != expected {
            bail!("{query}: {} series, not {expected}", result.len());
        }
        let counted = answer.pointer("/data/result/0/value/1");
        if query.starts_with("count") && counted != Some(&Json::from(devices.to_string())) {
            bail!("{query}: {counted:?} of {devices} devices");
        }
        Ok(result.len())
    }
}

fn url(query: &str, range: bool, end_ms: i64) -> String {
    let (query, end_s) = (encode(query), end_ms / 1000);
    let begin_s = end_s - 3600;
    if range {
        format!("/prometheus/api/v1/query_range?query={query}&start={begin_s}&end={end_s}&step=60")
    } else {
        format!("/prometheus/api/v1/query?query={query}&time={end_s}")
    }
}

/// A message with a frame in two minutes, the last at `end_ms`.
fn hour(id: &str, site: usize, end_ms: i64, random: &mut Random) -> String {
    let mut text = format!(
        "{{\"v\":1,\"device\":\"{id}\",\"boot\":\"01KB0000000000000000000000\",\"seq\":0,\"frames\":["
    );
    let count = 3_600_000 / STEP_MS;
    let (mut load, mut sent) = (random.within(0, 1000), random.within(0, 1_000_000));
    for i in 0..count {
        load = (load + random.within(-20, 20)).clamp(0, 1000);
        sent += random.within(0, 10_000);
        let comma = if i > 0 { "," } else { "" };
        let ts = end_ms - (count - 1 - i) * STEP_MS;
        let load = load as f64 / 1000.0;
        let _ = write!(
            text,
            "{comma}{{\"ts\":{ts},\"source\":\"rack\",\"metrics\":{{\"s{site:02}\":{{\"load\":{load:?},\"sent_total\":{sent}}}}}}}"
        );
    }
    text.push_str("]}");
    text
}

//! `cargo xtask bench record`: writes down what a node_exporter says, once a second, for `cargo xtask bench store` to replay.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use super::http::Client;
use super::replay::Recording;
use super::{recording_path, stop};

#[derive(Args)]
pub(crate) struct Record {
    /// How long.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// The node_exporter, already running.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:9100/metrics"
    )]
    from: String,
    /// Instead: JSON lines that were recorded elsewhere, `[ts_ms, {series: value as text, …those that changed}, [series that are gone]]`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["minutes", "from"])]
    lines: Option<PathBuf>,
    /// Where to [default: xtask/data/host-metrics.zst].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Record {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let recording = match &self.lines {
            Some(file) => from_lines(file)?,
            None => self.listen_to_exporter()?,
        };
        let out = self.out.unwrap_or_else(recording_path);
        let bytes = recording.save(&out)?;
        println!(
            "{}: {} times, {} series, {bytes} bytes",
            out.display(),
            recording.times.len(),
            recording.names.len()
        );
        Ok(())
    }

    fn listen_to_exporter(&self) -> anyhow::Result<Recording> {
        stop::listen()?;
        let slash = self
            .from
            .match_indices('/')
            .nth(2)
            .map_or(self.from.len(), |(i, _)| i);
        let (base, path) = self.from.split_at(slash);
        let client = Client::new(base);
        let mut recording = Recording::default();
        let begin = Instant::now();
        let first = client
            .get(path)
            .context("is node_exporter running? apt-get install prometheus-node-exporter")?;
        println!(
            "Recording {} lines a second for {} minutes; Ctrl-C keeps what there is.",
            first.iter().filter(|b| **b == b'\n').count(),
            self.minutes
        );
        let mut present: HashSet<String> = HashSet::new();
        for second in 0..self.minutes * 60 {
            let due = begin + Duration::from_secs(second);
            while let Some(left) = due.checked_duration_since(Instant::now()) {
                std::thread::sleep(left.min(Duration::from_millis(100)));
            }
            if stop::check().is_err() {
                break;
            }
            let ts = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
            // One that does not answer in time leaves a gap, as it would in life.
            let Ok(body) = client.get(path) else { continue };
            let text = String::from_utf8(body)?;
            let values: HashMap<&str, f64> = text.lines().filter_map(sample).collect();
            let gone: Vec<_> = present
                .iter()
                .filter(|name| !values.contains_key(name.as_str()))
                .cloned()
                .collect();
            let mut now: Vec<_> = values.into_iter().collect();
            now.sort_unstable_by_key(|(name, _)| *name);
            present = now.iter().map(|(name, _)| (*name).to_owned()).collect();
            recording.push(
                i64::try_from(ts)?,
                now.into_iter(),
                gone.iter().map(String::as_str),
            );
        }
        Ok(recording)
    }
}

/// A line of Prometheus' text format: name with labels, value. What the exporter says of its own runtime is left out.
fn sample(line: &str) -> Option<(&str, f64)> {
    if ["#", "go_", "promhttp_"]
        .iter()
        .any(|no| line.starts_with(no))
    {
        return None;
    }
    let (name, value) = line.rsplit_once(' ')?;
    Some((name, value.parse().ok()?))
}

fn from_lines(file: &PathBuf) -> anyhow::Result<Recording> {
    let open = std::fs::File::open(file).with_context(|| file.display().to_string())?;
    let mut recording = Recording::default();
    for (i, line) in BufReader::new(open).lines().enumerate() {
        let place = || format!("{}:{}", file.display(), i + 1);
        let line: Value = serde_json::from_str(&line?).with_context(place)?;
        let (Some(ts), Some(changed), Some(gone)) = (
            line.pointer("/0").and_then(Value::as_i64),
            line.pointer("/1").and_then(Value::as_object),
            line.pointer("/2").and_then(Value::as_array),
        ) else {
            bail!("{}: not [ts_ms, {{…}}, […]]", place());
        };
        let changed = changed
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?.parse().ok()?)));
        recording.push(ts, changed, gone.iter().filter_map(Value::as_str));
    }
    Ok(recording)
}

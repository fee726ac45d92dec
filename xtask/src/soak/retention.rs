//! Retention cycles: each writes a day, makes one coarser in each tier, and drops one; bytes on disk and memory must not grow.
//!
//! A day can not be waited for. Cycle c writes the samples of day c of a synthetic calendar that lies in the past, and the collector is started with a retention that ends where
//! day c − 1 begins: for the store the same as if a day had gone by.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::{LOG, START_PATIENCE, Soak};
use crate::collector::{Collector, bytes_on_disk};
use crate::load::{self, Plan, Shape, now_ms};

const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;
/// Days that are kept when a day has been written, that one included: with their samples; after them as minutes; and after those as hours.
const KEPT_DAYS: i64 = 2;
const KEPT_DAYS_1M: i64 = 2;
const KEPT_DAYS_1H: i64 = 2;
/// From this cycle on each one takes as much as it brings, in every tier.
const STEADY: usize = (KEPT_DAYS + KEPT_DAYS_1M + KEPT_DAYS_1H) as usize + 1;
const DEVICES: u32 = 20;
const METRICS: u32 = 50;
const STEP: Duration = Duration::from_secs(10);
const FRAMES: u16 = 10;
/// Until heads are sealed, days are archived and old ones are gone.
const SETTLE_PATIENCE: Duration = Duration::from_secs(300);
/// Nothing on disk has changed for so long: it is done.
const STILL: Duration = Duration::from_secs(4);

pub(super) fn run(soak: &Soak, cycles: u32) -> anyhow::Result<()> {
    let data = soak.data_dir();
    let first_day = now_ms() / DAY_MS - i64::from(cycles) - 3;
    let messages = u64::from(DEVICES) * DAY_MS as u64 / STEP.as_millis() as u64 / u64::from(FRAMES);
    println!(
        "{} samples a cycle; {KEPT_DAYS} days are kept, {KEPT_DAYS_1M} more as minutes, {KEPT_DAYS_1H} more as hours",
        messages * u64::from(FRAMES) * u64::from(METRICS)
    );
    println!(
        "| cycle | db MB | journal MB | archive MB | all MB | RSS MB | RSS at most MB | start s |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut totals = Vec::new();
    for cycle in 0..i64::from(cycles) {
        let day = first_day + cycle;
        let kept_from = (day - KEPT_DAYS + 1) * DAY_MS;
        let hours = |from_ms: i64| (now_ms() - from_ms) / HOUR_MS;
        let config = format!(
            "retention = \"{}h\"\nretention_1m = \"{}h\"\nretention_1h = \"{}h\"\narchive_late_after = \"36s\"\n{}\n[store]\nseal_age = \"1s\"\n",
            hours(kept_from),
            hours(kept_from - KEPT_DAYS_1M * DAY_MS),
            hours(kept_from - (KEPT_DAYS_1M + KEPT_DAYS_1H) * DAY_MS),
            soak.config
        );
        let mut collector = Collector::start(soak.program()?, &data, &config, LOG)?;
        let opened = collector
            .wait_ready(START_PATIENCE)?
            .context("the collector was not ready in time")?;
        let plan = Plan {
            devices: DEVICES,
            metrics: METRICS,
            frames: FRAMES,
            step: STEP,
            origin_ms: day * DAY_MS,
            seconds: None,
            messages: Some(messages),
            ..Plan::flat_out(collector.mqtt()?)
        };
        let report = load::run(&plan)?;
        ensure!(
            report.acked == messages,
            "{} of {messages} messages were acknowledged",
            report.acked
        );
        settle(
            &collector,
            &data,
            (cycle > KEPT_DAYS).then(|| kept_from - DAY_MS),
        )?;
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let on_disk = |name: &str| mb(bytes_on_disk(&data.join(name)));
        let usage = collector.usage()?;
        let total = mb(bytes_on_disk(&data));
        println!(
            "| {} | {:.1} | {:.1} | {:.1} | {total:.1} | {:.0} | {:.0} | {:.2} |",
            cycle + 1,
            on_disk("db"),
            on_disk("journal"),
            on_disk("archive"),
            mb(usage.rss),
            mb(usage.rss_most),
            opened.as_secs_f64()
        );
        // The journal has its own bound and moves within it: a segment more or less is no growth.
        totals.push((total - on_disk("journal"), mb(usage.rss_most)));
        collector.terminate()?;
    }
    std::fs::remove_dir_all(&data)?;
    println!(
        "on disk without the journal, and in memory at most, MB: cycle {STEADY} and last {:?} {:?}",
        totals.get(STEADY - 1),
        totals.last()
    );
    let (Some(steady), Some(last)) = (totals.get(STEADY - 1), totals.last()) else {
        return Ok(());
    };
    if last.0 > 1.5 * steady.0 || last.1 > 1.5 * steady.1 {
        bail!(
            "it grows: {steady:?} MB on disk (without the journal) and in memory in cycle {STEADY}, {last:?} in the last"
        );
    }
    Ok(())
}

/// Waits until heads are empty, the day before the kept ones is gone, and the disk is still.
fn settle(collector: &Collector, data: &Path, gone_from: Option<i64>) -> anyhow::Result<()> {
    let device = Shape::new("load", 1, 0, 1).device(0);
    let begin = Instant::now();
    let (mut bytes, mut since) = (0, Instant::now());
    loop {
        let status = collector.json("/api/v1/status")?;
        let mut done = status["store"]["head_samples"] == 0;
        if let Some(from) = gone_from {
            let to = from + DAY_MS;
            let path = format!(
                "/api/v1/devices/{device}/series?path=/load/ticks&from={from}&to={to}&limit=1"
            );
            done &= collector.json(&path)?["t"]
                .as_array()
                .is_some_and(Vec::is_empty);
        }
        let now = bytes_on_disk(data);
        if now != bytes || !done {
            (bytes, since) = (now, Instant::now());
        }
        if since.elapsed() > STILL {
            return Ok(());
        }
        if begin.elapsed() > SETTLE_PATIENCE {
            bail!("not at rest after {SETTLE_PATIENCE:?}: {}", status["store"]);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

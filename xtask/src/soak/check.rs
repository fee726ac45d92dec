//! Reads series back over REST and compares them with the ledger.
//!
//! Samples of days that are kept raw: each acknowledged one is there once, with its value; whatever else is there was sent, is whole, and has its value; no time stands twice.
//! Rollups of a minute, which hold one tick each, and of an hour, where they are kept: of what was acknowledged nothing is missing from count, min, max and sum, and nothing is in them
//! that was not sent. A message that was sent by two names may count twice where a day had no raw samples any more when the second one came (`store::merge`); nothing else may.

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value as Json;

use super::ledger::{Device, FRAMES};
use super::{DAY_MS, Kept};
use crate::collector::Collector;
use crate::load::{Shape, now_ms};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;
/// Sums of a thousand decimals, added in another order.
const SUM_ERROR: f64 = 1e-9;
const AGGREGATES: [&str; 4] = ["count", "min", "max", "sum"];

#[derive(Deserialize)]
struct Series {
    t: Vec<i64>,
    series: Vec<Column>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Column {
    path: String,
    v: Vec<Json>,
}

/// What was looked at.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Looked {
    /// Raw samples.
    pub(super) read: u64,
    /// Of them, those that had to be there.
    pub(super) due: u64,
    /// Buckets of rollups in which something had to be.
    pub(super) minutes: u64,
    pub(super) hours: u64,
}

/// One device and what is known of it.
pub(super) struct Check<'a> {
    pub(super) collector: &'a Collector,
    pub(super) shape: &'a Shape,
    pub(super) number: u32,
    pub(super) ledger: &'a Device,
    pub(super) kept: Kept,
}

impl Check<'_> {
    /// Compares the device; `metrics` are those whose rollups are read.
    ///
    /// # Errors
    /// The first difference.
    pub(super) fn run(&self, metrics: &[u32]) -> anyhow::Result<Looked> {
        let mut looked = Looked::default();
        self.raw(&mut looked)?;
        let to = now_ms() + DAY_MS;
        // Minutes of raw days are made of samples, and those were looked at: of them two days will do.
        let some_raw = self.kept.raw_from(now_ms()) + 2 * DAY_MS;
        let of_tick = |bucket: i64| {
            let tick = (bucket - self.shape.ts(0, 0)).div_euclid(MINUTE_MS);
            u32::try_from(tick).map_or(0..0, |tick| tick..tick + 1)
        };
        looked.minutes = self.rollups(metrics, MINUTE_MS, some_raw, &of_tick)?;
        let of_hour = |bucket: i64| {
            let begin = (bucket - self.shape.ts(0, 0)).div_euclid(MINUTE_MS);
            u32::try_from(begin).map_or(0..0, |tick| tick..tick + 60)
        };
        looked.hours = self.rollups(metrics, HOUR_MS, to, &of_hour)?;
        self.listed_once()?;
        Ok(looked)
    }

    fn name(&self) -> String {
        self.shape.device(self.number)
    }

    fn ticks(&self) -> u32 {
        (self.ledger.next + 1) * u32::from(FRAMES)
    }

    fn acked(&self, tick: u32) -> bool {
        self.ledger.acked.contains(tick / u32::from(FRAMES))
    }

    /// Whether something was acknowledged in a range of ticks, from a time on.
    fn any_acked(&self, from_ms: i64) -> bool {
        let mut acked = self.ledger.acked.iter();
        acked.any(|chunk| self.shape.ts(self.number, chunk * u32::from(FRAMES)) >= from_ms)
    }

    /// Pages of an answer, or false if the device or a path is not known.
    fn pages(&self, query: &str, each: &mut Page<'_>) -> anyhow::Result<bool> {
        let base = format!("/api/v1/devices/{}/series?limit=5000&{query}", self.name());
        let mut cursor = None::<String>;
        loop {
            let next = cursor.map_or(String::new(), |c| format!("&cursor={c}"));
            let (status, body) = self.collector.get(&format!("{base}{next}"))?;
            if status == 404 {
                return Ok(false);
            }
            ensure!(status == 200, "{base}: {status}: {body}");
            let page: Series = serde_json::from_str(&body).with_context(|| base.clone())?;
            each(&page)?;
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(true);
            }
        }
    }

    fn raw(&self, looked: &mut Looked) -> anyhow::Result<()> {
        let (name, ticks) = (self.name(), self.ticks());
        let metrics = 0..self.shape.metrics();
        let paths: String = metrics
            .map(|m| format!("path={}&", self.shape.path(m)))
            .collect();
        let query = format!(
            "{paths}from={}&to={}",
            self.kept.hours_from(now_ms()) - DAY_MS,
            now_ms() + DAY_MS
        );
        let mut found = vec![false; ticks as usize];
        let mut last = i64::MIN;
        let mut read = Vec::new();
        let known = self.pages(&query, &mut |page| {
            ensure!(
                page.series.len() == self.shape.metrics() as usize,
                "{name}: {} series",
                page.series.len()
            );
            for (row, &ts) in page.t.iter().enumerate() {
                ensure!(
                    ts > last,
                    "{name}: {ts} stands behind {last}: twice, or out of order"
                );
                last = ts;
                let tick = self.shape.tick(self.number, ts).filter(|t| *t < ticks);
                let tick = tick.with_context(|| format!("{name}: nothing was sent for {ts}"))?;
                ensure!(
                    self.ledger.sent.contains(tick / u32::from(FRAMES)),
                    "{name}: {ts} (tick {tick}) is there and was never sent"
                );
                found[tick as usize] = true;
                for (metric, column) in (0..).zip(&page.series) {
                    let value = column.v.get(row).unwrap_or(&Json::Null);
                    let sent = self.shape.value(self.number, metric, tick);
                    if serde_json::from_str::<Json>(&sent).ok().as_ref() != Some(value) {
                        bail!(
                            "{name}{} at {ts} (tick {tick}, acknowledged: {}): sent {sent}, read {value}",
                            column.path,
                            self.acked(tick)
                        );
                    }
                }
                read.push(tick);
            }
            Ok(())
        })?;
        // Time goes on while we read: now, not before.
        let kept_from = self.kept.raw_from(now_ms());
        let due = |tick: &u32| self.acked(*tick) && self.shape.ts(self.number, *tick) >= kept_from;
        if !known && !self.any_acked(kept_from) {
            return Ok(()); // nothing of it is kept: its series are not listed any more
        }
        let of_metrics = u64::from(self.shape.metrics());
        looked.read += read.len() as u64 * of_metrics;
        looked.due += read.iter().filter(|tick| due(tick)).count() as u64 * of_metrics;
        let missing: Vec<u32> = (0..ticks)
            .filter(|tick| !found[*tick as usize] && due(tick))
            .collect();
        if let Some(tick) = missing.first() {
            bail!(
                "{name}: {} acknowledged ticks are gone, the first is {tick} (chunk {}, time {}), the last {:?}",
                missing.len(),
                tick / u32::from(FRAMES),
                self.shape.ts(self.number, *tick),
                missing.last(),
            );
        }
        Ok(())
    }

    /// Compares the buckets of a step; returns in how many of them something had to be, over all paths.
    fn rollups(
        &self,
        metrics: &[u32],
        step_ms: i64,
        to_ms: i64,
        ticks_of: &dyn Fn(i64) -> std::ops::Range<u32>,
    ) -> anyhow::Result<u64> {
        let paths: String = metrics
            .iter()
            .map(|m| format!("path={}&", self.shape.path(*m)))
            .collect();
        let from_ms = self.kept.hours_from(now_ms()) - DAY_MS;
        let query = format!(
            "{paths}step={}s&agg={}&from={from_ms}&to={to_ms}",
            step_ms / 1000,
            AGGREGATES.join(",")
        );
        let mut buckets = Vec::new();
        let known = self.pages(&query, &mut |page| {
            ensure!(
                page.series.len() == metrics.len() * AGGREGATES.len(),
                "{query}: {} columns",
                page.series.len()
            );
            for (row, &bucket) in page.t.iter().enumerate() {
                let column = |i: usize| page.series[i].v.get(row).and_then(Json::as_f64);
                let of = |m: usize| [0, 1, 2, 3].map(|a| column(m * AGGREGATES.len() + a));
                buckets.push((bucket, (0..metrics.len()).map(of).collect::<Vec<_>>()));
            }
            Ok(())
        })?;
        let now = now_ms();
        let (raw_from, kept_from) = (
            self.kept.raw_from(now),
            if step_ms == MINUTE_MS {
                self.kept.minutes_from(now)
            } else {
                self.kept.hours_from(now)
            },
        );
        if !known {
            ensure!(
                !self.any_acked(kept_from),
                "{}: its series are gone",
                self.name()
            );
            return Ok(0);
        }
        let mut looked = 0;
        for (bucket, of_metrics) in &buckets {
            let kept = *bucket >= kept_from;
            for (metric, found) in metrics.iter().zip(of_metrics) {
                let wanted = self.wanted(*metric, ticks_of(*bucket), kept, *bucket >= raw_from);
                looked += u64::from(wanted.least.count > 0.0);
                wanted.compare(*found).with_context(|| {
                    format!(
                        "{}{} at {bucket}, {step_ms} ms: count, min, max, sum are {found:?}",
                        self.name(),
                        self.shape.path(*metric)
                    )
                })?;
            }
        }
        Ok(looked)
    }

    /// What may stand in a bucket. `kept`: what was acknowledged must; `raw`: nothing stands twice.
    fn wanted(&self, metric: u32, ticks: std::ops::Range<u32>, kept: bool, raw: bool) -> Wanted {
        let mut wanted = Wanted::default();
        for tick in ticks {
            let chunk = tick / u32::from(FRAMES);
            if !self.ledger.sent.contains(chunk) {
                continue;
            }
            let value = self.shape.value(self.number, metric, tick);
            let value = value.parse().unwrap_or(f64::NAN);
            let twice = !raw && self.ledger.renamed.contains(chunk);
            wanted.most.add(value, if twice { 2.0 } else { 1.0 });
            if kept && self.acked(tick) {
                wanted.least.add(value, 1.0);
            }
        }
        wanted
    }

    fn listed_once(&self) -> anyhow::Result<()> {
        let name = self.name();
        let path = format!("/api/v1/devices/{name}/metrics?limit=1000");
        let (status, body) = self.collector.get(&path)?;
        if status == 404 {
            return Ok(());
        }
        ensure!(status == 200, "{name}: metrics: {status}: {body}");
        let listed: Json = serde_json::from_str(&body)?;
        let items = listed["items"].as_array().map_or(&[][..], Vec::as_slice);
        let mut seen = std::collections::BTreeSet::new();
        for item in items {
            let path = item["path"].as_str().unwrap_or_default();
            ensure!(
                (0..self.shape.metrics()).any(|m| self.shape.path(m) == path),
                "{name}: {path:?} is listed and was never sent"
            );
            ensure!(seen.insert(path), "{name}: {path} is listed twice");
        }
        Ok(())
    }
}

type Page<'a> = dyn FnMut(&Series) -> anyhow::Result<()> + 'a;

/// A bucket's count, min, max and sum.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    count: f64,
    min: f64,
    max: f64,
    sum: f64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            count: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sum: 0.0,
        }
    }
}

impl Bucket {
    fn add(&mut self, value: f64, times: f64) {
        self.count += times;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += times * value;
    }
}

/// Bounds on a bucket: of what was acknowledged, and of all that was sent. No value is negative.
#[derive(Debug, Default)]
struct Wanted {
    least: Bucket,
    most: Bucket,
}

impl Wanted {
    fn compare(&self, found: [Option<f64>; 4]) -> anyhow::Result<()> {
        let (least, most) = (&self.least, &self.most);
        let [count, min, max, sum] = found;
        let count = count.unwrap_or(0.0);
        ensure!(
            least.count <= count && count <= most.count,
            "the count is not between {} (acknowledged) and {} (sent)",
            least.count,
            most.count
        );
        let (true, Some(min), Some(max), Some(sum)) = (count > 0.0, min, max, sum) else {
            ensure!(count == 0.0, "one of them is missing");
            return Ok(());
        };
        // What is there lies between all that was sent and what was acknowledged.
        let error = SUM_ERROR * most.sum;
        ensure!(
            (most.min..=least.min).contains(&min)
                && (least.max..=most.max).contains(&max)
                && (least.sum - error..=most.sum + error).contains(&sum),
            "acknowledged {least:?}, sent {most:?}"
        );
        Ok(())
    }
}

/// The store has no complaint, and refused nothing.
///
/// # Errors
/// It has.
pub(super) fn status(collector: &Collector) -> anyhow::Result<Json> {
    let status = collector.json("/api/v1/status")?;
    ensure!(
        status["store"]["state"] == "ok",
        "the store is not well: {}",
        status["store"]
    );
    ensure!(
        status["intake"]["dead_letters"] == 0,
        "messages were refused: {}",
        status["intake"]
    );
    Ok(status)
}

//! Reads series back over REST and compares them with the ledger.
//!
//! Each acknowledged sample inside the retention is there once, with its value; whatever else is there was sent, is whole, and has its value; no time stands twice.

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value as Json;

use super::ledger::{Device, FRAMES};
use crate::collector::Collector;
use crate::load::{Shape, now_ms};

const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;
const PATHS_AT_ONCE: usize = 50;

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

/// What was looked at, in samples.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Looked {
    pub(super) read: u64,
    /// Of them, those that had to be there.
    pub(super) due: u64,
}

/// Compares one device.
///
/// # Errors
/// The first difference.
pub(super) fn device(
    collector: &Collector,
    shape: &Shape,
    number: u32,
    ledger: &Device,
    origin_ms: i64,
    retention_ms: i64,
) -> anyhow::Result<Looked> {
    let name = shape.device(number);
    let mut looked = Looked::default();
    let ticks = (ledger.next as usize + 1) * usize::from(FRAMES);
    let paths: Vec<String> = (0..shape.metrics()).map(|m| shape.path(m)).collect();
    // Whole hours go, and time goes on while we read.
    let kept_from = now_ms() - retention_ms + HOUR_MS;
    let due = |tick: u32| {
        ledger.acked.contains(tick / u32::from(FRAMES)) && shape.ts(number, tick) >= kept_from
    };
    if ledger.acked.len() == 0 && collector.get(&format!("/api/v1/devices/{name}"))?.0 == 404 {
        return Ok(looked);
    }
    for (first, some) in (0..)
        .step_by(PATHS_AT_ONCE)
        .zip(paths.chunks(PATHS_AT_ONCE))
    {
        let mut found = vec![false; ticks];
        let query: String = some.iter().map(|p| format!("path={p}&")).collect();
        let base = format!(
            "/api/v1/devices/{name}/series?{query}limit=5000&from={origin_ms}&to={}",
            now_ms() + DAY_MS
        );
        let (mut cursor, mut last) = (None::<String>, i64::MIN);
        loop {
            let next = cursor.map_or(String::new(), |c| format!("&cursor={c}"));
            let (status, body) = collector.get(&format!("{base}{next}"))?;
            if status == 404 && !ledger.acked.iter().any(|c| due(c * u32::from(FRAMES))) {
                break; // nothing of it is kept: its series are not listed any more
            }
            ensure!(status == 200, "{name}: series: {status}: {body}");
            let page: Series = serde_json::from_str(&body).with_context(|| base.clone())?;
            ensure!(
                page.series.len() == some.len(),
                "{name}: {} series for {} paths",
                page.series.len(),
                some.len()
            );
            for (row, &ts) in page.t.iter().enumerate() {
                ensure!(
                    ts > last,
                    "{name}: {ts} stands behind {last}: twice, or out of order"
                );
                last = ts;
                let tick = shape.tick(number, ts).filter(|t| (*t as usize) < ticks);
                let tick = tick.with_context(|| format!("{name}: nothing was sent for {ts}"))?;
                let chunk = tick / u32::from(FRAMES);
                ensure!(
                    ledger.sent.contains(chunk),
                    "{name}: {ts} (tick {tick}) is there and was never sent"
                );
                found[tick as usize] = true;
                for (metric, column) in (first..).zip(&page.series) {
                    let read = column.v.get(row).unwrap_or(&Json::Null);
                    let sent = shape.value(number, metric, tick);
                    if serde_json::from_str::<Json>(&sent).ok().as_ref() != Some(read) {
                        bail!(
                            "{name}{} at {ts} (tick {tick}, {}): sent {sent}, read {read}",
                            column.path,
                            if due(tick) {
                                "acknowledged"
                            } else {
                                "not acknowledged"
                            }
                        );
                    }
                    looked.read += 1;
                    looked.due += u64::from(due(tick));
                }
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let missing: Vec<u32> = (0..ticks as u32)
            .filter(|tick| !found[*tick as usize] && due(*tick))
            .collect();
        if let Some(tick) = missing.first() {
            bail!(
                "{name}: {} acknowledged ticks are gone, the first is {tick} (chunk {}, time {}), the last {:?}; paths from {:?}",
                missing.len(),
                tick / u32::from(FRAMES),
                shape.ts(number, *tick),
                missing.last(),
                some.first()
            );
        }
    }
    listed_once(collector, &name, &paths)?;
    Ok(looked)
}

fn listed_once(collector: &Collector, name: &str, paths: &[String]) -> anyhow::Result<()> {
    let (status, body) = collector.get(&format!("/api/v1/devices/{name}/metrics?limit=1000"))?;
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
            paths.iter().any(|p| p == path),
            "{name}: {path:?} is listed and was never sent"
        );
        ensure!(seen.insert(path), "{name}: {path} is listed twice");
    }
    Ok(())
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

//! Reads everything back over REST and holds it against the ledger.
//!
//! - Each acknowledged sample is there once, with a value that was published for it. What is there was published.
//! - No hole: while a device lived, each of its sources has something at every multiple of its interval on the device's own clock. What may be missing at the ends of a life
//!   and around a step of the clock is a constant here.
//!
//! mosquitto answers PUBACK before it writes its own file. What it acknowledged after the last time that this file was written before a kill -9 (its mtime, see
//! [`BrokerKill`]), and the collector was never given, is mosquitto's loss, counted and shown, and no fault of ours; nor is the hole that it leaves.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value as Json;

use super::ledger::{Device, Sample, State};
use super::world::{BrokerKill, Life};
use crate::collector::{Collector, encode};
use crate::load::now_ms;

/// From the agent's `ready` to its first tick, beside one interval.
const START_GRACE_MS: i64 = 500;
/// From a tick to its message in the outbox: gathering (100 ms) and a slow machine.
const GATHER_GRACE_MS: i64 = 400;
/// A step of the clock, beside two intervals: the tick that it was on its way to.
const STEP_GRACE_MS: i64 = 300;
const DAY_MS: i64 = 86_400_000;

#[derive(Deserialize)]
struct Series {
    t: Vec<i64>,
    series: Vec<Column>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Column {
    v: Vec<Json>,
}

/// What was wrong, in words, by kind.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) faults: Vec<String>,
    pub(super) kinds: BTreeMap<&'static str, u64>,
    /// Samples that were acknowledged, and of these, found.
    pub(super) due: u64,
    pub(super) found: u64,
    /// Ticks at which a source had to be, and of these, found.
    pub(super) ticks_due: u64,
    pub(super) ticks_found: u64,
    pub(super) lost_by_broker: u64,
    /// Device, source and time of these.
    forgotten: BTreeSet<(String, String, i64)>,
}

impl Verdict {
    fn fault(&mut self, kind: &'static str, what: impl FnOnce() -> String) {
        *self.kinds.entry(kind).or_default() += 1;
        // Some of each kind say all.
        if self.kinds.get(kind).is_none_or(|n| *n <= 5) {
            self.faults.push(format!("{kind}: {}", what()));
        }
    }
}

/// One device's life, as it was made to be.
pub(super) struct Lived<'a> {
    pub(super) name: &'a str,
    pub(super) interval_ms: i64,
    pub(super) lives: &'a [Life],
    /// From when (our clock) its clock was how far ahead.
    pub(super) steps: &'a [(i64, i64)],
}

/// Looks at one device.
///
/// # Errors
/// The collector does not answer as it should. What is wrong with the data goes into the verdict.
pub(super) fn device(
    collector: &Collector,
    state: &State,
    lived: &Lived<'_>,
    broker_kills: &[BrokerKill],
    verdict: &mut Verdict,
) -> anyhow::Result<()> {
    let name = lived.name;
    let Some(known) = state.devices.get(name) else {
        verdict.fault("silent", || format!("{name} has never published anything"));
        return Ok(());
    };
    let mut ticks_there: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    for (path, samples) in &known.samples {
        let stored = read(collector, name, path)?;
        let source = path.split('/').nth(1).unwrap_or_default();
        ticks_there
            .entry(source)
            .or_default()
            .extend(stored.iter().map(|(ts, _)| *ts));
        series(name, path, samples, &stored, state, broker_kills, verdict);
    }
    for (source, published) in &known.ticks {
        let there = ticks_there.get(source.as_str());
        let missing = lived.ticks().into_iter().filter(|ts| {
            verdict.ticks_due += 1;
            let found = there.is_some_and(|there| there.contains(ts));
            verdict.ticks_found += u64::from(found);
            let tick = (name.to_owned(), source.clone(), *ts);
            !found && !verdict.forgotten.contains(&tick)
        });
        let missing: Vec<i64> = missing.collect();
        let lived = (name, source.as_str(), lived.interval_ms);
        holes(lived, &missing, published, known, verdict);
    }
    Ok(())
}

fn series(
    name: &str,
    path: &str,
    samples: &BTreeMap<i64, Sample>,
    stored: &[(i64, Json)],
    state: &State,
    broker_kills: &[BrokerKill],
    verdict: &mut Verdict,
) {
    let mut last = i64::MIN;
    let mut there = BTreeSet::new();
    for (ts, value) in stored {
        if *ts <= last {
            verdict.fault("twice", || {
                format!("{name}{path}: {ts} stands behind {last}")
            });
        }
        last = *ts;
        there.insert(*ts);
        match samples.get(ts) {
            None => verdict.fault("never published", || {
                format!("{name}{path} at {ts}: {value}")
            }),
            Some(sample) if !sample.values.iter().any(|sent| same(sent, value)) => {
                verdict.fault("other value", || {
                    format!(
                        "{name}{path} at {ts}: sent {:?}, read {value}",
                        sample.values
                    )
                });
            }
            Some(_) => {}
        }
    }
    for (ts, sample) in samples {
        let Some(acked) = &sample.acked else { continue };
        verdict.due += 1;
        if there.contains(ts) {
            verdict.found += 1;
            continue;
        }
        let given = state.stored.contains(&*acked.message);
        let killed = broker_kills.iter().any(|kill| kill.forgot(acked.at));
        let (_, boot, seq) = &*acked.message;
        if given {
            verdict.fault("lost by the collector", || {
                format!("{name}{path} at {ts}: acknowledged by it too, and not there (boot {boot} seq {seq})")
            });
        } else if killed {
            verdict.lost_by_broker += 1;
            let source = path.split('/').nth(1).unwrap_or_default();
            let tick = (name.to_owned(), source.to_owned(), *ts);
            verdict.forgotten.insert(tick);
        } else {
            verdict.fault("acknowledged and lost", || {
                format!("{name}{path} at {ts}: the broker had it, the collector was never given it (boot {boot} seq {seq})")
            });
        }
    }
}

/// Missing ticks, with where the way ended; those that follow each other with the same end are one fault.
fn holes(
    lived: (&str, &str, i64),
    missing: &[i64],
    published: &BTreeSet<i64>,
    known: &Device,
    verdict: &mut Verdict,
) {
    let (name, source, interval_ms) = lived;
    let top = format!("/{source}/");
    let acked = |ts: &i64| {
        let series = known.samples.range(top.clone()..);
        let mut of_source = series.take_while(|(path, _)| path.starts_with(&top));
        of_source.any(|(_, samples)| samples.get(ts).is_some_and(|s| s.acked.is_some()))
    };
    let end = |ts: &i64| match (published.contains(ts), acked(ts)) {
        (false, _) => "hole, never published",
        (true, false) => "hole, never acknowledged",
        (true, true) => "hole, acknowledged",
    };
    let mut at = missing.iter().map(|ts| (*ts, end(ts))).peekable();
    while let Some((first, kind)) = at.next() {
        let (mut last, mut count) = (first, 1);
        while let Some((ts, _)) = at.next_if(|(ts, k)| *k == kind && *ts == last + interval_ms) {
            (last, count) = (ts, count + 1);
        }
        verdict.fault(kind, || {
            format!("{name} {source}: {count} ticks from {first} to {last}, while the agent lived")
        });
    }
}

fn same(sent: &Json, read: &Json) -> bool {
    sent == read
        || sent
            .as_f64()
            .zip(read.as_f64())
            .is_some_and(|(a, b)| a == b)
}

/// All samples of a series.
fn read(collector: &Collector, device: &str, path: &str) -> anyhow::Result<Vec<(i64, Json)>> {
    let base = format!(
        "/api/v1/devices/{device}/series?limit=5000&path={}&from={}&to={}",
        encode(path),
        now_ms() - 7 * DAY_MS,
        now_ms() + DAY_MS
    );
    let mut samples = Vec::new();
    let mut cursor = None::<String>;
    loop {
        let next = cursor.map_or(String::new(), |c| format!("&cursor={}", encode(&c)));
        let (status, body) = collector.get(&format!("{base}{next}"))?;
        if status == 404 {
            return Ok(samples); // nothing of it is known there
        }
        ensure!(status == 200, "{base}: {status}: {body}");
        let page: Series = serde_json::from_str(&body).with_context(|| base.clone())?;
        let column = page.series.into_iter().next();
        let values = column.map(|c| c.v).unwrap_or_default();
        ensure!(values.len() == page.t.len(), "{base}: times without values");
        samples.extend(page.t.into_iter().zip(values));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(samples);
        }
    }
}

impl Lived<'_> {
    /// The times at which each source has to have something.
    fn ticks(&self) -> Vec<i64> {
        let mut ticks = Vec::new();
        for life in self.lives {
            let begin = life.begin_ms + self.interval_ms + START_GRACE_MS;
            let end = life.end_ms.unwrap_or(i64::MAX) - GATHER_GRACE_MS - life.may_lose_ms;
            for (i, (from, ahead)) in self.steps.iter().enumerate() {
                let grace = 2 * self.interval_ms + STEP_GRACE_MS;
                let until = self
                    .steps
                    .get(i + 1)
                    .map_or(i64::MAX, |next| next.0 - grace);
                let (from, until) = (begin.max(from + grace), end.min(until));
                if from > until {
                    continue;
                }
                let first = (from + ahead).div_euclid(self.interval_ms) + 1;
                let last = (until + ahead).div_euclid(self.interval_ms);
                ticks.extend((first..=last).map(|n| n * self.interval_ms));
            }
        }
        ticks.sort_unstable();
        ticks.dedup();
        ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_due_while_a_device_lives_by_its_own_clock() {
        let life = |begin_ms, end_ms| Life {
            begin_ms,
            end_ms: Some(end_ms),
            may_lose_ms: 0,
        };
        let lived = Lived {
            name: "d",
            interval_ms: 1000,
            lives: &[life(10_000, 15_500), life(20_000, 30_000)],
            steps: &[(0, 0), (24_000, 100_000)],
        };
        // 1500 ms from the begin, 400 to the end, 2300 on both sides of the step.
        let expected: Vec<i64> = [12, 13, 14, 15, 127, 128, 129].map(|s| s * 1000).to_vec();
        assert_eq!(lived.ticks(), expected);
    }

    #[test]
    fn a_hole_says_how_far_the_tick_came() {
        let mut known = Device::default();
        let sample = Sample::default();
        let series = known.samples.entry("/cpu/x".into()).or_default();
        series.insert(2000, sample);
        let mut verdict = Verdict::default();
        let (missing, published) = ([1000, 2000, 3000, 4000], BTreeSet::from([2000]));
        holes(
            ("d", "cpu", 1000),
            &missing,
            &published,
            &known,
            &mut verdict,
        );
        assert!(
            verdict.faults[2].contains("2 ticks from 3000 to 4000"),
            "{verdict:?}"
        );
        let kinds: Vec<_> = verdict.kinds.into_iter().collect();
        assert_eq!(
            kinds,
            [
                ("hole, never acknowledged", 1),
                ("hole, never published", 2)
            ]
        );
    }
}

//! What the two calls for series ask: a range of time, buckets and what is made of them.

use std::ops::RangeInclusive;

use devmon_core::config::DurationText;
use devmon_core::wire::{DeviceId, TimestampMs};

use super::{Params, bad_cursor, whole, word};
use crate::api::page::Cursor;
use crate::api::problem::Problem;
use crate::api::time;
use crate::query::aggregate::Aggregate;
use crate::query::fleet_series::{Buckets, FleetSeriesQuery};
use crate::query::range::{Resolution, SeriesQuery};

/// Rows of a page of series: default and maximum.
pub(in crate::api) const ROWS_LIMIT: (usize, usize) = (10_000, 100_000);
pub(in crate::api) const POINTS: RangeInclusive<u64> = 2..=10_000;
/// Longest step: ten years.
const MAX_STEP_MS: u64 = 3_650 * 86_400_000;
/// What comes later than this is rare: a device that was without a network for hours. The store merges such samples in one go (`archive_late_after`).
const LATE_MS: i64 = 6 * 3_600_000;
/// Range without `from`.
const DEFAULT_RANGE_MS: i64 = 3_600_000;

impl Params {
    /// All that a series call asks.
    ///
    /// # Errors
    /// For the first parameter that is malformed, missing, or does not go with another.
    pub fn series(&self, device: &DeviceId, now: TimestampMs) -> Result<SeriesQuery, Problem> {
        let paths = self.paths()?;
        let (from, to) = self.range(now)?;
        let (resolution, aggregates) = self.resolution()?;
        let mut query = SeriesQuery {
            device: device.to_string(),
            paths,
            from,
            to,
            resolution,
            aggregates,
            limit: self.limit(ROWS_LIMIT)?,
            start: None,
        };
        match self.cursor()? {
            None => {}
            Some(Cursor::Series {
                next,
                from,
                to,
                step_ms,
            }) => {
                query.resolution = match (query.resolution, step_ms) {
                    (Resolution::Raw, None) => Resolution::Raw,
                    (Resolution::Step(_) | Resolution::Points(_), Some(ms)) => Resolution::Step(ms),
                    _ => {
                        let detail = "belongs to a call with other parameters";
                        return Err(Problem::parameter("cursor", detail));
                    }
                };
                self.goes_on(from, to, now)?;
                (query.from, query.to, query.start) = (from, to, Some(next));
            }
            Some(_) => return Err(bad_cursor()),
        }
        Ok(query)
    }

    /// All that a series call over the fleet asks.
    ///
    /// # Errors
    /// As [`series`](Self::series); without a step, for raw samples of several devices share no times.
    pub fn fleet_series(&self, now: TimestampMs) -> Result<FleetSeriesQuery, Problem> {
        let patterns = self.patterns()?;
        let (from, to) = self.range(now)?;
        let (resolution, aggregates) = self.resolution()?;
        let buckets = match resolution {
            Resolution::Step(step_ms) => Buckets::Step(step_ms),
            Resolution::Points(points) => Buckets::Points(points),
            Resolution::Raw => {
                return Err(Problem::parameter(
                    "step",
                    "is missing, and points too: devices share no times but those of buckets. Samples as they are: /api/v1/devices/{device}/series",
                ));
            }
        };
        let mut query = FleetSeriesQuery {
            patterns,
            filter: self.device_filter()?,
            from,
            to,
            buckets,
            aggregates,
            limit: self.list_limit()?,
            after: None,
        };
        match self.cursor()? {
            None => {}
            Some(Cursor::FleetSeries {
                device,
                path,
                from,
                to,
                step_ms,
            }) => {
                self.goes_on(from, to, now)?;
                (query.from, query.to) = (from, to);
                query.buckets = Buckets::Step(step_ms);
                query.after = Some((device, path));
            }
            Some(_) => return Err(bad_cursor()),
        }
        Ok(query)
    }

    /// From when, and to when.
    fn range(&self, now: TimestampMs) -> Result<(TimestampMs, TimestampMs), Problem> {
        let at = |name: &str| {
            let parse = |text| time::parse(text, now).map_err(|e| Problem::parameter(name, e));
            self.get(name).map(parse).transpose()
        };
        let to = at("to")?.unwrap_or(now);
        let from = at("from")?.unwrap_or(TimestampMs(to.0.saturating_sub(DEFAULT_RANGE_MS)));
        if from > to {
            let detail = format!("{from} lies after to, which is {to}");
            return Err(Problem::parameter("from", detail));
        }
        Ok((from, to))
    }

    /// Checks that a cursor, which holds the range of its first page, belongs to the range that is named beside it. One that moves with the clock can not be told from it.
    fn goes_on(&self, from: TimestampMs, to: TimestampMs, now: TimestampMs) -> Result<(), Problem> {
        for (name, held) in [("from", from), ("to", to)] {
            let fixed = self.get(name).filter(|text| is_fixed(text));
            let said = fixed.and_then(|text| time::parse(text, now).ok());
            if let Some(said) = said.filter(|said| *said != held) {
                let detail = format!(
                    "belongs to a call with {name}={held}, not {said}; follow next_cursor with all else as it was"
                );
                return Err(Problem::parameter("cursor", detail));
            }
        }
        Ok(())
    }

    /// True if a range of series is over and fixed: named by times that do not move, and with an end behind which little comes.
    #[must_use]
    pub fn is_closed(&self, to: TimestampMs, now: TimestampMs) -> bool {
        // A cursor holds the times.
        let named = self.get("to").is_some_and(is_fixed) && self.get("from").is_none_or(is_fixed);
        (named || self.get("cursor").is_some()) && now.since(to) >= LATE_MS
    }

    fn resolution(&self) -> Result<(Resolution, Vec<Aggregate>), Problem> {
        let named = self.aggregates()?;
        let resolution = match (self.get("step"), self.get("points")) {
            (Some(_), Some(_)) => {
                return Err(Problem::parameter(
                    "points",
                    "does not go with step; give one of them",
                ));
            }
            (Some(text), None) => Resolution::Step(step(text)?),
            (None, Some(text)) => Resolution::Points(whole("points", text, &POINTS)?),
            (None, None) if named.is_some() => {
                return Err(Problem::parameter(
                    "agg",
                    "needs step or points: raw samples are not aggregated",
                ));
            }
            (None, None) => return Ok((Resolution::Raw, Vec::new())),
        };
        Ok((resolution, named.unwrap_or_else(|| vec![Aggregate::Avg])))
    }

    /// The aggregates asked for, separated by commas.
    fn aggregates(&self) -> Result<Option<Vec<Aggregate>>, Problem> {
        let Some(text) = self.get("agg") else {
            return Ok(None);
        };
        let mut aggregates = Vec::new();
        for name in text.split(',') {
            let found = word("agg", name, &Aggregate::ALL, Aggregate::as_str)?;
            if aggregates.contains(&found) {
                return Err(Problem::parameter("agg", format!("{name} stands twice")));
            }
            aggregates.push(found);
        }
        Ok(Some(aggregates))
    }
}

/// A time that does not move with the clock.
fn is_fixed(text: &str) -> bool {
    !text.starts_with('-') && text != "now"
}

fn step(text: &str) -> Result<i64, Problem> {
    let wrong = |detail: &str| Problem::parameter("step", format!("{text:?} {detail}"));
    let ms = match text.parse::<u64>() {
        Ok(ms) if !text.starts_with('+') => ms,
        _ => match text.parse::<DurationText>() {
            Ok(duration) => u64::try_from(duration.0.as_millis()).unwrap_or(u64::MAX),
            Err(_) => {
                return Err(wrong(
                    "is no step; write 10s, 1m, 6h, or plain milliseconds",
                ));
            }
        },
    };
    if !(1..=MAX_STEP_MS).contains(&ms) {
        return Err(wrong("is out of range; 1 ms to 3650d"));
    }
    i64::try_from(ms).map_err(|_| wrong("is out of range"))
}

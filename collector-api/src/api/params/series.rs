//! What the two calls for series ask: a range of time, buckets and what is made of them.

use std::ops::RangeInclusive;

use devmon_core::config::DurationText;
use devmon_core::wire::{DeviceId, TimestampMs};

use super::{Params, all, bad_cursor, each, other_query, whole, word};
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
    /// For each parameter that is malformed, missing, or does not go with another; and what is wrong with the device.
    pub fn series(
        &self,
        device: Result<DeviceId, Problem>,
        now: TimestampMs,
    ) -> Result<SeriesQuery, Problem> {
        let (device, paths, (from, to), (resolution, aggregates), (limit, cursor)) = all((
            device,
            self.paths(),
            self.range(now),
            self.resolution(),
            all((self.limit(ROWS_LIMIT), self.cursor())),
        ))?;
        let mut query = SeriesQuery {
            device: device.to_string(),
            paths,
            from,
            to,
            resolution,
            aggregates,
            limit,
            start: None,
        };
        match cursor {
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
                    _ => return Err(other_query()),
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
        let (patterns, filter, (from, to), (buckets, aggregates), (limit, cursor)) = all((
            self.patterns(),
            self.device_filter(),
            self.range(now),
            self.buckets(),
            all((self.list_limit(), self.cursor())),
        ))?;
        let mut query = FleetSeriesQuery {
            patterns,
            filter,
            from,
            to,
            buckets,
            aggregates,
            limit,
            after: None,
        };
        match cursor {
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
        let (from, to) = all((at("from"), at("to")))?;
        let to = to.unwrap_or(now);
        let from = from.unwrap_or(TimestampMs(to.0.saturating_sub(DEFAULT_RANGE_MS)));
        // Beside a cursor, which holds the range of its first page, time may have gone on past its end.
        let is_over = self.get("cursor").is_some() && self.moves("from") && !self.moves("to");
        if from > to && !is_over {
            let detail = format!("{from} lies after to, which is {to}");
            return Err(Problem::parameter("from", detail));
        }
        Ok((from, to))
    }

    /// Checks that a cursor, which holds the range of its first page, belongs to the range that is named beside it. Of one that moves with the clock the length is known.
    fn goes_on(&self, from: TimestampMs, to: TimestampMs, now: TimestampMs) -> Result<(), Problem> {
        let belongs = |what: String| {
            let detail = format!(
                "belongs to a call with {what}; follow next_cursor with all else as it was"
            );
            Err(Problem::parameter("cursor", detail))
        };
        for (name, held) in [("from", from), ("to", to)] {
            let fixed = self.get(name).filter(|text| is_fixed(text));
            let said = fixed.and_then(|text| time::parse(text, now).ok());
            if let Some(said) = said.filter(|said| *said != held) {
                return belongs(format!("{name}={held}, not {said}"));
            }
        }
        if self.get("from").is_some() && self.moves("from") && self.moves("to") {
            let (said_from, said_to) = self.range(now)?;
            let (held, said) = (to.since(from), said_to.since(said_from));
            if held != said {
                return belongs(format!("a range of {held} ms, not of {said} ms"));
            }
        }
        Ok(())
    }

    /// Whether the begin or the end of the range moves with the clock.
    fn moves(&self, name: &str) -> bool {
        self.get(name).is_none_or(|text| !is_fixed(text))
    }

    /// True if a range of series is over and fixed: named by times that do not move, and with an end behind which little comes.
    #[must_use]
    pub fn is_closed(&self, to: TimestampMs, now: TimestampMs) -> bool {
        // A cursor holds the times.
        let named = self.get("to").is_some_and(is_fixed) && self.get("from").is_none_or(is_fixed);
        (named || self.get("cursor").is_some()) && now.since(to) >= LATE_MS
    }

    fn resolution(&self) -> Result<(Resolution, Vec<Aggregate>), Problem> {
        let length = self
            .get("step")
            .map(|text| step(text).map(Resolution::Step));
        let points = self.get("points").map(|text| match &length {
            Some(_) => Err(Problem::parameter(
                "points",
                "does not go with step; give one of them",
            )),
            None => whole("points", text, &POINTS).map(Resolution::Points),
        });
        let (step, points, named) =
            all((length.transpose(), points.transpose(), self.aggregates()))?;
        match (step.or(points), named) {
            (Some(resolution), named) => {
                Ok((resolution, named.unwrap_or_else(|| vec![Aggregate::Avg])))
            }
            (None, None) => Ok((Resolution::Raw, Vec::new())),
            (None, Some(_)) => Err(Problem::parameter(
                "agg",
                "needs step or points: raw samples are not aggregated",
            )),
        }
    }

    fn buckets(&self) -> Result<(Buckets, Vec<Aggregate>), Problem> {
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
        Ok((buckets, aggregates))
    }

    /// The aggregates asked for, separated by commas.
    fn aggregates(&self) -> Result<Option<Vec<Aggregate>>, Problem> {
        let Some(text) = self.get("agg") else {
            return Ok(None);
        };
        let mut aggregates = Vec::new();
        each(text.split(',').map(|name| {
            let found = word("agg", name, &Aggregate::ALL, Aggregate::as_str)?;
            if aggregates.contains(&found) {
                return Err(Problem::parameter("agg", format!("{name} stands twice")));
            }
            aggregates.push(found);
            Ok(())
        }))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: TimestampMs = TimestampMs(1_795_457_000_000);

    fn asked(query: &str, now: TimestampMs) -> Result<SeriesQuery, Problem> {
        let known = [
            "path", "from", "to", "step", "points", "agg", "limit", "cursor",
        ];
        Params::parse(query, &known)?.series(Ok("d".parse().unwrap()), now)
    }

    #[test]
    fn a_client_that_repeats_its_call_much_later_gets_the_next_page() {
        let later = TimestampMs(NOW.0 + 7_200_000);
        for range in [
            "".to_owned(),
            "&from=-1h".to_owned(),
            "&from=-1h&to=now".to_owned(),
            "&from=-2h&to=-1h".to_owned(),
            format!("&from=-1h&to={NOW}"),
            format!("&from={}", NOW.0 - 5),
            format!("&to={NOW}"),
        ] {
            let first = asked(&format!("path=/a{range}"), NOW).unwrap();
            let cursor = Cursor::Series {
                next: first.from,
                from: first.from,
                to: first.to,
                step_ms: None,
            };
            let next = format!("path=/a{range}&cursor={}", cursor.text(0));
            let next = asked(&next, later).unwrap_or_else(|e| panic!("{range}: {e:?}"));
            assert_eq!((next.from, next.to), (first.from, first.to), "{range}");
        }
    }

    #[test]
    fn a_cursor_is_refused_beside_another_range() {
        let cursor = Cursor::Series {
            next: NOW,
            from: NOW,
            to: TimestampMs(NOW.0 + 60_000),
            step_ms: None,
        };
        for range in [
            "from=-2m".to_owned(),
            "from=-2m&to=-30s".to_owned(),
            "from=-1s&to=-1m".to_owned(),
            "from=0".to_owned(),
            "to=0&from=-1m".to_owned(),
            format!("from={}&to={NOW}", NOW.0 + 1),
        ] {
            let query = format!("path=/a&{range}&cursor={}", cursor.text(0));
            let refused = asked(&query, TimestampMs(NOW.0 + 60_000)).err();
            let name = refused.and_then(|problem| problem.parameter);
            assert!(name.is_some(), "{range}");
        }
    }
}

//! Rollups of a range, day by day: those that a day file holds where they are all that there is, made from samples elsewhere.
//!
//! | the day | taken |
//! |---|---|
//! | has no file, or one with raw samples and late ones behind it | made from raw samples |
//! | has a file with raw samples, nothing late | 1 h: stored; 1 m: made from raw samples |
//! | has a file of rollups | stored, with late samples folded in (`merge` says how exactly) |
//!
//! A day whose file is replaced while it is read is read again; all of them, if one goes coarser meanwhile: its samples may have been looked for too late, and its rollups not
//! at all.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use devmon_core::MetricPath;
use devmon_core::wire::TimestampMs;

use super::archive::{DayFile, Holds};
use super::days::{DAY_HOURS, day_of, end_of, start_of};
use super::engine::{SeriesRollups, StoreError};
use super::local::Shared;
use super::rollup::{self, Rollup, Tier};
use super::{merge, range};

/// What is asked; `from` and `to` bound the begins of buckets.
pub(super) struct Question<'a> {
    pub(super) device: &'a str,
    pub(super) paths: &'a [MetricPath],
    pub(super) tier: Tier,
    pub(super) bucket_ms: i64,
    pub(super) limit: usize,
}

/// Where the paths lie: their series by stream, with their places among the paths.
type Streams = BTreeMap<u32, HashMap<u32, Vec<usize>>>;

/// A day that is read from its file.
struct Stored {
    day: u32,
    revision: u32,
    file: Arc<DayFile>,
    late: bool,
}

/// Days go coarser once in their life for each tier; a range that changes more often while it is read is not to be had.
const TRIES: usize = 32;

/// See [`Store::rollups`](super::engine::Store::rollups).
pub(super) fn rollups(
    shared: &Shared,
    question: &Question<'_>,
    from: TimestampMs,
    to: TimestampMs,
) -> Result<Vec<SeriesRollups>, StoreError> {
    let mut before = coarse(shared, from, to);
    for _ in 0..TRIES {
        let found = attempt(shared, question, from, to)?;
        let now = coarse(shared, from, to);
        if now == before {
            return Ok(found);
        }
        before = now;
    }
    attempt(shared, question, from, to)
}

/// The days without raw samples, and what they hold.
fn coarse(shared: &Shared, from: TimestampMs, to: TimestampMs) -> Vec<(u32, Holds)> {
    if from >= to {
        return Vec::new();
    }
    let state = shared.read();
    let days = state.days.range(day_of(from)..=day_of(to));
    let holds = days.filter_map(|(day, of)| Some((*day, of.file.as_ref()?.holds())));
    holds.filter(|(_, holds)| *holds != Holds::Raw).collect()
}

fn attempt(
    shared: &Shared,
    question: &Question<'_>,
    from: TimestampMs,
    to: TimestampMs,
) -> Result<Vec<SeriesRollups>, StoreError> {
    let none = |path: &MetricPath| SeriesRollups {
        path: path.clone(),
        rollups: Vec::new(),
    };
    let mut out: Vec<SeriesRollups> = question.paths.iter().map(none).collect();
    let (streams, stored) = look(shared, question, from, to);
    let mut at = from;
    for stored in stored {
        let (begin, end) = (start_of(stored.day).max(at), end_of(stored.day).min(to));
        made(shared, question, at, begin, &mut out)?;
        let mut stored = Some(stored);
        while let Some(of_day) = stored.take() {
            match read(shared, question, &streams, &of_day, begin, end)? {
                Some(found) => append(question, &mut out, found)?,
                // Its file was replaced: perhaps it is one of rollups now.
                None => match look(shared, question, begin, end).1.pop() {
                    Some(again) => stored = Some(again),
                    None => made(shared, question, begin, end, &mut out)?,
                },
            }
        }
        at = end;
    }
    made(shared, question, at, to, &mut out)?;
    Ok(out)
}

/// The days of which stored rollups are read, in order.
fn look(
    shared: &Shared,
    question: &Question<'_>,
    from: TimestampMs,
    to: TimestampMs,
) -> (Streams, Vec<Stored>) {
    let state = shared.read();
    let mut streams = Streams::new();
    let Some(device) = state.catalogue.devices.get(question.device) else {
        return (streams, Vec::new());
    };
    let mut hours = std::collections::BTreeSet::new();
    for (i, path) in question.paths.iter().enumerate() {
        let Some((place, series)) = device.find(path) else {
            continue;
        };
        let stream = &device.streams[place as usize];
        if !streams.contains_key(&stream.number) {
            let rows = stream.sealing.as_deref().into_iter().chain([&stream.rows]);
            hours.extend(rows.flat_map(|rows| rows.hours()));
        }
        let of_stream = streams.entry(stream.number).or_default();
        of_stream.entry(series).or_default().push(i);
    }
    let mut stored = Vec::new();
    if from >= to {
        return (streams, stored);
    }
    let last = TimestampMs(to.0 - 1); // to is above from
    for (&day, of) in state.days.range(day_of(from)..=day_of(last)) {
        let Some(file) = &of.file else { continue };
        let of_day = day * DAY_HOURS..(day + 1) * DAY_HOURS;
        let in_blocks = state.hours.range(of_day.clone()).next().is_some();
        let late = in_blocks || hours.range(of_day).next().is_some();
        let is_stored = match file.holds() {
            Holds::Raw => question.tier == Tier::Hour && !late,
            Holds::Minute | Holds::Hour => true,
        };
        if is_stored {
            stored.push(Stored {
                day,
                revision: of.named.revision,
                file: file.clone(),
                late,
            });
        }
    }
    (streams, stored)
}

/// Makes them from raw samples.
fn made(
    shared: &Shared,
    question: &Question<'_>,
    from: TimestampMs,
    to: TimestampMs,
    out: &mut [SeriesRollups],
) -> Result<(), StoreError> {
    if from >= to {
        return Ok(());
    }
    let (device, paths) = (question.device, question.paths);
    let read = |from, to, limit| range::range(shared, device, paths, from, to, limit);
    let made = rollup::from_raw(question.bucket_ms, (from, to), question.limit, &read)?;
    append(question, out, made.into_iter().map(|m| m.rollups).collect())
}

fn append(
    question: &Question<'_>,
    out: &mut [SeriesRollups],
    found: Vec<Vec<Rollup>>,
) -> Result<(), StoreError> {
    for (out, found) in out.iter_mut().zip(found) {
        out.rollups.extend(found);
    }
    if out.iter().map(|o| o.rollups.len()).sum::<usize>() > question.limit {
        return Err(StoreError::TooManySamples {
            limit: question.limit,
        });
    }
    Ok(())
}

/// Reads a day's stored rollups, and what came late; `None` if its file was replaced meanwhile.
fn read(
    shared: &Shared,
    question: &Question<'_>,
    streams: &Streams,
    stored: &Stored,
    from: TimestampMs,
    to: TimestampMs,
) -> Result<Option<Vec<Vec<Rollup>>>, StoreError> {
    let mut found = vec![Vec::new(); question.paths.len()];
    for (&stream, series) in streams {
        stored.file.rollups(
            question.tier,
            stream,
            &|number| series.contains_key(&number),
            from.0,
            to.0,
            &mut |number, rollups| {
                let Some([first, others @ ..]) = series.get(&number).map(Vec::as_slice) else {
                    return;
                };
                found[*first].extend(rollups);
                for other in others {
                    found[*other] = found[*first].clone();
                }
            },
        )?;
    }
    if stored.late {
        // Of samples there are only the late ones: those before are gone.
        let mut late: Vec<SeriesRollups> = question
            .paths
            .iter()
            .map(|path| SeriesRollups {
                path: path.clone(),
                rollups: Vec::new(),
            })
            .collect();
        made(shared, question, from, to, &mut late)?;
        for (found, late) in found.iter_mut().zip(late) {
            late.rollups
                .into_iter()
                .for_each(|late| merge::add_late(found, late));
        }
    }
    let now = shared
        .read()
        .days
        .get(&stored.day)
        .map(|day| day.named.revision);
    Ok((now == Some(stored.revision)).then_some(found))
}

/// Before this time a tier holds nothing: the newest day that went coarser.
pub(super) fn kept_from(shared: &Shared, tier: Tier) -> TimestampMs {
    let state = shared.read();
    let coarser = |holds: Holds| match tier {
        Tier::Raw => holds != Holds::Raw,
        Tier::Minute => holds == Holds::Hour,
        Tier::Hour => false,
    };
    let mut days = state.days.iter().rev();
    let last = days.find(|(_, day)| day.file.as_ref().is_some_and(|f| coarser(f.holds())));
    last.map_or(TimestampMs(i64::MIN), |(day, _)| end_of(*day))
}

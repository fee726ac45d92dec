//! The series of a selector, from the catalogue alone, and their samples, from the finest tier that has them.
//!
//! **Tiers.** Raw samples as long as they are kept from the begin of what is read on; before that rollups of a minute, then of an hour; and these as well where raw samples
//! would be more than a query may read. Of a rollup the first and last sample are samples as they came; where a counter began anew between them, one sample more shows
//! by how much it had grown. `sum`, `count`, `avg`, `min` and `max_over_time` use the rollup's own figures ([`Folded`]).

use devmon_core::wire::TimestampMs;
use devmon_core::{MetricPath, Value};
use promql_parser::label::Matcher;
use promql_parser::parser::VectorSelector;

use super::patience::{Patience, Watch};
use super::{ABSENT, Error, Labels, is_absent};
use crate::query::names::{NamedSeries, NamesCache};
use crate::store::engine::{DeviceRecord, Store, StoreError};
use crate::store::rollup::{Rollup, Tier};

/// Most samples and rollups that one query reads.
pub const MAX_SAMPLES: usize = 10_000_000;
/// Most of them in memory at a time: some 32 MB.
const READ_SAMPLES: usize = 2_000_000;
/// Most series of one selector: some 100 MB of labels while the query works.
pub const MAX_SERIES: usize = 200_000;
/// Most series of all selectors of a query, which may all be in memory before the first of them is let go.
pub const MAX_SERIES_OF_ALL: usize = 3 * MAX_SERIES;
/// Devices that are looked through between two looks at the list of devices.
const DEVICES_AT_ONCE: usize = 256;
/// Paths of a device that are read together.
const PATHS_AT_ONCE: usize = 64;

/// What a query may still use up.
#[derive(Debug)]
pub struct Budget {
    pub samples: usize,
    pub series: usize,
    pub patience: Patience,
}

impl Budget {
    /// # Errors
    /// [`Error::Timeout`] when the time is over.
    pub fn check(&self) -> Result<(), Error> {
        self.patience.check()
    }
}

/// Series of one device that a selector names.
#[derive(Debug)]
pub struct Selected {
    pub device: String,
    pub series: Vec<(MetricPath, Labels, bool)>,
}

/// The matchers of a selector, its name among them; each list is one alternative.
#[must_use]
pub fn matchers(selector: &VectorSelector) -> Vec<Vec<Matcher>> {
    let name = selector
        .name
        .as_ref()
        .map(|name| Matcher::new(promql_parser::label::MatchOp::Equal, "__name__", name));
    let with_name = |list: &Vec<Matcher>| list.iter().cloned().chain(name.clone()).collect();
    let all = &selector.matchers;
    if all.or_matchers.is_empty() {
        vec![with_name(&all.matchers)]
    } else {
        all.or_matchers.iter().map(with_name).collect()
    }
}

/// The labels of a series, without the `value` of an info.
#[must_use]
pub fn labels(device: &DeviceRecord, one: &NamedSeries) -> Labels {
    let mut labels = one.mapped.labels.clone();
    labels.push(("__name__".into(), one.mapped.family.name.clone()));
    labels.push(("device".into(), device.id.to_string()));
    if one.with_path {
        labels.push(("path".into(), one.series.path.to_string()));
    }
    labels.sort_unstable();
    labels
}

fn value<'a>(labels: &'a Labels, name: &str) -> &'a str {
    labels
        .iter()
        .find(|(n, _)| n == name)
        .map_or("", |(_, v)| v)
}

/// Whether one of the lists fits as a whole; matchers of the label `leave_out` always do.
#[must_use]
pub fn fits(all: &[Vec<Matcher>], labels: &Labels, leave_out: &str) -> bool {
    let one = |m: &Matcher| m.name == leave_out || m.is_match(value(labels, &m.name));
    all.iter().any(|list| list.iter().all(one))
}

/// Calls `f` with each series with a sample in `from ≤ t ≤ to` that fits; no samples are read. Of an info, `value` is not looked at.
///
/// # Errors
/// [`Error::Timeout`], or what `f` says.
pub fn walk(
    store: &dyn Store,
    names: &NamesCache,
    all: &[Vec<Matcher>],
    (from_ms, to_ms): (i64, i64),
    budget: &Budget,
    f: &mut dyn FnMut(&DeviceRecord, &NamedSeries, Labels) -> Result<(), Error>,
) -> Result<(), Error> {
    let keep = |device: &DeviceRecord| {
        let of_device = |m: &Matcher| m.name != "device" || m.is_match(device.id.as_str());
        device.series > 0 && all.iter().any(|list| list.iter().all(of_device))
    };
    let mut watch = Watch::new(budget.patience);
    let mut after: Option<String> = None;
    loop {
        budget.check()?;
        let page = store.devices(after.as_deref(), DEVICES_AT_ONCE, &keep);
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.id.to_string());
        for device in &page {
            for one in names.series(store, device) {
                watch.worked(1)?;
                // The name first: it is at hand, and leaves most out.
                let name = one.mapped.family.name.as_str();
                let named = |m: &Matcher| m.name != "__name__" || m.is_match(name);
                if one.series.first_ts.0 > to_ms
                    || one.series.last_ts.0 < from_ms
                    || !all.iter().any(|list| list.iter().all(named))
                {
                    continue;
                }
                let text = crate::query::families::is_text(&one.series.last_value);
                let labels = labels(device, &one);
                if fits(all, &labels, if text { "value" } else { "" }) {
                    f(device, &one, labels)?;
                }
            }
        }
    }
}

/// The series of a selector with a sample in the range.
///
/// # Errors
/// [`Error::Execution`]: more than [`MAX_SERIES`], or than the budget has left; [`Error::Timeout`].
pub fn select(
    store: &dyn Store,
    names: &NamesCache,
    all: &[Vec<Matcher>],
    range: (i64, i64),
    budget: &mut Budget,
) -> Result<Vec<Selected>, Error> {
    let mut found: Vec<Selected> = Vec::new();
    let mut count = 0;
    walk(
        store,
        names,
        all,
        range,
        budget,
        &mut |device, one, labels| {
            count += 1;
            if count > MAX_SERIES {
                return Err(Error::Execution(format!(
                    "a selector names more than {MAX_SERIES} series, the most that there may be; narrow it, by device for example"
                )));
            }
            if count > budget.series {
                return Err(Error::Execution(format!(
                    "the selectors of the query name more than {MAX_SERIES_OF_ALL} series together, the most that there may be; narrow them, by device for example"
                )));
            }
            let text = crate::query::families::is_text(&one.series.last_value);
            let series = (one.series.path.clone(), labels, text);
            match found.last_mut() {
                Some(last) if last.device == device.id.as_str() => last.series.push(series),
                _ => found.push(Selected {
                    device: device.id.to_string(),
                    series: vec![series],
                }),
            }
            Ok(())
        },
    )?;
    budget.series -= count;
    Ok(found)
}

/// Figures of a rollup, for functions that add up or compare.
#[derive(Debug, Clone, Copy)]
pub struct Folded {
    pub count: f64,
    pub sum: f64,
    pub min: f64,
    pub max: f64,
}

/// Samples of one series in Prometheus' sense, oldest first.
#[derive(Debug, Default)]
pub struct Samples {
    pub labels: Labels,
    pub ts: Vec<i64>,
    /// [`ABSENT`] where a text ends.
    pub v: Vec<f64>,
    /// For each sample, what stands behind it; empty for raw samples.
    pub folded: Vec<Folded>,
}

impl Samples {
    fn push(&mut self, ts: i64, v: f64) {
        self.ts.push(ts);
        self.v.push(v);
    }
}

/// How the samples of a rollup are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// As single samples.
    Samples,
    /// As figures over all of them.
    Figures,
}

/// What is read of the selected series.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    pub tier: Tier,
    pub want: Want,
    /// Both inclusive.
    pub span: (i64, i64),
    pub all: &'a [Vec<Matcher>],
}

/// The finest tier that holds what lies at `from_ms`.
#[must_use]
pub fn finest(store: &dyn Store, from_ms: i64) -> Tier {
    if from_ms >= store.kept_from(Tier::Raw).0 {
        Tier::Raw
    } else if from_ms >= store.kept_from(Tier::Minute).0 {
        Tier::Minute
    } else {
        Tier::Hour
    }
}

/// Reads the selected series of a device and hands them to `f` one by one.
///
/// # Errors
/// [`Error::TooManySamples`]: the budget is used up; [`Error::Store`]; or what `f` says.
pub fn read(
    store: &dyn Store,
    selected: &Selected,
    reading: &Reading<'_>,
    budget: &mut Budget,
    f: &mut dyn FnMut(Samples) -> Result<(), Error>,
) -> Result<(), Error> {
    let Reading {
        tier,
        want,
        span,
        all,
    } = *reading;
    let mut open: Vec<&[(MetricPath, Labels, bool)]> =
        selected.series.chunks(PATHS_AT_ONCE).rev().collect();
    while let Some(part) = open.pop() {
        budget.check()?;
        let paths: Vec<MetricPath> = part.iter().map(|(path, ..)| path.clone()).collect();
        // One series may take all that is left; several share a read.
        let limit = if part.len() == 1 {
            budget.samples
        } else {
            budget.samples.min(READ_SAMPLES)
        };
        let found = of_tier(store, &selected.device, &paths, tier, want, span, limit);
        match found {
            Ok(found) => {
                for ((_, labels, text), found) in part.iter().zip(found) {
                    budget.samples = budget.samples.saturating_sub(found.len());
                    for samples in found.samples(labels, *text) {
                        if !samples.ts.is_empty() && (!*text || fits(all, &samples.labels, "")) {
                            f(samples)?;
                        }
                    }
                }
            }
            Err(StoreError::TooManySamples { .. }) if part.len() > 1 => {
                let (first, second) = part.split_at(part.len() / 2);
                open.extend([second, first]);
            }
            Err(StoreError::TooManySamples { .. }) => {
                return Err(Error::TooManySamples(MAX_SAMPLES));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What a tier holds of one series.
enum Found {
    Raw(Vec<(i64, Value)>),
    Folded(Vec<Rollup>, Want),
}

fn of_tier(
    store: &dyn Store,
    device: &str,
    paths: &[MetricPath],
    tier: Tier,
    want: Want,
    (from_ms, to_ms): (i64, i64),
    limit: usize,
) -> Result<Vec<Found>, StoreError> {
    let Some(bucket_ms) = tier.bucket_ms() else {
        let ranges = store.range(
            device,
            paths,
            TimestampMs(from_ms),
            TimestampMs(to_ms.saturating_add(1)),
            limit,
        )?;
        let found = ranges
            .iter()
            .map(|r| Found::Raw(r.iter().map(|(ts, v)| (ts.0, v)).collect()));
        return Ok(found.collect());
    };
    let begin = crate::query::step::floor(from_ms, bucket_ms);
    let end = crate::query::step::ceil(to_ms.saturating_add(1), bucket_ms);
    let rollups = store.rollups(
        device,
        paths,
        tier,
        TimestampMs(begin),
        TimestampMs(end),
        limit,
    )?;
    Ok(rollups
        .into_iter()
        .map(|r| Found::Folded(r.rollups, want))
        .collect())
}

impl Found {
    fn len(&self) -> usize {
        match self {
            Self::Raw(samples) => samples.len(),
            Self::Folded(rollups, _) => rollups.len(),
        }
    }

    /// As numbers; a text is a series for each of its values, which ends where another value begins.
    fn samples(self, labels: &Labels, text: bool) -> Vec<Samples> {
        let mut plain = Samples {
            labels: labels.clone(),
            ..Samples::default()
        };
        if text {
            return self.infos(labels);
        }
        match self {
            Self::Raw(samples) => {
                for (ts, value) in samples {
                    if let Some(x) = number(&value) {
                        plain.push(ts, x);
                    }
                }
            }
            Self::Folded(rollups, Want::Figures) => {
                for rollup in rollups {
                    let figure = |v: &Option<Value>| v.as_ref().and_then(number);
                    if let (Some(sum), Some(min), Some(max)) = (
                        figure(&rollup.sum),
                        figure(&rollup.min),
                        figure(&rollup.max),
                    ) {
                        plain.push(rollup.last_ts.0, sum);
                        plain.folded.push(Folded {
                            count: rollup.numbers as f64,
                            sum,
                            min,
                            max,
                        });
                    }
                }
            }
            Self::Folded(rollups, Want::Samples) => {
                for rollup in rollups {
                    let (first, last) = (number(&rollup.first), number(&rollup.last));
                    if let Some(first) = first {
                        plain.push(rollup.first_ts.0, first);
                    }
                    let Some(last) = last.filter(|_| rollup.last_ts > rollup.first_ts) else {
                        continue;
                    };
                    // The counter's highest value before it began anew; without a new begin this is `last` itself.
                    let peak = first.map_or(last, |first| first + rollup.increase - last);
                    let grew = first.is_some_and(|first| rollup.increase > last - first);
                    if grew && peak > last && rollup.last_ts.0 - rollup.first_ts.0 > 1 {
                        plain.push(rollup.last_ts.0 - 1, peak);
                    }
                    plain.push(rollup.last_ts.0, last);
                }
            }
        }
        vec![plain]
    }

    fn infos(self, labels: &Labels) -> Vec<Samples> {
        let samples: Vec<(i64, Value)> = match self {
            Self::Raw(samples) => samples,
            Self::Folded(rollups, _) => rollups
                .into_iter()
                .flat_map(|r| [(r.first_ts.0, r.first), (r.last_ts.0, r.last)])
                .collect(),
        };
        let mut out: Vec<(String, Samples)> = Vec::new();
        let mut open: Option<usize> = None;
        for (ts, value) in samples {
            let Value::Text(text) = value else { continue };
            let text: &str = text.as_ref();
            let place = out.iter().position(|(t, _)| t == text).unwrap_or_else(|| {
                let mut labels = labels.clone();
                labels.push(("value".into(), text.to_owned()));
                labels.sort_unstable();
                out.push((
                    text.to_owned(),
                    Samples {
                        labels,
                        ..Samples::default()
                    },
                ));
                out.len() - 1
            });
            if let Some(before) = open.filter(|&before| before != place) {
                out[before].1.push(ts, ABSENT);
            }
            if out[place].1.ts.last() != Some(&ts) {
                out[place].1.push(ts, 1.0);
            }
            open = Some(place);
        }
        out.into_iter().map(|(_, samples)| samples).collect()
    }
}

/// A number as PromQL sees it. Integers beyond 2^53 lose their last digits, as they do in Prometheus.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(x) => Some(*x),
        Value::Integer(n) => Some(*n as f64),
        Value::Boolean(b) => Some(f64::from(u8::from(*b))),
        Value::Text(_) => None,
    }
}

/// Leaves out where a series ends, which is no sample of a range.
pub fn drop_ends(samples: &mut Samples) {
    if samples.v.iter().any(|x| is_absent(*x)) {
        let kept: Vec<(i64, f64)> = samples
            .ts
            .iter()
            .copied()
            .zip(samples.v.iter().copied())
            .filter(|(_, x)| !is_absent(*x))
            .collect();
        (samples.ts, samples.v) = kept.into_iter().unzip();
    }
}

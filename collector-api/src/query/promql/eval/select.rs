//! What a selector means at each step: its series from the store, and of each the newest sample or a function of a range.

use std::time::UNIX_EPOCH;

use promql_parser::parser::{AtModifier, MatrixSelector, Offset, VectorSelector};

use super::{Eval, LOOKBACK_MS, ms, seconds, unsupported};
use crate::query::MAX_POINTS;
use crate::query::promql::aggregate::Folding;
use crate::query::promql::functions::{Window, over_range};
use crate::query::promql::patience::Watch;
use crate::query::promql::plan::{self, Reading, Samples, Want};
use crate::query::promql::{ABSENT, Error, Outcome, Series, Steps, is_absent, join, without_name};
use crate::store::rollup::Tier;

/// What a selector is used for.
pub(super) struct Use<'a> {
    /// Length of the range; `None`: an instant selector.
    pub(super) range_ms: Option<i64>,
    pub(super) function: &'a str,
    pub(super) param: f64,
}

/// What takes the series of a selector, one by one.
pub(super) trait Sink {
    fn take(&mut self, series: Series) -> Result<(), Error>;

    /// What came so far does not count: all come again, from another tier.
    fn begin_anew(&mut self);
}

impl Sink for Folding<'_> {
    fn take(&mut self, series: Series) -> Result<(), Error> {
        self.add(&series)
    }

    fn begin_anew(&mut self) {
        Folding::begin_anew(self);
    }
}

/// Keeps them.
impl Sink for Vec<Series> {
    fn take(&mut self, series: Series) -> Result<(), Error> {
        let points = (self.len() + 1).saturating_mul(series.v.len());
        self.push(series);
        if points > MAX_POINTS {
            return Err(Error::Execution(format!(
                "more than {MAX_POINTS} points; ask for fewer series, a longer step or a shorter range"
            )));
        }
        Ok(())
    }

    fn begin_anew(&mut self) {
        self.clear();
    }
}

impl Eval<'_> {
    /// The time that a selector means at a step.
    fn time(&self, selector: &VectorSelector, step: usize) -> i64 {
        let at = match &selector.at {
            None => self.steps.at(step),
            Some(AtModifier::Start) => self.steps.start_ms,
            Some(AtModifier::End) => self.steps.end_ms,
            Some(AtModifier::At(time)) => match time.duration_since(UNIX_EPOCH) {
                Ok(after) => ms(after),
                Err(before) => -ms(before.duration()),
            },
        };
        match &selector.offset {
            None => at,
            Some(Offset::Pos(by)) => at.saturating_sub(ms(*by)),
            Some(Offset::Neg(by)) => at.saturating_add(ms(*by)),
        }
    }

    fn span(&self, selector: &VectorSelector, back_ms: i64) -> (i64, i64) {
        let last = self.steps.count - 1;
        let (a, b) = (self.time(selector, 0), self.time(selector, last));
        (a.min(b).saturating_sub(back_ms), a.max(b))
    }

    pub(super) fn select(
        &mut self,
        selector: &VectorSelector,
        used: &Use<'_>,
    ) -> Result<Vec<Series>, Error> {
        let mut all = Vec::new();
        self.select_into(selector, used, &mut all)?;
        join(all)
    }

    /// The series of a selector, one by one, in the order of the devices' ids.
    pub(super) fn select_into(
        &mut self,
        selector: &VectorSelector,
        used: &Use<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), Error> {
        let back_ms = used.range_ms.unwrap_or(LOOKBACK_MS);
        let mut tier = plan::finest(self.store, self.span(selector, back_ms).0);
        loop {
            let left = (self.budget.samples, self.budget.series);
            let found = self.select_from(selector, used, tier, sink);
            let coarser = match (tier, &found) {
                // Rollups are tried where samples are too many for them, and only for ranges that they can tell something about.
                (Tier::Raw, Err(Error::TooManySamples(_))) if back_ms >= 120_000 => Tier::Minute,
                (Tier::Minute, Err(Error::TooManySamples(_))) if back_ms >= 7_200_000 => Tier::Hour,
                _ => {
                    if tier != Tier::Raw {
                        let why = format!(
                            "{selector}: read from rollups ({}), raw samples are not kept that long or are too many",
                            tier.as_str()
                        );
                        self.warnings.push(why);
                    }
                    return found;
                }
            };
            sink.begin_anew();
            (self.budget.samples, self.budget.series) = left; // what other selectors used stays used
            tier = coarser;
        }
    }

    fn select_from(
        &mut self,
        selector: &VectorSelector,
        used: &Use<'_>,
        tier: Tier,
        sink: &mut dyn Sink,
    ) -> Result<(), Error> {
        let figures = matches!(
            used.function,
            "avg_over_time"
                | "sum_over_time"
                | "count_over_time"
                | "min_over_time"
                | "max_over_time"
        );
        if tier != Tier::Raw
            && matches!(
                used.function,
                "quantile_over_time"
                    | "stddev_over_time"
                    | "stdvar_over_time"
                    | "changes"
                    | "resets"
            )
        {
            return Err(Error::Execution(format!(
                "{} needs raw samples, of which there are none, or too many, for this range",
                used.function
            )));
        }
        let want = if figures {
            Want::Figures
        } else {
            Want::Samples
        };
        // Rollups have a sample at both ends of a bucket; what lies between is nearer than a bucket.
        let back_ms = used
            .range_ms
            .unwrap_or_else(|| LOOKBACK_MS.max(tier.bucket_ms().unwrap_or(0)));
        let span = self.span(selector, back_ms);
        let all = plan::matchers(selector);
        let selected = plan::select(self.store, self.names, &all, span, &mut self.budget)?;
        let times: Vec<i64> = (0..self.steps.count)
            .map(|i| self.time(selector, i))
            .collect();
        let keeps_name = used.range_ms.is_none() && used.function.is_empty()
            || used.function == "last_over_time";
        let (store, steps) = (self.store, self.steps);
        let mut watch = self.watch();
        for of_device in &selected {
            plan::read(
                store,
                of_device,
                &Reading {
                    tier,
                    want,
                    span,
                    all: &all,
                },
                &mut self.budget,
                &mut |mut samples| {
                    if used.range_ms.is_some() {
                        plan::drop_ends(&mut samples);
                    }
                    let v = if used.range_ms.is_some() {
                        ranges(&samples, &times, steps, back_ms, used, &mut watch)?
                    } else {
                        watch.worked(times.len())?;
                        instants(&samples, &times, back_ms, used.function == "timestamp")
                    };
                    if v.iter().any(|x| !is_absent(*x)) {
                        let labels = if keeps_name {
                            samples.labels
                        } else {
                            without_name(&samples.labels)
                        };
                        sink.take(Series { labels, v })?;
                    }
                    Ok(())
                },
            )?;
        }
        Ok(())
    }

    /// The samples of a range selector as they are.
    pub(super) fn raw(&mut self, m: &MatrixSelector) -> Result<Outcome, Error> {
        let span = self.span(&m.vs, ms(m.range));
        let all = plan::matchers(&m.vs);
        let selected = plan::select(self.store, self.names, &all, span, &mut self.budget)?;
        let tier = plan::finest(self.store, span.0);
        let (mut out, mut count) = (Vec::new(), 0);
        for of_device in &selected {
            plan::read(
                self.store,
                of_device,
                &Reading {
                    tier,
                    want: Want::Samples,
                    span,
                    all: &all,
                },
                &mut self.budget,
                &mut |mut samples| {
                    plan::drop_ends(&mut samples);
                    let points = samples.ts.iter().copied().zip(samples.v.iter().copied());
                    let points: Vec<_> = points
                        .filter(|(t, _)| (span.0..=span.1).contains(t))
                        .collect();
                    count += points.len();
                    if count > MAX_POINTS {
                        return Err(Error::Execution(format!(
                            "more than {MAX_POINTS} points; ask for fewer series or a shorter range"
                        )));
                    }
                    if !points.is_empty() {
                        out.push((samples.labels, points));
                    }
                    Ok(())
                },
            )?;
        }
        Ok(Outcome::Raw(out))
    }
}

/// At each time the newest sample that is not too old.
fn instants(samples: &Samples, times: &[i64], back_ms: i64, its_time: bool) -> Vec<f64> {
    let at = |&t: &i64| {
        let behind = samples.ts.partition_point(|&ts| ts <= t);
        let Some(i) = behind
            .checked_sub(1)
            .filter(|&i| samples.ts[i] >= t - back_ms)
        else {
            return ABSENT;
        };
        if its_time && !is_absent(samples.v[i]) {
            seconds(samples.ts[i])
        } else {
            samples.v[i]
        }
    };
    times.iter().map(at).collect()
}

/// At each time the function of the samples of the range that ends there.
fn ranges(
    samples: &Samples,
    times: &[i64],
    steps: Steps,
    range_ms: i64,
    used: &Use<'_>,
    watch: &mut Watch,
) -> Result<Vec<f64>, Error> {
    let mut out = Vec::with_capacity(times.len());
    for (i, &t) in times.iter().enumerate() {
        let begin = samples.ts.partition_point(|&ts| ts < t - range_ms);
        let end = samples.ts.partition_point(|&ts| ts <= t);
        watch.worked(end.saturating_sub(begin))?;
        if begin >= end {
            out.push(ABSENT);
            continue;
        }
        if let Some(folded) = samples.folded.get(begin..end) {
            let count: f64 = folded.iter().map(|f| f.count).sum();
            let sum: f64 = folded.iter().map(|f| f.sum).sum();
            out.push(match used.function {
                "count_over_time" => count,
                "sum_over_time" => sum,
                "avg_over_time" => sum / count,
                "min_over_time" => folded.iter().map(|f| f.min).fold(f64::INFINITY, f64::min),
                _ => folded
                    .iter()
                    .map(|f| f.max)
                    .fold(f64::NEG_INFINITY, f64::max),
            });
            continue;
        }
        let window = Window {
            ts: &samples.ts[begin..end],
            v: &samples.v[begin..end],
            from_ms: t - range_ms,
            to_ms: t,
            at_ms: steps.at(i),
        };
        let value = over_range(used.function, &window, used.param);
        out.push(value.ok_or_else(|| unsupported(format!("the function {}", used.function)))?);
    }
    Ok(out)
}

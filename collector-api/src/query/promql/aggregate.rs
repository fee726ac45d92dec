//! Series grouped by labels: `sum by (…)` and its like. Pure.

use std::collections::BTreeMap;

use promql_parser::parser::LabelModifier;

use super::functions::{extreme, mean, quantile, variance};
use super::patience::Watch;
use super::{ABSENT, Error, Labels, Series, is_absent, is_label_name};
use crate::query::MAX_POINTS;

/// The labels of the group that a series belongs to.
#[must_use]
pub fn group(labels: &Labels, modifier: Option<&LabelModifier>) -> Labels {
    let kept = |name: &String| match modifier {
        None => false,
        Some(LabelModifier::Include(by)) => by.labels.contains(name),
        Some(LabelModifier::Exclude(without)) => {
            name != "__name__" && !without.labels.contains(name)
        }
    };
    labels.iter().filter(|(n, _)| kept(n)).cloned().collect()
}

/// Aggregates; `param` has the k or φ of each step.
///
/// # Errors
/// [`Error::Execution`]: an operator that is not supported.
pub fn aggregate(
    op: &str,
    series: Vec<Series>,
    modifier: Option<&LabelModifier>,
    param: Option<&[f64]>,
    steps: usize,
    watch: &mut Watch,
) -> Result<Vec<Series>, Error> {
    let mut groups: BTreeMap<Labels, Vec<Series>> = BTreeMap::new();
    for one in series {
        watch.worked(one.labels.len())?;
        groups
            .entry(group(&one.labels, modifier))
            .or_default()
            .push(one);
    }
    let parameter = |i: usize| param.map_or(f64::NAN, |p| p[i]);
    let mut out = Vec::new();
    for (labels, members) in groups {
        if op == "topk" || op == "bottomk" {
            out.extend(ranked(op == "topk", members, &parameter, steps, watch)?);
            continue;
        }
        let mut v = vec![ABSENT; steps];
        let mut here = Vec::with_capacity(members.len());
        for (i, out) in v.iter_mut().enumerate() {
            watch.worked(members.len())?;
            here.clear();
            here.extend(members.iter().map(|m| m.v[i]).filter(|x| !is_absent(*x)));
            if here.is_empty() {
                continue;
            }
            *out = match op {
                "sum" => here.iter().sum(),
                "avg" => mean(&here),
                "min" => extreme(&here, |x, kept| x < kept),
                "max" => extreme(&here, |x, kept| x > kept),
                "count" => here.len() as f64,
                "group" => 1.0,
                "stddev" => variance(&here).sqrt(),
                "stdvar" => variance(&here),
                "quantile" => quantile(parameter(i), here.clone()),
                other => {
                    return Err(Error::Execution(format!(
                        "the aggregation {other} is not supported"
                    )));
                }
            };
        }
        out.push(Series { labels, v });
    }
    Ok(out)
}

/// How many series have each value, which becomes the label `label`.
///
/// # Errors
/// [`Error::Execution`]: it can not be the name of a label, or there are too many values.
pub fn count_values(
    label: &str,
    series: Vec<Series>,
    modifier: Option<&LabelModifier>,
    steps: usize,
    watch: &mut Watch,
) -> Result<Vec<Series>, Error> {
    if !is_label_name(label) {
        return Err(Error::Execution(format!("invalid label name {label:?}")));
    }
    let leaves_it_out = matches!(modifier, Some(LabelModifier::Exclude(without)) if without.labels.iter().any(|l| l == label));
    let mut groups: BTreeMap<Labels, Vec<f64>> = BTreeMap::new();
    for one in series {
        let mut of = group(&one.labels, modifier);
        of.retain(|(name, _)| name != label);
        watch.worked(steps)?;
        for (i, x) in one.v.iter().enumerate().filter(|(_, x)| !is_absent(**x)) {
            let mut labels = of.clone();
            if !leaves_it_out {
                labels.push((label.to_owned(), decimal(*x)));
                labels.sort_unstable();
            }
            let counts = groups.entry(labels).or_insert_with(|| vec![ABSENT; steps]);
            counts[i] = if is_absent(counts[i]) {
                1.0
            } else {
                counts[i] + 1.0
            };
            if groups.len().saturating_mul(steps) > MAX_POINTS {
                return Err(Error::Execution(format!(
                    "count_values comes to more than {MAX_POINTS} points; round the values, or ask for fewer series"
                )));
            }
        }
    }
    Ok(groups
        .into_iter()
        .map(|(labels, v)| Series { labels, v })
        .collect())
}

/// Without an exponent, as Prometheus writes values into labels.
fn decimal(x: f64) -> String {
    if x == f64::INFINITY {
        "+Inf".to_owned()
    } else if x == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        x.to_string()
    }
}

/// The k largest (or smallest) of each step, with their own labels, best first as of the first step.
fn ranked(
    largest: bool,
    mut members: Vec<Series>,
    k: &dyn Fn(usize) -> f64,
    steps: usize,
    watch: &mut Watch,
) -> Result<Vec<Series>, Error> {
    let order = |a: f64, b: f64| {
        let by_value = if largest {
            b.partial_cmp(&a)
        } else {
            a.partial_cmp(&b)
        };
        a.is_nan()
            .cmp(&b.is_nan())
            .then(by_value.unwrap_or(std::cmp::Ordering::Equal))
    };
    for i in 0..steps {
        watch.worked(members.len())?;
        let k = k(i);
        let k = if k >= 1.0 { k as usize } else { 0 };
        let mut here: Vec<usize> = (0..members.len())
            .filter(|&m| !is_absent(members[m].v[i]))
            .collect();
        here.sort_by(|&a, &b| order(members[a].v[i], members[b].v[i]));
        for &m in here.iter().skip(k) {
            members[m].v[i] = ABSENT;
        }
    }
    members.retain(|m| m.v.iter().any(|x| !is_absent(*x)));
    if steps == 1 {
        members.sort_by(|a, b| order(a.v[0], b.v[0]));
    }
    Ok(members)
}

/// Whether [`Folding`] can do it: series by series, with nothing kept but the groups.
#[must_use]
pub fn folds(op: &str) -> bool {
    matches!(op, "sum" | "avg" | "min" | "max" | "count" | "group")
}

/// An aggregation of series that come one by one and are not kept.
#[derive(Debug)]
pub struct Folding<'a> {
    op: &'a str,
    modifier: Option<&'a LabelModifier>,
    steps: usize,
    groups: BTreeMap<Labels, Folded>,
}

/// What a group has come to, for each step.
#[derive(Debug)]
struct Folded {
    count: Vec<u32>,
    /// Sum, least or largest.
    v: Vec<f64>,
    /// Of `avg`: the sum of the numbers times [`SMALL`], which does not overflow where the sum does.
    small: Vec<f64>,
}

/// 2^-20: more numbers than a selector has series make no number too large.
const SMALL: f64 = 1.0 / 1_048_576.0;

impl<'a> Folding<'a> {
    #[must_use]
    pub fn new(op: &'a str, modifier: Option<&'a LabelModifier>, steps: usize) -> Self {
        Self {
            op,
            modifier,
            steps,
            groups: BTreeMap::new(),
        }
    }

    /// One series more.
    ///
    /// # Errors
    /// [`Error::Execution`]: the groups come to more than an answer may have.
    pub fn add(&mut self, series: &Series) -> Result<(), Error> {
        let (steps, op) = (self.steps, self.op);
        let numbers = |wanted: bool| vec![0.0; if wanted { steps } else { 0 }];
        let folded = self
            .groups
            .entry(group(&series.labels, self.modifier))
            .or_insert_with(|| Folded {
                count: vec![0; steps],
                v: numbers(true),
                small: numbers(op == "avg"),
            });
        for (i, x) in series.v.iter().enumerate().filter(|(_, x)| !is_absent(**x)) {
            let kept = &mut folded.v[i];
            let first = folded.count[i] == 0;
            folded.count[i] += 1;
            match op {
                "min" if first || *x < *kept || kept.is_nan() => *kept = *x,
                "max" if first || *x > *kept || kept.is_nan() => *kept = *x,
                "sum" => *kept += x,
                "avg" => {
                    *kept += x;
                    folded.small[i] += x * SMALL;
                }
                _ => {}
            }
        }
        if self.groups.len().saturating_mul(steps) > MAX_POINTS {
            return Err(Error::Execution(format!(
                "{op} comes to more than {MAX_POINTS} points; ask for fewer groups, a longer step or a shorter range"
            )));
        }
        Ok(())
    }

    /// Forgets all: the series come again from elsewhere.
    pub fn begin_anew(&mut self) {
        self.groups.clear();
    }

    /// The groups.
    #[must_use]
    pub fn finish(self) -> Vec<Series> {
        let op = self.op;
        let number = |f: &Folded, i: usize| {
            let n = f64::from(f.count[i]);
            match op {
                _ if f.count[i] == 0 => ABSENT,
                "count" => n,
                "group" => 1.0,
                "avg" if !f.v[i].is_finite() => f.small[i] / n / SMALL,
                "avg" => f.v[i] / n,
                _ => f.v[i],
            }
        };
        let series = |(labels, f): (Labels, Folded)| Series {
            labels,
            v: (0..self.steps).map(|i| number(&f, i)).collect(),
        };
        self.groups.into_iter().map(series).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::patience::Patience;
    use super::*;

    fn series(numbers: &[[f64; 2]]) -> Vec<Series> {
        let one = |(i, v): (usize, &[f64; 2])| Series {
            labels: vec![("n".into(), i.to_string())],
            v: v.to_vec(),
        };
        numbers.iter().enumerate().map(one).collect()
    }

    fn watch(deadline: Instant) -> Watch {
        Watch::new(Patience {
            deadline,
            whole: Duration::from_secs(1),
        })
    }

    #[test]
    fn series_that_are_not_kept_come_to_the_same() {
        let all = [
            series(&[[1.0, ABSENT], [-2.5, ABSENT], [4.0, 7.0]]),
            series(&[[f64::NAN, f64::NAN], [3.0, ABSENT], [2.0, f64::NAN]]),
            series(&[[1e308, f64::INFINITY], [1e308, 1.0], [1e308, 2.0]]),
            series(&[[-0.0, f64::NEG_INFINITY], [0.0, f64::INFINITY]]),
        ];
        for (all, op) in all
            .iter()
            .flat_map(|a| ["sum", "avg", "min", "max", "count", "group"].map(|op| (a, op)))
        {
            assert!(folds(op));
            let mut folding = Folding::new(op, None, 2);
            folding.add(&all[0]).unwrap();
            folding.begin_anew();
            for one in all {
                folding.add(one).unwrap();
            }
            let mut watch = watch(Instant::now() + Duration::from_secs(60));
            let whole = aggregate(op, all.clone(), None, None, 2, &mut watch).unwrap();
            let folded = folding.finish();
            assert_eq!((whole.len(), folded.len()), (1, 1));
            for (a, b) in whole[0].v.iter().zip(&folded[0].v) {
                let same = a == b || a.is_nan() && b.is_nan() && is_absent(*a) == is_absent(*b);
                let near = (a - b).abs() <= a.abs() * 1e-12;
                assert!(same || near, "{op} of {all:?}: {a} {b}");
            }
        }
    }

    #[test]
    fn a_long_aggregation_ends_with_its_time() {
        let all = series(&vec![[1.0, 2.0]; 60_000]);
        for op in ["sum", "topk", "quantile"] {
            let mut late = watch(Instant::now() - Duration::from_millis(1));
            let found = aggregate(op, all.clone(), None, Some(&[1.0, 1.0]), 2, &mut late);
            assert!(matches!(found, Err(Error::Timeout(_))), "{op}");
        }
        let mut late = watch(Instant::now() - Duration::from_millis(1));
        let found = count_values("x", all, None, 2, &mut late);
        assert!(matches!(found, Err(Error::Timeout(_))));
    }
}

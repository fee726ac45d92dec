//! Series grouped by labels: `sum by (…)` and its like. Pure.

use std::collections::BTreeMap;

use promql_parser::parser::LabelModifier;

use super::functions::{extreme, mean, quantile, variance};
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
) -> Result<Vec<Series>, Error> {
    let mut groups: BTreeMap<Labels, Vec<Series>> = BTreeMap::new();
    for one in series {
        groups
            .entry(group(&one.labels, modifier))
            .or_default()
            .push(one);
    }
    let parameter = |i: usize| param.map_or(f64::NAN, |p| p[i]);
    let mut out = Vec::new();
    for (labels, members) in groups {
        if op == "topk" || op == "bottomk" {
            out.extend(ranked(op == "topk", members, &parameter, steps));
            continue;
        }
        let mut v = vec![ABSENT; steps];
        let mut here = Vec::with_capacity(members.len());
        for (i, out) in v.iter_mut().enumerate() {
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
) -> Result<Vec<Series>, Error> {
    if !is_label_name(label) {
        return Err(Error::Execution(format!("invalid label name {label:?}")));
    }
    let leaves_it_out = matches!(modifier, Some(LabelModifier::Exclude(without)) if without.labels.iter().any(|l| l == label));
    let mut groups: BTreeMap<Labels, Vec<f64>> = BTreeMap::new();
    for one in series {
        let mut of = group(&one.labels, modifier);
        of.retain(|(name, _)| name != label);
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
) -> Vec<Series> {
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
    members
}

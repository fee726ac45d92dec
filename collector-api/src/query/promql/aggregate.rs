//! Series grouped by labels: `sum by (…)` and its like. Pure.

use std::collections::BTreeMap;

use promql_parser::parser::LabelModifier;

use super::functions::{extreme, mean, quantile, variance};
use super::{ABSENT, Error, Labels, Series, is_absent};

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

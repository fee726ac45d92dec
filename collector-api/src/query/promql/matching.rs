//! Binary operators: numbers with numbers, and series of one side matched with those of the other. Pure.

use std::collections::{BTreeSet, HashMap};

use promql_parser::parser::{BinModifier, LabelModifier, VectorMatchCardinality};

use super::patience::Watch;
use super::{ABSENT, Error, Labels, Series, is_absent, join, without_name};

/// The result of an operator, and for a comparison whether it holds.
fn compute(op: &str, a: f64, b: f64) -> Result<(f64, bool), Error> {
    Ok(match op {
        "+" => (a + b, true),
        "-" => (a - b, true),
        "*" => (a * b, true),
        "/" => (a / b, true),
        "%" => (a % b, true),
        "^" => (a.powf(b), true),
        "atan2" => (a.atan2(b), true),
        "==" => (a, a == b),
        "!=" => (a, a != b),
        ">" => (a, a > b),
        "<" => (a, a < b),
        ">=" => (a, a >= b),
        "<=" => (a, a <= b),
        other => {
            return Err(Error::Execution(format!(
                "the operator {other} is not supported"
            )));
        }
    })
}

fn compares(op: &str) -> bool {
    matches!(op, "==" | "!=" | ">" | "<" | ">=" | "<=")
}

/// Two scalars.
///
/// # Errors
/// [`Error::Execution`]: an operator that is not supported.
pub fn scalars(op: &str, a: &[f64], b: &[f64]) -> Result<Vec<f64>, Error> {
    let one = |(a, b): (&f64, &f64)| {
        let (x, holds) = compute(op, *a, *b)?;
        Ok(if compares(op) {
            f64::from(u8::from(holds))
        } else {
            x
        })
    };
    a.iter().zip(b).map(one).collect()
}

/// Series with a scalar, which stands on the left if `swapped`.
///
/// # Errors
/// [`Error::Execution`]: an operator that is not supported, or series that come out alike.
pub fn with_scalar(
    op: &str,
    series: Vec<Series>,
    scalar: &[f64],
    swapped: bool,
    as_bool: bool,
    watch: &mut Watch,
) -> Result<Vec<Series>, Error> {
    let drops = as_bool || !compares(op);
    let mut out = Vec::with_capacity(series.len());
    for mut one in series {
        watch.worked(one.v.len())?;
        for (x, s) in one.v.iter_mut().zip(scalar) {
            if is_absent(*x) {
                continue;
            }
            let (a, b) = if swapped { (*s, *x) } else { (*x, *s) };
            let (value, holds) = compute(op, a, b)?;
            *x = match (compares(op), as_bool, holds) {
                (false, ..) => value,
                (true, true, holds) => f64::from(u8::from(holds)),
                (true, false, true) => *x,
                (true, false, false) => ABSENT,
            };
        }
        if drops {
            one.labels = without_name(&one.labels);
        }
        out.push(one);
    }
    join(out)
}

/// What two series must have alike to match.
fn signature(labels: &Labels, matching: Option<&LabelModifier>) -> Labels {
    let kept = |name: &String| match matching {
        Some(LabelModifier::Include(on)) => on.labels.contains(name),
        Some(LabelModifier::Exclude(ignoring)) => {
            name != "__name__" && !ignoring.labels.contains(name)
        }
        None => name != "__name__",
    };
    labels.iter().filter(|(n, _)| kept(n)).cloned().collect()
}

/// Series with series.
///
/// # Errors
/// [`Error::Execution`]: series that match more than one other, or an operator that is not supported.
pub fn vectors(
    op: &str,
    left: Vec<Series>,
    right: Vec<Series>,
    modifier: Option<&BinModifier>,
    watch: &mut Watch,
) -> Result<Vec<Series>, Error> {
    let matching = modifier.and_then(|m| m.matching.as_ref());
    let sign = |s: &Series| signature(&s.labels, matching);
    if matches!(op, "and" | "or" | "unless") {
        return sets(op, left, right, &sign, watch);
    }
    let as_bool = modifier.is_some_and(|m| m.return_bool);
    let card = modifier.map_or(&VectorMatchCardinality::OneToOne, |m| &m.card);
    if modifier.is_some_and(|m| m.fill_values.lhs.is_some() || m.fill_values.rhs.is_some()) {
        return Err(Error::Execution("fill values are not supported".into()));
    }
    let swapped = matches!(card, VectorMatchCardinality::OneToMany(_));
    let one_to_one = matches!(card, VectorMatchCardinality::OneToOne);
    let (many, one) = if swapped {
        (right, left)
    } else {
        (left, right)
    };
    let mut by_signature: HashMap<Labels, Vec<&Series>> = HashMap::new();
    for s in &one {
        let group = by_signature.entry(sign(s)).or_default();
        watch.worked(group.len().saturating_mul(s.v.len()))?;
        let clash = |other: &&Series| {
            other
                .v
                .iter()
                .zip(&s.v)
                .any(|(a, b)| !is_absent(*a) && !is_absent(*b))
        };
        if group.iter().any(clash) {
            return Err(Error::Execution(format!(
                "found duplicate series for the match group {:?} on the {} hand-side of the operation; many-to-many matching not allowed: matching labels must be unique on one side",
                sign(s),
                if swapped { "left" } else { "right" }
            )));
        }
        group.push(s);
    }
    let mut out = Vec::new();
    let mut taken: HashMap<Labels, Vec<bool>> = HashMap::new();
    for s in &many {
        let signature = sign(s);
        for other in by_signature.get(&signature).into_iter().flatten() {
            watch.worked(s.v.len())?;
            let mut v = vec![ABSENT; s.v.len()];
            for (i, out) in v.iter_mut().enumerate() {
                let (m, o) = (s.v[i], other.v[i]);
                if is_absent(m) || is_absent(o) {
                    continue;
                }
                let (a, b) = if swapped { (o, m) } else { (m, o) };
                let (value, holds) = compute(op, a, b)?;
                if as_bool {
                    *out = f64::from(u8::from(holds));
                } else if holds {
                    *out = value;
                } else {
                    continue;
                }
                if one_to_one {
                    let taken = taken
                        .entry(signature.clone())
                        .or_insert_with(|| vec![false; s.v.len()]);
                    if std::mem::replace(&mut taken[i], true) {
                        return Err(Error::Execution("multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)".into()));
                    }
                }
            }
            let labels = result_labels(op, s, other, modifier, as_bool);
            out.push(Series { labels, v });
        }
    }
    join(out).map_err(|_| {
        Error::Execution(
            "multiple matches for labels: grouping labels must ensure unique matches".into(),
        )
    })
}

fn result_labels(
    op: &str,
    many: &Series,
    one: &Series,
    modifier: Option<&BinModifier>,
    as_bool: bool,
) -> Labels {
    let mut labels = if compares(op) && !as_bool {
        many.labels.clone()
    } else {
        without_name(&many.labels)
    };
    let Some(modifier) = modifier else {
        return labels;
    };
    match &modifier.card {
        VectorMatchCardinality::OneToOne => match &modifier.matching {
            Some(LabelModifier::Include(on)) => labels.retain(|(n, _)| on.labels.contains(n)),
            Some(LabelModifier::Exclude(ignoring)) => {
                labels.retain(|(n, _)| !ignoring.labels.contains(n))
            }
            None => {}
        },
        VectorMatchCardinality::ManyToOne(include) | VectorMatchCardinality::OneToMany(include) => {
            for name in &include.labels {
                labels.retain(|(n, _)| n != name);
                labels.extend(one.labels.iter().find(|(n, _)| n == name).cloned());
            }
            labels.sort_unstable();
        }
        VectorMatchCardinality::ManyToMany => {}
    }
    labels
}

fn sets(
    op: &str,
    mut left: Vec<Series>,
    mut right: Vec<Series>,
    sign: &dyn Fn(&Series) -> Labels,
    watch: &mut Watch,
) -> Result<Vec<Series>, Error> {
    let present = |all: &[Series], watch: &mut Watch| {
        let mut steps: HashMap<Labels, BTreeSet<usize>> = HashMap::new();
        for s in all {
            watch.worked(s.v.len())?;
            let here =
                s.v.iter()
                    .enumerate()
                    .filter(|(_, x)| !is_absent(**x))
                    .map(|(i, _)| i);
            steps.entry(sign(s)).or_default().extend(here);
        }
        Ok::<_, Error>(steps)
    };
    let keep = |all: &mut Vec<Series>, of: &HashMap<Labels, BTreeSet<usize>>, wanted: bool| {
        for s in all.iter_mut() {
            let of = of.get(&sign(s));
            for (i, x) in s.v.iter_mut().enumerate() {
                if of.is_some_and(|of| of.contains(&i)) != wanted {
                    *x = ABSENT;
                }
            }
        }
    };
    match op {
        "and" => keep(&mut left, &present(&right, watch)?, true),
        "unless" => keep(&mut left, &present(&right, watch)?, false),
        _ => {
            keep(&mut right, &present(&left, watch)?, false);
            left.append(&mut right);
            // The same series may come from the left at some steps and from the right at others.
            return Ok(join(left.clone()).unwrap_or(left));
        }
    }
    Ok(left)
}

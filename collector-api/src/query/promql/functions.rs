//! What becomes of the samples of a range, and of single numbers. Pure. Definitions are Prometheus 2.42's.

use super::ABSENT;

/// The samples of one series in a range, oldest first; at least one.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    pub ts: &'a [i64],
    pub v: &'a [f64],
    /// Both inclusive.
    pub from_ms: i64,
    pub to_ms: i64,
    /// The step that is evaluated, whatever `offset` and `@` say.
    pub at_ms: i64,
}

/// A function over a range, by its name, with its parameter (the φ of a quantile, the seconds of a prediction). [`ABSENT`]: too few samples. `None`: there is no such function here.
#[must_use]
pub fn over_range(name: &str, w: &Window<'_>, param: f64) -> Option<f64> {
    let n = w.v.len();
    let last = w.v[n - 1];
    let pairs = || w.v.windows(2).map(|p| (p[0], p[1]));
    Some(match name {
        "rate" => extrapolated(w, true, true),
        "increase" => extrapolated(w, true, false),
        "delta" => extrapolated(w, false, false),
        "irate" | "idelta" if n < 2 => ABSENT,
        "irate" => {
            let before = w.v[n - 2];
            let grown = if last < before { last } else { last - before };
            grown / ((w.ts[n - 1] - w.ts[n - 2]) as f64 / 1000.0)
        }
        "idelta" => last - w.v[n - 2],
        "avg_over_time" => mean(w.v),
        "sum_over_time" => w.v.iter().sum(),
        "count_over_time" => n as f64,
        "min_over_time" => extreme(w.v, |x, kept| x < kept),
        "max_over_time" => extreme(w.v, |x, kept| x > kept),
        "last_over_time" => last,
        "present_over_time" => 1.0,
        "quantile_over_time" => quantile(param, w.v.to_vec()),
        "stddev_over_time" => variance(w.v).sqrt(),
        "stdvar_over_time" => variance(w.v),
        "deriv" | "predict_linear" if n < 2 => ABSENT,
        "deriv" => regression(w, w.ts[0]).0,
        "predict_linear" => {
            let (slope, now) = regression(w, w.at_ms);
            slope * param + now
        }
        "changes" => pairs()
            .filter(|(a, b)| a != b && !(a.is_nan() && b.is_nan()))
            .count() as f64,
        "resets" => pairs().filter(|(a, b)| b < a).count() as f64,
        _ => return None,
    })
}

/// Whether [`over_range`] knows it.
#[must_use]
pub fn is_over_range(name: &str) -> bool {
    let probe = Window {
        ts: &[0],
        v: &[0.0],
        from_ms: 0,
        to_ms: 0,
        at_ms: 0,
    };
    over_range(name, &probe, f64::NAN).is_some()
}

/// Growth between first and last sample, stretched to the edges of the range where samples come near enough to them to believe that the series went on.
fn extrapolated(w: &Window<'_>, counter: bool, per_second: bool) -> f64 {
    let (Some((first, last)), true) = (w.v.first().zip(w.v.last()), w.v.len() > 1) else {
        return ABSENT;
    };
    let mut grown = last - first;
    if counter {
        for p in w.v.windows(2) {
            if p[1] < p[0] {
                grown += p[0];
            }
        }
    }
    let seconds = |ms: i64| ms as f64 / 1000.0;
    let (first_ms, last_ms) = (w.ts[0], w.ts[w.ts.len() - 1]);
    let sampled = seconds(last_ms - first_ms);
    let between = sampled / (w.v.len() - 1) as f64;
    let mut to_start = seconds(first_ms - w.from_ms);
    let to_end = seconds(w.to_ms - last_ms);
    if counter && grown > 0.0 && *first >= 0.0 {
        // A counter was never below zero.
        to_start = to_start.min(sampled * (first / grown));
    }
    let near = between * 1.1;
    let stretch = |gap: f64| if gap < near { gap } else { between / 2.0 };
    let mut factor = (sampled + stretch(to_start) + stretch(to_end)) / sampled;
    if per_second {
        factor /= seconds(w.to_ms - w.from_ms);
    }
    grown * factor
}

/// The straight line through the samples, by least squares: its slope in 1/s, and where it is at a time.
fn regression(w: &Window<'_>, at_ms: i64) -> (f64, f64) {
    let first = w.v[0];
    if first.is_finite() && w.v.iter().all(|x| *x == first) {
        return (0.0, first);
    }
    // From the middle of both, so that nothing is lost in differences of large numbers.
    let times: Vec<f64> = w.ts.iter().map(|t| (t - w.ts[0]) as f64 / 1000.0).collect();
    let (middle, level) = (mean(&times), mean(w.v));
    let (mut together, mut alone) = (0.0, 0.0);
    for (t, x) in times.iter().zip(w.v) {
        together += (t - middle) * (x - level);
        alone += (t - middle) * (t - middle);
    }
    let slope = together / alone;
    let at = (at_ms - w.ts[0]) as f64 / 1000.0;
    (slope, level + slope * (at - middle))
}

/// The mean, which does not overflow where the sum would.
#[must_use]
pub fn mean(v: &[f64]) -> f64 {
    let sum: f64 = v.iter().sum();
    let n = v.len() as f64;
    if sum.is_finite() {
        sum / n
    } else {
        v.iter().map(|x| x / n).sum()
    }
}

/// Smallest or largest number; NaN only if there is nothing else.
#[must_use]
pub fn extreme(v: &[f64], better: impl Fn(f64, f64) -> bool) -> f64 {
    v.iter().copied().fold(f64::NAN, |kept, x| {
        if better(x, kept) || kept.is_nan() {
            x
        } else {
            kept
        }
    })
}

/// The variance of all of them (not of a sample).
#[must_use]
pub fn variance(v: &[f64]) -> f64 {
    let middle = mean(v);
    v.iter().map(|x| (x - middle) * (x - middle)).sum::<f64>() / v.len() as f64
}

/// The φ-quantile, interpolated between neighbours.
#[must_use]
pub fn quantile(phi: f64, mut v: Vec<f64>) -> f64 {
    if v.is_empty() || phi.is_nan() {
        return f64::NAN;
    }
    if phi < 0.0 {
        return f64::NEG_INFINITY;
    }
    if phi > 1.0 {
        return f64::INFINITY;
    }
    // NaN counts as smallest.
    v.sort_by(|a, b| {
        b.is_nan()
            .cmp(&a.is_nan())
            .then(a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal))
    });
    let rank = phi * (v.len() - 1) as f64;
    let low = rank.floor();
    let high = (low as usize + 1).min(v.len() - 1);
    let weight = rank - low;
    v[low as usize] * (1.0 - weight) + v[high] * weight
}

/// A function of one number, by its name.
#[must_use]
pub fn of_number(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "abs" => f64::abs,
        "ceil" => f64::ceil,
        "floor" => f64::floor,
        "sqrt" => f64::sqrt,
        "exp" => f64::exp,
        "ln" => f64::ln,
        "log2" => f64::log2,
        "log10" => f64::log10,
        "sin" => f64::sin,
        "cos" => f64::cos,
        "tan" => f64::tan,
        "asin" => f64::asin,
        "acos" => f64::acos,
        "atan" => f64::atan,
        "sinh" => f64::sinh,
        "cosh" => f64::cosh,
        "tanh" => f64::tanh,
        "asinh" => f64::asinh,
        "acosh" => f64::acosh,
        "atanh" => f64::atanh,
        "deg" => f64::to_degrees,
        "rad" => f64::to_radians,
        "sgn" => |x| {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            }
        },
        _ => return None,
    })
}

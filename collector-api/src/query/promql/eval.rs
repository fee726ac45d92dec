//! Walks an expression once and computes each of its parts for all steps.

use std::time::{Duration, Instant, UNIX_EPOCH};

use promql_parser::parser::{
    AggregateExpr, AtModifier, BinaryExpr, Call, Expr, MatrixSelector, Offset, VectorSelector,
};

use super::functions::{Window, of_number, over_range};
use super::plan::{self, Budget, Reading, Samples, Want};
use super::{
    ABSENT, Error, Labels, Outcome, Series, Steps, Val, aggregate, is_absent, join, matching,
    without_name,
};
use crate::query::MAX_POINTS;
use crate::query::names::NamesCache;
use crate::store::engine::Store;
use crate::store::rollup::Tier;

/// How far back an instant selector looks: Prometheus' default.
pub const LOOKBACK_MS: i64 = 300_000;
/// Longest time for a query, whatever its caller would wait.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One evaluation.
pub struct Eval<'a> {
    store: &'a dyn Store,
    names: &'a NamesCache,
    steps: Steps,
    budget: Budget,
    /// What the caller should know: tiers that were read instead of raw samples.
    pub warnings: Vec<String>,
}

impl std::fmt::Debug for Eval<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Eval")
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::Execution(format!("{what} is not supported"))
}

/// What a selector is used for.
struct Use<'a> {
    /// Length of the range; `None`: an instant selector.
    range_ms: Option<i64>,
    function: &'a str,
    param: f64,
}

impl<'a> Eval<'a> {
    /// An evaluation that gives up after `patience`, or [`PATIENCE`].
    #[must_use]
    pub fn new(
        store: &'a dyn Store,
        names: &'a NamesCache,
        steps: Steps,
        patience: Duration,
    ) -> Self {
        let patience = patience.min(PATIENCE);
        let budget = Budget {
            samples: plan::MAX_SAMPLES,
            deadline: Instant::now() + patience,
            patience_s: patience.as_secs(),
        };
        Self {
            store,
            names,
            steps,
            budget,
            warnings: Vec::new(),
        }
    }

    /// Evaluates a whole expression; a range selector only in an instant query.
    ///
    /// # Errors
    /// [`Error`].
    pub fn run(&mut self, expr: &Expr) -> Result<Outcome, Error> {
        match expr {
            Expr::Paren(p) => self.run(&p.expr),
            Expr::MatrixSelector(m) if self.steps.count == 1 => self.raw(m),
            Expr::MatrixSelector(_) => Err(Error::BadData("invalid expression type \"range vector\" for range query, must be Scalar or instant Vector".into())),
            other => self.eval(other).map(Outcome::Val),
        }
    }

    fn eval(&mut self, expr: &Expr) -> Result<Val, Error> {
        self.budget.check()?;
        match expr {
            Expr::Paren(p) => self.eval(&p.expr),
            Expr::NumberLiteral(n) => Ok(Val::Scalar(vec![n.val; self.steps.count])),
            Expr::StringLiteral(s) => Ok(Val::Text(s.val.clone())),
            Expr::Unary(u) => Ok(match self.eval(&u.expr)? {
                Val::Scalar(v) => Val::Scalar(v.iter().map(|x| -x).collect()),
                Val::Vector(series) => Val::Vector(map(series, |x, _| -x)?),
                Val::Text(_) => return Err(Error::BadData("a text has no sign".into())),
            }),
            Expr::VectorSelector(s) => {
                let used = Use {
                    range_ms: None,
                    function: "",
                    param: f64::NAN,
                };
                self.select(s, &used).map(Val::Vector)
            }
            Expr::MatrixSelector(_) => Err(Error::BadData(
                "a range vector has to be an argument of a function".into(),
            )),
            Expr::Call(call) => self.call(call),
            Expr::Aggregate(a) => self.aggregate(a),
            Expr::Binary(b) => self.binary(b),
            Expr::Subquery(_) => Err(unsupported("a subquery")),
            Expr::Extension(_) => Err(unsupported("an extension")),
        }
    }

    fn vector(&mut self, expr: &Expr) -> Result<Vec<Series>, Error> {
        match self.eval(expr)? {
            Val::Vector(series) => Ok(series),
            _ => Err(Error::BadData(format!(
                "expected an instant vector: {expr}"
            ))),
        }
    }

    fn scalar(&mut self, expr: &Expr) -> Result<Vec<f64>, Error> {
        match self.eval(expr)? {
            Val::Scalar(v) => Ok(v),
            _ => Err(Error::BadData(format!("expected a scalar: {expr}"))),
        }
    }

    fn text(&mut self, expr: &Expr) -> Result<String, Error> {
        match self.eval(expr)? {
            Val::Text(text) => Ok(text),
            _ => Err(Error::BadData(format!("expected a string: {expr}"))),
        }
    }

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

    fn select(&mut self, selector: &VectorSelector, used: &Use<'_>) -> Result<Vec<Series>, Error> {
        let back_ms = used.range_ms.unwrap_or(LOOKBACK_MS);
        let mut tier = plan::finest(self.store, self.span(selector, back_ms).0);
        loop {
            let left = self.budget.samples;
            let found = self.select_from(selector, used, tier);
            let coarser = match (tier, &found) {
                // Rollups are tried where samples are too many for them, and only for ranges that they can tell something about.
                (Tier::Raw, Err(Error::Execution(_)))
                    if self.budget.samples < left && back_ms >= 120_000 =>
                {
                    Tier::Minute
                }
                (Tier::Minute, Err(Error::Execution(_)))
                    if self.budget.samples < left && back_ms >= 7_200_000 =>
                {
                    Tier::Hour
                }
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
            self.budget.samples = plan::MAX_SAMPLES;
            tier = coarser;
        }
    }

    fn select_from(
        &mut self,
        selector: &VectorSelector,
        used: &Use<'_>,
        tier: Tier,
    ) -> Result<Vec<Series>, Error> {
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
        let selected = plan::select(self.store, self.names, &all, span, &self.budget)?;
        let times: Vec<i64> = (0..self.steps.count)
            .map(|i| self.time(selector, i))
            .collect();
        let keeps_name = used.range_ms.is_none() && used.function.is_empty()
            || used.function == "last_over_time";
        let mut out = Vec::new();
        let store = self.store;
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
                        ranges(&samples, &times, back_ms, used)?
                    } else {
                        instants(&samples, &times, back_ms, used.function == "timestamp")
                    };
                    if v.iter().any(|x| !is_absent(*x)) {
                        let labels = if keeps_name {
                            samples.labels
                        } else {
                            without_name(&samples.labels)
                        };
                        out.push(Series { labels, v });
                    }
                    if out.len().saturating_mul(times.len()) > MAX_POINTS {
                        return Err(Error::BadData(format!(
                            "more than {MAX_POINTS} points; ask for fewer series, a longer step or a shorter range"
                        )));
                    }
                    Ok(())
                },
            )?;
        }
        join(out)
    }

    /// The samples of a range selector as they are.
    fn raw(&mut self, m: &MatrixSelector) -> Result<Outcome, Error> {
        let span = self.span(&m.vs, ms(m.range));
        let all = plan::matchers(&m.vs);
        let selected = plan::select(self.store, self.names, &all, span, &self.budget)?;
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

    fn aggregate(&mut self, a: &AggregateExpr) -> Result<Val, Error> {
        let op = a.op.to_string();
        if op == "count_values" {
            return Err(unsupported(op));
        }
        let param = a.param.as_deref().map(|p| self.scalar(p)).transpose()?;
        let series = self.vector(&a.expr)?;
        aggregate::aggregate(
            &op,
            series,
            a.modifier.as_ref(),
            param.as_deref(),
            self.steps.count,
        )
        .map(Val::Vector)
    }

    fn binary(&mut self, b: &BinaryExpr) -> Result<Val, Error> {
        let op = b.op.to_string();
        let as_bool = b.modifier.as_ref().is_some_and(|m| m.return_bool);
        let (left, right) = (self.eval(&b.lhs)?, self.eval(&b.rhs)?);
        Ok(match (left, right) {
            (Val::Scalar(x), Val::Scalar(y)) => Val::Scalar(matching::scalars(&op, &x, &y)?),
            (Val::Vector(x), Val::Scalar(y)) => {
                Val::Vector(matching::with_scalar(&op, x, &y, false, as_bool)?)
            }
            (Val::Scalar(x), Val::Vector(y)) => {
                Val::Vector(matching::with_scalar(&op, y, &x, true, as_bool)?)
            }
            (Val::Vector(x), Val::Vector(y)) => {
                Val::Vector(matching::vectors(&op, x, y, b.modifier.as_ref())?)
            }
            _ => return Err(Error::BadData(format!("{op} does not go with a text"))),
        })
    }

    fn call(&mut self, call: &Call) -> Result<Val, Error> {
        let name = call.func.name;
        let args = &call.args.args;
        let arg = |i: usize| {
            args.get(i)
                .map(|a| plain(a))
                .ok_or_else(|| Error::BadData(format!("{name} lacks an argument")))
        };
        if let Some(Expr::MatrixSelector(m)) = args.last().map(|a| plain(a)) {
            let param = match args.len() {
                1 => vec![f64::NAN; self.steps.count],
                _ => self.scalar(arg(0)?)?,
            };
            let probe = Window {
                ts: &[0],
                v: &[0.0],
                from_ms: 0,
                to_ms: 0,
            };
            if over_range(name, &probe, f64::NAN).is_none() {
                return Err(unsupported(format!("the function {name}")));
            }
            if param.windows(2).any(|p| p[0].to_bits() != p[1].to_bits()) {
                return Err(unsupported(format!(
                    "a parameter of {name} that changes over time"
                )));
            }
            let used = Use {
                range_ms: Some(ms(m.range)),
                function: name,
                param: param[0],
            };
            return self.select(&m.vs, &used).map(Val::Vector);
        }
        if args.iter().any(|a| matches!(plain(a), Expr::Subquery(_))) {
            return Err(unsupported("a subquery"));
        }
        if let Some(f) = of_number(name) {
            return Ok(Val::Vector(map(self.vector(arg(0)?)?, |x, _| f(x))?));
        }
        let steps = self.steps;
        Ok(match name {
            "time" => Val::Scalar((0..steps.count).map(|i| seconds(steps.at(i))).collect()),
            "vector" => Val::Vector(vec![Series {
                labels: Labels::new(),
                v: self.scalar(arg(0)?)?,
            }]),
            "scalar" => {
                let series = self.vector(arg(0)?)?;
                let one = |i: usize| {
                    let mut here = series.iter().map(|s| s.v[i]).filter(|x| !is_absent(*x));
                    match (here.next(), here.next()) {
                        (Some(x), None) => x,
                        _ => f64::NAN,
                    }
                };
                Val::Scalar((0..steps.count).map(one).collect())
            }
            "timestamp" => match arg(0)? {
                Expr::VectorSelector(s) => {
                    let used = Use {
                        range_ms: None,
                        function: "timestamp",
                        param: f64::NAN,
                    };
                    Val::Vector(self.select(s, &used)?)
                }
                other => Val::Vector(map(self.vector(other)?, |_, i| seconds(steps.at(i)))?),
            },
            "clamp" | "clamp_min" | "clamp_max" => {
                let series = self.vector(arg(0)?)?;
                let first = self.scalar(arg(1)?)?;
                let (min, max) = match name {
                    "clamp" => (first, self.scalar(arg(2)?)?),
                    "clamp_min" => (first, vec![f64::INFINITY; steps.count]),
                    _ => (vec![f64::NEG_INFINITY; steps.count], first),
                };
                Val::Vector(map(series, |x, i| {
                    if min[i] > max[i] {
                        ABSENT
                    } else if min[i].is_nan() || max[i].is_nan() || x.is_nan() {
                        f64::NAN
                    } else {
                        x.max(min[i]).min(max[i])
                    }
                })?)
            }
            "round" => {
                let series = self.vector(arg(0)?)?;
                let to = match args.len() {
                    1 => vec![1.0; steps.count],
                    _ => self.scalar(arg(1)?)?,
                };
                Val::Vector(map(series, |x, i| {
                    let inverse = 1.0 / to[i];
                    (x * inverse + 0.5).floor() / inverse
                })?)
            }
            "absent" => {
                let series = self.vector(arg(0)?)?;
                let gone = |i: usize| series.iter().all(|s| is_absent(s.v[i]));
                let v = (0..steps.count)
                    .map(|i| if gone(i) { 1.0 } else { ABSENT })
                    .collect();
                Val::Vector(vec![Series {
                    labels: absent_labels(arg(0)?),
                    v,
                }])
            }
            "sort" | "sort_desc" => {
                let mut series = self.vector(arg(0)?)?;
                if steps.count == 1 {
                    series.retain(|s| !is_absent(s.v[0]));
                    let order = |a: f64, b: f64| {
                        a.is_nan()
                            .cmp(&b.is_nan())
                            .then(a.partial_cmp(&b).unwrap_or(std::cmp::Ordering::Equal))
                    };
                    series.sort_by(|a, b| {
                        if name == "sort" {
                            order(a.v[0], b.v[0])
                        } else {
                            order(-a.v[0], -b.v[0])
                        }
                    });
                }
                Val::Vector(series)
            }
            "label_replace" => {
                let series = self.vector(arg(0)?)?;
                let mut texts = Vec::new();
                for i in 1..5 {
                    texts.push(self.text(arg(i)?)?);
                }
                Val::Vector(label_replace(series, &texts)?)
            }
            other => return Err(unsupported(format!("the function {other}"))),
        })
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis())
        .unwrap_or(i64::MAX / 4)
        .min(i64::MAX / 4)
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// Without its parentheses.
fn plain(mut expr: &Expr) -> &Expr {
    while let Expr::Paren(p) = expr {
        expr = &p.expr;
    }
    expr
}

/// Changes each number; the name goes, for it is another quantity now.
fn map(series: Vec<Series>, f: impl Fn(f64, usize) -> f64) -> Result<Vec<Series>, Error> {
    let one = |mut s: Series| {
        for (i, x) in s.v.iter_mut().enumerate() {
            if !is_absent(*x) {
                *x = f(*x, i);
            }
        }
        s.labels = without_name(&s.labels);
        s
    };
    join(series.into_iter().map(one).collect())
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
    range_ms: i64,
    used: &Use<'_>,
) -> Result<Vec<f64>, Error> {
    let mut out = Vec::with_capacity(times.len());
    for &t in times {
        let begin = samples.ts.partition_point(|&ts| ts < t - range_ms);
        let end = samples.ts.partition_point(|&ts| ts <= t);
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
        };
        let value = over_range(used.function, &window, used.param);
        out.push(value.ok_or_else(|| unsupported(format!("the function {}", used.function)))?);
    }
    Ok(out)
}

/// What is certain of the labels of something that is not there: those that its selector asks to be equal, once each.
fn absent_labels(expr: &Expr) -> Labels {
    let selector = match expr {
        Expr::VectorSelector(s) => s,
        _ => return Labels::new(),
    };
    let all = &selector.matchers.matchers;
    let equal = all
        .iter()
        .filter(|m| matches!(m.op, promql_parser::label::MatchOp::Equal) && m.name != "__name__");
    let once = equal.filter(|m| {
        all.iter().filter(|other| other.name == m.name).count() == 1 && !m.value.is_empty()
    });
    let mut labels: Labels = once.map(|m| (m.name.clone(), m.value.clone())).collect();
    labels.sort_unstable();
    labels
}

/// `label_replace(v, dst, replacement, src, regex)`.
fn label_replace(series: Vec<Series>, texts: &[String]) -> Result<Vec<Series>, Error> {
    let [target, replacement, source, pattern] = texts else {
        return Err(Error::BadData("label_replace takes four texts".into()));
    };
    let pattern = regex::Regex::new(&format!("^(?s:{pattern})$")).map_err(|e| {
        Error::BadData(format!(
            "invalid regular expression in label_replace(): {e}"
        ))
    })?;
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if target.is_empty()
        || !target.chars().all(legal)
        || target.starts_with(|c: char| c.is_ascii_digit())
    {
        return Err(Error::BadData(format!(
            "invalid destination label name in label_replace(): {target}"
        )));
    }
    let one = |mut s: Series| {
        let value = s
            .labels
            .iter()
            .find(|(n, _)| n == source)
            .map_or("", |(_, v)| v);
        if let Some(found) = pattern.captures(value) {
            let mut new = String::new();
            found.expand(replacement, &mut new);
            s.labels.retain(|(n, _)| n != target);
            if !new.is_empty() {
                s.labels.push((target.clone(), new));
                s.labels.sort_unstable();
            }
        }
        s
    };
    join(series.into_iter().map(one).collect())
}

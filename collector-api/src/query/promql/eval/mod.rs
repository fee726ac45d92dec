//! Walks an expression once and computes each of its parts for all steps.

#[cfg(test)]
mod bounds_tests;
mod labels;
mod select;

use std::time::{Duration, Instant};

use promql_parser::parser::{AggregateExpr, BinaryExpr, Call, Expr, VectorSelector};

use super::aggregate::Folding;
use super::dates::of_time;
use super::functions::{is_over_range, of_number};
use super::patience::{Patience, Watch};
use super::plan::{self, Budget};
use super::{
    ABSENT, Error, Labels, Outcome, Series, Steps, Val, aggregate, is_absent, join, matching,
    without_name,
};
use crate::query::MAX_POINTS;
use crate::query::names::NamesCache;
use crate::store::engine::Store;
use labels::{absent_labels, label_join, label_replace};
use select::Use;

/// How far back an instant selector looks: Prometheus' default.
pub const LOOKBACK_MS: i64 = 300_000;
/// Most points that all parts of an expression come to: 128 MB if none of them were let go.
const MAX_POINTS_OF_ALL_PARTS: usize = 16 * MAX_POINTS;
/// Longest time for a query, whatever its caller would wait.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One evaluation.
pub struct Eval<'a> {
    store: &'a dyn Store,
    names: &'a NamesCache,
    steps: Steps,
    budget: Budget,
    /// Points that parts of the expression have come to so far.
    points: usize,
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
            series: plan::MAX_SERIES_OF_ALL,
            patience: Patience {
                deadline: Instant::now() + patience,
                whole: patience,
            },
        };
        Self {
            store,
            names,
            steps,
            budget,
            points: 0,
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

    /// Each part comes to a bounded number of points, and all of them together: memory and time.
    fn eval(&mut self, expr: &Expr) -> Result<Val, Error> {
        self.budget.check()?;
        let found = self.part(expr)?;
        let points = match &found {
            Val::Vector(series) => series.len().saturating_mul(self.steps.count),
            Val::Scalar(v) => v.len(),
            Val::Text(_) => 0,
        };
        self.points = self.points.saturating_add(points);
        if points > MAX_POINTS || self.points > MAX_POINTS_OF_ALL_PARTS {
            return Err(Error::Execution(format!(
                "the expression comes to more than {MAX_POINTS} points, or its parts together to more than {MAX_POINTS_OF_ALL_PARTS}; ask for fewer series, a longer step or a shorter range"
            )));
        }
        Ok(found)
    }

    fn part(&mut self, expr: &Expr) -> Result<Val, Error> {
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

    fn watch(&self) -> Watch {
        Watch::new(self.budget.patience)
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

    fn aggregate(&mut self, a: &AggregateExpr) -> Result<Val, Error> {
        let op = a.op.to_string();
        if op == "count_values" {
            let label = a.param.as_deref().map(|p| self.text(p)).transpose()?;
            let series = self.vector(&a.expr)?;
            return aggregate::count_values(
                &label.unwrap_or_default(),
                series,
                a.modifier.as_ref(),
                self.steps.count,
                &mut self.watch(),
            )
            .map(Val::Vector);
        }
        if aggregate::folds(&op)
            && let Some((selector, used)) = selection(&a.expr)
        {
            let mut folding = Folding::new(&op, a.modifier.as_ref(), self.steps.count);
            self.select_into(selector, &used, &mut folding)?;
            return Ok(Val::Vector(folding.finish()));
        }
        let param = a.param.as_deref().map(|p| self.scalar(p)).transpose()?;
        let series = self.vector(&a.expr)?;
        aggregate::aggregate(
            &op,
            series,
            a.modifier.as_ref(),
            param.as_deref(),
            self.steps.count,
            &mut self.watch(),
        )
        .map(Val::Vector)
    }

    fn binary(&mut self, b: &BinaryExpr) -> Result<Val, Error> {
        let op = b.op.to_string();
        let as_bool = b.modifier.as_ref().is_some_and(|m| m.return_bool);
        let (left, right) = (self.eval(&b.lhs)?, self.eval(&b.rhs)?);
        let watch = &mut self.watch();
        Ok(match (left, right) {
            (Val::Scalar(x), Val::Scalar(y)) => Val::Scalar(matching::scalars(&op, &x, &y)?),
            (Val::Vector(x), Val::Scalar(y)) => {
                Val::Vector(matching::with_scalar(&op, x, &y, false, as_bool, watch)?)
            }
            (Val::Scalar(x), Val::Vector(y)) => {
                Val::Vector(matching::with_scalar(&op, y, &x, true, as_bool, watch)?)
            }
            (Val::Vector(x), Val::Vector(y)) => {
                Val::Vector(matching::vectors(&op, x, y, b.modifier.as_ref(), watch)?)
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
        let matrix = args
            .iter()
            .position(|a| matches!(plain(a), Expr::MatrixSelector(_)));
        if let Some((place, Expr::MatrixSelector(m))) = matrix.map(|i| (i, plain(&args[i]))) {
            if name == "absent_over_time" {
                let used = Use {
                    range_ms: Some(ms(m.range)),
                    function: "present_over_time",
                    param: f64::NAN,
                };
                let series = self.select(&m.vs, &used)?;
                return Ok(Val::Vector(self.absent(&series, absent_labels(&m.vs))));
            }
            let param = match args.len() {
                1 => vec![f64::NAN; self.steps.count],
                _ => self.scalar(arg(1 - place.min(1))?)?,
            };
            if !is_over_range(name) {
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
        if let Some(f) = of_time(name) {
            return Ok(Val::Vector(match args.first() {
                Some(_) => map(self.vector(arg(0)?)?, |t, _| f(t))?,
                None => vec![Series {
                    labels: Labels::new(),
                    v: (0..steps.count).map(|i| f(seconds(steps.at(i)))).collect(),
                }],
            }));
        }
        Ok(match name {
            "pi" => Val::Scalar(vec![std::f64::consts::PI; steps.count]),
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
                let labels = match arg(0)? {
                    Expr::VectorSelector(s) => absent_labels(s),
                    _ => Labels::new(),
                };
                Val::Vector(self.absent(&series, labels))
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
                Val::Vector(label_replace(series, &texts, self.watch())?)
            }
            "label_join" => {
                let series = self.vector(arg(0)?)?;
                let mut texts = Vec::new();
                for i in 1..args.len() {
                    texts.push(self.text(arg(i)?)?);
                }
                Val::Vector(label_join(series, &texts, self.watch())?)
            }
            other => return Err(unsupported(format!("the function {other}"))),
        })
    }

    /// 1 at the steps at which none of the series is there.
    fn absent(&self, series: &[Series], labels: Labels) -> Vec<Series> {
        let gone = |i: usize| series.iter().all(|s| is_absent(s.v[i]));
        let v = (0..self.steps.count)
            .map(|i| if gone(i) { 1.0 } else { ABSENT })
            .collect();
        vec![Series { labels, v }]
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

/// What is selected, where an expression is nothing but a selector, or a function of a range, whose series all have labels of their own: with the name of the
/// metric said, none come out alike without it.
fn selection(expr: &Expr) -> Option<(&VectorSelector, Use<'_>)> {
    let (selector, range_ms, function) = match plain(expr) {
        Expr::VectorSelector(s) => (s, None, ""),
        Expr::Call(call) => match call.args.args.as_slice() {
            [one] => match plain(one) {
                Expr::MatrixSelector(m) => (&m.vs, Some(ms(m.range)), call.func.name),
                _ => return None,
            },
            _ => return None,
        },
        _ => return None,
    };
    let named = selector.name.is_some() && selector.matchers.or_matchers.is_empty();
    let known = range_ms.is_none() || is_over_range(function);
    (known && (named || range_ms.is_none())).then_some((
        selector,
        Use {
            range_ms,
            function,
            param: f64::NAN,
        },
    ))
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

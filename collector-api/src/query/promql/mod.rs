//! PromQL over the store, by the rules of Prometheus 2.42 (Debian 12's): ranges and look-back closed at both ends, five minutes of look-back, its extrapolation.
//!
//! An expression's way: `promql-parser` → [`check`] (depth, bounds) → [`eval`] walks it once for all steps → a [`Outcome`]. [`plan`] finds the series of a selector in the
//! catalogue and reads their samples; [`functions`], [`dates`], [`aggregate`] and [`matching`] are pure.
//!
//! A column of a series has one number for each step; [`ABSENT`] marks that there is none. What is not supported is an [`Error::Execution`] that names it.

pub mod aggregate;
pub mod dates;
pub mod eval;
pub mod functions;
pub mod matching;
pub mod patience;
pub mod plan;

use std::time::Duration;

use promql_parser::parser::{self, Expr};

/// Name and value, sorted by name; `__name__` among them.
pub type Labels = Vec<(String, String)>;

/// No number: the bits of Prometheus' own staleness marker, which no arithmetic makes.
pub const ABSENT: f64 = f64::from_bits(0x7ff0_0000_0000_0002);
/// Longest expression in bytes. It bounds the depth of the parser's tree too.
pub const MAX_QUERY_BYTES: usize = 8_192;
/// Most regular expressions of a query: each may take the 10 MB that one may have once it is compiled.
const MAX_REGEXES: usize = 16;
/// Deepest expression; each level is some frames of stack.
const MAX_DEPTH: usize = 100;
/// Most steps of a range query: Prometheus' own limit.
pub const MAX_STEPS: usize = 11_000;

/// Whether it is [`ABSENT`].
#[must_use]
pub fn is_absent(x: f64) -> bool {
    x.to_bits() == ABSENT.to_bits()
}

/// Why there is no answer, by Prometheus' kinds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{0}")]
    BadData(String),
    /// It can not be computed, or would take too much.
    #[error("{0}")]
    Execution(String),
    /// More would be read than a query may.
    #[error("the query would read more than {0} samples; ask for a shorter range or fewer series")]
    TooManySamples(usize),
    #[error(
        "the query took longer than {0:?}; ask for a shorter range, a longer step or fewer series"
    )]
    Timeout(Duration),
    #[error(transparent)]
    Store(#[from] crate::store::engine::StoreError),
}

/// A series over the steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub labels: Labels,
    pub v: Vec<f64>,
}

/// What a part of an expression comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Val {
    /// For each step.
    Scalar(Vec<f64>),
    Vector(Vec<Series>),
    Text(String),
}

/// A series with samples at times of their own.
pub type RawSeries = (Labels, Vec<(i64, f64)>);

/// An answer.
#[derive(Debug)]
pub enum Outcome {
    Val(Val),
    /// Of a range selector in an instant query.
    Raw(Vec<RawSeries>),
}

/// Times at which an expression is evaluated.
#[derive(Debug, Clone, Copy)]
pub struct Steps {
    pub start_ms: i64,
    pub step_ms: i64,
    pub count: usize,
    /// What `end()` is: the last step need not fall on it.
    pub end_ms: i64,
}

impl Steps {
    /// The time of a step.
    #[must_use]
    pub fn at(&self, i: usize) -> i64 {
        self.start_ms + i64::try_from(i).unwrap_or(i64::MAX) * self.step_ms // below 11 000 steps
    }
}

/// Parses an expression and bounds its depth.
///
/// # Errors
/// [`Error::BadData`]: no PromQL, too long, or too deep.
pub fn parse(text: &str) -> Result<Expr, Error> {
    if text.len() > MAX_QUERY_BYTES {
        return Err(Error::BadData(format!(
            "the query has {} bytes; the most is {MAX_QUERY_BYTES}",
            text.len()
        )));
    }
    // The parser compiles each: some MB and ms, before any other bound is looked at.
    check_regexes([text])?;
    let expr = parser::parse(text).map_err(Error::BadData)?;
    check(&expr)?;
    Ok(expr)
}

/// Refuses what has more regular expressions than are compiled for one call.
///
/// # Errors
/// [`Error::BadData`].
pub fn check_regexes<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<(), Error> {
    let of = |text: &str| text.matches("=~").count() + text.matches("!~").count();
    let regexes: usize = texts.into_iter().map(of).sum();
    if regexes > MAX_REGEXES {
        return Err(Error::BadData(format!(
            "the query has {regexes} regular expressions (=~, !~); the most is {MAX_REGEXES}"
        )));
    }
    Ok(())
}

/// Refuses what is nested too deep to walk.
fn check(expr: &Expr) -> Result<(), Error> {
    let mut open = vec![(expr, 1)];
    while let Some((expr, depth)) = open.pop() {
        if depth > MAX_DEPTH {
            return Err(Error::BadData(format!(
                "the query is nested deeper than {MAX_DEPTH} levels"
            )));
        }
        let mut push = |inner| open.push((inner, depth + 1));
        match expr {
            Expr::Aggregate(a) => {
                push(&a.expr);
                if let Some(param) = &a.param {
                    push(param);
                }
            }
            Expr::Unary(u) => push(&u.expr),
            Expr::Binary(b) => {
                push(&b.lhs);
                push(&b.rhs);
            }
            Expr::Paren(p) => push(&p.expr),
            Expr::Subquery(s) => push(&s.expr),
            Expr::Call(c) => c.args.args.iter().for_each(|a| push(a)),
            Expr::NumberLiteral(_)
            | Expr::StringLiteral(_)
            | Expr::VectorSelector(_)
            | Expr::MatrixSelector(_)
            | Expr::Extension(_) => {}
        }
    }
    Ok(())
}

/// Whether a label may be called so.
#[must_use]
pub fn is_label_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.chars().all(legal) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// Without the name of the metric.
#[must_use]
pub fn without_name(labels: &Labels) -> Labels {
    labels
        .iter()
        .filter(|(n, _)| n != "__name__")
        .cloned()
        .collect()
}

/// Joins series that have come out alike; two numbers at one step are an error.
///
/// # Errors
/// [`Error::Execution`], as Prometheus says it.
pub fn join(series: Vec<Series>) -> Result<Vec<Series>, Error> {
    let mut places: std::collections::HashMap<Labels, usize> = std::collections::HashMap::new();
    let mut out: Vec<Series> = Vec::with_capacity(series.len());
    for one in series {
        match places.get(&one.labels) {
            None => {
                places.insert(one.labels.clone(), out.len());
                out.push(one);
            }
            Some(&place) => {
                for (kept, new) in out[place].v.iter_mut().zip(one.v) {
                    if !is_absent(new) {
                        if !is_absent(*kept) {
                            return Err(Error::Execution(
                                "vector cannot contain metrics with the same labelset".into(),
                            ));
                        }
                        *kept = new;
                    }
                }
            }
        }
    }
    Ok(out)
}

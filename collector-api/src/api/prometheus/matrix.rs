//! A `matrix` or `vector` of Prometheus' envelope, or a list of series, kept as labels and numbers and written piece by piece ([`large`](crate::api::large)): a million points are 8 to 16 MB here
//! and 20 to 30 MB of text.
//!
//! Numbers are written as Prometheus writes them: the shortest text that is the same number, with an exponent below 1e-6 and from 1e21 on.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;

use serde_json::Value as Json;

use super::query::metric;
use crate::api::large::Pieces;
use crate::query::promql::{Labels, Series, Steps, is_absent};

/// Points of a series.
#[derive(Debug, Clone)]
pub(super) enum Points {
    /// One for each step, or none.
    Steps(Steps, Vec<f64>),
    /// Times in unix ms, and numbers.
    Raw(Vec<(i64, f64)>),
}

impl Points {
    fn len(&self) -> usize {
        match self {
            Self::Steps(_, v) => v.len(),
            Self::Raw(v) => v.len(),
        }
    }

    fn get(&self, i: usize) -> Option<(i64, f64)> {
        match self {
            Self::Steps(steps, v) => Some((steps.at(i), v[i])).filter(|(_, x)| !is_absent(*x)),
            Self::Raw(v) => Some(v[i]),
        }
    }

    fn is_empty(&self) -> bool {
        (0..self.len()).all(|i| self.get(i).is_none())
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Steps(_, v) => v.capacity() * size_of::<f64>(),
            Self::Raw(v) => v.capacity() * size_of::<(i64, f64)>(),
        }
    }
}

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Matrix,
    /// Of each series its only point.
    Vector,
    /// Labels only.
    Series,
}

impl Form {
    /// Begin of the answer, what stands between labels and points of a series, behind it, and at the end.
    fn words(self) -> [&'static str; 4] {
        match self {
            Self::Matrix => [
                r#"{"status":"success","data":{"resultType":"matrix","result":["#,
                r#","values":["#,
                "]}",
                "]}",
            ],
            Self::Vector => [
                r#"{"status":"success","data":{"resultType":"vector","result":["#,
                r#","value":"#,
                "}",
                "]}",
            ],
            Self::Series => [r#"{"status":"success","data":["#, "", "", "]"],
        }
    }
}

/// The answer, and how much of it is written.
#[derive(Debug)]
pub(super) struct Matrix {
    form: Form,
    series: Vec<(Labels, Points)>,
    warnings: Vec<String>,
    begun: bool,
    /// Series and point that come next.
    next: (usize, usize),
    /// Of the next series something is written.
    open: bool,
    /// Of it a point is.
    after_a_point: bool,
    /// Series up to here are freed.
    freed: usize,
    /// Bytes of those behind.
    held: usize,
}

impl Matrix {
    /// In the order of their labels; a series without a point is left out.
    pub(super) fn new(mut series: Vec<(Labels, Points)>, warnings: Vec<String>) -> Self {
        series.retain(|(_, points)| !points.is_empty());
        series.sort_by(|a, b| a.0.cmp(&b.0));
        Self::of(Form::Matrix, series, warnings)
    }

    /// In the order in which they come, for that says something; a series without a point is left out.
    pub(super) fn vector(at_ms: i64, found: Vec<Series>, warnings: Vec<String>) -> Self {
        let here = found.into_iter().filter(|s| !is_absent(s.v[0]));
        let of = |s: Series| (s.labels, Points::Raw(vec![(at_ms, s.v[0])]));
        Self::of(Form::Vector, here.map(of).collect(), warnings)
    }

    /// Without points.
    pub(super) fn series(found: Vec<Labels>) -> Self {
        let of = |labels| (labels, Points::Raw(Vec::new()));
        Self::of(
            Form::Series,
            found.into_iter().map(of).collect(),
            Vec::new(),
        )
    }

    fn of(form: Form, series: Vec<(Labels, Points)>, warnings: Vec<String>) -> Self {
        let held = series.iter().map(bytes).sum();
        Self {
            held,
            form,
            series,
            warnings,
            begun: false,
            next: (0, 0),
            open: false,
            after_a_point: false,
            freed: 0,
        }
    }
}

/// Of memory.
fn bytes((labels, points): &(Labels, Points)) -> usize {
    let text: usize = labels.iter().map(|(n, v)| n.len() + v.len()).sum();
    text + size_of_val(labels.as_slice()) + points.bytes()
}

impl Pieces for Matrix {
    fn write(&mut self, out: &mut Vec<u8>, most: usize) -> io::Result<bool> {
        let [begin, before_points, behind_series, end] = self.form.words();
        if !self.begun {
            self.begun = true;
            out.extend_from_slice(begin.as_bytes());
        }
        let mut text = String::new();
        while let Some((labels, points)) = self.series.get(self.next.0) {
            if !self.open {
                if out.len() >= most {
                    return Ok(true);
                }
                self.open = true;
                if self.next.0 > 0 {
                    out.push(b',');
                }
                if self.form != Form::Series {
                    out.extend_from_slice(br#"{"metric":"#);
                }
                serde_json::to_writer(&mut *out, &metric(labels))?;
                out.extend_from_slice(before_points.as_bytes());
            }
            while self.next.1 < points.len() {
                if out.len() >= most {
                    return Ok(true);
                }
                if let Some((ms, x)) = points.get(self.next.1) {
                    text.clear();
                    if self.after_a_point {
                        text.push(',');
                    }
                    self.after_a_point = true;
                    let _ = write!(text, "[{},\"{}\"]", seconds(ms), number(x));
                    out.extend_from_slice(text.as_bytes());
                }
                self.next.1 += 1;
            }
            out.extend_from_slice(behind_series.as_bytes());
            self.next = (self.next.0 + 1, 0);
            (self.open, self.after_a_point) = (false, false);
        }
        out.extend_from_slice(end.as_bytes());
        if !self.warnings.is_empty() {
            out.extend_from_slice(br#","warnings":"#);
            serde_json::to_writer(&mut *out, &self.warnings)?;
        }
        out.push(b'}');
        Ok(false)
    }

    fn free(&mut self) -> usize {
        for one in &mut self.series[self.freed..self.next.0] {
            self.held -= bytes(one);
            *one = (Labels::new(), Points::Raw(Vec::new()));
        }
        self.freed = self.next.0;
        self.held
    }

    fn settle(&mut self) {
        for one in &mut self.series[self.freed..] {
            *one = one.clone();
        }
        self.held = self.series[self.freed..].iter().map(bytes).sum();
    }

    fn digest(&self, into: &mut DefaultHasher) {
        self.warnings.hash(into);
        for (labels, points) in &self.series {
            labels.hash(into);
            for (ms, x) in (0..points.len()).filter_map(|i| points.get(i)) {
                into.write_i64(ms);
                into.write_u64(x.to_bits());
            }
        }
    }
}

/// Unix seconds of unix ms.
pub(super) fn seconds(ms: i64) -> Json {
    if ms % 1000 == 0 {
        Json::from(ms / 1000)
    } else {
        Json::from(ms as f64 / 1000.0)
    }
}

/// A number as a text.
pub(super) fn number(x: f64) -> String {
    let size = x.abs();
    if x.is_nan() {
        "NaN".to_owned()
    } else if x.is_infinite() {
        if x > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(below) => ('-', below),
            None => ('+', exponent),
        };
        format!("{digits}e{sign}{exponent:0>2}")
    } else {
        x.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::promql::ABSENT;

    #[test]
    fn numbers_are_written_as_prometheus_writes_them() {
        for (x, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (-1.25e300, "-1.25e+300"),
            (0.000_001, "0.000001"),
            (1.5e-7, "1.5e-07"),
            (f64::INFINITY, "+Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(number(x), text);
        }
    }

    fn matrix() -> Matrix {
        let steps = Steps {
            start_ms: 1_500,
            step_ms: 500,
            count: 3,
            end_ms: 2_500,
        };
        let labels = |name: &str| vec![("device".to_owned(), name.to_owned())];
        let series = vec![
            (
                labels("b\"\n"),
                Points::Steps(steps, vec![ABSENT, 2.0, ABSENT]),
            ),
            (labels("gone"), Points::Steps(steps, vec![ABSENT; 3])),
            (
                labels("a"),
                Points::Raw(vec![(1_000, 1.0), (1_001, f64::NAN)]),
            ),
        ];
        Matrix::new(series, vec!["read from rollups".into()])
    }

    fn in_pieces(answer: Matrix, most: usize) -> String {
        String::from_utf8(crate::api::large::in_pieces(answer, most)).unwrap()
    }

    #[test]
    fn the_pieces_are_the_answer_whatever_their_size() {
        let whole = concat!(
            r#"{"status":"success","data":{"resultType":"matrix","result":["#,
            r#"{"metric":{"device":"a"},"values":[[1,"1"],[1.001,"NaN"]]},"#,
            r#"{"metric":{"device":"b\"\n"},"values":[[2,"2"]]}]},"warnings":["read from rollups"]}"#
        );
        for most in [1, 7, 80, 10_000] {
            assert_eq!(in_pieces(matrix(), most), whole, "{most}");
        }
        let empty = &mut Vec::new();
        Matrix::new(Vec::new(), Vec::new()).write(empty, 1).unwrap();
        assert!(empty.ends_with(br#""result":[]}}"#));
    }
    #[test]
    fn a_vector_keeps_its_order_and_a_list_has_labels_only() {
        let series = |name: &str, x| Series {
            labels: vec![("device".to_owned(), name.to_owned())],
            v: vec![x],
        };
        let found = vec![series("b", 2.0), series("gone", ABSENT), series("a", 1.0)];
        let labels: Vec<Labels> = found.iter().map(|s| s.labels.clone()).collect();
        let vector = concat!(
            r#"{"status":"success","data":{"resultType":"vector","result":["#,
            r#"{"metric":{"device":"b"},"value":[1.5,"2"]},"#,
            r#"{"metric":{"device":"a"},"value":[1.5,"1"]}]},"warnings":["w"]}"#
        );
        let list =
            r#"{"status":"success","data":[{"device":"b"},{"device":"gone"},{"device":"a"}]}"#;
        for most in [1, 7, 80, 10_000] {
            let answer = Matrix::vector(1_500, found.clone(), vec!["w".into()]);
            assert_eq!(in_pieces(answer, most), vector, "{most}");
            assert_eq!(in_pieces(Matrix::series(labels.clone()), most), list);
        }
    }
}

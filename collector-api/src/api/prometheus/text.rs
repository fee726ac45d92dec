//! The two text forms of Prometheus: its own, version 0.0.4, and OpenMetrics 1.0. Pure: families and samples go in, bytes come out, whole or in pieces.
//!
//! Samples may come in any order; they are gathered by family. Where samples of one name come with two types (two releases of a plugin in one fleet), the family's type is unknown.
//! OpenMetrics names a family without the `_total` of its counters and the `_info` of its infos; where another family has that name, such a family is of unknown type and
//! keeps its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use devmon_core::Value;

use crate::api::large::Parts;
use crate::query::families::{Family, Type};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    OpenMetrics,
}

impl Format {
    /// What a client that sends this `Accept` header takes best; Prometheus' own form if it says nothing.
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        let (mut text, mut open) = (0.0, 0.0);
        for part in accept.unwrap_or_default().split(',') {
            let mut fields = part.split(';').map(str::trim);
            let media = fields.next().unwrap_or_default();
            let (mut quality, mut version) = (1.0, None);
            for field in fields {
                match field.split_once('=') {
                    Some(("q", q)) => quality = q.parse().unwrap_or(0.0),
                    Some(("version", v)) => version = Some(v),
                    _ => {}
                }
            }
            let known = version.is_none_or(|v| v == "1.0.0" || v == "0.0.1");
            match media {
                "application/openmetrics-text" if known => open = f64::max(open, quality),
                "text/plain" | "text/*" | "*/*" => text = f64::max(text, quality),
                _ => {}
            }
        }
        if open > 0.0 && open >= text {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// An exposition that is being gathered.
#[derive(Debug)]
pub(super) struct Exposition {
    format: Format,
    families: BTreeMap<String, Block>,
}

#[derive(Debug)]
struct Block {
    type_: Type,
    unit: Option<&'static str>,
    help: String,
    lines: String,
}

impl Exposition {
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            families: BTreeMap::new(),
        }
    }

    /// Adds a sample.
    pub(super) fn add<'a>(
        &mut self,
        family: &Family,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: &Value,
    ) {
        self.add_as(family, "", labels, value);
    }

    /// Adds a sample of a family whose samples have names of their own: `_bucket`, `_sum`, `_count`.
    pub(super) fn add_as<'a>(
        &mut self,
        family: &Family,
        ending: &str,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: &Value,
    ) {
        if !self.families.contains_key(&family.name) {
            let block = Block {
                type_: family.type_,
                unit: family.unit,
                help: family.help.clone(),
                lines: String::new(),
            };
            self.families.insert(family.name.clone(), block);
        }
        let Some(block) = self.families.get_mut(&family.name) else {
            return; // put there just now
        };
        if block.type_ != family.type_ {
            block.type_ = Type::Unknown;
        }
        let lines = &mut block.lines;
        lines.push_str(&family.name);
        lines.push_str(ending);
        let mut open = '{';
        for (name, value) in labels {
            lines.push(open);
            open = ',';
            lines.push_str(name);
            lines.push_str("=\"");
            escape(value, true, lines);
            lines.push('"');
        }
        lines.push_str(if open == ',' { "} " } else { " " });
        put_value(value, lines);
        lines.push('\n');
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.parts().collect()
    }

    /// The text, to be sent piece by piece.
    pub(super) fn pieces(self) -> Parts {
        self.parts().map(String::into_bytes).collect()
    }

    /// The header and the lines of each family, and the end.
    fn parts(self) -> impl Iterator<Item = String> {
        let format = self.format;
        let names: BTreeSet<String> = self.families.keys().cloned().collect();
        let end = (format == Format::OpenMetrics).then(|| "# EOF\n".to_owned());
        let families = self.families.into_iter();
        let of = move |(name, block): (String, Block)| {
            let header = block.header(&name, &names, format);
            [header, block.lines]
        };
        families.flat_map(of).chain(end)
    }
}

impl Block {
    /// What stands before the lines of a family, beside families of these names.
    fn header(&self, name: &str, names: &BTreeSet<String>, format: Format) -> String {
        let mut type_ = self.type_;
        let mut header = name;
        if format == Format::OpenMetrics {
            let ending = match type_ {
                Type::Counter => "_total",
                Type::Info => "_info",
                _ => "",
            };
            let short = name.strip_suffix(ending).unwrap_or(name);
            if ending.is_empty() || !names.contains(short) {
                header = short;
            } else {
                type_ = Type::Unknown;
            }
        }
        let mut out = format!("# HELP {header} ");
        escape(&self.help, format == Format::OpenMetrics, &mut out);
        let word = match (type_, format) {
            (Type::Counter, _) => "counter",
            (Type::Gauge, _) | (Type::Info, Format::Text) => "gauge",
            (Type::Info, Format::OpenMetrics) => "info",
            (Type::Histogram, _) => "histogram",
            (Type::Unknown, Format::Text) => "untyped",
            (Type::Unknown, Format::OpenMetrics) => "unknown",
        };
        let _ = write!(out, "\n# TYPE {header} {word}\n"); // a String takes all
        if let (Format::OpenMetrics, Some(unit)) = (format, self.unit)
            && header.ends_with(&format!("_{unit}"))
        {
            let _ = writeln!(out, "# UNIT {header} {unit}");
        }
        out
    }
}

fn escape(text: &str, quotes: bool, out: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

/// A number; a text is the 1 of its info.
fn put_value(value: &Value, out: &mut String) {
    match value {
        Value::Float(x) => put_float(*x, out),
        Value::Integer(n) => {
            let _ = write!(out, "{n}");
        }
        Value::Boolean(b) => out.push(if *b { '1' } else { '0' }),
        Value::Text(_) => out.push('1'),
    }
}

/// A float as Prometheus reads and writes it.
pub(super) fn put_float(x: f64, out: &mut String) {
    if x.is_nan() {
        out.push_str("NaN");
    } else if x.is_infinite() {
        out.push_str(if x > 0.0 { "+Inf" } else { "-Inf" });
    } else if x == x.trunc() && x.abs() < 1e15 {
        let _ = write!(out, "{x:.0}");
    } else {
        let _ = write!(out, "{x:?}"); // the shortest form that reads back the same
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::large::in_pieces;

    fn family(name: &str, type_: Type) -> Family {
        Family {
            name: name.into(),
            type_,
            unit: name.contains("bytes").then_some("bytes"),
            help: "A \\ and\na \"quote\".".into(),
        }
    }

    #[test]
    fn the_accept_header_decides() {
        use Format::{OpenMetrics, Text};
        for (accept, format) in [
            (None, Text),
            (Some("*/*"), Text),
            (Some("text/plain"), Text),
            (
                Some("application/openmetrics-text; version=1.0.0"),
                OpenMetrics,
            ),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                OpenMetrics,
            ),
            (
                Some("application/openmetrics-text;q=0.3,text/plain;q=0.5"),
                Text,
            ),
            (
                Some("application/openmetrics-text;version=2.0.0,*/*;q=0.1"),
                Text,
            ),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn families_are_whole_and_escaped_in_both_forms() {
        let gather = |format| {
            let mut exposition = Exposition::new(format);
            let sent = family("net_sent_bytes_total", Type::Counter);
            exposition.add(&sent, [("if", "a\"b\\c\nd")], &Value::Integer(i64::MAX));
            exposition.add(&family("temp", Type::Gauge), [], &Value::Float(-0.5));
            exposition.add(&sent, [("if", "x")], &Value::Boolean(true));
            exposition
        };
        let fill = |format| {
            let whole = gather(format).finish();
            for most in [1, 7, 80, 10_000] {
                let pieces = in_pieces(gather(format).pieces(), most);
                assert_eq!(String::from_utf8(pieces).unwrap(), whole, "{most}");
            }
            whole
        };
        assert_eq!(
            fill(Format::Text),
            "# HELP net_sent_bytes_total A \\\\ and\\na \"quote\".\n# TYPE net_sent_bytes_total counter\n\
             net_sent_bytes_total{if=\"a\\\"b\\\\c\\nd\"} 9223372036854775807\nnet_sent_bytes_total{if=\"x\"} 1\n\
             # HELP temp A \\\\ and\\na \"quote\".\n# TYPE temp gauge\ntemp -0.5\n"
        );
        assert_eq!(
            fill(Format::OpenMetrics),
            "# HELP net_sent_bytes A \\\\ and\\na \\\"quote\\\".\n# TYPE net_sent_bytes counter\n# UNIT net_sent_bytes bytes\n\
             net_sent_bytes_total{if=\"a\\\"b\\\\c\\nd\"} 9223372036854775807\nnet_sent_bytes_total{if=\"x\"} 1\n\
             # HELP temp A \\\\ and\\na \\\"quote\\\".\n# TYPE temp gauge\ntemp -0.5\n# EOF\n"
        );
    }

    #[test]
    fn two_types_and_two_families_of_one_name_stay_readable() {
        let mut exposition = Exposition::new(Format::OpenMetrics);
        exposition.add(&family("x", Type::Gauge), [], &Value::Integer(1));
        exposition.add(&family("x_total", Type::Counter), [], &Value::Integer(2));
        exposition.add(
            &family("y", Type::Gauge),
            [("device", "a")],
            &Value::Integer(3),
        );
        exposition.add(
            &family("y", Type::Unknown),
            [("device", "b")],
            &Value::Integer(4),
        );
        let text = exposition.finish();
        for line in [
            "# TYPE x gauge",
            "# TYPE x_total unknown",
            "# TYPE y unknown",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }

    #[test]
    fn floats_are_written_as_prometheus_reads_them() {
        let text = |x| {
            let mut out = String::new();
            put_float(x, &mut out);
            out
        };
        let all = [
            1.0,
            -0.0,
            0.1,
            1e300,
            5e-324,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ];
        assert_eq!(
            all.map(text).join(" "),
            "1 -0 0.1 1e300 5e-324 NaN +Inf -Inf"
        );
    }
}

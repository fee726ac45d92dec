//! Labels that functions make.

use promql_parser::parser::Expr;

/// Longest value that `label_replace` makes. Values of devices have 1 KiB at most.
const MAX_VALUE_BYTES: usize = 4_096;
/// All labels of a vector that it makes.
const MAX_LABELS_BYTES: usize = 64 << 20;

use crate::query::promql::{Error, Labels, Series, join};

/// What is certain of the labels of something that is not there: those that its selector asks to be equal, once each.
pub(super) fn absent_labels(expr: &Expr) -> Labels {
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
pub(super) fn label_replace(series: Vec<Series>, texts: &[String]) -> Result<Vec<Series>, Error> {
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
    let mut bytes = 0_usize;
    let one = |mut s: Series| {
        let value = s
            .labels
            .iter()
            .find(|(n, _)| n == source)
            .map_or("", |(_, v)| v);
        if let Some(found) = pattern.captures(value) {
            let mut new = String::new();
            found.expand(replacement, &mut new);
            if new.len() > MAX_VALUE_BYTES {
                return Err(Error::Execution(format!(
                    "label_replace() makes a value of {target} of more than {MAX_VALUE_BYTES} bytes"
                )));
            }
            s.labels.retain(|(n, _)| n != target);
            if !new.is_empty() {
                s.labels.push((target.clone(), new));
                s.labels.sort_unstable();
            }
        }
        bytes += s
            .labels
            .iter()
            .map(|(n, v)| n.len() + v.len())
            .sum::<usize>();
        if bytes > MAX_LABELS_BYTES {
            return Err(Error::Execution(format!(
                "label_replace() makes labels of more than {MAX_LABELS_BYTES} bytes; ask for fewer series"
            )));
        }
        Ok(s)
    };
    join(series.into_iter().map(one).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(
        value_bytes: usize,
        series: usize,
        replacement: &str,
    ) -> Result<Vec<Series>, Error> {
        let one = |i: usize| Series {
            labels: vec![
                ("a".into(), "x".repeat(value_bytes)),
                ("n".into(), i.to_string()),
            ],
            v: vec![1.0],
        };
        let texts = ["b", replacement, "a", "(.*)"].map(str::to_owned);
        label_replace((0..series).map(one).collect(), &texts)
    }

    #[test]
    fn a_replacement_does_not_grow_without_end() {
        assert!(replaced(1_024, 1, "$1$1$1$1").is_ok());
        let long = replaced(1_024, 1, "$1$1$1$1$1");
        assert!(matches!(long, Err(Error::Execution(why)) if why.contains("4096 bytes")));
        let many = replaced(1_024, 13_200, "$1$1$1$1");
        assert!(matches!(many, Err(Error::Execution(why)) if why.contains("fewer series")));
    }
}

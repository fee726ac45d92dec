//! Labels that functions make.

use promql_parser::parser::VectorSelector;

/// Longest value that `label_replace` and `label_join` make. Values of devices have 1 KiB at most.
const MAX_VALUE_BYTES: usize = 4_096;
/// All labels of a vector that they make.
const MAX_LABELS_BYTES: usize = 64 << 20;

use crate::query::promql::patience::Watch;
use crate::query::promql::{Error, Labels, Series, is_label_name, join};

/// What is certain of the labels of something that is not there: those that its selector asks to be equal, once each.
pub(super) fn absent_labels(selector: &VectorSelector) -> Labels {
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
pub(super) fn label_replace(
    series: Vec<Series>,
    texts: &[String],
    watch: Watch,
) -> Result<Vec<Series>, Error> {
    let [target, replacement, source, pattern] = texts else {
        return Err(Error::BadData("label_replace takes four texts".into()));
    };
    let pattern = regex::Regex::new(&format!("^(?s:{pattern})$")).map_err(|e| {
        Error::BadData(format!(
            "invalid regular expression in label_replace(): {e}"
        ))
    })?;
    if !is_label_name(target) {
        return Err(Error::BadData(format!(
            "invalid destination label name in label_replace(): {target}"
        )));
    }
    set(series, "label_replace", target, watch, |labels| {
        let found = pattern.captures(value(labels, source))?;
        let mut new = String::new();
        found.expand(replacement, &mut new);
        Some(new)
    })
}

/// `label_join(v, dst, separator, src…)`.
pub(super) fn label_join(
    series: Vec<Series>,
    texts: &[String],
    watch: Watch,
) -> Result<Vec<Series>, Error> {
    let [target, separator, sources @ ..] = texts else {
        return Err(Error::BadData(
            "label_join takes a label and a separator".into(),
        ));
    };
    if let Some(wrong) = sources.iter().find(|source| !is_label_name(source)) {
        return Err(Error::BadData(format!(
            "invalid source label name in label_join(): {wrong}"
        )));
    }
    if !is_label_name(target) {
        return Err(Error::BadData(format!(
            "invalid destination label name in label_join(): {target}"
        )));
    }
    set(series, "label_join", target, watch, |labels| {
        let values: Vec<&str> = sources.iter().map(|name| value(labels, name)).collect();
        Some(values.join(separator))
    })
}

fn value<'a>(labels: &'a Labels, name: &str) -> &'a str {
    let found = labels.iter().find(|(n, _)| n == name);
    found.map_or("", |(_, value)| value)
}

/// Gives the label `target` of each series the value that `new` makes of its labels, if it makes one; an empty one takes the label away.
fn set(
    series: Vec<Series>,
    function: &str,
    target: &str,
    mut watch: Watch,
    new: impl Fn(&Labels) -> Option<String>,
) -> Result<Vec<Series>, Error> {
    let mut bytes = 0_usize;
    let one = |mut s: Series| {
        // A byte that is compared with an expression may take as long as some numbers.
        watch.worked(s.labels.iter().map(|(n, v)| n.len() + v.len()).sum())?;
        if let Some(new) = new(&s.labels) {
            if new.len() > MAX_VALUE_BYTES {
                return Err(Error::Execution(format!(
                    "{function}() makes a value of {target} of more than {MAX_VALUE_BYTES} bytes"
                )));
            }
            s.labels.retain(|(n, _)| n != target);
            if !new.is_empty() {
                s.labels.push((target.to_owned(), new));
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
                "{function}() makes labels of more than {MAX_LABELS_BYTES} bytes; ask for fewer series"
            )));
        }
        Ok(s)
    };
    join(series.into_iter().map(one).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::query::promql::patience::Patience;

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
        label_replace((0..series).map(one).collect(), &texts, watch(PATIENCE))
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    fn watch(patience: Duration) -> Watch {
        Watch::new(Patience {
            deadline: Instant::now() + patience,
            whole: patience,
        })
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        let one = |i: usize| Series {
            labels: vec![("a".into(), format!("{i:0>1000}"))],
            v: vec![1.0],
        };
        let texts = ["b", "$1", "a", "(.)(.*)"].map(str::to_owned);
        let many = || (0..200).map(one).collect();
        assert!(label_replace(many(), &texts, watch(PATIENCE)).is_ok());
        let late = label_replace(many(), &texts, watch(Duration::ZERO));
        assert!(matches!(late, Err(Error::Timeout(_))), "{late:?}");
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

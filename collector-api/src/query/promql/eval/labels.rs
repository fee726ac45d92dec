//! Labels that functions make.

use promql_parser::parser::Expr;

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

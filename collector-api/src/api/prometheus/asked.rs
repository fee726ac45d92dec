//! The parameters of the query API, as Prometheus reads them: what is not known is ignored, times are unix seconds or RFC 3339 (or as the REST API takes them), durations are seconds or
//! Prometheus' own (`1h30m`). What can not be read is [`Error::BadData`], which names the parameter.

use std::time::Duration;

use devmon_core::wire::TimestampMs;
use promql_parser::label::Matcher;
use promql_parser::parser::Expr;

use super::super::endpoints::Call;
use super::super::params::form_decode;
use super::super::time;
use crate::query::promql::eval::PATIENCE;
use crate::query::promql::plan;
use crate::query::promql::{self, Error};

/// Most `match[]` of a call.
const MAX_SELECTORS: usize = 16;
/// Units of durations with their length in ms, in the order in which they may stand: a year has 365 days, a day 24 hours.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// The parameters of a call.
pub(super) struct Asked(Vec<(String, String)>);

impl Asked {
    pub(super) fn of(call: &Call) -> Result<Self, Error> {
        let mut pairs = Vec::new();
        for part in call.query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let pair = form_decode(name).zip(form_decode(value));
            pairs.push(pair.ok_or_else(|| {
                Error::BadData(format!("the parameter {name} is not percent-encoded UTF-8"))
            })?);
        }
        Ok(Self(pairs))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(n, v)| n == name && !v.is_empty());
        found.map(|(_, v)| v.as_str())
    }

    pub(super) fn needed(&self, name: &str) -> Result<&str, Error> {
        self.get(name)
            .ok_or_else(|| Error::BadData(format!("invalid parameter \"{name}\": it is missing")))
    }

    pub(super) fn time(&self, name: &str) -> Result<Option<i64>, Error> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let wrong = || {
            Error::BadData(format!(
                "invalid parameter \"{name}\": cannot parse {text:?} to a valid timestamp"
            ))
        };
        if let Ok(seconds) = text.parse::<f64>() {
            // 30 000 years either way are enough, and leave room for ranges and offsets.
            return if seconds.abs() < 1e12 {
                Ok(Some((seconds * 1000.0).round() as i64))
            } else {
                Err(wrong())
            };
        }
        time::parse(text, TimestampMs::now())
            .map(|t| Some(t.0))
            .map_err(|_| wrong())
    }

    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, Error> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let wrong = || {
            Error::BadData(format!(
                "invalid parameter \"{name}\": cannot parse {text:?} to a valid duration"
            ))
        };
        let seconds = match text.parse::<f64>() {
            Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?,
            Err(_) => duration(text).ok_or_else(wrong)?,
        };
        if seconds > Duration::from_secs(100 * 366 * 86_400) {
            return Err(wrong());
        }
        Ok(Some(seconds))
    }

    /// How long the answer may take.
    pub(super) fn patience(&self) -> Result<Duration, Error> {
        match self.duration("timeout")? {
            Some(Duration::ZERO) => Err(Error::BadData(
                "invalid parameter \"timeout\": nothing is answered in no time; write 10s, or leave it out".to_owned(),
            )),
            asked => Ok(asked.unwrap_or(PATIENCE)),
        }
    }

    /// The selectors of `match[]`; none: everything.
    pub(super) fn selectors(&self) -> Result<Vec<Vec<Matcher>>, Error> {
        let mut all = Vec::new();
        let given = self.0.iter().filter(|(name, _)| name == "match[]");
        let count = given.clone().count();
        if count > MAX_SELECTORS {
            return Err(Error::BadData(format!(
                "match[] stands {count} times; the most is {MAX_SELECTORS}"
            )));
        }
        promql::check_regexes(given.clone().map(|(_, text)| text.as_str()))?;
        for (_, text) in given {
            match promql::parse(text)? {
                Expr::VectorSelector(selector) => all.extend(plan::matchers(&selector)),
                _ => {
                    return Err(Error::BadData(format!(
                        "invalid parameter \"match[]\": {text:?} is no selector"
                    )));
                }
            }
        }
        Ok(all)
    }

    pub(super) fn span(&self) -> Result<(i64, i64), Error> {
        Ok((
            self.time("start")?.unwrap_or(i64::MIN),
            self.time("end")?.unwrap_or(i64::MAX),
        ))
    }
}

/// A duration as Prometheus writes it: whole numbers, each with its unit, the largest unit first and each at most once.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut units) = (text, UNITS.iter());
    let mut all_ms = 0_u64;
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let end = behind.find(|c: char| c.is_ascii_digit());
        let (unit, behind) = behind.split_at(end.unwrap_or(behind.len()));
        let (_, unit_ms) = units.find(|(name, _)| *name == unit)?;
        let ms = number.parse::<u64>().ok()?.checked_mul(*unit_ms)?;
        all_ms = all_ms.checked_add(ms)?;
        rest = behind;
    }
    (!text.is_empty()).then(|| Duration::from_millis(all_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_prometheus_writes_them() {
        for (text, ms) in [
            ("500ms", 500),
            ("15s", 15_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1d12h", 129_600_000),
            ("1w", 604_800_000),
            ("1y", 31_536_000_000),
            ("1w2d3h4m5s6ms", 788_645_006),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "h",
            "1",
            "1h30",
            "30m1h",
            "1m1m",
            "1.5h",
            "-1h",
            "1 h",
            "1hm",
            "1H",
            "1é",
            "99999999999999999999s",
            "18446744073709551615w",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}

//! TOML configuration with the file, line and nearest valid key in every error, and the value types that both daemons use.
//!
//! The daemons layer it: command line over environment (`DEVMON_…`) over file over default. This module reads the file layer only.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Why a configuration was refused. Programs exit with code 78 (`EX_CONFIG`) on it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("cannot read configuration {path}: {source}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// `agent.toml:3:1: unknown key "intervall"; did you mean "interval"? (…)`
    #[error("{path}:{line}:{column}: {message}")]
    Content {
        path: PathBuf,
        line: usize,
        column: usize,
        message: String,
    },
}

/// Reads a configuration file. `T` must deny unknown fields for the promise of this module to hold.
///
/// # Errors
/// [`ConfigError`].
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, path)
}

/// Reads configuration text; `path` is for the error messages.
///
/// # Errors
/// [`ConfigError::Content`].
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let before = text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        ConfigError::Content {
            path: path.to_owned(),
            line,
            column,
            message: explain(error.message()),
        }
    })
}

/// Turns serde's `unknown field` message into one that names the nearest valid key.
fn explain(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (true, Some(wrong)) = (message.starts_with("unknown field"), quoted.next()) else {
        return message.to_owned();
    };
    let valid: Vec<&str> = quoted.collect();
    let list = valid.join(", ");
    match nearest(wrong, &valid) {
        Some(near) => format!("unknown key {wrong:?}; did you mean {near:?}? (valid here: {list})"),
        None => format!("unknown key {wrong:?} (valid here: {list})"),
    }
}

/// The candidate that is most like `wrong`, if one is like it at all.
#[must_use]
pub fn nearest<'a>(wrong: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|c| (strsim::jaro_winkler(wrong, c), *c))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}

/// A duration as it is written in configurations and on the command line: `500ms`, `10s`, `5m`, `6h`, `30d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationText(pub Duration);

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write a whole number and a unit: 500ms, 10s, 5m, 6h, 30d")]
pub struct DurationError(String);

const UNITS_MS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

impl FromStr for DurationText {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let error = || DurationError(text.to_owned());
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let (number, unit) = text.split_at(digits);
        let (_, factor) = UNITS_MS
            .iter()
            .find(|(u, _)| *u == unit.trim_start())
            .ok_or_else(error)?;
        let ms = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(*factor))
            .ok_or_else(error)?;
        Ok(Self(Duration::from_millis(ms)))
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let fits = |factor: u64| ms > 0 && ms.is_multiple_of(u128::from(factor));
        match UNITS_MS.iter().rev().find(|(_, factor)| fits(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", ms / u128::from(*factor)),
            None => write!(f, "{ms}ms"),
        }
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its keys matter")]
    struct Sample {
        interval: Option<DurationText>,
        device: Option<String>,
    }

    fn error(text: &str) -> String {
        parse::<Sample>(text, Path::new("agent.toml"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_place_and_the_nearest_valid_one() {
        assert_eq!(
            error("device = \"d\"\nintervall = \"10s\"\n"),
            "agent.toml:2:1: unknown key \"intervall\"; did you mean \"interval\"? (valid here: interval, device)"
        );
        assert!(!error("zzz = 1\n").contains("did you mean"));
    }

    #[test]
    fn a_bad_value_is_named_with_its_place() {
        let text = error("interval = \"10 parsecs\"\n");
        assert!(
            text.starts_with("agent.toml:1:12: ") && text.contains("500ms, 10s"),
            "{text}"
        );
        assert!(error("device = \n").starts_with("agent.toml:1:"));
    }

    #[test]
    fn durations_go_both_ways() {
        for text in ["500ms", "10s", "5m", "6h", "30d", "90s"] {
            assert_eq!(text.parse::<DurationText>().unwrap().to_string(), text);
        }
        for bad in ["", "10", "s", "-1s", "1.5s", "10x", "99999999999999999999d"] {
            assert!(bad.parse::<DurationText>().is_err(), "{bad}");
        }
    }
}

//! What a caller asks: query strings and path segments, checked once and typed ever after. Every mistake names its parameter, and all of a call are said at once.

mod all;
mod order;
mod series;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::RangeInclusive;
use std::str::FromStr;

use devmon_core::MetricPath;
use devmon_core::config::nearest;
use devmon_core::wire::{DeviceId, labels};

use super::page::Cursor;
use super::problem::Problem;
use crate::events::DevicePattern;
use crate::query::devices::{DeviceFilter, Status};
use crate::query::fleet::Pattern;
pub(super) use all::{all, each};
pub(super) use series::{POINTS, ROWS_LIMIT};

/// Page length of lists: default and maximum.
pub(super) const LIST_LIMIT: (usize, usize) = (100, 1_000);
/// Most paths of one series call: more lines than a chart can tell apart.
pub(super) const MAX_PATHS: usize = 50;
/// Most ids of devices, or patterns of them, in one call.
pub(super) const MAX_DEVICES: usize = 1_000;
/// Parameters that may stand several times.
const REPEATED: [&str; 3] = ["path", "device", "label"];
/// Parameters that do not tell the pages of one query from those of another: which page and how long, a header, and the range, which a cursor holds.
const OF_A_PAGE: [&str; 5] = ["cursor", "limit", "follow", "from", "to"];

/// The parameters of a query string, decoded, each known to the endpoint.
#[derive(Debug, Clone, Default)]
pub struct Params {
    pairs: Vec<(String, String)>,
    /// Of the URL, decoded.
    path: String,
}

impl Params {
    /// Decodes a query string (`application/x-www-form-urlencoded`). Only `path`, `device` and `label` may be repeated.
    ///
    /// # Errors
    /// All that are unknown, repeated or malformed, the first [`MAX_ERRORS`](super::problem::MAX_ERRORS) of them.
    pub fn parse(raw: &str, known: &[&str]) -> Result<Self, Problem> {
        let (params, wrong) = Self::decode("", raw, known);
        wrong.map_or(Ok(params), Err)
    }

    /// Decodes the query string of a call of `path`, and reads its values.
    ///
    /// # Errors
    /// All that is wrong with names and values, the first [`MAX_ERRORS`](super::problem::MAX_ERRORS) of it. If nothing is: a cursor of another query.
    pub(super) fn read<T>(
        path: &str,
        raw: &str,
        known: &[&str],
        values: impl FnOnce(&Self) -> Result<T, Problem>,
    ) -> Result<(Self, T), Problem> {
        let (params, wrong) = Self::decode(path, raw, known);
        match (wrong, values(&params)) {
            (None, Ok(values)) => {
                params.check_cursor()?;
                Ok((params, values))
            }
            (None, Err(problem)) | (Some(problem), Ok(_)) => Err(problem),
            (Some(mut wrong), Err(problem)) => {
                // Of what could not be read nothing else is known, least of all that it is missing.
                let said: Vec<_> = wrong.clone().errors().map(|(name, _)| name).collect();
                if let Some(others) = problem.without(&said) {
                    wrong.add(others);
                }
                Err(wrong)
            }
        }
    }

    /// What is right, and what is wrong.
    fn decode(path: &str, raw: &str, known: &[&str]) -> (Self, Option<Problem>) {
        let mut pairs: Vec<(String, String)> = Vec::new();
        let mut wrong: Option<Problem> = None;
        for part in raw.split('&').filter(|part| !part.is_empty()) {
            match pair(part, known, &pairs) {
                Ok(pair) => pairs.push(pair),
                Err(problem) => match &mut wrong {
                    None => wrong = Some(problem),
                    Some(first) if first.is_full() => break,
                    Some(first) => first.add(problem),
                },
            }
        }
        let path = percent_decode(path).unwrap_or_else(|| path.to_owned());
        (Self { pairs, path }, wrong)
    }

    /// Names and values in their order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What tells the pages of this query from those of another one, the same in every process of a release. The order of parameters does not count but that of paths, which columns have.
    #[must_use]
    pub fn query(&self) -> u64 {
        let mut pairs: Vec<_> = self.pairs().collect();
        pairs.retain(|(name, _)| !OF_A_PAGE.contains(name));
        pairs.sort_by_key(|&(name, value)| (name, if name == "path" { "" } else { value }));
        let mut hash = DefaultHasher::new(); // without a random key
        (&self.path, pairs).hash(&mut hash);
        hash.finish()
    }

    fn check_cursor(&self) -> Result<(), Problem> {
        match self.get("cursor").and_then(Cursor::parse) {
            Some((query, _)) if query != self.query() => Err(other_query()),
            _ => Ok(()),
        }
    }

    /// The value of a parameter that stands at most once.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value)
    }

    /// The values of a parameter that may stand several times.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.pairs().filter(move |(n, _)| *n == name);
        named.map(|(_, value)| value)
    }

    /// The page length of a list.
    ///
    /// # Errors
    /// Not a whole number, or out of range.
    pub fn list_limit(&self) -> Result<usize, Problem> {
        self.limit(LIST_LIMIT)
    }

    fn limit(&self, (default, maximum): (usize, usize)) -> Result<usize, Problem> {
        let limit = self
            .get("limit")
            .map(|text| whole("limit", text, &(1..=maximum as u64)));
        Ok(limit
            .transpose()?
            .map_or(default, |n| usize::try_from(n).unwrap_or(maximum)))
    }

    /// Where the page starts.
    ///
    /// # Errors
    /// Not a cursor.
    pub fn cursor(&self) -> Result<Option<Cursor>, Problem> {
        let parse = |text| Cursor::parse(text).ok_or_else(bad_cursor);
        let cursor = self.get("cursor").map(parse).transpose()?;
        Ok(cursor.map(|(_, cursor)| cursor))
    }

    /// Whether the answer says where a stream of events goes on from it.
    ///
    /// # Errors
    /// Neither true nor false.
    pub(super) fn follow(&self) -> Result<bool, Problem> {
        let as_str = |follow| if follow { "true" } else { "false" };
        let follow = self.one_of("follow", &[true, false], as_str)?;
        Ok(follow == Some(true))
    }

    /// A path, to list what is at or below it, with or without a `/` at its end; nothing or `/` for all.
    ///
    /// # Errors
    /// Not a path.
    pub fn prefix(&self) -> Result<String, Problem> {
        match self.get("prefix") {
            None | Some("" | "/") => Ok(String::new()),
            // As people write folders.
            Some(text) => metric_path("prefix", text.strip_suffix('/').unwrap_or(text))
                .map(|path| path.to_string()),
        }
    }

    /// One of a closed list of words.
    ///
    /// # Errors
    /// Another word.
    pub fn one_of<T: Copy>(
        &self,
        name: &str,
        all: &[T],
        as_str: fn(T) -> &'static str,
    ) -> Result<Option<T>, Problem> {
        let parse = |text| word(name, text, all, as_str);
        self.get(name).map(parse).transpose()
    }

    /// Which devices are meant.
    ///
    /// # Errors
    /// No id or pattern, a status that there is not, no label.
    pub fn device_filter(&self) -> Result<DeviceFilter, Problem> {
        let words = self.get("status").into_iter().flat_map(|s| s.split(','));
        let status = words.map(|text| word("status", text, &Status::ALL, Status::as_str));
        let (ids, status, labels) = all((self.device_ids(), each(status), self.labels()))?;
        Ok(DeviceFilter {
            ids,
            q: self.get("q").map(str::to_owned),
            status,
            labels,
        })
    }

    /// Ids of devices, or patterns of them.
    fn device_ids(&self) -> Result<Vec<glob::Pattern>, Problem> {
        let texts = self.values("device");
        let ids = each(texts.map(|text| {
            let id = text.parse::<DevicePattern>();
            id.map(DevicePattern::into_glob)
                .map_err(|e| Problem::parameter("device", e))
        }))?;
        if ids.len() > MAX_DEVICES {
            let detail = format!("stands {} times; the most is {MAX_DEVICES}", ids.len());
            return Err(Problem::parameter("device", detail));
        }
        Ok(ids)
    }

    /// `name:value`, or a name for any value.
    fn labels(&self) -> Result<Vec<(String, Option<String>)>, Problem> {
        let labels = each(self.values("label").map(label))?;
        if labels.len() > labels::MAX_LABELS {
            let detail = format!(
                "{} labels; the most is {}",
                labels.len(),
                labels::MAX_LABELS
            );
            return Err(Problem::parameter("label", detail));
        }
        Ok(labels)
    }

    /// Patterns of paths, as many as a series call may name.
    ///
    /// # Errors
    /// None, too many, one that is no path or stands twice.
    pub fn patterns(&self) -> Result<Vec<Pattern>, Problem> {
        self.paths()
    }

    fn paths<T: FromStr<Err: ToString> + PartialEq>(&self) -> Result<Vec<T>, Problem> {
        let mut paths = Vec::new();
        each(self.values("path").map(|text| {
            let path = T::from_str(text).map_err(|e| Problem::parameter("path", e))?;
            if paths.contains(&path) {
                return Err(Problem::parameter("path", format!("{text} stands twice")));
            }
            paths.push(path);
            Ok(())
        }))?;
        match paths.len() {
            0 => Err(Problem::parameter(
                "path",
                "is missing; name 1 to 50 metrics, each as path=…",
            )),
            1..=MAX_PATHS => Ok(paths),
            n => Err(Problem::parameter(
                "path",
                format!("{n} paths; the most is {MAX_PATHS}"),
            )),
        }
    }
}

/// One parameter, decoded.
fn pair(
    part: &str,
    known: &[&str],
    before: &[(String, String)],
) -> Result<(String, String), Problem> {
    let (name, value) = part.split_once('=').unwrap_or((part, ""));
    let name = form_decode(name)
        .ok_or_else(|| Problem::parameter(name, "the name is not percent-encoded UTF-8"))?;
    if !known.contains(&name.as_str()) {
        return Err(unknown(&name, known));
    }
    let Some(value) = form_decode(value) else {
        let detail = "the value is not percent-encoded UTF-8";
        return Err(Problem::parameter(name, detail));
    };
    if !REPEATED.contains(&name.as_str()) && before.iter().any(|(n, _)| *n == name) {
        return Err(Problem::parameter(name, "stands twice"));
    }
    Ok((name, value))
}

/// A label: `name:value`, or a name for any value.
fn label(text: &str) -> Result<(String, Option<String>), Problem> {
    let (name, value) = text
        .split_once(':')
        .map_or((text, None), |(name, value)| (name, Some(value)));
    labels::check(name, value.unwrap_or_default()).map_err(|e| {
        let hint = if name.contains('=') {
            "; between name and value stands a colon: label=site:berlin"
        } else {
            ""
        };
        Problem::parameter("label", format!("{e}{hint}"))
    })?;
    Ok((name.to_owned(), value.map(str::to_owned)))
}

/// One of a closed list of words.
pub(super) fn word<T: Copy>(
    name: &str,
    text: &str,
    all: &[T],
    as_str: fn(T) -> &'static str,
) -> Result<T, Problem> {
    let found = all.iter().copied().find(|t| as_str(*t) == text);
    found.ok_or_else(|| {
        let words: Vec<_> = all.iter().map(|t| as_str(*t)).collect();
        Problem::parameter(name, format!("{text:?} is none of {}", words.join(", ")))
    })
}

/// A cursor that is none, or of another list.
#[must_use]
pub fn bad_cursor() -> Problem {
    Problem::parameter(
        "cursor",
        "is not a cursor of this list; take next_cursor of the page before, or leave it out",
    )
}

/// A cursor of a page of something else.
fn other_query() -> Problem {
    Problem::parameter(
        "cursor",
        "belongs to a call with other parameters; follow next_cursor with all else as it was, or leave it out",
    )
}

fn unknown(name: &str, known: &[&str]) -> Problem {
    let list = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    let hint =
        nearest(name, known).map_or(String::new(), |near| format!("; did you mean {near:?}?"));
    Problem::parameter(
        name,
        format!("unknown parameter{hint} (known here: {list})"),
    )
}

fn whole(name: &str, text: &str, range: &RangeInclusive<u64>) -> Result<u64, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let wrong = |detail: String| Err(Problem::parameter(name, detail));
    match text.parse::<u64>() {
        _ if !digits => wrong(format!(
            "{text:?} is not a whole number, written with digits alone"
        )),
        Ok(n) if n < *range.start() => {
            wrong(format!("{n} is less than the minimum of {}", range.start()))
        }
        Ok(n) if n <= *range.end() => Ok(n),
        _ => wrong(format!(
            "{text} is more than the maximum of {}",
            range.end()
        )),
    }
}

fn metric_path(name: &str, text: &str) -> Result<MetricPath, Problem> {
    MetricPath::from_str(text).map_err(|e| Problem::parameter(name, e))
}

/// A segment of the URL's path as it came, still percent-encoded.
#[derive(Debug, Clone, Default)]
pub struct Segment(String);

impl Segment {
    /// As it stands in the URL.
    pub(super) fn new(encoded: &str) -> Self {
        Self(encoded.to_owned())
    }

    /// The segment as a device id.
    ///
    /// # Errors
    /// Not a device id.
    pub fn device(&self) -> Result<DeviceId, Problem> {
        let text = percent_decode(&self.0)
            .ok_or_else(|| Problem::parameter("device", "is not percent-encoded UTF-8"))?;
        text.parse().map_err(|e| Problem::parameter("device", e))
    }

    /// The segment as the name of a file.
    #[must_use]
    pub fn file_name(&self) -> Option<String> {
        percent_decode(&self.0)
    }

    /// The segment as the id of a dead letter.
    ///
    /// # Errors
    /// Not a whole number.
    pub fn id(&self) -> Result<u64, Problem> {
        whole("id", &self.0, &(0..=u64::MAX))
    }
}

pub(super) fn form_decode(text: &str) -> Option<String> {
    percent_decode(&text.replace('+', " "))
}

/// Decodes `%xx`; `None` for a stray `%` or bytes that are no UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let value = digit()? * 16 + digit()?;
            out.push(u8::try_from(value).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(path: &str, raw: &str) -> u64 {
        let known = [
            "path", "label", "q", "step", "limit", "cursor", "follow", "from",
        ];
        let (params, wrong) = Params::decode(path, raw, &known);
        assert_eq!(wrong, None);
        params.query()
    }

    #[test]
    fn a_query_is_the_same_on_all_its_pages() {
        let first = query("/a/x", "path=/b&path=/a&label=x&label=y&q=%20z&from=-1h");
        for (path, raw) in [
            (
                "/a/x",
                "path=/b&path=/a&label=x&label=y&q=%20z&from=-1h&limit=3&cursor=x&follow=true",
            ),
            ("/a/%78", "q=+z&label=y&label=%78&path=/b&path=%2Fa&from=5"),
        ] {
            assert_eq!(query(path, raw), first, "{path} {raw}");
        }
    }

    #[test]
    fn another_query_is_another_one() {
        let mut seen = std::collections::HashSet::new();
        for (path, raw) in [
            ("/a", ""),
            ("/b", ""),
            ("/a", "q="),
            ("/a", "q=x"),
            ("/a", "path=x"),
            ("/a", "path=x&path=y"),
            ("/a", "path=y&path=x"),
            ("/a", "path=xy"),
            ("/a", "label=x&label=y"),
            ("/a", "label=xlabely"),
            ("/a", "q=x&step=1"),
            ("/a", "step=x&q=1"),
        ] {
            assert!(seen.insert(query(path, raw)), "{path} {raw}");
        }
    }
}

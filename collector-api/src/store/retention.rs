//! How long what is kept: by the age of a day, tier by tier; for some paths shorter; and by the bytes of all day files.
//!
//! All of it is done by writing a day's file anew (`compact`), so it works by whole days: a day is old when all of it is. The tiers of a day go from fine to
//! coarse and never back.

use std::time::Duration;

use devmon_core::wire::TimestampMs;

use super::archive::Holds;
use super::days::{self, Days};
use super::local::Options;

/// Series that are kept for a shorter time, in all tiers.
#[derive(Debug, Clone)]
pub struct Keep {
    pub paths: Pattern,
    pub age: Duration,
}

/// Paths by their segments: `*` stands for any one segment, `**` at the end for all that follow, none too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<String>);

impl std::str::FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!("{text:?} is no pattern of paths; write one like /processes/** or /disk/*/used")
        };
        let segments = text.strip_prefix('/').ok_or_else(expected)?;
        let segments: Vec<String> = segments.split('/').map(str::to_owned).collect();
        let all_but_last = segments.iter().rev().skip(1);
        if segments.iter().any(String::is_empty) || all_but_last.into_iter().any(|s| s == "**") {
            return Err(expected());
        }
        Ok(Self(segments))
    }
}

impl Pattern {
    /// Whether a path is one of these.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let mut segments = path.split('/').skip(1);
        for wanted in &self.0 {
            if wanted == "**" {
                return true;
            }
            match segments.next() {
                Some(segment) if wanted == "*" || wanted == segment => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }
}

/// True if all of `day` is older than `age`.
fn is_older(day: u32, age: Duration, now: TimestampMs) -> bool {
    let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    days::end_of(day).0.saturating_add(age) <= now.0
}

/// What is kept of a day; `None`: nothing.
pub(super) fn holds(options: &Options, day: u32, now: TimestampMs) -> Option<Holds> {
    let ages = [
        (Holds::Raw, options.retention),
        (Holds::Minute, options.retention_1m),
        (Holds::Hour, options.retention_1h),
    ];
    let kept = ages.into_iter().find(|(_, age)| !is_older(day, *age, now));
    kept.map(|(holds, _)| holds)
}

/// Begin of the oldest day that is kept in any tier.
pub(super) fn first_kept(options: &Options, now: TimestampMs) -> TimestampMs {
    let longest = options
        .retention
        .max(options.retention_1m)
        .max(options.retention_1h);
    let longest = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
    days::start_of(days::day_of(TimestampMs(now.0.saturating_sub(longest))))
}

/// Whether samples of this day are no longer kept for this path.
pub(super) fn is_expired(options: &Options, path: &str, day: u32, now: TimestampMs) -> bool {
    let mut rules = options.keep.iter();
    rules.any(|rule| is_older(day, rule.age, now) && rule.paths.matches(path))
}

/// Days whose file holds more than is to be kept.
pub(super) fn due(options: &Options, days: &Days, now: TimestampMs) -> Vec<u32> {
    let is_due = |day: u32, of: &days::Day| {
        let Some(file) = &of.file else {
            return holds(options, day, now).is_none();
        };
        // Older now, and not yet so when the file was made: then it was written without what is kept shorter.
        let mut rules = options.keep.iter();
        let crossed = rules
            .any(|rule| is_older(day, rule.age, now) && !is_older(day, rule.age, of.named.made));
        crossed || holds(options, day, now).is_none_or(|kept| kept > file.holds())
    };
    let due = days.iter().filter(|(day, of)| is_due(**day, of));
    due.map(|(day, _)| *day).collect()
}

/// The day that has to make room, and what is left of it (`None`: nothing): the oldest of the finest tier.
pub(super) fn over_bytes(options: &Options, days: &Days) -> Option<(u32, Option<Holds>)> {
    let most = options.archive_max_bytes?;
    let files = days
        .iter()
        .filter_map(|(day, of)| Some((*day, of.file.as_ref()?)));
    let bytes: u64 = files.clone().map(|(_, file)| file.figures().bytes).sum();
    if bytes <= most {
        return None;
    }
    let (day, file) = files.min_by_key(|(day, file)| (file.holds(), *day))?;
    let left = match file.holds() {
        Holds::Raw => Some(Holds::Minute),
        Holds::Minute => Some(Holds::Hour),
        Holds::Hour => None,
    };
    Some((day, left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_go_by_segments() {
        let matches = |pattern: &str, path: &str| pattern.parse::<Pattern>().unwrap().matches(path);
        assert!(matches("/processes/**", "/processes/1/cpu"));
        assert!(matches("/processes/**", "/processes"));
        assert!(!matches("/processes/**", "/processes2/1"));
        assert!(matches("/disk/*/used", "/disk/sda/used"));
        assert!(!matches("/disk/*/used", "/disk/sda/free"));
        assert!(!matches("/disk/*", "/disk/sda/free"));
        assert!(matches("/**", "/a"));
        for wrong in ["processes", "/a//b", "/**/a", "", "/"] {
            assert!(wrong.parse::<Pattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_day_gets_coarser_as_it_ages() {
        let options = Options::default();
        let at = |days: i64| TimestampMs((20_000 + days) * days::DAY_MS);
        let of = |now| holds(&options, 20_000, now);
        assert_eq!(of(at(0)), Some(Holds::Raw));
        assert_eq!(of(at(30)), Some(Holds::Raw));
        assert_eq!(of(at(31)), Some(Holds::Minute));
        assert_eq!(of(at(365)), Some(Holds::Minute));
        assert_eq!(of(at(366)), Some(Holds::Hour));
        assert_eq!(of(at(5 * 365)), Some(Holds::Hour));
        assert_eq!(of(at(5 * 365 + 1)), None);
    }
}

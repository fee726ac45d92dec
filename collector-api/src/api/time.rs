//! Points in time as callers write them: RFC 3339, unix seconds or milliseconds, `now`, relative to now.

use devmon_core::config::DurationText;
use devmon_core::wire::TimestampMs;

/// End of the year 9999, the last that RFC 3339 can name.
const LATEST_MS: i64 = 253_402_300_799_999;
/// From so many digits on a plain number is milliseconds: 11 digits of seconds reach the year 5138, 12 digits of milliseconds begin in 1973.
const MS_DIGITS: usize = 12;

/// Reads a point in time.
///
/// # Errors
/// What is wrong, for the caller.
pub fn parse(text: &str, now: TimestampMs) -> Result<TimestampMs, String> {
    let ms = if text == "now" {
        Some(now.0)
    } else if let Some(ago) = text.strip_prefix('-') {
        ago.parse::<DurationText>().ok().and_then(|d| {
            now.0
                .checked_sub_unsigned(u64::try_from(d.0.as_millis()).ok()?)
        })
    } else if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        number(text)
    } else {
        rfc3339(text)
    };
    let expected = || {
        format!(
            "{text:?} is no time; write RFC 3339 (2026-11-23T18:00:00Z), unix seconds, unix milliseconds (12 digits or more), now, or -6h"
        )
    };
    let ms = ms.ok_or_else(expected)?;
    if !(-62_167_219_200_000..=LATEST_MS).contains(&ms) {
        return Err(format!("{text:?} lies outside the years 0 to 9999"));
    }
    Ok(TimestampMs(ms))
}

fn number(text: &str) -> Option<i64> {
    let (whole, fraction) = text
        .split_once('.')
        .map_or((text, None), |(w, f)| (w, Some(f)));
    let n: i64 = whole.parse().ok()?;
    match fraction {
        None if whole.len() >= MS_DIGITS => Some(n),
        // Decimals of a millisecond mean nothing here; a number that long with decimals is a mistake.
        Some(_) if whole.len() >= MS_DIGITS => None,
        None => n.checked_mul(1000),
        Some(fraction) => n.checked_mul(1000)?.checked_add(milliseconds(fraction)?),
    }
}

/// The first three decimals, the rest cut off. At least one digit.
fn milliseconds(digits: &str) -> Option<i64> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let padded: String = digits.chars().chain("00".chars()).take(3).collect();
    padded.parse().ok()
}

/// RFC 3339 section 5.6. A space where the `+` of an offset belongs is taken as one: that is what an unescaped `+` in a query string becomes.
fn rfc3339(text: &str) -> Option<i64> {
    let field = |at: usize, len: usize| -> Option<i64> {
        let digits = text.get(at..at + len)?;
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    let mark = |at: usize, marks: &str| text.get(at..=at).filter(|m| marks.contains(*m));
    let (year, month, day) = (field(0, 4)?, field(5, 2)?, field(8, 2)?);
    let (hour, minute, second) = (field(11, 2)?, field(14, 2)?, field(17, 2)?);
    mark(4, "-")?;
    mark(7, "-")?;
    mark(10, "Tt ")?;
    mark(13, ":")?;
    mark(16, ":")?;
    // A leap second is the first of the next minute: unix time has no other place for it.
    if !(1..=12).contains(&month)
        || !(1..=days_in(year, month)).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut ms = 0;
    if let Some(tail) = rest.strip_prefix('.') {
        let end = tail.find(|c: char| !c.is_ascii_digit())?;
        ms = milliseconds(tail.get(..end)?)?;
        rest = tail.get(end..)?;
    }
    let offset_minutes = match rest {
        "Z" | "z" => 0,
        _ => {
            let sign = match rest.get(..1)? {
                "+" | " " => 1,
                "-" => -1,
                _ => return None,
            };
            let (hours, minutes) = rest.get(1..)?.split_once(':')?;
            if hours.len() != 2 || minutes.len() != 2 {
                return None;
            }
            let (hours, minutes): (u8, u8) = (hours.parse().ok()?, minutes.parse().ok()?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            sign * (i64::from(hours) * 60 + i64::from(minutes))
        }
    };
    let seconds = days_since_epoch(year, month, day) * 86_400
        + hour * 3_600
        + (minute - offset_minutes) * 60
        + second;
    Some(seconds * 1000 + ms)
}

/// A time in unix ms as RFC 3339 in UTC, to the second.
pub fn format(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar; Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: TimestampMs = TimestampMs(1_795_457_000_000);

    #[test]
    fn every_documented_form_is_read() {
        let ms = |text: &str| parse(text, NOW).unwrap_or_else(|e| panic!("{e}")).0;
        assert_eq!(ms("2026-11-23T18:00:00Z"), 1_795_456_800_000);
        assert_eq!(ms("2026-11-23T19:00:00+01:00"), 1_795_456_800_000);
        assert_eq!(ms("2026-11-23T19:00:00 01:00"), 1_795_456_800_000); // what '+' becomes when nobody escaped it
        assert_eq!(ms("2026-11-23t12:30:00.25-05:30"), 1_795_456_800_250);
        assert_eq!(ms("2026-11-23T18:00:00.1239999Z"), 1_795_456_800_123);
        assert_eq!(ms("1970-01-01T00:00:00Z"), 0);
        assert_eq!(ms("2024-02-29T00:00:00Z"), 1_709_164_800_000);
        assert_eq!(ms("2016-12-31T23:59:60Z"), 1_483_228_800_000);
        assert_eq!(ms("1795456800"), 1_795_456_800_000);
        assert_eq!(ms("1795456800.5"), 1_795_456_800_500);
        assert_eq!(ms("0"), 0);
        assert_eq!(ms("1795456800123"), 1_795_456_800_123);
        assert_eq!(ms("100000000000"), 100_000_000_000);
        assert_eq!(ms("now"), NOW.0);
        assert_eq!(ms("-90s"), NOW.0 - 90_000);
        assert_eq!(ms("-15m"), NOW.0 - 900_000);
        assert_eq!(ms("-6h"), NOW.0 - 21_600_000);
        assert_eq!(ms("-30d"), NOW.0 - 2_592_000_000);
    }

    #[test]
    fn what_is_written_is_read_again() {
        for seconds in (0..253_402_300_799).step_by(40_000_003) {
            assert_eq!(rfc3339(&format(seconds * 1000)), Some(seconds * 1000));
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "yesterday",
            "-",
            "-6",
            "-6w",
            "+6h",
            "1.2.3",
            "1.",
            ".5",
            "1795456800123.5",
            "99999999999999999999",
            "999999999999999",
            "2026-11-23",
            "2026-11-23T18:00:00",
            "2026-13-01T00:00:00Z",
            "2025-02-29T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T18:00:00.Z",
            "2026-11-23T18:00:00+1:00",
            "2026-11-23T18:00:00Zx",
            "2026-11-23T18:00:00é",
            "-99999999999999d",
        ] {
            assert!(parse(bad, NOW).is_err(), "{bad:?}");
        }
    }
}

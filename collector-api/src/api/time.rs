//! Points in time as callers write them: RFC 3339, unix seconds or milliseconds, `now`, relative to now.

use devmon_core::config::DurationText;
use devmon_core::wire::TimestampMs;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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

/// RFC 3339 section 5.6. A space where the `+` of an offset belongs is taken as one: that is what an unescaped `+` in a query string becomes. A leap second is
/// the first of the next minute: unix time has no other place for it.
fn rfc3339(text: &str) -> Option<i64> {
    let (date, time) = (text.get(..10)?, text.get(11..)?);
    if !text.get(10..11).is_some_and(|mark| "Tt ".contains(mark)) {
        return None;
    }
    let time = time.to_ascii_uppercase().replace(' ', "+");
    let (time, leap_ms) = match time.get(6..8)? {
        "60" => (format!("{}59{}", &time[..6], &time[8..]), 1000),
        _ => (time, 0),
    };
    let parsed = OffsetDateTime::parse(&format!("{date}T{time}"), &Rfc3339).ok()?;
    let ms = parsed.unix_timestamp_nanos().div_euclid(1_000_000);
    Some(i64::try_from(ms).ok()? + leap_ms)
}

/// A time in unix ms as RFC 3339 in UTC, to the second; outside the years that it can name, the plain number.
pub fn format(ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000))
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| ms.to_string())
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

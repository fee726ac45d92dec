//! What a unix time is in the calendar of UTC: `minute`, `hour`, `day_of_week`, … Pure.

const DAY_S: i64 = 86_400;

/// A function of a time in unix seconds, by its name.
#[must_use]
pub fn of_time(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "minute" => |t| (in_day(t) / 60 % 60) as f64,
        "hour" => |t| (in_day(t) / 3_600) as f64,
        // 1970 began on a Thursday; Sunday is 0.
        "day_of_week" => |t| (day(t) + 4).rem_euclid(7) as f64,
        "day_of_month" => |t| date(day(t)).day as f64,
        "day_of_year" => |t| (day(t) - begin(date(day(t)).year, 1) + 1) as f64,
        "days_in_month" => |t| {
            let Date { year, month, .. } = date(day(t));
            (begin(year, month + 1) - begin(year, month)) as f64
        },
        "month" => |t| date(day(t)).month as f64,
        "year" => |t| date(day(t)).year as f64,
        _ => return None,
    })
}

/// Days since 1970.
fn day(t: f64) -> i64 {
    (t as i64).div_euclid(DAY_S)
}

/// Seconds since midnight.
fn in_day(t: f64) -> i64 {
    (t as i64).rem_euclid(DAY_S)
}

struct Date {
    year: i64,
    month: i64,
    day: i64,
}

/// Day of the first of a month, in days since 1970; month 13 is the next year's first.
fn begin(year: i64, month: i64) -> i64 {
    // Years that begin in March have their odd day at the end.
    let (year, month) = (
        year + (month - 3).div_euclid(12),
        (month - 3).rem_euclid(12),
    );
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (month * 153 + 2) / 5 - 719_468
}

fn date(day: i64) -> Date {
    // A guess from the mean length of a year is at most one too late or too early.
    let mut year = 1970 + (day as f64 / 365.2425).floor() as i64;
    while begin(year, 1) > day {
        year -= 1;
    }
    while begin(year + 1, 1) <= day {
        year += 1;
    }
    let month = (1..=12)
        .rev()
        .find(|month| begin(year, *month) <= day)
        .unwrap_or(1);
    Date {
        year,
        month,
        day: day - begin(year, month) + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_eight_centuries_follows_the_one_before() {
        let of = |name| of_time(name).unwrap();
        let (year, month, day) = (of("year"), of("month"), of("day_of_month"));
        let mut before = (1599.0, 12.0, 31.0);
        for n in begin(1600, 1)..begin(2400, 1) {
            let t = (n * DAY_S + 86_399) as f64;
            let now = (year(t), month(t), day(t));
            let expected = if of("days_in_month")(t - 86_400.0) > before.2 {
                (before.0, before.1, before.2 + 1.0)
            } else if before.1 < 12.0 {
                (before.0, before.1 + 1.0, 1.0)
            } else {
                (before.0 + 1.0, 1.0, 1.0)
            };
            assert_eq!(now, expected, "day {n}");
            before = now;
        }
    }

    #[test]
    fn known_times_are_what_they_are() {
        let of = |name, t| of_time(name).unwrap()(t);
        // 2024-02-29T23:59:59Z, a Thursday.
        let t = 1_709_251_199.9;
        let all = [
            "minute",
            "hour",
            "day_of_week",
            "day_of_month",
            "day_of_year",
            "days_in_month",
            "month",
            "year",
        ];
        assert_eq!(
            all.map(|name| of(name, t)),
            [59.0, 23.0, 4.0, 29.0, 60.0, 29.0, 2.0, 2024.0]
        );
        assert_eq!((of("year", 0.0), of("day_of_year", 0.0)), (1970.0, 1.0));
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            for name in all {
                let _ = of(name, odd); // any number, at once
            }
        }
    }
}

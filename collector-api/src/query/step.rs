//! Steps of buckets: which one to take for a wanted number of points, and which bucket a time falls into.
//!
//! Buckets start at multiples of the step since the epoch, so that a bucket has the same edges whoever asks, and a chart that moves on does not flicker.

/// Steps that a chart's axis can be read by, in ms: 1 ms to one day. Longer ones are whole days.
const STEPS_MS: [i64; 34] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, // below a second
    1_000, 2_000, 3_000, 5_000, 6_000, 10_000, 12_000, 15_000, 20_000,
    30_000, // below a minute
    60_000, 120_000, 180_000, 300_000, 600_000, 900_000, 1_200_000,
    1_800_000, // below an hour
    3_600_000, 7_200_000, 10_800_000, 14_400_000, 21_600_000, 43_200_000, DAY_MS,
];
const DAY_MS: i64 = 86_400_000;

/// Number of buckets of `step_ms` that the range `from ≤ t < to` touches.
#[must_use]
pub fn buckets(from_ms: i64, to_ms: i64, step_ms: i64) -> u64 {
    if to_ms <= from_ms {
        return 0;
    }
    let first = from_ms.div_euclid(step_ms);
    let last = (to_ms - 1).div_euclid(step_ms);
    last.abs_diff(first) + 1
}

/// Start of the bucket that `t_ms` falls into.
#[must_use]
pub fn floor(t_ms: i64, step_ms: i64) -> i64 {
    t_ms.saturating_sub(t_ms.rem_euclid(step_ms))
}

/// Starts of so many buckets, the first of which is `first_ms`.
#[must_use]
pub fn starts(first_ms: i64, step_ms: i64, count: usize) -> Vec<i64> {
    (0_i64..)
        .map(|i| first_ms + i * step_ms)
        .take(count)
        .collect()
}

/// The first multiple of the step that is not before `t_ms`.
#[must_use]
pub fn ceil(t_ms: i64, step_ms: i64) -> i64 {
    match t_ms.rem_euclid(step_ms) {
        0 => t_ms,
        over => t_ms.saturating_add(step_ms - over),
    }
}

/// A readable step, not below `at_least_ms`, with which the range touches at most `points` (≥ 2) buckets: the smallest one up to a day, else days.
/// `at_least_ms` counts for a day at most: it is what devices say of themselves, and one that claims years must not blunt everybody's charts.
#[must_use]
pub fn choose(from_ms: i64, to_ms: i64, points: u64, at_least_ms: i64) -> i64 {
    let at_least_ms = at_least_ms.min(DAY_MS);
    let fits = |step: &i64| *step >= at_least_ms && buckets(from_ms, to_ms, *step) <= points;
    if let Some(step) = STEPS_MS.iter().copied().find(fits) {
        return step;
    }
    let days = |parts: u64| {
        let days = to_ms
            .abs_diff(from_ms)
            .div_ceil(parts)
            .div_ceil(DAY_MS.unsigned_abs());
        i64::try_from(days)
            .unwrap_or(i64::MAX)
            .saturating_mul(DAY_MS)
    };
    // As many buckets as points, if their edges fall well; else one less, and what hangs over is in the last.
    let well = days(points);
    if fits(&well) { well } else { days(points - 1) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn charts_get_round_steps() {
        let hour = 3_600_000;
        assert_eq!(choose(0, hour, 600, 0), 6_000);
        assert_eq!(choose(0, hour, 600, 10_000), 10_000);
        assert_eq!(choose(0, 30 * 24 * hour, 1_000, 0), hour);
        assert_eq!(choose(0, 5, 10_000, 0), 1);
        assert_eq!(choose(-1, 1, 2, 0), 1);
        assert_eq!(choose(0, 6 * 24 * hour, 2, 0), 3 * DAY_MS);
    }

    #[test]
    fn a_device_that_claims_to_send_never_costs_no_time() {
        assert_eq!(choose(0, 3_600_000, 100, i64::MAX), DAY_MS);
        let widest = choose(i64::MIN, i64::MAX, 2, i64::MAX);
        assert!(buckets(i64::MIN, i64::MAX, widest) <= 3, "{widest}");
    }

    proptest! {
        #[test]
        fn a_chosen_step_never_gives_more_points_than_asked(
            from in -1_000_000_000_000_i64..2_000_000_000_000,
            span in 0_i64..1_000_000_000_000,
            points in 2_u64..10_000,
            at_least in prop_oneof![0_i64..100_000_000, Just(i64::MAX)],
        ) {
            let step = choose(from, from + span, points, at_least);
            let starts: u64 = buckets(from, from + span, step);
            prop_assert!(starts <= points && step >= at_least.min(DAY_MS));
        }

        #[test]
        fn buckets_counts_the_distinct_floors(from in -100_i64..100, span in 0_i64..100, step in 1_i64..20) {
            let floors: std::collections::BTreeSet<i64> = (from..from + span).map(|t| floor(t, step)).collect();
            prop_assert_eq!(buckets(from, from + span, step), floors.len() as u64);
        }
    }
}

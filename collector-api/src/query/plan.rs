//! Where the values of a question come from: which tier, and which parts of the range at its edges from a finer one.
//!
//! 1. The step is whole hours: rollups of one hour.
//! 2. Else raw samples, where they are kept from `from` on.
//! 3. Else the step is whole minutes: rollups of one minute.
//! 4. Else raw samples, and gaps before they are kept. A step that is chosen for a number of points never comes here.
//!
//! A range begins and ends where its caller likes, a rollup's bucket at whole minutes or hours. Where the range cuts a bucket, raw samples are read for the part
//! inside; where these are gone, the whole bucket counts.

use super::step;
use crate::store::engine::Store;
use crate::store::rollup::Tier;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;

/// The tier for buckets of `step_ms` from `from_ms` on.
pub(super) fn tier(store: &dyn Store, step_ms: i64, from_ms: i64) -> Tier {
    if step_ms % HOUR_MS == 0 {
        Tier::Hour
    } else if from_ms < store.kept_from(Tier::Raw).0 && step_ms % MINUTE_MS == 0 {
        Tier::Minute
    } else {
        Tier::Raw
    }
}

/// The shortest step for which there is a tier from `from_ms` on.
pub(super) fn shortest_step_ms(store: &dyn Store, from_ms: i64) -> i64 {
    if from_ms < store.kept_from(Tier::Minute).0 {
        HOUR_MS
    } else if from_ms < store.kept_from(Tier::Raw).0 {
        MINUTE_MS
    } else {
        1
    }
}

/// A part of a range, read from one tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) tier: Tier,
    pub(super) from_ms: i64,
    pub(super) to_ms: i64,
}

/// The parts of a range in order of time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// What is before this only serves as the sample before the first.
    pub(super) from_ms: i64,
    pub(super) parts: Vec<Part>,
}

/// Plans the reading of `from ≤ t < to` at a tier, and of `before_ms` ahead of it. `raw_from_ms`: since when raw samples are kept.
pub(super) fn plan(tier: Tier, (from, to): (i64, i64), before_ms: i64, raw_from_ms: i64) -> Plan {
    let part = |tier, from_ms, to_ms| Part {
        tier,
        from_ms,
        to_ms,
    };
    let Some(bucket_ms) = tier.bucket_ms() else {
        let parts = vec![part(Tier::Raw, from.saturating_sub(before_ms), to)];
        return Plan {
            from_ms: from,
            parts,
        };
    };
    let (below, above) = (step::floor(from, bucket_ms), step::ceil(to, bucket_ms));
    let ahead = step::floor(from.saturating_sub(before_ms), bucket_ms);
    // The first and the last whole bucket; those that are cut are read from raw samples if they can.
    let first = if from == below || from < raw_from_ms {
        below
    } else {
        below.saturating_add(bucket_ms)
    };
    let last_cut = step::floor(to, bucket_ms);
    let last = if to == last_cut || last_cut < raw_from_ms {
        above
    } else {
        last_cut
    };
    let mut parts = Vec::new();
    if before_ms > 0 {
        parts.push(part(tier, ahead, below));
    }
    parts.push(part(Tier::Raw, below, first.min(to)));
    parts.push(part(tier, first, last));
    parts.push(part(Tier::Raw, last.max(first), to)); // they cross where the range lies within one bucket
    parts.retain(|part| part.from_ms < part.to_ms);
    Plan {
        from_ms: if first == below { below } else { from },
        parts,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_cover_the_range_once_and_in_order(
            from in -500_i64..500, length in 0_i64..500, before in 0_i64..200, raw_from in -600_i64..600, hour in any::<bool>(),
        ) {
            let (tier, bucket) = if hour { (Tier::Hour, HOUR_MS) } else { (Tier::Minute, MINUTE_MS) };
            let scale = bucket / 60;
            let (from, to, raw_from) = (from * scale, (from + length) * scale, raw_from * scale);
            let plan = plan(tier, (from, to), before * scale, raw_from);
            prop_assert!(plan.parts.windows(2).all(|w| w[0].to_ms <= w[1].from_ms), "{:?}", plan);
            for part in &plan.parts {
                let whole = part.from_ms % bucket == 0 && part.to_ms % bucket == 0;
                prop_assert!(part.tier == Tier::Raw || whole, "{:?}", plan);
                prop_assert!(part.tier == tier || part.to_ms <= to && part.to_ms > raw_from, "{:?}", plan);
            }
            for t in (from..to).step_by(scale as usize) {
                let holders = plan.parts.iter().filter(|p| (p.from_ms..p.to_ms).contains(&t)).count();
                prop_assert_eq!(holders, 1, "{} in {:?}", t, plan);
            }
            prop_assert!(plan.from_ms == from || plan.from_ms == step::floor(from, bucket) && from < raw_from);
        }
    }
}

//! The synthetic set: devices × 50 metrics at 10 s, the same on every machine and day but for its date.
//!
//! Ten each of five kinds that make up most of what hosts send. What a value may do in one step says how many bits it holds at least; no codec can do better
//! than some 0.8 bytes a sample on the whole set.
//!
//! | source | leaf | value |
//! |---|---|---|
//! | `cpu` | `core/{n}/utilization` | percent with two decimals, as a ratio with four: a random walk in 0–1 with steps up to ±1.5 points |
//! | `memory` | `pool/{n}/used_bytes` | multiples of 4 KiB: a random walk in 0–64 GiB with steps up to ±2000 pages |
//! | `network` | `{n}/received_bytes_total` | a counter: grows by the device's mean rate (30 to 100 000 a step) ±50 % |
//! | `sensors` | `{n}/temperature_celsius` | half degrees: every fourth step up or down by one |
//! | `disk` | `{n}/used_bytes` | multiples of 4 KiB: every twentieth step some pages more, seldom many less |

use super::set::{Device, PeerName, Series, Set};

const SEED: u64 = 0x6465_766d_6f6e_0003; // "devmon", issue 3
pub(super) const STEP_MS: i64 = 10_000;
const DAY_MS: i64 = 86_400_000;
/// Metrics of each of the five kinds.
const EACH: usize = 10;

/// `ticks` × 10 s must fit in a day. They begin at 00:00 of yesterday, UTC: a day that is closed.
pub(super) fn set(devices: usize, ticks: usize, now_ms: i64) -> Set {
    let start = (now_ms / DAY_MS - 1) * DAY_MS;
    let times = (0..ticks as i64).map(|i| start + i * STEP_MS).collect();
    let mut random = Random(SEED);
    let devices = (0..devices)
        .map(|d| Device::new(format!("bench-{d:03}"), series(ticks, &mut random)))
        .collect();
    Set {
        name: "synthetic".into(),
        times,
        devices,
    }
}

fn series(ticks: usize, random: &mut Random) -> Vec<Series> {
    let mut all = Vec::with_capacity(5 * EACH);
    for n in 0..EACH {
        let n = n.to_string();
        let mut push = |path: &[&str], integer, values| {
            all.push(Series {
                path: path.iter().map(|s| (*s).to_owned()).collect(),
                name: PeerName::Field(path.join("_")),
                integer,
                values,
            });
        };
        push(
            &["cpu", "core", &n, "utilization"],
            false,
            utilization(ticks, random),
        );
        push(
            &["memory", "pool", &n, "used_bytes"],
            true,
            memory(ticks, random),
        );
        push(
            &["network", &n, "received_bytes_total"],
            true,
            counter(ticks, random),
        );
        push(
            &["sensors", &n, "temperature_celsius"],
            false,
            temperature(ticks, random),
        );
        push(&["disk", &n, "used_bytes"], true, disk(ticks, random));
    }
    all
}

fn utilization(ticks: usize, random: &mut Random) -> Vec<f64> {
    let mut at = random.within(0, 10_000);
    let step = || {
        at = (at + random.within(-150, 150)).clamp(0, 10_000);
        at as f64 / 10_000.0
    };
    std::iter::repeat_with(step).take(ticks).collect()
}

fn memory(ticks: usize, random: &mut Random) -> Vec<f64> {
    let most = 64 << 18; // pages of 64 GiB
    let mut at = random.within(0, most);
    let step = || {
        at = (at + random.within(-2000, 2000)).clamp(0, most);
        (at * 4096) as f64
    };
    std::iter::repeat_with(step).take(ticks).collect()
}

fn counter(ticks: usize, random: &mut Random) -> Vec<f64> {
    let mean = [30, 300, 3000, 30_000, 100_000];
    let mean = mean
        .get(random.within(0, 4) as usize)
        .copied()
        .unwrap_or(300);
    let mut at = random.within(0, 1 << 40);
    let step = || {
        at += random.within(mean / 2, mean * 3 / 2);
        at as f64
    };
    std::iter::repeat_with(step).take(ticks).collect()
}

fn temperature(ticks: usize, random: &mut Random) -> Vec<f64> {
    let mut at = random.within(60, 120); // half degrees
    let step = || {
        at = match random.within(0, 7) {
            0 => at + 1,
            1 => at - 1,
            _ => at,
        }
        .clamp(40, 200);
        at as f64 / 2.0
    };
    std::iter::repeat_with(step).take(ticks).collect()
}

fn disk(ticks: usize, random: &mut Random) -> Vec<f64> {
    let mut at = random.within(1 << 18, 256 << 18);
    let step = || {
        match random.within(0, 999) {
            0 => at -= random.within(0, 100_000),
            1..50 => at += random.within(1, 256),
            _ => {}
        }
        at = at.max(0);
        (at * 4096) as f64
    };
    std::iter::repeat_with(step).take(ticks).collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same for ever, which a crate's generator does not promise.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly in `low..=high`, as far as 2^64 is divisible by so many.
    pub(super) fn within(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next() % (high - low + 1) as u64) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_is_the_same_for_ever() {
        let set = set(2, 100, 1_795_478_400_000);
        assert_eq!((set.samples(), set.series()), (10_000, 100));
        let mut messages = Vec::new();
        for device in &set.devices {
            for tick in 0..100 {
                set.message(device, tick, &mut messages);
            }
        }
        let sum = messages
            .iter()
            .fold(0u32, |sum, b| sum.rotate_left(5) ^ u32::from(*b));
        assert_eq!((messages.len(), sum), (399_079, 4_186_528_813));
    }
}

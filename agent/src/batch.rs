//! When what was gathered leaves, and in how many bytes: the delay of this device, rounds put together, compression. Pure.

use std::time::Duration;

use devmon_core::wire::{DeviceId, Frame, TimestampMs};

/// Below this, a zstd frame is hardly smaller than what is in it.
const WORTH_COMPRESSING_BYTES: usize = 200;
/// zstd's own default; on metrics messages higher ones save a few percent for several times the work.
const LEVEL: i32 = 3;

/// What is gathered may take this part of what the outbox may.
const PART_OF_OUTBOX: usize = 8;

/// Frames that wait to be packed. Bounded by bytes, not by time: many large rounds make a batch that is over before its moment.
#[derive(Debug)]
pub struct Gathered {
    frames: Vec<Frame>,
    bytes: usize,
    limit_bytes: usize,
}

impl Gathered {
    #[must_use]
    pub fn new(outbox_bytes: usize) -> Self {
        Self {
            frames: Vec::new(),
            bytes: 0,
            limit_bytes: outbox_bytes / PART_OF_OUTBOX,
        }
    }

    pub fn push(&mut self, frame: Frame) {
        self.bytes += frame.metrics.size_bytes();
        self.frames.push(frame);
    }

    /// True if it should be packed now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes >= self.limit_bytes
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// All of it; it is empty then.
    pub fn take(&mut self) -> Vec<Frame> {
        self.bytes = 0;
        std::mem::take(&mut self.frames)
    }
}

/// By how much a device publishes later than its ticks: always the same for the same name, spread evenly over the names, at most half of the period and at most `most`.
#[must_use]
pub fn jitter(device: &DeviceId, period: Duration, most: Duration) -> Duration {
    // Names that differ in their last letters only have similar hashes: the finish of MurmurHash3 spreads them.
    let hash = device.stable_hash();
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    let part = f64::from((hash >> 32) as u32) / (f64::from(u32::MAX) + 1.0);
    (period / 2).min(most).mul_f64(part)
}

/// How long what was gathered now waits: for the device's own moment, or for the end of the present batch.
#[must_use]
pub fn delay(every: Duration, jitter: Duration, now: TimestampMs) -> Duration {
    let every_ms = i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
    if every_ms == 0 {
        return jitter;
    }
    let left_ms = every_ms - now.0.rem_euclid(every_ms);
    Duration::from_millis(left_ms.cast_unsigned()) + jitter
}

/// Compresses a payload in place; one that would not become smaller stays as it is.
pub fn compress(payload: &mut Vec<u8>) {
    if payload.len() < WORTH_COMPRESSING_BYTES {
        return;
    }
    if let Ok(small) = zstd::bulk::compress(payload, LEVEL)
        && small.len() < payload.len()
    {
        *payload = small;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_spread_and_each_device_keeps_its_moment() {
        let of = |i: usize, period: u64| {
            let device = format!("edge_{i}").parse().unwrap();
            jitter(&device, Duration::from_secs(period), Duration::from_secs(5))
        };
        let mut tenths = [0; 10];
        for i in 0..10_000 {
            assert_eq!(of(i, 10), of(i, 10));
            let at = of(i, 10);
            assert!(at < Duration::from_secs(5));
            tenths[(at.as_millis() / 500) as usize] += 1;
        }
        assert!(tenths.iter().all(|n| (800..1200).contains(n)), "{tenths:?}");
        assert!((0..100).all(|i| of(i, 1) < Duration::from_millis(500)));
        assert!((0..100).all(|i| of(i, 600) < Duration::from_secs(5)));
    }

    #[test]
    fn a_batch_is_full_by_bytes() {
        let mut gathered = Gathered::new(800_000);
        let frame = |texts: usize| {
            let mut metrics = devmon_core::MetricTree::new();
            for i in 0..texts {
                metrics.set(i.to_string(), "x".repeat(1_000));
            }
            Frame {
                ts: None,
                source: None,
                metrics,
            }
        };
        gathered.push(frame(50));
        assert!(!gathered.is_full() && !gathered.is_empty());
        gathered.push(frame(50));
        assert!(gathered.is_full());
        assert_eq!(gathered.take().len(), 2);
        assert!(gathered.is_empty() && !gathered.is_full());
    }

    #[test]
    fn batches_end_at_the_same_moments() {
        let ms = Duration::from_millis;
        let at = |now| delay(ms(60_000), ms(700), TimestampMs(now));
        assert_eq!(at(120_000), ms(60_700));
        assert_eq!(at(179_999), ms(701));
        assert_eq!(delay(ms(0), ms(700), TimestampMs(5)), ms(700));
    }

    #[test]
    fn what_is_compressed_is_read_by_the_collector() {
        let frame = r#"{"ts":1795450000000,"source":"cpu","metrics":{"utilization":0.125}}"#;
        let frames = vec![frame; 30].join(",");
        let json = format!(r#"{{"v":1,"device":"d","boot":"B","seq":1,"frames":[{frames}]}}"#);
        let mut payload = json.clone().into_bytes();
        compress(&mut payload);
        assert!(payload.len() * 4 < json.len(), "{}", payload.len());
        let message = devmon_core::wire::Message::decode(&payload).unwrap();
        assert_eq!(message.frames.len(), 30);
        let mut short = b"{}".to_vec();
        compress(&mut short);
        assert_eq!(short, b"{}");
    }
}

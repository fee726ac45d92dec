//! The replay set: what a node_exporter on a real machine said, once a second, and the file that keeps it.
//!
//! The file is one zstd frame; in it, numbers are LEB128 varints, signed ones zigzag:
//!
//! | size | what |
//! |---|---|
//! | 4 | `DMHR` |
//! | 1 | version, 1 |
//! | varint, signed | number of times; the first, unix ms |
//! | signed each | for each further time: its distance from the one before, less the distance before that |
//! | varint | number of series |
//! | | each series: varint length of its name, the name as Prometheus writes it (`node_load1`, `node_cpu_seconds_total{cpu="0",mode="idle"}`) |
//! | | each series: its column |
//!
//! | size | column: the changes of one series |
//! |---|---|
//! | 1 | digits behind the point d (0 to 17), or 255: values that are no such decimals |
//! | varint | number of changes |
//! | varint each | how many times later than the change before (the first: since the start), × 2, + 1 if the series is gone from here |
//! | signed each | for changes that are values: value × 10^d less the one before; with 255: 8 bytes little-endian instead |

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, bail};

use super::set::{Device, PeerName, Series, Set};

const MAGIC: &[u8; 5] = b"DMHR\x01";
const RAW: u8 = 255;
const MAX_DIGITS: u8 = 17;
/// The highest that needs no `--ultra`: the file is written once and kept in the repository.
const ZSTD_LEVEL: i32 = 19;
const DAY_MS: i64 = 86_400_000;
/// Longest segment of a path.
const MAX_SEGMENT_BYTES: usize = 128;

/// What was recorded, as it was.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Recording {
    pub(super) times: Vec<i64>,
    pub(super) names: Vec<String>,
    /// For each name, which time and what value from then on; NaN: gone.
    pub(super) changes: Vec<Vec<(u32, f64)>>,
    numbers: HashMap<String, usize>,
}

impl Recording {
    /// A time at which these have changed, and those are gone. Values that are not finite are left out.
    pub(super) fn push<'a>(
        &mut self,
        ts: i64,
        changed: impl Iterator<Item = (&'a str, f64)>,
        gone: impl Iterator<Item = &'a str>,
    ) {
        let at = u32::try_from(self.times.len()).unwrap_or(u32::MAX);
        self.times.push(ts);
        for (name, value) in changed.chain(gone.map(|name| (name, f64::NAN))) {
            let number = *self.numbers.entry(name.to_owned()).or_insert_with(|| {
                self.names.push(name.to_owned());
                self.changes.push(Vec::new());
                self.names.len() - 1
            });
            if let Some(changes) = self.changes.get_mut(number) {
                let value = if value.is_finite() { value } else { f64::NAN };
                let last = changes.last().map_or(f64::NAN, |c| c.1);
                if last.to_bits() != value.to_bits() {
                    changes.push((at, value));
                }
            }
        }
    }

    pub(super) fn save(&self, path: &Path) -> anyhow::Result<u64> {
        let packed = zstd::bulk::compress(&self.encode(), ZSTD_LEVEL)?;
        std::fs::write(path, &packed).with_context(|| path.display().to_string())?;
        Ok(packed.len() as u64)
    }

    pub(super) fn load(path: &Path) -> anyhow::Result<Self> {
        let packed = std::fs::read(path).with_context(|| {
            format!(
                "{}: not there; record one: cargo xtask bench record --minutes 60",
                path.display()
            )
        })?;
        let bytes = zstd::stream::decode_all(packed.as_slice())
            .with_context(|| path.display().to_string())?;
        Self::decode(&bytes).with_context(|| format!("{}: not a recording", path.display()))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put(&mut out, self.times.len() as u64);
        let (mut last, mut step) = (0, 0);
        for (i, ts) in self.times.iter().enumerate() {
            put_signed(&mut out, ts - last - step);
            step = if i == 0 { 0 } else { ts - last };
            last = *ts;
        }
        put(&mut out, self.names.len() as u64);
        for name in &self.names {
            put(&mut out, name.len() as u64);
            out.extend_from_slice(name.as_bytes());
        }
        for changes in &self.changes {
            let values: Vec<f64> = changes
                .iter()
                .map(|c| c.1)
                .filter(|v| !v.is_nan())
                .collect();
            let digits = (0..=MAX_DIGITS).find(|d| values.iter().all(|v| scaled(*v, *d).is_some()));
            out.push(digits.unwrap_or(RAW));
            put(&mut out, changes.len() as u64);
            let mut last = 0;
            for (at, value) in changes {
                put(
                    &mut out,
                    u64::from(at - last) * 2 + u64::from(value.is_nan()),
                );
                last = *at;
            }
            let mut last = 0;
            for value in values {
                match digits.and_then(|d| scaled(value, d)) {
                    Some(whole) => {
                        put_signed(&mut out, whole - last);
                        last = whole;
                    }
                    None => out.extend_from_slice(&value.to_le_bytes()),
                }
            }
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = bytes.strip_prefix(MAGIC)?;
        let from = &mut from;
        let mut recording = Self::default();
        let (mut last, mut step) = (0i64, 0i64);
        for i in 0..get(from)? {
            let ts = last.checked_add(step)?.checked_add(get_signed(from)?)?;
            step = if i == 0 { 0 } else { ts.checked_sub(last)? };
            last = ts;
            recording.times.push(ts);
        }
        for _ in 0..get(from)? {
            let length = usize::try_from(get(from)?).ok()?;
            let name = std::str::from_utf8(from.split_off(..length)?).ok()?;
            recording.names.push(name.to_owned());
        }
        for _ in 0..recording.names.len() {
            let digits = *from.split_off_first()?;
            let (mut at, mut changes) = (0u32, Vec::new());
            for _ in 0..get(from)? {
                let word = get(from)?;
                at = at.checked_add(u32::try_from(word / 2).ok()?)?;
                changes.push((at, if word % 2 == 1 { f64::NAN } else { 0.0 }));
            }
            let mut last = 0i64;
            for (_, value) in changes.iter_mut().filter(|c| !c.1.is_nan()) {
                *value = if digits == RAW {
                    f64::from_le_bytes(from.split_off(..8)?.try_into().ok()?)
                } else {
                    last = last.checked_add(get_signed(from)?)?;
                    last as f64 / 10f64.powi(i32::from(digits))
                };
            }
            recording.changes.push(changes);
        }
        from.is_empty().then_some(recording)
    }

    /// As one device's set under the source `host`, moved by whole seconds so that it begins at 00:00 of yesterday.
    pub(super) fn set(self, now_ms: i64) -> anyhow::Result<Set> {
        let first = *self.times.first().context("the recording is empty")?;
        let start = (now_ms / DAY_MS - 1) * DAY_MS + first.rem_euclid(1000);
        let times: Vec<i64> = self.times.iter().map(|t| t - first + start).collect();
        if times.last().is_some_and(|t| *t >= start + DAY_MS) {
            bail!("the recording is longer than a day");
        }
        // A metric's series are all of one type: InfluxDB wants it, and a plugin would have it so.
        let mut floats: HashSet<&str> = HashSet::new();
        for (name, changes) in self.names.iter().zip(&self.changes) {
            let whole = |v: f64| v.is_nan() || (v.fract() == 0.0 && v.abs() < 9e15);
            if !changes.iter().all(|c| whole(c.1)) {
                floats.insert(metric(name));
            }
        }
        let mut series = Vec::new();
        for (name, changes) in self.names.iter().zip(&self.changes) {
            let (name, labels) =
                labels(name).with_context(|| format!("recorded series {name:?}"))?;
            let mut path = vec!["host".to_owned(), name.to_owned()];
            path.extend(segments(&labels));
            let mut values = vec![f64::NAN; times.len()];
            for (i, (at, value)) in changes.iter().enumerate() {
                let end = changes.get(i + 1).map_or(times.len(), |c| c.0 as usize);
                if let Some(run) = values.get_mut(*at as usize..end) {
                    run.fill(*value);
                }
            }
            let integer = !floats.contains(name);
            let name = PeerName::Metric {
                name: name.to_owned(),
                labels,
            };
            series.push(Series {
                path,
                name,
                integer,
                values,
            });
        }
        Ok(Set {
            name: "replay".into(),
            times,
            devices: vec![Device::new("bench-host".into(), series)],
        })
    }
}

/// `value × 10^digits`, if that is whole and gives the value back to the bit.
fn scaled(value: f64, digits: u8) -> Option<i64> {
    let factor = 10f64.powi(i32::from(digits));
    let whole = (value * factor).round();
    let exact = whole.abs() < 9e15 && (whole / factor).to_bits() == value.to_bits();
    #[expect(clippy::cast_possible_truncation, reason = "below 2^53")]
    exact.then_some(whole as i64)
}

/// A series' name without its labels.
fn metric(series: &str) -> &str {
    series.split_once('{').map_or(series, |(name, _)| name)
}

/// Takes a series' name apart: `name{label="text",…}`.
fn labels(series: &str) -> Option<(&str, Vec<(String, String)>)> {
    let Some((name, rest)) = series.split_once('{') else {
        return Some((series, Vec::new()));
    };
    let mut rest = rest.strip_suffix('}')?;
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (label, behind) = rest.split_once("=\"")?;
        let mut text = String::new();
        let mut chars = behind.char_indices();
        rest = loop {
            match chars.next()? {
                (_, '\\') => text.push(chars.next()?.1),
                (i, '"') => break behind.get(i + 1..)?,
                (_, c) => text.push(c),
            }
        };
        rest = rest.strip_prefix(',').unwrap_or(rest);
        labels.push((label.to_owned(), text));
    }
    Some((name, labels))
}

/// Labels as segments of a path: `cpu=0,mode=idle`; the next segment where one would pass the bound.
fn segments(labels: &[(String, String)]) -> Vec<String> {
    let mut segments: Vec<String> = Vec::new();
    for (label, text) in labels {
        let mut label = format!("{label}={text}");
        while label.len() > MAX_SEGMENT_BYTES {
            label.pop();
        }
        match segments.last_mut() {
            Some(last) if last.len() + 1 + label.len() <= MAX_SEGMENT_BYTES => {
                last.push(',');
                last.push_str(&label);
            }
            _ => segments.push(label),
        }
    }
    segments
}

fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_signed(out: &mut Vec<u8>, n: i64) {
    put(out, ((n << 1) ^ (n >> 63)) as u64);
}

fn get(from: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let byte = *from.split_off_first()?;
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(n);
        }
    }
    None
}

fn get_signed(from: &mut &[u8]) -> Option<i64> {
    let n = get(from)?;
    Some((n >> 1) as i64 ^ -((n & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_comes_back_to_the_bit() {
        let mut recording = Recording::default();
        let a = "a{x=\"1, \\\"2\",y=\"\"}";
        recording.push(1_000, [("b", 0.1), (a, 1e300)].into_iter(), [].into_iter());
        recording.push(2_001, [(a, -3.0)].into_iter(), ["b"].into_iter());
        recording.push(
            2_900,
            [("b", 0.30000000000000004)].into_iter(),
            [].into_iter(),
        );
        recording.push(3_900, [("b", 12.25)].into_iter(), [].into_iter());
        let again = Recording::decode(&recording.encode()).unwrap();
        assert_eq!(again.times, recording.times);
        assert_eq!(again.names, recording.names);
        let bits = |r: &Recording| -> Vec<Vec<(u32, u64)>> {
            let bits = |c: &Vec<(u32, f64)>| c.iter().map(|(t, v)| (*t, v.to_bits())).collect();
            r.changes.iter().map(bits).collect()
        };
        assert_eq!(bits(&again), bits(&recording));
        for n in 0..recording.encode().len() {
            let cut = recording.encode().into_iter().take(n).collect::<Vec<_>>();
            assert!(Recording::decode(&cut).is_none());
        }
        let set = again.set(1_795_478_400_000).unwrap();
        let (mut message, mut lines) = (Vec::new(), Vec::new());
        set.message(&set.devices[0], 1, &mut message);
        set.lines(&set.devices[0], 1, &mut lines);
        assert_eq!(
            String::from_utf8(message).unwrap(),
            r#"{"v":1,"device":"bench-host","boot":"01KB0000000000000000000000","seq":1,"frames":[{"ts":1795392001001,"source":"host","metrics":{"a":{"x=1, \"2,y=":-3.0}}}]}"#
        );
        assert_eq!(
            String::from_utf8(lines).unwrap(),
            "a,instance=bench-host,x=1\\,\\ \"2 value=-3.0 1795392001001\n"
        );
    }
}

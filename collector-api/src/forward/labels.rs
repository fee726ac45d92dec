//! The labels of each series as a receiver gets them, with a memory: names and labels of `/metrics/devices`, external labels added where a series has none of that name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use devmon_core::wire::about::About;
use devmon_core::wire::{DeviceId, FlatFrame, TimestampMs};
use devmon_core::{MetricPath, Value};

use super::batch::{Batch, Labels};
use super::encode;
use super::settings::{Chosen, Target};
use crate::query::descriptors::DescriptorCache;
use crate::query::families::{self, Mapped};
use crate::query::names::NamesCache;
use crate::store::engine::{Accepted, Content, DeviceRecord, Store};

/// Series whose labels are kept, some 300 bytes each; beyond it they are made anew.
const MAX_SERIES: usize = 300_000;

/// Names series, and remembers how.
#[derive(Debug)]
pub(super) struct Names {
    chosen: Chosen,
    external: Vec<(String, String)>,
    max_age: Option<Duration>,
    cache: NamesCache,
    descriptors: DescriptorCache,
    devices: HashMap<DeviceId, Known>,
    /// Series in `devices`.
    kept: usize,
}

/// Samples of a message that are not sent, chosen or not.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LeftOut {
    /// Of a device that was forgotten meanwhile: nothing says how they are called.
    pub(super) forgotten: u64,
    /// Older than the target takes them.
    pub(super) too_old: u64,
}

impl std::ops::AddAssign for LeftOut {
    fn add_assign(&mut self, more: Self) {
        self.forgotten += more.forgotten;
        self.too_old += more.too_old;
    }
}

/// What is known of a device.
#[derive(Debug, Default)]
struct Known {
    about: Option<Arc<About>>,
    series: HashMap<Box<str>, Series>,
}

#[derive(Debug)]
enum Series {
    /// The target does not want it.
    Left,
    Wanted {
        mapped: Arc<Mapped>,
        /// Mapped as a text.
        text: bool,
        with_path: bool,
        /// Encoded, if it is not a text: a text's labels change with its value.
        labels: Option<Labels>,
    },
}

impl Names {
    pub(super) fn new(target: &Target) -> Self {
        Self {
            chosen: target.chosen.clone(),
            external: target.external_labels.clone(),
            max_age: target.max_sample_age,
            cache: NamesCache::default(),
            descriptors: DescriptorCache::default(),
            devices: HashMap::new(),
            kept: 0,
        }
    }

    /// Adds what the target wants of a message; returns what it left out.
    pub(super) fn add(
        &mut self,
        store: &dyn Store,
        message: &Accepted,
        batch: &mut Batch,
    ) -> LeftOut {
        let mut left = LeftOut::default();
        let Content::Metrics { frames, .. } = &message.content else {
            return left;
        };
        let Some(device) = store.device(message.device.as_str()) else {
            self.kept -= self
                .devices
                .remove(&message.device)
                .map_or(0, |k| k.series.len());
            left.forgotten = frames.iter().map(|frame| frame.values.len() as u64).sum();
            return left;
        };
        if self.kept > MAX_SERIES {
            self.devices.clear();
            self.kept = 0;
        }
        let known = self.devices.entry(device.id.clone()).or_default();
        let before = known.series.len();
        let same = match (&known.about, &device.about) {
            (Some(known), Some(now)) => Arc::ptr_eq(known, now),
            (None, None) => true,
            _ => false,
        };
        if !same {
            known.series.clear();
            known.about.clone_from(&device.about);
        }
        let mut namer = Namer {
            chosen: &self.chosen,
            external: &self.external,
            cache: &self.cache,
            descriptors: &self.descriptors,
            store,
            device: &device,
            known,
            looked: false,
        };
        let oldest = self.max_age.map_or(i64::MIN, |age| {
            let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            TimestampMs::now().0.saturating_sub(age)
        });
        for frame in frames {
            let ts = frame.ts.unwrap_or(message.received).0;
            if ts < oldest {
                left.too_old += frame.values.len() as u64;
            } else {
                namer.frame(frame, ts, batch);
            }
        }
        self.kept = self.kept + known.series.len() - before;
        left
    }
}

/// Names the series of one device.
struct Namer<'a> {
    chosen: &'a Chosen,
    external: &'a [(String, String)],
    cache: &'a NamesCache,
    descriptors: &'a DescriptorCache,
    store: &'a dyn Store,
    device: &'a DeviceRecord,
    known: &'a mut Known,
    /// The catalogue was looked through for this message.
    looked: bool,
}

impl Namer<'_> {
    fn frame(&mut self, frame: &FlatFrame, ts: i64, batch: &mut Batch) {
        let mut path = String::new();
        if let Some(source) = &frame.source {
            path.push('/');
            for c in source.chars() {
                match c {
                    '~' => path.push_str("~0"),
                    '/' => path.push_str("~1"),
                    c => path.push(c),
                }
            }
        }
        let prefix = path.len();
        for (below, value) in frame.leaves() {
            path.truncate(prefix);
            path.push_str(below);
            if !self.known.series.contains_key(path.as_str()) {
                self.look(&path, value);
            }
            if let Some(labels) = self.labels(&path, value) {
                batch.add(&labels, (ts, number(value)));
            }
        }
    }

    /// Names all series of the device: a new one may have made another's name ambiguous.
    fn look(&mut self, path: &str, value: &Value) {
        if !std::mem::replace(&mut self.looked, true) {
            self.known.series.clear();
            for one in self.cache.series(self.store, self.device) {
                let wanted = self.chosen.wants(one.series.path.as_str());
                let series = if wanted {
                    Series::Wanted {
                        text: families::is_text(&one.series.last_value),
                        mapped: one.mapped,
                        with_path: one.with_path,
                        labels: None,
                    }
                } else {
                    Series::Left
                };
                self.known
                    .series
                    .insert(one.series.path.as_str().into(), series);
            }
        }
        if !self.known.series.contains_key(path) {
            // The device was forgotten and came anew, without this path.
            let named = path
                .parse::<MetricPath>()
                .ok()
                .filter(|_| self.chosen.wants(path));
            let series = match named {
                None => Series::Left,
                Some(path) => {
                    let text = families::is_text(value);
                    Series::Wanted {
                        mapped: Arc::new(self.map(&path, text)),
                        text,
                        with_path: false,
                        labels: None,
                    }
                }
            };
            self.known.series.insert(path.into(), series);
        }
    }

    fn map(&self, path: &MetricPath, text: bool) -> Mapped {
        let described = self.descriptors.of(self.device.about.as_ref());
        families::map(path, described.find(path), text)
    }

    fn labels(&mut self, path: &str, value: &Value) -> Option<Labels> {
        let is_text = families::is_text(value);
        let series = self.known.series.get(path)?;
        let Series::Wanted {
            mapped,
            text,
            with_path,
            labels,
        } = series
        else {
            return None;
        };
        if let (Some(labels), false) = (labels, is_text) {
            return Some(labels.clone());
        }
        let with_path = with_path.then_some(path);
        let encoded = if *text == is_text {
            self.encode(mapped, with_path, value)
        } else {
            // It was a text once, or is one now.
            let path: MetricPath = path.parse().ok()?;
            self.encode(&self.map(&path, is_text), with_path, value)
        };
        if let Some(Series::Wanted { labels, .. }) = self.known.series.get_mut(path)
            && !is_text
        {
            *labels = Some(encoded.clone());
        }
        Some(encoded)
    }

    fn encode(&self, mapped: &Mapped, path: Option<&str>, value: &Value) -> Labels {
        let mut all: Vec<(&str, &str)> = vec![
            ("__name__", mapped.family.name.as_str()),
            ("device", self.device.id.as_str()),
        ];
        all.extend(mapped.labels.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        all.extend(path.map(|path| ("path", path)));
        if let Value::Text(text) = value {
            all.push(("value", text));
        }
        for (name, value) in self.external {
            if !all.iter().any(|(own, _)| own == name) {
                all.push((name, value));
            }
        }
        encode::labels(&mut all).into()
    }
}

/// The number of a sample: that of a text is the 1 of its info.
fn number(value: &Value) -> f64 {
    match value {
        Value::Float(x) => *x,
        Value::Integer(n) => *n as f64,
        Value::Boolean(b) => f64::from(u8::from(*b)),
        Value::Text(_) => 1.0,
    }
}

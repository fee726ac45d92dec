//! What is known of devices and series, in memory: names, times, newest samples, and the head's rows of each stream.
//!
//! A series belongs to exactly one **stream** of its device: the one named by the first segment of its path, whether a source of that name sent it or a
//! publisher without sources; leaves at the very top (`/temperature`) form the stream `""`. A series' number in its stream is its column in head and blocks
//! and never changes.
//!
//! What like devices have alike is kept once: the paths of a stream ([`Layout`]), and the [`Shape`] of its last frame. A frame of that shape goes straight to
//! its columns; a new shape is looked up path by path.
//!
//! Changes come in the order of commits ([`Catalogue::apply`]), so of two samples of one time the later commit counts. Applying a message a second time, after a
//! crash, changes nothing. It leaves to others: durability (the journal; `persist` at each seal), sorting samples by time (`head`, `range`).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use devmon_core::path::{is_within, unescape};
use devmon_core::wire::about::{About, Presence};
use devmon_core::wire::{DeviceId, FlatFrame, Labels, Shape, TimestampMs};
use devmon_core::{MetricPath, Value};

use super::days::Days;
use super::dedupe::Seen;
use super::engine::{Accepted, Content, DeviceRecord, SeriesRecord, StoreError};
use super::gaps::Gaps;
use super::head::{HeadBytes, Rows};
use super::layout::{Layout, Layouts};
use super::purge::Purged;

/// Streams of a device up to which the one of a name is looked for among all; beyond it there is a map.
const FEW_STREAMS: usize = 16;

/// All devices.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    pub(super) devices: BTreeMap<DeviceId, Device>,
    pub(super) next_device: u32,
    pub(super) next_stream: u32,
    /// Series with a sample, over all devices.
    pub(super) series: u64,
    /// Series, with a sample or without.
    pub(super) all_series: u64,
    /// Devices that were forgotten, until a seal has written that down.
    pub(super) purged: Vec<Purged>,
    /// Samples in the heads, those being sealed not counted.
    pub(super) head_samples: u64,
    /// Memory of the heads, those being sealed counted until they are in blocks and no reader holds them.
    pub(super) head_bytes: HeadBytes,
    pub(super) layouts: Layouts,
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) number: u32,
    pub(super) first_seen: TimestampMs,
    pub(super) last_seen: TimestampMs,
    pub(super) last_metrics: Option<TimestampMs>,
    gaps: Gaps,
    pub(super) presence: Option<Presence>,
    pub(super) about: Option<Arc<About>>,
    /// What an operator called it by.
    pub(super) labels: Option<Arc<Labels>>,
    pub(super) seen: Seen,
    pub(super) streams: Vec<Stream>,
    /// Places in `streams`, once there are more than [`FEW_STREAMS`].
    #[expect(
        clippy::box_collection,
        reason = "most devices have none: 8 bytes instead of 48"
    )]
    by_name: Option<Box<HashMap<Box<str>, u32>>>,
    live: u64,
    /// Number of all series, and the bytes of their paths, upwards.
    extent: (u64, u64),
    /// Something came since the last seal.
    pub(super) touched: bool,
    /// The about changed since the last seal.
    pub(super) about_touched: bool,
}

#[derive(Debug)]
pub(super) struct Stream {
    /// Unique over all devices; never given twice.
    pub(super) number: u32,
    pub(super) name: Box<str>,
    /// The paths of `series`.
    pub(super) layout: Arc<Layout>,
    pub(super) series: Vec<Series>,
    /// Of the last frame that came with a source.
    shape: Option<Arc<Shape>>,
    /// The series of each of the shape's paths; empty if they are 0, 1, 2, …
    numbers: Box<[u32]>,
    /// The head.
    pub(super) rows: Rows,
    /// The part of the head that is being made into blocks.
    pub(super) sealing: Option<Arc<Rows>>,
    /// How many of `series` are in the database.
    pub(super) persisted: usize,
}

#[derive(Debug, Default)]
pub(super) struct Series {
    /// Its times and value; `None` when retention took the last sample, or before the first.
    pub(super) known: Option<Known>,
}

#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) first_ts: TimestampMs,
    pub(super) last_ts: TimestampMs,
    pub(super) last_value: Value,
}

impl Catalogue {
    /// Takes a committed message in and returns the number of its samples.
    pub(super) fn apply(&mut self, item: &Accepted) -> u64 {
        if !self.devices.contains_key(&item.device) {
            let device = Device::new(self.next_device, item.received);
            self.next_device += 1;
            self.devices.insert(item.device.clone(), device);
        }
        let Some(device) = self.devices.get_mut(&item.device) else {
            return 0; // put there just now
        };
        device.touched = true;
        device.first_seen = device.first_seen.min(item.received);
        device.last_seen = device.last_seen.max(item.received);
        match &item.content {
            Content::Status(presence) => device.presence = Some(*presence),
            Content::About(about) => {
                device.about_touched |= device.about.as_ref() != Some(about);
                device.about = Some(about.clone());
            }
            Content::Metrics { id, frames } => {
                device.gaps.heard(device.last_metrics, item.received);
                device.last_metrics = device.last_metrics.max(Some(item.received));
                if let Some(id) = id {
                    device.seen.insert(id);
                }
                let mut arrival = Arrival {
                    next_stream: &mut self.next_stream,
                    layouts: &mut self.layouts,
                    head_bytes: &self.head_bytes,
                    grown: 0,
                };
                let before = device.live;
                let known = device.extent.0;
                let mut samples = 0;
                for frame in frames {
                    let ts = frame.ts.unwrap_or(item.received);
                    device.add_frame(frame, ts, &mut arrival);
                    samples += frame.values.len() as u64;
                }
                self.head_samples += arrival.grown;
                self.series += device.live - before;
                self.all_series += device.extent.0 - known;
                return samples;
            }
        }
        0
    }

    /// Forgets a device.
    pub(super) fn purge(&mut self, id: &DeviceId) {
        let Some(device) = self.devices.remove(id) else {
            return;
        };
        self.series -= device.live;
        self.all_series -= device.extent.0;
        let mut streams = Vec::with_capacity(device.streams.len());
        for stream in &device.streams {
            self.head_samples -= stream.rows.samples();
            streams.push(stream.number);
        }
        streams.sort_unstable();
        let device = device.number;
        self.purged.push(Purged { device, streams });
    }

    /// Devices by id behind `after`.
    pub(super) fn list(
        &self,
        after: Option<&str>,
        limit: usize,
        keep: &dyn Fn(&DeviceRecord) -> bool,
    ) -> Vec<DeviceRecord> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let behind = self.devices.range::<str, _>((from, Unbounded));
        behind
            .map(|(id, device)| device.record(id))
            .filter(|d| keep(d))
            .take(limit)
            .collect()
    }

    /// Gives no number that a day file knows already.
    pub(super) fn keep_clear_of(&mut self, days: &Days) -> Result<(), StoreError> {
        for file in days.values().filter_map(|day| day.file.as_ref()) {
            let last = file.streams()?.last().copied();
            self.next_stream = self.next_stream.max(last.map_or(0, |last| last + 1));
        }
        Ok(())
    }

    /// Forgets what lies before `cutoff`: the hours before it are gone.
    pub(super) fn retain_from(&mut self, cutoff: TimestampMs) {
        for device in self.devices.values_mut() {
            for series in device
                .streams
                .iter_mut()
                .flat_map(|stream| &mut stream.series)
            {
                let Some(known) = &mut series.known else {
                    continue;
                };
                if known.last_ts < cutoff {
                    series.known = None;
                    device.live -= 1;
                    self.series -= 1;
                    device.touched = true;
                } else if known.first_ts < cutoff {
                    known.first_ts = cutoff;
                    device.touched = true;
                }
            }
        }
    }
}

/// What a message that arrives may change besides its device.
struct Arrival<'a> {
    next_stream: &'a mut u32,
    layouts: &'a mut Layouts,
    head_bytes: &'a HeadBytes,
    /// By how many samples the heads have grown.
    grown: u64,
}

impl Device {
    pub(super) fn new(number: u32, seen: TimestampMs) -> Self {
        Self {
            number,
            first_seen: seen,
            last_seen: seen,
            last_metrics: None,
            gaps: Gaps::default(),
            presence: None,
            about: None,
            labels: None,
            seen: Seen::default(),
            streams: Vec::new(),
            by_name: None,
            live: 0,
            extent: (0, 0),
            touched: false,
            about_touched: false,
        }
    }

    pub(super) fn record(&self, id: &DeviceId) -> DeviceRecord {
        DeviceRecord {
            id: id.clone(),
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            last_metrics: self.last_metrics,
            gaps: self.gaps,
            presence: self.presence,
            about: self.about.clone(),
            labels: self.labels.clone(),
            series: self.live,
        }
    }

    /// Series by path within `prefix`, behind `after`.
    pub(super) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<SeriesRecord> {
        let (from, including) = match after {
            Some(after) if after >= prefix => (after, false),
            _ => (prefix, true),
        };
        let mut found: Vec<(String, &Known)> = Vec::new();
        for stream in &self.streams {
            let top = stream.prefix();
            let numbers = match from.strip_prefix(top.as_str()) {
                Some(rest) => stream.layout.sorted_from(rest, including),
                None if top.as_str() > from => stream.layout.sorted_from("", true),
                None => continue,
            };
            let paths = numbers.iter().map(|&number| {
                let known = &stream.series[number as usize].known;
                (
                    format!("{top}{}", stream.layout.path(number)),
                    known.as_ref(),
                )
            });
            let within = paths
                .take_while(|(path, _)| path.starts_with(prefix))
                .filter(|(path, _)| is_within(path, prefix));
            found.extend(
                within
                    .filter_map(|(path, known)| Some((path, known?)))
                    .take(limit),
            );
        }
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        found.truncate(limit);
        let records = found.into_iter().filter_map(|(path, known)| {
            Some(SeriesRecord {
                path: path.parse::<MetricPath>().ok()?, // it was valid when it came
                first_ts: known.first_ts,
                last_ts: known.last_ts,
                last_value: known.last_value.clone(),
            })
        });
        records.collect()
    }

    /// The series of a path: place of its stream in `streams`, number in the stream.
    pub(super) fn find(&self, path: &MetricPath) -> Option<(u32, u32)> {
        let (name, below) = split(path.as_str());
        let place = self.place(&name)?;
        let series = self.streams[place as usize].layout.find(below)?;
        Some((place, series))
    }

    /// The stream of this name.
    pub(super) fn stream(&self, name: &str) -> Option<&Stream> {
        self.place(name).map(|place| &self.streams[place as usize])
    }

    /// True if there is the series of this path, as it stands in a frame of this source.
    pub(super) fn has(&self, source: Option<&str>, path: &str) -> bool {
        let (name, below) = source.map_or_else(|| split(path), |name| (Cow::Borrowed(name), path));
        let stream = self.stream(&name);
        stream.is_some_and(|stream| stream.layout.find(below).is_some())
    }

    /// Number of all series, and the bytes of their paths, upwards.
    pub(super) fn extent(&self) -> (u64, u64) {
        self.extent
    }

    /// The place of the stream of this name.
    fn place(&self, name: &str) -> Option<u32> {
        match &self.by_name {
            Some(by_name) => by_name.get(name).copied(),
            None => {
                let mut names = self.streams.iter().map(|stream| &*stream.name);
                names.position(|n| n == name).map(|place| place as u32)
            }
        }
    }

    fn add_frame(&mut self, frame: &FlatFrame, ts: TimestampMs, arrival: &mut Arrival<'_>) {
        if frame.values.is_empty() {
            return;
        }
        if let Some(source) = &frame.source {
            let place = self.place_or_new(source, arrival.next_stream);
            let stream = &mut self.streams[place as usize];
            if !stream.has_shape(&frame.shape) {
                let before = stream.extent();
                stream.learn(&frame.shape, arrival.layouts);
                grow(&mut self.extent, before, stream.extent());
            }
            let before = stream.rows.samples();
            self.live += stream.add_row(ts, &frame.values);
            stream.rows.charge(arrival.head_bytes);
            arrival.grown += stream.rows.samples() - before;
            return;
        }
        // Without a source the paths begin at the tree's own top: each branch there is what a source's tree is elsewhere.
        let mut leaves = frame.leaves().peekable();
        while let Some((path, value)) = leaves.next() {
            let (name, below) = split(path);
            let place = self.place_or_new(&name, arrival.next_stream);
            let stream = &mut self.streams[place as usize];
            let known = stream.extent();
            let before = stream.rows.samples();
            let mut series = stream.place(below, 0);
            self.live += stream.add(ts, series, value);
            while let Some((path, value)) = leaves.next_if(|(path, _)| split(path).0 == name) {
                series = stream.place(split(path).1, series + 1);
                self.live += stream.add(ts, series, value);
            }
            if stream.extent() != known {
                grow(&mut self.extent, known, stream.extent());
                arrival.layouts.share(&mut stream.layout);
            }
            stream.rows.charge(arrival.head_bytes);
            arrival.grown += stream.rows.samples() - before;
        }
    }

    fn place_or_new(&mut self, name: &str, next_stream: &mut u32) -> u32 {
        self.place(name).unwrap_or_else(|| {
            *next_stream += 1;
            self.add_stream(Stream::new(*next_stream - 1, name))
        })
    }

    /// Adds a stream, with its series, and returns its place.
    pub(super) fn add_stream(&mut self, stream: Stream) -> u32 {
        let place = self.streams.len() as u32; // a device with 2^32 streams does not fit into memory
        let live = stream.series.iter().filter(|s| s.known.is_some());
        self.live += live.count() as u64;
        grow(&mut self.extent, (0, 0), stream.extent());
        if let Some(by_name) = &mut self.by_name {
            by_name.insert(stream.name.clone(), place);
        }
        self.streams.push(stream);
        if self.by_name.is_none() && self.streams.len() > FEW_STREAMS {
            let names = self.streams.iter().map(|stream| stream.name.clone());
            self.by_name = Some(Box::new(names.zip(0..).collect()));
        }
        place
    }

    /// Series with a sample.
    pub(super) fn live(&self) -> u64 {
        self.live
    }
}

impl Stream {
    pub(super) fn new(number: u32, name: &str) -> Self {
        Self {
            number,
            name: name.into(),
            layout: Arc::default(),
            series: Vec::new(),
            shape: None,
            numbers: Box::default(),
            rows: Rows::default(),
            sealing: None,
            persisted: 0,
        }
    }

    /// Adds a series that the database knows.
    pub(super) fn restore(&mut self, path: &str) {
        Arc::make_mut(&mut self.layout).push(path);
        self.series.push(Series::default());
        self.persisted = self.series.len();
    }

    /// What its paths begin with: `/cpu`; nothing for the leaves at the very top.
    pub(super) fn prefix(&self) -> String {
        if self.name.is_empty() {
            return String::new();
        }
        // The name was checked when it came; escaping is the path's business.
        MetricPath::from_segments([&*self.name])
            .map_or_else(|_| String::new(), |path| path.as_str().to_owned())
    }

    /// Number of its series, and the bytes of their paths.
    fn extent(&self) -> (u64, u64) {
        let of_paths = self.layout.text_bytes() + self.layout.len() * self.name.len();
        (self.series.len() as u64, of_paths as u64)
    }

    pub(super) fn has_shape(&self, shape: &Arc<Shape>) -> bool {
        let known = self.shape.as_ref();
        known.is_some_and(|known| Arc::ptr_eq(known, shape) || known == shape)
    }

    /// Finds, or makes, the series of each path of a shape.
    fn learn(&mut self, shape: &Arc<Shape>, layouts: &mut Layouts) {
        let known = self.series.len();
        let mut next = 0;
        let mut numbers = Vec::with_capacity(shape.len());
        for path in shape.paths() {
            let number = self.place(path, next);
            numbers.push(number);
            next = number + 1;
        }
        let in_order = numbers.iter().copied().eq(0..numbers.len() as u32);
        self.numbers = if in_order {
            Box::default()
        } else {
            numbers.into()
        };
        self.shape = Some(shape.clone());
        if self.series.len() > known {
            self.series.shrink_to_fit();
            layouts.share(&mut self.layout);
        }
    }

    /// The number of the series with this path, which is made if it is new. Paths come in the same order round after round: `expected` is tried first.
    fn place(&mut self, path: &str, expected: u32) -> u32 {
        if (expected as usize) < self.layout.len() && self.layout.path(expected) == path {
            return expected;
        }
        if let Some(number) = self.layout.find(path) {
            return number;
        }
        self.series.push(Series::default());
        Arc::make_mut(&mut self.layout).push(path)
    }

    /// Adds a row in the order of the shape's paths; returns how many series have their first sample by it.
    fn add_row(&mut self, ts: TimestampMs, values: &[Value]) -> u64 {
        self.rows.widen(self.series.len());
        if self.numbers.is_empty() {
            (0..).zip(values).map(|(n, v)| self.add(ts, n, v)).sum()
        } else {
            let numbers = std::mem::take(&mut self.numbers);
            let new = numbers
                .iter()
                .zip(values)
                .map(|(n, v)| self.add(ts, *n, v))
                .sum();
            self.numbers = numbers;
            new
        }
    }

    /// Adds a sample; 1 if it is the series' first.
    fn add(&mut self, ts: TimestampMs, series: u32, value: &Value) -> u64 {
        let row = self.rows.row(ts);
        self.rows.set(row, series, value);
        let series = &mut self.series[series as usize];
        if let Some(known) = &mut series.known {
            known.update(ts, value);
            return 0;
        }
        series.known = Some(Known {
            first_ts: ts,
            last_ts: ts,
            last_value: value.clone(),
        });
        1
    }
}

impl Known {
    fn update(&mut self, ts: TimestampMs, value: &Value) {
        if ts >= self.last_ts {
            self.last_ts = ts;
            if !self.last_value.same_bits(value) {
                self.last_value = value.clone();
            }
        } else if ts < self.first_ts {
            self.first_ts = ts;
        }
    }
}

fn grow(extent: &mut (u64, u64), before: (u64, u64), after: (u64, u64)) {
    extent.0 += after.0 - before.0;
    extent.1 += after.1 - before.1;
}

/// A path's first segment as the name of a stream, and what stands below it. A leaf at the very top is in the stream `""`, whole.
fn split(path: &str) -> (Cow<'_, str>, &str) {
    let below = path.get(1..).and_then(|rest| rest.find('/'));
    match below {
        Some(at) => (unescape(&path[1..=at]), &path[at + 1..]),
        None => (Cow::Borrowed(""), path),
    }
}

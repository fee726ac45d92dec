//! What is known of devices and series, in memory: names, times, newest samples, and the head's rows of each stream.
//!
//! A series belongs to exactly one **stream** of its device: the one named by the first segment of its path, whether a source of that name sent it or a
//! publisher without sources; leaves at the very top (`/temperature`) form the stream `""`. A series' number in its stream is its column in head and blocks
//! and never changes.
//!
//! Changes come in the order of commits ([`Catalogue::apply`]), so of two samples of one time the later commit counts. Applying a message a second time, after a
//! crash, changes nothing. It leaves to others: durability (the journal; `persist` at each seal), sorting samples by time (`head`, `range`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use devmon_core::path::is_within;
use devmon_core::wire::about::{About, Presence};
use devmon_core::wire::{DeviceId, Frame, MessageId, TimestampMs};
use devmon_core::{MetricPath, MetricTree, Node, Value};

use super::days::Days;
use super::dedupe::Seen;
use super::engine::{Accepted, Content, DeviceRecord, SeriesRecord, StoreError};
use super::head::{HeadBytes, Rows};

/// All devices.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    pub(super) devices: BTreeMap<DeviceId, Device>,
    pub(super) next_device: u32,
    pub(super) next_stream: u32,
    /// Series with a sample, over all devices.
    pub(super) series: u64,
    /// Samples in the heads, those being sealed not counted.
    pub(super) head_samples: u64,
    /// Memory of the heads, those being sealed counted until they are in blocks and no reader holds them.
    pub(super) head_bytes: HeadBytes,
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) number: u32,
    pub(super) first_seen: TimestampMs,
    pub(super) last_seen: TimestampMs,
    pub(super) last_metrics: Option<TimestampMs>,
    pub(super) presence: Option<Presence>,
    pub(super) about: Option<Arc<About>>,
    pub(super) seen: Seen,
    pub(super) streams: Vec<Stream>,
    by_name: HashMap<Box<str>, u32>,
    /// All series by path: place of the stream in `streams`, number in the stream.
    pub(super) paths: BTreeMap<Arc<str>, (u32, u32)>,
    live: u64,
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
    pub(super) series: Vec<Series>,
    by_path: HashMap<Arc<str>, u32>,
    /// The head.
    pub(super) rows: Rows,
    /// The part of the head that is being made into blocks.
    pub(super) sealing: Option<Arc<Rows>>,
    /// How many of `series` are in the database.
    pub(super) persisted: usize,
}

#[derive(Debug)]
pub(super) struct Series {
    pub(super) path: Arc<str>,
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
    /// True if this message was committed before.
    pub(super) fn has_seen(&self, device: &DeviceId, id: &MessageId) -> bool {
        self.devices
            .get(device)
            .is_some_and(|device| device.seen.contains(id))
    }

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
                device.last_metrics = device.last_metrics.max(Some(item.received));
                if let Some(id) = id {
                    device.seen.insert(id);
                }
                let before = device.live;
                let mut samples = 0;
                let mut added = 0;
                for frame in frames {
                    let ts = frame.ts.unwrap_or(item.received);
                    let (came, new) =
                        device.add_frame(frame, ts, &mut self.next_stream, &self.head_bytes);
                    samples += came;
                    added += new;
                }
                self.series += device.live - before;
                self.head_samples += added;
                return samples;
            }
        }
        0
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

impl Device {
    pub(super) fn new(number: u32, seen: TimestampMs) -> Self {
        Self {
            number,
            first_seen: seen,
            last_seen: seen,
            last_metrics: None,
            presence: None,
            about: None,
            seen: Seen::default(),
            streams: Vec::new(),
            by_name: HashMap::new(),
            paths: BTreeMap::new(),
            live: 0,
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
            presence: self.presence,
            about: self.about.clone(),
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
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let from = match after {
            Some(after) if after >= prefix => Excluded(after),
            _ => Included(prefix),
        };
        self.paths
            .range::<str, _>((from, Unbounded))
            .take_while(|(path, _)| path.starts_with(prefix))
            .filter(|(path, _)| is_within(path, prefix))
            .filter_map(|(path, &(stream, series))| {
                let known = self.streams[stream as usize].series[series as usize]
                    .known
                    .as_ref()?;
                Some(SeriesRecord {
                    path: path.parse::<MetricPath>().ok()?, // it was valid when it came
                    first_ts: known.first_ts,
                    last_ts: known.last_ts,
                    last_value: known.last_value.clone(),
                })
            })
            .take(limit)
            .collect()
    }

    /// Adds a frame's leaves to the heads; returns how many there were, and by how much the heads have grown.
    fn add_frame(
        &mut self,
        frame: &Frame,
        ts: TimestampMs,
        next_stream: &mut u32,
        head_bytes: &HeadBytes,
    ) -> (u64, u64) {
        if let Some(source) = &frame.source {
            return self.add_tree(source, &frame.metrics, ts, next_stream, head_bytes);
        }
        // Without a source the paths begin at the tree's own top: each branch there is what a source's tree is elsewhere.
        let (mut leaves, mut grown) = (0, 0);
        let mut top = MetricTree::new();
        for (name, node) in frame.metrics.children() {
            match node {
                Node::Branch(tree) => {
                    let (came, new) = self.add_tree(name, tree, ts, next_stream, head_bytes);
                    leaves += came;
                    grown += new;
                }
                Node::Leaf(value) => top.set(name, value.clone()),
            }
        }
        if !top.is_empty() {
            let (came, new) = self.add_tree("", &top, ts, next_stream, head_bytes);
            leaves += came;
            grown += new;
        }
        (leaves, grown)
    }

    fn add_tree(
        &mut self,
        name: &str,
        tree: &MetricTree,
        ts: TimestampMs,
        next_stream: &mut u32,
        head_bytes: &HeadBytes,
    ) -> (u64, u64) {
        let at = match self.by_name.get(name) {
            Some(&at) => at,
            None => {
                *next_stream += 1;
                self.add_stream(Stream::new(*next_stream - 1, name))
            }
        };
        let Self {
            streams,
            paths,
            live,
            ..
        } = self;
        let stream = &mut streams[at as usize];
        let before = stream.rows.samples();
        let mut row = None;
        let mut leaves = 0;
        let mut expected = 0;
        tree.visit(&mut prefix(name), &mut |path, value| {
            leaves += 1;
            let series = stream.place(path, expected, at, paths);
            expected = series + 1;
            let row = *row.get_or_insert_with(|| stream.rows.row(ts));
            stream.rows.set(row, series, value);
            let series = &mut stream.series[series as usize];
            match &mut series.known {
                Some(known) => known.update(ts, value),
                None => {
                    *live += 1;
                    series.known = Some(Known {
                        first_ts: ts,
                        last_ts: ts,
                        last_value: value.clone(),
                    });
                }
            }
        });
        stream.rows.charge(head_bytes);
        (leaves, stream.rows.samples() - before)
    }

    /// Adds a stream, with its series, and returns its place.
    pub(super) fn add_stream(&mut self, stream: Stream) -> u32 {
        let at = self.streams.len() as u32; // a device with 2^32 streams does not fit into memory
        for (number, series) in stream.series.iter().enumerate() {
            self.paths.insert(series.path.clone(), (at, number as u32));
            self.live += u64::from(series.known.is_some());
        }
        self.by_name.insert(stream.name.clone(), at);
        self.streams.push(stream);
        at
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
            series: Vec::new(),
            by_path: HashMap::new(),
            rows: Rows::default(),
            sealing: None,
            persisted: 0,
        }
    }

    /// Adds a series that the database knows.
    pub(super) fn restore(&mut self, path: &str) {
        let path: Arc<str> = path.into();
        self.by_path.insert(path.clone(), self.series.len() as u32);
        self.series.push(Series { path, known: None });
        self.persisted = self.series.len();
    }

    /// The number of the series with this path, which is made if it is new. Paths come in the same order round after round: `expected` is tried first.
    fn place(
        &mut self,
        path: &str,
        expected: u32,
        at: u32,
        paths: &mut BTreeMap<Arc<str>, (u32, u32)>,
    ) -> u32 {
        if self
            .series
            .get(expected as usize)
            .is_some_and(|series| *series.path == *path)
        {
            return expected;
        }
        if let Some(&number) = self.by_path.get(path) {
            return number;
        }
        let number = self.series.len() as u32;
        let path: Arc<str> = path.into();
        self.by_path.insert(path.clone(), number);
        paths.insert(path.clone(), (at, number));
        self.series.push(Series { path, known: None });
        number
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

/// What the paths of a stream begin with: `/cpu`; nothing for the leaves at the very top.
fn prefix(name: &str) -> String {
    if name.is_empty() {
        return String::new();
    }
    // The name was checked when it came; escaping is the path's business.
    MetricPath::from_segments([name])
        .map_or_else(|_| String::new(), |path| path.as_str().to_owned())
}

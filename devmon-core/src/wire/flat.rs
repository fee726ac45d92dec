//! A metrics message as flat leaves: what the collector reads, without building a tree.
//!
//! # Promises
//! - What is taken and what is refused, with which reason and detail, is exactly as in [`Message::decode`]: this reader only says yes. Whatever it does not
//!   take, the reader of trees judges.
//! - One pass, and no allocation for each leaf but for its text. Frames with the same paths in the same order share one [`Shape`], as far as a small
//!   cache of each thread remembers it.
//!
//! Leaves come in the order of the payload, not sorted; a path stands once.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::device::DeviceId;
use super::message::{
    Boot, Frame, MAX_FRAMES, Message, MessageId, check_device, check_times, once, plain_text,
};
use super::refusal::Refusal;
use super::time::TimestampMs;
use crate::path::{MAX_DEPTH, check_name, push_segment};
use crate::tree::{MAX_LEAVES, MAX_TEXT_BYTES, Value};

/// Shapes that each thread remembers; a fleet of like devices has some for each source.
const REMEMBERED: usize = 256;
/// A shape with more text is not remembered, and room for more is not kept: bounds what a thread holds.
const KEPT_BYTES: usize = 16 * 1024;
/// Names of a branch that are compared one by one; beyond it they are hashed.
const FEW: usize = 24;

/// The paths of a frame's leaves, in their order: what stays the same from round to round.
#[derive(Clone, PartialEq, Eq)]
pub struct Shape {
    /// Of `paths`, so that different shapes are told apart at a glance.
    hash: u64,
    /// Where each path ends in `paths`.
    ends: Box<[u32]>,
    paths: Box<str>,
}

impl Shape {
    fn new(paths: &str, ends: &[u32]) -> Self {
        Self {
            hash: hash(paths.as_bytes()),
            ends: ends.into(),
            paths: paths.into(),
        }
    }

    /// Number of leaves.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if the frame has no leaf.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The paths below the frame's root, as RFC 6901 pointers: `/core/0/utilization`.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &str> {
        let mut begin = 0;
        self.ends.iter().map(move |&end| {
            let path = self.paths.get(begin..end as usize).unwrap_or_default();
            begin = end as usize;
            path
        })
    }

    /// Bytes that it takes in memory, about.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.paths.len() + size_of_val(&*self.ends)
    }
}

impl std::hash::Hash for Shape {
    /// Of the text, not of `hash`: who sends shapes could make many of one `hash`, and tables are to be safe from that.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.ends.hash(state);
        self.paths.hash(state);
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.paths()).finish()
    }
}

/// One source's leaves at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct FlatFrame {
    /// `None`: the publisher has no clock; the time of arrival counts.
    pub ts: Option<TimestampMs>,
    /// First segment of the paths. `None` in the short form: paths start at the tree's own top.
    pub source: Option<Box<str>>,
    pub shape: Arc<Shape>,
    /// One for each path of the shape.
    pub values: Vec<Value>,
}

impl FlatFrame {
    /// The leaves with their paths below the frame's root.
    pub fn leaves(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.shape.paths().zip(&self.values)
    }

    fn from_tree(frame: &Frame) -> Self {
        let (mut paths, mut ends, mut values) = (String::new(), Vec::new(), Vec::new());
        frame.metrics.visit(&mut String::new(), &mut |path, value| {
            paths.push_str(path);
            ends.push(paths.len() as u32); // 10 000 paths of 2 KB
            values.push(value.clone());
        });
        Self {
            ts: frame.ts,
            source: frame.source.clone(),
            shape: Arc::new(Shape::new(&paths, &ends)),
            values,
        }
    }
}

/// A decoded message. Every leaf in it is valid.
#[derive(Debug, Clone, PartialEq)]
pub struct FlatMessage {
    /// The device it names, if it names one; the topic has the last word.
    pub device: Option<DeviceId>,
    /// `None` in the short form: it cannot be told from a repeat but by (series, time).
    pub id: Option<MessageId>,
    pub frames: Vec<FlatFrame>,
}

impl FlatMessage {
    /// Reads a payload.
    ///
    /// # Errors
    /// As [`Message::decode`].
    pub fn decode(payload: &[u8]) -> Result<Self, Refusal> {
        let read = plain_text(payload, |text| {
            SCRATCH.with_borrow_mut(|scratch| scratch.read(text))
        })?;
        match read {
            Some(message) => Ok(message),
            None => Message::decode(payload).map(|message| Self::from_trees(&message)),
        }
    }

    /// The same message, flattened.
    #[must_use]
    pub fn from_trees(message: &Message) -> Self {
        Self {
            device: message.device.clone(),
            id: message.id.clone(),
            frames: message.frames.iter().map(FlatFrame::from_tree).collect(),
        }
    }

    /// Checks that the payload and its topic speak of the same device.
    ///
    /// # Errors
    /// [`Reason::DeviceMismatch`](super::Reason::DeviceMismatch).
    pub fn check_device(&self, topic_device: &DeviceId) -> Result<(), Refusal> {
        check_device(self.device.as_ref(), topic_device)
    }

    /// Checks the frames' times: not before 2000, not more than `max_ahead_ms` after `now`.
    ///
    /// # Errors
    /// [`Reason::TimestampOutOfRange`](super::Reason::TimestampOutOfRange).
    pub fn check_times(&self, now: TimestampMs, max_ahead_ms: i64) -> Result<(), Refusal> {
        check_times(self.frames.iter().filter_map(|f| f.ts), now, max_ahead_ms)
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a thread keeps from one message to the next: room, and shapes.
#[derive(Default)]
struct Scratch {
    /// The branch that is being read, as path.
    prefix: String,
    /// The frame's paths so far, one behind the other.
    paths: String,
    ends: Vec<u32>,
    values: Vec<Value>,
    /// Names in the branches that are being read, outermost first, one behind the other; and where each ends.
    names: String,
    name_ends: Vec<usize>,
    /// Leaves of the last frame: the next one has as many.
    expected: usize,
    /// By hash; a newer one takes the older one's place.
    shapes: Vec<Option<Arc<Shape>>>,
}

impl Scratch {
    fn read(&mut self, text: &str) -> Option<FlatMessage> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let message = MessageSeed(self).deserialize(&mut deserializer);
        message.and_then(|m| deserializer.end().map(|()| m)).ok()
    }

    fn begin_frame(&mut self) {
        self.prefix.clear();
        self.paths.clear();
        self.ends.clear();
        self.names.clear();
        self.name_ends.clear();
        self.values = Vec::with_capacity(self.expected);
    }

    fn end_frame(&mut self) -> (Arc<Shape>, Vec<Value>) {
        let values = std::mem::take(&mut self.values);
        self.expected = values.len().min(1024);
        let shape = self.shape();
        if self.paths.capacity() + self.names.capacity() > 4 * KEPT_BYTES {
            *self = Self {
                shapes: std::mem::take(&mut self.shapes),
                expected: self.expected,
                ..Self::default()
            };
        }
        (shape, values)
    }

    /// The shape of the frame: the remembered one, if it is the same.
    fn shape(&mut self) -> Arc<Shape> {
        if self.paths.len() > KEPT_BYTES {
            return Arc::new(Shape::new(&self.paths, &self.ends));
        }
        self.shapes.resize(REMEMBERED, None);
        let place = hash(self.paths.as_bytes()) as usize % REMEMBERED;
        match &mut self.shapes[place] {
            Some(known) if *known.paths == self.paths && *known.ends == *self.ends => known.clone(),
            place => {
                let shape = Arc::new(Shape::new(&self.paths, &self.ends));
                *place = Some(shape.clone());
                shape
            }
        }
    }

    /// The name at `at` of those in the branches that are being read.
    fn name(&self, at: usize) -> &str {
        let begin = at.checked_sub(1).map_or(0, |at| self.name_ends[at]);
        &self.names[begin..self.name_ends[at]]
    }

    fn truncate_names(&mut self, count: usize) {
        self.name_ends.truncate(count);
        let end = self.name_ends.last().copied().unwrap_or(0);
        self.names.truncate(end);
    }

    fn leaf<E: de::Error>(&mut self, value: Value) -> Result<bool, E> {
        if self.values.len() == MAX_LEAVES {
            return Err(no());
        }
        self.paths.push_str(&self.prefix);
        let begin = match self.name_ends[..] {
            [.., begin, _] => begin,
            _ => 0,
        };
        push_segment(&mut self.paths, &self.names[begin..]);
        self.ends.push(self.paths.len() as u32); // 10 000 paths of 2 KB
        self.values.push(value);
        Ok(true)
    }
}

/// Not by itself: FNV with eight bytes at a time, mixed at the end. Shapes that meet by design cost the cache, nothing else.
fn hash(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, word: u64| {
        (hash ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(bytes.len() as u64, |hash, word| {
        mix(hash, u64::from_le_bytes(*word))
    });
    let hash = rest.iter().fold(hash, |hash, &byte| mix(hash, byte.into()));
    hash ^ hash >> 32
}

/// Not taken; the reader of trees says why.
fn no<E: de::Error>() -> E {
    E::custom("")
}

struct MessageSeed<'a>(&'a mut Scratch);

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = FlatMessage;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<FlatMessage, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = FlatMessage;

    fn expecting(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FlatMessage, A::Error> {
        let (mut version, mut device, mut boot, mut seq) = (None, None, None, None);
        let (mut frames, mut ts, mut metrics) = (None, None, None);
        while let Some(key) = map.next_key_seed(KeySeed)? {
            match key {
                Key::Version => once(&mut version, "v", map.next_value::<u64>()?)?,
                Key::Device => once(&mut device, "device", map.next_value::<DeviceId>()?)?,
                Key::Boot => once(&mut boot, "boot", map.next_value::<Boot>()?.0)?,
                Key::Seq => once(&mut seq, "seq", map.next_value::<u64>()?)?,
                Key::Frames => {
                    let read = map.next_value_seed(FramesSeed(&mut *self.0))?;
                    once(&mut frames, "frames", read)?;
                }
                Key::Ts => once(&mut ts, "ts", map.next_value::<Option<TimestampMs>>()?)?,
                Key::Metrics => {
                    let read = map.next_value_seed(LeavesSeed(&mut *self.0))?;
                    once(&mut metrics, "metrics", read)?;
                }
                Key::Source | Key::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if version.is_some_and(|v| v != 1) {
            return Err(no());
        }
        match (frames, metrics) {
            (None, Some((shape, values))) => Ok(FlatMessage {
                device,
                id: None,
                frames: vec![FlatFrame {
                    ts: ts.flatten(),
                    source: None,
                    shape,
                    values,
                }],
            }),
            (Some(frames), None) => match (version, boot, seq) {
                (Some(_), Some(boot), Some(seq)) => Ok(FlatMessage {
                    device,
                    id: Some(MessageId { boot, seq }),
                    frames,
                }),
                _ => Err(no()),
            },
            _ => Err(no()),
        }
    }
}

/// The fields of messages and frames.
enum Key {
    Version,
    Device,
    Boot,
    Seq,
    Frames,
    Ts,
    Metrics,
    Source,
    Other,
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Key, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;

    fn expecting(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Key, E> {
        Ok(match key {
            "v" => Key::Version,
            "device" => Key::Device,
            "boot" => Key::Boot,
            "seq" => Key::Seq,
            "frames" => Key::Frames,
            "ts" => Key::Ts,
            "metrics" => Key::Metrics,
            "source" => Key::Source,
            _ => Key::Other,
        })
    }
}

struct FramesSeed<'a>(&'a mut Scratch);

impl<'de> DeserializeSeed<'de> for FramesSeed<'_> {
    type Value = Vec<FlatFrame>;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Vec<FlatFrame>, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for FramesSeed<'_> {
    type Value = Vec<FlatFrame>;

    fn expecting(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<FlatFrame>, A::Error> {
        let mut frames = Vec::with_capacity(1); // the usual message; `Vec` would begin with room for four
        while let Some(frame) = seq.next_element_seed(FrameSeed(&mut *self.0))? {
            if frames.len() == MAX_FRAMES {
                return Err(no());
            }
            frames.push(frame);
        }
        Ok(frames)
    }
}

struct FrameSeed<'a>(&'a mut Scratch);

impl<'de> DeserializeSeed<'de> for FrameSeed<'_> {
    type Value = FlatFrame;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<FlatFrame, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FrameSeed<'_> {
    type Value = FlatFrame;

    fn expecting(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FlatFrame, A::Error> {
        let (mut ts, mut source, mut metrics) = (None, None, None);
        while let Some(key) = map.next_key_seed(KeySeed)? {
            match key {
                Key::Ts => once(&mut ts, "ts", map.next_value::<TimestampMs>()?)?,
                Key::Source => once(&mut source, "source", map.next_value_seed(SourceSeed)?)?,
                Key::Metrics => {
                    let read = map.next_value_seed(LeavesSeed(&mut *self.0))?;
                    once(&mut metrics, "metrics", read)?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match (ts, source, metrics) {
            (Some(ts), Some(source), Some((shape, values))) => Ok(FlatFrame {
                ts: Some(ts),
                source: Some(source),
                shape,
                values,
            }),
            _ => Err(no()),
        }
    }
}

struct SourceSeed;

impl<'de> DeserializeSeed<'de> for SourceSeed {
    type Value = Box<str>;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Box<str>, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for SourceSeed {
    type Value = Box<str>;

    fn expecting(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Box<str>, E> {
        check_name(name).map(|()| name.into()).map_err(|_| no())
    }
}

/// A frame's tree.
struct LeavesSeed<'a>(&'a mut Scratch);

impl<'de> DeserializeSeed<'de> for LeavesSeed<'_> {
    type Value = (Arc<Shape>, Vec<Value>);
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        self.0.begin_frame();
        d.deserialize_map(Branch {
            scratch: &mut *self.0,
            depth: 1,
        })?;
        Ok(self.0.end_frame())
    }
}

/// A JSON object at `depth` (1: the tree itself).
struct Branch<'a> {
    scratch: &'a mut Scratch,
    depth: usize,
}

impl<'de> Visitor<'de> for Branch<'_> {
    type Value = ();

    fn expecting(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { scratch, depth } = self;
        let mut names = Names::new(scratch.name_ends.len());
        while map.next_key_seed(NameSeed(scratch))?.is_some() {
            if depth > MAX_DEPTH || names.has_last_twice(scratch) {
                return Err(no());
            }
            let is_there = map.next_value_seed(NodeSeed { scratch, depth })?;
            names.keep_last(scratch, is_there);
        }
        scratch.truncate_names(names.begin);
        Ok(())
    }
}

/// The names of one branch: is the last one there already? Sorted ones, as an agent sends them, cost one comparison.
struct Names {
    /// Place of the first.
    begin: usize,
    greatest: Option<usize>,
    /// All, once there are many that are not sorted.
    hashed: Option<HashSet<Box<str>>>,
}

impl Names {
    fn new(begin: usize) -> Self {
        Self {
            begin,
            greatest: None,
            hashed: None,
        }
    }

    fn has_last_twice(&mut self, scratch: &Scratch) -> bool {
        let last = scratch.name_ends.len() - 1; // it was put there just now
        let name = scratch.name(last);
        if self.greatest.is_none_or(|at| scratch.name(at) < name) {
            return false;
        }
        let mut before = (self.begin..last).map(|at| scratch.name(at));
        if last - self.begin <= FEW {
            return before.any(|other| other == name);
        }
        self.hashed
            .get_or_insert_with(|| before.map(Box::from).collect())
            .contains(name)
    }

    /// `null` is no node: its name may come again.
    fn keep_last(&mut self, scratch: &mut Scratch, is_there: bool) {
        let last = scratch.name_ends.len() - 1;
        if !is_there {
            scratch.truncate_names(last);
            return;
        }
        let name = scratch.name(last);
        if self.greatest.is_none_or(|at| scratch.name(at) < name) {
            self.greatest = Some(last);
        }
        if let Some(hashed) = &mut self.hashed {
            hashed.insert(name.into());
        }
    }
}

/// Puts a name behind the others.
struct NameSeed<'a>(&'a mut Scratch);

impl<'de> DeserializeSeed<'de> for NameSeed<'_> {
    type Value = ();
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed<'_> {
    type Value = ();

    fn expecting(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<(), E> {
        check_name(name).map_err(|_| no())?;
        self.0.names.push_str(name);
        self.0.name_ends.push(self.0.names.len());
        Ok(())
    }
}

/// Whatever stands under the last name; false: nothing.
struct NodeSeed<'a> {
    scratch: &'a mut Scratch,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = bool;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<bool, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = bool;

    fn expecting(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<bool, A::Error> {
        let Self { scratch, depth } = self;
        let length = scratch.prefix.len();
        let begin = match scratch.name_ends[..] {
            [.., begin, _] => begin,
            _ => 0,
        };
        push_segment(&mut scratch.prefix, &scratch.names[begin..]);
        Branch {
            scratch,
            depth: depth + 1,
        }
        .visit_map(map)?;
        scratch.prefix.truncate(length);
        Ok(true)
    }

    fn visit_f64<E: de::Error>(self, x: f64) -> Result<bool, E> {
        self.scratch.leaf(Value::Float(x))
    }

    fn visit_i64<E: de::Error>(self, x: i64) -> Result<bool, E> {
        self.scratch.leaf(Value::Integer(x))
    }

    fn visit_u64<E: de::Error>(self, x: u64) -> Result<bool, E> {
        let x = i64::try_from(x).map_err(|_| no())?;
        self.scratch.leaf(Value::Integer(x))
    }

    fn visit_bool<E: de::Error>(self, x: bool) -> Result<bool, E> {
        self.scratch.leaf(Value::Boolean(x))
    }

    fn visit_str<E: de::Error>(self, x: &str) -> Result<bool, E> {
        if x.len() > MAX_TEXT_BYTES {
            return Err(no());
        }
        self.scratch.leaf(Value::Text(x.to_owned()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<bool, E> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The property tests see only that both readers agree; this one, that the work is not left to the other.
    #[test]
    fn what_is_good_is_read_without_a_tree() {
        for good in [
            r#"{"v":1,"device":"d","boot":"B","seq":1,"frames":[{"ts":1,"source":"s","metrics":{"a":1,"b":{"x":0.5,"t":"text","n":null,"y":true}}}],"x":[1]}"#,
            r#"{"v":1,"boot":"B","seq":1,"frames":[]}"#,
            r#"{"ts":5,"metrics":{"2":1,"10":2,"1":{}}}"#,
            r#"{"metrics":{"a":null,"a":1,"\u00e9":2}}"#,
        ] {
            let read = SCRATCH.with_borrow_mut(|scratch| scratch.read(good));
            assert!(read.is_some(), "{good}");
        }
    }
}

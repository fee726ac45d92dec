//! A metrics message: from bytes to checked frames.
//!
//! Two forms are read. The agent's: `{"v":1,"device":…,"boot":…,"seq":…,"frames":[{"ts":…,"source":…,"metrics":{…}}]}`. The short one, from any publisher:
//! `{"metrics":{…}}` with an optional `ts`. A payload that starts with the zstd magic is decompressed first, up to a bound. Every limit of
//! [`tree`](crate::tree) is checked while reading, so that hostile bytes cost no more than honest ones. Unknown fields are skipped: a newer agent may add some.

use std::borrow::Cow;
use std::io::Read;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::device::DeviceId;
use super::json::{JsonTree, clear_refusal, refuse, taken_refusal};
use super::refusal::{Reason, Refusal};
use super::time::TimestampMs;
use crate::path::check_name;
use crate::tree::MetricTree;

/// What the agent stays below for each message: AWS IoT Core allows 131 072 bytes of payload, headers of ours included.
pub const MAX_SENT_BYTES: usize = 120 * 1024;
/// Largest payload that a collector reads, compressed or not. Twice what AWS can deliver; a frame at its limits fits.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// Largest payload after decompression: eight times the plain limit, the ratio that zstd reaches on real messages.
pub const MAX_DECOMPRESSED_BYTES: usize = 2 * 1024 * 1024;
/// Most frames in a message: an hour of one source at 1 s, with room.
pub const MAX_FRAMES: usize = 4_096;
/// Longest boot id; a ULID has 26 characters.
pub const MAX_BOOT_BYTES: usize = 64;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Decompression window, log2: 8 MiB, the largest that every zstd decoder must take. A frame that asks for more is refused.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Which message of a device this is, for finding repeats: the agent's start and a number that grows by one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MessageId {
    /// Names one start of the agent.
    pub boot: Box<str>,
    pub seq: u64,
}

/// One source's tree at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// `None`: the publisher has no clock; the time of arrival counts.
    pub ts: Option<TimestampMs>,
    /// First segment of the paths. `None` in the short form: paths start at the tree's own top.
    pub source: Option<Box<str>>,
    pub metrics: MetricTree,
}

/// A decoded message. Every tree in it is valid.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The device it names, if it names one; the topic has the last word.
    pub device: Option<DeviceId>,
    /// `None` in the short form: it cannot be told from a repeat but by (series, time).
    pub id: Option<MessageId>,
    pub frames: Vec<Frame>,
}

impl Message {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`Refusal`] with the reason and a detail that names the place. Work and memory are bounded by [`MAX_DECOMPRESSED_BYTES`].
    pub fn decode(payload: &[u8]) -> Result<Self, Refusal> {
        plain_text(payload, read)?
    }

    /// Checks that the payload and its topic speak of the same device.
    ///
    /// # Errors
    /// [`Reason::DeviceMismatch`].
    pub fn check_device(&self, topic_device: &DeviceId) -> Result<(), Refusal> {
        check_device(self.device.as_ref(), topic_device)
    }

    /// Checks the frames' times: not before 2000, not more than `max_ahead_ms` after `now`.
    ///
    /// # Errors
    /// [`Reason::TimestampOutOfRange`].
    pub fn check_times(&self, now: TimestampMs, max_ahead_ms: i64) -> Result<(), Refusal> {
        check_times(self.frames.iter().filter_map(|f| f.ts), now, max_ahead_ms)
    }
}

pub(super) fn check_device(
    named: Option<&DeviceId>,
    topic_device: &DeviceId,
) -> Result<(), Refusal> {
    match named {
        Some(named) if named != topic_device => Err(Refusal::new(
            Reason::DeviceMismatch,
            format!("the payload names device {named}, the topic {topic_device}"),
        )),
        _ => Ok(()),
    }
}

pub(super) fn check_times(
    times: impl Iterator<Item = TimestampMs>,
    now: TimestampMs,
    max_ahead_ms: i64,
) -> Result<(), Refusal> {
    for ts in times {
        let problem = if ts < TimestampMs::EARLIEST {
            "lies before 2000-01-01: the device's clock is not set".to_owned()
        } else if ts.since(now) > max_ahead_ms {
            format!(
                "is {} s ahead of the collector's clock; the most is {} s",
                ts.since(now) / 1000,
                max_ahead_ms / 1000
            )
        } else {
            continue;
        };
        return Err(Refusal::new(
            Reason::TimestampOutOfRange,
            format!("ts {ts} {problem}"),
        ));
    }
    Ok(())
}

/// What every payload is before it is JSON: within bounds, decompressed, UTF-8. `read` gets the text.
pub(super) fn plain_text<T>(payload: &[u8], read: impl FnOnce(&str) -> T) -> Result<T, Refusal> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        let detail = format!("{} bytes; the most is {MAX_PAYLOAD_BYTES}", payload.len());
        return Err(Refusal::new(Reason::PayloadTooLarge, detail));
    }
    let plain = decompress(payload)?;
    // Checked apart from the JSON, for the reason differs; serde_json alone would call both a syntax error.
    let text = std::str::from_utf8(&plain).map_err(|e| Refusal::new(Reason::InvalidUtf8, e))?;
    Ok(read(text))
}

fn read(text: &str) -> Result<Message, Refusal> {
    clear_refusal();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let message = MessageSeed
        .deserialize(&mut deserializer)
        .and_then(|message| deserializer.end().map(|()| message));
    message.map_err(|error| {
        taken_refusal(&error).unwrap_or_else(|| {
            let reason = if error.is_data() {
                Reason::InvalidMessage
            } else {
                Reason::InvalidJson
            };
            Refusal::new(reason, error)
        })
    })
}

fn decompress(payload: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    if !payload.starts_with(&ZSTD_MAGIC) {
        return Ok(Cow::Borrowed(payload));
    }
    let invalid =
        |e: std::io::Error| Refusal::new(Reason::InvalidCompression, format!("zstd: {e}"));
    let mut decoder = zstd::stream::read::Decoder::with_buffer(payload).map_err(invalid)?;
    decoder
        .window_log_max(ZSTD_WINDOW_LOG_MAX)
        .map_err(invalid)?;
    let mut plain = Vec::new();
    let limit = MAX_DECOMPRESSED_BYTES as u64 + 1;
    decoder
        .take(limit)
        .read_to_end(&mut plain)
        .map_err(invalid)?;
    if plain.len() > MAX_DECOMPRESSED_BYTES {
        let detail = format!("more than {MAX_DECOMPRESSED_BYTES} bytes after decompression");
        return Err(Refusal::new(Reason::PayloadTooLarge, detail));
    }
    Ok(Cow::Owned(plain))
}

struct MessageSeed;

impl<'de> DeserializeSeed<'de> for MessageSeed {
    type Value = Message;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Message, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed {
    type Value = Message;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a message: an object with \"frames\" or \"metrics\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
        let (mut version, mut device, mut boot, mut seq) = (None, None, None, None);
        let (mut frames, mut ts, mut metrics) = (None, None, None);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match key.as_ref() {
                "v" => once(&mut version, "v", map.next_value::<u64>()?)?,
                "device" => once(&mut device, "device", map.next_value::<DeviceId>()?)?,
                "boot" => once(&mut boot, "boot", map.next_value::<Boot>()?.0)?,
                "seq" => once(&mut seq, "seq", map.next_value::<u64>()?)?,
                "frames" => once(&mut frames, "frames", map.next_value_seed(FramesSeed)?)?,
                "ts" => once(&mut ts, "ts", map.next_value::<Option<TimestampMs>>()?)?,
                "metrics" => once(&mut metrics, "metrics", map.next_value_seed(JsonTree)?)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if let Some(v) = version.filter(|v| *v != 1) {
            return Err(refuse(Refusal::new(
                Reason::UnsupportedVersion,
                format!("message version {v}; this collector reads version 1"),
            )));
        }
        match (frames, metrics) {
            (Some(_), Some(_)) => Err(de::Error::custom(
                "both \"frames\" and \"metrics\" are there",
            )),
            (None, None) => Err(de::Error::missing_field(
                "frames (or metrics, for the short form)",
            )),
            (None, Some(metrics)) => Ok(Message {
                device,
                id: None,
                frames: vec![Frame {
                    ts: ts.flatten(),
                    source: None,
                    metrics,
                }],
            }),
            (Some(frames), None) => {
                if version.is_none() {
                    return Err(de::Error::missing_field("v"));
                }
                let boot = boot.ok_or_else(|| de::Error::missing_field("boot"))?;
                let seq = seq.ok_or_else(|| de::Error::missing_field("seq"))?;
                Ok(Message {
                    device,
                    id: Some(MessageId { boot, seq }),
                    frames,
                })
            }
        }
    }
}

/// Sets a field that must not stand twice: which one counts would be a guess.
pub(super) fn once<T, E: de::Error>(
    slot: &mut Option<T>,
    name: &'static str,
    value: T,
) -> Result<(), E> {
    if slot.is_some() {
        return Err(E::duplicate_field(name));
    }
    *slot = Some(value);
    Ok(())
}

pub(super) struct Boot(pub(super) Box<str>);

impl<'de> Deserialize<'de> for Boot {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(d)?;
        let legal = (1..=MAX_BOOT_BYTES).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if !legal {
            return Err(de::Error::custom(
                "boot: 1 to 64 characters of A-Z a-z 0-9 _ -",
            ));
        }
        Ok(Self(text.into()))
    }
}

struct FramesSeed;

impl<'de> DeserializeSeed<'de> for FramesSeed {
    type Value = Vec<Frame>;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Vec<Frame>, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for FramesSeed {
    type Value = Vec<Frame>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of frames")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Frame>, A::Error> {
        let mut frames = Vec::new();
        while let Some(frame) = seq.next_element_seed(FrameSeed)? {
            if frames.len() == MAX_FRAMES {
                return Err(de::Error::custom(format!("more than {MAX_FRAMES} frames")));
            }
            frames.push(frame);
        }
        Ok(frames)
    }
}

struct FrameSeed;

impl<'de> DeserializeSeed<'de> for FrameSeed {
    type Value = Frame;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Frame, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FrameSeed {
    type Value = Frame;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a frame: an object with \"ts\", \"source\" and \"metrics\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Frame, A::Error> {
        let (mut ts, mut source, mut metrics) = (None, None, None);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match key.as_ref() {
                "ts" => once(&mut ts, "ts", map.next_value::<TimestampMs>()?)?,
                "source" => {
                    let name = map.next_value::<Cow<'de, str>>()?;
                    check_name(&name).map_err(|e| {
                        refuse(Refusal::new(Reason::InvalidName, format!("source: {e}")))
                    })?;
                    once(&mut source, "source", Box::from(name))?;
                }
                "metrics" => once(&mut metrics, "metrics", map.next_value_seed(JsonTree)?)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Frame {
            ts: Some(ts.ok_or_else(|| de::Error::missing_field("ts"))?),
            source: Some(source.ok_or_else(|| de::Error::missing_field("source"))?),
            metrics: metrics.ok_or_else(|| de::Error::missing_field("metrics"))?,
        })
    }
}

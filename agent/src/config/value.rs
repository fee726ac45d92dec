//! Single values: what they may be, and how a wrong one is refused where it stands.

use std::time::Duration;

use devmon_core::config::{self, DurationText};
use devmon_core::wire::{Labels, TopicScheme, labels};
use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::spool;

/// Shorter ones cost more than they show, and /proc/stat ticks at 10 ms.
pub(super) const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Longer ones can not be told from a dead source.
pub(super) const MAX_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Of a round: less blames a busy machine; more is no round any more.
pub(super) const MIN_TIMEOUT: Duration = Duration::from_millis(500);
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// A smaller outbox would not hold one full message.
pub(super) const MIN_OUTBOX_BYTES: usize = 256 * 1024;
/// A spool that forgets sooner would lose a restart of the broker.
pub(super) const MIN_SPOOL_AGE: Duration = Duration::from_secs(60);

/// Of a host: less does not hold the host itself and a small plugin.
pub(super) const MIN_MEMORY_BYTES: u64 = 16 << 20;
/// Of a host: it has some open itself, and opens the plugin and what that is linked with.
pub(super) const MIN_OPEN_FILES: u64 = 16;

pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
    let DurationText(interval) = text
        .parse()
        .map_err(|e: config::DurationError| e.to_string())?;
    if (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        Ok(interval)
    } else {
        Err(format!("{text} is no interval: 100ms to 24h"))
    }
}

pub(super) fn parse_topic_prefix(text: &str) -> Result<String, String> {
    TopicScheme::new(text, 1).map_err(|e| e.to_string())?;
    Ok(text.to_owned())
}

pub(super) fn interval<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(d)?;
    parse_interval(&text)
        .map(Some)
        .map_err(serde::de::Error::custom)
}

/// From [`MIN_TIMEOUT`] to [`MAX_TIMEOUT`].
pub(super) fn timeout<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(d)?;
    let DurationText(timeout) = text.parse().map_err(serde::de::Error::custom)?;
    if !(MIN_TIMEOUT..=MAX_TIMEOUT).contains(&timeout) {
        return Err(serde::de::Error::custom(format!(
            "{text} is out of range: 500ms to 10m"
        )));
    }
    Ok(Some(timeout))
}

/// A duration from nothing to [`MAX_INTERVAL`].
pub(super) fn span<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(d)?;
    match text.parse() {
        Ok(DurationText(span)) if span <= MAX_INTERVAL => Ok(Some(span)),
        Ok(_) => Err(serde::de::Error::custom(format!(
            "{text} is too long: at most 24h"
        ))),
        Err(e) => Err(serde::de::Error::custom(e)),
    }
}

pub(super) fn topic_prefix<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(d)?;
    parse_topic_prefix(&text)
        .map(Some)
        .map_err(serde::de::Error::custom)
}

pub(super) fn labels<'de, D: Deserializer<'de>>(from: D) -> Result<Labels, D::Error> {
    let labels = from.deserialize_map(EachLabel)?;
    labels::check_all(&labels).map_err(serde::de::Error::custom)?;
    Ok(labels)
}

/// Checks each label where it stands: an error of the whole would be at the table's line.
struct EachLabel;

impl<'de> Visitor<'de> for EachLabel {
    type Value = Labels;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("labels: name = \"value\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
        let mut labels = Labels::new();
        while let Some(LabelName(name)) = map.next_key()? {
            let value = map.next_value_seed(LabelOf(&name))?;
            labels.insert(name, value);
        }
        Ok(labels)
    }
}

struct LabelName(String);

impl<'de> Deserialize<'de> for LabelName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        labels::check(&name, "x").map_err(serde::de::Error::custom)?;
        Ok(Self(name))
    }
}

/// The value of the label with this name.
struct LabelOf<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for LabelOf<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<String, D::Error> {
        let value = String::deserialize(from)?;
        labels::check(self.0, &value).map_err(serde::de::Error::custom)?;
        Ok(value)
    }
}

pub(super) fn memory_bytes<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    at_least(d, "memory_bytes", MIN_MEMORY_BYTES)
}

pub(super) fn open_files<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    at_least(d, "open_files", MIN_OPEN_FILES)
}

fn at_least<'de, D: Deserializer<'de>>(
    d: D,
    key: &str,
    least: u64,
) -> Result<Option<u64>, D::Error> {
    let given = u64::deserialize(d)?;
    if given < least {
        return Err(serde::de::Error::custom(format!(
            "{key} = {given} lets no plugin start; the least is {least}"
        )));
    }
    Ok(Some(given))
}

pub(super) fn outbox_bytes<'de, D: Deserializer<'de>>(d: D) -> Result<Option<usize>, D::Error> {
    let bytes = usize::deserialize(d)?;
    if bytes < MIN_OUTBOX_BYTES {
        return Err(serde::de::Error::custom(format!(
            "an outbox of {bytes} bytes holds no full message; the least is {MIN_OUTBOX_BYTES}"
        )));
    }
    Ok(Some(bytes))
}

pub(super) fn spool_bytes<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    let bytes = u64::deserialize(d)?;
    let least = 4 * spool::SEGMENT_BYTES;
    if bytes < least {
        return Err(serde::de::Error::custom(format!(
            "a spool of {bytes} bytes is no use; the least is {least}"
        )));
    }
    Ok(bytes)
}

pub(super) fn spool_age<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(d)?;
    match text.parse() {
        Ok(DurationText(age)) if age >= MIN_SPOOL_AGE => Ok(age),
        Ok(_) => Err(serde::de::Error::custom(format!(
            "{text} is too short for a spool: at least 1m"
        ))),
        Err(e) => Err(serde::de::Error::custom(e)),
    }
}

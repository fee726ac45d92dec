//! The topic grammar, both ways: `{prefix}/v1/{shard}/{device}/{kind}`.
//!
//! The shard is a stable hash of the device id modulo the number of shards, so that several collectors can each subscribe to some shards and a
//! device always ends at the same one. With the default prefix a topic has four slashes; AWS IoT Core allows seven.

use super::device::DeviceId;

/// Longest topic in bytes that is looked at: prefix, shard, device and kind with room to spare. AWS allows 256.
pub const MAX_TOPIC_BYTES: usize = 512;

/// What a topic carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TopicKind {
    /// Frames. QoS 1, not retained.
    Metrics,
    /// `online` or `offline`; the offline one is also the last will. QoS 1, retained.
    Status,
    /// Host facts, agent version, sources with their states, descriptors. QoS 1, retained.
    About,
}

impl TopicKind {
    /// All kinds, in the order in which a collector subscribes to them.
    pub const ALL: [Self; 3] = [Self::Status, Self::About, Self::Metrics];

    /// The last level of the topic.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Status => "status",
            Self::About => "about",
        }
    }
}

/// Where an installation's topics lie: the prefix and the number of shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicScheme {
    prefix: String,
    shards: u32,
}

/// Why a scheme or a topic was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// The prefix is no topic prefix.
    #[error(
        "topic prefix {0:?}: 1 to 128 bytes of printable text without + # or $, not starting or ending with '/'"
    )]
    Prefix(String),
    /// No shard at all.
    #[error("shards: 0 is not possible; 1 is the default")]
    NoShards,
    /// The topic is not of our grammar.
    #[error("topic {topic:?} is not of the form {expected}")]
    Form { topic: String, expected: String },
    /// The device level is no device id.
    #[error("topic {topic:?}: {source}")]
    Device {
        topic: String,
        #[source]
        source: super::device::DeviceIdError,
    },
}

impl Default for TopicScheme {
    fn default() -> Self {
        Self {
            prefix: "devmon".into(),
            shards: 1,
        }
    }
}

impl TopicScheme {
    /// A scheme with its own prefix (it may have several levels: `site/a/devmon`) and number of shards.
    ///
    /// # Errors
    /// [`TopicError::Prefix`] or [`TopicError::NoShards`].
    pub fn new(prefix: &str, shards: u32) -> Result<Self, TopicError> {
        let legal = !prefix.is_empty()
            && prefix.len() <= 128
            && !prefix.starts_with('/')
            && !prefix.ends_with('/')
            && !prefix.chars().any(|c| c.is_control() || "+#$".contains(c));
        if !legal {
            return Err(TopicError::Prefix(prefix.to_owned()));
        }
        if shards == 0 {
            return Err(TopicError::NoShards);
        }
        Ok(Self {
            prefix: prefix.to_owned(),
            shards,
        })
    }

    /// The first levels of all topics.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The shard of a device: FNV-1a (64 bit) of its id modulo the number of shards. Never changes for a given number.
    #[must_use]
    pub fn shard(&self, device: &DeviceId) -> u32 {
        let hash = device.stable_hash();
        u32::try_from(hash % u64::from(self.shards)).unwrap_or(0) // the remainder is below a u32
    }

    /// The topic on which `device` publishes `kind`.
    #[must_use]
    pub fn topic(&self, device: &DeviceId, kind: TopicKind) -> String {
        format!(
            "{}/v1/{}/{device}/{}",
            self.prefix,
            self.shard(device),
            kind.as_str()
        )
    }

    /// The subscription filter for one kind of all devices, of one shard or of all.
    #[must_use]
    pub fn filter(&self, shard: Option<u32>, kind: TopicKind) -> String {
        let shard = shard.map_or("+".to_owned(), |s| s.to_string());
        format!("{}/v1/{shard}/+/{}", self.prefix, kind.as_str())
    }

    /// Whose topic this is, and for what. The shard only has to be a number: a device may be configured with another count of shards.
    ///
    /// # Errors
    /// [`TopicError::Form`] or [`TopicError::Device`].
    pub fn parse(&self, topic: &str) -> Result<(DeviceId, TopicKind), TopicError> {
        let form = || TopicError::Form {
            topic: topic.chars().take(MAX_TOPIC_BYTES).collect(),
            expected: format!("{}/v1/<shard>/<device>/metrics|status|about", self.prefix),
        };
        if topic.len() > MAX_TOPIC_BYTES {
            return Err(form());
        }
        let rest = topic
            .strip_prefix(self.prefix.as_str())
            .and_then(|t| t.strip_prefix("/v1/"))
            .ok_or_else(form)?;
        let mut levels = rest.split('/');
        let (Some(shard), Some(device), Some(kind), None) =
            (levels.next(), levels.next(), levels.next(), levels.next())
        else {
            return Err(form());
        };
        if shard.is_empty() || shard.len() > 10 || !shard.bytes().all(|b| b.is_ascii_digit()) {
            return Err(form());
        }
        let kind = TopicKind::ALL
            .into_iter()
            .find(|k| k.as_str() == kind)
            .ok_or_else(form)?;
        let device = device.parse().map_err(|source| TopicError::Device {
            topic: topic.to_owned(),
            source,
        })?;
        Ok((device, kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_go_both_ways() {
        let device: DeviceId = "edge_device_01".parse().unwrap();
        for scheme in [
            TopicScheme::default(),
            TopicScheme::new("site/a/devmon", 16).unwrap(),
        ] {
            for kind in TopicKind::ALL {
                let topic = scheme.topic(&device, kind);
                assert_eq!(scheme.parse(&topic).unwrap(), (device.clone(), kind));
            }
        }
        assert_eq!(
            TopicScheme::default().topic(&device, TopicKind::Metrics),
            "devmon/v1/0/edge_device_01/metrics"
        );
    }

    #[test]
    fn the_shard_of_a_device_never_changes() {
        // Written down, not computed: a change of the hash would send a device's data to another collector.
        let shard = |id: &str| {
            TopicScheme::new("d", 16)
                .unwrap()
                .shard(&id.parse().unwrap())
        };
        assert_eq!(
            [shard("a"), shard("edge_device_01"), shard("gpu-7")],
            [12, 11, 13]
        );
    }

    #[test]
    fn foreign_topics_are_refused() {
        let scheme = TopicScheme::default();
        for bad in [
            "",
            "devmon",
            "devmon/v1/0/d",
            "devmon/v1/0/d/metrics/x",
            "devmon/v2/0/d/metrics",
            "devmon/v1/x/d/metrics",
            "devmon/v1//d/metrics",
            "devmon/v1/0//metrics",
            "devmon/v1/0/_d/metrics",
            "devmon/v1/0/d/other",
            "other/v1/0/d/metrics",
        ] {
            assert!(scheme.parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "/a", "a/", "a+", "#", "$aws", "a\n"] {
            assert!(TopicScheme::new(bad, 1).is_err(), "{bad:?}");
        }
        assert!(TopicScheme::new("a", 0).is_err());
    }
}

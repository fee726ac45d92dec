//! Why a message was refused: one closed list, used in counters, dead letters, logs and docs.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal),* $(,)?) => {
        /// Every reason for refusing a message. The text form is part of the API.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $variant),* }

        impl Reason {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in the API: `invalid_json`, …
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

reasons! {
    /// The topic is not of our grammar, or its device level is no device id.
    InvalidTopic = "invalid_topic",
    /// The sender's certificate names another device than the topic.
    NotAuthorized = "not_authorized",
    /// The payload is over the limit, as it came or after decompression.
    PayloadTooLarge = "payload_too_large",
    /// A zstd payload that does not decompress.
    InvalidCompression = "invalid_compression",
    /// The payload is not UTF-8.
    InvalidUtf8 = "invalid_utf8",
    /// The payload is not JSON; NaN and Infinity are not JSON.
    InvalidJson = "invalid_json",
    /// JSON, but not of a message's form: a field is missing, or of the wrong type.
    InvalidMessage = "invalid_message",
    /// A version of the message format that this collector does not know.
    UnsupportedVersion = "unsupported_version",
    /// The payload names another device than the topic.
    DeviceMismatch = "device_mismatch",
    /// A name is empty, over 128 bytes, has a NUL, or stands twice in one branch.
    InvalidName = "invalid_name",
    /// A branch lies deeper than 16 levels.
    TooDeep = "too_deep",
    /// A frame has more than 10 000 leaves.
    TooManyLeaves = "too_many_leaves",
    /// A leaf is no metric value: an array, an integer beyond 64 bits, a text over 1 KiB.
    InvalidValue = "invalid_value",
    /// A timestamp before 2000 or too far ahead of the collector's clock.
    TimestampOutOfRange = "timestamp_out_of_range",
    /// A new device, and the collector has as many as it may.
    TooManyDevices = "too_many_devices",
    /// New series, and the device or the collector has as many as it may.
    TooManySeries = "too_many_series",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refused message: the reason for the counter, the detail for whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    pub reason: Reason,
    pub detail: String,
}

impl Refusal {
    /// A refusal with its detail.
    pub fn new(reason: Reason, detail: impl fmt::Display) -> Self {
        Self {
            reason,
            detail: detail.to_string(),
        }
    }
}

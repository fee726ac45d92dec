//! What a host and its agent say to each other; the table is in [`host`](super).

use std::io::Write;

use devmon_core::descriptor::DescriptorText;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::plugins::load::{Abi, Refusal};

/// A tree of 10 000 leaves with long texts, and no more.
pub(super) const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// What a loaded plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub name: String,
    pub version: Option<String>,
    pub abi: Abi,
    pub preferred_interval_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    Start { config: String },
    Collect,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Hello(Hello),
    Refused(Refusal),
    Started {
        descriptors: Vec<DescriptorText>,
        facts: serde_json::Map<String, serde_json::Value>,
        problem: Option<String>,
    },
    NotStarted(String),
    Tree {
        metrics: Box<RawValue>,
        left_out: Option<String>,
    },
    NoData,
    Unavailable(String),
    Failed(String),
    Panicked(String),
}

pub(super) fn write_message<T: Serialize>(to: &mut impl Write, message: &T) -> std::io::Result<()> {
    let json = serde_json::to_vec(message).map_err(std::io::Error::other)?;
    let length = u32::try_from(json.len()).map_err(std::io::Error::other)?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(&json);
    to.write_all(&bytes)
}

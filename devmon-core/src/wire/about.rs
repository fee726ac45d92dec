//! The two retained messages of a device: `status` (is it there?) and `about` (what is it, what runs on it?).

use serde::{Deserialize, Serialize};

use super::device::DeviceId;
use super::labels::Labels;
use super::time::TimestampMs;
use crate::descriptor::DescriptorText;

/// Largest status or about payload that is read. An `about` of 20 sources with 50 descriptors each has some 150 KB.
pub const MAX_ABOUT_BYTES: usize = 512 * 1024;

/// The payload of `…/status`. The broker sends the offline form as last will when the connection is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub status: Presence,
    /// When it was said; a will has none, for it is written long before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ts: Option<TimestampMs>,
    /// `shutdown`, `moved` (to another broker), `connection lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether a device says that it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    Online,
    Offline,
}

/// The payload of `…/about`. Fields may be added; readers skip what they do not know. All but `v` may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Version of this form: 1.
    pub v: u32,
    /// The topic has the last word; readers write it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ts: Option<TimestampMs>,
    #[serde(default)]
    pub agent: AgentFacts,
    #[serde(default)]
    pub host: HostFacts,
    /// What the agent's configuration calls the device by.
    #[serde(
        default,
        skip_serializing_if = "Labels::is_empty",
        deserialize_with = "super::labels::lenient"
    )]
    pub labels: Labels,
    #[serde(default)]
    pub sources: Vec<SourceAbout>,
    /// Templates from the device's root: `/disk/{mount}/used_bytes`.
    #[serde(default)]
    pub descriptors: Vec<DescriptorText>,
}

/// What sends the device's messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFacts {
    /// Of devmon-agent; other publishers have none.
    #[serde(default)]
    pub version: Option<String>,
    /// Rounds of this time come in one message; 0, and left out: each as it is measured.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub publish_every_ms: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What the device is. Unknown facts are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    pub hostname: Option<String>,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub os: Option<String>,
    pub kernel: Option<String>,
    /// `x86_64`, `aarch64`.
    pub arch: Option<String>,
    /// Logical CPUs.
    pub cpus: Option<u32>,
    pub boot_ts: Option<TimestampMs>,
}

/// One source as the agent sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceAbout {
    pub name: String,
    #[serde(default)]
    pub state: SourceState,
    /// Why it is not `ok`, for an operator.
    #[serde(default)]
    pub reason: Option<String>,
    /// 0, and left out: it does not say.
    #[serde(default)]
    pub interval_ms: u64,
    /// The plugin's version.
    #[serde(default)]
    pub version: Option<String>,
    /// The plugin's file name.
    #[serde(default)]
    pub file: Option<String>,
    /// Facts that do not change while it runs, as the source gave them.
    #[serde(default)]
    pub facts: serde_json::Map<String, serde_json::Value>,
}

/// The state of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// Runs; it may have had nothing to say yet.
    #[default]
    Ok,
    /// Nothing to measure on this machine; asked again now and then.
    Unavailable,
    /// The last round failed or took too long.
    Failing,
    /// Failed too often and is left alone for a while.
    Quarantined,
    /// Taken out by an operator or by removal of its file.
    Stopped,
}

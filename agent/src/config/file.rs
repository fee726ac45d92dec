//! The configuration file, as it is written.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use devmon_core::config::{self, ConfigError};
use devmon_core::wire::{DeviceId, Labels};
use serde::Deserialize;

use super::value::{interval, labels, outbox_bytes, span, topic_prefix};
use super::{Compression, Isolation, LogFormat, SourceSettings, SpoolSettings};
use crate::connection::MqttUrl;

/// One layer: whatever of it was given.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) device: Option<DeviceId>,
    #[serde(default, deserialize_with = "labels")]
    pub(super) labels: Labels,
    pub(super) mqtt: Option<MqttUrl>,
    #[serde(default, deserialize_with = "interval")]
    pub(super) interval: Option<Duration>,
    pub(super) plugin_dir: Option<PathBuf>,
    pub(super) certs: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    #[serde(default, deserialize_with = "topic_prefix")]
    pub(super) topic_prefix: Option<String>,
    pub(super) shards: Option<NonZeroU32>,
    pub(super) log_format: Option<LogFormat>,
    #[serde(default, deserialize_with = "outbox_bytes")]
    pub(super) outbox_bytes: Option<usize>,
    #[serde(default, deserialize_with = "span")]
    pub(super) publish_every: Option<Duration>,
    pub(super) compression: Option<Compression>,
    #[serde(default, deserialize_with = "span")]
    pub(super) jitter: Option<Duration>,
    #[serde(default)]
    pub(super) spool: SpoolSettings,
    pub(super) isolation: Option<Isolation>,
    #[serde(default)]
    pub(super) sources: BTreeMap<String, SourceSettings>,
}

impl File {
    pub(super) fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut file: Self = config::load(path)?;
        let here = path.parent().unwrap_or(Path::new(""));
        for dir in [&mut file.plugin_dir, &mut file.certs, &mut file.state_dir] {
            *dir = dir.take().map(|dir| here.join(dir));
        }
        Ok(file)
    }
}

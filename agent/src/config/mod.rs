//! What was typed, set and written, made into one valid [`Settings`]: command line over environment over file over default.
//!
//! Every value is parsed where it enters, so that an error names its origin: the flag, the variable, or the file with line and column. A misspelt key is refused with the nearest
//! valid one. Relative paths in the file are relative to the file, those of flags and variables to the working directory.

mod environment;
mod file;
mod flags;
mod reload;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use devmon_core::config::ConfigError;
use devmon_core::wire::{DeviceId, Labels, TopicScheme};
use serde::Deserialize;

pub use flags::Flags;

use crate::batch;
use crate::connection::MqttUrl;
use crate::outbox::{self, Durability};
use crate::plugins::host;
use crate::spool::Limits;
use environment::{Environment, default_plugin_dir, default_state_dir, host_name};
use file::File;
use value::{
    MAX_INTERVAL, MIN_INTERVAL, interval, memory_bytes, open_files, spool_age, spool_bytes, timeout,
};

/// The commented default file; `devmon-agent config` prints it, and a test reads it back.
pub const DEFAULT_TOML: &str = include_str!("../default.toml");

/// Collectd's and Telegraf's default as well; 1 s is a choice for whoever watches.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
/// Enough to take the peak off; a value on the dashboard is this much older at most.
const DEFAULT_JITTER: Duration = Duration::from_secs(5);

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Journald if standard error leads to the journal, else plain.
    #[default]
    Auto,
    /// Lines on standard error.
    Plain,
    /// JSON, one object a line, on standard error.
    Json,
    /// Lines on standard error with their priority and without a time, as journald wants them.
    Journald,
}

/// Where private copies of plugins lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copies {
    /// In the state directory, if there is one.
    InState,
    In(PathBuf),
    /// There are none: what runs, runs from where it lies.
    Nowhere,
}

/// All that the agent needs to know, valid.
#[derive(Debug, Clone)]
pub struct Settings {
    pub device: DeviceId,
    /// What people call the device by.
    pub labels: Labels,
    pub mqtt: MqttUrl,
    pub interval: Duration,
    pub plugin_dir: PathBuf,
    pub certs: PathBuf,
    pub topics: TopicScheme,
    pub log_format: LogFormat,
    pub outbox_bytes: usize,
    /// Rounds of this time travel in one message; zero: each tick its own.
    pub publish_every: Duration,
    pub compression: Compression,
    /// The most by which publishing is put off, so that a fleet does not publish in step.
    pub jitter: Duration,
    /// For the agent's own files. `None`: there is no place that it could write to.
    pub state_dir: Option<PathBuf>,
    /// Where private copies of plugins lie, if not in the state directory: a command at the terminal has its own.
    pub copies: Copies,
    pub spool: SpoolSettings,
    /// Where sources run that say nothing about it themselves; `None`: bundled ones inline, others in processes.
    pub isolation: Option<Isolation>,
    pub sources: BTreeMap<String, SourceSettings>,
}

/// Where a plugin runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// In a process of its own.
    Process,
    /// In the agent's.
    Inline,
}

/// How payloads of metrics travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    #[default]
    None,
    Zstd,
}

/// `[spool]`: what is kept on disk while the broker is away.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolSettings {
    pub durability: Durability,
    #[serde(deserialize_with = "spool_bytes")]
    pub max_bytes: u64,
    #[serde(deserialize_with = "spool_age")]
    pub max_age: Duration,
}

impl Default for SpoolSettings {
    /// 256 MiB: two days of 1.5 KB each second, or three weeks at 10 s; a week, for older samples are seldom looked at when they come.
    fn default() -> Self {
        Self {
            durability: Durability::Relaxed,
            max_bytes: 256 << 20,
            max_age: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// `[sources.NAME]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSettings {
    #[serde(default, deserialize_with = "interval")]
    pub interval: Option<Duration>,
    /// How long a round may take; none: its interval, within bounds.
    #[serde(default, deserialize_with = "timeout")]
    pub timeout: Option<Duration>,
    #[serde(default = "yes")]
    pub enabled: bool,
    pub isolation: Option<Isolation>,
    /// Of its process: writable memory in bytes, and open files.
    #[serde(default, deserialize_with = "memory_bytes")]
    pub memory_bytes: Option<u64>,
    #[serde(default, deserialize_with = "open_files")]
    pub open_files: Option<u64>,
    /// Handed to the plugin as a JSON object.
    #[serde(default)]
    pub config: serde_json::Map<String, serde_json::Value>,
}

impl Default for SourceSettings {
    fn default() -> Self {
        Self {
            interval: None,
            timeout: None,
            enabled: true,
            isolation: None,
            memory_bytes: None,
            open_files: None,
            config: serde_json::Map::new(),
        }
    }
}

fn yes() -> bool {
    true
}

/// Why there are no settings. The program exits with 78.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    #[error(transparent)]
    File(#[from] ConfigError),
    /// A variable of the environment.
    #[error("{name}={value:?}: {problem}")]
    Environment {
        name: &'static str,
        value: String,
        problem: String,
    },
    #[error("the host name {0:?} is no device id; name the device with --device or DEVMON_DEVICE")]
    NoDevice(String),
    #[error(
        "publish_every with [spool] durability = \"strict\": a strict spool writes each round as it is measured, so rounds can not be put together; leave one of the two out"
    )]
    StrictBatches,
    #[error("topic prefix: {0}")]
    Topics(#[from] devmon_core::wire::topic::TopicError),
}

impl Settings {
    /// Layers flags, environment, file and defaults. `env` looks a variable up; an empty one counts as not set.
    ///
    /// # Errors
    /// [`SettingsError`] for the first thing that is wrong.
    pub fn resolve(
        flags: &Flags,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let env = Environment(&env);
        let path = flags.config.clone().or(env.parsed("DEVMON_CONFIG")?);
        let file = match &path {
            Some(path) => File::load(path)?,
            None => File::default(),
        };

        let device = flags.device.clone();
        let device = device.or(env.parsed("DEVMON_DEVICE")?);
        let device = device.or(env.parsed("DEVICE_NAME")?).or(file.device);
        let device = match device {
            Some(device) => device,
            None => host_name()?,
        };
        let mqtt = flags.mqtt.clone().or(env.parsed("DEVMON_MQTT")?);
        let mqtt = mqtt.or(env.aws_endpoint()?).or(file.mqtt);
        let interval = flags.interval.or(env.interval()?).or(file.interval);
        let plugin_dir = flags.plugin_dir.clone();
        let plugin_dir = plugin_dir.or(env.parsed("DEVMON_PLUGIN_DIR")?);
        let certs = flags.certs.clone().or(env.parsed("DEVMON_CERTS")?);
        let state_dir = flags.state_dir.clone();
        let state_dir = state_dir
            .or(env.parsed("DEVMON_STATE_DIR")?)
            .or(file.state_dir);
        let state_dir = state_dir.or_else(|| default_state_dir(&env));
        let prefix = flags.topic_prefix.clone();
        let prefix = prefix.or(env.parsed("DEVMON_TOPIC_PREFIX")?);
        let prefix = prefix.or(file.topic_prefix);
        let shards = flags
            .shards
            .or(env.parsed("DEVMON_SHARDS")?)
            .or(file.shards);
        let log_format = flags.log_format.or(env.log_format()?).or(file.log_format);
        let publish_every = file.publish_every.unwrap_or_default();
        let settings = Self {
            device,
            labels: file.labels,
            mqtt: mqtt.unwrap_or_else(|| MqttUrl {
                tls: false,
                host: "127.0.0.1".into(),
                port: 1883,
            }),
            interval: interval.unwrap_or(DEFAULT_INTERVAL),
            plugin_dir: plugin_dir
                .or(file.plugin_dir)
                .unwrap_or_else(default_plugin_dir),
            certs: certs.or(file.certs).unwrap_or_else(|| "certs".into()),
            topics: TopicScheme::new(
                prefix.as_deref().unwrap_or("devmon"),
                shards.map_or(1, NonZeroU32::get),
            )?,
            log_format: log_format.unwrap_or_default(),
            outbox_bytes: file.outbox_bytes.unwrap_or(outbox::DEFAULT_BYTES),
            publish_every,
            compression: file.compression.unwrap_or_default(),
            jitter: file.jitter.unwrap_or(DEFAULT_JITTER),
            state_dir,
            copies: Copies::InState,
            spool: file.spool,
            isolation: file.isolation,
            sources: file.sources,
        };
        if settings.is_strict_batch() {
            return Err(SettingsError::StrictBatches);
        }
        Ok(settings)
    }

    /// Where the spool lies and how much it may hold.
    #[must_use]
    pub fn spool_limits(&self) -> Option<Limits> {
        Some(Limits {
            dir: self.state_dir.as_ref()?.join("spool"),
            max_bytes: self.spool.max_bytes,
            max_age: self.spool.max_age,
        })
    }

    /// The settings of a source; the defaults if the file has none.
    #[must_use]
    pub fn source(&self, name: &str) -> SourceSettings {
        self.sources.get(name).cloned().unwrap_or_default()
    }

    /// The configuration of a source as JSON text.
    #[must_use]
    pub fn config_of(&self, name: &str) -> String {
        serde_json::Value::Object(self.source(name).config).to_string()
    }

    /// Where a source runs: its own setting, else the general one, else inline if it is bundled.
    #[must_use]
    pub fn isolation_of(&self, name: &str, bundled: bool) -> Isolation {
        let own = self.sources.get(name).and_then(|s| s.isolation);
        own.or(self.isolation).unwrap_or(if bundled {
            Isolation::Inline
        } else {
            Isolation::Process
        })
    }

    /// By how much this device publishes later than its ticks, when the shortest interval is this. Nothing with a strict spool: what is not packed is not on disk.
    #[must_use]
    pub fn jitter_for(&self, shortest: Duration) -> Duration {
        if self.spool.durability == Durability::Strict {
            return Duration::ZERO;
        }
        batch::jitter(&self.device, shortest.max(self.publish_every), self.jitter)
    }

    /// Sources that another configuration runs differently; `None`: all.
    #[must_use]
    pub fn changed_sources(&self, new: &Self) -> Option<Vec<String>> {
        if (self.interval, self.isolation) != (new.interval, new.isolation) {
            return None;
        }
        let names = self.sources.keys().chain(new.sources.keys());
        let changed = names.filter(|name| self.source(name) != new.source(name));
        Some(changed.cloned().collect())
    }

    /// What a source's process may use.
    #[must_use]
    pub fn limits_of(&self, name: &str) -> host::Limits {
        let usual = host::Limits::default();
        let own = self.source(name);
        host::Limits {
            memory_bytes: own.memory_bytes.unwrap_or(usual.memory_bytes),
            open_files: own.open_files.unwrap_or(usual.open_files),
        }
    }

    /// What a plugin's process may use before it has said what its source is called: as that of this name, by its file; if the configuration knows none, as the one that may use most, for it may be that one.
    #[must_use]
    pub fn trial_limits_of(&self, by_file: &str) -> host::Limits {
        if self.sources.contains_key(by_file) {
            return self.limits_of(by_file);
        }
        let each = self.sources.keys().map(|name| self.limits_of(name));
        each.fold(host::Limits::default(), |most, own| host::Limits {
            memory_bytes: most.memory_bytes.max(own.memory_bytes),
            open_files: most.open_files.max(own.open_files),
        })
    }

    /// For private copies of plugins.
    #[must_use]
    pub fn private_plugins(&self) -> Option<PathBuf> {
        match &self.copies {
            Copies::InState => Some(self.state_dir.as_ref()?.join("plugins")),
            Copies::In(dir) => Some(dir.clone()),
            Copies::Nowhere => None,
        }
    }

    /// The interval of a source: its own setting, else the plugin's wish, else the general one.
    #[must_use]
    pub fn interval_of(&self, name: &str, preferred: Option<Duration>) -> Duration {
        let own = self.sources.get(name).and_then(|s| s.interval);
        // The plugin's number comes from outside: it is bounded, not refused.
        let preferred = preferred.map(|p| p.clamp(MIN_INTERVAL, MAX_INTERVAL));
        own.or(preferred).unwrap_or(self.interval)
    }

    /// How long a round of a source may take, if that is set.
    #[must_use]
    pub fn timeout_of(&self, name: &str) -> Option<Duration> {
        self.sources.get(name)?.timeout
    }
}

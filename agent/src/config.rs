//! What was typed, set and written, made into one valid [`Settings`]: command line over environment over file over default.
//!
//! Every value is parsed where it enters, so that an error names its origin: the flag, the variable, or the file with line and column. A misspelt key is refused with the nearest
//! valid one. Relative paths in the file are relative to the file, those of flags and variables to the working directory.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use devmon_core::config::{self, ConfigError, DurationText};
use devmon_core::wire::{DeviceId, Labels, TopicScheme, labels};
use serde::{Deserialize, Deserializer};

use crate::batch;
use crate::connection::MqttUrl;
use crate::outbox::{self, Durability};
use crate::plugins::host;
use crate::spool::{self, Limits};

/// The commented default file; `devmon-agent config` prints it, and a test reads it back.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// Collectd's and Telegraf's default as well; 1 s is a choice for whoever watches.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
/// Shorter ones cost more than they show, and /proc/stat ticks at 10 ms.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Longer ones can not be told from a dead source.
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Of a round: less blames a busy machine; more is no round any more.
const MIN_TIMEOUT: Duration = Duration::from_millis(500);
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// A smaller outbox would not hold one full message.
const MIN_OUTBOX_BYTES: usize = 256 * 1024;
/// Enough to take the peak off; a value on the dashboard is this much older at most.
const DEFAULT_JITTER: Duration = Duration::from_secs(5);
/// A spool that forgets sooner would lose a restart of the broker.
const MIN_SPOOL_AGE: Duration = Duration::from_secs(60);
const SYSTEM_PLUGIN_DIR: &str = "/usr/lib/devmon/plugins";

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
    pub memory_bytes: Option<u64>,
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

/// One layer: whatever of it was given.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    device: Option<DeviceId>,
    #[serde(default, deserialize_with = "labels")]
    labels: Labels,
    mqtt: Option<MqttUrl>,
    #[serde(default, deserialize_with = "interval")]
    interval: Option<Duration>,
    plugin_dir: Option<PathBuf>,
    certs: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    #[serde(default, deserialize_with = "topic_prefix")]
    topic_prefix: Option<String>,
    shards: Option<NonZeroU32>,
    log_format: Option<LogFormat>,
    #[serde(default, deserialize_with = "outbox_bytes")]
    outbox_bytes: Option<usize>,
    #[serde(default, deserialize_with = "span")]
    publish_every: Option<Duration>,
    compression: Option<Compression>,
    #[serde(default, deserialize_with = "span")]
    jitter: Option<Duration>,
    #[serde(default)]
    spool: SpoolSettings,
    isolation: Option<Isolation>,
    #[serde(default)]
    sources: BTreeMap<String, SourceSettings>,
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

/// Flags that give settings; `None`: not given.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Name of this device [default: the host name]
    #[arg(long, global = true, value_name = "ID")]
    pub device: Option<DeviceId>,
    /// Broker or collector [default: mqtt://127.0.0.1:1883]
    #[arg(long, global = true, value_name = "mqtt[s]://HOST[:PORT]")]
    pub mqtt: Option<MqttUrl>,
    /// How often sources are asked, unless they have an interval of their own [default: 10s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_interval)]
    pub interval: Option<Duration>,
    /// Where plugins (lib*.so) lie [default: `plugins` beside the program, else /usr/lib/devmon/plugins]
    #[arg(long, global = true, value_name = "DIR")]
    pub plugin_dir: Option<PathBuf>,
    /// Where root-CA.crt, <device>.cert.pem and <device>.private.key lie, for mqtts [default: certs]
    #[arg(long, global = true, value_name = "DIR")]
    pub certs: Option<PathBuf>,
    /// For the agent's own files: the spool, copies of plugins [default: /var/lib/devmon-agent for root, else ~/.local/state/devmon-agent]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// First levels of all topics [default: devmon]
    #[arg(long, global = true, value_name = "PREFIX", value_parser = parse_topic_prefix)]
    pub topic_prefix: Option<String>,
    /// Number of shards that devices are spread over; the same on all devices [default: 1]
    #[arg(long, global = true, value_name = "N")]
    pub shards: Option<NonZeroU32>,
    /// Where log lines go and how [default: auto: the journal under systemd, else plain on standard error]
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Configuration file; `devmon-agent config` prints one
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
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
        if !publish_every.is_zero() && file.spool.durability == Durability::Strict {
            return Err(SettingsError::StrictBatches);
        }
        Ok(Self {
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
            spool: file.spool,
            isolation: file.isolation,
            sources: file.sources,
        })
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

    /// For private copies of plugins.
    #[must_use]
    pub fn private_plugins(&self) -> Option<PathBuf> {
        Some(self.state_dir.as_ref()?.join("plugins"))
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

impl File {
    fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut file: Self = config::load(path)?;
        let here = path.parent().unwrap_or(Path::new(""));
        for dir in [&mut file.plugin_dir, &mut file.certs, &mut file.state_dir] {
            *dir = dir.take().map(|dir| here.join(dir));
        }
        Ok(file)
    }
}

struct Environment<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Environment<'_> {
    fn with<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, SettingsError> {
        let Some(value) = self.0(name).filter(|v| !v.is_empty()) else {
            return Ok(None);
        };
        match parse(&value) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(problem) => Err(SettingsError::Environment {
                name,
                value,
                problem,
            }),
        }
    }

    fn parsed<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, SettingsError>
    where
        T::Err: std::fmt::Display,
    {
        self.with(name, |text| text.parse().map_err(|e: T::Err| e.to_string()))
    }

    fn interval(&self) -> Result<Option<Duration>, SettingsError> {
        self.with("DEVMON_INTERVAL", parse_interval)
    }

    fn log_format(&self) -> Result<Option<LogFormat>, SettingsError> {
        self.with("DEVMON_LOG_FORMAT", |text| {
            clap::ValueEnum::from_str(text, false)
        })
    }

    /// The seed's variable: a host, or host:port, always with TLS.
    fn aws_endpoint(&self) -> Result<Option<MqttUrl>, SettingsError> {
        self.with("AWS_IOT_ENDPOINT", |text| {
            format!("mqtts://{text}")
                .parse()
                .map_err(|_| "write the endpoint's host name, or host:port".to_owned())
        })
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let DurationText(interval) = text
        .parse()
        .map_err(|e: config::DurationError| e.to_string())?;
    if (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        Ok(interval)
    } else {
        Err(format!("{text} is no interval: 100ms to 24h"))
    }
}

fn parse_topic_prefix(text: &str) -> Result<String, String> {
    TopicScheme::new(text, 1).map_err(|e| e.to_string())?;
    Ok(text.to_owned())
}

fn interval<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(d)?;
    parse_interval(&text)
        .map(Some)
        .map_err(serde::de::Error::custom)
}

/// From [`MIN_TIMEOUT`] to [`MAX_TIMEOUT`].
fn timeout<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
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
fn span<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(d)?;
    match text.parse() {
        Ok(DurationText(span)) if span <= MAX_INTERVAL => Ok(Some(span)),
        Ok(_) => Err(serde::de::Error::custom(format!(
            "{text} is too long: at most 24h"
        ))),
        Err(e) => Err(serde::de::Error::custom(e)),
    }
}

fn topic_prefix<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(d)?;
    parse_topic_prefix(&text)
        .map(Some)
        .map_err(serde::de::Error::custom)
}

fn labels<'de, D: Deserializer<'de>>(from: D) -> Result<Labels, D::Error> {
    let labels = Labels::deserialize(from)?;
    labels::check_all(&labels).map_err(serde::de::Error::custom)?;
    Ok(labels)
}

fn outbox_bytes<'de, D: Deserializer<'de>>(d: D) -> Result<Option<usize>, D::Error> {
    let bytes = usize::deserialize(d)?;
    if bytes < MIN_OUTBOX_BYTES {
        return Err(serde::de::Error::custom(format!(
            "an outbox of {bytes} bytes holds no full message; the least is {MIN_OUTBOX_BYTES}"
        )));
    }
    Ok(Some(bytes))
}

fn spool_bytes<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    let bytes = u64::deserialize(d)?;
    let least = 4 * spool::SEGMENT_BYTES;
    if bytes < least {
        return Err(serde::de::Error::custom(format!(
            "a spool of {bytes} bytes is no use; the least is {least}"
        )));
    }
    Ok(bytes)
}

fn spool_age<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(d)?;
    match text.parse() {
        Ok(DurationText(age)) if age >= MIN_SPOOL_AGE => Ok(age),
        Ok(_) => Err(serde::de::Error::custom(format!(
            "{text} is too short for a spool: at least 1m"
        ))),
        Err(e) => Err(serde::de::Error::custom(e)),
    }
}

/// What the service manager set aside, else where the system or the user keeps state.
fn default_state_dir(env: &Environment<'_>) -> Option<PathBuf> {
    let variable = |name| env.0(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let own = "devmon-agent";
    variable("STATE_DIRECTORY")
        .or_else(|| is_root().then(|| Path::new("/var/lib").join(own)))
        .or_else(|| variable("XDG_STATE_HOME").map(|dir| dir.join(own)))
        .or_else(|| variable("HOME").map(|dir| dir.join(".local/state").join(own)))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn host_name() -> Result<DeviceId, SettingsError> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    name.parse()
        .map_err(|_| SettingsError::NoDevice(name.to_owned()))
}

fn default_plugin_dir() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join("plugins")));
    beside
        .filter(|dir| dir.is_dir())
        .unwrap_or_else(|| SYSTEM_PLUGIN_DIR.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: Flags, env: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::resolve(&flags, |name| {
            let found = env.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn in_file(text: &str) -> (tempfile::TempDir, Flags) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        let flags = Flags {
            config: Some(path),
            ..Flags::default()
        };
        (dir, flags)
    }

    #[test]
    fn the_printed_default_is_the_default() {
        let (_dir, flags) = in_file(DEFAULT_TOML);
        let device = ("DEVMON_DEVICE", "d");
        let printed = resolve(flags, &[device]).unwrap();
        let plain = resolve(Flags::default(), &[device]).unwrap();
        assert_eq!(printed.mqtt, plain.mqtt);
        assert_eq!(printed.interval, plain.interval);
        assert_eq!(printed.topics, plain.topics);
        assert_eq!(printed.outbox_bytes, plain.outbox_bytes);
        assert_eq!(printed.spool, plain.spool);
        assert_eq!(printed.publish_every, plain.publish_every);
        assert_eq!(printed.compression, plain.compression);
        assert_eq!(printed.jitter, plain.jitter);
        assert!(printed.sources.is_empty());

        // The lines that are commented out are right, too.
        let all: String = DEFAULT_TOML
            .lines()
            .map(|l| match l.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
                _ => format!("{l}\n"),
            })
            .collect();
        let (_dir, flags) = in_file(&all);
        let all = resolve(flags, &[]).unwrap();
        assert!(all.sources.contains_key("disk"), "{all:?}");
        assert_eq!(all.labels["site"], "berlin");
    }

    #[test]
    fn a_wrong_label_is_refused_with_its_place() {
        for (text, says) in [
            ("[labels]\nSite = 'x'\n", "a-z, 0-9 and _"),
            ("[labels]\nsite = 1\n", "string"),
        ] {
            let (_dir, flags) = in_file(text);
            let error = resolve(flags, &[("DEVMON_DEVICE", "d")]).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(says) && error.contains(":"), "{error}");
        }
    }

    #[test]
    fn batches_and_a_strict_spool_exclude_each_other() {
        let text = "publish_every = '1m'\n[spool]\ndurability = 'strict'\n";
        let (_dir, flags) = in_file(text);
        let error = resolve(flags, &[]).unwrap_err().to_string();
        assert!(error.contains("leave one of the two out"), "{error}");
    }

    #[test]
    fn the_command_line_wins_over_environment_over_file() {
        let (_dir, file) = in_file("device = 'file'\ninterval = '30s'\n");
        assert_eq!(resolve(file.clone(), &[]).unwrap().device.as_str(), "file");
        let seed = ("DEVICE_NAME", "seed");
        let of = |flags: &Flags, env: &[_]| resolve(flags.clone(), env).unwrap().device;
        assert_eq!(of(&file, &[seed]).as_str(), "seed");
        let ours = ("DEVMON_DEVICE", "ours");
        assert_eq!(of(&file, &[seed, ours]).as_str(), "ours");
        let flags = Flags {
            device: Some("flag".parse().unwrap()),
            ..file.clone()
        };
        assert_eq!(of(&flags, &[seed, ours]).as_str(), "flag");
        let empty = ("DEVMON_DEVICE", "");
        assert_eq!(of(&file, &[empty]).as_str(), "file");
        let at = |env: &[_]| resolve(file.clone(), env).unwrap().interval.as_secs();
        assert_eq!((at(&[]), at(&[("DEVMON_INTERVAL", "5s")])), (30, 5));
    }

    #[test]
    fn the_seeds_endpoint_means_tls() {
        let mqtt = |value| {
            let env = [("DEVMON_DEVICE", "d"), ("AWS_IOT_ENDPOINT", value)];
            resolve(Flags::default(), &env).map(|s| s.mqtt.to_string())
        };
        assert_eq!(
            mqtt("x-ats.iot.eu-west-1.amazonaws.com").unwrap(),
            "mqtts://x-ats.iot.eu-west-1.amazonaws.com:8883"
        );
        assert_eq!(mqtt("x:443").unwrap(), "mqtts://x:443");
        let error = mqtt("https://x").unwrap_err().to_string();
        assert!(error.starts_with("AWS_IOT_ENDPOINT="), "{error}");
    }

    #[test]
    fn an_error_names_its_place() {
        for (text, place, part) in [
            (
                "device = 'd'\nintervall = '1s'\n",
                ":2:1: ",
                "did you mean \"interval\"",
            ),
            (
                "[sources.cpu]\nenable = true\n",
                ":2:1: ",
                "did you mean \"enabled\"",
            ),
            ("mqtt = 'http://x'\n", ":1:8: ", "mqtt://host:port"),
            ("device = '_x'\n", ":1:10: ", "not legal"),
            ("\ninterval = '1ms'\n", ":2:12: ", "100ms to 24h"),
            ("shards = 0\n", ":1:10: ", "nonzero"),
            ("topic_prefix = 'a+'\n", ":1:16: ", "topic prefix"),
            ("outbox_bytes = 5\n", ":1:16: ", "the least is"),
            ("[sources.cpu]\nconfig = 3\n", ":2:10: ", "map"),
        ] {
            let (_dir, flags) = in_file(text);
            let error = resolve(flags, &[]).unwrap_err().to_string();
            assert!(
                error.contains(place) && error.contains(part),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_sources_interval_is_its_own_else_the_plugins_else_the_general_one() {
        let (_dir, flags) = in_file("interval = '20s'\n[sources.a]\ninterval = '1s'\n");
        let settings = resolve(flags, &[("DEVMON_DEVICE", "d")]).unwrap();
        let of = |name, ms: Option<u64>| {
            settings
                .interval_of(name, ms.map(Duration::from_millis))
                .as_millis()
        };
        assert_eq!(of("a", Some(5_000)), 1_000);
        assert_eq!(of("b", Some(5_000)), 5_000);
        assert_eq!(of("b", None), 20_000);
        assert_eq!(of("b", Some(1)), 100);
    }

    #[test]
    fn paths_in_a_file_are_relative_to_it() {
        let (dir, flags) = in_file("device = 'd'\ncerts = 'keys'\n");
        assert_eq!(resolve(flags, &[]).unwrap().certs, dir.path().join("keys"));
    }
}

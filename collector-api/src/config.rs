//! What was asked for, layered (command line over environment over file over default) and checked: [`Settings`].
//!
//! Every refusal is one paragraph that says what is wrong, where it was said, and what to do. Whoever holds [`Settings`] can start: addresses are parsed,
//! certificates were read, the rules about who may reach what are kept.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use devmon_core::config::DurationText;
use devmon_core::tls::CertFiles;
use devmon_core::wire::TopicScheme;
use serde::Deserialize;

use crate::api::Origins;
use crate::api::server::{IDLE_TIMEOUT, per_address};
use crate::cli::RunArgs;
use crate::forward;
use crate::home_assistant;
use crate::intake::{BrokerSettings, IntakeSettings, Limits};
use crate::store::{Keep, Options};

/// Name of the collector's own certificate files.
pub const CERT_NAME: &str = "collector";
const DEFAULT_HTTP: &str = "127.0.0.1:8765";
const DEFAULT_MQTT: &str = "127.0.0.1:1883";
const DEFAULT_HTTP_CONNECTIONS: usize = 512;
/// What `devmon-collector config` prints: every key with its default and its meaning.
pub const DEFAULT_TOML: &str = include_str!("default.toml");
/// A shorter time would cut off phones, a longer one keeps connections of clients that are gone.
const MIN_IDLE: Duration = Duration::from_secs(1);
const MAX_IDLE: Duration = Duration::from_secs(600);
/// Shorter tokens can be guessed.
const MIN_TOKEN_CHARS: usize = 16;

/// A configuration that can not be used; the program ends with code 78 (`EX_CONFIG`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// The configuration file. All keys may be left out.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    data_dir: Option<PathBuf>,
    http: Option<String>,
    http_max_connections: Option<usize>,
    http_max_connections_per_address: Option<usize>,
    http_idle_timeout: Option<DurationText>,
    #[serde(default)]
    http_cors_origins: Vec<String>,
    api_token_file: Option<PathBuf>,
    mqtt_listen: Option<String>,
    mqtt_plain: Option<bool>,
    mqtt_max_connections: Option<usize>,
    mqtt_max_receiving_bytes: Option<usize>,
    broker: Option<String>,
    broker_client_id: Option<String>,
    certs: Option<PathBuf>,
    topic_prefix: Option<String>,
    shards: Option<u32>,
    shard: Option<u32>,
    max_ahead: Option<DurationText>,
    retention: Option<DurationText>,
    retention_1m: Option<DurationText>,
    retention_1h: Option<DurationText>,
    archive_after: Option<DurationText>,
    archive_late_after: Option<DurationText>,
    archive_max_bytes: Option<u64>,
    #[serde(default)]
    keep: Vec<KeepRule>,
    dead_letters_max_bytes: Option<u64>,
    max_devices: Option<u64>,
    max_device_series: Option<u64>,
    max_series: Option<u64>,
    log_format: Option<String>,
    #[serde(default)]
    store: StoreKeys,
    #[serde(default)]
    remote_write: Vec<forward::Keys>,
    home_assistant: Option<home_assistant::Keys>,
}

/// When the heads are sealed: [`Options`]. The defaults suit every load that is known; tests want many small seals.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreKeys {
    seal_samples: Option<u64>,
    seal_bytes: Option<u64>,
    seal_max_bytes: Option<u64>,
    seal_journal_bytes: Option<u64>,
    seal_age: Option<DurationText>,
}

/// Of the machine's memory, unless it is said otherwise: what the heads hold before they are sealed, and the most that this may grow to. Four times the first, twice the
/// second may be in memory before commits wait.
const SEAL_PART: u64 = 16;
const SEAL_MAX_PART: u64 = 4;

impl StoreKeys {
    fn apply(&self, store: &mut Options) {
        store.seal_samples = self.seal_samples.unwrap_or(store.seal_samples).max(1);
        let memory = memory_bytes().unwrap_or(u64::MAX);
        let usual = store.seal_bytes.min(memory / SEAL_PART);
        store.seal_bytes = self.seal_bytes.unwrap_or(usual).max(1);
        let most = store.seal_max_bytes.min(memory / SEAL_MAX_PART);
        store.seal_max_bytes = self.seal_max_bytes.unwrap_or(most);
        // A journal whose segments are smaller than a record could not be trimmed in step with the seals.
        let journal_bytes = self.seal_journal_bytes.unwrap_or(store.seal_journal_bytes);
        store.seal_journal_bytes = journal_bytes.max(64 << 10);
        store.seal_age = self.seal_age.map_or(store.seal_age, |age| age.0);
    }
}

/// Memory of this machine, in bytes, or what a container may use of it.
fn memory_bytes() -> Option<u64> {
    let text = |path: &str| std::fs::read_to_string(path).ok();
    let total = text("/proc/meminfo")?
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<u64>()
                .ok()
        })?
        .saturating_mul(1024);
    let limit = text("/sys/fs/cgroup/memory.max").and_then(|limit| limit.trim().parse().ok());
    Some(limit.map_or(total, |limit: u64| limit.min(total)))
}

/// Paths that are kept for a shorter time.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeepRule {
    paths: String,
    age: DurationText,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Plain,
    Json,
}

/// The listener's part.
#[derive(Debug, Clone)]
pub struct Listen {
    pub addr: SocketAddr,
    /// `None`: plain TCP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub limits: Limits,
}

/// All that the collector needs to know to start.
#[derive(Debug, Clone)]
pub struct Settings {
    pub data_dir: PathBuf,
    pub http: SocketAddr,
    pub http_max_connections: usize,
    pub http_max_connections_per_address: usize,
    /// How long the headers of a call may take, and the next call on a connection.
    pub http_idle_timeout: Duration,
    pub http_origins: Origins,
    pub token: Option<String>,
    /// `None`: no listener.
    pub listen: Option<Listen>,
    /// `None`: no broker. One of the two is there.
    pub broker: Option<BrokerSettings>,
    pub intake: IntakeSettings,
    pub store: Options,
    /// Who takes what is stored, too.
    pub remote_write: Vec<forward::Target>,
    /// `None`: nothing is said to Home Assistant.
    pub home_assistant: Option<home_assistant::Settings>,
    pub log_format: LogFormat,
}

/// A value, and where it was said.
#[derive(Debug, Clone)]
struct Said<T> {
    value: T,
    by: String,
}

/// The three layers of one run.
struct Layers<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    /// The file's name for messages.
    file: String,
}

impl Layers<'_> {
    /// The topmost layer that says something about `key` (as in the file: `mqtt_listen`).
    fn pick<T>(
        &self,
        key: &str,
        typed: Option<T>,
        from_env: fn(String) -> T,
        in_file: Option<T>,
    ) -> Option<Said<T>> {
        let flag = format!("--{}", key.replace('_', "-"));
        let variable = format!("DEVMON_{}", key.to_uppercase());
        let said = |value, by| Said { value, by };
        typed
            .map(|v| said(v, flag))
            .or_else(|| {
                (self.env)(&variable)
                    .filter(|v| !v.is_empty())
                    .map(|v| said(from_env(v), variable))
            })
            .or_else(|| in_file.map(|v| said(v, format!("{key} in {}", self.file))))
    }
}

impl Settings {
    /// Layers and checks what was asked for. `env` looks an environment variable up.
    ///
    /// # Errors
    /// [`Invalid`] for the first thing that can not be used.
    pub fn load(typed: &RunArgs, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Invalid> {
        let mut layers = Layers {
            env,
            file: String::new(),
        };
        let path = layers.pick("config", typed.config.clone(), PathBuf::from, None);
        let file = match path {
            None => File::default(),
            Some(path) => {
                layers.file = path.value.display().to_string();
                devmon_core::config::load(&path.value).map_err(|e| Invalid(e.to_string()))?
            }
        };
        Self::layer(typed, &layers, file)
    }

    fn layer(typed: &RunArgs, layers: &Layers<'_>, file: File) -> Result<Self, Invalid> {
        let text = |s: String| s;
        let data_dir = layers.pick(
            "data_dir",
            typed.data_dir.clone(),
            PathBuf::from,
            file.data_dir,
        );
        let http = layers.pick("http", typed.http.clone(), text, file.http);
        let token_file = layers.pick(
            "api_token_file",
            typed.api_token_file.clone(),
            PathBuf::from,
            file.api_token_file,
        );
        let certs = layers.pick("certs", typed.certs.clone(), PathBuf::from, file.certs);
        let mqtt_listen = layers.pick(
            "mqtt_listen",
            typed.mqtt_listen.clone(),
            text,
            file.mqtt_listen,
        );
        let plain_typed = typed.mqtt_plain.then(|| "true".to_owned());
        let plain = layers.pick(
            "mqtt_plain",
            plain_typed,
            text,
            file.mqtt_plain.map(|p| p.to_string()),
        );
        let log_format = layers.pick(
            "log_format",
            typed.log_format.clone(),
            text,
            file.log_format,
        );
        let broker = layers
            .pick("broker", typed.broker.clone(), text, None)
            .or_else(|| {
                let endpoint = (layers.env)("AWS_IOT_ENDPOINT").filter(|e| !e.is_empty());
                let aws = endpoint.map(|e| Said {
                    value: format!("mqtts://{e}"),
                    by: "AWS_IOT_ENDPOINT".into(),
                });
                aws.or_else(|| {
                    file.broker.map(|value| Said {
                        value,
                        by: format!("broker in {}", layers.file),
                    })
                })
            });

        let scheme = TopicScheme::new(
            file.topic_prefix.as_deref().unwrap_or("devmon"),
            file.shards.unwrap_or(1),
        )
        .map_err(|e| Invalid(format!("{}: {e}", layers.file)))?;
        if let Some(shard) = file.shard.filter(|s| *s >= file.shards.unwrap_or(1)) {
            return Err(Invalid(format!(
                "{}: shard = {shard} is not there: shards are counted from 0 and there are {}",
                layers.file,
                file.shards.unwrap_or(1)
            )));
        }
        let certs_dir = certs.as_ref().map(|c| c.value.as_path());
        let broker = broker
            .map(|said| {
                let mut broker = parse_broker(&said, certs_dir.unwrap_or(Path::new("certs")))?;
                broker.scheme = scheme.clone();
                broker.shard = file.shard;
                if let Some(id) = file.broker_client_id {
                    broker.client_id = id;
                }
                Ok(broker)
            })
            .transpose()?;

        let plain = plain
            .map(|said| parse_bool(&said))
            .transpose()?
            .unwrap_or(false);
        let limits = Limits {
            connections: file
                .mqtt_max_connections
                .unwrap_or(Limits::default().connections),
            receiving_bytes: file
                .mqtt_max_receiving_bytes
                .unwrap_or(Limits::default().receiving_bytes)
                .max(Limits::default().packet_bytes as usize),
            ..Limits::default()
        };
        let listen = listen(mqtt_listen, broker.is_some(), plain, certs_dir, limits)?;
        if listen.is_none() && broker.is_none() {
            return Err(Invalid(
                "nothing would bring messages in: mqtt_listen is off and there is no broker. Give --mqtt-listen 127.0.0.1:1883 to let devices connect here, or --broker mqtt://host:1883 to read from a broker.".into(),
            ));
        }

        let token = token_file.map(|said| read_token(&said)).transpose()?;
        let http = http.unwrap_or_else(|| default(DEFAULT_HTTP));
        let http_addr = parse_addr(&http)?;
        if !http_addr.ip().is_loopback() && token.is_none() {
            return Err(Invalid(format!(
                "{}: {http_addr} can be reached from other machines, and without a token anybody there could read everything. Write a long random text into a file (openssl rand -hex 32) and name it with --api-token-file, or listen on 127.0.0.1.",
                http.by
            )));
        }

        let http_max_connections = file
            .http_max_connections
            .unwrap_or(DEFAULT_HTTP_CONNECTIONS)
            .max(1);
        let http_idle_timeout = file.http_idle_timeout.map_or(IDLE_TIMEOUT, |said| said.0);
        if !(MIN_IDLE..=MAX_IDLE).contains(&http_idle_timeout) {
            return Err(Invalid(format!(
                "{}: http_idle_timeout is out of range; write {MIN_IDLE:?} to {MAX_IDLE:?}.",
                layers.file
            )));
        }
        let origins = file.http_cors_origins.iter().map(String::as_str);
        let http_origins = Origins::parse(origins)
            .map_err(|e| Invalid(format!("{}: http_cors_origins: {e}.", layers.file)))?;

        let mut intake = IntakeSettings {
            scheme,
            ..IntakeSettings::default()
        };
        if let Some(max_ahead) = file.max_ahead {
            intake.max_ahead_ms = i64::try_from(max_ahead.0.as_millis()).unwrap_or(i64::MAX);
        }
        let mut store = Options::default();
        file.store.apply(&mut store);
        if let Some(retention) = file.retention {
            store.retention = retention.0;
        }
        let tiers = [
            (file.retention_1m, &mut store.retention_1m),
            (file.retention_1h, &mut store.retention_1h),
            (file.archive_after, &mut store.archive_after),
            (file.archive_late_after, &mut store.archive_late_after),
        ];
        for (said, option) in tiers {
            *option = said.map_or(*option, |said| said.0);
        }
        store.archive_max_bytes = file.archive_max_bytes;
        for rule in file.keep {
            let paths = rule.paths.parse();
            let paths = paths.map_err(|e| Invalid(format!("{}: keep: {e}", layers.file)))?;
            let age = rule.age.0;
            store.keep.push(Keep { paths, age });
        }
        if let Some(bytes) = file.dead_letters_max_bytes {
            store.dead_letters_bytes = bytes;
        }
        for (limit, said) in [
            (&mut store.max_devices, file.max_devices),
            (&mut store.max_device_series, file.max_device_series),
            (&mut store.max_series, file.max_series),
        ] {
            *limit = said.unwrap_or(*limit);
        }
        let remote_write = forward_to(file.remote_write)
            .map_err(|what| Invalid(format!("{}: remote_write: {what}.", layers.file)))?;
        let home_assistant = match file.home_assistant {
            None => None,
            Some(keys) => home_assistant::Settings::new(keys, broker.as_ref())
                .map_err(|what| Invalid(format!("{}: home_assistant: {what}.", layers.file)))?,
        };
        Ok(Self {
            data_dir: data_dir.map_or_else(|| PathBuf::from("data"), |d| d.value),
            http: http_addr,
            http_max_connections,
            http_max_connections_per_address: file
                .http_max_connections_per_address
                .unwrap_or_else(|| per_address(http_max_connections))
                .max(1),
            http_idle_timeout,
            http_origins,
            token,
            listen,
            broker,
            intake,
            store,
            remote_write,
            home_assistant,
            log_format: log_format
                .map(|said| parse_log_format(&said))
                .transpose()?
                .unwrap_or_default(),
        })
    }

    /// How messages come in, as the API says it.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        match (&self.listen, &self.broker) {
            (Some(_), Some(_)) => "listener+broker",
            (None, Some(_)) => "broker",
            (_, None) => "listener",
        }
    }
}

impl fmt::Display for Settings {
    /// What would be done, for `check`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "keep data in {} for {} days",
            self.data_dir.display(),
            self.store.retention.as_secs() / 86_400
        )?;
        let who = if self.token.is_some() {
            "callers with the token"
        } else {
            "everybody on this machine"
        };
        writeln!(
            f,
            "serve the API and the dashboard on http://{} to {who}",
            self.http
        )?;
        if let Some(listen) = &self.listen {
            let how = if listen.tls.is_some() {
                "with TLS and client certificates"
            } else {
                "without TLS"
            };
            writeln!(f, "let devices connect to {} {how}", listen.addr)?;
        }
        if let Some(broker) = &self.broker {
            let how = if broker.tls.is_some() {
                "with TLS"
            } else {
                "without TLS"
            };
            writeln!(
                f,
                "read from the broker {}:{} {how} as {}",
                broker.host, broker.port, broker.client_id
            )?;
        }
        for target in &self.remote_write {
            writeln!(
                f,
                "forward by remote write to {} as {}",
                target.url, target.name
            )?;
        }
        if let Some(home_assistant) = &self.home_assistant {
            writeln!(f, "{}", home_assistant.describe())?;
        }
        Ok(())
    }
}

fn default(value: &str) -> Said<String> {
    Said {
        value: value.to_owned(),
        by: "default".into(),
    }
}

/// The targets; an error names which of them it is about.
fn forward_to(all: Vec<forward::Keys>) -> Result<Vec<forward::Target>, String> {
    let numbered = all.into_iter().enumerate();
    let checked = numbered.map(|(n, keys)| {
        forward::Target::new(keys).map_err(|what| format!("number {}: {what}", n + 1))
    });
    let targets: Vec<_> = checked.collect::<Result<_, _>>()?;
    forward::check_names(&targets)?;
    Ok(targets)
}

fn listen(
    said: Option<Said<String>>,
    has_broker: bool,
    plain: bool,
    certs: Option<&Path>,
    limits: Limits,
) -> Result<Option<Listen>, Invalid> {
    let said = match said {
        Some(said) => said,
        None if has_broker => return Ok(None), // a broker on this machine has the default port already
        None => default(DEFAULT_MQTT),
    };
    if said.value == "off" {
        return Ok(None);
    }
    let addr = parse_addr(&said)?;
    let tls = match certs {
        Some(dir) if !plain => {
            let config = CertFiles::named(dir, CERT_NAME).server_config();
            Some(config.map_err(|e| {
                Invalid(format!("{e}. The listener on {addr} speaks TLS because a folder of certificates was given; devmon-collector certs init --dir {} makes them.", dir.display()))
            })?)
        }
        _ => None,
    };
    if tls.is_none() && !addr.ip().is_loopback() && !plain {
        return Err(Invalid(format!(
            "{}: {addr} can be reached from other machines, and without TLS anybody there could send data as any device. Give a folder of certificates (--certs DIR; devmon-collector certs init makes one), or say --mqtt-plain if the network is trusted as a whole.",
            said.by
        )));
    }
    Ok(Some(Listen { addr, tls, limits }))
}

fn parse_addr(said: &Said<String>) -> Result<SocketAddr, Invalid> {
    let text = said.value.as_str();
    let local = || {
        Some(SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            text.strip_prefix("localhost:")?.parse().ok()?,
        )))
    };
    text.parse().ok().or_else(local).ok_or_else(|| {
        Invalid(format!(
            "{}: {text:?} is no address; write an IP address and a port, such as 127.0.0.1:8765, [::1]:8765 or 0.0.0.0:8765 (port 0 takes any free one).",
            said.by
        ))
    })
}

fn parse_broker(said: &Said<String>, certs: &Path) -> Result<BrokerSettings, Invalid> {
    let wrong = |what: &str| {
        Invalid(format!(
            "{}: {:?} {what}; write mqtt://host:1883 or mqtts://host:8883.",
            said.by, said.value
        ))
    };
    let (tls, rest) = match said.value.split_once("://") {
        Some(("mqtt", rest)) => (false, rest),
        Some(("mqtts", rest)) => (true, rest),
        _ => return Err(wrong("is no broker's address")),
    };
    let rest = rest.trim_end_matches('/');
    if rest.contains('@') {
        return Err(wrong(
            "holds a user name or password, which this version can not use: brokers know us by our certificate",
        ));
    }
    // The last colon parts host and port, unless it stands within the brackets of an IPv6 address.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let port = port
                .parse()
                .ok()
                .filter(|p| *p > 0)
                .ok_or_else(|| wrong("has no valid port"))?;
            (host, port)
        }
        _ => (rest, if tls { 8883 } else { 1883 }),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains(['/', ' ', '?', '#']) {
        return Err(wrong("names no host"));
    }
    let mut settings = BrokerSettings::new(host, port);
    if tls {
        let files = CertFiles::named(certs, CERT_NAME);
        files.client_config(&[]).map_err(|e| {
            Invalid(format!("{e}. {} asks for TLS, so the folder {} (--certs) has to hold root-CA.crt, collector.cert.pem and collector.private.key.", said.by, certs.display()))
        })?;
        settings.tls = Some(files);
    }
    Ok(settings)
}

fn read_token(said: &Said<PathBuf>) -> Result<String, Invalid> {
    let path = said.value.display();
    let text = std::fs::read_to_string(&said.value)
        .map_err(|e| Invalid(format!("{}: cannot read {path}: {e}; check that the file exists and that this user may read it.", said.by)))?;
    let token = text.trim();
    if token.len() < MIN_TOKEN_CHARS || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Invalid(format!(
            "{}: {path} has to hold one token of at least {MIN_TOKEN_CHARS} printable characters without spaces; openssl rand -hex 32 makes a good one.",
            said.by
        )));
    }
    Ok(token.to_owned())
}

fn parse_bool(said: &Said<String>) -> Result<bool, Invalid> {
    match said.value.as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(Invalid(format!(
            "{}: {other:?} is neither true nor false.",
            said.by
        ))),
    }
}

fn parse_log_format(said: &Said<String>) -> Result<LogFormat, Invalid> {
    match said.value.as_str() {
        "plain" => Ok(LogFormat::Plain),
        "json" => Ok(LogFormat::Json),
        other => Err(Invalid(format!(
            "{}: {other:?} is no log format; write plain or json.",
            said.by
        ))),
    }
}

//! What is said to Home Assistant, of whom, and where: `[home_assistant]` of the configuration, checked.

use std::time::Duration;

use devmon_core::config::DurationText;
use devmon_core::wire::DeviceId;
use serde::Deserialize;

use super::words;
use crate::intake::BrokerSettings;
use crate::store::Pattern;

/// Home Assistant's own default.
const DISCOVERY_PREFIX: &str = "homeassistant";
/// What most want to see of a machine at home.
const PATHS: [&str; 6] = [
    "/cpu/utilization",
    "/memory/utilization",
    "/disk/*/utilization",
    "/gpu/*/utilization",
    "/gpu/*/temperature_celsius",
    "/sensors/*/*/temperature_celsius",
];
/// Home Assistant's recorder keeps a row for each state that differs.
const INTERVAL: Duration = Duration::from_secs(30);
const MIN_INTERVAL: Duration = Duration::from_secs(1);
const MAX_INTERVAL: Duration = Duration::from_secs(3600);
/// Of a prefix; topics stay below what brokers allow.
const MAX_TOPIC_BYTES: usize = 64;

/// `[home_assistant]` as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    enabled: Option<bool>,
    discovery_prefix: Option<String>,
    status_topic: Option<String>,
    devices: Option<Vec<String>>,
    paths: Option<Vec<String>>,
    interval: Option<DurationText>,
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(super) broker: BrokerSettings,
    pub(super) discovery_prefix: String,
    /// Where Home Assistant says that it has come.
    pub(super) status_topic: String,
    devices: Vec<glob::Pattern>,
    paths: Vec<Chosen>,
    /// States of a device are said so often at most.
    pub(super) interval: Duration,
}

/// A pattern, and the path above its first `*`: what is to be looked through.
#[derive(Debug, Clone)]
struct Chosen {
    above: String,
    pattern: Pattern,
}

impl Settings {
    /// Checks what was written; `None` if it is switched off.
    ///
    /// # Errors
    /// What is wrong, where within the table, and what to do.
    pub fn new(keys: Keys, broker: Option<&BrokerSettings>) -> Result<Option<Self>, String> {
        let enabled = keys.enabled.unwrap_or(false);
        let prefix = keys
            .discovery_prefix
            .unwrap_or_else(|| DISCOVERY_PREFIX.to_owned());
        let discovery_prefix = topic("discovery_prefix", prefix)?;
        let status_topic = match keys.status_topic {
            Some(said) => topic("status_topic", said)?,
            None => format!("{discovery_prefix}/status"),
        };
        let interval = keys.interval.map_or(INTERVAL, |said| said.0);
        if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
            return Err(format!(
                "interval is out of range; write {MIN_INTERVAL:?} to {MAX_INTERVAL:?}"
            ));
        }
        let devices = keys.devices.unwrap_or_else(|| vec!["*".to_owned()]);
        let devices = devices.iter().map(|text| {
            let parsed = glob::Pattern::new(text);
            parsed.map_err(|e| {
                format!("devices: {text:?} is no pattern of ids: {e}; write one like edge_*")
            })
        });
        let paths = keys
            .paths
            .unwrap_or_else(|| PATHS.map(str::to_owned).to_vec());
        let paths = paths.iter().map(|text| {
            let pattern: Result<Pattern, String> = text.parse();
            let above = text.split("/*").next().unwrap_or_default().to_owned();
            Ok(Chosen {
                above,
                pattern: pattern.map_err(|e| format!("paths: {e}"))?,
            })
        });
        let (devices, paths) = (
            devices.collect::<Result<_, String>>()?,
            paths.collect::<Result<_, String>>()?,
        );
        if !enabled {
            return Ok(None);
        }
        let Some(broker) = broker else {
            return Err("enabled = true needs a broker that Home Assistant reads from, too: devices that connect to the collector itself can not be seen there. Name it with broker = \"mqtt://host:1883\", or set enabled = false".to_owned());
        };
        let mut broker = broker.clone();
        broker.client_id = format!("{}-home-assistant", broker.client_id);
        Ok(Some(Self {
            broker,
            discovery_prefix,
            status_topic,
            devices,
            paths,
            interval,
        }))
    }

    /// Names this collector in its topics: of the connection's client id, which no other collector has.
    pub(super) fn node(&self) -> String {
        words::id(&self.broker.client_id)
    }

    pub(super) fn wants_device(&self, device: &DeviceId) -> bool {
        let id = device.as_str();
        self.devices.iter().any(|pattern| pattern.matches(id))
    }

    pub(super) fn wants_path(&self, path: &str) -> bool {
        self.paths.iter().any(|chosen| chosen.pattern.matches(path))
    }

    /// Paths at or below which all chosen ones lie, each once.
    pub(super) fn above(&self) -> Vec<&str> {
        let mut above: Vec<&str> = self.paths.iter().map(|c| c.above.as_str()).collect();
        above.sort_unstable();
        above.dedup();
        above
    }

    /// What would be done, for `check`.
    #[must_use]
    pub fn describe(&self) -> String {
        format!(
            "announce {} patterns of paths to Home Assistant below {}, as {}",
            self.paths.len(),
            self.discovery_prefix,
            self.broker.client_id
        )
    }
}

fn topic(key: &str, text: String) -> Result<String, String> {
    let legal = !text.is_empty()
        && text.len() <= MAX_TOPIC_BYTES
        && !text.starts_with('/')
        && !text.ends_with('/')
        && !text.chars().any(|c| c.is_control() || "+#$".contains(c));
    legal.then_some(text).ok_or_else(|| {
        format!("{key} is no topic: 1 to {MAX_TOPIC_BYTES} bytes without + # or $, not starting or ending with '/'; Home Assistant's default is {DISCOVERY_PREFIX}")
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;

    pub(in super::super) fn settings(text: &str) -> Result<Option<Settings>, String> {
        settings_at(1883, text)
    }

    /// With the broker's port.
    pub(in super::super) fn settings_at(port: u16, text: &str) -> Result<Option<Settings>, String> {
        let keys: Keys =
            devmon_core::config::parse(text, Path::new("x.toml")).map_err(|e| e.to_string())?;
        Settings::new(keys, Some(&BrokerSettings::new("127.0.0.1", port)))
    }

    #[test]
    fn it_is_off_unless_it_is_switched_on_and_needs_a_broker() {
        assert!(settings("").unwrap().is_none());
        assert!(settings("enabled = false").unwrap().is_none());
        assert!(settings("enabled = true").unwrap().is_some());
        let keys = |text| devmon_core::config::parse::<Keys>(text, Path::new("x.toml")).unwrap();
        let error = Settings::new(keys("enabled = true"), None).unwrap_err();
        assert!(error.contains("needs a broker"), "{error}");
        assert!(
            Settings::new(keys("enabled = false"), None)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn what_can_not_be_used_is_refused_with_what_to_do() {
        for (text, said) in [
            ("discovery_prefix = 'a/#'", "discovery_prefix"),
            ("status_topic = ''", "status_topic"),
            ("interval = '0s'", "interval"),
            ("interval = '2h'", "interval"),
            ("devices = ['[']", "devices"),
            ("paths = ['cpu']", "paths"),
            ("path = []", "path"),
        ] {
            let error = settings(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn paths_are_looked_for_where_they_can_be() {
        let some = "enabled = true\npaths = ['/cpu/**', '/disk/*/used', '/disk/*/free', '/a/b', '/*/x']\ndevices = ['edge_*']";
        let settings = settings(some).unwrap().unwrap();
        assert_eq!(settings.above(), ["", "/a/b", "/cpu", "/disk"]);
        for (path, wanted) in [
            ("/cpu/load/1m", true),
            ("/disk/~1/used", true),
            ("/disk/~1/total", false),
            ("/a/b", true),
        ] {
            assert_eq!(settings.wants_path(path), wanted, "{path}");
        }
        assert!(settings.wants_device(&"edge_1".parse().unwrap()));
        assert!(!settings.wants_device(&"core_1".parse().unwrap()));
    }
}

//! One entity, the topics of all, and the discovery message. Pure.
//!
//! | topic | |
//! |---|---|
//! | `homeassistant/{sensor\|binary_sensor}/{node}/{entity}/config` | an entity's discovery |
//! | `devmon/ha/{node}/status` | `online`, or as last will `offline`: the collector |
//! | `devmon/ha/{node}/{device}/status` | `online` or `offline`: the device; `offline` while it is stale, too |
//! | `devmon/ha/{node}/{device}/state` | a JSON object: the value of each chosen path, `null` where none comes |
//!
//! All are retained: Home Assistant, and whoever else comes later, finds them at once. `node` is made of the connection's client id, so that each collector takes back its own only.

use devmon_core::MetricPath;
use devmon_core::descriptor::Descriptor;
use devmon_core::wire::DeviceId;
use devmon_core::wire::about::About;
use serde_json::{Value as Json, json};

use super::settings::Settings;
use super::words::{self, Form};
use crate::store::engine::SeriesRecord;

pub(super) const ONLINE: &str = "online";
pub(super) const OFFLINE: &str = "offline";

/// Where what is said.
#[derive(Debug, Clone)]
pub(super) struct Topics {
    discovery: String,
    node: String,
    /// Below it lie status and state of all devices.
    base: String,
}

impl Topics {
    pub(super) fn new(settings: &Settings) -> Self {
        let node = settings.node();
        Self {
            discovery: settings.discovery_prefix.clone(),
            base: format!("{}/ha/{node}", settings.broker.scheme.prefix()),
            node,
        }
    }

    /// The collector's own status.
    pub(super) fn collector(&self) -> String {
        format!("{}/status", self.base)
    }

    pub(super) fn status(&self, device: &str) -> String {
        format!("{}/{device}/status", self.base)
    }

    pub(super) fn state(&self, device: &str) -> String {
        format!("{}/{device}/state", self.base)
    }

    fn config(&self, component: &str, device: &DeviceId, path: &MetricPath) -> String {
        // A device's id holds no slash, so this is no other pair's.
        let entity = words::id(&format!("{device}{path}"));
        format!(
            "{}/{component}/{}/{entity}/config",
            self.discovery, self.node
        )
    }

    /// What this collector said, of discovery and of the rest.
    pub(super) fn own(&self) -> [String; 2] {
        let discovery = format!("{}/+/{}/+/config", self.discovery, self.node);
        [discovery, format!("{}/#", self.base)]
    }

    /// The device whose status or state this topic is; `None`: it is another.
    pub(super) fn device<'a>(&self, topic: &'a str) -> Option<&'a str> {
        let below = topic.strip_prefix(&self.base)?.strip_prefix('/')?;
        let (device, kind) = below.split_once('/')?;
        matches!(kind, "status" | "state").then_some(device)
    }
}

/// A series as Home Assistant has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entity {
    pub(super) topic: String,
    /// In the state's object.
    pub(super) key: String,
    pub(super) form: Form,
    name: String,
    unique_id: String,
}

impl Entity {
    pub(super) fn new(
        topics: &Topics,
        device: &DeviceId,
        series: &SeriesRecord,
        descriptor: Option<&Descriptor>,
    ) -> Self {
        let form = words::form(&series.path, descriptor, &series.last_value);
        let component = match form {
            Form::Binary => "binary_sensor",
            Form::Text | Form::Number { .. } => "sensor",
        };
        Self {
            topic: topics.config(component, device, &series.path),
            key: words::key(&series.path),
            name: words::name(&series.path, descriptor),
            unique_id: format!("devmon/{device}{}", series.path),
            form,
        }
    }

    /// The discovery message.
    pub(super) fn message(&self, topics: &Topics, device: &str, described: &Json) -> Vec<u8> {
        let (key, state) = (&self.key, topics.state(device));
        let mut message = json!({
            "name": self.name,
            "unique_id": self.unique_id,
            "device": described,
            "origin": {"name": "devmon-collector", "sw_version": env!("CARGO_PKG_VERSION")},
            "state_topic": state,
            "value_template": format!("{{{{ value_json['{key}'] }}}}"),
            "availability_mode": "all",
            "availability": [
                {"topic": topics.collector()},
                {"topic": topics.status(device)},
                {"topic": state, "value_template": format!("{{{{ 'online' if value_json.get('{key}') is not none else 'offline' }}}}")},
            ],
        });
        if let Form::Number {
            unit,
            device_class,
            state_class,
            percent,
        } = &self.form
        {
            let said = [
                ("unit_of_measurement", unit.as_deref()),
                ("device_class", *device_class),
                ("state_class", *state_class),
            ];
            for (name, value) in said {
                if let Some(value) = value {
                    message[name] = value.into();
                }
            }
            if *percent || *device_class == Some("temperature") {
                message["suggested_display_precision"] = 1.into();
            }
        }
        message.to_string().into_bytes()
    }
}

/// What a device is, as each of its entities says it.
pub(super) fn described(device: &DeviceId, about: Option<&About>) -> Json {
    let mut described = json!({
        "identifiers": [format!("devmon/{device}")],
        "name": device.as_str(),
    });
    if let Some(about) = about {
        if let Some(version) = &about.agent.version {
            described["sw_version"] = format!("devmon-agent {version}").into();
        }
        for (name, fact) in [("model", &about.host.os), ("hw_version", &about.host.arch)] {
            if let Some(fact) = fact {
                described[name] = fact.as_str().into();
            }
        }
    }
    described
}

/// The device that a discovery message of ours is about.
pub(super) fn device_of(message: &[u8]) -> Option<String> {
    let message: Json = serde_json::from_slice(message).ok()?;
    let id = message["device"]["identifiers"][0].as_str()?;
    id.strip_prefix("devmon/").map(str::to_owned)
}

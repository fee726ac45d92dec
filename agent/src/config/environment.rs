//! Variables of the environment, and what this machine says where nobody has said anything.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use devmon_core::wire::DeviceId;

use super::value::parse_interval;
use super::{LogFormat, SettingsError};
use crate::connection::MqttUrl;

const SYSTEM_PLUGIN_DIR: &str = "/usr/lib/devmon/plugins";

pub(super) struct Environment<'a>(pub(super) &'a dyn Fn(&str) -> Option<String>);

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

    pub(super) fn parsed<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, SettingsError>
    where
        T::Err: std::fmt::Display,
    {
        self.with(name, |text| text.parse().map_err(|e: T::Err| e.to_string()))
    }

    pub(super) fn interval(&self) -> Result<Option<Duration>, SettingsError> {
        self.with("DEVMON_INTERVAL", parse_interval)
    }

    pub(super) fn log_format(&self) -> Result<Option<LogFormat>, SettingsError> {
        self.with("DEVMON_LOG_FORMAT", |text| {
            clap::ValueEnum::from_str(text, false)
        })
    }

    /// The seed's variable: a host, or host:port, always with TLS.
    pub(super) fn aws_endpoint(&self) -> Result<Option<MqttUrl>, SettingsError> {
        self.with("AWS_IOT_ENDPOINT", |text| {
            format!("mqtts://{text}")
                .parse()
                .map_err(|_| "write the endpoint's host name, or host:port".to_owned())
        })
    }
}

/// What the service manager set aside, else where the system or the user keeps state.
pub(super) fn default_state_dir(env: &Environment<'_>) -> Option<PathBuf> {
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

pub(super) fn host_name() -> Result<DeviceId, SettingsError> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    name.parse()
        .map_err(|_| SettingsError::NoDevice(name.to_owned()))
}

pub(super) fn default_plugin_dir() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join("plugins")));
    beside
        .filter(|dir| dir.is_dir())
        .unwrap_or_else(|| SYSTEM_PLUGIN_DIR.into())
}

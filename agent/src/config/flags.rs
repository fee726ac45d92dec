//! The command line's share of the settings.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use devmon_core::wire::DeviceId;

use super::LogFormat;
use super::value::{parse_interval, parse_topic_prefix};
use crate::connection::MqttUrl;

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

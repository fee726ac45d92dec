//! What can be typed. What it means is [`config`](crate::config)'s.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Takes the devices' metrics in over MQTT, stores them, and serves the REST API and the dashboard.
#[derive(Debug, Parser)]
#[command(
    name = "devmon-collector",
    version,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Without a subcommand: `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the collector (the default).
    Run(RunArgs),
    /// Check the configuration and say what would be done; exit 78 if it can not be used.
    Check(RunArgs),
    /// Print the configuration file with every key, its default and its meaning.
    Config,
    /// Make certificates for development and small installations. Nothing is ever overwritten.
    #[command(subcommand)]
    Certs(Certs),
}

/// Each may also stand in the environment (`--http` as `DEVMON_HTTP`, and so on) or in the configuration file (`http = …`). The command line counts
/// most, then the environment, then the file.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// Where everything is kept [default: ./data].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the REST API and the dashboard listen [default: 127.0.0.1:8765]. Other than loopback addresses need api_token_file.
    #[arg(long, value_name = "ADDR:PORT")]
    pub http: Option<String>,
    /// Where devices connect [default: 127.0.0.1:1883, or off with a broker]. Other than loopback addresses need TLS (--certs).
    #[arg(long, value_name = "ADDR:PORT|off")]
    pub mqtt_listen: Option<String>,
    /// Let devices connect without TLS on any address: for networks that are trusted as a whole.
    #[arg(long)]
    pub mqtt_plain: bool,
    /// Read from a broker: mqtt://host:port or mqtts://host:port.
    #[arg(long, value_name = "URL")]
    pub broker: Option<String>,
    /// Folder with root-CA.crt, collector.cert.pem and collector.private.key. With it, the listener speaks TLS.
    #[arg(long, value_name = "DIR")]
    pub certs: Option<PathBuf>,
    /// File with the token that callers of the API have to know.
    #[arg(long, value_name = "FILE")]
    pub api_token_file: Option<PathBuf>,
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How logs are written to standard error: plain or json [default: plain].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Certs {
    /// Make a certificate authority and the collector's own certificate.
    Init {
        /// Folder to write to.
        #[arg(long, value_name = "DIR", default_value = "certs")]
        dir: PathBuf,
        /// Names and addresses by which devices reach the collector.
        #[arg(long, value_name = "NAME", num_args = 1.., default_values = ["localhost", "127.0.0.1", "::1"])]
        host: Vec<String>,
    },
    /// Make a device's certificate, signed by the authority in the folder.
    Device {
        /// The device's id; the certificate allows it to publish under this name only.
        name: String,
        /// Folder with root-CA.crt and root-CA.private.key.
        #[arg(long, value_name = "DIR", default_value = "certs")]
        dir: PathBuf,
    },
}

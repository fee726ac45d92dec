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
    /// Check every checksum and every reference of a store while no collector runs; exit 1 if something is wrong, with the place of each fault. Changes nothing.
    Verify(DataDir),
    /// Take what can be read of a damaged journal, keep the damaged segments aside, and say what is lost. Asks nothing.
    Salvage(DataDir),
    /// Bring what is in the journal into the database, and days that are over into their files, now, while no collector runs.
    Compact(DataDir),
    /// Say what a store holds: from its directory, or from a running collector.
    Status(StatusArgs),
    /// Write samples out as CSV, JSON lines or Parquet, which import reads again, while no collector runs.
    Export(ExportArgs),
    /// Read samples that export wrote, while no collector runs. Importing twice changes nothing.
    Import(ImportArgs),
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

/// Which store.
#[derive(Debug, Args)]
pub struct DataDir {
    /// Where the collector keeps everything.
    #[arg(
        long,
        value_name = "DIR",
        env = "DEVMON_DATA_DIR",
        default_value = "data"
    )]
    pub data_dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Where a collector that does not run keeps everything.
    #[arg(
        long,
        value_name = "DIR",
        env = "DEVMON_DATA_DIR",
        default_value = "data"
    )]
    pub data_dir: PathBuf,
    /// Ask the collector that runs there: http://127.0.0.1:8765.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// File with the token that the collector wants to be shown.
    #[arg(long, value_name = "FILE", requires = "url")]
    pub api_token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Where the collector keeps everything.
    #[arg(
        long,
        value_name = "DIR",
        env = "DEVMON_DATA_DIR",
        default_value = "data"
    )]
    pub data_dir: PathBuf,
    /// Of this device only; may stand several times [default: all].
    #[arg(long, value_name = "ID")]
    pub device: Vec<String>,
    /// Paths below this one, or that match this pattern: * within a name, ** over several [default: all].
    #[arg(long, value_name = "PATTERN")]
    pub path: Option<String>,
    /// From this time on: RFC 3339, unix seconds or ms, or -6h.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub from: Option<String>,
    /// Before this time.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub to: Option<String>,
    /// What is written: samples, or what is kept of them for longer.
    #[arg(long, value_enum, default_value_t = ExportTier::Raw)]
    pub tier: ExportTier,
    /// How it is written.
    #[arg(long, value_enum, default_value_t = ExportFormat::Csv)]
    pub format: ExportFormat,
    /// File to write; it is replaced once all is written [default, and -: standard output].
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// Columns device, path, ts, type, value.
    Csv,
    /// An object with the same names on each line.
    Jsonl,
    /// A Parquet file, if the program was built with it (cargo feature `parquet`).
    Parquet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportTier {
    /// Samples as they came: what import reads.
    Raw,
    /// Of each minute: count, min, max, sum, first, last, increase.
    #[value(name = "1m")]
    Minute,
    /// Of each hour.
    #[value(name = "1h")]
    Hour,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Where the collector keeps everything; made if it is not there.
    #[arg(
        long,
        value_name = "DIR",
        env = "DEVMON_DATA_DIR",
        default_value = "data"
    )]
    pub data_dir: PathBuf,
    /// Files that export wrote, CSV, JSON lines or Parquet; - for standard input.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
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

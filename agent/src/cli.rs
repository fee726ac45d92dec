//! What was typed: `run` (also without a word), `collect`, `plugins`, `check`, `config`, `check-plugin`.
//!
//! Exit codes: 0 ok, 1 failure, 78 (`EX_CONFIG`) for a bad command line or configuration, which a service manager need not retry.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use devmon_core::tls::{CertFiles, TlsError};

use crate::config::{Copies, DEFAULT_TOML, Flags, Settings};
use crate::plugins::host;
use crate::scratch::Scratch;
use crate::show::{self, Format, print};
use crate::{check, check_plugin, connection, daemon, footprint, log, private};

/// Bad configuration (sysexits.h).
pub(crate) const EX_CONFIG: u8 = 78;

/// Measures this device with plugins and publishes over MQTT.
#[derive(Parser)]
#[command(name = "devmon-agent", version, subcommand_required = false)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Subcommand)]
enum Command {
    /// Measure and publish until SIGTERM or SIGINT (the default)
    Run,
    /// Measure once and print, without a broker; fails if a source fails
    Collect {
        #[arg(long, value_enum, default_value = "tree")]
        format: Format,
    },
    /// List the files of the plugin directory with the verdict on each
    Plugins {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask the running agent how it does
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Have the running agent try a source again, also if it is quarantined, or a file that was refused
    Retry {
        /// The source's or the file's name
        source: String,
    },
    /// Check configuration, certificates, state directory and plugins, ask each source once, and connect to nothing
    Check,
    /// Print a commented configuration file
    Config,
    /// Runs one plugin for the agent
    #[command(name = host::COMMAND, hide = true)]
    PluginHost(host::Args),
    /// Try a plugin out in a process of its own, and tell its author all that is wrong with it
    CheckPlugin(check_plugin::CheckPlugin),
    /// What `check-plugin` starts
    #[command(hide = true)]
    CheckPluginChild(check_plugin::Child),
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    footprint::one_heap();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { EX_CONFIG } else { 0 });
        }
    };
    // These know nothing of the device.
    match &cli.command {
        Some(Command::Config) => return print(DEFAULT_TOML),
        Some(Command::CheckPlugin(check)) => {
            let config = cli.flags.config.as_deref();
            return check.run(config).unwrap_or_else(|e| refused(&e));
        }
        Some(Command::CheckPluginChild(child)) => return child.run(),
        Some(Command::PluginHost(args)) => return host::main(args),
        _ => {}
    }
    private::umask();
    let mut settings = match Settings::resolve(&cli.flags, variable) {
        Ok(settings) => settings,
        Err(e) => return refused(&e),
    };
    let level = match cli.command {
        None | Some(Command::Run) => "info",
        _ => "warn", // whoever waits at the terminal wants the answer
    };
    if let Err(e) = log::start(settings.log_format, level) {
        return refused(&e);
    }
    // The state directory is the service's: nothing that lies there is run by whoever types a command, and nothing is left there.
    let tries_plugins = matches!(
        cli.command,
        Some(Command::Collect { .. } | Command::Plugins { .. } | Command::Check)
    );
    let scratch = tries_plugins.then(Scratch::new);
    settings.copies = match &scratch {
        None => Copies::InState,
        Some(Ok(scratch)) => Copies::In(scratch.path().to_owned()),
        Some(Err(e)) => {
            eprintln!(
                "warning: no place for private copies of plugins ({e}): they run from where they lie; TMPDIR names another"
            );
            Copies::Nowhere
        }
    };
    match cli.command {
        None | Some(Command::Run) => run(settings, cli.flags),
        Some(Command::Collect { format }) => match daemon::runtime() {
            Ok(runtime) => runtime.block_on(show::collect(&settings, format)),
            Err(e) => failed(&e.into()),
        },
        Some(Command::Plugins { json }) => show::plugins(&settings, json),
        Some(Command::Status { json }) => show::status(&settings, json),
        Some(Command::Retry { source }) => show::retry(&settings, source),
        Some(Command::Check) => match (broker(&settings), daemon::runtime()) {
            (Err(code), _) => code,
            (Ok(_), Ok(runtime)) => runtime.block_on(check::check(&settings)),
            (Ok(_), Err(e)) => failed(&e.into()),
        },
        // Answered above.
        Some(
            Command::Config
            | Command::CheckPlugin(_)
            | Command::CheckPluginChild(_)
            | Command::PluginHost(_),
        ) => ExitCode::SUCCESS,
    }
}

fn run(settings: Settings, flags: Flags) -> ExitCode {
    if let Some(state) = &settings.state_dir {
        let below = [
            settings.private_plugins(),
            settings.spool_limits().map(|l| l.dir),
        ];
        let below: Vec<_> = below.into_iter().flatten().collect();
        if let Err(e) = private::judge(state, &below) {
            return refused(&e);
        }
    }
    let broker = match broker(&settings) {
        Ok(broker) => broker,
        Err(code) => return code,
    };
    let reread: daemon::Reread = Box::new(move || {
        let settings = Settings::resolve(&flags, variable).map_err(|e| e.to_string())?;
        let broker = broker_of(&settings).map_err(|e| e.to_string())?;
        Ok((settings, broker))
    });
    let ended = daemon::runtime()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let ended = runtime.block_on(daemon::run(settings, broker, reread));
            runtime.shutdown_background(); // a name lookup may still block a helper thread
            ended
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => failed(&e),
    }
}

fn broker(settings: &Settings) -> Result<connection::Broker, ExitCode> {
    broker_of(settings).map_err(|e| refused(&e))
}

fn broker_of(settings: &Settings) -> Result<connection::Broker, BrokerError> {
    let device = settings.device.as_str();
    let files = CertFiles::named(&settings.certs, device);
    connection::Broker::new(&settings.mqtt, files, device).map_err(|source| BrokerError {
        mqtt: settings.mqtt.to_string(),
        certs: settings.certs.clone(),
        source,
    })
}

/// The certificates of an `mqtts://` broker are no good; with the settings that lead to them.
#[derive(Debug, thiserror::Error)]
#[error(
    "{source}; it is wanted for mqtt = \"{mqtt}\", from certs = \"{}\" (agent.toml, --certs or DEVMON_CERTS)",
    certs.display()
)]
struct BrokerError {
    mqtt: String,
    certs: PathBuf,
    source: TlsError,
}

/// A variable that is no UTF-8 is seen with replacement characters and refused by whoever parses it.
fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())
}

fn refused(problem: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("devmon-agent: {problem}");
    ExitCode::from(EX_CONFIG)
}

fn failed(problem: &anyhow::Error) -> ExitCode {
    eprintln!("devmon-agent: {problem:#}");
    ExitCode::FAILURE
}

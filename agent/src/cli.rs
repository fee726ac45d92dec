//! What was typed: `run` (also without a word), `collect`, `plugins`, `check`, `config`, `check-plugin`.
//!
//! Exit codes: 0 ok, 1 failure, 78 (`EX_CONFIG`) for a bad command line or configuration, which a service manager need not retry.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{DEFAULT_TOML, Flags, LogFormat, Settings};
use crate::plugins::{directory, host};
use crate::show::{self, Format, print};
use crate::{check_plugin, connection, daemon};

/// Bad configuration (sysexits.h).
const EX_CONFIG: u8 = 78;

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
    /// Check the configuration, the certificates and the plugins, and connect to nothing
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
    // A variable that is no UTF-8 is seen with replacement characters and refused by whoever parses it.
    let env = |name: &str| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
    let settings = match Settings::resolve(&cli.flags, env) {
        Ok(settings) => settings,
        Err(e) => return refused(&e),
    };
    let level = match cli.command {
        None | Some(Command::Run) => "info",
        _ => "warn", // whoever waits at the terminal wants the answer
    };
    if let Err(code) = start_log(settings.log_format, level) {
        return code;
    }
    match cli.command {
        None | Some(Command::Run) => run(settings),
        Some(Command::Collect { format }) => match daemon::runtime() {
            Ok(runtime) => runtime.block_on(show::collect(&settings, format)),
            Err(e) => failed(&e.into()),
        },
        Some(Command::Plugins { json }) => show::plugins(&settings, json),
        Some(Command::Check) => check(&settings),
        // Answered above.
        Some(
            Command::Config
            | Command::CheckPlugin(_)
            | Command::CheckPluginChild(_)
            | Command::PluginHost(_),
        ) => ExitCode::SUCCESS,
    }
}

fn run(settings: Settings) -> ExitCode {
    let broker = match broker(&settings) {
        Ok(broker) => broker,
        Err(code) => return code,
    };
    let ended = daemon::runtime()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let ended = runtime.block_on(daemon::run(settings, broker));
            runtime.shutdown_background(); // a name lookup may still block a helper thread
            ended
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => failed(&e),
    }
}

fn broker(settings: &Settings) -> Result<connection::Broker, ExitCode> {
    let device = settings.device.as_str();
    let files = devmon_core::tls::CertFiles::named(&settings.certs, device);
    connection::Broker::new(&settings.mqtt, files, device).map_err(|e| refused(&e))
}

fn check(settings: &Settings) -> ExitCode {
    if let Err(code) = broker(settings) {
        return code;
    }
    let found = match directory::scan(settings) {
        Ok(found) => found,
        Err(e) => {
            let dir = settings.plugin_dir.display();
            return refused(&format!("cannot list plugin directory {dir}: {e}"));
        }
    };
    let sources: Vec<_> = found
        .iter()
        .filter_map(|f| f.verdict.as_ref().ok())
        .map(|p| p.name.as_str())
        .collect();
    for problem in show::unknown_sources(settings, &sources) {
        eprintln!("warning: {problem}");
    }
    for file in &found {
        if let Err(reason) = &file.verdict {
            eprintln!("warning: {}: {reason}", file.path.display());
        }
    }
    print(&format!(
        "ok device={} mqtt={} plugin_dir={} sources={}\n",
        settings.device,
        settings.mqtt,
        settings.plugin_dir.display(),
        sources.join(",")
    ))
}

/// Logs go to standard error; `DEVMON_LOG` filters them (`debug`, `devmon_agent=trace`).
fn start_log(format: LogFormat, level: &str) -> Result<(), ExitCode> {
    let filter = std::env::var("DEVMON_LOG").unwrap_or_default();
    let filter = if filter.is_empty() { level } else { &filter };
    let targets: Targets = filter
        .parse()
        .map_err(|e| refused(&format!("DEVMON_LOG={filter:?}: {e}")))?;
    let registry = tracing_subscriber::registry().with(targets);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
        LogFormat::Plain => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry
                .with(layer.with_ansi(colours).with_target(false))
                .init();
        }
    }
    Ok(())
}

fn refused(problem: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("devmon-agent: {problem}");
    ExitCode::from(EX_CONFIG)
}

fn failed(problem: &anyhow::Error) -> ExitCode {
    eprintln!("devmon-agent: {problem:#}");
    ExitCode::FAILURE
}

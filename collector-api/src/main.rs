//! The program `devmon-collector`: reads the command line, does what it says, and turns errors into exit codes: 78 for a configuration that can not be
//! used, 1 for everything else.

use std::process::ExitCode;

use clap::Parser;
use devmon_collector::cli::{Cli, Command};
use devmon_collector::config::{DEFAULT_TOML, Invalid, LogFormat, Settings};
use devmon_collector::{certs, commands, serve};
use tracing_subscriber::EnvFilter;

/// `EX_CONFIG` of sysexits.h.
const EX_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // Help and version are answers, not errors.
            return if error.use_stderr() {
                ExitCode::from(EX_CONFIG)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match act(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("devmon-collector: {error:#}");
            ExitCode::from(if error.is::<Invalid>() { EX_CONFIG } else { 1 })
        }
    }
}

fn act(cli: Cli) -> anyhow::Result<()> {
    let env = |name: &str| std::env::var(name).ok();
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(args) => {
            let settings = Settings::load(&args, &env)?;
            log_to_stderr(settings.log_format, "info")?;
            serve::run(settings)
        }
        Command::Check(args) => {
            print!("{}", Settings::load(&args, &env)?);
            Ok(())
        }
        Command::Config => {
            print!("{DEFAULT_TOML}");
            Ok(())
        }
        Command::Certs(command) => certs::run(&command),
        other => {
            log_to_stderr(LogFormat::Plain, "warn")?;
            look_after(other)
        }
    }
}

/// The commands for a store that does not run.
fn look_after(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Verify(args) => commands::verify::run(&args.data_dir),
        Command::Salvage(args) => commands::salvage::run(&args.data_dir),
        Command::Compact(args) => commands::compact::run(&args.data_dir),
        Command::Status(args) => match &args.url {
            Some(url) => commands::status::of_collector(url, args.api_token_file.as_deref()),
            None => commands::status::of_directory(&args.data_dir),
        },
        Command::Export(args) => commands::export::run(&args),
        Command::Import(args) => commands::import::run(&args),
        Command::Run(_) | Command::Check(_) | Command::Config | Command::Certs(_) => Ok(()), // done above
    }
}

/// Logs to standard error; standard output is for the line that says `ready`.
fn log_to_stderr(format: LogFormat, default: &str) -> Result<(), Invalid> {
    let said = ["RUST_LOG", "DEVMON_LOG"]
        .into_iter()
        .find_map(|name| Some((name, std::env::var(name).ok()?)));
    let filter = match said {
        None => EnvFilter::new(default),
        Some((name, text)) => EnvFilter::try_new(&text)
            .map_err(|e| Invalid(format!("{name}: {text:?} is no log filter: {e}; write info, debug, or devmon_collector=debug.")))?,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Plain => builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

//! `devmon-agent check-plugin FILE`: tells the author of a plugin all that is wrong with it, each with what to do.
//!
//! ```text
//! this process                                   child process: the agent again
//! watch ── configuration ──▶ socket pair ──────▶ child: load, make, describe, many rounds, drop, make again
//!   │  ◀── one line of JSON for each step ──────
//!   ▼
//! judge ─▶ findings ─▶ report
//! ```
//!
//! The plugin runs in the child only: a crash, a hang, an exit or memory without end is a finding, never our own end. What the plugin prints is caught.
//!
//! **Promises** exit code 0: nothing is wrong; 1: something is; 78: the command line can not be used. A finding is `wrong` (the agent refuses it, or readers are misled) or `look`
//! (it may be meant so); only what is wrong counts, unless `--strict` is given.

mod child;
mod judge;
mod report;
mod said;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

pub use child::Child;
use devmon_core::config::{DurationError, DurationText};

use crate::show::print;

/// The agent's deadline at the default interval.
const DEFAULT_DEADLINE: &str = "10s";

/// The command line. The plugin's configuration comes in the general flag `--config`, here as JSON.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Here --config takes the plugin's configuration, a JSON object: --config '{\"path\":\"/tmp\"}'.\n\
                  Exit code 0: nothing is wrong; 1: something is; 78: bad command line."
)]
pub struct CheckPlugin {
    /// The plugin: a shared library
    file: PathBuf,
    /// How often it is asked
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: u32,
    /// How long one call may take before the plugin counts as hanging
    #[arg(long, default_value = DEFAULT_DEADLINE, value_parser = deadline)]
    deadline: Duration,
    /// Let what is only worth a look count as wrong, too
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl CheckPlugin {
    /// Runs the plugin and prints what was found.
    ///
    /// # Errors
    /// What is wrong with the command line, or why no child could be started.
    pub fn run(&self, config: Option<&Path>) -> Result<ExitCode, String> {
        let config = config.map_or("{}", |c| c.to_str().unwrap_or_default());
        if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(config).is_err() {
            return Err(format!(
                "--config {config:?}: check-plugin takes the plugin's configuration here, a JSON object such as '{{\"path\":\"/tmp\"}}'"
            ));
        }
        if let Err(e) = std::fs::symlink_metadata(&self.file) {
            return Err(format!("{}: {e}", self.file.display()));
        }
        let mut judge = judge::Judge::new(&self.file, self.rounds);
        let ending = watch::watch(&self.file, config, self.rounds, self.deadline, |said| {
            judge.take(said);
        })
        .map_err(|e| format!("cannot run the plugin in a process of its own: {e}"))?;
        let report = judge.close(ending);
        let text = if self.json {
            format!("{:#}\n", report.json())
        } else {
            report.text()
        };
        print(&text);
        Ok(if report.is_good(self.strict) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn deadline(text: &str) -> Result<Duration, String> {
    let DurationText(duration) = text.parse().map_err(|e: DurationError| e.to_string())?;
    if duration < Duration::from_millis(100) {
        return Err("at least 100ms".into());
    }
    Ok(duration)
}

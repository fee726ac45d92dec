//! `check`: is this configuration one that an agent can run with?
//!
//! What would keep it from running is an error. What would cost metrics only is a warning, since the agent starts all the same: a source that nothing provides, a file that is refused, a
//! source that fails in its first round, a state directory that can not be written to. Nothing is connected to.

use std::path::Path;
use std::process::ExitCode;

use devmon_core::wire::about::SourceState;

use crate::config::Settings;
use crate::plugins::directory;
use crate::plugins::running::{self, Sources};
use crate::plugins::supervise;
use crate::show;

/// Prints warnings to standard error and one line that starts with `ok` to standard output. The broker's certificates are the caller's to read.
pub async fn check(settings: &Settings) -> ExitCode {
    let found = match directory::scan(settings) {
        Ok(found) => found,
        Err(e) => {
            let dir = settings.plugin_dir.display();
            eprintln!("devmon-agent: cannot list plugin directory {dir}: {e}");
            return ExitCode::from(crate::cli::EX_CONFIG);
        }
    };
    if !settings.plugin_dir.is_dir() {
        let dir = settings.plugin_dir.display();
        warn(format_args!(
            "plugin directory {dir} does not exist: nothing is measured but the agent itself until it does"
        ));
    }
    let mut known = Vec::new();
    let mut refused = Vec::new();
    for file in &found {
        match &file.verdict {
            Ok(plugin) => known.push(plugin.name.clone()),
            Err(reason) => {
                let name = directory::name_by_file(&file.file());
                if settings.source(&name).enabled {
                    warn(format_args!("{}: {reason}", file.path.display()));
                }
                refused.push(name);
            }
        }
    }
    for problem in running::unknown(settings, &[known.clone(), refused].concat()) {
        warn(problem);
    }
    match &settings.state_dir {
        None => warn(
            "no state directory: what the broker does not take is kept in memory only; give --state-dir",
        ),
        Some(dir) => {
            if let Err(e) = writable(dir) {
                let dir = dir.display();
                warn(format_args!(
                    "state directory {dir} can not be written to ({e}): what the broker does not take is kept in memory only"
                ));
            }
        }
    }

    let (mut sources, mut reports) = Sources::start(found, settings, supervise::deadline);
    show::round(
        &mut sources,
        &mut reports,
        &mut devmon_core::MetricTree::new(),
    )
    .await;
    for (name, (state, reason)) in sources.names().zip(sources.states()) {
        // Absent hardware is no mistake of the configuration; descriptors that are not usable are one of somebody's.
        if let (false, Some(reason)) = (state == SourceState::Unavailable, reason) {
            warn(format_args!("{name}: {reason}"));
        }
    }
    show::print(&format!(
        "ok device={} mqtt={} plugin_dir={} sources={}\n",
        settings.device,
        settings.mqtt,
        settings.plugin_dir.display(),
        known.join(",")
    ))
}

fn warn(problem: impl std::fmt::Display) {
    eprintln!("warning: {problem}");
}

/// Writes a file there and removes it; a directory that is not there yet is made, as `run` would.
fn writable(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let probe = dir.join(format!(".check-{}", std::process::id()));
    std::fs::write(&probe, b"devmon-agent check")?;
    std::fs::remove_file(&probe)
}

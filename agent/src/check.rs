//! `check`: is this configuration one that an agent can run with?
//!
//! What would keep it from running is an error. What would cost metrics only is a warning, since the agent starts all the same: a source that nothing provides, a file that is refused, a
//! source that fails in its first round, a state directory that can not be written to. Nothing is connected to.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use devmon_core::wire::about::SourceState;

use crate::config::Settings;
use crate::plugins::directory;
use crate::plugins::running::{self, Sources};
use crate::plugins::supervise;
use crate::{private, show};

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
            // Root looks at what is another user's, whose agent runs there.
            let of_another = rustix::process::geteuid().is_root()
                && std::fs::metadata(dir).is_ok_and(|m| m.uid() != 0);
            if !of_another && let Err(e) = private::judge(dir, &[]) {
                warn(format_args!("an agent does not start like that: {e}"));
            }
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

/// Writes a file there and removes it. In the place of a directory that is not there yet, as in the nearest one above that is: one that this made would belong to whoever typed the command, not to the service.
fn writable(dir: &Path) -> std::io::Result<()> {
    let dir = std::path::absolute(dir)?;
    let there = dir.ancestors().find(|d| d.exists()).unwrap_or(&dir);
    let probe = there.join(format!(".check-{}", std::process::id()));
    // Made and not found: what is there already may be a link of somebody's.
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&probe)?;
    let written = (&made).write_all(b"devmon-agent check");
    std::fs::remove_file(&probe)?;
    written
}

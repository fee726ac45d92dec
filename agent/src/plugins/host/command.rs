//! How the agent calls itself to be a host: with which arguments, and in which environment.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::{COMMAND, Limits};

pub(super) fn host_command(file: &str, limits: Limits) -> std::io::Result<Command> {
    let mut command = itself()?;
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_the_agents_own(name)) {
        command.env_remove(name);
    }
    command
        .arg0("devmon-agent")
        .arg(COMMAND)
        .arg("--parent")
        .arg(std::process::id().to_string())
        .arg("--memory-bytes")
        .arg(limits.memory_bytes.to_string())
        .arg("--open-files")
        .arg(limits.open_files.to_string())
        .arg("--name-from")
        .arg(file);
    Ok(command)
}

/// Variables that are for the agent and nobody that it starts: its own settings, which a plugin has no business to know, and what the service manager gives to one process only. All others
/// are passed on, as to what any program starts: `PATH`, `LANG`, `http_proxy`, and what the operator sets for a plugin.
fn is_the_agents_own(name: &OsStr) -> bool {
    let service_manager = [
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "JOURNAL_STREAM",
    ];
    name.as_encoded_bytes().starts_with(b"DEVMON_") || service_manager.iter().any(|n| name == *n)
}

/// A program with a host's limits, which ends with the agent; a copy of `file`.
pub(in crate::plugins) fn confined(
    program: &Path,
    file: &str,
    limits: Limits,
) -> std::io::Result<Command> {
    let mut command = host_command(file, limits)?;
    command.arg("--exec").arg("--").arg(program);
    Ok(command)
}

/// This program, as it was when it started: also if its file was replaced since.
fn itself() -> std::io::Result<Command> {
    let running = Path::new("/proc/self/exe");
    Ok(if running.exists() {
        Command::new(running)
    } else {
        Command::new(std::env::current_exe()?)
    })
}

//! Reads `/proc/uptime`, `/proc/stat`, `/proc/sys/fs/file-nr`, `/run/utmp`, and `/proc/PID/stat` of every process.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use devmon_core::CollectError;

use crate::utmp;

/// Where the files lie.
pub struct Roots {
    pub proc: PathBuf,
    /// `/run`.
    pub run: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            run: "/run".into(),
        }
    }
}

/// One round.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub uptime_seconds: f64,
    pub kernel: Kernel,
    /// Sessions; `None` without utmp.
    pub users: Option<u64>,
    pub open_files: Option<OpenFiles>,
    pub processes: Option<Count>,
}

/// From `/proc/stat`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    pub boot_time_seconds: Option<u64>,
    pub context_switches: Option<u64>,
    pub interrupts: Option<u64>,
    pub processes_created: Option<u64>,
}

/// Open files of the whole machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    pub allocated: u64,
    pub max: u64,
}

/// Processes by the state of their first thread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    pub running: u64,
    pub sleeping: u64,
    pub blocked: u64,
    pub idle: u64,
    pub stopped: u64,
    pub zombie: u64,
    /// All of these, and those in a state that is none of them.
    pub total: u64,
    pub threads: u64,
}

/// Reads a round; the processes only if asked for.
///
/// # Errors
/// [`CollectError::Failed`] when `/proc/uptime` cannot be read.
pub fn read(roots: &Roots, processes: bool) -> Result<Reading, CollectError> {
    let file = roots.proc.join("uptime");
    let failed = |e: String| CollectError::Failed(format!("cannot read {}: {e}", file.display()));
    let text = fs::read_to_string(&file).map_err(|e| failed(e.to_string()))?;
    let uptime_seconds =
        parse_uptime(&text).ok_or_else(|| failed(format!("it has {text:?} in it")))?;
    let stat = fs::read_to_string(roots.proc.join("stat")).unwrap_or_default();
    let file_nr = fs::read_to_string(roots.proc.join("sys/fs/file-nr")).unwrap_or_default();
    Ok(Reading {
        uptime_seconds,
        kernel: parse_stat(&stat),
        users: users(roots),
        open_files: parse_file_nr(&file_nr),
        processes: processes.then(|| count(&roots.proc)).flatten(),
    })
}

fn users(roots: &Roots) -> Option<u64> {
    let bytes = fs::read(roots.run.join("utmp")).ok()?;
    // An entry outlives a session that was killed; who(1) asks whether its process still runs as well.
    let alive = |pid: &i32| roots.proc.join(pid.to_string()).exists();
    Some(utmp::sessions(&bytes)?.filter(alive).count() as u64)
}

/// Asks each process; one that ends meanwhile is not counted. `None` if `/proc` cannot be listed.
fn count(proc: &Path) -> Option<Count> {
    let mut count = Count::default();
    let mut buffer = Vec::with_capacity(1024);
    for entry in fs::read_dir(proc).ok()?.flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        buffer.clear();
        let read = File::open(proc.join(&name).join("stat"))
            .and_then(|mut file| file.read_to_end(&mut buffer));
        if let (Ok(_), Some((state, threads))) = (read, parse_process(&buffer)) {
            count.add(state, threads);
        }
    }
    (count.total > 0).then_some(count)
}

impl Count {
    /// proc_pid_stat(5) has the letters.
    fn add(&mut self, state: u8, threads: u64) {
        let of_state = match state {
            b'R' => Some(&mut self.running),
            b'S' => Some(&mut self.sleeping),
            b'D' => Some(&mut self.blocked),
            b'I' => Some(&mut self.idle),
            b'T' | b't' => Some(&mut self.stopped),
            b'Z' => Some(&mut self.zombie),
            _ => None,
        };
        if let Some(of_state) = of_state {
            *of_state += 1;
        }
        self.total += 1;
        self.threads += threads;
    }
}

/// State and number of threads. The command, in parentheses, may hold spaces and parentheses itself: the last one ends it.
fn parse_process(stat: &[u8]) -> Option<(u8, u64)> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?; // field 3
    let threads = fields.nth(16)?.parse().ok()?; // field 20
    Some((state, threads))
}

fn parse_uptime(text: &str) -> Option<f64> {
    let seconds: f64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    (seconds.is_finite() && seconds >= 0.0).then_some(seconds)
}

fn parse_stat(text: &str) -> Kernel {
    let mut kernel = Kernel::default();
    for line in text.lines() {
        let Some((key, rest)) = line.split_once(' ') else {
            continue;
        };
        let slot = match key {
            "btime" => &mut kernel.boot_time_seconds,
            "ctxt" => &mut kernel.context_switches,
            "intr" => &mut kernel.interrupts, // the sum stands first
            "processes" => &mut kernel.processes_created,
            _ => continue,
        };
        *slot = rest
            .split_ascii_whitespace()
            .next()
            .and_then(|n| n.parse().ok());
    }
    kernel
}

/// `allocated unused max`; unused is 0 since Linux 2.6.
fn parse_file_nr(text: &str) -> Option<OpenFiles> {
    let mut fields = text.split_ascii_whitespace();
    Some(OpenFiles {
        allocated: fields.next()?.parse().ok()?,
        max: fields.nth(1)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_and_no_utf8_does_not_mislead() {
        let stat = b"7 (a) Z 1 (\xff) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 100 1 2\n";
        assert_eq!(parse_process(stat), Some((b'S', 9)));
        assert_eq!(parse_process(b"7 (a) S 1"), None);
        assert_eq!(parse_process(b")"), None);
        assert_eq!(parse_process(b""), None);
    }

    #[test]
    fn numbers_of_another_form_are_absent() {
        assert_eq!(parse_uptime("NaN 1"), None);
        assert_eq!(parse_uptime(""), None);
        assert_eq!(parse_file_nr("1 2"), None);
        assert_eq!(
            parse_stat("btime x\nctxt\nintr 5 0 0\n").interrupts,
            Some(5)
        );
    }
}

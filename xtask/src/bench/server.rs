//! A server under measurement: what it costs, what it holds, what lies on its disk.
//!
//! CPU time is user and system time of all its threads, from `/proc/PID/stat`; memory the kernel's high-water mark (`VmHWM`); disk what is allocated for every
//! file below its directory, so that preallocated and half-filled blocks count.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::http::Client;
use super::stop;
use crate::children::Running;

/// `USER_HZ`, the unit of times in `/proc`: 100 on every Linux that Debian builds.
const TICKS_PER_SECOND: f64 = 100.0;
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// A server that is killed half-way has not written what is counted next.
const END_DEADLINE: Duration = Duration::from_secs(120);
/// How often a server is asked whether it is ready: what a start-up time is exact to.
const POLL: Duration = Duration::from_millis(1);

/// A running server with the client that speaks to it.
pub(super) struct Server {
    process: Running,
    pub(super) http: Client,
    /// `http://host:port`.
    pub(super) base: String,
    /// From its start to its first answer.
    pub(super) ready_ms: f64,
}

impl Server {
    /// Starts a server that does not say when it is ready: it is asked `probe` until it answers. What it prints goes to `log`.
    pub(super) fn start(
        name: &str,
        mut command: Command,
        log: &Path,
        port: u16,
        probe: &str,
    ) -> anyhow::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(append(log)?)
            .stderr(append(log)?);
        let begin = Instant::now();
        let mut process = Running::start(name, command)?;
        let base = format!("http://127.0.0.1:{port}");
        let http = Client::new(&base);
        while let Err(error) = http.get(probe) {
            stop::check()?;
            if let Some(status) = process.ended()? {
                bail!("{name} ended at start ({status}): {}", tail(log));
            }
            if begin.elapsed() > READY_DEADLINE {
                bail!(
                    "{name} was not ready within {READY_DEADLINE:?}: {error:#}: {}",
                    tail(log)
                );
            }
            std::thread::sleep(POLL);
        }
        Ok(Self {
            process,
            http,
            base,
            ready_ms: begin.elapsed().as_secs_f64() * 1000.0,
        })
    }

    /// Starts a program of ours, which says `ready` with its addresses; that line is returned too.
    pub(super) fn ready(
        name: &str,
        mut command: Command,
        log: &Path,
    ) -> anyhow::Result<(Self, String)> {
        command.stdin(Stdio::null()).stderr(append(log)?);
        let begin = Instant::now();
        let (process, line) = Running::ready_unless(name, command, READY_DEADLINE, &stop::check)
            .with_context(|| tail(log))?;
        let ready_ms = begin.elapsed().as_secs_f64() * 1000.0;
        let base = word(&line, "http=")
            .context("its ready line names no http address")?
            .to_owned();
        let server = Self {
            process,
            http: Client::new(&base),
            base,
            ready_ms,
        };
        Ok((server, line))
    }

    /// Ends it and waits until it has written what it had in memory.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.process.terminate(END_DEADLINE)
    }

    /// CPU seconds since its start.
    pub(super) fn cpu_s(&self) -> anyhow::Result<f64> {
        Ok(times(&format!("/proc/{}/stat", self.process.pid()))?.0)
    }

    /// Seconds that its threads of this name ran, and that they could have run but waited for a core (`/proc/PID/task/TID/schedstat`).
    pub(super) fn ran_and_waited_s(&self, threads: &str) -> anyhow::Result<(f64, f64)> {
        let tasks = format!("/proc/{}/task", self.process.pid());
        let (mut ran, mut waited) = (0.0, 0.0);
        for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
            let task = task?.path();
            // A thread may end while we look.
            let read = |file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
            if read("comm").trim_end() != threads {
                continue;
            }
            let text = read("schedstat");
            let mut ns = text.split_whitespace().map(|n| n.parse().unwrap_or(0.0));
            ran += ns.next().unwrap_or(0.0) / 1e9;
            waited += ns.next().unwrap_or(0.0) / 1e9;
        }
        Ok((ran, waited))
    }

    /// Memory that it holds now, in bytes.
    pub(super) fn resident_bytes(&self) -> anyhow::Result<u64> {
        memory_bytes(self.process.pid(), "VmRSS:")
    }

    /// Most memory it ever held, in bytes.
    pub(super) fn peak_bytes(&self) -> anyhow::Result<u64> {
        peak_bytes(self.process.pid())
    }
}

/// Runs a program to its end. What it prints goes to `log`.
pub(super) fn finish(name: &str, mut command: Command, log: &Path) -> anyhow::Result<()> {
    command
        .stdin(Stdio::null())
        .stdout(append(log)?)
        .stderr(append(log)?);
    let mut process = Running::start(name, command)?;
    loop {
        if let Some(status) = process.ended()? {
            if status.success() {
                return Ok(());
            }
            bail!("{name} failed ({status}): {}", tail(log));
        }
        stop::check()?;
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The word of a line that begins with `key`, without the key.
pub(super) fn word<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|w| w.strip_prefix(key))
}

/// Most memory a process ever held, in bytes.
pub(super) fn peak_bytes(pid: u32) -> anyhow::Result<u64> {
    memory_bytes(pid, "VmHWM:")
}

fn memory_bytes(pid: u32, what: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    let kib = line.and_then(|line| {
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    Ok(kib.with_context(|| format!("{path}: no VmHWM"))? * 1024)
}

/// CPU seconds of a process.
pub(super) fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    Ok(times(&format!("/proc/{pid}/stat"))?.0)
}

/// CPU seconds of all our children that have ended so far.
pub(super) fn ended_children_cpu_s() -> anyhow::Result<f64> {
    Ok(times("/proc/self/stat")?.1)
}

/// User and system time in seconds: of the process, and of its children that it has waited for.
fn times(path: &str) -> anyhow::Result<(f64, f64)> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    // The name stands in parentheses and may hold anything; field 3 follows it.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<f64> = rest
        .split_whitespace()
        .map(|f| f.parse().unwrap_or(0.0))
        .collect();
    let field = |number: usize| fields.get(number - 3).copied();
    let sum = |a, b| Some((field(a)? + field(b)?) / TICKS_PER_SECOND);
    sum(14, 15)
        .zip(sum(16, 17))
        .with_context(|| format!("{path} is too short"))
}

/// Bytes allocated on disk for everything below a directory.
pub(super) fn disk_bytes(dir: &Path) -> anyhow::Result<u64> {
    Ok(disk_parts(dir)?.iter().map(|(_, bytes)| bytes).sum())
}

/// Bytes on disk of each entry of a directory, the largest first.
pub(super) fn disk_parts(dir: &Path) -> anyhow::Result<Vec<(String, u64)>> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let bytes = if meta.is_dir() {
            disk_bytes(&entry.path())?
        } else {
            meta.blocks() * 512
        };
        parts.push((entry.file_name().to_string_lossy().into_owned(), bytes));
    }
    parts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(parts)
}

/// Waits until the bytes below a directory have not changed for `quiet`.
pub(super) fn wait_until_quiet(dir: &Path, quiet: Duration) -> anyhow::Result<()> {
    let mut last = (0, Instant::now());
    let give_up = Instant::now() + Duration::from_secs(300);
    while last.1.elapsed() < quiet {
        stop::check()?;
        // A file may be renamed between listing and looking: then it has changed.
        let now = disk_bytes(dir).unwrap_or(0);
        if now != last.0 {
            last = (now, Instant::now());
        }
        if Instant::now() > give_up {
            bail!("{} is still being written after 300 s", dir.display());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// A port that is free now.
pub(super) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn append(log: &Path) -> anyhow::Result<fs::File> {
    let file = fs::OpenOptions::new().create(true).append(true).open(log);
    file.with_context(|| log.display().to_string())
}

/// The last lines of a log, for an error message.
pub(super) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(8)..)
        .unwrap_or_default()
        .join("\n")
}

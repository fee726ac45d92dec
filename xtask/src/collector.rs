//! A real `devmon-collector` as a child: started with a configuration, watched by what it logs and by `/proc`, asked over HTTP, killed by pid.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use serde_json::Value as Json;

use crate::prepare;

const HTTP_DEADLINE: Duration = Duration::from_secs(60);
/// SIGTERM to the end.
const END_DEADLINE: Duration = Duration::from_secs(30);
/// The last lines of its log that are kept for a report.
const LAST_LINES: usize = 40;
const DONE_LINES: usize = 100;
/// What it logs when something begins that takes a while, what when it is done, and our word for it.
const WORKS: [(&str, &str, &str); 5] = [
    ("sealing", "sealed", "sealing"),
    ("archiving a day", "a day was archived", "archiving"),
    (
        "making a day coarser",
        "a day was archived",
        "making coarser",
    ),
    (
        "deleting blocks that a day file holds",
        "blocks that a day file holds were deleted",
        "cleaning",
    ),
    (
        "removing a day that is kept no longer",
        "a day that is kept no longer was removed",
        "removing a day",
    ),
];

/// What its log said: each message without its fields, and how often; warnings and errors whole; the last lines.
#[derive(Debug, Default, Clone)]
pub struct Said {
    pub messages: BTreeMap<String, u64>,
    pub problems: Vec<String>,
    /// What was done, with its figures: lines of the level debug, so many of the last.
    pub done: Vec<String>,
    pub last: Vec<String>,
    /// What it had begun, at the level debug of `store`, and not ended.
    pub under_way: BTreeSet<&'static str>,
}

/// A running collector. Dropping it kills it.
#[derive(Debug)]
pub struct Collector {
    child: Child,
    begun: Instant,
    ready: Receiver<String>,
    said: Arc<Mutex<Said>>,
    reader: Option<std::thread::JoinHandle<()>>,
    pub http: String,
    pub mqtt: Option<SocketAddr>,
}

impl Collector {
    /// Starts it and returns at once; [`wait_ready`](Self::wait_ready) before anything is asked of it. `config` is TOML beside data_dir and addresses.
    ///
    /// # Errors
    /// It can not be started.
    pub fn start(program: &Path, data: &Path, config: &str, log: &str) -> anyhow::Result<Self> {
        let listen = ["--mqtt-listen", "127.0.0.1:0"];
        Self::start_with(program, data, config, log, &listen)
    }

    /// As [`start`](Self::start), with the way in as arguments of `run`: a listener or a broker.
    ///
    /// # Errors
    /// It can not be started.
    pub fn start_with(
        program: &Path,
        data: &Path,
        config: &str,
        log: &str,
        way_in: &[&str],
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(data)?;
        let config_file = data.join("collector.toml");
        std::fs::write(&config_file, config)?;
        let mut child = Command::new(program)
            .arg("run")
            .arg("--data-dir")
            .arg(data)
            .arg("--config")
            .arg(&config_file)
            .args(["--http", "127.0.0.1:0"])
            .args(way_in)
            .args(["--log-format", "json"])
            .env("DEVMON_LOG", log)
            .env_remove("RUST_LOG")
            .env_remove("AWS_IOT_ENDPOINT")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let (say, ready) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    // Nobody listens any more once it was killed.
                    let _ = say.send(line);
                }
            });
        }
        let said = Arc::new(Mutex::new(Said::default()));
        let heard = said.clone();
        let reader = child.stderr.take().map(|stderr| {
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    note(&heard, line);
                }
            })
        });
        Ok(Self {
            child,
            begun: Instant::now(),
            ready,
            said,
            reader,
            http: String::new(),
            mqtt: None,
        })
    }

    /// Waits for the line that says `ready`, for `patience` at most: then `None`. Else how long it took from the start.
    ///
    /// # Errors
    /// It ended instead, or its line is not understood.
    pub fn wait_ready(&mut self, patience: Duration) -> anyhow::Result<Option<Duration>> {
        let line = match self.ready.recv_timeout(patience) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait()?;
                self.join();
                bail!(
                    "it ended at start ({status}):\n{}",
                    self.said().last.join("\n")
                );
            }
        };
        let took = self.begun.elapsed();
        let named = |key: &str| {
            let word = line.split_whitespace().find_map(|w| w.strip_prefix(key));
            word.with_context(|| format!("no {key} in {line:?}"))
        };
        self.http = named("http=")?.to_owned();
        // With a broker there is no listener.
        let listener = named("mqtt=mqtt://").ok().map(str::parse).transpose();
        self.mqtt = listener.with_context(|| line.clone())?;
        Ok(Some(took))
    }

    /// Its listener.
    ///
    /// # Errors
    /// It is not ready.
    pub fn mqtt(&self) -> anyhow::Result<SocketAddr> {
        self.mqtt.context("the collector is not ready")
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[must_use]
    pub fn said(&self) -> Said {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }

    /// True if it has begun this work (a word of [`Said::under_way`]) and not ended.
    #[must_use]
    pub fn is_at(&self, work: &str) -> bool {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.under_way.contains(work)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The operating system's.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// SIGKILL, and no waiting: [`kill_9`](Self::kill_9) follows.
    pub fn send_kill(&mut self) {
        // Fails if it has ended, which `kill_9` finds out.
        let _ = self.child.kill();
    }

    /// SIGKILL, and what it had said.
    ///
    /// # Errors
    /// It had ended by itself.
    pub fn kill_9(mut self) -> anyhow::Result<Said> {
        self.send_kill();
        let status = self.child.wait()?;
        self.join();
        if status.signal() != Some(9) {
            bail!(
                "it had ended by itself ({status}):\n{}",
                self.said().last.join("\n")
            );
        }
        Ok(self.said())
    }

    /// SIGTERM; it must end with 0.
    ///
    /// # Errors
    /// It does not, or not in time.
    pub fn terminate(mut self) -> anyhow::Result<Said> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let begin = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                self.join();
                if !status.success() {
                    bail!("it ended with {status}:\n{}", self.said().last.join("\n"));
                }
                return Ok(self.said());
            }
            if begin.elapsed() > END_DEADLINE {
                bail!("it did not end within {END_DEADLINE:?} of SIGTERM");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            // It ends with the pipe; that it panicked would have been printed.
            let _ = reader.join();
        }
    }

    /// GET of a path below the address: status and body.
    ///
    /// # Errors
    /// No answer.
    pub fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let url = format!("{}{path}", self.http);
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(HTTP_DEADLINE))
            .build()
            .into();
        let mut reply = agent.get(&url).call().with_context(|| url.clone())?;
        let status = reply.status().as_u16();
        let body = reply.body_mut().with_config().limit(1 << 30);
        Ok((status, body.read_to_string().with_context(|| url)?))
    }

    /// GET of what must be a 200 with JSON.
    ///
    /// # Errors
    /// It is not.
    pub fn json(&self, path: &str) -> anyhow::Result<Json> {
        match self.get(path)? {
            (200, body) => serde_json::from_str(&body).with_context(|| path.to_owned()),
            (status, body) => Err(anyhow!("{path}: {status}: {body}")),
        }
    }

    /// CPU seconds (user and system) so far, and resident bytes: now, and at most.
    ///
    /// # Errors
    /// `/proc` is not there, or it has ended.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        let proc = PathBuf::from(format!("/proc/{}", self.pid()));
        let stat = std::fs::read_to_string(proc.join("stat"))?;
        // Behind the name, which may hold anything: fields from the third on. proc(5).
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .collect();
        let ticks = |i: usize| {
            fields
                .get(i)
                .and_then(|f| f.parse::<f64>().ok())
                .unwrap_or(0.0)
        };
        let status = std::fs::read_to_string(proc.join("status"))?;
        let kib = |key: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(key));
            let number = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
            number.unwrap_or(0) * 1024
        };
        Ok(Usage {
            cpu_seconds: (ticks(11) + ticks(12)) / 100.0, // USER_HZ is 100 on every Linux
            rss: kib("VmRSS:"),
            rss_most: kib("VmHWM:"),
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub rss: u64,
    pub rss_most: u64,
}

fn note(said: &Mutex<Said>, line: String) {
    let parsed: Json = serde_json::from_str(&line).unwrap_or_default();
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(message) = parsed["fields"]["message"].as_str() {
        *said.messages.entry(message.to_owned()).or_default() += 1;
        for (begin, end, work) in WORKS {
            if message == begin {
                said.under_way.insert(work);
            } else if message == end {
                said.under_way.remove(work);
            }
        }
    }
    if parsed["level"] == "ERROR" || parsed["level"] == "WARN" || parsed.is_null() {
        said.problems.push(line.clone());
    }
    if parsed["level"] == "DEBUG" {
        if said.done.len() == DONE_LINES {
            said.done.remove(0);
        }
        said.done.push(parsed["fields"].to_string());
    }
    if said.last.len() == LAST_LINES {
        said.last.remove(0);
    }
    said.last.push(line);
}

/// Builds the collector and says where it is.
///
/// # Errors
/// The build fails.
pub fn build(dev: bool) -> anyhow::Result<PathBuf> {
    let profile = if dev { "dev" } else { "release" };
    prepare::heading(&format!("Building the collector ({profile})"));
    prepare::cargo(&["build", "--profile", profile, "-p", "devmon-collector"])?;
    let folder = if dev { "debug" } else { "release" };
    Ok(crate::target_dir().join(folder).join("devmon-collector"))
}

/// Bytes that a file or folder takes on disk.
#[must_use]
pub fn bytes_on_disk(path: &Path) -> u64 {
    let Ok(own) = path.symlink_metadata() else {
        return 0; // not there, or gone since it was listed
    };
    let below = std::fs::read_dir(path).into_iter().flatten().flatten();
    own.blocks() * 512 + below.map(|e| bytes_on_disk(&e.path())).sum::<u64>()
}

/// What may stand in a query string as it is; all else is percent-encoded.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

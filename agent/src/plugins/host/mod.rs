//! A plugin in a process of its own: this binary, run again as plugin host, and the agent's end of it.
//!
//! **Promises** that whatever the plugin does (segfault, abort, exit, endless loop, memory without end, a closed socket) comes out as an [`Ended`] with a reason, and that the host does not
//! outlive its agent. The host has limits for memory and open files, writes no core dumps, and what the plugin writes to standard error goes to the agent's log; its last line is part of the reason.
//! It is the first of a process group, which ends with it. A process that the plugin started may leave the group and hold standard error and the socket for ever: nothing here waits for
//! their ends, only for the host's own.
//!
//! `RLIMIT_DATA` is the first limit of memory and counts no shared mappings; so what is resident is looked at as well ([`memory`]), at each answer and each second of waiting for one; with all of its process
//! group while it is waited for, and else every ten seconds. And under pressure the kernel is told to take a host before its agent.
//!
//! Both talk over a socket pair, the host's standard input. Each message is four bytes of length, little-endian, and JSON:
//!
//! | from | message | answered by |
//! |---|---|---|
//! | host, once the file is loaded | [`Reply::Hello`], or [`Reply::Refused`] and the end | |
//! | agent | [`Order::Start`] | [`Reply::Started`], or [`Reply::NotStarted`]: it may be started again |
//! | agent | [`Order::Collect`] | [`Reply::Tree`], [`Reply::NoData`], [`Reply::Unavailable`], [`Reply::Failed`] or [`Reply::Panicked`] |
//!
//! The agent takes nothing on trust: lengths are bounded, JSON is parsed with our limits, trees are checked again.
//!
//! Here is the agent's end; [`inside`] is the host's, [`protocol`] what they say, [`command`] how the one starts the other, [`log`] what is said on standard error.

mod command;
mod inside;
mod log;
mod protocol;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use devmon_core::descriptor::{Descriptor, DescriptorText};
use devmon_core::wire::json::tree_from_json;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};
use serde::{Deserialize, Serialize};

pub(super) use command::confined;
pub use inside::{Args, main};
pub(super) use inside::{CANNOT_BE_RUN, NOT_RUN};
pub(super) use log::Log;
pub use protocol::Hello;

use super::load::{NO_REASON, Refusal, Round};
use super::memory;
use super::source::{Answer, Made, judge};
use command::host_command;
use log::Heard;
use protocol::{MAX_MESSAGE_BYTES, Order, Reply, write_message};

/// The hidden command that makes this binary a host.
pub const COMMAND: &str = "plugin-host";
/// In the reason of a host that was killed for its slowness.
pub(super) const DID_NOT_ANSWER: &str = "did not answer within";
/// After the socket is closed or the host misbehaved, it has this long to end before it is killed.
const LAST_BREATH: Duration = Duration::from_millis(200);
/// A process that was killed is gone in less, unless a driver holds it; then it is left behind.
const GONE: Duration = Duration::from_secs(2);
/// Of what is on standard error when a host has ended: all that a pipe holds (pipe(7)). Another process may be writing to it without end.
const LAST_WORDS_BYTES: usize = 64 * 1024;
/// How often a host's memory is looked at while it is waited for.
const LOOK: Duration = Duration::from_secs(1);
/// How often that of its children is, while it answers: all processes of the machine are gone through for it.
const LOOK_AT_GROUP: Duration = Duration::from_secs(10);

/// What a host may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Of each process's writable private memory (`RLIMIT_DATA`), and of what all of its process group have resident without files' pages, in bytes.
    pub memory_bytes: u64,
    pub open_files: u64,
}

impl Default for Limits {
    /// 128 MiB and 256 files: many times what a source needs, and no danger to a small device.
    fn default() -> Self {
        Self {
            memory_bytes: 128 << 20,
            open_files: 256,
        }
    }
}

/// Why there is no host any more: one line for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended(pub String);

/// A plugin file and how it is run in a host.
#[derive(Debug, Clone)]
pub struct HostedPlugin {
    /// What is loaded: the agent's private copy.
    pub path: PathBuf,
    /// For logs and reasons.
    pub file: String,
    pub limits: Limits,
}

/// A running host. Dropping it ends the process.
pub struct Host {
    child: Child,
    /// Readable when the process has ended; `None` before Linux 5.3.
    ended: Option<OwnedFd>,
    /// Nothing of it runs any more, or it was left behind.
    is_over: bool,
    looked: Instant,
    looked_at_group: Instant,
    socket: Option<UnixStream>,
    stderr: Option<ChildStderr>,
    /// Bytes of messages that are not whole yet.
    inbox: Vec<u8>,
    log: Log,
    limits: Limits,
}

impl Host {
    /// Starts a host and waits until it has loaded the file. The host ends with the thread that calls this (Linux ties the parent-death signal to the thread).
    ///
    /// # Errors
    /// [`Refusal`]: the plugin's, or [`Refusal::Crashed`] for whatever else happened.
    pub fn start(plugin: &HostedPlugin, limit: Duration) -> Result<(Self, Hello), Refusal> {
        let crashed = |reason: String| Refusal::Crashed(reason);
        let mut host = Self::spawn(plugin)
            .map_err(|e| crashed(format!("no process could be started for it: {e}")))?;
        match host.reply(limit) {
            Ok(Reply::Hello(hello)) => Ok((host, hello)),
            Ok(Reply::Refused(refusal)) => Err(refusal),
            Ok(_) => Err(crashed("its host speaks another protocol".into())),
            Err(Ended(reason)) => Err(crashed(format!("while it was loaded, it {reason}"))),
        }
    }

    fn spawn(plugin: &HostedPlugin) -> std::io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = host_command(&plugin.file, plugin.limits)?;
        command
            .arg("--")
            .arg(&plugin.path)
            .process_group(0)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        ours.set_nonblocking(true)?;
        let mut child = command.spawn()?;
        let stderr = child.stderr.take();
        if let Some(stderr) = &stderr {
            let _ = ioctl_fionbio(stderr, true); // no pipe refuses that; our end only
        }
        let ended = pid_of(&child).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Ok(Self {
            child,
            ended,
            is_over: false,
            looked: Instant::now(),
            looked_at_group: Instant::now(),
            socket: Some(ours),
            stderr,
            inbox: Vec::new(),
            log: Log::new(&plugin.file),
            limits: plugin.limits,
        })
    }

    /// Makes the source. `Ok(Err(reason))`: the plugin refused, politely.
    ///
    /// # Errors
    /// [`Ended`]; the host is gone.
    pub fn make(
        &mut self,
        name: &str,
        config: &str,
        limit: Duration,
    ) -> Result<Result<Made, String>, Ended> {
        let config = config.to_owned();
        match self.ask(&Order::Start { config }, limit)? {
            Reply::Started {
                descriptors,
                facts,
                problem,
            } => Ok(Ok(made(name, descriptors, facts, problem))),
            Reply::NotStarted(reason) if reason == NO_REASON => {
                let mib = self.limits.memory_bytes >> 20;
                Ok(Err(format!(
                    "{reason} and gave no reason; if it lacked memory: its limit is {mib} MiB (memory_bytes in [sources.{name}])"
                )))
            }
            Reply::NotStarted(reason) => Ok(Err(reason)),
            _ => Err(self.end("answered out of turn")),
        }
    }

    /// One round.
    ///
    /// # Errors
    /// [`Ended`]; the host is gone.
    pub fn collect(&mut self, limit: Duration) -> Result<Answer, Ended> {
        let reply = self.ask(&Order::Collect, limit)?;
        let noise = self.log.round_ends();
        Ok(match reply {
            Reply::Tree { metrics, left_out } => match tree_from_json(metrics.get()) {
                Ok(tree) => match judge(Round::Tree(tree, 0)) {
                    Answer::Tree { tree, .. } => Answer::Tree {
                        tree,
                        left_out: left_out.or(noise),
                    },
                    other => other,
                },
                Err(e) => Answer::Failed(format!("its tree was refused: {e}")),
            },
            Reply::NoData => Answer::NoData,
            Reply::Unavailable(reason) => Answer::Unavailable(reason),
            Reply::Failed(reason) => Answer::Failed(reason),
            Reply::Panicked(text) => Answer::Crashed(format!("panicked: {text}")),
            _ => return Err(self.end("answered out of turn")),
        })
    }

    fn ask(&mut self, order: &Order, limit: Duration) -> Result<Reply, Ended> {
        let sent = match &mut self.socket {
            // An order is small and the socket empty: it never blocks.
            Some(socket) => write_message(socket, order),
            None => return Err(Ended("is gone".into())),
        };
        if sent.is_err() {
            return Err(self.end("closed its end"));
        }
        self.reply(limit)
    }

    /// Waits for a message; what comes on standard error meanwhile is logged.
    fn reply(&mut self, limit: Duration) -> Result<Reply, Ended> {
        let until = Instant::now() + limit;
        loop {
            if let Some(message) = self.whole_message()? {
                self.look_at_memory(self.looked_at_group.elapsed() >= LOOK_AT_GROUP)?;
                return serde_json::from_slice(&message)
                    .map_err(|_| self.end("answered with something that is no message"));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = limit.as_secs_f64();
                return Err(self.end(&format!("{DID_NOT_ANSWER} {seconds:.1} s")));
            }
            if self.looked.elapsed() >= LOOK {
                self.look_at_memory(true)?;
            }
            let (readable, said, ended) = self.wait(left.min(LOOK))?;
            if said && self.log.read_some(self.stderr.as_mut()) == Heard::End {
                self.stderr = None;
            }
            if readable {
                let mut buffer = [0; 16 * 1024];
                match self.socket.as_mut().map(|s| s.read(&mut buffer)) {
                    Some(Ok(n @ 1..)) => self.inbox.extend_from_slice(&buffer[..n]),
                    Some(Err(e)) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    _ => return Err(self.end("")),
                }
            } else if ended {
                return Err(self.end("")); // whoever holds the socket now is not the host
            }
        }
    }

    /// Waits for something to come: on the socket, on standard error, or the end of the process.
    fn wait(&self, limit: Duration) -> Result<(bool, bool, bool), Ended> {
        let Some(socket) = &self.socket else {
            return Err(Ended("is gone".into()));
        };
        let mut waits = vec![PollFd::new(socket, PollFlags::IN)];
        waits.extend(self.ended.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        waits.extend(self.stderr.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let timeout = Timespec::try_from(limit).ok();
        if poll(&mut waits, timeout.as_ref()).is_err() {
            return Ok((false, false, false)); // a signal
        }
        let mut ready = waits.iter().map(|w| !w.revents().is_empty());
        let readable = ready.next().unwrap_or(false);
        let ended = self.ended.is_some() && ready.next().unwrap_or(false);
        Ok((readable, ready.next().unwrap_or(false), ended))
    }

    /// Ends a host that has more memory than it may; with its children's, if `group` is set.
    fn look_at_memory(&mut self, group: bool) -> Result<(), Ended> {
        self.looked = Instant::now();
        let (pid, limit) = (self.child.id(), self.limits.memory_bytes);
        let mut resident = memory::of_process(pid);
        if group {
            self.looked_at_group = self.looked;
            resident = resident.max(memory::of_group(pid, limit));
        }
        match memory::beyond(resident, limit) {
            Some(beyond) => Err(self.end(&beyond)),
            None => Ok(()),
        }
    }

    fn whole_message(&mut self) -> Result<Option<Vec<u8>>, Ended> {
        let Some(length) = self.inbox.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE_BYTES {
            return Err(self.end("answered with more than it may"));
        }
        if self.inbox.len() < 4 + length {
            return Ok(None);
        }
        let message = self.inbox[4..4 + length].to_vec();
        self.inbox.drain(..4 + length);
        if self.inbox.is_empty() {
            self.inbox = Vec::new(); // a large tree must not be paid for for ever
        }
        Ok(Some(message))
    }

    /// Ends the host and says why, in words that follow "it": what the agent saw, or how the process ended by itself.
    fn end(&mut self, seen: &str) -> Ended {
        self.socket = None;
        let by_itself = seen.is_empty() && has_ended(&self.child, LAST_BREATH);
        let status = self.finish();
        let mut left = LAST_WORDS_BYTES;
        while let Heard::Some(n) = self.log.read_some(self.stderr.as_mut()) {
            left = left.saturating_sub(n);
            if left == 0 {
                break;
            }
        }
        self.log.flush();
        self.stderr = None;
        let mut reason = match status {
            Some(status) if by_itself => how_it_ended(status),
            Some(status) if seen.is_empty() => {
                format!("closed its end; its process {}", how_it_ended(status))
            }
            Some(_) => format!("{seen}; its process was ended"),
            None => format!("{seen}; its process was killed and does not end"),
        };
        if !self.log.last.is_empty() {
            reason = format!("{reason}; it said: {}", self.log.last);
        }
        if self.log.last.contains("memory allocation of") {
            let mib = self.limits.memory_bytes >> 20;
            reason = format!("{reason} (its limit is {mib} MiB)");
        }
        Ended(reason)
    }

    /// Kills the group, with whatever the plugin started and left in it, and takes the host's status. `None`: it could not be killed, or was finished before.
    fn finish(&mut self) -> Option<ExitStatus> {
        if std::mem::replace(&mut self.is_over, true) {
            return None;
        }
        // Before it is waited for: until then nobody else can have its number.
        if let Some(group) = pid_of(&self.child) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        has_ended(&self.child, GONE)
            .then(|| self.child.wait().ok())
            .flatten()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.socket = None;
        self.finish();
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Waits for a child's end, and leaves its status where it is.
pub(crate) fn has_ended(child: &Child, limit: Duration) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let until = Instant::now() + limit;
    loop {
        let status = pid_of(child).map(|pid| waitid(WaitId::Pid(pid), options));
        match status {
            Some(Ok(None)) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(2)); // there is no wait with a deadline
            }
            Some(Ok(None)) => return false,
            _ => return true,
        }
    }
}

fn made(
    name: &str,
    descriptors: Vec<DescriptorText>,
    facts: serde_json::Map<String, serde_json::Value>,
    problem: Option<String>,
) -> Made {
    let read = serde_json::to_string(&serde_json::json!(descriptors))
        .map_err(|e| e.to_string())
        .and_then(|text| devmon_core::descriptor::parse_json(&text).map_err(|e| e.to_string()))
        .and_then(|all| {
            let below = |d: Descriptor| d.below(name).map_err(|e| e.to_string());
            all.into_iter().map(below).collect::<Result<Vec<_>, _>>()
        });
    match read {
        Ok(descriptors) => Made {
            descriptors,
            facts,
            problem,
        },
        Err(e) => Made {
            descriptors: Vec::new(),
            facts,
            problem: Some(e),
        },
    }
}

/// How a process ended, in words that follow "it".
#[must_use]
pub fn how_it_ended(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = match signal {
                4 => " (SIGILL: an illegal instruction)",
                6 => " (SIGABRT: it gave up)",
                7 => " (SIGBUS: a file changed under it, or a bad address)",
                8 => " (SIGFPE: a division by zero)",
                9 => " (SIGKILL: by the kernel for lack of memory, or by somebody)",
                11 => " (SIGSEGV: a bad address)",
                31 => " (SIGSYS: a forbidden system call)",
                _ => "",
            };
            format!("was ended by signal {signal}{name}")
        }
        (None, Some(code)) => format!("ended by itself with code {code}"),
        (None, None) => "ended".into(),
    }
}

//! The checking process's end: starts the child, hands over what it says, and finds out how it ended.
//!
//! The child is ended if it says nothing for the deadline, or grows beyond [`MAX_MEMORY_BYTES`]; and in any case when this returns, with all processes of its group.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::said::{Phase, Said};
use crate::plugins::host::has_ended;

/// Twice what the agent allows unless it is told otherwise: how much it is, is worth knowing, but this machine has an end.
pub(super) const MAX_MEMORY_BYTES: u64 = 256 << 20;
/// How often the child's memory is looked at.
const TICK: Duration = Duration::from_millis(50);
/// Of what the plugin prints, this much is kept.
const MAX_PRINTED: usize = 4096;

/// For the end of what the plugin prints: a process that it started may hold the stream for ever.
const PATIENCE: Duration = Duration::from_secs(1);
/// For processes that the plugin has told to end.
const LAST_BREATH: Duration = Duration::from_millis(200);

/// How the child's run ended.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) how: How,
    /// The last step that was begun.
    pub(super) phase: Phase,
    /// What the plugin wrote to standard output and error: the start of it.
    pub(super) printed: [String; 2],
    /// The most memory that was seen, as the agent counts it: writable, or resident and no file's.
    pub(super) memory_bytes: u64,
    /// What the processes are called that it left running; only of one that ended by itself.
    pub(super) left: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It said all it had to say.
    Done,
    Hung(Duration),
    TooLarge(u64),
    /// By a signal's number.
    Killed(i32),
    Exited(i32),
}

/// Runs the plugin in a child to the end.
///
/// # Errors
/// When no child can be started or spoken to.
pub(super) fn watch(
    file: &Path,
    config: &str,
    rounds: u32,
    deadline: Duration,
    mut take: impl FnMut(Said),
) -> std::io::Result<Ending> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let child = Command::new(std::env::current_exe()?)
        .arg("check-plugin-child")
        .arg(std::path::absolute(file)?)
        .arg(rounds.to_string())
        .process_group(0)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut child = Ended(child);
    let mut memory = 0;
    let out = child.0.stdout.take().map(listen);
    let err = child.0.stderr.take().map(listen);
    ours.set_read_timeout(Some(TICK))?;
    // A child that died at once is found out by what follows.
    let _ = ours.write_all(format!("{}\n", config.replace('\n', " ")).as_bytes());

    let (mut phase, mut is_done, mut how) = (Phase::Load, false, None);
    let (mut buffer, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
    let (mut heard, mut looked) = (Instant::now(), Instant::now());
    loop {
        // A process that the plugin started may keep the stream open; what is in it is read all the same.
        let has_ended = has_ended(&child.0, Duration::ZERO);
        match ours.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => {
                heard = Instant::now();
                let most = Memory::of(child.0.id()).most();
                memory = memory.max(most);
                buffer.extend_from_slice(&chunk[..n]);
                let mut start = 0;
                while let Some(length) = buffer[start..].iter().position(|b| *b == b'\n') {
                    let line = &buffer[start..start + length];
                    start += length + 1;
                    // A plugin that writes to our socket would have to look for it.
                    if let Ok(said) = serde_json::from_slice(line) {
                        match &said {
                            Said::Begins(p) => phase = *p,
                            Said::Done
                            | Said::Refused { .. }
                            | Said::NotMade { again: false, .. } => is_done = true,
                            _ => {}
                        }
                        take(said);
                    }
                }
                buffer.drain(..start);
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if has_ended {
                    break;
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => break, // reset: the child is gone
        }
        if heard.elapsed() > deadline {
            how = Some(How::Hung(deadline));
            break;
        }
        if looked.elapsed() >= TICK {
            looked = Instant::now();
            let size = Memory::of(child.0.id());
            memory = memory.max(size.most());
            if size.resident_bytes > MAX_MEMORY_BYTES {
                how = Some(How::TooLarge(size.resident_bytes));
                break;
            }
        }
    }
    if how.is_some() {
        child.kill();
    }
    let (status, left) = child.end()?;
    let how = how.unwrap_or_else(|| match (status.signal(), status.code()) {
        _ if is_done && status.success() => How::Done,
        (Some(signal), _) => How::Killed(signal),
        (None, code) => How::Exited(code.unwrap_or(-1)),
    });
    let heard = |text: Option<Receiver<String>>| text.and_then(|t| t.recv_timeout(PATIENCE).ok());
    Ok(Ending {
        how,
        phase,
        printed: [out, err].map(|text| heard(text).unwrap_or_default()),
        memory_bytes: memory,
        left,
    })
}

/// Reads a stream to its end and gives the start of it then.
fn listen(mut stream: impl Read + Send + 'static) -> Receiver<String> {
    let (give, text) = channel();
    std::thread::spawn(move || {
        let (mut kept, mut chunk) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = stream.read(&mut chunk) {
            let room = MAX_PRINTED - kept.len();
            kept.extend_from_slice(&chunk[..n.min(room)]);
        }
        let _ = give.send(String::from_utf8_lossy(&kept).into_owned());
    });
    text
}

/// What a process has, as the agent looks at it; nothing once it is gone.
struct Memory {
    /// That no file has.
    resident_bytes: u64,
    /// What `RLIMIT_DATA` limits.
    writable_bytes: u64,
}

impl Memory {
    fn of(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name));
            let number = line.and_then(|l| l.split_whitespace().next());
            number.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        Self {
            resident_bytes: field("RssAnon:") + field("RssShmem:"),
            writable_bytes: field("VmData:"),
        }
    }

    fn most(&self) -> u64 {
        self.resident_bytes.max(self.writable_bytes)
    }
}

/// A child that does not outlive its handle, nor does what it started and left in its group.
struct Ended(Child);

impl Ended {
    /// Ends it if it has not ended. A stream that is closed is the end of the process, or of what it has to say. Gives what it left running as well.
    fn end(&mut self) -> std::io::Result<(ExitStatus, Vec<String>)> {
        let mut left = Vec::new();
        if has_ended(&self.0, PATIENCE) {
            let until = Instant::now() + LAST_BREATH;
            left = others_of_group(self.0.id());
            while !left.is_empty() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5)); // there is nothing to wait on: they are not our children
                left = others_of_group(self.0.id());
            }
        }
        self.kill();
        Ok((self.0.wait()?, left))
    }

    /// It must not have been waited for: until then nobody else can have its number.
    fn kill(&self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // Not yet waited for: something failed on the way.
        if matches!(self.0.try_wait(), Ok(None)) {
            self.kill();
            let _ = self.0.wait();
        }
    }
}

/// What the running processes of a group are called, but for its first.
fn others_of_group(first: u32) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let stat = |pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let others = pids.filter(|pid| *pid != first).filter_map(stat);
    let named = others.filter_map(|stat| {
        // proc(5): pid (name) state parent group …; a name may have brackets in it.
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let (state, group) = (fields.next()?, fields.nth(1)?);
        let runs = !matches!(state, "Z" | "X");
        (runs && group.parse() == Ok(first)).then(|| name.to_owned())
    });
    named.collect()
}

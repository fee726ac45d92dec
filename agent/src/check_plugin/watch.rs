//! The checking process's end: starts the child, hands over what it says, and finds out how it ended.
//!
//! The child is ended if it says nothing for the deadline, or grows beyond [`MAX_MEMORY_BYTES`]; and in any case when this returns.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::said::{Phase, Said};

/// Ten times what the largest tree needs; a device that is looked after has little more to give.
pub(super) const MAX_MEMORY_BYTES: u64 = 256 << 20;
/// How often the child's memory is looked at.
const TICK: Duration = Duration::from_millis(50);
/// Of what the plugin prints, this much is kept.
const MAX_PRINTED: usize = 4096;

/// For the end of what the plugin prints: a process that it started may hold the stream for ever.
const PATIENCE: Duration = Duration::from_secs(1);

/// How the child's run ended.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) how: How,
    /// The last step that was begun.
    pub(super) phase: Phase,
    /// What the plugin wrote to standard output and error: the start of it.
    pub(super) printed: [String; 2],
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
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut child = Ended(child);
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
        let has_ended = child.0.try_wait()?.is_some();
        match ours.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => {
                heard = Instant::now();
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
            let size = memory_bytes(child.0.id());
            if size > MAX_MEMORY_BYTES {
                how = Some(How::TooLarge(size));
                break;
            }
        }
    }
    if how.is_some() {
        child.0.kill()?;
    }
    let status = child.end()?;
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

/// Resident memory without file pages; 0 once the process is gone.
fn memory_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let number = line.and_then(|l| l.split_whitespace().next());
    number.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// A child that does not outlive its handle.
struct Ended(Child);

impl Ended {
    /// Ends it if it has not ended. A stream that is closed is the end of the process, or of what it has to say.
    fn end(&mut self) -> std::io::Result<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(2)); // there is no wait with a deadline
        }
        self.0.kill()?;
        self.0.wait()
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

//! Reads `/proc/PID/stat` of every process, and the first line of `/proc/stat`.
//!
//! Three system calls a process (open, read, close), and no allocation: path, line, listing and the list of processes are buffers that are used again.
//! A process that ends meanwhile is no error. What would make sums wrong without a word (no file descriptor left, say) is, and then nothing is handed out.

use std::io;
use std::path::PathBuf;

use devmon_core::CollectError;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, RawDir, openat};
use rustix::io::{Errno, read, retry_on_intr};

use crate::stat::Process;

/// Most processes of a round: a second or two of work, and 15 MB to keep. The busiest container hosts have some tens of thousands.
pub const MAX_PROCESSES: usize = 131_072;
/// A line is 1.2 KB at most: a command of 64 bytes and 50 numbers.
const LINE_BYTES: usize = 4096;
/// Some 1 000 entries for each question to the kernel, as C libraries ask.
const LISTING_BYTES: usize = 32 * 1024;

/// One round.
#[derive(Debug)]
pub struct Reading<'a> {
    pub processes: &'a [Process],
    /// Time of all cores together since the machine started, idle or not, in clock ticks. `None` if `/proc/stat` does not tell.
    pub machine_ticks: Option<u64>,
    /// Processes that may not be read, give no such line, or are beyond [`MAX_PROCESSES`].
    pub left_out: u64,
}

/// Keeps the buffers.
pub struct Reader {
    proc: PathBuf,
    processes: Vec<Process>,
    listing: Vec<u8>,
    path: Vec<u8>,
    line: Box<[u8; LINE_BYTES]>,
}

impl Reader {
    #[must_use]
    pub fn new(proc: PathBuf) -> Self {
        Self {
            proc,
            processes: Vec::new(),
            listing: Vec::with_capacity(LISTING_BYTES),
            path: Vec::new(),
            line: Box::new([0; LINE_BYTES]),
        }
    }

    /// Reads a round.
    ///
    /// # Errors
    /// [`CollectError::Failed`] when processes cannot be listed, or one that is there and may be read cannot be.
    pub fn read(&mut self) -> Result<Reading<'_>, CollectError> {
        let failed = |what: &str, e: Errno| {
            let (proc, e) = (self.proc.display(), io::Error::from(e));
            CollectError::Failed(format!("cannot {what} {proc}: {e}"))
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, &self.proc, flags, Mode::empty()).map_err(|e| failed("open", e))?;
        let machine_ticks = read_line(&dir, b"stat", &mut self.line)
            .ok()
            .and_then(machine_ticks);

        self.processes.clear();
        let mut left_out = 0;
        let mut entries = RawDir::new(&dir, self.listing.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|e| failed("list", e))?;
            let Some(pid) = entry.file_name().to_str().ok().and_then(number) else {
                continue;
            };
            if self.processes.len() >= MAX_PROCESSES {
                left_out += 1;
                continue;
            }
            self.path.clear();
            self.path.extend_from_slice(entry.file_name().to_bytes());
            self.path.extend_from_slice(b"/stat");
            match read_line(&dir, &self.path, &mut self.line) {
                Ok(line) => match Process::parse(pid, line) {
                    Some(process) => self.processes.push(process),
                    None => left_out += 1,
                },
                Err(e) => match trouble(e) {
                    Trouble::Ended => {}
                    Trouble::Forbidden => left_out += 1,
                    Trouble::Other => return Err(failed(&format!("read {pid}/stat in"), e)),
                },
            }
        }
        if self.processes.is_empty() {
            return Err(CollectError::Failed(format!(
                "no process in {} can be read ({left_out} may not be): is it mounted, and not with hidepid=1?",
                self.proc.display()
            )));
        }
        Ok(Reading {
            processes: &self.processes,
            machine_ticks,
            left_out,
        })
    }
}

/// The kernel gives a whole file of `/proc` that fits into the buffer at once.
fn read_line<'a>(
    dir: &OwnedFd,
    path: &[u8],
    line: &'a mut [u8; LINE_BYTES],
) -> Result<&'a [u8], Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = retry_on_intr(|| openat(dir, path, flags, Mode::empty()))?;
    let len = retry_on_intr(|| read(&file, &mut line[..]))?;
    Ok(&line[..len])
}

/// Only digits: `self` and all else is no process.
fn number(name: &str) -> Option<u32> {
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| name.parse().ok()).flatten()
}

#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    Ended,
    Forbidden,
    Other,
}

fn trouble(e: Errno) -> Trouble {
    match e {
        Errno::NOENT | Errno::SRCH => Trouble::Ended, // before it was opened, before it was read
        Errno::ACCESS | Errno::PERM => Trouble::Forbidden,
        _ => Trouble::Other,
    }
}

/// The sum of `user nice system idle iowait irq softirq steal`; what follows (time of guests) is part of the first two.
fn machine_ticks(stat: &[u8]) -> Option<u64> {
    let line = stat.split(|byte| *byte == b'\n').next()?;
    let mut fields = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    if fields.next()? != "cpu" {
        return None;
    }
    let mut sum = None;
    for field in fields.take(8) {
        sum = Some(sum.unwrap_or(0_u64).checked_add(field.parse().ok()?)?);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_guests_does_not_count_twice() {
        let stat = b"cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3\n";
        assert_eq!(machine_ticks(stat), Some(36));
        assert_eq!(machine_ticks(b"cpu 1 2 3 4\n"), Some(10));
        for bad in [&b""[..], b"cpu\n", b"cpu0 1\n", b"cpu 1 x\n", b"cpu \xff\n"] {
            assert_eq!(machine_ticks(bad), None);
        }
    }

    #[test]
    fn only_what_hides_nothing_is_passed_over() {
        assert_eq!(trouble(Errno::NOENT), Trouble::Ended);
        assert_eq!(trouble(Errno::SRCH), Trouble::Ended);
        assert_eq!(trouble(Errno::ACCESS), Trouble::Forbidden);
        assert_eq!(trouble(Errno::PERM), Trouble::Forbidden);
        assert_eq!(trouble(Errno::MFILE), Trouble::Other);
    }

    #[test]
    fn only_numbers_are_processes() {
        assert_eq!(number("42"), Some(42));
        for no in ["", "self", "4a", "+4", "99999999999"] {
            assert_eq!(number(no), None, "{no}");
        }
    }
}

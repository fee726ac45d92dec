//! One line of `/proc/PID/stat`. Pure.
//!
//! | field | holds |
//! |---|---|
//! | 2 | the command, in parentheses: at most 15 bytes of whatever the process likes, longer for kernel threads |
//! | 9 | flags; `PF_KTHREAD` is a kernel thread |
//! | 14, 15 | processor time in user and in kernel mode, all threads together, those that have ended too, in clock ticks |
//! | 22 | when the process started, in clock ticks since the machine did |
//! | 24 | resident pages |
//!
//! (proc_pid_stat(5); `do_task_stat` in the kernel's fs/proc/array.c.)

use std::borrow::Cow;

/// Bytes of a command: the kernel's `TASK_COMM_LEN` without its NUL.
pub const COMMAND_BYTES: usize = 15;
/// A command of no bytes, which a process may give itself. A name has at least one.
pub const NAMELESS: &str = "?";
/// include/linux/sched.h
const PF_KTHREAD: u64 = 0x0020_0000;

/// One process, as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// In clock ticks. With `pid` it names a process for as long as the machine runs: the kernel gives a pid to another one later, but not in the same tick.
    pub started: u64,
    /// Processor time since then, in clock ticks.
    pub ticks: u64,
    pub resident_pages: u64,
    command: Command,
}

/// A command's bytes in place, so that reading a process allocates nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Command {
    bytes: [u8; COMMAND_BYTES],
    len: u8,
}

impl Process {
    /// Reads the line; `None` if it is not one. The command ends at the last `)`, for it may hold others.
    #[must_use]
    pub fn parse(pid: u32, stat: &[u8]) -> Option<Self> {
        let open = stat.iter().position(|byte| *byte == b'(')?;
        let close = stat.iter().rposition(|byte| *byte == b')')?;
        let command = stat.get(open + 1..close)?;
        let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace().skip(6); // from field 9 on
        let flags: u64 = fields.next()?.parse().ok()?;
        let user: u64 = fields.nth(4)?.parse().ok()?; // 14
        let system: u64 = fields.next()?.parse().ok()?; // 15
        let started = fields.nth(6)?.parse().ok()?; // 22
        let resident: i64 = fields.nth(1)?.parse().ok()?; // 24
        Some(Self {
            pid,
            started,
            ticks: user.checked_add(system)?,
            resident_pages: u64::try_from(resident).unwrap_or(0),
            command: if flags & PF_KTHREAD == 0 {
                Command::of(command)
            } else {
                Command::of(family(command))
            },
        })
    }

    /// The command as a name of a tree. What is not UTF-8, and control characters (a terminal would obey them), are U+FFFD.
    #[must_use]
    pub fn name(&self) -> Cow<'_, str> {
        let command = &self.command;
        match String::from_utf8_lossy(
            command
                .bytes
                .get(..usize::from(command.len))
                .unwrap_or_default(),
        ) {
            name if name.is_empty() => NAMELESS.into(),
            name if name.contains(char::is_control) => {
                name.replace(char::is_control, "\u{fffd}").into()
            }
            name => name,
        }
    }
}

impl Command {
    /// Cut at [`COMMAND_BYTES`] as the kernel does. It writes a newline as `\n` and a backslash as `\\`; that is undone.
    fn of(escaped: &[u8]) -> Self {
        let mut command = Self::default();
        let mut bytes = escaped.iter().copied();
        while let Some(byte) = bytes.next() {
            let Some(slot) = command.bytes.get_mut(usize::from(command.len)) else {
                break;
            };
            *slot = match byte {
                b'\\' => match bytes.next() {
                    Some(b'n') => b'\n',
                    _ => b'\\',
                },
                byte => byte,
            };
            command.len += 1;
        }
        command
    }
}

/// Kernel threads are numbered behind a slash: `kworker/3:1-events`, `ksoftirqd/0`. Numbers are no names.
fn family(command: &[u8]) -> &[u8] {
    let end = command.iter().position(|byte| *byte == b'/');
    match end {
        Some(end) if end > 0 => &command[..end],
        _ => command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(command: &[u8], flags: u64) -> Vec<u8> {
        let mut line = b"7 (".to_vec();
        line.extend(command);
        let rest = format!(
            ") S 1 7 7 0 -1 {flags} 1 2 3 4 50 6 7 8 20 0 9 0 100 5251072 954 18446744073709551615 1 2\n"
        );
        line.extend(rest.bytes());
        line
    }

    fn name(command: &[u8]) -> String {
        Process::parse(7, &line(command, 0))
            .unwrap()
            .name()
            .into_owned()
    }

    #[test]
    fn fields_are_those_of_proc_pid_stat() {
        let process = Process::parse(7, &line(b"bash", 4_194_560)).unwrap();
        assert_eq!(
            (process.started, process.ticks, process.resident_pages),
            (100, 56, 954)
        );
        assert_eq!(process.name(), "bash");
    }

    #[test]
    fn no_command_misleads() {
        assert_eq!(name(b"a) Z 1 (b"), "a) Z 1 (b");
        assert_eq!(name(b")"), ")");
        assert_eq!(name(b" "), " ");
        assert_eq!(name(b"("), "(");
        assert_eq!(name(b""), NAMELESS);
        assert_eq!(name(b"a\xff\xc3b"), "a\u{fffd}\u{fffd}b");
        assert_eq!(name(b"a\\\\b"), "a\\b");
        assert_eq!(name(b"a\x1b[2J\\nb"), "a\u{fffd}[2J\u{fffd}b");
        assert_eq!(name(b"kworker/0"), "kworker/0", "not a kernel thread");
    }

    #[test]
    fn every_name_is_legal_in_a_tree() {
        for command in [&[0xff; 64][..], &[0; 64], b"", b"\\", &[b'\\'; 64]] {
            let name = name(command);
            assert!(devmon_core::path::check_name(&name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn kernel_threads_go_by_their_family() {
        let name = |command| {
            let process = Process::parse(7, &line(command, PF_KTHREAD | 0x40)).unwrap();
            process.name().into_owned()
        };
        assert_eq!(name(b"kworker/u4:3-events_unbound"), "kworker");
        assert_eq!(name(b"kthreadd"), "kthreadd");
        assert_eq!(name(b"/x"), "/x");
        assert_eq!(name(b"ext4-rsv-conversion"), "ext4-rsv-conver");
    }

    #[test]
    fn what_is_no_such_line_is_none() {
        let good = line(b"bash", 0);
        let end_of_field_24 = good.windows(4).position(|w| w == b"954 ").unwrap();
        for cut in 0..end_of_field_24 {
            assert_eq!(Process::parse(7, &good[..cut]), None, "{cut}");
        }
        assert_eq!(Process::parse(7, b") ( S 1"), None);
        let huge = String::from_utf8(good)
            .unwrap()
            .replace(" 50 6 ", " 18446744073709551615 1 ");
        assert_eq!(Process::parse(7, huge.as_bytes()), None);
    }
}

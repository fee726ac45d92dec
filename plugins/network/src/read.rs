//! The I/O of a round: `/proc/net/dev`, and `operstate` and `speed` of `/sys/class/net`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use devmon_core::CollectError;

use crate::select::Filter;

/// A link does not change its speed without going down; this is for those that tell it late.
pub const SPEED_EVERY: Duration = Duration::from_secs(60);
/// A frame holds 10 000 leaves and an interface has 10; more is a host of containers whose `include` takes too much.
pub const MAX_INTERFACES: usize = 900;

/// Where the kernel's files lie.
pub struct Roots {
    pub proc: PathBuf,
    pub sys: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
        }
    }
}

/// One round.
#[derive(Debug)]
pub struct Reading {
    pub interfaces: Vec<Interface>,
    /// Interfaces beyond [`MAX_INTERFACES`].
    pub left_out: usize,
}

/// One interface.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    pub name: String,
    pub received: Counters,
    pub sent: Counters,
    /// `None` where `/sys` does not say.
    pub up: Option<bool>,
    pub speed_bytes_per_second: Option<u64>,
}

/// One direction, since the interface appeared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// Keeps the speeds between rounds.
pub struct Reader {
    roots: Roots,
    filter: Filter,
    speeds: BTreeMap<String, Speed>,
    buffer: Vec<u8>,
}

/// What was read of `speed`, and when it holds no longer.
struct Speed {
    up: Option<bool>,
    read_at: Instant,
    bytes_per_second: Option<u64>,
}

impl Reader {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(roots: Roots, filter: Filter) -> Self {
        Self {
            roots,
            filter,
            speeds: BTreeMap::new(),
            buffer: Vec::new(),
        }
    }

    /// Reads a round.
    ///
    /// # Errors
    /// [`CollectError::Failed`] when `/proc/net/dev` cannot be read, [`CollectError::Unavailable`] when the options leave no interface.
    pub fn read(&mut self) -> Result<Reading, CollectError> {
        let file = self.roots.proc.join("net/dev");
        self.buffer.clear();
        File::open(&file)
            .and_then(|mut open| open.read_to_end(&mut self.buffer))
            .map_err(|e| CollectError::Failed(format!("cannot read {}: {e}", file.display())))?;
        let text = String::from_utf8_lossy(&self.buffer);
        let all = parse(&text);
        let seen = all.len();
        let mut interfaces: Vec<Interface> = all
            .into_iter()
            .filter(|interface| self.filter.takes(&interface.name))
            .collect();
        if interfaces.is_empty() {
            return Err(CollectError::Unavailable(format!(
                "none of the {seen} interfaces in {} is to be measured; see the options `include` and `exclude` of this source",
                file.display()
            )));
        }
        let left_out = interfaces.len().saturating_sub(MAX_INTERFACES);
        interfaces.truncate(MAX_INTERFACES);
        let now = Instant::now();
        for interface in &mut interfaces {
            let dir = self.roots.sys.join("class/net").join(&interface.name);
            interface.up = is_up(&dir);
            let known = self.speeds.get(&interface.name).filter(|speed| {
                speed.up == interface.up && now.duration_since(speed.read_at) < SPEED_EVERY
            });
            interface.speed_bytes_per_second = match known {
                Some(speed) => speed.bytes_per_second,
                None => {
                    let bytes_per_second = speed(&dir);
                    let speed = Speed {
                        up: interface.up,
                        read_at: now,
                        bytes_per_second,
                    };
                    self.speeds.insert(interface.name.clone(), speed);
                    bytes_per_second
                }
            };
        }
        if self.speeds.len() > interfaces.len() {
            self.speeds
                .retain(|name, _| interfaces.iter().any(|i| i.name == *name));
        }
        Ok(Reading {
            interfaces,
            left_out,
        })
    }
}

/// RFC 2863 state. Drivers without one (tunnels, loopback) say `unknown`; then it is what the administrator set (`IFF_UP`).
fn is_up(dir: &std::path::Path) -> Option<bool> {
    let state = fs::read_to_string(dir.join("operstate")).ok()?;
    match state.trim() {
        "up" => Some(true),
        "unknown" => {
            let flags = fs::read_to_string(dir.join("flags")).ok()?;
            let flags = u32::from_str_radix(flags.trim().strip_prefix("0x")?, 16).ok()?;
            Some(flags & 1 == 1)
        }
        _ => Some(false),
    }
}

/// The file has Mbit/s; -1, or an error, where there is none (wireless, virtual, or down).
fn speed(dir: &std::path::Path) -> Option<u64> {
    let text = fs::read_to_string(dir.join("speed")).ok()?;
    let mbit: u64 = text.trim().parse().ok()?;
    // Some virtual drivers give the -1 as a 32-bit number without sign.
    (mbit > 0 && mbit < u64::from(u32::MAX)).then_some(mbit * 125_000)
}

/// Reads the table. The first two lines are its head; a line of another form is skipped.
///
/// ```text
///   eth0: bytes packets errs drop fifo frame compressed multicast bytes packets errs drop fifo colls carrier compressed
/// ```
#[must_use]
pub fn parse(text: &str) -> Vec<Interface> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Interface> {
    let (name, counters) = line.split_once(':')?;
    let mut fields = counters
        .split_ascii_whitespace()
        .map(|field| field.parse::<u64>().ok());
    let mut direction = || {
        let counters = Counters {
            bytes: fields.next()??,
            packets: fields.next()??,
            errors: fields.next()??,
            dropped: fields.next()??,
        };
        fields.nth(3)?; // fifo to multicast, fifo to compressed
        Some(counters)
    };
    let interface = Interface {
        name: name.trim().to_owned(),
        received: direction()?,
        sent: direction()?,
        up: None,
        speed_bytes_per_second: None,
    };
    (!interface.name.is_empty()).then_some(interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_read_in_old_and_new_form() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets\n\
                    \x20 eth0: 1 2 3 4 5 6 7 8 11 12 13 14 15 16 17 18\n\
                    wlan0:18446744073709551615 2 3 4 5 6 7 8 11 12 13 14 15 16 17 18\n";
        let found = parse(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].name, "eth0");
        let received = Counters {
            bytes: 1,
            packets: 2,
            errors: 3,
            dropped: 4,
        };
        let sent = Counters {
            bytes: 11,
            packets: 12,
            errors: 13,
            dropped: 14,
        };
        assert_eq!((found[0].received, found[0].sent), (received, sent));
        assert_eq!(found[1].name, "wlan0");
        assert_eq!(found[1].received.bytes, u64::MAX);
    }

    #[test]
    fn lines_of_another_form_are_skipped() {
        let text = "eth0: 1 2 3\n: 1 2 3 4 5 6 7 8 1 2 3 4 5 6 7 8\neth1: a b c d 5 6 7 8 1 2 3 4 5 6 7 8\n\nx\n";
        assert_eq!(parse(text), []);
    }
}

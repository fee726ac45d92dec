//! The I/O of a round: mount table, I/O counters, and the sizes through [`Prober`].

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use devmon_core::CollectError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::capacity::{Answer, Prober, Target};
use crate::diskstats::{self, Io};
use crate::mounts::{Filter, Mount, name_of, parse_mountinfo, select};

/// Where the kernel's files lie.
pub struct Roots {
    pub proc: PathBuf,
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            dev: "/dev".into(),
        }
    }
}

/// One round.
pub struct Reading {
    pub mounts: Vec<MountReading>,
    /// Mounts beyond [`MAX_MOUNTS`](crate::mounts::MAX_MOUNTS).
    pub left_out: usize,
}

/// What was read of one mount.
pub struct MountReading {
    /// Its name in the tree.
    pub name: String,
    pub answer: Answer,
    /// `None` where no block device is known to lie below.
    pub io: Option<Io>,
}

/// Keeps what follows from the mount table between rounds; it is worked out anew only when the table has changed.
pub struct Reader {
    roots: Roots,
    filter: Filter,
    prober: Prober,
    table: Option<Table>,
    targets: Vec<Target>,
    /// Name and block device of each target.
    named: Vec<(String, BlockDevice)>,
    left_out: usize,
}

/// The kernel tells by poll(2) on its open mount table that it has changed (proc(5)), which costs a fiftieth of reading it.
struct Table {
    file: File,
    read_at: Instant,
    text: Vec<u8>,
}

/// The table is read anew this often even so, for sandboxes that answer poll but never tell.
const REREAD: Duration = Duration::from_secs(60);

impl Table {
    fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(Self {
            file,
            read_at: Instant::now(),
            text,
        })
    }

    fn may_have_changed(&self) -> bool {
        // The kernel's own files have no size; a plain file, as in tests, cannot tell.
        let plain = self.file.metadata().map_or(true, |m| m.len() > 0);
        let mut fds = [PollFd::new(&self.file, PollFlags::PRI)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let quiet = poll(&mut fds, Some(&now)) == Ok(0);
        plain || !quiet || self.read_at.elapsed() >= REREAD
    }
}

/// How a mount's line in `/proc/diskstats` is found.
enum BlockDevice {
    Number((u32, u32)),
    /// Filesystems that span devices have a number of their own; btrfs names one of its devices as the source.
    Name(String),
    None,
}

impl Reader {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(roots: Roots, filter: Filter, prober: Prober) -> Self {
        Self {
            roots,
            filter,
            prober,
            table: None,
            targets: Vec::new(),
            named: Vec::new(),
            left_out: 0,
        }
    }

    /// Reads a round; returns by the prober's deadline.
    ///
    /// # Errors
    /// [`CollectError::Failed`] when the mount table cannot be read, [`CollectError::Unavailable`] when the rules leave no mount.
    pub fn read(&mut self) -> Result<Reading, CollectError> {
        self.refresh_table()?;
        // Without it (some containers) there are no I/O counters, and all else stands.
        let stats = fs::read_to_string(self.roots.proc.join("diskstats")).unwrap_or_default();
        let stats = diskstats::parse(&stats);
        let answers = self.prober.ask(&self.targets);
        let reading = |((name, device), answer): (&(String, BlockDevice), Answer)| MountReading {
            name: name.clone(),
            answer,
            io: stats
                .iter()
                .find(|line| match device {
                    BlockDevice::Number(number) => line.number == *number,
                    BlockDevice::Name(name) => line.name == name,
                    BlockDevice::None => false,
                })
                .map(|line| line.io),
        };
        Ok(Reading {
            mounts: self.named.iter().zip(answers).map(reading).collect(),
            left_out: self.left_out,
        })
    }

    fn refresh_table(&mut self) -> Result<(), CollectError> {
        if self
            .table
            .as_ref()
            .is_some_and(|table| !table.may_have_changed())
        {
            return Ok(());
        }
        let file = self.roots.proc.join("self/mountinfo");
        let table = Table::read(&file)
            .map_err(|e| CollectError::Failed(format!("cannot read {}: {e}", file.display())))?;
        if self.table.as_ref().is_none_or(|old| old.text != table.text) {
            self.table = None; // until the new one has been worked out
            let all = parse_mountinfo(&table.text);
            let (mounts, left_out) = select(&all, &self.filter);
            if mounts.is_empty() {
                return Err(CollectError::Unavailable(format!(
                    "none of the {} mounts in {} is to be measured; see the options `include`, `exclude` and `exclude_types` of this source",
                    all.len(),
                    file.display()
                )));
            }
            self.named = mounts
                .iter()
                .map(|mount| (name_of(&mount.path), self.block_device(mount)))
                .collect();
            self.targets = mounts
                .into_iter()
                .map(|mount| Target {
                    mount_id: mount.id,
                    path: mount.path,
                })
                .collect();
            self.left_out = left_out;
        }
        self.table = Some(table);
        Ok(())
    }

    fn block_device(&self, mount: &Mount) -> BlockDevice {
        if mount.device.0 != 0 {
            return BlockDevice::Number(mount.device);
        }
        // `/dev/mapper/x` is a link to `/dev/dm-0`, the name that diskstats knows.
        let resolve = |source: &Path| {
            let below_dev = source.strip_prefix("/dev").ok()?;
            let device = fs::canonicalize(self.roots.dev.join(below_dev)).ok()?;
            Some(device.file_name()?.to_string_lossy().into_owned())
        };
        resolve(&mount.source).map_or(BlockDevice::None, BlockDevice::Name)
    }
}

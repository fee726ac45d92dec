//! The database under the store: a narrow trait, and sled behind it. The only file that knows sled.
//!
//! # Promises
//! - What was put before a [`Kv::barrier`] that returned `Ok` survives power loss. Before it, nothing is promised: the journal has it.
//! - An open that fails never ends in a silent empty start: what is damaged is moved aside ([`Opened::quarantined`]), whole, for whoever repairs it; a full
//!   disk or a missing permission is an error and leaves it where it is.
//!
//! # Habits, each for a fault of sled 0.34.7 (`docs/decisions/0005-living-with-sled.md`)
//! - `flush()` does not fsync: [`Kv::barrier`] also fsyncs sled's file and directory.
//! - A `snap.*.generating` that a kill left behind breaks every later open: removed before.
//! - Values above [`MAX_VALUE_BYTES`] end in files that are not fsynced and leak: refused.
//! - One failed write (disk full) fails all later ones until it is opened again, and what was not flushed is gone then: it is opened again, and the next
//!   barrier fails, so that whoever wrote begins anew. Opening writes, too: on a full disk it takes the room of the `reserve`.
//! - Its file never gets smaller, only room in it is used again: [`Kv::shrink`] writes the database anew when little of it is left.
//! - Batches and transactions take a lock that all processes' databases share: single puts.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::engine::StoreError;
use super::reserve::Reserve;

/// Largest value: 16 to 19 such make one of sled's pages, which must stay below 131 052 bytes.
pub(super) const MAX_VALUE_BYTES: usize = 6 * 1024;
/// sled's page cache; it counts bytes on disk and takes a multiple of it in memory.
const CACHE_BYTES: u64 = 16 << 20; // intake of 10.8 M samples: 64 MiB took 14 MB more memory and no less time
/// A smaller file is not written anew …
const SHRINK_FROM_BYTES: u64 = 2 << 20;
/// … nor one of which entries take more than this part, …
const SHRINK_SHARE: u64 = 6;
/// … nor entries of more bytes than this: whoever reads or seals waits for it.
const SHRINK_UPTO_BYTES: u64 = 48 << 20;
/// How long opening again waits for the threads of the closed database to let go of the file.
const REOPEN_PATIENCE: Duration = Duration::from_secs(5);

/// The tables. At most six, ever: sled's files grow with their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// Sealed samples (`block`).
    Blocks,
    /// Devices and series, in pieces (`blob`).
    Catalogue,
    /// The watermark: one record (`seal`).
    Meta,
}

impl Table {
    const ALL: [Self; 3] = [Self::Blocks, Self::Catalogue, Self::Meta];

    fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Catalogue => "catalogue",
            Self::Meta => "meta",
        }
    }
}

/// What a scan does with each entry: go on, or stop.
pub(super) type Each<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// A sorted map on disk; nothing more is asked of an engine.
pub(super) trait Kv: Send + Sync {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Durable after the next [`barrier`](Self::barrier).
    fn put(&self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError>;
    fn delete(&self, table: Table, key: &[u8]) -> Result<(), StoreError>;
    /// Entries with `from ≤ key < to` in order.
    fn scan(&self, table: Table, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), StoreError>;
    /// Makes all that was put and deleted before durable.
    fn barrier(&self) -> Result<(), StoreError>;
    fn size_bytes(&self) -> u64;
    /// Grows each time when the database is opened again after a failure: what was changed since the last barrier may be gone then, whoever changed it.
    fn openings(&self) -> u64;
    /// Gives disk back if entries are few beside what they take; true if it did. All that was put is durable then. Others wait meanwhile, at most about a second.
    fn shrink(&self) -> Result<bool, StoreError>;
}

/// A barrier for what was changed since [`Kv::openings`] was as given: an error if something of that may be gone.
pub(super) fn barrier_since(kv: &dyn Kv, openings: u64) -> Result<(), StoreError> {
    kv.barrier()?;
    if kv.openings() == openings {
        return Ok(());
    }
    Err(StoreError::Database {
        path: "db".into(),
        detail:
            "it failed and was opened again; what was written before that has to be written again"
                .into(),
    })
}

/// An open database, and what opening it took.
pub(super) struct Opened {
    pub(super) kv: SledKv,
    /// Where the database that could not be opened lies now.
    pub(super) quarantined: Option<PathBuf>,
}

/// sled in a directory.
pub(super) struct SledKv {
    dir: PathBuf,
    reserve: Arc<Reserve>,
    /// `None` between a failure and a successful opening again.
    open: RwLock<Option<Open>>,
    /// It was opened again since the last barrier: what was put or deleted before that may be gone, so the next barrier fails, also where a failed change was
    /// noticed already: one attempt too many at worst.
    forgot: AtomicBool,
    openings: AtomicU64,
}

struct Open {
    db: sled::Db,
    tables: Vec<sled::Tree>,
}

impl SledKv {
    /// Opens or makes the database. Ladder: as it is → without its snapshot (then sled reads its whole log) → moved aside, and an empty one made.
    ///
    /// # Errors
    /// [`StoreError::Database`] when not even an empty one can be made.
    pub(super) fn open(dir: &Path, reserve: &Arc<Reserve>) -> Result<Opened, StoreError> {
        std::fs::create_dir_all(dir).map_err(|e| database(dir, &e))?;
        remove_anew(dir)?;
        remove_half_made_snapshots(dir)?;
        let mut quarantined = None;
        let environment = |failure: Failure| database(dir, failure.detail);
        let open = match open_patiently(dir, reserve) {
            Ok(open) => open,
            Err(failure) if !failure.damaged => return Err(environment(failure)),
            Err(first) => {
                tracing::warn!(
                    error = first.detail,
                    "the database does not open; trying without its snapshot"
                );
                set_snapshots_aside(dir)?;
                match open_patiently(dir, reserve) {
                    Ok(open) => open,
                    Err(failure) if !failure.damaged => return Err(environment(failure)),
                    Err(second) => {
                        let aside = quarantine(dir)?;
                        tracing::error!(error = second.detail, moved_to = %aside.display(), "the database can not be opened; beginning an empty one");
                        quarantined = Some(aside);
                        open_patiently(dir, reserve).map_err(environment)?
                    }
                }
            }
        };
        sync_dir(dir)?;
        let kv = Self {
            dir: dir.to_owned(),
            reserve: reserve.clone(),
            open: RwLock::new(Some(open)),
            forgot: AtomicBool::new(false),
            openings: AtomicU64::new(0),
        };
        Ok(Opened { kv, quarantined })
    }

    /// As [`open`](Self::open), of one that is nowhere else, for tests.
    #[cfg(test)]
    pub(super) fn open_anew(dir: &Path) -> Self {
        let reserve = Reserve::of(dir.parent().unwrap());
        Self::open(dir, &Arc::new(reserve)).unwrap().kv
    }

    /// Opens a database that is there, without the ladder: what does not open stays where it is.
    ///
    /// # Errors
    /// [`StoreError::Database`], or [`StoreError::DamagedBlock`] if a start would move it aside.
    pub(super) fn open_as_it_is(dir: &Path) -> Result<Self, StoreError> {
        remove_half_made_snapshots(dir)?;
        let reserve = Arc::new(Reserve::of(dir.parent().unwrap_or(Path::new("."))));
        let open = open_patiently(dir, &reserve).map_err(|failure| match failure.damaged {
            true => StoreError::DamagedBlock {
                key: format!("database {}", dir.display()),
                detail: format!("it does not open: {}", failure.detail),
            },
            false => database(dir, failure.detail),
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            reserve,
            open: RwLock::new(Some(open)),
            forgot: AtomicBool::new(false),
            openings: AtomicU64::new(0),
        })
    }

    /// A read: after a failure it is done once more on the database opened again.
    fn read<T>(&self, f: impl Fn(&Open) -> sled::Result<T>) -> Result<T, StoreError> {
        let guard = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*guard {
            match guarded(|| f(open)) {
                Ok(value) => return Ok(value),
                Err(failure) => tracing::warn!(
                    error = failure.detail,
                    "the database failed; opening it again"
                ),
            }
        }
        drop(guard);
        self.reopen()?;
        self.once(f)
    }

    /// A change: after a failure the database is opened again, and the failure is returned. All changes since the last barrier went with it (a sled that has failed
    /// writes nothing more), so the caller begins anew; repeating this one alone would be as if the others were still there.
    fn change<T>(&self, f: impl Fn(&Open) -> sled::Result<T>) -> Result<T, StoreError> {
        if !self.is_open() {
            self.reopen()?;
        }
        let changed = self.once(f);
        if changed.is_err()
            && let Err(error) = self.reopen()
        {
            tracing::warn!(%error, "the database does not open again yet");
        }
        changed
    }

    fn is_open(&self) -> bool {
        let guard = self.open.read().unwrap_or_else(PoisonError::into_inner);
        guard.is_some()
    }

    fn once<T>(&self, f: impl FnOnce(&Open) -> sled::Result<T>) -> Result<T, StoreError> {
        let guard = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = &*guard else {
            return Err(database(&self.dir, "not open"));
        };
        guarded(|| f(open)).map_err(|failure| self.failed(failure))
    }

    fn failed(&self, failure: Failure) -> StoreError {
        if failure.damaged {
            return StoreError::DamagedBlock {
                key: format!("database {}", self.dir.display()),
                detail: failure.detail,
            };
        }
        database(&self.dir, failure.detail)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut guard = self.open.write().unwrap_or_else(PoisonError::into_inner);
        self.forgot.store(true, Relaxed);
        self.openings.fetch_add(1, Relaxed);
        drop(guard.take());
        remove_half_made_snapshots(&self.dir)?;
        let opened = open_patiently(&self.dir, &self.reserve);
        *guard = Some(opened.map_err(|e| database(&self.dir, e.detail))?);
        Ok(())
    }
}

impl Open {
    fn table(&self, table: Table) -> &sled::Tree {
        &self.tables[table as usize] // one for each of Table::ALL
    }
}

impl Kv for SledKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|open| Ok(open.table(table).get(key)?.map(|v| v.to_vec())))
    }

    fn put(&self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if value.len() > MAX_VALUE_BYTES {
            let detail = format!(
                "a value of {} bytes; the most is {MAX_VALUE_BYTES}",
                value.len()
            );
            return Err(database(&self.dir, detail));
        }
        self.change(|open| open.table(table).insert(key, value).map(drop))
    }

    fn delete(&self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.change(|open| open.table(table).remove(key).map(drop))
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), StoreError> {
        let mut next = from.to_vec();
        let mut part = |open: &Open| {
            for entry in open.table(table).range(next.as_slice()..to) {
                let (key, value) = entry?;
                let stop = each(&key, &value).is_break();
                next = [&key, &[0][..]].concat();
                if stop {
                    break;
                }
            }
            Ok(())
        };
        let guard = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*guard {
            match guarded(|| part(open)) {
                Ok(()) => return Ok(()),
                Err(failure) => tracing::warn!(
                    error = failure.detail,
                    "the database failed; opening it again"
                ),
            }
        }
        drop(guard);
        self.reopen()?;
        // From behind what `each` has seen: nothing comes twice, and what counts (it is behind a barrier) is there still.
        self.once(part)
    }

    fn barrier(&self) -> Result<(), StoreError> {
        self.change(|open| open.db.flush().map(drop))?;
        if self.forgot.swap(false, Relaxed) {
            let detail = "it failed and was opened again; what was written before that has to be written again";
            return Err(database(&self.dir, detail));
        }
        let file = self.dir.join("db");
        let synced = std::fs::File::open(&file).and_then(|f| f.sync_all());
        synced.map_err(|e| database(&file, &e))?;
        sync_dir(&self.dir)
    }

    fn openings(&self) -> u64 {
        self.openings.load(Relaxed)
    }

    fn shrink(&self) -> Result<bool, StoreError> {
        let size = self.size_bytes();
        let most = (size / SHRINK_SHARE).min(SHRINK_UPTO_BYTES);
        if size < SHRINK_FROM_BYTES || self.read(|open| live_bytes(open, most))? > most {
            return Ok(false);
        }
        let mut guard = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let Some(old) = &*guard else {
            return Ok(false);
        };
        if let Err(failure) = write_anew(old, &self.dir) {
            remove_anew(&self.dir)?;
            return Err(self.failed(failure));
        }
        drop(guard.take());
        wait_until_closed(&self.dir);
        let anew = anew(&self.dir);
        let exchanged = rustix::fs::renameat_with(
            rustix::fs::CWD,
            &anew,
            rustix::fs::CWD,
            &self.dir,
            rustix::fs::RenameFlags::EXCHANGE,
        );
        let parent = self.dir.parent().unwrap_or(Path::new("."));
        let synced = sync_dir(parent);
        let opened = open_patiently(&self.dir, &self.reserve);
        *guard = Some(opened.map_err(|e| database(&self.dir, e.detail))?);
        synced?;
        remove_anew(&self.dir)?;
        match exchanged {
            Ok(()) => Ok(true),
            Err(error) => {
                // Some file systems can not do it.
                tracing::debug!(%error, "the database can not be exchanged for a smaller one");
                Ok(false)
            }
        }
    }

    fn size_bytes(&self) -> u64 {
        // The log only: sled's own figure stats every blob, and there are none.
        std::fs::metadata(self.dir.join("db")).map_or(0, |meta| {
            use std::os::unix::fs::MetadataExt;
            meta.blocks() * 512
        })
    }
}

/// Where a database is written anew before it takes its place, and where the old one lies until it is removed. Whoever finds it there removes it: the one in
/// place is whole.
fn anew(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".anew");
    dir.with_file_name(name)
}

fn remove_anew(dir: &Path) -> Result<(), StoreError> {
    let anew = anew(dir);
    match std::fs::remove_dir_all(&anew) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(database(&anew, error)),
        _ => Ok(()),
    }
}

/// Bytes of all entries, or somewhat more than `most`.
fn live_bytes(open: &Open, most: u64) -> sled::Result<u64> {
    let mut bytes = 0;
    for entry in open.tables.iter().flat_map(sled::Tree::iter) {
        let (key, value) = entry?;
        bytes += (key.len() + value.len()) as u64;
        if bytes > most {
            break;
        }
    }
    Ok(bytes)
}

/// Copies all entries into a new database beside this one, durably, and closes it.
fn write_anew(old: &Open, dir: &Path) -> Result<(), Failure> {
    let environment = |error: StoreError| Failure {
        detail: error.to_string(),
        damaged: false,
        full: false,
    };
    remove_anew(dir).map_err(environment)?;
    let anew = anew(dir);
    let new = open_sled(&anew)?;
    guarded(|| {
        for (from, to) in old.tables.iter().zip(&new.tables) {
            for entry in from {
                let (key, value) = entry?;
                to.insert(key, value)?;
            }
        }
        new.db.flush()?;
        std::fs::File::open(anew.join("db"))?.sync_all()?;
        Ok(())
    })?;
    drop(new);
    wait_until_closed(&anew);
    sync_dir(&anew).map_err(environment)
}

/// Waits until sled's threads have let go of the file: they may write a snapshot until then.
fn wait_until_closed(dir: &Path) {
    use rustix::fs::{FlockOperation, flock};
    let give_up = Instant::now() + REOPEN_PATIENCE;
    let Ok(file) = std::fs::File::open(dir.join("db")) else {
        return;
    };
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
        && Instant::now() < give_up
    {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Moves the whole directory aside, under a name that no later one takes.
pub(super) fn quarantine(dir: &Path) -> Result<PathBuf, StoreError> {
    let now = devmon_core::wire::TimestampMs::now();
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".quarantine-{now}"));
    let aside = dir.with_file_name(name);
    std::fs::rename(dir, &aside).map_err(|e| database(dir, &e))?;
    std::fs::create_dir_all(dir).map_err(|e| database(dir, &e))?;
    Ok(aside)
}

/// Why sled failed, and whose fault that is.
struct Failure {
    detail: String,
    /// What it read is not what was written. Else: disk full, no permission, in use; moving the database aside would help nobody.
    damaged: bool,
    /// The disk is full.
    full: bool,
}

/// Opens, and waits for the lock: sled's threads let go of a database that this process has closed a moment later. On a full disk the reserve makes room.
fn open_patiently(dir: &Path, reserve: &Reserve) -> Result<Open, Failure> {
    let give_up = Instant::now() + REOPEN_PATIENCE;
    loop {
        match open_sled(dir) {
            Err(failure) if failure.detail.contains(LOCKED) && Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(failure) if failure.full && reserve.give_up() => {
                tracing::warn!(
                    error = failure.detail,
                    "the disk is full; opening the database takes the room set aside for that"
                );
                // Of the attempt that failed: sled takes it for its newest, and fails on it.
                remove_half_made_snapshots(dir).map_err(|error| Failure {
                    detail: error.to_string(),
                    damaged: false,
                    full: false,
                })?;
            }
            opened => return opened,
        }
    }
}

/// What sled says when another has its file; it has no code for it.
const LOCKED: &str = "could not acquire lock";

fn open_sled(dir: &Path) -> Result<Open, Failure> {
    guarded(|| {
        let db = sled::Config::default()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(1000)) // sled collects its garbage in this thread; durability is the barrier's
            .open()?;
        let tables = Table::ALL
            .iter()
            .map(|t| db.open_tree(t.name()))
            .collect::<Result<_, _>>()?;
        Ok(Open { db, tables })
    })
}

/// sled asserts where it should return an error; a panic in it must not end a thread of ours.
fn guarded<T>(f: impl FnOnce() -> sled::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let detail = error.to_string();
            let full = says_full(&detail);
            // sled copies errors and loses their number, but not their kind.
            let environment = match &error {
                sled::Error::Io(io) => {
                    use std::io::ErrorKind::{InvalidData, Other, UnexpectedEof};
                    let of_content = matches!(io.kind(), InvalidData | Other | UnexpectedEof);
                    full || io.raw_os_error().is_some() || !of_content || detail.contains(LOCKED)
                }
                _ => false,
            };
            Err(Failure {
                detail,
                damaged: !environment,
                full,
            })
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let detail = format!("sled panicked: {}", text.unwrap_or("no message"));
            let full = says_full(&detail);
            Err(Failure {
                detail,
                damaged: !full,
                full,
            })
        }
    }
}

/// sled keeps of an error its kind and text only, and of a panic the text.
fn says_full(detail: &str) -> bool {
    const CODES: [rustix::io::Errno; 2] = [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT];
    let code = |errno: rustix::io::Errno| format!("(os error {})", errno.raw_os_error());
    CODES.iter().any(|&errno| detail.contains(&code(errno)))
        || detail.contains("StorageFull")
        || detail.contains("QuotaExceeded")
}

fn snapshots(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| database(dir, &e))? {
        let path = entry.map_err(|e| database(dir, &e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("snap.") {
            found.push(path);
        }
    }
    Ok(found)
}

fn remove_half_made_snapshots(dir: &Path) -> Result<(), StoreError> {
    for path in snapshots(dir)? {
        if path.to_string_lossy().ends_with(".generating") {
            std::fs::remove_file(&path).map_err(|e| database(&path, &e))?;
            tracing::info!(file = %path.display(), "removed a snapshot that a kill left half made");
        }
    }
    Ok(())
}

fn set_snapshots_aside(dir: &Path) -> Result<(), StoreError> {
    for path in snapshots(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside = path.with_file_name(format!("aside-{name}"));
        std::fs::rename(&path, aside).map_err(|e| database(&path, &e))?;
    }
    Ok(())
}

/// Makes the entries of a folder durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    let synced = std::fs::File::open(dir).and_then(|d| d.sync_all());
    synced.map_err(|e| database(dir, &e))
}

fn database(path: &Path, detail: impl std::fmt::Display) -> StoreError {
    StoreError::Database {
        path: path.to_owned(),
        detail: detail.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Opened {
        SledKv::open(dir, &Arc::new(Reserve::of(dir))).unwrap()
    }

    fn put(kv: &SledKv, key: &[u8], value: &[u8]) {
        kv.put(Table::Blocks, key, value).unwrap();
    }

    #[test]
    fn entries_come_back_in_order_and_survive_a_reopen() {
        let dir = tempfile::tempdir().unwrap();
        let kv = open(dir.path()).kv;
        put(&kv, b"b", b"2");
        put(&kv, b"a", b"1");
        put(&kv, b"c", b"3");
        kv.delete(Table::Blocks, b"c").unwrap();
        kv.barrier().unwrap();
        kv.reopen().unwrap();
        let mut seen = Vec::new();
        kv.scan(Table::Blocks, b"a", b"z", &mut |k, v| {
            seen.push((k.to_vec(), v.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(
            seen,
            [
                (b"a".to_vec(), b"1".to_vec()),
                (b"b".to_vec(), b"2".to_vec())
            ]
        );
        assert!(kv.size_bytes() > 0);
    }

    #[test]
    fn a_database_of_which_little_is_left_gives_its_disk_back() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("db");
        let kv = open(&dir).kv;
        let all = |kv: &SledKv| {
            let mut seen = Vec::new();
            kv.scan(Table::Blocks, &[], &[0xff; 8], &mut |k, v| {
                seen.push((k.to_vec(), v.to_vec()));
                ControlFlow::Continue(())
            })
            .unwrap();
            seen
        };
        let noise = |n: u32| {
            let words =
                (0..1024u32).flat_map(|i| (n * 1031 + i).wrapping_mul(2_654_435_761).to_le_bytes());
            words.collect::<Vec<_>>()
        };
        for n in 0..2000u32 {
            put(&kv, &n.to_be_bytes(), &noise(n));
        }
        kv.put(Table::Meta, b"m", b"1").unwrap();
        kv.barrier().unwrap();
        assert!(!kv.shrink().unwrap(), "all of it is in use");
        for n in (0..2000u32).filter(|n| n % 100 != 7) {
            kv.delete(Table::Blocks, &n.to_be_bytes()).unwrap();
        }
        let (before, size) = (all(&kv), kv.size_bytes());
        assert!(kv.shrink().unwrap());
        assert!(kv.size_bytes() * 4 < size, "{} of {size}", kv.size_bytes());
        assert_eq!(all(&kv), before);
        assert!(!kv.shrink().unwrap());
        assert!(!anew(&dir).exists());
        put(&kv, b"later", b"2");
        kv.barrier().unwrap();
        drop(kv);
        // A kill between exchange and removal, or before the exchange.
        std::fs::create_dir(anew(&dir)).unwrap();
        let opened = open(&dir);
        assert_eq!(opened.quarantined, None);
        assert!(!anew(&dir).exists());
        assert_eq!(all(&opened.kv).len(), before.len() + 1);
        let marked = opened.kv.get(Table::Meta, b"m").unwrap();
        assert_eq!(marked.unwrap(), b"1");
    }

    #[test]
    fn a_scan_that_fails_half_way_goes_on_behind_what_was_seen() {
        let dir = tempfile::tempdir().unwrap();
        let kv = open(dir.path()).kv;
        for key in [b"a", b"b", b"c", b"d"] {
            put(&kv, key, key);
        }
        kv.barrier().unwrap();
        let mut seen = Vec::new();
        let mut failed = false;
        kv.scan(Table::Blocks, b"a", b"d", &mut |key, _| {
            // As sled does it: by a panic within the scan.
            assert!(key != b"b" || std::mem::replace(&mut failed, true));
            seen.push(key.to_vec());
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(seen, [b"a", b"b", b"c"]);
        assert_eq!(kv.openings(), 1, "it was opened again");
    }

    #[test]
    fn a_value_that_sled_would_put_into_a_blob_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let kv = open(dir.path()).kv;
        put(&kv, b"a", &[0; MAX_VALUE_BYTES]);
        assert!(
            kv.put(Table::Blocks, b"a", &[0; MAX_VALUE_BYTES + 1])
                .is_err()
        );
    }

    #[test]
    fn a_half_made_snapshot_does_not_hinder_the_next_open() {
        let dir = tempfile::tempdir().unwrap();
        {
            let kv = open(dir.path()).kv;
            put(&kv, b"a", b"1");
            kv.barrier().unwrap();
        }
        // What a kill during open leaves: sled takes it for its newest snapshot.
        std::fs::write(dir.path().join("snap.7FFFFFFFFFFFFFFF.generating"), b"half").unwrap();
        let opened = open(dir.path());
        assert_eq!(opened.quarantined, None);
        assert_eq!(opened.kv.get(Table::Blocks, b"a").unwrap().unwrap(), b"1");
    }

    #[test]
    fn a_damaged_snapshot_is_set_aside_and_the_log_read_instead() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let kv = open(dir.path()).kv;
            put(&kv, b"a", b"1");
            kv.barrier().unwrap();
        }
        let snapshot = snapshots(dir.path()).unwrap().pop().unwrap();
        let mut bytes = std::fs::read(&snapshot).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        std::fs::write(&snapshot, bytes).unwrap();
        let opened = open(dir.path());
        assert_eq!(opened.quarantined, None);
        assert_eq!(opened.kv.get(Table::Blocks, b"a").unwrap().unwrap(), b"1");
    }

    #[test]
    fn a_database_that_can_not_be_opened_is_kept_aside() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("db");
        {
            let kv = open(&dir).kv;
            put(&kv, b"a", b"1");
            kv.barrier().unwrap();
        }
        std::fs::write(dir.join("conf"), b"not sled's").unwrap();
        let opened = open(&dir);
        let aside = opened.quarantined.unwrap();
        assert!(aside.join("db").is_file());
        assert_eq!(opened.kv.get(Table::Blocks, b"a").unwrap(), None);
        put(&opened.kv, b"b", b"2");
        opened.kv.barrier().unwrap();
    }
}

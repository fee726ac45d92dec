//! The contract of the store: what is durable when, how it is ordered, when it is visible. Everything above speaks to this trait only.
//!
//! - **Durable**: when [`Store::commit`] returns `Ok`, every item of the batch survives kill -9 and power loss. On an error none of it counts, and nothing
//!   of it may be acknowledged.
//! - **Once**: a message whose [`MessageId`] was committed before is dropped and reported as a duplicate, also after a restart. Of two samples of one
//!   series at one time, the one committed last counts.
//! - **Ordered**: samples land at their own time, however late they come. Reads return them by time.
//! - **Visible**: what `commit` returned `Ok` for is seen by every read that begins afterwards.
//!
//! All calls block (disk): call them off the async threads. No call panics on data; a damaged database is an error that says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use devmon_core::journal::Position;
use devmon_core::wire::about::{About, Presence};
use devmon_core::wire::{DeviceId, FlatFrame, Labels, MessageId, Reason, TimestampMs};
use devmon_core::{MetricPath, Value};

use super::column::Cells;
use super::gaps::Gaps;
use super::rollup::{self, Rollup, Tier};

/// One thing that arrived and was found good, on its way to disk.
#[derive(Debug, Clone)]
pub struct Accepted {
    pub device: DeviceId,
    /// When it arrived here.
    pub received: TimestampMs,
    /// The payload as it came: what the journal keeps, and what a restart decodes again.
    pub payload: Bytes,
    pub content: Content,
}

/// What an accepted message says.
#[derive(Debug, Clone)]
pub enum Content {
    /// Every frame has its time here: that of arrival where the publisher gave none.
    Metrics {
        id: Option<MessageId>,
        frames: Vec<FlatFrame>,
    },
    Status(Presence),
    About(Arc<About>),
}

/// What became of one item of a committed batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// Stored; so many samples were in it.
    Stored { samples: u64 },
    /// Its [`MessageId`] was committed before.
    Duplicate,
    /// Nothing of it is kept: it would make more devices or series than `limit`, as the reason says.
    Refused { reason: Reason, limit: u64 },
}

/// Metrics messages that were committed, in the order of their commits.
#[derive(Debug)]
pub struct Stretch {
    pub items: Vec<Followed>,
    /// Where the next stretch begins.
    pub end: Position,
    /// The oldest place that can be read still; what was between an earlier one and this is gone.
    pub oldest: Position,
    /// Behind all that was committed.
    pub committed: Position,
    /// Bytes of journal behind the place from which it was read.
    pub behind_bytes: u64,
    /// Messages of another release that this one can not read.
    pub unreadable: u64,
}

/// A message that was committed; its payload is not there, its frames are.
#[derive(Debug)]
pub struct Followed {
    pub message: Accepted,
    /// The place behind it.
    pub end: Position,
}

/// A refused message, kept for whoever has to find out why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Grows with each dead letter.
    pub id: u64,
    pub ts: TimestampMs,
    pub topic: String,
    pub reason: Reason,
    pub detail: String,
    pub payload: Bytes,
}

/// What is known of a device.
#[derive(Debug, Clone)]
pub struct DeviceRecord {
    pub id: DeviceId,
    /// Arrival of its first message of any kind.
    pub first_seen: TimestampMs,
    /// Arrival of its last message of any kind.
    pub last_seen: TimestampMs,
    /// Arrival of its last metrics message.
    pub last_metrics: Option<TimestampMs>,
    /// How often metrics messages arrive.
    pub gaps: Gaps,
    /// What its last status message said.
    pub presence: Option<Presence>,
    pub about: Option<Arc<About>>,
    /// Labels that an operator gave it; those that it has itself are in `about`.
    pub labels: Option<Arc<Labels>>,
    /// Number of its series.
    pub series: u64,
}

/// What is known of a series, with its newest sample.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesRecord {
    pub path: MetricPath,
    /// Time of the oldest sample that is kept.
    pub first_ts: TimestampMs,
    /// Time and value of the newest sample.
    pub last_ts: TimestampMs,
    pub last_value: Value,
}

/// Samples of one series in a range, as columns.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesRange {
    pub path: MetricPath,
    /// Times in unix ms, ascending, each once.
    pub ts: Vec<i64>,
    /// A value for each time.
    pub values: Cells,
}

impl SeriesRange {
    /// Of samples by time, each time once.
    pub fn new(path: MetricPath, samples: impl IntoIterator<Item = (TimestampMs, Value)>) -> Self {
        let (ts, values) = samples
            .into_iter()
            .map(|(ts, value)| (ts.0, value))
            .unzip::<_, _, Vec<_>, Vec<_>>();
        Self {
            path,
            ts,
            values: values.into_iter().collect(),
        }
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ts.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ts.is_empty()
    }

    /// Sample by sample, where speed does not matter.
    pub fn iter(
        &self,
    ) -> impl ExactSizeIterator<Item = (TimestampMs, Value)> + DoubleEndedIterator {
        let sample = |(i, &ts)| (TimestampMs(ts), self.values.get(i));
        self.ts.iter().enumerate().map(sample)
    }
}

/// Rollups of one series in a range, by time, each bucket once.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesRollups {
    pub path: MetricPath,
    pub rollups: Vec<Rollup>,
}

/// Figures of the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// `None`: well. Else why commits fail, for an operator (disk full).
    pub problem: Option<String>,
    /// `None`: well. Else why samples stay in journal and memory instead of going to the database; intake goes on.
    pub sealing_problem: Option<String>,
    /// `None`: well. Else what was lost of the database at the start, and where it lies now, for an operator.
    pub degraded: Option<String>,
    pub devices: u64,
    pub series: u64,
    pub journal_bytes: u64,
    pub blocks: u64,
    /// `None`: well. Else why closed days stay in the database instead of becoming files; intake goes on.
    pub archive_problem: Option<String>,
    /// Day files, and their bytes.
    pub archive_files: u64,
    pub archive_bytes: u64,
    /// Begin of the oldest day whose file holds raw samples.
    pub oldest_day: Option<TimestampMs>,
    /// Begin of the oldest day whose file holds rollups of a minute instead.
    pub oldest_day_1m: Option<TimestampMs>,
    /// Begin of the oldest day whose file holds rollups of an hour only.
    pub oldest_day_1h: Option<TimestampMs>,
    pub database_bytes: u64,
    /// Samples in memory that are not yet in blocks.
    pub head_samples: u64,
    pub dead_letters_bytes: u64,
    /// How long the last commit took, in microseconds.
    pub last_commit_us: u64,
}

/// What went wrong in the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error(transparent)]
    Journal(#[from] devmon_core::journal::JournalError),
    #[error("database {path}: {detail}")]
    Database {
        path: std::path::PathBuf,
        detail: String,
    },
    /// The disk is full. Nothing was changed; it works again when there is room.
    #[error(
        "the disk is full: no room to set aside as {path} ({detail}); free some, and it goes on by itself"
    )]
    DiskFull {
        path: std::path::PathBuf,
        detail: String,
    },
    /// A block whose bytes do not hold what its checksum says.
    #[error("block {key}: {detail}")]
    DamagedBlock { key: String, detail: String },
    /// A file of the archive could not be read or written.
    #[error("archive {path}: {detail}")]
    Archive {
        path: std::path::PathBuf,
        detail: String,
    },
    /// A file of the archive whose bytes do not hold what their checksum says.
    #[error("archive {path}, offset {offset}: {detail}")]
    DamagedArchive {
        path: std::path::PathBuf,
        offset: u64,
        detail: String,
    },
    /// A file of the archive that a newer release wrote.
    #[error(
        "archive {path}, offset {offset}: version {version}, which this release does not know; run the release that wrote it"
    )]
    UnknownArchive {
        path: std::path::PathBuf,
        offset: u64,
        version: u8,
    },
    /// The answer would pass the given limit.
    #[error("the range holds more than {limit} samples")]
    TooManySamples { limit: usize },
    /// More than an operator may give one device.
    #[error("the device would have more than {limit} labels of an operator")]
    TooManyLabels { limit: usize },
    /// This store has no such operation.
    #[error("this store can not {0}")]
    NotSupported(&'static str),
}

/// The store as intake and queries see it.
pub trait Store: Send + Sync + 'static {
    /// Makes a batch durable and visible; the answer has one entry for each item, in order.
    ///
    /// # Errors
    /// [`StoreError`]: nothing of the batch counts. It may be tried again.
    fn commit(&self, batch: &[Accepted]) -> Result<Vec<Committed>, StoreError>;

    /// Makes refused messages durable, within the bound on their bytes.
    ///
    /// # Errors
    /// [`StoreError`]: none of them is kept, and none may be acknowledged.
    fn bury(&self, letters: Vec<DeadLetter>) -> Result<(), StoreError>;

    /// Devices by id, those after `after` first, at most `limit`, for which `keep` says yes.
    fn devices(
        &self,
        after: Option<&str>,
        limit: usize,
        keep: &dyn Fn(&DeviceRecord) -> bool,
    ) -> Vec<DeviceRecord>;

    /// One device.
    fn device(&self, id: &str) -> Option<DeviceRecord>;

    /// Series of a device by path within `prefix` (`""`: all), those after `after` first, at most `limit`.
    fn series(
        &self,
        device: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<SeriesRecord>;

    /// All samples of the paths with `from ≤ t < to`, in the order of `paths`. A path that does not exist has no samples.
    ///
    /// # Errors
    /// [`StoreError::TooManySamples`] when there are more than `limit` all together; a damaged block or database.
    fn range(
        &self,
        device: &str,
        paths: &[MetricPath],
        from: TimestampMs,
        to: TimestampMs,
        limit: usize,
    ) -> Result<Vec<SeriesRange>, StoreError>;

    /// The rollups of the paths whose bucket begins in `from ≤ t < to`, in the order of `paths`. Those of [`Tier::Raw`] are none.
    ///
    /// # Errors
    /// [`StoreError::TooManySamples`] when there are more than `limit` all together; a damaged block, file or database.
    fn rollups(
        &self,
        device: &str,
        paths: &[MetricPath],
        tier: Tier,
        from: TimestampMs,
        to: TimestampMs,
        limit: usize,
    ) -> Result<Vec<SeriesRollups>, StoreError> {
        let Some(bucket_ms) = tier.bucket_ms() else {
            let none = |path: &MetricPath| SeriesRollups {
                path: path.clone(),
                rollups: Vec::new(),
            };
            return Ok(paths.iter().map(none).collect());
        };
        rollup::from_raw(bucket_ms, (from, to), limit, &|from, to, limit| {
            self.range(device, paths, from, to, limit)
        })
    }

    /// Before this time the tier holds nothing, because its retention took it.
    fn kept_from(&self, _: Tier) -> TimestampMs {
        TimestampMs(i64::MIN)
    }

    /// Forgets a device and all that it sent; false if there is none. What it sends afterwards makes it anew.
    ///
    /// # Errors
    /// [`StoreError`]: it may be gone in part; it may be tried again.
    fn purge(&self, _device: &str) -> Result<bool, StoreError> {
        Err(StoreError::NotSupported("forget a device"))
    }

    /// Metrics messages behind `from`, about `max_bytes` of journal; with 0 none, only where the journal begins and ends. What was sealed is there as long as somebody
    /// [pins](super::Pins) it.
    ///
    /// # Errors
    /// [`StoreError::Journal`]: the journal is damaged, or can not be read.
    fn follow(&self, _from: Position, _max_bytes: u64) -> Result<Stretch, StoreError> {
        Err(StoreError::NotSupported("be followed"))
    }

    /// Gives a device labels, or with `None` takes them away; false if there is no such device. Durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::TooManyLabels`]: nothing was changed. Others: it may be done in part; it may be tried again.
    fn label(
        &self,
        _device: &str,
        _changes: &BTreeMap<String, Option<String>>,
    ) -> Result<bool, StoreError> {
        Err(StoreError::NotSupported("label a device"))
    }

    /// Dead letters, newest first, those with an id below `before` first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`] when they can not be read.
    fn dead_letters(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError>;

    /// Figures for `/status`.
    fn status(&self) -> StoreStatus;
}

/// Counts of refused messages, one key for each [`Reason`], whether or not it has happened.
pub type Refused = BTreeMap<&'static str, u64>;

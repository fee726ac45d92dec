//! Forwarding: all that is stored goes on to others as Prometheus remote write 1.0. The road past one machine.
//!
//! # Promises
//! - What is sent was committed before: it is read from the journal, behind its fsync, in the order of the commits. A message is forwarded with the names and labels that `/metrics/devices`
//!   and PromQL have for it (`query::families`).
//! - At least once: a target's place in the journal ([`cursor`]) moves when the target has answered 2xx, so a restart, kill -9 included, sends what was not answered again, and up to a second more.
//! - A target that is down, slow, or answers 5xx or 429 is asked again, with growing pauses; the journal is kept for it ([`Pins`]) up to `max_behind_bytes`. Beyond that the oldest is
//!   skipped and counted.
//! - What a target refuses (4xx but 429) is dropped and counted, as the specification demands.
//! - Targets do not know of each other, nor does the intake of them: a message is decoded a second time here, and nothing here is waited for by a commit. Memory is bounded: a stretch of
//!   journal, a request, and the names.
//!
//! The way of a stretch: [`read`](reader) → name ([`labels`]) → gather ([`batch`]) → encode ([`encode`]) → [`send`] → move the cursor, all in [`run`]. It leaves to others: what is kept of the journal
//! and how it is read (`store`), the names (`query`), showing [`Progress`] (`api`).

mod batch;
mod cursor;
mod encode;
mod labels;
mod progress;
mod reader;
mod run;
mod send;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devmon_core::journal::Position;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::store::engine::Store;
use crate::store::{Pin, Pins};
use cursor::Cursor;
pub use progress::{Dropped, Failure, Figures, Progress};
pub use settings::{From, Keys, Target, check_names};

/// Where the cursors lie in the data directory.
const FOLDER: &str = "remote-write";

fn cursor_path(data_dir: &Path, name: &str) -> PathBuf {
    data_dir.join(FOLDER).join(format!("{name}.cursor"))
}

/// A panic elsewhere leaves what is counted, and the place in the journal, whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why forwarding can not begin.
#[derive(Debug, thiserror::Error)]
#[error(
    "remote write: cannot {action} {path}: {source}; check that this user may write to the data directory"
)]
pub struct ForwardError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Keeps the journal for all targets that were ever forwarded to from this directory: for commands that open a store without a configuration.
pub fn pin_all(data_dir: &Path, pins: &Pins) {
    let files = std::fs::read_dir(data_dir.join(FOLDER))
        .into_iter()
        .flatten();
    let cursors = files
        .flatten()
        .filter_map(|file| cursor::read(&file.path()).ok()?);
    for at in cursors {
        let _held = pins.pin(at); // until the store is closed
    }
}

/// Targets whose part of the journal is kept already, before the store is opened.
#[derive(Debug)]
pub struct Prepared {
    targets: Vec<(Target, Option<Position>, Pin)>,
    data_dir: PathBuf,
}

impl Prepared {
    /// Reads the cursors, and pins the journal where they are.
    ///
    /// # Errors
    /// [`ForwardError`]: a cursor is there and can not be read.
    pub fn new(data_dir: &Path, targets: Vec<Target>, pins: &Pins) -> Result<Self, ForwardError> {
        let prepare = |target: Target| {
            let path = cursor_path(data_dir, &target.name);
            let at = cursor::read(&path).map_err(|source| ForwardError {
                action: "read",
                path,
                source,
            })?;
            let pin = pins.pin(at.unwrap_or(Position::START));
            Ok((target, at, pin))
        };
        Ok(Self {
            targets: targets.into_iter().map(prepare).collect::<Result<_, _>>()?,
            data_dir: data_dir.to_owned(),
        })
    }

    /// Begins to forward; `commits` changes when there is news. Ends when `shutdown` becomes true: await the tasks, they own the store.
    ///
    /// # Errors
    /// [`ForwardError`]: a cursor can not be made.
    pub fn start(
        self,
        store: &Arc<dyn Store>,
        commits: &watch::Receiver<u64>,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<(JoinSet<()>, Vec<Arc<Progress>>), ForwardError> {
        let mut tasks = JoinSet::new();
        let mut all = Vec::new();
        for (target, at, pin) in self.targets {
            let path = cursor_path(&self.data_dir, &target.name);
            let from = place(&**store, &target, at);
            let cursor = Cursor::open(&path, from).map_err(|source| ForwardError {
                action: "make",
                path,
                source,
            })?;
            pin.move_to(from);
            let progress = Arc::new(Progress::new(&target));
            tracing::info!(to = target.name, url = %target.url, "forwarding by remote write");
            let forwarder =
                run::Forwarder::new(target, store.clone(), cursor, pin, progress.clone());
            tasks.spawn(forwarder.run(commits.clone(), shutdown.clone()));
            all.push(progress);
        }
        Ok((tasks, all))
    }
}

/// Where forwarding begins.
fn place(store: &dyn Store, target: &Target, at: Option<Position>) -> Position {
    let Ok(journal) = store.follow(Position::START, 0) else {
        return Position::START; // a store that can not be followed says so when it is asked to be
    };
    match (at, target.from) {
        (None, From::Now) => journal.committed,
        (None, From::Start) => journal.oldest,
        (Some(at), _) if at > journal.committed => {
            tracing::warn!(
                to = target.name,
                "the journal is another one than that which was forwarded; forwarding all of it"
            );
            journal.oldest
        }
        (Some(at), _) if at.segment < journal.oldest.segment => {
            tracing::error!(
                to = target.name,
                "what came between the last forwarding and the oldest that the journal holds is gone, and was not forwarded"
            );
            journal.oldest
        }
        (Some(at), _) => at,
    }
}

//! `compact`: brings what is in the journal into the database, and days that are over into their files, now, while no collector runs.

use std::path::Path;

use super::{at, open_existing, print, progress::Progress};
use crate::store::engine::Store as _;

/// Compacts the store in `dir`.
///
/// # Errors
/// It can not be opened, or the disk does not take it.
pub fn run(dir: &Path) -> anyhow::Result<()> {
    let progress = Progress::new("compacting", 1);
    let store = open_existing(dir)?;
    at(dir, store.seal_now())?;
    at(dir, store.compact_now())?;
    drop(progress);
    let status = store.status();
    print(format_args!(
        "{} day files in {} bytes; {} blocks in {} bytes of database; {} bytes of journal",
        status.archive_files,
        status.archive_bytes,
        status.blocks,
        status.database_bytes,
        status.journal_bytes
    ))
}

//! `compact`: brings what is in the journal into the database, and days that are over into their files, now, while no collector runs.

use std::path::Path;

use super::{at, open_existing, print, progress::while_it_works};
use crate::store::engine::Store as _;

/// Compacts the store in `dir`.
///
/// # Errors
/// It can not be opened, or the disk does not take it.
pub fn run(dir: &Path) -> anyhow::Result<()> {
    let store = open_existing(dir)?;
    at(
        dir,
        while_it_works("sealing", || (0, 0), || store.seal_now()),
    )?;
    let compacted = while_it_works("archiving", || store.compacting(), || store.compact_now());
    at(dir, compacted)?;
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

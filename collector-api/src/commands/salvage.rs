//! `salvage`: takes what can be read of damaged journal segments, keeps the damaged ones aside, and says what is lost. Only when asked: a collector does not
//! start on an older segment that is damaged, so that nothing is lost without somebody knowing.

use std::path::Path;

use devmon_core::journal::{Checker, JournalError};

use super::{at, print};
use crate::store::engine::StoreError;

/// Salvages the journals in `dir`.
///
/// # Errors
/// There is nothing to look at, a collector runs, or the disk does not take the repaired segment.
pub fn run(dir: &Path) -> anyhow::Result<()> {
    let mut lost_bytes = 0;
    for (name, what) in [("journal", "messages"), ("dead-letters", "dead letters")] {
        let folder = dir.join(name);
        if folder.is_dir() {
            lost_bytes += at(dir, salvage(&folder, name, what).map_err(StoreError::from))?;
        } else if name == "journal" {
            anyhow::bail!(
                "no collector has stored anything in {}; name its directory with --data-dir",
                dir.display()
            );
        }
    }
    if lost_bytes == 0 {
        return print(format_args!("nothing is damaged, and nothing was changed"));
    }
    print(format_args!(
        "{lost_bytes} bytes could not be read and are lost; the collector can be started again"
    ))
}

fn salvage(folder: &Path, name: &str, what: &str) -> Result<u64, JournalError> {
    let checker = Checker::open(folder)?;
    let mut lost_bytes = 0;
    for &number in checker.segments() {
        let report = checker.check(number, &mut |_, _| {})?;
        if report.damaged.is_empty() {
            continue;
        }
        for stretch in &report.damaged {
            lost_bytes += stretch.bytes;
            println!(
                "{name}/{number:020}.dmj: {} bytes at byte {} can not be read",
                stretch.bytes, stretch.offset
            );
        }
        if let Some(aside) = checker.salvage(number)? {
            println!(
                "{name}/{number:020}.dmj: {} {what} go on; the segment as it was found is kept as {}",
                report.records,
                aside.display()
            );
        }
    }
    Ok(lost_bytes)
}

//! Faults on order, for the thread that asked for them; and what a loss of power would leave.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// How calls fail.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Fault {
    /// So many calls succeed before.
    pub(in super::super) after: u8,
    /// So many fail.
    pub(in super::super) times: u8,
    /// Of what they should write, writes do so many of 256 parts before they fail.
    pub(in super::super) part: Option<u8>,
    /// ENOSPC, EIO.
    pub(in super::super) errno: i32,
}

#[derive(Default)]
struct Disk {
    fault: Option<Fault>,
    /// Length up to which the content of a file, by inode, is on disk.
    durable: HashMap<u64, u64>,
    failed: u64,
}

thread_local! {
    static DISK: RefCell<Disk> = RefCell::default();
}

/// Orders a fault; `None`: takes it back.
pub(in super::super) fn order(fault: Option<Fault>) {
    DISK.with_borrow_mut(|disk| disk.fault = fault);
}

/// Calls that failed in this thread.
pub(in super::super) fn failed() -> u64 {
    DISK.with_borrow(|disk| disk.failed)
}

/// An error for a call that is to fail; for a write of `bytes`, or how much of it is to be written before it fails.
pub(super) fn before(bytes: usize) -> io::Result<Option<usize>> {
    DISK.with_borrow_mut(|disk| {
        let Some(fault) = &mut disk.fault else {
            return Ok(None);
        };
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(None);
        }
        let Fault { part, errno, .. } = *fault;
        fault.times = fault.times.saturating_sub(1);
        if fault.times == 0 {
            disk.fault = None;
        }
        disk.failed += 1;
        match part {
            Some(part) if bytes > 0 => Ok(Some(bytes * usize::from(part) / 256)),
            _ => Err(io::Error::from_raw_os_error(errno)),
        }
    })
}

pub(super) fn synced(file: &File) {
    let Ok(meta) = file.metadata() else { return };
    DISK.with_borrow_mut(|disk| disk.durable.insert(meta.ino(), meta.len()));
}

/// Power is lost: of what was written to the segments in `dir` and never synced, some is kept, some is other bytes, some is gone.
pub(in super::super) fn lose_power(dir: &Path, seed: u8) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "dmj") {
            continue;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let meta = file.metadata()?;
        let durable = DISK.with_borrow(|disk| disk.durable.get(&meta.ino()).copied());
        let loose = meta.len().saturating_sub(durable.unwrap_or(0));
        if loose == 0 {
            continue;
        }
        let end = meta.len() - loose * u64::from(seed & 0x0f) / 15;
        file.set_len(end)?;
        if seed & 0x10 != 0 {
            file.set_len(meta.len())?; // zeros
        }
        if seed & 0x20 != 0 {
            file.write_all_at(&[0xa5], meta.len() - loose)?;
        }
    }
    Ok(())
}

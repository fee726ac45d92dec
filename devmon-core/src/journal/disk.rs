//! The calls of the operating system by which the journal changes its files, in one place, so that tests can make each of them fail.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

#[cfg(not(test))]
use no_faults as faults;

#[cfg(test)]
pub(super) mod faults;

#[cfg(not(test))]
mod no_faults {
    //! Nothing fails but what fails by itself.

    pub(super) const fn before(_bytes: usize) -> std::io::Result<Option<usize>> {
        Ok(None)
    }

    pub(super) const fn synced(_file: &std::fs::File) {}
}

pub(super) fn create(path: &Path) -> io::Result<File> {
    faults::before(0)?;
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
}

pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    match faults::before(bytes.len())? {
        None => file.write_all_at(bytes, offset),
        Some(short) => {
            file.write_all_at(&bytes[..short], offset)?;
            Err(io::ErrorKind::StorageFull.into())
        }
    }
}

pub(super) fn sync_data(file: &File) -> io::Result<()> {
    faults::before(0)?;
    file.sync_data()?;
    faults::synced(file);
    Ok(())
}

pub(super) fn sync_all(file: &File) -> io::Result<()> {
    faults::before(0)?;
    file.sync_all()?;
    faults::synced(file);
    Ok(())
}

pub(super) fn set_len(file: &File, bytes: u64) -> io::Result<()> {
    faults::before(0)?;
    file.set_len(bytes)
}

pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    faults::before(0)?;
    std::fs::rename(from, to)
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    faults::before(0)?;
    std::fs::remove_file(path)
}

/// True if the file has no name any more: what is written to it is gone with the process.
pub(super) fn is_unlinked(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
}

/// Makes the creation and removal of files in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    faults::before(0)?;
    File::open(dir)?.sync_all()
}

//! The reserve: room on the disk that nobody else can take, so that a full disk stops intake but not reading.
//!
//! sled writes when it is only opened (its snapshot) and collects garbage behind reads; on a full disk it fails, and can not be opened again. Then the reserve is
//! given up, which makes the room that this takes. Until it can be held again, nothing else is written: commits, seals and day files would eat the room that
//! keeps reads, retention and the forgetting of devices going.
//!
//! # Promises
//! - [`Reserve::hold`] returns `Ok` only if the room is set aside on disk (as far as the file system can say so: one that compresses or copies on write may promise
//!   too much).
//! - A start on a full disk gets by with the reserve of the run before.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::fs::{FallocateFlags, fallocate};

use super::engine::StoreError;
use super::local::lock;

const NAME: &str = "reserve";
/// sled's snapshot takes some 15 bytes for a piece of a page: about 1 MB beside a database of 1 GB.
const BYTES: u64 = 4 << 20;

/// A file that is only there to be removed.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    held: AtomicBool,
    /// Held while the file is made or removed.
    changing: Mutex<()>,
}

impl Reserve {
    /// Of the store in this directory; takes up the file that is there.
    pub(super) fn of(dir: &Path) -> Self {
        let path = dir.join(NAME);
        let is_whole = |meta: std::fs::Metadata| meta.is_file() && meta.blocks() * 512 >= BYTES;
        Self {
            held: AtomicBool::new(std::fs::metadata(&path).is_ok_and(is_whole)),
            path,
            changing: Mutex::new(()),
        }
    }

    /// Sets the room aside, if it is not.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`]: there is none. Nothing that takes disk may be written now.
    pub(super) fn hold(&self) -> Result<(), StoreError> {
        if self.held.load(Relaxed) {
            return Ok(());
        }
        let _changing = lock(&self.changing);
        if self.held.load(Relaxed) {
            return Ok(());
        }
        if let Err(error) = self.make() {
            let removed = std::fs::remove_file(&self.path);
            drop(removed); // what is there of it takes room that others need
            return Err(StoreError::DiskFull {
                path: self.path.clone(),
                detail: error.to_string(),
            });
        }
        self.held.store(true, Relaxed);
        Ok(())
    }

    fn make(&self) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, BYTES) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => fill(&mut file),
            allocated => Ok(allocated?),
        }
    }

    /// Gives the room back to the disk; true if there was some.
    pub(super) fn give_up(&self) -> bool {
        let _changing = lock(&self.changing);
        self.held.store(false, Relaxed);
        std::fs::remove_file(&self.path).is_ok()
    }
}

/// For file systems that can not set room aside: the bytes themselves.
fn fill(file: &mut File) -> io::Result<()> {
    let zeros = [0; 64 << 10];
    for _ in 0..BYTES / zeros.len() as u64 {
        file.write_all(&zeros)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_room_until_it_is_given_up_and_is_taken_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let blocks = || std::fs::metadata(dir.path().join(NAME)).map(|m| m.blocks() * 512);
        let reserve = Reserve::of(dir.path());
        assert!(!reserve.give_up(), "nothing is there yet");
        reserve.hold().unwrap();
        assert!(blocks().unwrap() >= BYTES);
        let next = Reserve::of(dir.path());
        assert!(next.held.load(Relaxed));
        assert!(next.give_up());
        assert!(blocks().is_err());
        assert!(!next.give_up());
        // One of which a part is missing (a copy with holes) is made anew.
        File::create(dir.path().join(NAME))
            .unwrap()
            .set_len(BYTES)
            .unwrap();
        let sparse = Reserve::of(dir.path());
        assert!(!sparse.held.load(Relaxed));
        sparse.hold().unwrap();
        assert!(blocks().unwrap() >= BYTES);
        std::fs::remove_file(dir.path().join(NAME)).unwrap();
        fill(&mut File::create(dir.path().join(NAME)).unwrap()).unwrap();
        assert!(blocks().unwrap() >= BYTES, "without the call, too");
    }

    #[test]
    fn without_the_room_it_is_an_error_that_says_so() {
        let gone = tempfile::tempdir().unwrap().path().join("gone");
        let error = Reserve::of(&gone).hold().unwrap_err().to_string();
        assert!(error.contains("reserve"), "{error}");
    }
}

//! A directory for the copies of one command at the terminal: `collect`, `plugins`, `check`.
//!
//! **Promises** that nobody but the command's user can have put anything into it, and that it goes with the command. The state directory is the service's: copies that root left there could not be opened by the
//! service, and what the service (or a plugin that runs as its user) leaves there must not be run by root.
//!
//! A command that was killed leaves its directory behind; the next one of the same user removes it: whoever lives holds a lock on its own.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, StatVfsMountFlags, flock, fstatvfs};
use ulid::Ulid;

const PREFIX: &str = "devmon-agent-";
/// Where to look for a place that programs may run from, after `TMPDIR`.
const PLACES: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// Removed when it is dropped.
pub(crate) struct Scratch {
    path: PathBuf,
    /// Locked, so that the next command sees that this one lives.
    _held: File,
}

impl Scratch {
    /// In the first place that will do.
    ///
    /// # Errors
    /// Why the last place did not.
    pub(crate) fn new() -> Result<Self> {
        let mut places = vec![std::env::temp_dir()];
        places.extend(PLACES.map(PathBuf::from));
        let mut problem = Error::from(ErrorKind::NotFound);
        for place in places {
            match Self::within(&place) {
                Ok(made) => return Ok(made),
                Err(e) => problem = Error::new(e.kind(), format!("{}: {e}", place.display())),
            }
        }
        Err(problem)
    }

    fn within(place: &Path) -> Result<Self> {
        // Whoever may rename entries of a directory could put another in the place of ours.
        let metadata = std::fs::metadata(place)?;
        let (owner, mode) = (metadata.uid(), metadata.mode());
        let me = rustix::process::geteuid().as_raw();
        if (owner != 0 && owner != me) || (mode & 0o022 != 0 && mode & 0o1000 == 0) {
            return Err(Error::other("others may rename what is in it"));
        }
        sweep(place, me);
        loop {
            let path = place.join(format!("{PREFIX}{}", Ulid::new()));
            // Made, never found: it fails if anything is there.
            DirBuilder::new().mode(0o700).create(&path)?;
            let held = open(&path)?;
            let locked = flock(&held, FlockOperation::NonBlockingLockExclusive).is_ok();
            // Another command may have taken it for one that was left behind, until it was locked.
            let same = |m: std::fs::Metadata| held.metadata().is_ok_and(|h| h.ino() == m.ino());
            if !(locked && std::fs::symlink_metadata(&path).is_ok_and(same)) {
                continue;
            }
            let made = Self { path, _held: held };
            let flags = fstatvfs(&made._held)?.f_flag;
            if flags.contains(StatVfsMountFlags::NOEXEC) {
                return Err(Error::other("it is on a file system mounted noexec"));
            }
            return Ok(made);
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Removes what commands of this user left behind.
fn sweep(place: &Path, me: u32) {
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(dir) = open(&entry.path()) else {
            continue;
        };
        let mine = dir.metadata().is_ok_and(|m| m.uid() == me);
        if mine && flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A directory, not a link to one.
fn open(path: &Path) -> Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn entries(place: &Path) -> usize {
        std::fs::read_dir(place).unwrap().count()
    }

    #[test]
    fn it_is_for_nobody_else_and_goes_with_its_command() {
        let place = tempfile::tempdir().unwrap();
        let scratch = Scratch::within(place.path()).unwrap();
        let mode = std::fs::metadata(scratch.path()).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700);
        std::fs::write(scratch.path().join("x"), "").unwrap();
        drop(scratch);
        assert_eq!(entries(place.path()), 0);
    }

    #[test]
    fn what_a_killed_command_left_is_removed_and_what_another_uses_is_not() {
        let place = tempfile::tempdir().unwrap();
        let left = place.path().join(format!("{PREFIX}left"));
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join("x"), "").unwrap();
        let first = Scratch::within(place.path()).unwrap();
        assert!(!left.exists());
        let second = Scratch::within(place.path()).unwrap();
        assert!(first.path().is_dir() && second.path().is_dir());
    }

    #[test]
    fn a_place_where_others_may_rename_is_none() {
        let place = tempfile::tempdir().unwrap();
        let open = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(place.path(), mode).unwrap();
        };
        open(0o777);
        assert!(Scratch::within(place.path()).is_err());
        open(0o1777);
        assert!(Scratch::within(place.path()).is_ok());
    }
}

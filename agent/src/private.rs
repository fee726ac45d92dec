//! What the agent keeps on disk is for its own user: the spool holds measurements, and the copies of plugins are code that the agent runs.
//!
//! Whatever this program makes has no permissions for others ([`umask`]): directories are 0700, files 0600. Its sources inherit that. The directories below the state directory that an earlier
//! agent left open are closed ([`close`]); a state directory that was there is its maker's, but nobody else may write to it ([`judge`]).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tracing::warn;

use crate::plugins::trust;

/// From here on, nothing that is made is for others.
pub(crate) fn umask() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Others could change what the agent runs, or read what it keeps.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {problem}; or give another --state-dir, or run the agent as the user that it belongs to", dir.display())]
pub(crate) struct Untrusted {
    what: &'static str,
    dir: PathBuf,
    problem: String,
}

/// Judges a state directory for an agent that is about to run, if it is there already: it must be root's or the agent's own, and nobody else's to write to. Those below it that are the agent's own and open
/// to others are closed later.
///
/// # Errors
/// [`Untrusted`].
pub(crate) fn judge(state: &Path, below: &[PathBuf]) -> Result<(), Untrusted> {
    let untrusted = |what, dir: &Path, problem| Untrusted {
        what,
        dir: dir.to_owned(),
        problem,
    };
    trust::state_directory(state).map_err(|e| untrusted("state directory", state, e))?;
    for dir in below {
        trust::owner_of(dir).map_err(|e| untrusted("in the state directory,", dir, e))?;
    }
    Ok(())
}

/// Takes a directory's permissions from others, if it is there and the agent's own.
pub(crate) fn close(dir: &Path) {
    // What is looked at is what is changed.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::DIRECTORY.bits().cast_signed())
        .open(dir);
    let shown = dir.display().to_string();
    let (opened, metadata) = match opened.and_then(|d: File| d.metadata().map(|m| (d, m))) {
        Ok(both) => both,
        Err(e) => {
            if e.kind() != std::io::ErrorKind::NotFound {
                warn!(dir = shown, error = %e, "what the agent keeps here can not be looked at");
            }
            return;
        }
    };
    let (owner, me) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != me {
        warn!(
            dir = shown,
            owner,
            "this belongs to somebody else, so the agent can not keep anything here: chown it to the agent's user ({me})"
        );
        return;
    }
    let mode = metadata.permissions().mode();
    if mode & 0o077 != 0 {
        let closed = std::fs::Permissions::from_mode(mode & 0o7700);
        if let Err(e) = opened.set_permissions(closed) {
            warn!(dir = shown, error = %e, "others may read what the agent keeps here, and that can not be changed: chmod 700 it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::chown;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_state_directory_that_others_may_write_to_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let below = [dir.path().join("plugins")];
        std::fs::create_dir(&below[0]).unwrap();
        assert!(judge(&dir.path().join("not-there-yet"), &below).is_ok());
        std::fs::set_permissions(&below[0], std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(judge(dir.path(), &below).is_ok(), "it is closed");
        close(&below[0]);
        assert_eq!(mode(&below[0]), 0o700);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let refused = judge(dir.path(), &below).unwrap_err().to_string();
        assert!(
            refused.contains("everyone may write to it: chmod o-w"),
            "{refused}"
        );
    }

    #[test]
    fn what_belongs_to_another_user_is_neither_used_nor_changed() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED, for it needs root: directories of other users");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let below = [dir.path().join("plugins")];
        std::fs::create_dir(&below[0]).unwrap();
        std::fs::set_permissions(&below[0], std::fs::Permissions::from_mode(0o755)).unwrap();
        chown(&below[0], Some(12_345), None).unwrap();
        let refused = judge(dir.path(), &below).unwrap_err().to_string();
        assert!(
            refused.contains("plugins: it belongs to user 12345"),
            "{refused}"
        );
        close(&below[0]);
        assert_eq!(mode(&below[0]), 0o755);
        chown(dir.path(), Some(12_345), None).unwrap();
        let refused = judge(dir.path(), &[]).unwrap_err().to_string();
        assert!(refused.contains("it belongs to user 12345"), "{refused}");
    }
}

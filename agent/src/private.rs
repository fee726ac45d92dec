//! What the agent keeps on disk is for its own user: the spool holds measurements, and the copies of plugins are code that the agent runs.
//!
//! Whatever this program makes has no permissions for others ([`umask`]): directories are 0700, files 0600. Its sources inherit that. The directories below the state directory that an earlier
//! agent left open are closed ([`close`]); a state directory that was there is its maker's.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::Mode;
use tracing::warn;

/// From here on, nothing that is made is for others.
pub(crate) fn umask() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Takes a directory's permissions from others, if it is there.
pub(crate) fn close(dir: &Path) {
    let Ok(metadata) = std::fs::metadata(dir) else {
        return;
    };
    let mode = metadata.permissions().mode();
    if metadata.is_dir() && mode & 0o077 != 0 {
        let closed = std::fs::Permissions::from_mode(mode & 0o7700);
        if let Err(e) = std::fs::set_permissions(dir, closed) {
            let dir = dir.display().to_string();
            warn!(dir, error = %e, "others may read what the agent keeps here, and that can not be changed: chmod 700 it");
        }
    }
}

//! Private copies of plugin files, named after their content.
//!
//! The agent never maps or runs an operator's file, as long as it has a state directory: writing over a mapped library (`cp new old`) ends the process with SIGSEGV, truncating it with SIGBUS, and a file that is renamed over
//! the same path gives the old code again. A copy has none of that: its name says what is in it, nobody else writes to it, and a new version is a new file.
//!
//! **Promises** that a copy that was there already is used only if the agent's own user made it, nobody may write to it, and what is in it is what its name says; any other is replaced. The directory must be the
//! agent's own. What runs as the agent's user, an executable of the plugin directory among it, is not kept from changing copies afterwards.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use rustix::fs::{AtFlags, Mode, OFlags, StatVfsMountFlags, fstatvfs, openat, renameat, unlinkat};

/// For the agent's user, to map and to run; nobody writes to it any more.
const MODE: u32 = 0o500;
/// Many times the largest plugin. Copies lie beside the spool, on what may be a small disk.
pub const MAX_BYTES: u64 = 256 << 20;

/// Copies an open file called `name` to `dir/<stem>-<hash>.<extension>`, unless it is there already.
///
/// # Errors
/// What the system says; that nothing can be run from `dir`, or that others may write there; [`ErrorKind::FileTooLarge`]: more than [`MAX_BYTES`].
pub fn keep(file: &mut File, name: &str, dir: &Path) -> Result<PathBuf> {
    if file.metadata()?.len() > MAX_BYTES {
        return Err(ErrorKind::FileTooLarge.into());
    }
    let held = open(dir)?;
    let (stem, end) = match name.rsplit_once('.') {
        Some((stem, end)) => (stem, format!(".{end}")),
        None => (name, String::new()),
    };
    let named = |hash: &str| format!("{stem}-{hash}{end}");
    let hash = stream(file, &mut std::io::sink())?;
    if is_whole(&held, &named(&hash), &hash) {
        return Ok(dir.join(named(&hash)));
    }
    let unfinished = format!(".{name}.{}.new", std::process::id());
    remove(&held, &unfinished); // of a copy that was interrupted
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(MODE);
    let mut out = File::from(openat(&held, &unfinished, flags, mode)?);
    // The hash of what was copied, not of what was read before.
    let copied = stream(file, &mut out).and_then(|hash| {
        out.sync_all()?;
        let named = named(&hash);
        // In the place of what is not what it says, if anything is there.
        renameat(&held, &unfinished, &held, &named).or_else(|_| {
            remove(&held, &named);
            renameat(&held, &unfinished, &held, &named)
        })?;
        Ok(dir.join(named))
    });
    if copied.is_err() {
        remove(&held, &unfinished);
    }
    copied
}

/// The directory for copies: it is made if it is not there, and must be the agent's own.
fn open(dir: &Path) -> Result<File> {
    if !dir.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let held = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::DIRECTORY.bits().cast_signed())
        .open(dir)?;
    let metadata = held.metadata()?;
    let (owner, me) = (metadata.uid(), rustix::process::geteuid().as_raw());
    let shown = dir.display();
    let problem = if owner != me {
        format!("{shown} belongs to user {owner}: chown it to the agent's user ({me})")
    } else if metadata.mode() & 0o022 != 0 {
        format!("others may write to {shown}: chmod 700 it")
    } else if fstatvfs(&held)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        format!("{shown} is on a file system mounted noexec")
    } else {
        return Ok(held);
    };
    Err(Error::other(problem))
}

/// True if there is a copy of this name that the agent made and nobody has changed since. What is judged is what is read.
fn is_whole(dir: &File, name: &str, hash: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(copy) = openat(dir, name, flags, Mode::empty()) else {
        return false;
    };
    let mut copy = File::from(copy);
    let me = rustix::process::geteuid().as_raw();
    let is_ours = copy
        .metadata()
        .is_ok_and(|m| m.is_file() && m.uid() == me && m.mode() & 0o7777 == MODE);
    is_ours && stream(&mut copy, &mut std::io::sink()).is_ok_and(|h| h == hash)
}

/// Whatever is there under this name, but for a directory with something in it.
fn remove(dir: &File, name: impl AsRef<OsStr>) {
    let name = name.as_ref();
    if unlinkat(dir, name, AtFlags::empty()).is_err() {
        let _ = unlinkat(dir, name, AtFlags::REMOVEDIR);
    }
}

/// Removes all copies but those to keep. Right while none is being made; what is mapped may go, what is loaded or run again may not.
pub fn clean(dir: &Path, keep: impl Fn(&Path) -> bool) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if !keep(&path) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// True if this may be a copy of the file called `name`.
#[must_use]
pub fn may_be_of(copy: &Path, name: &str) -> bool {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let copy = copy.file_name().unwrap_or_default().to_string_lossy();
    copy.strip_prefix(stem).is_some_and(|r| r.starts_with('-'))
}

/// Copies from the beginning, and gives the first 16 hexadecimal digits of the SHA-256.
fn stream(from: &mut File, to: &mut dyn Write) -> Result<String> {
    from.rewind()?;
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; 64 * 1024];
    let mut left = MAX_BYTES;
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        left = left.checked_sub(n as u64).ok_or(ErrorKind::FileTooLarge)?; // it grew
        hash.update(&buffer[..n]);
        to.write_all(&buffer[..n])?;
    }
    let digest = hash.finish();
    let hex = digest.as_ref().iter().take(8).map(|b| format!("{b:02x}"));
    Ok(hex.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    type Spoil<'a> = Box<dyn Fn() + 'a>;

    fn keep(path: &Path, dir: &Path) -> Result<PathBuf> {
        let name = path.file_name().unwrap().to_string_lossy();
        super::keep(&mut File::open(path)?, &name, dir)
    }

    #[test]
    fn a_copy_is_named_by_its_content_and_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let (file, copies) = (dir.path().join("libx.so"), dir.path().join("copies"));
        std::fs::write(&file, "one").unwrap();
        let first = keep(&file, &copies).unwrap();
        assert_eq!(std::fs::read_to_string(&first).unwrap(), "one");
        assert!(first.to_string_lossy().contains("libx-"));
        assert_eq!(keep(&file, &copies).unwrap(), first);
        std::fs::write(&file, "two").unwrap();
        let second = keep(&file, &copies).unwrap();
        assert_ne!(second, first);
        assert_eq!(
            std::fs::read_to_string(&first).unwrap(),
            "one",
            "the old one stays"
        );
        assert!(may_be_of(&second, "libx.so") && !may_be_of(&second, "lib.so"));
        clean(&copies, |copy| copy == second);
        assert_eq!(std::fs::read_dir(&copies).unwrap().count(), 1);
        assert!(second.is_file());
    }

    #[test]
    fn a_copy_that_is_not_what_it_says_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (file, copies) = (dir.path().join("well.sh"), dir.path().join("copies"));
        std::fs::write(&file, "good").unwrap();
        let copy = keep(&file, &copies).unwrap();
        let inode = || std::fs::symlink_metadata(&copy).unwrap().ino();
        let made = inode();
        keep(&file, &copies).unwrap();
        assert_eq!(inode(), made, "a good one is not made again");
        let mode = |mode| Permissions::from_mode(mode);
        let planted = |text: &str| {
            let _ = std::fs::remove_file(&copy);
            std::fs::write(&copy, text).unwrap();
            std::fs::set_permissions(&copy, mode(MODE)).unwrap();
        };
        let mut spoilt: Vec<(&str, Spoil<'_>)> = vec![
            ("another's words", Box::new(|| planted("evil"))),
            (
                "others may write to it",
                Box::new(|| {
                    planted("good");
                    std::fs::set_permissions(&copy, mode(0o777)).unwrap();
                }),
            ),
            (
                "a link",
                Box::new(|| {
                    let target = dir.path().join("target");
                    std::fs::write(&target, "good").unwrap();
                    std::fs::set_permissions(&target, mode(MODE)).unwrap();
                    std::fs::remove_file(&copy).unwrap();
                    std::os::unix::fs::symlink(&target, &copy).unwrap();
                }),
            ),
        ];
        if rustix::process::geteuid().is_root() {
            spoilt.push((
                "another's file",
                Box::new(|| {
                    planted("good");
                    std::os::unix::fs::chown(&copy, Some(12_345), None).unwrap();
                }),
            ));
        }
        for (what, spoil) in spoilt {
            spoil();
            assert_eq!(keep(&file, &copies).unwrap(), copy, "{what}");
            let m = std::fs::symlink_metadata(&copy).unwrap();
            let me = rustix::process::geteuid().as_raw();
            assert!(m.is_file() && m.uid() == me, "{what}");
            assert_eq!(m.mode() & 0o7777, MODE, "{what}");
            assert_eq!(std::fs::read_to_string(&copy).unwrap(), "good", "{what}");
        }
    }

    #[test]
    fn a_directory_that_is_not_the_agents_own_takes_no_copies() {
        let dir = tempfile::tempdir().unwrap();
        let (file, copies) = (dir.path().join("well.sh"), dir.path().join("copies"));
        std::fs::write(&file, "good").unwrap();
        std::fs::create_dir(&copies).unwrap();
        std::fs::set_permissions(&copies, Permissions::from_mode(0o777)).unwrap();
        let refused = keep(&file, &copies).unwrap_err().to_string();
        assert!(refused.contains("others may write to"), "{refused}");
        std::fs::set_permissions(&copies, Permissions::from_mode(0o700)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&copies, Some(12_345), None).unwrap();
            let refused = keep(&file, &copies).unwrap_err().to_string();
            assert!(refused.contains("belongs to user 12345"), "{refused}");
        }
    }

    #[test]
    fn what_is_too_large_is_not_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copies) = (dir.path().join("well"), dir.path().join("copies"));
        let file = File::create(&path).unwrap();
        file.set_len(MAX_BYTES + 1).unwrap(); // sparse
        let refused = keep(&path, &copies).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::FileTooLarge);
        assert!(!copies.exists());
    }

    #[test]
    fn a_copy_of_an_executable_can_be_run_and_not_be_written_to() {
        let dir = tempfile::tempdir().unwrap();
        for (name, end) in [("well.sh", ".sh"), ("well", "")] {
            std::fs::write(dir.path().join(name), name).unwrap();
            let copy = keep(&dir.path().join(name), &dir.path().join("copies")).unwrap();
            let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o500);
            let copy = copy.file_name().unwrap().to_str().unwrap();
            assert!(copy.starts_with("well-") && copy.ends_with(end), "{copy}");
        }
    }
}

//! Private copies of plugin files, named after their content.
//!
//! The agent never maps or runs an operator's file, as long as it has a state directory: writing over a mapped library (`cp new old`) ends the process with SIGSEGV, truncating it with SIGBUS, and a file that is renamed over
//! the same path gives the old code again. A copy has none of that: its name says what is in it, nobody else writes to it, and a new version is a new file.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use rustix::fs::{StatVfsMountFlags, statvfs};

/// For the agent's user, to map and to run; nobody writes to it any more.
const MODE: u32 = 0o500;

/// Copies an open file called `name` to `dir/<stem>-<hash>.<extension>`, unless it is there already.
///
/// # Errors
/// What the system says; or that nothing can be run from `dir`.
pub fn keep(file: &mut File, name: &str, dir: &Path) -> std::io::Result<PathBuf> {
    if !dir.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    if statvfs(dir)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        let problem = format!("{} is on a file system mounted noexec", dir.display());
        return Err(std::io::Error::other(problem));
    }
    let (stem, end) = match name.rsplit_once('.') {
        Some((stem, end)) => (stem, format!(".{end}")),
        None => (name, String::new()),
    };
    let named = |hash: &str| dir.join(format!("{stem}-{hash}{end}"));
    let there = named(&stream(file, &mut std::io::sink())?);
    if there.is_file() {
        return Ok(there);
    }
    let unfinished = dir.join(format!(".{name}.{}.new", std::process::id()));
    let _ = std::fs::remove_file(&unfinished); // of a copy that was interrupted
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(&unfinished)?;
    // The hash of what was copied, not of what was read before.
    let copied = stream(file, &mut out).and_then(|hash| {
        out.sync_all()?;
        let named = named(&hash);
        std::fs::rename(&unfinished, &named)?;
        Ok(named)
    });
    if copied.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    copied
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
fn stream(from: &mut File, to: &mut dyn Write) -> std::io::Result<String> {
    from.rewind()?;
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            break;
        }
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
    use std::os::unix::fs::PermissionsExt;

    fn keep(path: &Path, dir: &Path) -> std::io::Result<PathBuf> {
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

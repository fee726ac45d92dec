//! Which process holds a locked file, as far as the kernel tells: `/proc/locks` (proc(5)) has a line for each lock.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The process that holds a flock(2) of this file. `None`: none does, or it can not be known; a process of another container has no number here.
pub(crate) fn of(file: &Path) -> Option<u32> {
    let inode = std::fs::metadata(file).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    find(&locks, inode)
}

/// By the inode only, for file systems in layers are known there by another device than to stat(2). Of two files with this number neither is it.
fn find(locks: &str, inode: u64) -> Option<u32> {
    let holds = |line: &str| {
        // `1: FLOCK  ADVISORY  WRITE 10347 fe:00:10010769 0 EOF`; who waits has `->` after the number.
        let mut words = line.split_whitespace().skip(1);
        let is_flock = words.next()? == "FLOCK";
        let pid = words.nth(2)?.parse::<u32>().ok()?;
        let of = words.next()?.rsplit(':').next()?.parse::<u64>().ok()?;
        (is_flock && of == inode && pid > 0).then_some(pid)
    };
    let mut found = locks.lines().filter_map(holds);
    found.next().filter(|_| found.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_found_by_its_file() {
        let locks = "1: FLOCK  ADVISORY  WRITE 10347 fe:00:77 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 4 fe:00:77 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 8 fe:00:78 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 0 fe:00:79 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 5 fe:00:80 0 EOF\n\
                     5: FLOCK  ADVISORY  WRITE 6 00:1b:80 0 EOF\n\
                     nonsense\n";
        assert_eq!(find(locks, 77), Some(10_347));
        for none in [78, 79, 80, 81] {
            assert_eq!(find(locks, none), None, "{none}");
        }
    }

    #[test]
    fn a_lock_of_this_process_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = std::fs::File::create(&path).unwrap();
        assert_eq!(of(&path), None);
        file.lock().unwrap();
        assert_eq!(of(&path), Some(std::process::id()));
    }
}

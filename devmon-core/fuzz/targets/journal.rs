//! Any bytes as the last segment: the journal opens or says why, reads whole records only, and goes on.
#![no_main]

use devmon_core::journal::{Journal, Options, Position};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join(format!("{:020}.dmj", 0)), bytes).expect("a file");
    let Ok((mut journal, _)) = Journal::open(dir.path(), Options::default()) else { return };
    let before = journal.read_from(Position::START).map(|r| r.expect("open checked it")).count();
    journal.append(b"after").expect("room");
    journal.commit().expect("room");
    let all: Vec<_> = journal.read_from(Position::START).map(|r| r.expect("intact").payload).collect();
    assert_eq!((all.len(), all.last().map(Vec::as_slice)), (before + 1, Some(&b"after"[..])));
});

//! Who reads while a large commit is applied: gets a turn within it, and sees messages whole.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::Engine;
use super::engine::Store;
use super::seal_tests::{metrics, options};

const MESSAGES: u64 = 2000;
const LEAVES: u64 = 50;
/// On a busy machine a reader may sleep through a whole commit.
const TRIES: u64 = 50;

#[test]
fn a_reader_has_its_turns_within_a_commit_and_sees_each_message_whole() {
    let leaves: Vec<_> = (0..LEAVES).map(|n| format!("\"leaf{n}\":{n}")).collect();
    let batch: Vec<_> = (0..MESSAGES)
        .map(|seq| metrics("edge", seq, &[(seq as i64, "s", leaves.join(","))]))
        .collect();
    for _ in 0..TRIES {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path(), options()).unwrap();
        let done = AtomicBool::new(false);
        let (mut within, mut halves) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                engine.commit(&batch).unwrap();
                done.store(true, Relaxed);
            });
            while !done.load(Relaxed) {
                let new = engine.head_samples();
                within += u64::from(new > 0 && new < MESSAGES * LEAVES);
                halves += u64::from(!new.is_multiple_of(LEAVES));
            }
        });
        assert_eq!(engine.head_samples(), MESSAGES * LEAVES);
        assert_eq!(halves, 0, "{halves} times half a message was seen");
        if within > 0 {
            return;
        }
    }
    panic!("in {TRIES} commits nobody could read until all was applied");
}

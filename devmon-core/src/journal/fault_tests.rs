//! The journal against a list, while every call that changes a file may fail, processes die and power is lost.

use std::path::Path;
use std::time::SystemTime;

use proptest::prelude::*;

use super::disk::faults::{self, Fault};
use super::{Checker, Journal, Options, Position};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

#[derive(Debug, Clone)]
enum Op {
    Append(u8),
    Commit,
    Break(Fault),
    Roll,
    /// To the end of a record that is there.
    Trim(prop::sample::Index),
    Enforce,
    /// The process ends, or the machine: then with a seed for what becomes of what was never synced.
    Reopen(Option<u8>),
}

fn fault() -> impl Strategy<Value = Fault> {
    let part = prop::option::of(any::<u8>());
    let errno = prop::sample::select(vec![ENOSPC, EIO]);
    (0u8..12, 1u8..6, part, errno).prop_map(|(after, times, part, errno)| Fault {
        after,
        times,
        part,
        errno,
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0u8..60).prop_map(Op::Append),
        6 => Just(Op::Commit),
        4 => fault().prop_map(Op::Break),
        1 => Just(Op::Roll),
        1 => any::<prop::sample::Index>().prop_map(Op::Trim),
        1 => Just(Op::Enforce),
        2 => prop::option::of(any::<u8>()).prop_map(Op::Reopen),
    ]
}

fn options() -> Options {
    Options {
        segment_bytes: 250,
        max_bytes: Some(1200),
        max_age: None,
    }
}

/// Opens it, however often that fails.
fn open(dir: &Path) -> Journal {
    open_after(dir, false)
}

/// The same behind a commit that failed, perhaps without being cut off: if power is lost then, of its records the first may be lost and the second not,
/// which nobody can tell from damage.
fn open_after(dir: &Path, failed: bool) -> Journal {
    for _ in 0..100 {
        if let Ok((journal, recovery)) = Journal::open(dir, options()) {
            assert!(
                failed || recovery.damaged.is_none(),
                "a crash is no damage: {recovery:?}"
            );
            return journal;
        }
    }
    panic!("it never opens again");
}

fn payload(id: u32, filler: u8) -> Vec<u8> {
    let mut payload = id.to_le_bytes().to_vec();
    payload.resize(4 + usize::from(filler), id as u8);
    payload
}

fn ids(journal: &Journal) -> Vec<u32> {
    let records = journal.read_from(Position::START);
    records
        .map(|r| u32::from_le_bytes(r.unwrap().payload[..4].try_into().unwrap()))
        .collect()
}

/// What has to be there, and what may be.
#[derive(Default)]
struct Model {
    committed: Vec<(u32, Position)>,
    /// Of commits that failed: a restart may find them.
    maybe: Vec<(u32, Position)>,
    pending: Vec<(u32, Position)>,
    next: u32,
}

impl Model {
    fn ids(&self) -> Vec<u32> {
        self.committed.iter().map(|(id, _)| *id).collect()
    }

    /// The oldest may have been given up or trimmed.
    fn forget(&mut self, kept: usize) {
        self.committed.drain(..self.committed.len() - kept);
    }

    /// All that was committed, in order and once; else only what a failed commit has written, and from now on that counts.
    fn after_restart(&mut self, found: &[u32]) {
        let mut known: Vec<_> = self
            .committed
            .drain(..)
            .map(|r| (r, true))
            .chain(self.maybe.drain(..).map(|r| (r, false)))
            .collect();
        self.pending.clear();
        known.sort();
        let mut found = found.iter().peekable();
        for ((id, at), is_committed) in known {
            if found.next_if(|f| **f == id).is_some() {
                self.committed.push((id, at));
            } else {
                assert!(!is_committed, "record {id} is missing");
            }
        }
        assert_eq!(found.next(), None, "invented, double or out of order");
    }
}

fn run(ops: &[Op]) {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    let mut model = Model::default();
    for op in ops {
        match op {
            Op::Append(filler) => {
                if let Ok(end) = journal.append(&payload(model.next, *filler)) {
                    model.pending.push((model.next, end));
                }
                model.next += 1;
            }
            Op::Commit => match journal.commit() {
                Ok(()) => model.committed.append(&mut model.pending),
                Err(_) => model.maybe.append(&mut model.pending),
            },
            Op::Break(fault) => faults::order(Some(*fault)),
            Op::Roll => journal.roll(),
            Op::Trim(to) if !model.committed.is_empty() => {
                let (_, end) = model.committed[to.index(model.committed.len())];
                let _ = journal.trim_to(end);
                let kept = ids(&journal).len();
                let needed = model.committed.iter().filter(|(_, at)| *at > end).count();
                assert!(kept >= needed, "trimming took what is needed");
                model.forget(kept);
            }
            Op::Trim(_) => {}
            Op::Enforce => {
                let before = journal.dropped().records;
                let enforced = journal.enforce_limits(SystemTime::now());
                let dropped = journal.dropped().records - before;
                if let Ok(said) = enforced {
                    assert_eq!(said.records, dropped);
                }
                model.forget(model.committed.len() - dropped as usize);
            }
            Op::Reopen(power) => {
                drop(journal);
                if let Some(seed) = power {
                    faults::lose_power(dir.path(), *seed).unwrap();
                }
                journal = open_after(dir.path(), !model.maybe.is_empty());
                model.after_restart(&ids(&journal));
            }
        }
        assert_eq!(ids(&journal), model.ids(), "after {op:?}");
    }
    faults::order(None);
    // Whatever was broken: it goes on, and all of it is whole.
    let last = journal.append(&payload(model.next, 3)).unwrap();
    model.pending.push((model.next, last));
    journal.commit().unwrap();
    model.committed.append(&mut model.pending);
    assert_eq!(ids(&journal), model.ids());
    drop(journal);
    faults::lose_power(dir.path(), 0x3f).unwrap();
    let checker = Checker::open(dir.path()).unwrap();
    for &number in checker.segments() {
        let report = checker.check(number, &mut |_, _| {}).unwrap();
        assert_eq!(report.damaged, [], "segment {number}");
    }
    drop(checker);
    let found = ids(&open_after(dir.path(), !model.maybe.is_empty()));
    model.after_restart(&found);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_fails_committed_records_are_there_in_order_and_once(ops in prop::collection::vec(op(), 1..60)) {
        faults::order(None);
        run(&ops);
    }
}

/// Each step of a commit and of what follows it fails once, twice, … for good until the process ends: the list is the same.
#[test]
fn every_single_call_may_fail() {
    for errno in [ENOSPC, EIO] {
        for part in [None, Some(100)] {
            for after in 0..24 {
                for times in [1, 3] {
                    let fault = Fault {
                        after,
                        times,
                        part,
                        errno,
                    };
                    let mut ops = vec![Op::Append(20), Op::Commit, Op::Break(fault)];
                    for round in 0..8 {
                        ops.extend([Op::Append(50), Op::Append(40), Op::Commit, Op::Enforce]);
                        if round == 4 {
                            ops.push(Op::Reopen(Some(after)));
                        }
                    }
                    run(&ops);
                }
            }
        }
    }
}

/// A commit fails after its bytes were written, and cutting them off fails too, until the process ends. Records appended meanwhile are refused: behind
/// them would stand a segment with bytes that do not count, and nobody could tell.
#[test]
fn nothing_is_written_behind_a_segment_that_could_not_be_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    journal.append(b"kept").unwrap();
    journal.commit().unwrap();
    journal.append(b"fails").unwrap();
    let failed = faults::failed();
    // The write succeeds; fdatasync, the cut at once and the one before the next append fail.
    faults::order(Some(Fault {
        after: 1,
        times: 3,
        part: None,
        errno: EIO,
    }));
    journal.commit().unwrap_err();
    let segments = || Checker::open(dir.path()).map(|c| c.segments().len());
    assert!(
        journal.append(b"refused").is_err(),
        "the cut has failed again"
    );
    assert_eq!(faults::failed(), failed + 3);
    assert!(matches!(segments(), Err(super::JournalError::Locked(_))));
    let read: Vec<_> = journal
        .read_from(Position::START)
        .map(|r| r.unwrap().payload)
        .collect();
    assert_eq!(
        read,
        [b"kept"],
        "readers see what is committed, not what is in the file"
    );
    journal.append(b"after").unwrap(); // the disk is well again: cut, then a fresh segment
    journal.commit().unwrap();
    drop(journal);
    assert_eq!(segments().unwrap(), 2);
    let read: Vec<_> = open(dir.path())
        .read_from(Position::START)
        .map(|r| r.unwrap().payload)
        .collect();
    assert_eq!(read, [&b"kept"[..], b"after"]);
}

/// What a killed process wrote and never synced counts once it was found at a start: so it has to be on disk by then.
#[test]
fn what_a_start_has_found_survives_a_loss_of_power() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    journal.append(b"written").unwrap();
    // fdatasync fails, so do both cuts; then the process is killed.
    faults::order(Some(Fault {
        after: 1,
        times: 2,
        part: None,
        errno: EIO,
    }));
    journal.commit().unwrap_err();
    drop(journal);
    let mut journal = open(dir.path());
    let found = ids_or_text(&journal);
    assert_eq!(found, [b"written".to_vec()]);
    journal.append(b"next").unwrap();
    journal.commit().unwrap();
    drop(journal);
    for seed in 0..=255 {
        faults::lose_power(dir.path(), seed).unwrap();
    }
    assert_eq!(
        ids_or_text(&open(dir.path())),
        [b"written".to_vec(), b"next".to_vec()]
    );
}

fn ids_or_text(journal: &Journal) -> Vec<Vec<u8>> {
    let records = journal.read_from(Position::START);
    records.map(|r| r.unwrap().payload).collect()
}

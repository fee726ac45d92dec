//! The journal's promises, on real files: what was committed is there, in order, whatever happened to the tail.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

use std::fs::OpenOptions;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use devmon_core::journal::{Checker, Journal, JournalError, Options, Position};
use proptest::prelude::*;

fn open(dir: &Path) -> Journal {
    Journal::open(dir, Options::default()).unwrap().0
}

fn payloads(journal: &Journal, from: Position) -> Vec<Vec<u8>> {
    journal
        .read_from(from)
        .map(|r| r.unwrap().payload)
        .collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "dmj"))
        .collect();
    files.sort();
    files
}

#[test]
fn committed_records_survive_reopening_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0_u8..5 {
        let mut journal = open(dir.path());
        journal.append(&[round, 1]).unwrap();
        journal.append(&[round, 2]).unwrap();
        journal.commit().unwrap();
        journal.append(b"never committed").unwrap();
    }
    let expected: Vec<Vec<u8>> = (0_u8..5).flat_map(|r| [vec![r, 1], vec![r, 2]]).collect();
    assert_eq!(payloads(&open(dir.path()), Position::START), expected);
}

/// Written by release 0.1.0; every later release must read it. Never changed: a new format adds a fixture of its own.
#[test]
fn the_first_releases_segment_is_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal-v1.dmj");
    std::fs::copy(fixture, dir.path().join("00000000000000000000.dmj")).unwrap();
    let (journal, recovery) = Journal::open(dir.path(), Options::default()).unwrap();
    assert_eq!(recovery.torn_bytes, 0);
    let expected = [
        b"first".to_vec(),
        vec![0; 300],
        "größer".as_bytes().to_vec(),
    ];
    assert_eq!(payloads(&journal, Position::START), expected);
}

/// The reader reads a part of a segment at a time; records lie across its ends, or are longer.
#[test]
fn records_of_any_length_are_read_whole_from_any_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    let lengths = [1, 700_000, 400_000, 3 << 20, 5, (1 << 20) - 8, 1 << 20, 2];
    let mut starts = vec![Position::START];
    for (i, length) in lengths.into_iter().enumerate() {
        starts.push(journal.append(&vec![i as u8; length]).unwrap());
    }
    journal.commit().unwrap();
    for (first, start) in starts.into_iter().enumerate() {
        let read = payloads(&journal, start).into_iter();
        let read: Vec<_> = read.map(|payload| (payload[0], payload.len())).collect();
        let expected = lengths.into_iter().enumerate().skip(first);
        let expected: Vec<_> = expected.map(|(i, length)| (i as u8, length)).collect();
        assert_eq!(read, expected);
    }
}

#[test]
fn reading_and_trimming_go_by_position() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 100,
        ..Options::default()
    };
    let (mut journal, _) = Journal::open(dir.path(), options).unwrap();
    let mut ends = Vec::new();
    for i in 0_u8..20 {
        ends.push(journal.append(&[i; 30]).unwrap());
        journal.commit().unwrap();
    }
    assert_eq!(payloads(&journal, ends[9]).len(), 10);
    assert_eq!(payloads(&journal, ends[9])[0], [10; 30]);
    let before = segments(dir.path()).len();
    journal.trim_to(ends[9]).unwrap();
    assert!(segments(dir.path()).len() < before, "nothing was trimmed");
    assert_eq!(
        payloads(&journal, ends[9]).len(),
        10,
        "trimming took a record behind its position"
    );
    assert_eq!(journal.committed(), ends[19]);
}

#[test]
fn positions_go_on_when_everything_was_trimmed_and_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = Position::START;
    for round in 0_u8..4 {
        let mut journal = open(dir.path());
        assert_eq!(payloads(&journal, Position::START), Vec::<Vec<u8>>::new());
        let end = journal.append(&[round]).unwrap();
        assert!(end > last, "{end:?} is not behind {last:?}");
        journal.commit().unwrap();
        assert_eq!(payloads(&journal, last), [[round]]);
        journal.roll();
        journal.trim_to(end).unwrap();
        last = end;
    }
}

#[test]
fn damage_before_the_tail_is_reported_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    let first = journal.append(b"first").unwrap();
    journal.append(b"second").unwrap();
    journal.commit().unwrap();
    drop(journal);
    let mut journal = open(dir.path());
    journal.append(b"third").unwrap();
    journal.commit().unwrap();
    let file = OpenOptions::new()
        .write(true)
        .open(&segments(dir.path())[0])
        .unwrap();
    file.write_all_at(b"X", first.offset + 8).unwrap();
    let read: Vec<_> = journal.read_from(Position::START).collect();
    assert_eq!(read[0].as_ref().unwrap().payload, b"first");
    assert!(matches!(read[1], Err(JournalError::Damaged { offset, .. }) if offset == first.offset));
    assert_eq!(read.len(), 2, "it went on behind the damage");
}

#[test]
fn a_changed_byte_in_the_newest_segment_costs_one_record_and_is_reported() {
    // In the header, in a record's length, in its payload.
    for (at, lost) in [
        (0, None),
        (16, Some(0)),
        (16 + 8 + 3, Some(0)),
        (16 + 48 + 8 + 3, Some(1)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(dir.path());
        for i in 0_u8..50 {
            journal.append(&[i; 40]).unwrap();
        }
        journal.commit().unwrap();
        let place = journal
            .read_from(Position::START)
            .nth(30)
            .unwrap()
            .unwrap()
            .start;
        drop(journal);
        let path = segments(dir.path()).pop().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 0x40;
        std::fs::write(&path, &bytes).unwrap();

        let (journal, recovery) = Journal::open(dir.path(), Options::default()).unwrap();
        let aside = recovery.damaged.expect("it is reported");
        assert_eq!(
            std::fs::read(aside).unwrap(),
            bytes,
            "byte {at}: the segment is kept as it was found"
        );
        let expected: Vec<Vec<u8>> = (0_u8..50)
            .filter(|i| Some(*i) != lost)
            .map(|i| vec![i; 40])
            .collect();
        assert_eq!(payloads(&journal, Position::START), expected, "byte {at}");
        assert_eq!(
            payloads(&journal, place)[0],
            [30; 40],
            "byte {at}: positions have moved"
        );
        drop(journal);
        let (journal, recovery) = Journal::open(dir.path(), Options::default()).unwrap();
        assert_eq!(
            (payloads(&journal, Position::START), recovery.damaged),
            (expected, None)
        );
    }
}

#[test]
fn limits_drop_the_oldest_and_say_how_much() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 1_000,
        max_bytes: Some(5_000),
        max_age: None,
    };
    let (mut journal, _) = Journal::open(dir.path(), options).unwrap();
    let mut dropped = 0;
    for i in 0_u32..100 {
        journal
            .append(&[&i.to_le_bytes()[..], &[0; 200]].concat())
            .unwrap();
        journal.commit().unwrap();
        dropped += journal
            .enforce_limits(std::time::SystemTime::now())
            .unwrap()
            .bytes;
    }
    assert!(journal.size_bytes() <= 5_000);
    assert_eq!(journal.bytes_behind(Position::START), journal.size_bytes());
    assert_eq!(journal.bytes_behind(journal.committed()), 0);
    assert!(dropped > 10_000);
    let left = payloads(&journal, Position::START);
    assert_eq!(left.last().unwrap()[..4], 99_u32.to_le_bytes());
}

/// Three segments of ten records; the middle one is returned.
fn three_segments(dir: &Path) -> PathBuf {
    for round in 0_u8..3 {
        let mut journal = open(dir);
        for i in 0_u8..10 {
            journal.append(&[round * 10 + i; 40]).unwrap();
        }
        journal.commit().unwrap();
    }
    segments(dir).swap_remove(1)
}

#[test]
fn age_drops_whole_segments_but_never_the_newest_and_counts_them() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    let now = SystemTime::now();
    let hours = |n: u32| Duration::from_secs(3600) * n;
    for (path, age) in segments(dir.path()).iter().zip([30, 20, 10]) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_modified(now - hours(age)).unwrap();
    }
    let options = Options {
        max_age: Some(hours(15)),
        ..Options::default()
    };
    let (mut journal, _) = Journal::open(dir.path(), options).unwrap();
    let dropped = journal.enforce_limits(now).unwrap();
    assert_eq!((dropped.segments, dropped.records), (2, 20));
    assert_eq!(dropped.bytes, 2 * (16 + 10 * 48));
    assert_eq!(dropped.newest, Some(now - hours(20)));
    assert_eq!(payloads(&journal, Position::START)[0], [20; 40]);
    let dropped = journal.enforce_limits(now + hours(1000)).unwrap();
    assert_eq!(dropped.segments, 0, "the newest was given up");
    journal.append(b"newer").unwrap();
    journal.commit().unwrap();
    let dropped = journal.enforce_limits(now + hours(1000)).unwrap();
    assert_eq!((dropped.segments, dropped.records), (1, 10));
    assert_eq!(payloads(&journal, Position::START), [b"newer"]);
    assert_eq!(journal.dropped().records, 30);
    assert_eq!(journal.drop_oldest().unwrap().segments, 0);
}

#[test]
fn salvage_reads_around_damage_in_an_older_segment_and_keeps_it_aside() {
    // A changed byte, a stretch of zeros, a header, an end that is missing: what is lost, and the stretches that say so.
    type Case = (fn(&mut Vec<u8>), &'static [u8], &'static [(u64, u64)]);
    let cases: [Case; 4] = [
        (|b| b[16 + 48 * 3 + 20] ^= 1, &[13], &[(16 + 48 * 3, 48)]),
        (
            |b| b[100..300].fill(0),
            &[11, 12, 13, 14, 15],
            &[(16 + 48, 48 * 5)],
        ),
        (|b| b[2] = 0, &[], &[(0, 16)]),
        (
            |b| b.truncate(16 + 48 * 8 + 5),
            &[18, 19],
            &[(16 + 48 * 8, 5)],
        ),
    ];
    for (harm, lost, stretches) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = three_segments(dir.path());
        let place = open(dir.path())
            .read_from(Position::START)
            .nth(17)
            .unwrap()
            .unwrap()
            .start;
        let mut bytes = std::fs::read(&path).unwrap();
        harm(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();

        let read = |from| {
            let journal = open(dir.path());
            journal
                .read_from(from)
                .map(|r| r.map(|r| r.payload))
                .collect::<Result<Vec<_>, _>>()
        };
        assert!(matches!(
            read(Position::START),
            Err(JournalError::Damaged { .. })
        ));
        let checker = Checker::open(dir.path()).unwrap();
        let reports: Vec<_> = checker
            .segments()
            .iter()
            .map(|n| checker.check(*n, &mut |_, _| {}).unwrap())
            .collect();
        let found: Vec<_> = reports
            .iter()
            .flat_map(|r| &r.damaged)
            .map(|d| (d.offset, d.bytes))
            .collect();
        assert_eq!(found, stretches);
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "looking changed it");
        let aside: Vec<_> = checker
            .segments()
            .iter()
            .filter_map(|n| checker.salvage(*n).unwrap())
            .collect();
        assert_eq!(aside.len(), 1);
        assert_eq!(std::fs::read(&aside[0]).unwrap(), bytes);
        assert_eq!(
            std::fs::metadata(&path).unwrap().modified().unwrap(),
            written
        );
        drop(checker);

        let expected: Vec<_> = (0_u8..30)
            .filter(|i| !lost.contains(i))
            .map(|i| vec![i; 40])
            .collect();
        assert_eq!(read(Position::START).unwrap(), expected);
        if !lost.contains(&17) {
            assert_eq!(read(place).unwrap()[0], [17; 40], "positions have moved");
        }
        let checker = Checker::open(dir.path()).unwrap();
        for n in checker.segments() {
            assert_eq!(checker.salvage(*n).unwrap(), None, "once is enough");
        }
    }
}

/// Set for the child of the next test: where it writes.
const CHILD: &str = "DEVMON_TEST_JOURNAL_CHILD";

fn small_segments() -> Options {
    Options {
        segment_bytes: 3_000,
        ..Options::default()
    }
}

/// No test by itself: the process that is killed. Says each record's number once it is committed.
#[test]
fn child_that_commits_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let (mut journal, _) = Journal::open(Path::new(&dir), small_segments()).unwrap();
    let mut next = journal.read_from(Position::START).count() as u64;
    let mut out = std::io::stderr(); // not captured by the test harness, not buffered
    loop {
        for _ in 0..=next % 5 {
            let mut record = next.to_le_bytes().to_vec();
            record.resize(8 + (next * 37 % 400) as usize, next as u8);
            journal.append(&record).unwrap();
            next += 1;
        }
        journal.commit().unwrap();
        writeln!(out, "committed {next}").unwrap();
    }
}

#[test]
fn what_was_committed_survives_kill_9_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let random = |n: u64| RandomState::new().hash_one(n);
    let mut total = 0;
    for round in 0..60 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "child_that_commits_until_it_is_killed",
                "--nocapture",
            ])
            .env(CHILD, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut committed = total;
        let mut hear = |line: Option<Result<String, std::io::Error>>| {
            let number = line.and_then(|l| l.unwrap().strip_prefix("committed ")?.parse().ok());
            committed = number.unwrap_or(committed);
        };
        (0..random(round) % 8).for_each(|_| hear(said.next()));
        // Somewhere in what comes next: this is what is tested, not waited for.
        std::thread::sleep(Duration::from_micros(random(round) / 8 % 5_000));
        child.kill().unwrap();
        said.for_each(|line| hear(Some(line)));
        child.wait().unwrap();

        let (journal, recovery) = Journal::open(dir.path(), small_segments()).unwrap();
        assert_eq!(recovery.damaged, None);
        let found: Vec<u64> = payloads(&journal, Position::START)
            .iter()
            .map(|p| u64::from_le_bytes(p[..8].try_into().unwrap()))
            .collect();
        assert!(
            found.iter().copied().eq(0..found.len() as u64),
            "round {round}: a gap, or double"
        );
        total = found.len() as u64;
        assert!(
            total >= committed,
            "round {round}: {committed} were committed, {total} are there"
        );
    }
    assert!(total > 100, "the child never got to work: {total}");
}

#[test]
fn a_second_process_is_kept_out_and_a_newer_format_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    journal.append(b"x").unwrap();
    journal.commit().unwrap();
    assert!(matches!(
        Journal::open(dir.path(), Options::default()),
        Err(JournalError::Locked(_))
    ));
    drop(journal);
    let file = OpenOptions::new()
        .write(true)
        .open(&segments(dir.path())[0])
        .unwrap();
    file.write_all_at(&[2], 7).unwrap();
    assert!(matches!(
        Journal::open(dir.path(), Options::default()),
        Err(JournalError::Version { version: 2, .. })
    ));
}

#[test]
fn impossible_record_sizes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    assert!(matches!(
        journal.append(b""),
        Err(JournalError::RecordSize(0))
    ));
    let large = vec![0; devmon_core::journal::MAX_RECORD_BYTES + 1];
    assert!(matches!(
        journal.append(&large),
        Err(JournalError::RecordSize(_))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Cut the last file anywhere: a prefix of the records comes back. Flip any of its bits: all but one. Appending goes on.
    #[test]
    fn any_torn_or_flipped_tail_costs_no_more_than_it_must(
        records in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 1..12),
        cut in any::<prop::sample::Index>(),
        flip in prop::option::of(0_u8..8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(dir.path());
        for r in &records {
            journal.append(r).unwrap();
        }
        journal.commit().unwrap();
        drop(journal);
        let path = segments(dir.path()).pop().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = cut.index(bytes.len());
        match flip {
            Some(_) if at == 7 => return Ok(()), // the version byte: refused, tested above
            Some(bit) => bytes[at] ^= 1 << bit,
            None => bytes.truncate(at),
        }
        std::fs::write(&path, &bytes).unwrap();
        let mut journal = open(dir.path());
        let back = payloads(&journal, Position::START);
        if flip.is_some() {
            prop_assert!(back.len() + 1 >= records.len());
            let mut left = records.iter();
            prop_assert!(back.iter().all(|b| left.any(|r| r == b)), "out of order, or never written");
        } else {
            prop_assert!(back.len() <= records.len());
            prop_assert_eq!(&back[..], &records[..back.len()]);
        }
        journal.append(b"after").unwrap();
        journal.commit().unwrap();
        let mut expected = back.clone();
        expected.push(b"after".to_vec());
        prop_assert_eq!(payloads(&journal, Position::START), expected);
    }
}

#[test]
fn a_directory_that_was_removed_is_made_again_and_nothing_counts_that_went_with_it() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("journal");
    let mut journal = open(&dir);
    journal.append(b"gone").unwrap();
    journal.commit().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    journal.append(b"refused").unwrap();
    let refused = journal.commit().unwrap_err().to_string();
    assert!(refused.contains("removed"), "{refused}");
    journal.append(b"kept").unwrap();
    journal.commit().unwrap();
    let locked = Journal::open(&dir, Options::default()).unwrap_err();
    assert!(locked.to_string().contains("in use"), "{locked}");
    drop(journal);
    let journal = open(&dir);
    assert_eq!(payloads(&journal, Position::START), [b"kept"]);
}

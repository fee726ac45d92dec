//! Compaction, cut off or failing at each of its steps, and the loss of what it relies on: nothing is lost silently, nothing counts twice.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use devmon_core::MetricPath;
use devmon_core::wire::TimestampMs;

use super::engine::{Accepted, Store, StoreError};
use super::rollup::Tier;
use super::seal_tests::{
    BASE_MS, Contents, contents, copy, metrics, open_watched, open_watched_as, options,
};
use super::{Engine, Options};

const ALL: TimestampMs = TimestampMs(i64::MAX);
const HOUR: i64 = 3_600_000;

/// Three days: before the first compaction, and behind it late samples, corrections, new series and a new device.
fn batches() -> (Vec<Accepted>, Vec<Accepted>) {
    let first = (0..26).map(|n: i64| {
        metrics(
            "a",
            n as u64,
            &[
                (n * 2 * HOUR, "cpu", format!("\"x\":{n},\"f\":{}.5", n * 3)),
                (n * 2 * HOUR, "disk", format!("\"t\":\"state {}\"", n % 3)),
            ],
        )
    });
    let second = (30..50).map(|n: i64| {
        let ts = (n - 25) * HOUR; // half of it corrects
        let tree = format!("\"x\":{},\"new\":{n}", n * 1000);
        metrics("a", n as u64, &[(ts, "cpu", tree)])
    });
    let new = (0..5).map(|n: i64| metrics("b", n as u64, &[(n * HOUR, "s", format!("\"y\":{n}"))]));
    (first.collect(), second.chain(new).collect())
}

/// What a store that never sealed holds.
fn expected() -> Contents {
    let dir = tempfile::tempdir().unwrap();
    let store = Engine::open(dir.path(), options()).unwrap();
    let (first, second) = batches();
    store.commit(&first).unwrap();
    store.commit(&second).unwrap();
    contents(&store)
}

fn day_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("archive")).unwrap();
    let paths = entries.map(|e| e.unwrap().path());
    let mut found: Vec<PathBuf> = paths
        .filter(|p| p.extension().is_some_and(|e| e == "dma"))
        .collect();
    found.sort();
    found
}

/// A store with three archived days and late samples in their files.
fn compacted(dir: &Path) -> Engine {
    let store = Engine::open(dir, options()).unwrap();
    let (first, second) = batches();
    store.commit(&first).unwrap();
    store.compact_before(ALL).unwrap();
    store.commit(&second).unwrap();
    store.compact_before(ALL).unwrap();
    store
}

#[test]
fn days_become_files_and_read_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let expected = expected();
    let store = Engine::open(dir.path(), options()).unwrap();
    let (first, second) = batches();
    store.commit(&first).unwrap();
    store.compact_before(ALL).unwrap();
    assert_eq!(store.count_blocks(), 0);
    assert_eq!(store.status().archive_files, 3);
    store.commit(&second).unwrap();
    assert_eq!(contents(&store), expected, "late samples in memory");
    store.seal_now().unwrap();
    assert_eq!(contents(&store), expected, "late samples in blocks");
    assert!(store.status().blocks > 0);
    drop(store);
    let store = Engine::open(dir.path(), options()).unwrap();
    assert_eq!(contents(&store), expected, "opened again");
    store.compact_before(ALL).unwrap();
    assert_eq!(contents(&store), expected, "late samples in files");
    let status = store.status();
    assert_eq!((status.blocks, store.count_blocks()), (0, 0));
    assert_eq!((status.archive_files, status.archive_problem), (3, None));
    assert!(status.archive_bytes > 0 && status.oldest_day.is_some());
    drop(store);
    assert_eq!(day_files(dir.path()).len(), 3, "no older revisions");
    let store = Engine::open(dir.path(), options()).unwrap();
    assert_eq!(contents(&store), expected, "opened again");
    assert_eq!(store.status().degraded, None);
}

#[test]
fn killed_at_any_step_of_a_compaction_nothing_is_lost_and_nothing_counts_twice() {
    let dir = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let watching = Arc::new(AtomicBool::new(false));
    let store = {
        let (from, to) = (dir.path().to_owned(), copies.path().to_owned());
        let (taken, watching) = (taken.clone(), watching.clone());
        open_watched(dir.path(), move || {
            if watching.load(Ordering::SeqCst) {
                let n = taken.fetch_add(1, Ordering::SeqCst);
                copy(&from, &to.join(n.to_string()));
            }
            Ok(())
        })
    };
    let expected = expected();
    let (first, second) = batches();
    store.commit(&first).unwrap();
    store.compact_before(ALL).unwrap();
    store.commit(&second).unwrap();
    store.seal_now().unwrap();
    watching.store(true, Ordering::SeqCst);
    store.compact_before(ALL).unwrap();
    watching.store(false, Ordering::SeqCst);
    assert_eq!(contents(&store), expected);
    drop(store);
    let taken = taken.load(Ordering::SeqCst);
    assert!(taken > 15, "only {taken} steps were seen");
    for n in 0..taken {
        let dir = copies.path().join(n.to_string());
        // What a kill in the middle of a file leaves besides.
        std::fs::write(dir.join("archive/2026-11-24.9.dma.tmp"), b"half").unwrap();
        let store = Engine::open(&dir, options()).unwrap();
        assert_eq!(store.status().degraded, None, "step {n}");
        assert_eq!(contents(&store), expected, "step {n}");
        store.compact_before(ALL).unwrap();
        assert_eq!(contents(&store), expected, "step {n}, compacted");
        assert_eq!(
            (store.count_blocks(), store.status().blocks),
            (0, 0),
            "step {n}"
        );
        assert_eq!(day_files(&dir).len(), 3, "step {n}");
    }
}

#[test]
fn rollups_are_whole_while_days_go_coarser() {
    let dir = tempfile::tempdir().unwrap();
    let day = 24 * HOUR;
    let store = Engine::open(dir.path(), options()).unwrap();
    let message = |n: i64| {
        metrics(
            "a",
            n as u64,
            &[(n * HOUR - 400 * day, "cpu", format!("\"x\":{n}"))],
        )
    };
    let messages: Vec<Accepted> = (0..60 * 24).map(message).collect();
    store.commit(&messages).unwrap();
    store.compact_before(ALL).unwrap();
    let paths = ["/cpu/x".parse::<MetricPath>().unwrap()];
    let read = |store: &Engine| {
        let found = store.rollups("a", &paths, Tier::Minute, TimestampMs(0), ALL, 100_000);
        found.unwrap().remove(0).rollups
    };
    let expected = read(&store);
    assert_eq!(expected.len(), messages.len());
    drop(store);
    // The first round of compaction begins with the start: each of 60 days loses its samples while they are read.
    let gone = Options {
        retention: Duration::ZERO,
        retention_1m: options().retention,
        ..options()
    };
    let store = Engine::open(dir.path(), gone).unwrap();
    let mut reads = 0;
    while store.status().oldest_day.is_some() {
        assert!(read(&store) == expected, "read {reads}");
        reads += 1;
    }
    assert!(reads > 1, "it was over too soon");
    assert!(read(&store) == expected);
}

#[test]
fn killed_while_old_days_are_removed_nothing_of_them_is_counted_or_removed_again() {
    let dir = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    drop({
        let store = Engine::open(dir.path(), options()).unwrap();
        store.commit(&batches().0).unwrap();
        store.seal_now().unwrap();
        store
    });
    let short = || Options {
        retention: Duration::ZERO,
        retention_1m: Duration::ZERO,
        retention_1h: Duration::ZERO,
        ..options()
    };
    let taken = Arc::new(AtomicUsize::new(0));
    let store = {
        let (from, to, taken) = (
            dir.path().to_owned(),
            copies.path().to_owned(),
            taken.clone(),
        );
        open_watched_as(dir.path(), short(), move || {
            let n = taken.fetch_add(1, Ordering::SeqCst);
            copy(&from, &to.join(n.to_string()));
            Ok(())
        })
    };
    store.compact_before(ALL).unwrap();
    assert_eq!((store.status().blocks, store.count_blocks()), (0, 0));
    drop(store);
    let taken = taken.load(Ordering::SeqCst);
    assert!(taken > 15, "only {taken} steps were seen");
    for n in 0..taken {
        let dir = copies.path().join(n.to_string());
        let store = Engine::open(&dir, short()).unwrap();
        store.compact_before(ALL).unwrap();
        // A count that is left would make each round remove the day once more.
        let status = store.status();
        assert_eq!((status.blocks, status.degraded), (0, None), "step {n}");
        assert_eq!(store.count_blocks(), 0, "step {n}");
    }
}

#[test]
fn a_compaction_that_fails_at_any_step_is_made_good() {
    let expected = expected();
    let mut n = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let store = {
            let left = left.clone();
            open_watched(dir.path(), move || {
                if left.fetch_sub(1, Ordering::SeqCst) == 0 {
                    let detail = "as if the disk were full".to_owned();
                    let path = "db".into();
                    return Err(StoreError::Database { path, detail });
                }
                Ok(())
            })
        };
        let (first, second) = batches();
        store.commit(&first).unwrap();
        store.compact_before(ALL).unwrap();
        store.commit(&second).unwrap();
        store.seal_now().unwrap();
        left.store(n, Ordering::SeqCst);
        let failed = store.compact_before(ALL).is_err();
        left.store(usize::MAX, Ordering::SeqCst);
        assert_eq!(store.status().archive_problem.is_some(), failed, "step {n}");
        assert_eq!(contents(&store), expected, "step {n}");
        store.compact_before(ALL).unwrap();
        assert_eq!(contents(&store), expected, "step {n}, compacted after all");
        let status = store.status();
        assert_eq!(
            (status.archive_problem, status.blocks),
            (None, 0),
            "step {n}"
        );
        drop(store);
        let store = Engine::open(dir.path(), options()).unwrap();
        assert_eq!(contents(&store), expected, "step {n}, opened again");
        assert_eq!(store.count_blocks(), 0, "step {n}");
        if !failed {
            assert!(n > 10, "only {n} steps were seen");
            return;
        }
        n += 1;
    }
}

#[test]
fn a_lost_database_takes_no_archived_history_with_it() {
    let dir = tempfile::tempdir().unwrap();
    drop(compacted(dir.path()));
    let expected = expected();
    // A revision that was never named, and one that is damaged: the newest whole one counts.
    let [first, second, _] = &day_files(dir.path())[..] else {
        panic!("three days");
    };
    let other_revision = |path: &Path| {
        let name = path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .replace(".2.dma", ".7.dma");
        path.with_file_name(name)
    };
    std::fs::copy(first, other_revision(first)).unwrap();
    let mut bytes = std::fs::read(second).unwrap();
    bytes[40] ^= 1;
    std::fs::write(other_revision(second), bytes).unwrap();
    std::fs::remove_dir_all(dir.path().join("journal")).unwrap();
    std::fs::write(dir.path().join("db/conf"), b"not sled's").unwrap();
    for start in 0..3 {
        let store = Engine::open(dir.path(), options()).unwrap();
        let degraded = store.status().degraded.unwrap_or_default();
        assert!(
            degraded.contains("db.quarantine-"),
            "start {start}: {degraded}"
        );
        let without_c = |store: &Engine| {
            let mut now = contents(store);
            now.retain(|(device, _), _| device != "c");
            now
        };
        assert_eq!(without_c(&store), expected, "start {start}");
        // What comes later mixes with it, and is no repeat of it.
        store
            .commit(&[metrics("c", start, &[(0, "s", "\"z\":1".into())])])
            .unwrap();
        if start == 1 {
            store.compact_before(ALL).unwrap();
        }
        assert_eq!(without_c(&store), expected, "start {start}");
        if start > 0 {
            continue;
        }
        let a = store.commit(&batches().0).unwrap();
        assert!(a.iter().all(|c| *c == super::engine::Committed::Duplicate));
    }
}

#[test]
fn day_files_that_nobody_knows_are_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    drop(compacted(dir.path()));
    std::fs::remove_dir_all(dir.path().join("journal")).unwrap();
    std::fs::remove_dir_all(dir.path().join("db")).unwrap();
    std::fs::write(dir.path().join("archive/names"), b"no names").unwrap();
    let store = Engine::open(dir.path(), options()).unwrap();
    let degraded = store.status().degraded.unwrap_or_default();
    assert!(degraded.contains("archive.quarantine-"), "{degraded}");
    assert_eq!(store.status().archive_files, 0);
}

#[test]
fn a_day_file_that_is_missing_or_damaged_is_said_by_name_and_the_others_are_read() {
    for damage in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        drop(compacted(dir.path()));
        let file = day_files(dir.path())[1].clone();
        let kept = std::fs::read(&file).unwrap();
        if damage {
            std::fs::write(&file, &kept[..kept.len() - 1]).unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
        let path: [MetricPath; 1] = ["/cpu/x".parse().unwrap()];
        let count = |store: &Engine| {
            let range = store.range("a", &path, TimestampMs(0), ALL, 1000);
            range.unwrap()[0].len()
        };
        for start in 0..2 {
            let store = Engine::open(dir.path(), options()).unwrap();
            let degraded = store.status().degraded.unwrap_or_default();
            let name = file.file_name().unwrap().to_string_lossy();
            assert!(degraded.contains(&*name), "start {start}: {degraded}");
            assert!((1..40).contains(&count(&store)), "start {start}");
            // Late samples of that day are read, and do not become a file that takes its place.
            let late = metrics(
                "a",
                1000 + start,
                &[(25 * HOUR + 1 + start as i64, "cpu", "\"x\":7".into())],
            );
            store.commit(&[late]).unwrap();
            store.compact_before(ALL).unwrap();
            assert_eq!(store.status().archive_files, 2, "start {start}");
            assert!(store.status().blocks > 0, "start {start}");
        }
        std::fs::write(&file, &kept).unwrap();
        let store = Engine::open(dir.path(), options()).unwrap();
        assert_eq!(store.status().degraded, None);
        let whole = expected()[&("a".to_owned(), "/cpu/x".to_owned())].len();
        assert_eq!(count(&store), whole + 2, "brought back");
    }
}

#[test]
fn what_was_committed_stays_readable_while_days_are_made_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = Engine::open(dir.path(), options()).unwrap();
    let done = AtomicBool::new(false);
    let committed = AtomicUsize::new(0);
    let path: [MetricPath; 1] = ["/s/x".parse().unwrap()];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                store.compact_before(ALL).unwrap();
            }
        });
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::SeqCst) {
                let least = committed.load(Ordering::SeqCst);
                let range = store.range("d", &path, TimestampMs(0), ALL, 100_000);
                let most = committed.load(Ordering::SeqCst) + 1; // one may be on its way
                let count = range.unwrap()[0].len();
                assert!(
                    (least..=most).contains(&count),
                    "{count} of {least} to {most}"
                );
                reads += 1;
            }
            reads
        });
        for seq in 0..600 {
            let ts = (seq as i64 % 40) * HOUR + seq as i64;
            store
                .commit(&[metrics("d", seq, &[(ts, "s", format!("\"x\":{seq}"))])])
                .unwrap();
            committed.fetch_add(1, Ordering::SeqCst);
        }
        done.store(true, Ordering::SeqCst);
        assert!(reader.join().unwrap() > 10);
    });
    assert!(store.status().archive_files > 1);
}

#[test]
fn raw_samples_go_minutes_go_hours_go() {
    let dir = tempfile::tempdir().unwrap();
    let never = Duration::from_secs(100 * 365 * 86_400);
    let month_ago = TimestampMs::now().0 - 30 * 24 * HOUR;
    let old = |ts: i64| TimestampMs(month_ago + ts);
    let message = |seq: u64| {
        let ts = old(seq as i64 * 1000).0 - BASE_MS;
        metrics("old", seq, &[(ts, "s", format!("\"x\":{seq}"))])
    };
    let all: Vec<Accepted> = (0..10).map(message).collect();
    let at = |retention: Duration, minute: Duration, hour: Duration| {
        let options = Options {
            retention,
            retention_1m: minute,
            retention_1h: hour,
            ..options()
        };
        let store = Engine::open(dir.path(), options).unwrap();
        store.compact_before(TimestampMs::now()).unwrap();
        store
    };
    let day = Duration::from_secs(86_400);
    let count = |store: &Engine| {
        let path = ["/s/x".parse().unwrap()];
        store
            .range("old", &path, TimestampMs(0), ALL, 1000)
            .unwrap()[0]
            .len()
    };
    let rollups = |store: &Engine, tier| {
        let path = [
            "/s/x".parse().unwrap(),
            "/s/none".parse().unwrap(),
            "/s/x".parse().unwrap(),
        ];
        let found = store
            .rollups("old", &path, tier, TimestampMs(0), ALL, 1000)
            .unwrap();
        assert_eq!(found[0].rollups, found[2].rollups, "asked for twice");
        assert_eq!(found[1].rollups, []);
        found[0].rollups.clone()
    };
    let both = |store: &Engine| (rollups(store, Tier::Minute), rollups(store, Tier::Hour));
    let store = at(never, never, never);
    store.commit(&all).unwrap();
    let whole = both(&store);
    assert_eq!(whole.1.iter().map(|r| r.count).sum::<u64>(), 10);
    store.compact_before(TimestampMs::now()).unwrap();
    assert_eq!(count(&store), 10);
    assert_eq!(both(&store), whole, "of a file with raw samples");
    store.commit(&[message(99)]).unwrap();
    let with_late = both(&store);
    assert_eq!(with_late.1.iter().map(|r| r.count).sum::<u64>(), 11);
    drop(store);
    // The same, but the late one comes when the raw samples are gone.
    std::fs::remove_dir_all(dir.path()).unwrap();
    let store = at(never, never, never);
    store.commit(&all).unwrap();
    drop(store);

    let store = at(day, never, never);
    assert_eq!(count(&store), 0, "raw samples are gone");
    assert_eq!(both(&store), whole, "stored rollups");
    assert!(store.kept_from(Tier::Raw) > old(0) && store.kept_from(Tier::Minute) < old(0));
    let status = store.status();
    assert!(
        status.oldest_day_1m.is_some() && status.oldest_day_1m < status.oldest_day.or(Some(ALL))
    );
    assert_eq!(
        store.device("old").unwrap().series,
        1,
        "but the series is there"
    );
    store.commit(&[message(99)]).unwrap();
    assert_eq!(both(&store), with_late, "late in memory");
    store.seal_now().unwrap();
    assert_eq!(both(&store), with_late, "late in blocks");
    store.compact_before(TimestampMs::now()).unwrap();
    assert_eq!(both(&store), with_late, "late in the file");
    drop(store);

    let store = at(day, day, never);
    assert!(store.status().oldest_day_1h.is_some());
    assert_eq!(store.status().oldest_day_1m, None);
    assert_eq!(both(&store), (Vec::new(), with_late.1));
    drop(store);

    let store = at(day, day, day);
    assert_eq!(store.status().oldest_day_1h, None);
    assert_eq!(store.device("old").unwrap().series, 0);
}

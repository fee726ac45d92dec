//! Sealing, cut off or failing at each of its steps: nothing is lost, nothing counts twice, nothing that was readable goes away.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use devmon_core::MetricPath;
use devmon_core::wire::about::Presence;
use devmon_core::wire::{FlatMessage, TimestampMs};

use super::engine::{Accepted, Committed, Content, Store, StoreError};
use super::kv::{Each, Kv, Table};
use super::{Engine, Options};

pub(crate) const BASE_MS: i64 = 1_795_450_000_000;

/// Calls `before` ahead of each operation that changes the database.
struct Watched {
    kv: Box<dyn Kv>,
    before: Arc<dyn Fn() -> Result<(), StoreError> + Send + Sync>,
}

impl Kv for Watched {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.kv.get(table, key)
    }
    fn put(&self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        (self.before)()?;
        self.kv.put(table, key, value)
    }
    fn delete(&self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        (self.before)()?;
        self.kv.delete(table, key)
    }
    fn scan(&self, table: Table, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), StoreError> {
        self.kv.scan(table, from, to, each)
    }
    fn barrier(&self) -> Result<(), StoreError> {
        (self.before)()?;
        self.kv.barrier()
    }
    fn size_bytes(&self) -> u64 {
        self.kv.size_bytes()
    }
    fn openings(&self) -> u64 {
        self.kv.openings()
    }
    fn shrink(&self) -> Result<bool, StoreError> {
        self.kv.shrink()
    }
}

pub(crate) fn options() -> Options {
    Options {
        retention: Duration::from_secs(100 * 365 * 86_400),
        archive_after: Duration::from_secs(1000 * 365 * 86_400), // not by itself
        seal_age: Duration::from_secs(1000 * 365 * 86_400), // nor this: what the tests send arrived long ago
        ..Options::default()
    }
}

pub(super) fn open_watched(
    dir: &Path,
    before: impl Fn() -> Result<(), StoreError> + Send + Sync + 'static,
) -> Engine {
    open_watched_as(dir, options(), before)
}

pub(super) fn open_watched_as(
    dir: &Path,
    options: Options,
    before: impl Fn() -> Result<(), StoreError> + Send + Sync + 'static,
) -> Engine {
    let before = Arc::new(before);
    Engine::open_with(dir, options, |kv| Box::new(Watched { kv, before })).unwrap()
}

pub(crate) fn metrics(device: &str, seq: u64, frames: &[(i64, &str, String)]) -> Accepted {
    let frames = frames.iter().map(|(ts, source, tree)| {
        format!(
            "{{\"ts\":{},\"source\":\"{source}\",\"metrics\":{{{tree}}}}}",
            BASE_MS + ts
        )
    });
    let frames: Vec<_> = frames.collect();
    let payload = format!(
        "{{\"v\":1,\"boot\":\"B\",\"seq\":{seq},\"frames\":[{}]}}",
        frames.join(",")
    );
    let message = FlatMessage::decode(payload.as_bytes()).unwrap();
    Accepted {
        device: device.parse().unwrap(),
        received: TimestampMs(BASE_MS + seq as i64),
        payload: payload.into(),
        content: Content::Metrics {
            id: message.id,
            frames: message.frames,
        },
    }
}

fn status(device: &str, presence: Presence) -> Accepted {
    let payload = format!("{{\"status\":\"{presence:?}\"}}").to_lowercase();
    Accepted {
        device: device.parse().unwrap(),
        received: TimestampMs(BASE_MS),
        payload: payload.into(),
        content: Content::Status(presence),
    }
}

/// Before the first seal, and between it and the second: late samples, corrections, new series, a new device, several hours.
pub(super) fn batches() -> (Vec<Accepted>, Vec<Accepted>) {
    let first = (0..20).map(|n: i64| {
        metrics(
            "a",
            n as u64,
            &[
                (n * 600_000, "cpu", format!("\"x\":{n},\"f\":{}.5", n * 3)),
                (n * 600_000, "disk", format!("\"t\":\"state {}\"", n % 3)),
            ],
        )
    });
    let second = (20..40).map(|n: i64| {
        let ts = (n - 12) * 600_000; // half of it corrects
        metrics(
            "a",
            n as u64,
            &[(ts, "cpu", format!("\"x\":{},\"new\":{n}", n * 1000))],
        )
    });
    let new_device = (0..5).map(|n: i64| metrics("b", n as u64, &[(n, "s", format!("\"y\":{n}"))]));
    let second = second
        .chain(new_device)
        .chain([status("a", Presence::Online)]);
    (first.collect(), second.collect())
}

pub(super) type Contents = BTreeMap<(String, String), Vec<(i64, String)>>;

pub(super) fn contents(store: &Engine) -> Contents {
    let mut found = Contents::new();
    for device in store.devices(None, 100, &|_| true) {
        let id = device.id.as_str();
        let series = store.series(id, "", None, 1000);
        let paths: Vec<MetricPath> = series.iter().map(|s| s.path.clone()).collect();
        let ranges = store
            .range(id, &paths, TimestampMs(0), TimestampMs(i64::MAX), 100_000)
            .unwrap();
        for (series, range) in series.iter().zip(ranges) {
            let (ts, value) = range.iter().next_back().unwrap();
            assert!(value.same_bits(&series.last_value), "{}", series.path);
            assert_eq!((ts.0, range.ts[0]), (series.last_ts.0, series.first_ts.0));
            let samples = range.iter().map(|(ts, value)| (ts.0, value.to_string()));
            found.insert((id.to_owned(), series.path.to_string()), samples.collect());
        }
    }
    found
}

/// What a store that never sealed holds.
pub(super) fn expected() -> Contents {
    let dir = tempfile::tempdir().unwrap();
    let store = Engine::open(dir.path(), options()).unwrap();
    let (first, second) = batches();
    store.commit(&first).unwrap();
    store.commit(&second).unwrap();
    contents(&store)
}

pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn killed_at_any_step_of_a_seal_nothing_is_lost_and_nothing_counts_twice() {
    let dir = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let watching = Arc::new(AtomicBool::new(false));
    let store = {
        let (from, to) = (dir.path().to_owned(), copies.path().to_owned());
        let (taken, watching) = (taken.clone(), watching.clone());
        open_watched(dir.path(), move || {
            if watching.load(Ordering::SeqCst) {
                // The files as a kill -9 would leave them here.
                copy(
                    &from,
                    &to.join(taken.fetch_add(1, Ordering::SeqCst).to_string()),
                );
            }
            Ok(())
        })
    };
    let (first, second) = batches();
    store.commit(&first).unwrap();
    store.seal_now().unwrap();
    store.commit(&second).unwrap();
    watching.store(true, Ordering::SeqCst);
    store.seal_now().unwrap();
    watching.store(false, Ordering::SeqCst);
    let expected = expected();
    assert_eq!(contents(&store), expected);
    drop(store);

    let taken = taken.load(Ordering::SeqCst);
    assert!(taken > 15, "only {taken} steps were seen");
    let mut replayed = 0;
    for n in 0..taken {
        let dir: PathBuf = copies.path().join(n.to_string());
        let store = Engine::open(&dir, options()).unwrap();
        assert_eq!(store.status().degraded, None, "step {n}");
        assert_eq!(contents(&store), expected, "step {n}");
        assert_eq!(
            store.device("a").unwrap().presence,
            Some(Presence::Online),
            "step {n}"
        );
        replayed += usize::from(store.status().head_samples > 0);
        for item in first.iter().chain(&second) {
            if matches!(item.content, Content::Metrics { .. }) {
                let committed = store.commit(std::slice::from_ref(item)).unwrap();
                assert_eq!(committed, [Committed::Duplicate], "step {n}");
            }
        }
        store.seal_now().unwrap();
        assert_eq!(contents(&store), expected, "step {n}, sealed");
        // What the killed seal had written is gone: its numbers may mean other streams now.
        assert_eq!(store.count_blocks(), store.status().blocks, "step {n}");
        drop(store);
        let store = Engine::open(&dir, options()).unwrap();
        assert_eq!(contents(&store), expected, "step {n}, opened again");
    }
    assert!(
        replayed > 10 && replayed < taken,
        "{replayed} of {taken}: before and after the watermark"
    );
}

#[test]
fn a_seal_that_fails_at_any_step_is_made_good_and_intake_goes_on() {
    let expected = expected();
    let mut n = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let store = {
            let left = left.clone();
            open_watched(dir.path(), move || {
                let fails = left.fetch_sub(1, Ordering::SeqCst) == 0;
                let detail = "as if the disk were full".to_owned();
                if fails {
                    Err(StoreError::Database {
                        path: "db".into(),
                        detail,
                    })
                } else {
                    Ok(())
                }
            })
        };
        let (first, second) = batches();
        store.commit(&first).unwrap();
        left.store(n, Ordering::SeqCst);
        let failed = store.seal_now().is_err();
        assert_eq!(store.status().sealing_problem.is_some(), failed, "step {n}");
        left.store(usize::MAX, Ordering::SeqCst);
        store.commit(&second).unwrap();
        assert_eq!(contents(&store), expected, "step {n}");
        store.seal_now().unwrap();
        assert_eq!(contents(&store), expected, "step {n}, sealed after all");
        let status = store.status();
        assert_eq!(
            (status.sealing_problem, status.head_samples),
            (None, 0),
            "step {n}"
        );
        drop(store);
        let store = Engine::open(dir.path(), options()).unwrap();
        assert_eq!(contents(&store), expected, "step {n}, opened again");
        assert_eq!(
            store.status().head_samples,
            0,
            "step {n}: all of it is in blocks"
        );
        if !failed {
            assert!(n > 10, "only {n} steps were seen");
            return;
        }
        n += 1;
    }
}

#[test]
fn what_was_committed_stays_readable_while_it_is_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Engine::open(dir.path(), options()).unwrap();
    let done = AtomicBool::new(false);
    let committed = AtomicUsize::new(0);
    let path: [MetricPath; 1] = ["/s/x".parse().unwrap()];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                store.seal_now().unwrap();
            }
        });
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::SeqCst) {
                let least = committed.load(Ordering::SeqCst);
                let range = store
                    .range("d", &path, TimestampMs(0), TimestampMs(i64::MAX), 100_000)
                    .unwrap();
                let count = range[0].len();
                assert!(count >= least, "{count} of {least} committed samples");
                reads += 1;
            }
            reads
        });
        for seq in 0..1500 {
            let item = metrics(
                "d",
                seq,
                &[(seq as i64 * 7000, "s", format!("\"x\":{seq}"))],
            );
            store.commit(&[item]).unwrap();
            committed.fetch_add(1, Ordering::SeqCst);
        }
        done.store(true, Ordering::SeqCst);
        assert!(reader.join().unwrap() > 10);
    });
    assert!(store.status().blocks > 0);
}

/// A message with one text of 1000 bytes.
fn long_text(seq: u64) -> Accepted {
    let tree = format!("\"t\":\"{}\"", "x".repeat(1000));
    metrics("d", seq, &[(seq as i64 * 1000, "s", tree)])
}

#[test]
fn texts_are_sealed_by_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        seal_bytes: 50_000,
        ..options()
    };
    let store = Engine::open(dir.path(), options).unwrap();
    // Each about 1048 bytes: 40 are below, 60 are above, and neither their number nor the journal asks for a seal.
    store
        .commit(&(0..40).map(long_text).collect::<Vec<_>>())
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        (store.status().blocks, store.status().head_samples),
        (0, 40)
    );
    assert!(
        (40_000..50_000).contains(&store.head_bytes()),
        "{}",
        store.head_bytes()
    );
    store
        .commit(&(40..60).map(long_text).collect::<Vec<_>>())
        .unwrap();
    let begin = Instant::now();
    while store.status().head_samples > 0 || store.head_bytes() > 0 {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "no seal was asked for"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(store.status().blocks > 0);
}

#[test]
fn commits_wait_while_texts_fill_the_heads() {
    let dir = tempfile::tempdir().unwrap();
    let closed = Arc::new(AtomicBool::new(true));
    let options = Options {
        seal_bytes: 25_000, // commits wait above 100 000
        ..options()
    };
    let store = {
        let closed = closed.clone();
        let before = Arc::new(move || {
            while closed.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1)); // the database is slow
            }
            Ok(())
        });
        Engine::open_with(dir.path(), options, |kv| Box::new(Watched { kv, before })).unwrap()
    };
    let committed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for seq in 0..300 {
                store.commit(&[long_text(seq)]).unwrap();
                committed.fetch_add(1, Ordering::SeqCst);
            }
        });
        let mut before = usize::MAX;
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let now = committed.load(Ordering::SeqCst);
            if now == before && now > 0 {
                break;
            }
            before = now;
        }
        let bytes = store.head_bytes();
        let waits_at = committed.load(Ordering::SeqCst);
        closed.store(false, Ordering::SeqCst); // before any assertion: it lets the threads end
        assert!((90..100).contains(&waits_at), "{waits_at} were committed");
        assert!((100_000..102_000).contains(&bytes), "{bytes} bytes");
    });
    assert_eq!(committed.load(Ordering::SeqCst), 300);
    store.seal_now().unwrap();
    assert_eq!(store.head_bytes(), 0);
}

/// What one seal of a large fleet costs. `cargo test -p devmon-collector --lib --release what_a_seal_costs -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn what_a_seal_of_a_large_fleet_costs() {
    let devices = std::env::var("DEVICES").map_or(20_000, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let changes = Arc::new(AtomicUsize::new(0));
    let store = {
        let changes = changes.clone();
        open_watched(dir.path(), move || {
            changes.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    };
    for round in 0..4u64 {
        let frames = |n: u64| -> Vec<(i64, &str, String)> {
            let sources = ["cpu", "disk", "memory", "net", "temperature"];
            let tree = |s: usize| {
                let leaves =
                    (0..10).map(|m| format!("\"metric_{m}\":{}", n * 7 + round * s as u64 + m));
                leaves.collect::<Vec<_>>().join(",")
            };
            let frame = |(s, name)| (round as i64 * 10_000, name, tree(s));
            sources.into_iter().enumerate().map(frame).collect()
        };
        for from in (0..devices).step_by(500) {
            let batch =
                (from..from + 500).map(|n| metrics(&format!("device-{n}"), round, &frames(n)));
            store.commit(&batch.collect::<Vec<_>>()).unwrap();
        }
        let (before, begin) = (changes.swap(0, Ordering::SeqCst), Instant::now());
        store.seal_now().unwrap();
        let status = store.status();
        eprintln!(
            "seal {round}: {:?}, {} changes of the database ({before} by itself before), {} blocks, {} bytes on disk",
            begin.elapsed(),
            changes.load(Ordering::SeqCst),
            status.blocks,
            status.database_bytes
        );
    }
    let begin = Instant::now();
    drop(store);
    let store = Engine::open(dir.path(), options()).unwrap();
    eprintln!(
        "closed and opened in {:?}: {} series",
        begin.elapsed(),
        store.status().series
    );
}

#[test]
fn what_comes_while_a_seal_or_a_compaction_is_made_spoils_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let store = Arc::new(std::sync::OnceLock::<Engine>::new());
    let (taken, watching) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let opened = {
        let (from, to) = (dir.path().to_owned(), copies.path().to_owned());
        let (store, taken, watching) = (store.clone(), taken.clone(), watching.clone());
        open_watched(dir.path(), move || {
            if !watching.load(Ordering::SeqCst) {
                return Ok(());
            }
            // A device, a stream and a series that nobody knows, neighbours of those that are being written.
            let n = taken.fetch_add(1, Ordering::SeqCst);
            let one = |device: &str, source: &str, path: String| {
                metrics(device, 1000 + n as u64, &[(n as i64, source, path)])
            };
            let batch = [
                one(&format!("n{n}"), "s", "\"y\":1".into()),
                one("a", &format!("s{n}"), "\"y\":1".into()),
                one("c", "s", format!("\"y{n}\":1")),
            ];
            store.get().unwrap().commit(&batch).unwrap();
            copy(&from, &to.join(n.to_string()));
            Ok(())
        })
    };
    assert!(store.set(opened).is_ok());
    let store = store.get().unwrap();
    let (first, second) = batches();
    store.commit(&first).unwrap();
    store
        .commit(&[metrics("c", 1, &[(0, "s", "\"y\":1".into())])])
        .unwrap();
    store.seal_now().unwrap();
    store.commit(&second).unwrap();
    watching.store(true, Ordering::SeqCst);
    store.seal_now().unwrap();
    let of_seal = taken.load(Ordering::SeqCst);
    store.compact_before(TimestampMs(i64::MAX)).unwrap();
    watching.store(false, Ordering::SeqCst);
    let taken = taken.load(Ordering::SeqCst);
    assert!(
        of_seal > 10 && taken > of_seal + 10,
        "{of_seal} and {taken} steps were seen"
    );
    for n in 0..taken {
        let dir = copies.path().join(n.to_string());
        let check = |store: &Engine, what: &str| {
            assert_eq!(
                store.device(&format!("n{n}")).map(|d| d.series),
                Some(1),
                "step {n}, {what}"
            );
            assert_eq!(
                store.series("c", "/s", None, 10_000).len(),
                n + 2,
                "step {n}, {what}"
            );
        };
        let store = Engine::open(&dir, options()).unwrap();
        assert_eq!(store.status().degraded, None, "step {n}");
        check(&store, "opened");
        contents(&store);
        let whole = store.status().series;
        drop(store);
        if !dir.join("archive/names").exists() {
            continue;
        }
        // The catalogue beside the day files has to be as good.
        std::fs::write(dir.join("db/conf"), b"not sled's").unwrap();
        let store = Engine::open(&dir, options()).unwrap();
        let degraded = store.status().degraded.unwrap_or_default();
        assert!(
            !degraded.contains("archive.quarantine-"),
            "step {n}: {degraded}"
        );
        let found = store.status().series;
        assert!(found > 0 && found <= whole, "step {n}: {found} of {whole}");
    }
}

#[test]
fn what_is_pinned_of_the_journal_stays_and_is_read_in_order() {
    use devmon_core::journal::Position;

    let dir = tempfile::tempdir().unwrap();
    let options = options();
    let pin = options.pins.pin(Position::START);
    let store = Engine::open(dir.path(), options).unwrap();
    let (first, second) = batches();
    store.commit(&first).unwrap();
    store.seal_now().unwrap();
    store.commit(&second).unwrap();
    store.seal_now().unwrap();
    let seen = |from, max_bytes| {
        let stretch = store.follow(from, max_bytes).unwrap();
        let items = stretch.items.iter();
        let received: Vec<_> = items
            .map(|item| item.message.received.0 - BASE_MS)
            .collect();
        (received, stretch)
    };
    let (all, whole) = seen(Position::START, u64::MAX);
    assert_eq!(all, (0..40).chain(0..5).collect::<Vec<_>>()); // the status is not among them
    assert_eq!(whole.end, whole.committed);
    assert!(seen(whole.end, u64::MAX).0.is_empty());
    // A stretch ends where the next begins.
    let (some, part) = seen(Position::START, 500);
    assert!((1..40).contains(&some.len()), "{some:?}");
    assert_eq!(part.items.last().unwrap().end, part.end);
    let (rest, _) = seen(part.end, u64::MAX);
    assert_eq!([some, rest].concat(), all);
    // What is no longer pinned goes with the next seal.
    pin.move_to(whole.end);
    store.commit(&first).unwrap();
    store.commit(&[status("c", Presence::Online)]).unwrap();
    store.seal_now().unwrap();
    let (_, none) = seen(Position::START, 0);
    assert!(none.oldest.segment > 0, "{none:?}");
    pin.release();
}

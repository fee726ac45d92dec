//! Promises of the spool, with a real journal.

use std::fs::{File, OpenOptions};
use std::time::SystemTime;

use devmon_core::wire::TimestampMs;

use super::*;

fn limits(dir: &tempfile::TempDir) -> Limits {
    Limits {
        dir: dir.path().join("spool"),
        max_bytes: 64 << 20,
        max_age: Duration::from_secs(3600),
    }
}

fn store(spool: &mut Spool, texts: &[&str], awake: bool) -> Vec<Position> {
    let messages: Vec<_> = texts.iter().map(|t| (t.as_bytes(), awake)).collect();
    spool.store(&messages).unwrap()
}

/// Everything that sleeps, a few at a time.
fn wake_all(spool: &mut Spool) -> Vec<(Position, String)> {
    let mut all = Vec::new();
    loop {
        let woken = spool.wake(2, 1 << 20);
        if woken.is_empty() {
            return all;
        }
        let text = |(at, bytes)| (at, String::from_utf8(bytes).unwrap());
        all.extend(woken.into_iter().map(text));
    }
}

fn texts(woken: &[(Position, String)]) -> Vec<&str> {
    woken.iter().map(|(_, text)| text.as_str()).collect()
}

#[test]
fn what_is_stored_is_handed_out_once_in_order_and_again_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(&limits(&dir)).unwrap();
    assert!(!spool.sleeps());
    store(&mut spool, &["a", "b", "c"], false);
    let woken = wake_all(&mut spool);
    assert_eq!(texts(&woken), ["a", "b", "c"]);
    store(&mut spool, &["d"], false);
    assert_eq!(texts(&wake_all(&mut spool)), ["d"]);
    spool.settle(woken[0].0);
    drop(spool); // a crash: nothing is written at the end
    let mut spool = Spool::open(&limits(&dir)).unwrap();
    assert!(spool.sleeps());
    assert_eq!(texts(&wake_all(&mut spool)), ["a", "b", "c", "d"]);
}

#[test]
fn what_is_awake_is_not_handed_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(&limits(&dir)).unwrap();
    store(&mut spool, &["a"], false);
    let awake = store(&mut spool, &["b"], true);
    store(&mut spool, &["c"], false);
    spool.settle(awake[0]);
    assert_eq!(texts(&wake_all(&mut spool)), ["a", "c"]);
    let awake = store(&mut spool, &["d"], true);
    assert!(!spool.sleeps());
    assert!(wake_all(&mut spool).is_empty());
    spool.settle(awake[0]);
}

#[test]
fn a_lost_connection_puts_to_sleep_what_is_not_settled() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(&limits(&dir)).unwrap();
    store(&mut spool, &["a", "b", "c"], false);
    let woken = wake_all(&mut spool);
    let awake = store(&mut spool, &["d", "e"], true);
    spool.settle(woken[1].0);
    spool.settle(awake[0]);
    spool.rewind();
    spool.settle(woken[0].0); // too late: it is asleep
    assert_eq!(texts(&wake_all(&mut spool)), ["a", "c", "e"]);
}

#[test]
fn what_leaves_memory_sleeps_again_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(&limits(&dir)).unwrap();
    let awake = store(&mut spool, &["a", "b", "c", "d"], true);
    spool.settle(awake[0]);
    spool.sleep(&[awake[1], awake[3]]);
    assert!(spool.sleeps());
    assert_eq!(texts(&wake_all(&mut spool)), ["b", "d"]);
    assert!(!spool.sleeps());
    spool.sleep(&[awake[0]]); // settled: too late
    assert!(!spool.sleeps());
    for place in awake {
        spool.settle(place);
    }
    spool.tidy(true);
    assert!(spool.size_bytes() < 64);
}

#[test]
fn a_settled_spool_is_empty_on_disk_and_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(&limits(&dir)).unwrap();
    store(&mut spool, &["a", "b"], false);
    for (place, _) in wake_all(&mut spool) {
        spool.settle(place);
    }
    spool.tidy(true);
    let size = spool.size_bytes();
    assert!(size < 64, "{size}");
    let files = || std::fs::read_dir(dir.path().join("spool")).unwrap().count();
    let before = files();
    spool.tidy(true);
    spool.tidy(true);
    assert_eq!((files(), spool.sleeps()), (before, false));
    drop(spool);
    let mut spool = Spool::open(&limits(&dir)).unwrap();
    assert!(!spool.sleeps() && wake_all(&mut spool).is_empty());
}

#[test]
fn the_oldest_goes_when_it_is_full_and_only_losses_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_bytes: 2 * SEGMENT_BYTES,
        ..limits(&dir)
    };
    let mut spool = Spool::open(&limits).unwrap();
    let big = "x".repeat(SEGMENT_BYTES as usize / 4);
    store(&mut spool, &[&big], false);
    let first = spool.wake(1, 1).remove(0).0;
    for _ in 0..11 {
        store(&mut spool, &[&big], false);
    }
    assert!(spool.size_bytes() <= limits.max_bytes + SEGMENT_BYTES);
    let lost = spool.given_up().full;
    let left = wake_all(&mut spool).len() as u64;
    assert_eq!(lost + left + 1, 12, "each is lost, left or awake");
    assert!(lost > 0);
    spool.settle(first); // its segment is gone, and that is no error
}

#[test]
fn a_damaged_segment_costs_itself_only() {
    let dir = tempfile::tempdir().unwrap();
    let limits = limits(&dir);
    let mut spool = Spool::open(&limits).unwrap();
    store(&mut spool, &["a", "b"], false);
    drop(spool);
    let mut spool = Spool::open(&limits).unwrap(); // a new segment
    store(&mut spool, &["c"], false);
    drop(spool);
    let segment = |n: u64| limits.dir.join(format!("{n:020}.dmj"));
    let mut bytes = std::fs::read(segment(0)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(segment(0), bytes).unwrap();
    let mut spool = Spool::open(&limits).unwrap();
    assert_eq!(texts(&wake_all(&mut spool)), ["a", "c"]);
    assert_eq!(spool.given_up().damaged, 1);
}

#[test]
fn two_agents_do_not_share_a_spool() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Spool::open(&limits(&dir)).unwrap();
    let second = Spool::open(&limits(&dir)).unwrap_err().to_string();
    assert!(second.contains("in use by another process"), "{second}");
}

const DAY: i64 = 86_400_000;

fn later(reading: Reading, wall_ms: i64, boot_ms: i64) -> Reading {
    Reading {
        wall: TimestampMs(reading.wall.0 + wall_ms),
        boot_ms: reading.boot_ms + boot_ms,
    }
}

/// A message that fills a segment.
fn store_segment(spool: &mut Spool, at: Reading) {
    let big = vec![b'x'; SEGMENT_BYTES as usize];
    spool.store_at(&[(&big, false)], at).unwrap();
}

#[test]
fn a_clock_that_is_set_deletes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_age: Duration::from_secs(7 * 86_400),
        ..limits(&dir)
    };
    let now = Reading::now();
    let mut spool = Spool::open_at(&limits, now, true).unwrap();
    for i in 0..3 {
        store_segment(&mut spool, later(now, i, i));
    }
    store_segment(&mut spool, later(now, 8 * DAY, 7_000));
    assert_eq!(spool.given_up(), GivenUp::default());
    assert_eq!(wake_all(&mut spool).len(), 4);
    // The time itself deletes them.
    store_segment(&mut spool, later(now, 8 * DAY, 8 * DAY));
    assert_eq!(spool.given_up(), GivenUp::default(), "they are awake");
    spool.rewind();
    store_segment(&mut spool, later(now, 16 * DAY, 16 * DAY));
    assert_eq!(spool.given_up().aged, 1);
}

#[test]
fn a_board_without_a_clock_keeps_what_it_spooled_when_the_network_sets_it() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_age: Duration::from_secs(7 * 86_400),
        ..limits(&dir)
    };
    let now = Reading::now();
    let behind = later(now, -300 * DAY, 0);
    let mut spool = Spool::open_at(&limits, behind, false).unwrap();
    (0..3).for_each(|_| store_segment(&mut spool, behind));
    drop(spool);
    for entry in std::fs::read_dir(&limits.dir).unwrap() {
        let file: File = OpenOptions::new()
            .write(true)
            .open(entry.unwrap().path())
            .unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(300 * 86_400))
            .unwrap();
    }
    // Another agent, before the clock is set and after it.
    for (start, believed) in [(behind, false), (now, true)] {
        let mut spool = Spool::open_at(&limits, start, believed).unwrap();
        assert_eq!(spool.given_up(), GivenUp::default());
        store_segment(&mut spool, later(now, 60_000, 60_000));
        assert_eq!(spool.given_up(), GivenUp::default());
    }
}

/// A spool on its thread, and what it says.
fn started(limits: &Limits, retry_ms: u64) -> (SpoolThread, std::sync::mpsc::Receiver<Event>) {
    let (tell, events) = std::sync::mpsc::channel();
    let retry = Duration::from_millis(retry_ms);
    let thread = SpoolThread::start_with(limits.clone(), false, retry, move |e| {
        drop(tell.send(e));
    });
    (thread.unwrap(), events)
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_spool_that_can_not_be_opened_says_so_and_is_opened_later_without_being_asked() {
    let dir = tempfile::tempdir().unwrap();
    let limits = limits(&dir);
    store(&mut Spool::open(&limits).unwrap(), &["a"], false);
    let held = Spool::open(&limits).unwrap();
    let (_thread, events) = started(&limits, 50);
    let said = events.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(&said, Event::NotOpen(why) if why.contains("another agent")),
        "{said:?}"
    );
    drop(held);
    let opened = loop {
        match events.recv_timeout(PATIENCE).unwrap() {
            Event::NotOpen(_) => {}
            other => break other,
        }
    };
    assert!(
        matches!(opened, Event::Opened(state) if state.sleeps),
        "{opened:?}"
    );
}

#[test]
fn what_can_not_be_deleted_is_said_once_and_deleted_when_it_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let limits = limits(&dir);
    let mut spool = Spool::open(&limits).unwrap();
    store_segment(&mut spool, Reading::now());
    drop(spool);
    let (thread, events) = started(&limits, 300);
    let next = || events.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(next(), Event::Opened(_)));
    thread.wake(9, usize::MAX);
    let Event::Woken(first, _) = next() else {
        panic!("nothing woke")
    };
    // What nobody can remove as a file.
    let segment = limits.dir.join(format!("{:020}.dmj", 0));
    std::fs::remove_file(&segment).unwrap();
    std::fs::create_dir(&segment).unwrap();
    let mut places: Vec<_> = first.into_iter().map(|(place, _)| place).collect();
    let messages = (0..100).map(|key| Waiting {
        key,
        payload: b"m".to_vec(),
        awake: true,
    });
    thread.store(messages.collect());
    let Event::Stored(stored, _) = next() else {
        panic!("nothing was stored")
    };
    places.extend(stored.into_iter().map(|(_, place)| place));
    for place in places {
        thread.settle(vec![place]);
    }
    let mut said = Vec::new();
    for _ in 0..102 {
        if let Event::Stuck(problem) = next() {
            said.push(problem.unwrap());
        }
    }
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("remove"), "{said:?}");
    std::fs::remove_dir(&segment).unwrap();
    assert!(matches!(next(), Event::Stuck(None)));
}

#[test]
fn a_spool_that_can_not_delete_grows_no_further_than_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_bytes: 3 * SEGMENT_BYTES,
        ..limits(&dir)
    };
    let mut spool = Spool::open(&limits).unwrap();
    store_segment(&mut spool, Reading::now());
    let segment = limits.dir.join(format!("{:020}.dmj", 0));
    store_segment(&mut spool, Reading::now());
    std::fs::remove_file(&segment).unwrap();
    std::fs::create_dir(&segment).unwrap();
    let big = vec![b'x'; SEGMENT_BYTES as usize];
    let refused = (0..9).find_map(|_| spool.store(&[(&big, false)]).err());
    let refused = refused.unwrap().to_string();
    assert!(refused.contains("can not be deleted"), "{refused}");
    assert!(spool.size_bytes() <= limits.max_bytes + 2 * SEGMENT_BYTES);
    std::fs::remove_dir(&segment).unwrap();
    spool.try_again();
    store_segment(&mut spool, Reading::now());
}

//! Promises of the outbox, alone and with a real spool.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::entry::OVERHEAD_BYTES;
use super::*;
use crate::spool::{Event, Limits};

fn outbox(limit_bytes: usize) -> Outbox {
    Outbox::new(limit_bytes, Durability::Relaxed)
}

fn push(outbox: &mut Outbox, size: usize) {
    outbox.push(vec![b'x'; size], Instant::now());
}

fn drain(outbox: &mut Outbox, backlog: bool) -> Vec<u64> {
    std::iter::from_fn(|| outbox.next(backlog).map(|(key, _)| key)).collect()
}

#[test]
fn live_data_goes_first_and_the_backlog_in_order() {
    let mut outbox = outbox(DEFAULT_BYTES);
    (0..4).for_each(|_| push(&mut outbox, 10));
    assert_eq!(drain(&mut outbox, true), [0, 1, 2, 3]);
    outbox.acknowledged(1);
    outbox.disconnected();
    push(&mut outbox, 10);
    push(&mut outbox, 10);
    outbox.connected();
    assert!(outbox.has_backlog());
    push(&mut outbox, 10);
    let live = drain(&mut outbox, false);
    assert_eq!(live, [5, 6], "no backlog unless allowed");
    assert_eq!(drain(&mut outbox, true), [0, 2, 3, 4]);
    outbox.acknowledged(6);
    for key in [0, 2, 3, 4, 5] {
        outbox.acknowledged(key);
    }
    assert!(outbox.is_empty() && outbox.bytes == 0);
}

#[test]
fn the_oldest_is_dropped_and_counted_when_full() {
    let each = 1_000 + OVERHEAD_BYTES;
    let mut outbox = outbox(3 * each);
    (0..5).for_each(|_| push(&mut outbox, 1_000));
    assert_eq!(outbox.dropped()[&DropReason::OutboxFull], 2);
    assert_eq!(drain(&mut outbox, true), [2, 3, 4]);
    // All in flight: a broker that answers nothing. The bound holds, the newest stays.
    push(&mut outbox, 1_000);
    assert_eq!((outbox.len(), drain(&mut outbox, true)), (3, vec![5]));
    outbox.acknowledged(2); // dropped meanwhile
    assert_eq!(outbox.len(), 3);
}

#[test]
fn a_single_message_over_the_bound_is_kept() {
    let mut outbox = outbox(100);
    push(&mut outbox, 1_000);
    assert_eq!(drain(&mut outbox, true), [0]);
}

/// An outbox with a real spool whose events are taken by hand.
struct WithSpool {
    outbox: Outbox,
    events: Receiver<Event>,
}

impl WithSpool {
    fn new(dir: &std::path::Path, durability: Durability) -> Self {
        Self::bounded(dir, durability, 1 << 30)
    }

    fn bounded(dir: &std::path::Path, durability: Durability, max_bytes: u64) -> Self {
        let limits = Limits {
            dir: dir.to_owned(),
            max_bytes,
            max_age: Duration::from_secs(3600),
        };
        let (tell, events) = channel();
        let strict = durability == Durability::Strict;
        let mut outbox = Outbox::new(DEFAULT_BYTES, durability);
        let thread = SpoolThread::start(limits, strict, move |e| drop(tell.send(e)));
        outbox.set_spool(thread.unwrap());
        let mut this = Self { outbox, events };
        if dir.parent().unwrap().is_dir() {
            this.event();
        }
        this
    }

    fn event(&mut self) {
        let event = self.events.recv_timeout(Duration::from_secs(20)).unwrap();
        self.outbox.on_spool(event, Instant::now());
    }

    /// Takes what the spool has said, and waits for what it was asked to write.
    fn listen(&mut self) {
        while !self.outbox.storing.is_empty() {
            self.event();
        }
        while let Ok(event) = self.events.try_recv() {
            self.outbox.on_spool(event, Instant::now());
        }
    }

    /// Numbered messages of so many bytes; after each, as many are sent as the connection's window takes, and no PUBACK comes. The keys in flight.
    fn push_unanswered(&mut self, numbers: std::ops::Range<usize>, size: usize) -> Vec<u64> {
        let start = Instant::now();
        let mut in_flight = Vec::new();
        for i in numbers {
            let now = start + Duration::from_secs(i as u64);
            let number = i.to_string(); // a width of a format ends at 65535
            let message = "0".repeat(size - number.len()) + &number;
            self.outbox.push(message.into_bytes(), now);
            self.outbox.maintain(now);
            while in_flight.len() < 64
                && let Some((key, _)) = self.outbox.next(true)
            {
                in_flight.push(key);
            }
            self.listen();
            let (size, limit) = (self.outbox.size_bytes(), self.outbox.limit_bytes);
            assert!(size <= 2 * limit, "{i}: {size} of {limit}");
        }
        in_flight
    }

    /// Sends and acknowledges everything; the payloads in the order of sending.
    fn deliver(&mut self) -> Vec<String> {
        let mut sent = Vec::new();
        self.outbox.connected();
        while !self.outbox.is_empty() {
            match self.outbox.next(true) {
                Some((key, payload)) => {
                    sent.push(String::from_utf8(payload).unwrap());
                    self.outbox.acknowledged(key);
                }
                None => self.event(),
            }
        }
        sent
    }
}

fn segments(dir: &std::path::Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.map(|f| f.metadata().unwrap().len()).sum()
}

#[test]
fn nothing_is_written_while_the_broker_answers() {
    let dir = tempfile::tempdir().unwrap();
    let mut spooled = WithSpool::new(dir.path(), Durability::Relaxed);
    let start = Instant::now();
    for i in 0..100 {
        let now = start + Duration::from_secs(i);
        spooled.outbox.push(b"m".to_vec(), now);
        let (key, _) = spooled.outbox.next(false).unwrap();
        spooled.outbox.acknowledged(key);
        spooled.outbox.maintain(now);
    }
    let end = spooled.outbox.close().unwrap();
    end.join().unwrap();
    assert_eq!(segments(dir.path()), 0);
}

#[test]
fn an_outage_goes_to_disk_leaves_memory_and_comes_back_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut spooled = WithSpool::new(dir.path(), Durability::Relaxed);
    let start = Instant::now();
    for i in 0..300_u32 {
        let now = start + Duration::from_secs(u64::from(i));
        spooled.outbox.push(i.to_string().into_bytes(), now);
        spooled.outbox.disconnected();
        spooled.outbox.maintain(now);
        if !spooled.outbox.storing.is_empty() {
            spooled.event();
        }
        assert!(spooled.outbox.len() < 10, "memory stays small");
    }
    let unwritten = spooled.outbox.unwritten();
    assert!(unwritten <= 6, "{unwritten}");
    // kill -9: what the thread has written is all that is left. The journal's lock goes with the process; here with the thread.
    let WithSpool { mut outbox, .. } = spooled;
    let thread = outbox.spool.take().unwrap().stop();
    thread.join().unwrap();
    let mut spooled = WithSpool::new(dir.path(), Durability::Relaxed);
    spooled.outbox.push(b"live".to_vec(), Instant::now());
    let sent = spooled.deliver();
    assert_eq!(sent[0], "live");
    let kept = 300 - unwritten;
    let expected: Vec<_> = (0..kept).map(|i| i.to_string()).collect();
    assert_eq!(sent[1..], expected);
    while !matches!(
        spooled.outbox.state,
        State {
            sleeps: false,
            size_bytes: ..64,
            ..
        }
    ) {
        spooled.event(); // the disk is given back
    }
}

#[test]
fn strict_writes_each_message_before_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut spooled = WithSpool::new(dir.path(), Durability::Strict);
    for i in 0..10 {
        spooled
            .outbox
            .push(format!("m{i}").into_bytes(), Instant::now());
        spooled.event();
        assert_eq!(spooled.outbox.unwritten(), 0);
    }
    drop(spooled);
    let mut spooled = WithSpool::new(dir.path(), Durability::Strict);
    let expected: Vec<_> = (0..10).map(|i| format!("m{i}")).collect();
    assert_eq!(spooled.deliver(), expected);
}

#[test]
fn a_spool_that_can_not_be_written_leaves_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut spooled = WithSpool::new(&file.join("spool"), Durability::Relaxed);
    spooled.outbox.limit_bytes = 10 * (1_000 + OVERHEAD_BYTES);
    let start = Instant::now();
    for i in 0..100 {
        spooled
            .outbox
            .push(vec![b'x'; 1_000], start + Duration::from_secs(i));
        spooled.outbox.disconnected();
        spooled.outbox.maintain(start + Duration::from_secs(i));
        while !spooled.outbox.storing.is_empty() {
            spooled.event();
        }
    }
    assert!(spooled.outbox.spool().1.is_some());
    assert_eq!(spooled.outbox.len(), 10);
    assert_eq!(spooled.outbox.dropped()[&DropReason::OutboxFull], 90);
    assert_eq!(spooled.deliver().len(), 10);
}

#[test]
fn the_end_writes_what_is_pending() {
    let dir = tempfile::tempdir().unwrap();
    let mut spooled = WithSpool::new(dir.path(), Durability::Relaxed);
    spooled.outbox.push(b"last".to_vec(), Instant::now());
    spooled.outbox.next(false).unwrap(); // in flight
    let end = spooled.outbox.close().unwrap();
    end.join().unwrap();
    spooled.event();
    assert_eq!(spooled.outbox.unwritten(), 0);
    let mut again = WithSpool::new(dir.path(), Durability::Relaxed);
    assert_eq!(again.deliver(), ["last"]);
}

const EACH: usize = 1_000 + OVERHEAD_BYTES;

/// The numbers of messages, each once, in order.
fn numbers(payloads: &[String]) -> Vec<usize> {
    let all: std::collections::BTreeSet<usize> =
        payloads.iter().map(|p| p.parse().unwrap()).collect();
    all.into_iter().collect()
}

#[test]
fn nothing_is_dropped_while_the_spool_takes_it() {
    for durability in [Durability::Relaxed, Durability::Strict] {
        let dir = tempfile::tempdir().unwrap();
        let mut spooled = WithSpool::new(dir.path(), durability);
        spooled.outbox.limit_bytes = 20 * EACH;
        // An outage with a backlog, a connection that answers nothing, its end, and another.
        spooled.outbox.disconnected();
        let start = Instant::now();
        for i in 0..100 {
            let now = start + Duration::from_secs(i);
            let message = format!("{i:01000}").into_bytes();
            spooled.outbox.push(message, now);
            spooled.outbox.maintain(now);
            spooled.listen();
        }
        spooled.outbox.connected();
        spooled.event(); // some of it is awake
        spooled.push_unanswered(100..300, 1_000);
        spooled.outbox.disconnected();
        let sent = numbers(&spooled.deliver());
        let none = BTreeMap::new();
        assert_eq!(spooled.outbox.dropped(), none, "{durability:?}");
        assert_eq!(sent, (0..300).collect::<Vec<_>>(), "{durability:?}");
    }
}

#[test]
fn a_connection_that_answers_late_gets_everything() {
    for durability in [Durability::Relaxed, Durability::Strict] {
        let dir = tempfile::tempdir().unwrap();
        let mut spooled = WithSpool::new(dir.path(), durability);
        spooled.outbox.limit_bytes = 20 * EACH;
        spooled.outbox.connected();
        let in_flight = spooled.push_unanswered(0..300, 1_000);
        assert_eq!(in_flight.len(), 64);
        assert!(spooled.outbox.dropped().is_empty());
        // The same connection: no rewind brings them back.
        in_flight
            .iter()
            .for_each(|key| spooled.outbox.acknowledged(*key));
        let mut rest = std::collections::BTreeSet::new();
        while !spooled.outbox.is_empty() {
            match spooled.outbox.next(true) {
                Some((key, payload)) => {
                    let number: usize = String::from_utf8(payload).unwrap().parse().unwrap();
                    assert!(rest.insert(number), "{number} is sent twice");
                    spooled.outbox.acknowledged(key);
                }
                None => spooled.event(),
            }
        }
        assert_eq!(rest.len(), 300 - 64, "{durability:?}");
    }
}

#[test]
fn a_disk_that_stalls_costs_bounded_memory_and_counted_messages() {
    for durability in [Durability::Relaxed, Durability::Strict] {
        let dir = tempfile::tempdir().unwrap();
        let mut spooled = WithSpool::new(dir.path(), durability);
        let limit = 20 * EACH;
        spooled.outbox.limit_bytes = limit;
        let start = Instant::now();
        for i in 0..200 {
            let now = start + Duration::from_secs(i);
            let message = format!("{i:01000}").into_bytes();
            spooled.outbox.push(message, now);
            spooled.outbox.maintain(now);
            // Its answers are not heard.
            let size = spooled.outbox.size_bytes();
            assert!(size <= 2 * limit, "{durability:?} {i}: {size} of {limit}");
        }
        let dropped = spooled.outbox.dropped()[&DropReason::OutboxFull];
        let sent = numbers(&spooled.deliver());
        assert_eq!(sent.len() as u64 + dropped, 200, "{durability:?}");
        assert!(sent.contains(&199) && sent.len() >= 20, "{sent:?}");
    }
}

#[test]
fn what_a_full_spool_deletes_is_still_in_memory_or_counted() {
    let size = crate::spool::SEGMENT_BYTES as usize / 4;
    for in_memory in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let max = 2 * crate::spool::SEGMENT_BYTES;
        let mut spooled = WithSpool::bounded(dir.path(), Durability::Strict, max);
        if !in_memory {
            spooled.outbox.limit_bytes = 2 * size;
        }
        spooled.outbox.connected();
        let in_flight = spooled.push_unanswered(0..40, size);
        assert_eq!(in_flight.len(), 40);
        spooled.outbox.disconnected();
        let sent = numbers(&spooled.deliver());
        let dropped: u64 = spooled.outbox.dropped().values().sum();
        assert_eq!(sent.len() as u64 + dropped, 40, "{sent:?}");
        assert_eq!(dropped == 0, in_memory, "{dropped}");
    }
}

#[test]
fn a_spool_that_opens_late_says_why_and_its_backlog_goes_without_a_new_outage() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        dir: dir.path().to_owned(),
        max_bytes: 1 << 30,
        max_age: Duration::from_secs(3600),
    };
    let mut held = crate::spool::Spool::open(&limits).unwrap();
    held.store(&[(b"7", false)]).unwrap();
    let (tell, events) = channel();
    let retry = Duration::from_millis(50);
    let thread = SpoolThread::start_with(limits, false, retry, move |e| drop(tell.send(e)));
    let mut outbox = Outbox::new(DEFAULT_BYTES, Durability::Relaxed);
    outbox.set_spool(thread.unwrap());
    let mut spooled = WithSpool { outbox, events };
    spooled.outbox.connected();
    spooled.event();
    let problem = spooled.outbox.spool().1.unwrap_or_default().to_owned();
    assert!(problem.contains("another agent"), "{problem}");
    drop(held);
    let until = Instant::now() + Duration::from_secs(20);
    let (_, payload) = loop {
        assert!(Instant::now() < until);
        spooled.event();
        if let Some(next) = spooled.outbox.next(true) {
            break next;
        }
    };
    assert_eq!(payload, b"7");
    assert_eq!(spooled.outbox.spool().1, None);
}

#[test]
fn a_full_outbox_asks_for_a_moment_only_if_that_helps() {
    let mut outbox = outbox(3 * EACH);
    (0..3).for_each(|_| push(&mut outbox, 1_000));
    assert!(!outbox.is_busy(1_000), "nobody makes room");
    outbox.connected();
    assert!(!outbox.is_busy(1_000), "nothing is under way");
    let (key, _) = outbox.next(true).unwrap();
    assert!(outbox.is_busy(1_000));
    outbox.acknowledged(key);
    assert!(!outbox.is_busy(1_000), "there is room");
    // Strict: what waits would not be on disk.
    let dir = tempfile::tempdir().unwrap();
    let mut strict = WithSpool::new(dir.path(), Durability::Strict);
    strict.outbox.limit_bytes = 3 * EACH;
    strict.outbox.connected();
    strict.push_unanswered(0..3, 1_000);
    assert!(!strict.outbox.is_busy(1_000));
}

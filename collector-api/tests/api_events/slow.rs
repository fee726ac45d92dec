//! Clients that are slow, that want less, and that do not read at all.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use devmon_collector::events::Pace;

use crate::collector::{Collector, T, wait_for};

#[test]
fn with_an_interval_a_client_gets_the_newest_of_each_source_and_no_gap() {
    let collector = Collector::start();
    let mut client = collector.client("types=samples&min_interval=1s");
    collector.sample("d", "cpu", 0, r#"{"a":0}"#);
    assert_eq!(client.next().unwrap().data["ts"], T);
    let begin = Instant::now();
    for ms in 1..=200 {
        collector.sample("d", "cpu", ms, r#"{"a":1}"#);
        collector.sample("d", "disk", ms, r#"{"a":1}"#);
    }
    let published = begin.elapsed();
    let (mut cpu, mut disk, mut events) = (0, 0, 0);
    while cpu < 200 || disk < 200 {
        let event = client.next().unwrap();
        assert_eq!(event.kind, "samples");
        let ms = event.data["ts"].as_i64().unwrap() - T;
        let last = if event.data["source"] == "cpu" {
            &mut cpu
        } else {
            &mut disk
        };
        assert!(ms > *last, "{ms} after {last}");
        *last = ms;
        events += 1;
    }
    let rounds = 2 + published.as_secs();
    assert!(events <= 2 * rounds, "{events} events in {published:?}");
}

#[test]
fn who_reads_too_slowly_for_all_gets_a_gap_and_is_up_to_date_again() {
    let collector = Collector::start();
    let mut follower = collector.events.follow(None).unwrap();
    collector.sample("quiet", "cpu", 1, r#"{"a":1}"#);
    for ms in 0..90 {
        collector.large("loud", ms);
    }
    wait_for("all events", || follower.end() > 91 + 4); // two devices, each of which appeared and is online
    let (gap, batch) = follower.read(Pace::Every);
    let gap = gap.unwrap();
    assert_eq!((gap.reason, gap.to.seq + 1), ("behind", follower.end()));
    // Two devices, their status, and of each source the newest frame.
    assert_eq!(batch.events.len(), 6);
    assert!(batch.events.windows(2).all(|w| w[0].seq < w[1].seq));
    collector.large("loud", 90);
    wait_for("one more", || follower.end() > gap.to.seq + 1);
    let (gap, batch) = follower.read(Pace::Every);
    assert_eq!((gap, batch.events.len()), (None, 1), "it has caught up");
}

/// What was logged by all tests.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_client_that_does_not_read_is_let_go_and_hinders_nobody() {
    let logged = Logged::default();
    let writer = logged.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false);
    let subscriber = subscriber.with_writer(move || writer.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let collector = Collector::with(Duration::from_millis(500), 10);
    let mut reader = collector.client("types=samples&device=other");
    let stuck = collector.client("types=samples&device=loud");
    let dropped = || collector.events.counters().dropped.load(Relaxed);
    let begin = Instant::now();
    let mut ms = 0;
    while dropped() == 0 {
        collector.large("loud", ms);
        collector.sample("other", "cpu", ms, r#"{"a":1}"#);
        assert_eq!(reader.next().unwrap().data["ts"], T + ms);
        ms += 1;
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "after {ms} frames"
        );
    }
    wait_for("one client", || {
        collector.events.counters().clients.load(Relaxed) == 1
    });
    let id = stuck.head.lines().find(|l| l.starts_with("x-request-id: "));
    let id = id.unwrap().trim_start_matches("x-request-id: ");
    let logged = String::from_utf8(logged.0.lock().unwrap().clone()).unwrap();
    let said = logged.lines().find(|l| l.contains("did not read"));
    assert!(said.is_some_and(|l| l.contains(id)), "{id} in {logged}");
    drop(stuck);
    collector.sample("other", "cpu", ms, r#"{"a":1}"#);
    assert_eq!(reader.next().unwrap().data["ts"], T + ms);
    assert_eq!(dropped(), 1);
    drop(reader);
    wait_for("no client", || {
        collector.events.counters().clients.load(Relaxed) == 0
    });
    assert_eq!(dropped(), 1, "who goes by itself was not dropped");
}

//! A disk that is really full, under load, from outside: PUBACKs stop and `/readyz` says why; when there is room again all goes on without a restart, and nothing
//! that was acknowledged is lost.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

mod harness;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use harness::wait_for;
use serde_json::Value as Json;
use xtask::collector::Collector;
use xtask::load::{Link, Message, Script, Shape, Tally, Turn, drive};

const DEVICES: u32 = 10;
const METRICS: u32 = 50;
const CONNECTIONS: u32 = 2;
const STEP_MS: i64 = 10_000;
const DAY_MS: i64 = 86_400_000;
/// Clients come back each second; so long none of them is told that its message is on disk.
const FULL_FOR: Duration = Duration::from_secs(4);

/// A file system of some MiB on `dir`, until dropped.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    /// Mounting needs root. Whoever is not root and knows it sets `DEVMON_SKIP_MOUNT_TESTS`; without that a test that was not run is a test that failed.
    fn new(dir: &'a Path, mib: u32) -> Option<Self> {
        if std::env::var_os("DEVMON_SKIP_MOUNT_TESTS").is_some() {
            eprintln!("NOT RUN: DEVMON_SKIP_MOUNT_TESTS is set");
            return None;
        }
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(dir)
            .status();
        assert!(
            mounted.is_ok_and(|s| s.success()),
            "a tmpfs can not be mounted: run as root, or set DEVMON_SKIP_MOUNT_TESTS=1 to go without"
        );
        Some(Self(dir))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0).status();
        drop(unmounted);
    }
}

/// Devices in turn, tick by tick, until told to stop; remembers what was acknowledged.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acked: Mutex<BTreeSet<(u32, u32)>>,
}

impl Shared {
    fn count(&self) -> usize {
        self.acked.lock().unwrap().len()
    }
}

struct Sender<'a> {
    shared: &'a Shared,
    sent: [u32; CONNECTIONS as usize],
    stopping: Option<Instant>,
}

impl Script for Sender<'_> {
    fn turn(&mut self, now: Instant, _: &mut Tally, _: &mut Vec<u32>) -> Turn {
        if !self.shared.stop.load(Relaxed) {
            return Turn::Go(Duration::from_millis(20));
        }
        let since = *self.stopping.get_or_insert(now);
        if now > since + harness::DEADLINE {
            return Turn::Stop;
        }
        Turn::Drain
    }

    fn next(&mut self, connection: u32, now: Instant) -> Option<(Message, Instant)> {
        const OF_CONNECTION: u32 = DEVICES / CONNECTIONS;
        let sent = &mut self.sent[connection as usize];
        let tick = *sent / OF_CONNECTION;
        let device = connection + *sent % OF_CONNECTION * CONNECTIONS;
        *sent += 1;
        let message = Message {
            device,
            boot: 1,
            seq: tick,
            tick,
            frames: 1,
        };
        Some((message, now))
    }

    fn acked(&mut self, message: &Message) {
        let key = (message.device, message.tick);
        self.shared.acked.lock().unwrap().insert(key);
    }
}

/// Every acknowledged sample is there with its value; no time stands twice.
fn check(collector: &Collector, shape: &Shape, acked: &BTreeSet<(u32, u32)>) {
    let paths: Vec<String> = (0..METRICS).map(|m| shape.path(m)).collect();
    let query: String = paths.iter().map(|p| format!("path={p}&")).collect();
    for device in 0..DEVICES {
        let name = shape.device(device);
        let (from, to) = (shape.ts(0, 0), shape.ts(0, 0) + 30 * DAY_MS);
        let url = format!("/api/v1/devices/{name}/series?{query}from={from}&to={to}&limit=100000");
        let reply = collector.json(&url).unwrap_or_else(|error| {
            panic!("{error:#}\n{:#?}", collector.said().problems);
        });
        assert_eq!(reply["next_cursor"], Json::Null);
        let times: Vec<i64> = serde_json::from_value(reply["t"].clone()).unwrap();
        assert!(times.is_sorted_by(|a, b| a < b), "{name}: a time twice");
        let mut found = BTreeSet::new();
        for (row, ts) in times.iter().enumerate() {
            let tick = shape.tick(device, *ts).unwrap();
            found.insert((device, tick));
            for metric in 0..METRICS {
                let sent: Json = serde_json::from_str(&shape.value(device, metric, tick)).unwrap();
                let read = &reply["series"][metric as usize]["v"][row];
                assert_eq!(*read, sent, "{name}{} at {ts}", paths[metric as usize]);
            }
        }
        let missing: Vec<_> = acked
            .range((device, 0)..(device + 1, 0))
            .filter(|key| !found.contains(key))
            .collect();
        assert!(missing.is_empty(), "acknowledged and gone: {missing:?}");
    }
}

#[test]
fn a_full_disk_stops_pubacks_until_there_is_room_and_loses_nothing() {
    let dir = harness::tempdir();
    let Some(mounted) = Mounted::new(dir.path(), 40) else {
        return;
    };
    let ballast = dir.path().join("ballast");
    std::fs::write(&ballast, vec![1; 28 << 20]).unwrap();
    let others = dir.path().join("others");
    let data = dir.path().join("data");
    let program = harness::bin_dir().join("devmon-collector");
    // Seals on the way: the database meets the full disk, too.
    let config = "[store]\nseal_samples = 60000\n";
    let mut collector = Collector::start(&program, &data, config, "info").unwrap();
    collector.wait_ready(harness::DEADLINE).unwrap().unwrap();
    assert_eq!(collector.get("/readyz").unwrap().0, 200);

    let origin = (xtask::load::now_ms() / DAY_MS - 20) * DAY_MS;
    let shape = Shape::new("full", METRICS, origin, STEP_MS);
    let link = Link {
        to: collector.mqtt().unwrap(),
        connections: CONNECTIONS,
        client: "full".into(),
        window: 20,
        reconnect: true,
    };
    let shared = Shared::default();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut sender = Sender {
                shared: &shared,
                sent: [0; CONNECTIONS as usize],
                stopping: None,
            };
            drive(&link, &shape, &mut sender)
        });
        // A failed check must end the thread, too.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for("the disk is full", || {
                (collector.get("/readyz").ok()?.0 == 503).then_some(())
            });
            assert!(shared.count() > 1000, "{} acknowledged", shared.count());
            // A seal gives a piece of the journal back: somebody else takes that.
            let mut others = File::create(&others).unwrap();
            let (mut acked, mut since) = (0, Instant::now());
            let why = wait_for("nothing is acknowledged any more", || {
                while others.write(&[1; 4096]).is_ok_and(|n| n > 0) {}
                let (status, body) = collector.get("/readyz").ok()?;
                if status != 503 || shared.count() != acked {
                    (acked, since) = (shared.count(), Instant::now());
                }
                (since.elapsed() > FULL_FOR).then_some(body)
            });
            assert!(why.contains("the disk is full"), "{why}");
            // Not asked for here: that all is readable. sled may need room to open again after its first failed write, and until then blocks are not.
            assert_eq!(shared.count(), acked, "acknowledged on a full disk");

            drop(others);
            std::fs::remove_file(&ballast).unwrap();
            wait_for("intake goes on", || {
                (shared.count() > acked + 1000).then_some(())
            });
            wait_for("ready again", || {
                (collector.get("/readyz").ok()?.0 == 200).then_some(())
            });
        }));
        shared.stop.store(true, Relaxed);
        let sent = sending.join().unwrap();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        let tally = sent.unwrap();
        assert!(tally.connections_lost > 0 && tally.again > 0);
    });
    wait_for("the store is well again", || {
        let status = collector.json("/api/v1/status").ok()?;
        (status["store"]["state"] == "ok").then_some(())
    });
    let acked = shared.acked.into_inner().unwrap();
    check(&collector, &shape, &acked);
    collector.kill_9().unwrap();
    let mut collector = Collector::start(&program, &data, config, "info").unwrap();
    collector.wait_ready(harness::DEADLINE).unwrap().unwrap();
    check(&collector, &shape, &acked);
    drop(collector);
    drop(mounted);
}

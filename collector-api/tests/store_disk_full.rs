//! A disk that is really full: a small file system of its own, filled, and freed again.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use devmon_collector::store::engine::{Accepted, Content, DeadLetter, Store};
use devmon_collector::store::{Engine, Options};
use devmon_core::wire::{FlatMessage, Reason, TimestampMs};

const BASE_MS: i64 = 1_795_450_000_000;

/// A file system of a few MiB, with a file on it that can be deleted to make room.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounting needs root. Whoever is not root and knows it sets `DEVMON_SKIP_MOUNT_TESTS`; without that a test that was not run is a test that failed.
    fn mount(size_mib: u32) -> Option<Self> {
        if std::env::var_os("DEVMON_SKIP_MOUNT_TESTS").is_some() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size_mib}m"), "tmpfs"])
            .arg(dir.path())
            .status();
        assert!(
            mounted.is_ok_and(|s| s.success()),
            "a tmpfs can not be mounted: run as root, or set DEVMON_SKIP_MOUNT_TESTS=1 to go without"
        );
        Some(Self { dir })
    }

    fn ballast(&self) -> PathBuf {
        self.dir.path().join("ballast")
    }

    fn fill(&self, bytes: usize) {
        std::fs::write(self.ballast(), vec![1; bytes]).unwrap();
    }

    /// Takes every last byte.
    fn fill_up(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        while file.write(&[1; 4096]).is_ok_and(|n| n > 0) {}
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount")
            .arg("-l")
            .arg(self.dir.path())
            .status();
        drop(unmounted);
    }
}

fn message(seq: u64) -> Accepted {
    // Texts that do not pack: each message takes its 2 KiB in journal and blocks.
    let mut state = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut letters = || {
        let next = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            char::from(b'a' + (state >> 60) as u8)
        });
        next.take(1000).collect::<String>()
    };
    let (a, b) = (letters(), letters());
    let ts = BASE_MS + seq as i64 * 1000;
    let payload = format!(
        r#"{{"v":1,"boot":"B","seq":{seq},"frames":[{{"ts":{ts},"source":"s","metrics":{{"n":{seq},"a":"{a}","b":"{b}"}}}}]}}"#
    );
    let message = FlatMessage::decode(payload.as_bytes()).unwrap();
    Accepted {
        device: "d".parse().unwrap(),
        received: TimestampMs(BASE_MS),
        payload: payload.into(),
        content: Content::Metrics {
            id: message.id,
            frames: message.frames,
        },
    }
}

fn stored(store: &Engine) -> usize {
    let path = ["/s/n".parse().unwrap()];
    let range = store.range("d", &path, TimestampMs(0), TimestampMs(i64::MAX), 100_000);
    range.unwrap()[0].len()
}

/// Nothing ages, and no day becomes a file by itself, whenever this is run.
fn open(dir: &Path) -> Engine {
    let century = Duration::from_secs(100 * 365 * 86_400);
    let options = Options {
        retention: century,
        archive_after: 10 * century,
        ..Options::default()
    };
    Engine::open(dir, options).unwrap()
}

#[test]
fn a_full_disk_stops_commits_until_there_is_room_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount(24) else {
        return;
    };
    disk.fill(16 << 20);
    let dir = disk.dir.path().join("store");
    let store = open(&dir);
    let mut seq = 0;
    let error = loop {
        match store.commit(&[message(seq)]) {
            Ok(_) => seq += 1,
            Err(error) => break error,
        }
        assert!(seq < 20_000, "the disk does not get full");
    };
    assert!(seq > 100);
    assert!(error.to_string().contains("No space left"), "{error}");
    let problem = store.status().problem.unwrap();
    assert!(problem.contains("the disk is full"), "{problem}");
    assert!(store.commit(&[message(seq)]).is_err(), "still full");
    assert_eq!(
        stored(&store),
        seq as usize,
        "what was acknowledged, and no more"
    );
    let letter = DeadLetter {
        id: 0,
        ts: TimestampMs(0),
        topic: "t".into(),
        reason: Reason::InvalidJson,
        detail: String::new(),
        payload: vec![0; 1 << 20].into(),
    };
    assert!(store.bury(vec![letter.clone()]).is_err());

    disk.free();
    store.commit(&[message(seq)]).unwrap(); // with no restart
    store.bury(vec![letter]).unwrap();
    assert_eq!(store.status().problem, None);
    assert_eq!(store.dead_letters(None, 10).unwrap().len(), 1);
    drop(store);
    let store = open(&dir);
    assert_eq!(stored(&store), seq as usize + 1);
}

#[test]
fn a_seal_on_a_full_disk_fails_and_is_made_good() {
    let Some(disk) = SmallDisk::mount(32) else {
        return;
    };
    let dir = disk.dir.path().join("store");
    let store = open(&dir);
    for seq in 0..20 {
        let batch: Vec<_> = (seq * 100..(seq + 1) * 100).map(message).collect();
        store.commit(&batch).unwrap(); // 4 MB together: more than sled has left in its file
    }
    disk.fill_up();
    let error = store.seal_now().unwrap_err();
    assert!(store.status().sealing_problem.is_some(), "{error}");
    assert_eq!(stored(&store), 2000, "readable meanwhile");
    disk.free();
    store.commit(&[message(2000)]).unwrap();
    // The first attempt may find out that the database had to be opened again; the sealing thread tries by itself, too.
    assert!((0..3).any(|_| store.seal_now().is_ok()));
    assert_eq!(store.status().sealing_problem, None);
    assert_eq!(store.status().head_samples, 0);
    assert_eq!(stored(&store), 2001);
    drop(store);
    let store = open(&dir);
    assert_eq!(store.status().degraded, None);
    assert_eq!(stored(&store), 2001);
    assert_eq!(store.status().head_samples, 0);
}

#[test]
fn a_day_that_can_not_be_archived_on_a_full_disk_stays_readable_and_is_archived_later() {
    let Some(disk) = SmallDisk::mount(48) else {
        return;
    };
    let dir = disk.dir.path().join("store");
    let store = open(&dir);
    for seq in 0..20 {
        let batch: Vec<_> = (seq * 100..(seq + 1) * 100).map(message).collect();
        store.commit(&batch).unwrap();
    }
    store.seal_now().unwrap();
    let all = TimestampMs(i64::MAX);
    disk.fill_up();
    let error = store.compact_before(all).unwrap_err().to_string();
    assert!(error.contains("No space left"), "{error}");
    let status = store.status();
    assert!(
        status
            .archive_problem
            .is_some_and(|p| p.contains("No space left"))
    );
    assert_eq!(status.archive_files, 0);
    // Longer than sled takes to notice by itself (it flushes each second), and across a start.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert_eq!(stored(&store), 2000, "readable meanwhile");
        assert!(store.commit(&[message(2000)]).is_err(), "still full");
    }
    drop(store);
    let store = open(&dir);
    assert_eq!(store.status().degraded, None);
    assert_eq!(
        stored(&store),
        2000,
        "readable after a start on a full disk"
    );
    assert!(store.commit(&[message(2000)]).is_err(), "still full");
    let problem = store.status().problem.unwrap();
    assert!(problem.contains("the disk is full"), "{problem}");
    disk.free();
    store.commit(&[message(2000)]).unwrap();
    store.seal_now().unwrap();
    assert!((0..3).any(|_| store.compact_before(all).is_ok()));
    let status = store.status();
    assert_eq!((status.archive_problem, status.archive_files), (None, 1));
    assert_eq!((status.blocks, stored(&store)), (0, 2001));
    drop(store);
    let store = open(&dir);
    assert_eq!(store.status().degraded, None);
    assert_eq!(stored(&store), 2001);
}

//! A disk that is full for a moment, and bytes that changed by themselves: what was acknowledged is there, or somebody is told where it lies.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use devmon_core::wire::TimestampMs;

use super::Engine;
use super::engine::{Accepted, Store, StoreError};
use super::kv::{Kv, SledKv, Table};
use super::seal_tests::{metrics, open_watched, options};

/// A small file system of its own. As in `tests/store_disk_full.rs`: without root it fails, unless it is known that these tests can not run.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount(mib: u32) -> Option<Self> {
        if std::env::var_os("DEVMON_SKIP_MOUNT_TESTS").is_some() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(dir.path())
            .status();
        assert!(
            mounted.is_ok_and(|s| s.success()),
            "a tmpfs can not be mounted: run as root, or set DEVMON_SKIP_MOUNT_TESTS=1 to go without"
        );
        Some(Self(dir))
    }

    fn ballast(&self) -> PathBuf {
        self.0.path().join("ballast")
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        while file.write(&[1; 4096]).is_ok_and(|n| n > 0) {}
    }

    fn leave(&self, bytes: u64) {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(self.ballast())
            .unwrap();
        let len = file.metadata().unwrap().len();
        file.set_len(len.saturating_sub(bytes)).unwrap();
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        drop(unmounted);
    }
}

/// Bytes that do not pack.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 60) as u8
    });
    next.take(length).collect()
}

/// A message of some 2 KiB, in the journal and in blocks.
fn large(seq: u64) -> Accepted {
    let text: String = noise(seq, 2000)
        .iter()
        .map(|b| char::from(b'a' + b))
        .collect();
    let (a, b) = text.split_at(1000);
    metrics(
        "d",
        seq,
        &[(
            seq as i64 * 1000,
            "s",
            format!("\"n\":{seq},\"a\":\"{a}\",\"b\":\"{b}\""),
        )],
    )
}

fn stored(store: &Engine) -> usize {
    let path = ["/s/a".parse().unwrap()];
    let range = store.range("d", &path, TimestampMs(0), TimestampMs(i64::MAX), 100_000);
    range.unwrap()[0].len()
}

#[test]
fn a_barrier_does_not_pass_for_puts_that_a_full_disk_has_swallowed() {
    let Some(disk) = Disk::mount(24) else { return };
    let kv = SledKv::open_anew(&disk.0.path().join("db"));
    kv.put(Table::Meta, b"x", b"0").unwrap();
    kv.barrier().unwrap();
    disk.fill();
    let value = |n: u32| noise(n.into(), 5000);
    let mut taken = Vec::new();
    let mut failed = false;
    for n in 0u32..400 {
        if n == 60 {
            // sled's own thread meets the full disk meanwhile; then there is room again.
            std::thread::sleep(Duration::from_millis(2500));
            disk.free();
        }
        match kv.put(Table::Blocks, &n.to_be_bytes(), &value(n)) {
            Ok(()) => taken.push(n),
            Err(_) => failed = true,
        }
    }
    let barrier = kv.barrier();
    let there = |n: &u32| kv.get(Table::Blocks, &n.to_be_bytes()).unwrap().is_some();
    let missing = taken.iter().filter(|n| !there(n)).count();
    assert!(
        barrier.is_err() || missing == 0,
        "put and barrier said Ok, and {missing} are gone"
    );
    assert!(
        failed || barrier.is_err(),
        "the disk was full and nobody noticed: the test tests nothing"
    );

    for n in 0u32..400 {
        kv.put(Table::Blocks, &n.to_be_bytes(), &value(n)).unwrap();
    }
    kv.barrier().unwrap();
    assert!((0u32..400).all(|n| there(&n)));
}

#[test]
fn a_disk_that_is_full_for_a_moment_during_a_seal_loses_nothing() {
    for (full_at, room_at, messages) in [(2, 55, 400), (100, 130, 400), (100, 200, 1200)] {
        let Some(disk) = Disk::mount(48) else { return };
        let disk = Arc::new(disk);
        let dir = disk.0.path().join("store");
        let operation = Arc::new(AtomicUsize::new(0));
        let armed = Arc::new(AtomicBool::new(false));
        let store = {
            let (disk, armed) = (disk.clone(), armed.clone());
            open_watched(&dir, move || {
                if armed.load(Ordering::SeqCst) {
                    let now = operation.fetch_add(1, Ordering::SeqCst);
                    if now == full_at {
                        disk.fill();
                    }
                    if now == room_at {
                        std::thread::sleep(Duration::from_millis(2500)); // sled's own thread writes once a second
                        disk.free();
                    }
                }
                Ok(())
            })
        };
        let batch: Vec<_> = (0..messages).map(large).collect();
        store.commit(&batch).unwrap();
        armed.store(true, Ordering::SeqCst);
        let sealed = store.seal_now();
        armed.store(false, Ordering::SeqCst);
        if disk.ballast().exists() {
            disk.free();
        }
        assert_eq!(
            stored(&store) as u64,
            messages,
            "{full_at}, {room_at}: while it runs; the seal: {sealed:?}"
        );
        drop(store);
        let store = Engine::open(&dir, options()).unwrap();
        assert_eq!(
            stored(&store) as u64,
            messages,
            "{full_at}, {room_at}: after a restart; the seal: {sealed:?}"
        );
        // It goes on sealing, perhaps after one more attempt.
        assert!((0..3).any(|_| store.seal_now().is_ok()));
        assert_eq!(stored(&store) as u64, messages);
        assert_eq!(store.status().degraded, None);
    }
}

#[test]
fn a_restart_on_a_full_disk_is_refused_and_moves_nothing_aside() {
    for room_kib in [300, 345, 390, 480, 600] {
        let Some(disk) = Disk::mount(64) else { return };
        let dir = disk.0.path().join("store");
        {
            let left = Arc::new(AtomicUsize::new(usize::MAX));
            let killed = {
                let left = left.clone();
                move || match left.load(Ordering::SeqCst) {
                    usize::MAX => Ok(()),
                    0 => Err(StoreError::Database {
                        path: "db".into(),
                        detail: "killed".into(),
                    }),
                    n => {
                        left.store(n - 1, Ordering::SeqCst);
                        Ok(())
                    }
                }
            };
            let store = open_watched(&dir, killed);
            for n in 0..4 {
                let batch: Vec<_> = (n * 50..(n + 1) * 50).map(large).collect();
                store.commit(&batch).unwrap();
                store.seal_now().unwrap();
            }
            let batch: Vec<_> = (200..1200).map(large).collect();
            store.commit(&batch).unwrap();
            left.store(100, Ordering::SeqCst);
            assert!(store.seal_now().is_err());
        }
        disk.fill();
        disk.leave(room_kib << 10);
        drop(Engine::open(&dir, options()));
        disk.free();
        let store = Engine::open(&dir, options()).unwrap();
        assert_eq!(
            (stored(&store), store.status().degraded),
            (1200, None),
            "{room_kib} KiB were free"
        );
    }
}

fn newest_segment(folder: &Path) -> PathBuf {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path());
    let segments = entries.filter(|p| p.extension().is_some_and(|e| e == "dmj"));
    segments.max().unwrap()
}

#[test]
fn a_changed_byte_in_the_newest_segment_is_said_and_costs_one_message_at_most() {
    for (at, left) in [(3, 100), (60, 99)] {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = Engine::open(dir.path(), options()).unwrap();
            for seq in 0..100 {
                store.commit(&[large(seq)]).unwrap();
            }
        }
        let segment = newest_segment(&dir.path().join("journal"));
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&segment, &bytes).unwrap();
        for start in 0..2 {
            let store = Engine::open(dir.path(), options()).unwrap();
            assert_eq!(stored(&store), left, "byte {at}");
            let said = store.status().degraded.unwrap_or_default();
            assert!(
                said.contains(".dmj.damaged"),
                "byte {at}, start {start}: {said:?}"
            );
        }
    }
}

#[test]
fn what_was_moved_aside_is_named_at_every_start() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = Engine::open(dir.path(), options()).unwrap();
        store.commit(&[large(0)]).unwrap();
        store.seal_now().unwrap();
    }
    std::fs::write(dir.path().join("db/conf"), b"not sled's").unwrap();
    for start in 0..3 {
        let store = Engine::open(dir.path(), options()).unwrap();
        let said = store.status().degraded.unwrap_or_default();
        assert!(said.contains("db.quarantine-"), "start {start}: {said:?}");
    }
}

//! Forgetting a device: what is left of it on disk, until that is gone, too.
//!
//! # Steps, and what a crash between them leaves
//! 1. **Journal**: a record says that the device is forgotten; durable. From here on it is gone, whatever happens: a restart forgets it again at this place,
//!    and takes what came behind it for a new device.
//! 2. **Memory**: it leaves the catalogue, its samples the heads. Its streams' numbers are never given again.
//! 3. **Seal**: the next one writes the catalogue without it, and a tombstone: the number of the device, and those of its streams. A tombstone counts if the device
//!    is not in the catalogue. *Crash before the seal is committed: as after 1.*
//! 4. **Remains**: compaction deletes its blocks, writes the day files anew that have streams of it, and `names`; barrier; then the tombstone goes. *Crash: it is done
//!    once more.*
//!
//! | size | tombstone in the table `meta`, little-endian; the key is `purge` and the number of the device, big-endian |
//! |---|---|
//! | 1 | version, 1 |
//! | 4 | CRC-32C of key and all that follows |
//! | varints | number of streams; each: what it lies above the one before |

use std::ops::ControlFlow;

use super::engine::StoreError;
use super::kv::{Kv, MAX_VALUE_BYTES, Table};
use super::varint::{Cursor, Malformed, put_u64};

const PREFIX: &[u8; 5] = b"purge";
const VERSION: u8 = 1;
/// In one tombstone; a device with more has several. A varint has at most 5 bytes here.
const STREAMS: usize = MAX_VALUE_BYTES / 5 - 10;

/// A device that is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Purged {
    pub(super) device: u32,
    /// Ascending.
    pub(super) streams: Vec<u32>,
}

fn key(device: u32, part: u16) -> [u8; 11] {
    let mut key = [0; 11];
    key[..5].copy_from_slice(PREFIX);
    key[5..9].copy_from_slice(&device.to_be_bytes());
    key[9..].copy_from_slice(&part.to_be_bytes());
    key
}

fn encode(key: &[u8], streams: &[u32]) -> Vec<u8> {
    let mut body = Vec::new();
    put_u64(&mut body, streams.len() as u64);
    let mut before = 0;
    for &stream in streams {
        put_u64(&mut body, u64::from(stream - before));
        before = stream;
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &body);
    let mut out = vec![VERSION];
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&body);
    out
}

fn decode(key: &[u8], value: &[u8]) -> Result<Purged, Malformed> {
    let device = key.get(5..9).and_then(|number| number.try_into().ok());
    let device = u32::from_be_bytes(device.ok_or(Malformed("a key of another form"))?);
    let mut from = Cursor(value);
    if from.u8()? != VERSION {
        return Err(Malformed("a version that this release does not know"));
    }
    if u32::from_le_bytes(from.array()?) != crc32c::crc32c_append(crc32c::crc32c(key), from.0) {
        return Err(Malformed("the checksum does not fit"));
    }
    let mut streams = Vec::new();
    let mut stream = 0u32;
    for _ in 0..from.count(value.len())? {
        let above = from.u32()?;
        stream = stream
            .checked_add(above)
            .ok_or(Malformed("a stream beyond all"))?;
        streams.push(stream);
    }
    Ok(Purged { device, streams })
}

/// Writes the tombstone; durable after the next barrier.
pub(super) fn put(kv: &dyn Kv, purged: &Purged) -> Result<(), StoreError> {
    let parts = purged
        .streams
        .chunks(STREAMS)
        .chain(purged.streams.is_empty().then_some(&[][..]));
    for (part, streams) in (0..).zip(parts) {
        let key = key(purged.device, part);
        kv.put(Table::Meta, &key, &encode(&key, streams))?;
    }
    Ok(())
}

pub(super) fn delete(kv: &dyn Kv, purged: &Purged) -> Result<(), StoreError> {
    let parts = purged.streams.len().div_ceil(STREAMS).max(1);
    (0..parts).try_for_each(|part| kv.delete(Table::Meta, &key(purged.device, part as u16)))
}

/// All tombstones, those that do not count yet, too.
///
/// # Errors
/// [`StoreError::DamagedBlock`]: one is damaged.
pub(super) fn load(kv: &dyn Kv) -> Result<Vec<Purged>, StoreError> {
    let mut all: Vec<Purged> = Vec::new();
    let mut damaged = None;
    kv.scan(Table::Meta, PREFIX, b"purgf", &mut |key, value| {
        match decode(key, value) {
            Ok(part) => match all.last_mut() {
                Some(last) if last.device == part.device => last.streams.extend(part.streams),
                _ => all.push(part),
            },
            Err(malformed) => {
                damaged = Some(StoreError::DamagedBlock {
                    key: String::from_utf8_lossy(key).into_owned(),
                    detail: malformed.to_string(),
                });
            }
        }
        ControlFlow::Continue(())
    })?;
    damaged.map_or(Ok(all), Err)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use devmon_core::wire::TimestampMs;

    use super::super::Engine;
    use super::super::engine::{Accepted, Store};
    use super::super::kv::SledKv;
    use super::super::seal_tests::{Contents, contents, copy, metrics, open_watched, options};
    use super::super::verify::{Watch, verify};
    use super::*;

    const ALL: TimestampMs = TimestampMs(i64::MAX);
    const HOUR: i64 = 3_600_000;

    fn messages(device: &str, seqs: std::ops::Range<u64>) -> Vec<Accepted> {
        let message = |seq: u64| {
            let tree = |n: u64| format!("\"x\":{n},\"y\":{n}.5");
            let ts = seq as i64 * 5 * HOUR;
            metrics(
                device,
                seq,
                &[(ts, "cpu", tree(seq)), (ts, "disk", tree(seq + 1))],
            )
        };
        seqs.map(message).collect()
    }

    struct Faults(Vec<String>);

    impl Watch for Faults {
        fn part(&mut self, _: &'static str, _: u64) {}
        fn done(&mut self, _: u64) {}
        fn fault(&mut self, place: &str, what: &str) {
            self.0.push(format!("{place}: {what}"));
        }
        fn note(&mut self, _: &str) {}
    }

    fn check(dir: &Path) {
        let mut faults = Faults(Vec::new());
        verify(dir, &mut faults).unwrap();
        assert_eq!(faults.0, [""; 0]);
    }

    /// Two devices with samples in day files, in blocks and in the heads.
    fn filled(store: &Engine) {
        for (seqs, step) in [(0..12, 0), (8..20, 1), (20..26, 2)] {
            let both = ["keep", "gone"].map(|device| messages(device, seqs.clone()));
            store.commit(&both.concat()).unwrap();
            match step {
                0 => store.compact_before(ALL).unwrap(),
                1 => store.seal_now().unwrap(),
                _ => {}
            }
        }
    }

    /// What is to be there when the device is gone.
    fn kept() -> Contents {
        let dir = tempfile::tempdir().unwrap();
        let store = Engine::open(dir.path(), options()).unwrap();
        store.commit(&messages("keep", 0..26)).unwrap();
        contents(&store)
    }

    /// Streams in the day files, and tombstones.
    fn left(dir: &Path) -> (usize, usize) {
        let days = super::super::days::files(&dir.join("archive")).unwrap();
        let days = days
            .into_iter()
            .filter(|path| super::super::days::is_day_file(path));
        let streams = |path: std::path::PathBuf| {
            super::super::archive::DayFile::open(&path)
                .unwrap()
                .streams()
                .unwrap()
        };
        let mut streams: Vec<u32> = days.flat_map(streams).collect();
        streams.sort_unstable();
        streams.dedup();
        let kv = SledKv::open_anew(&dir.join("db"));
        (streams.len(), load(&kv).unwrap().len())
    }

    #[test]
    fn a_tombstone_comes_back_and_a_damaged_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let kv = SledKv::open_anew(dir.path());
        let few = Purged {
            device: 3,
            streams: vec![0, 7, u32::MAX],
        };
        let none = Purged {
            device: 4,
            streams: vec![],
        };
        let many = Purged {
            device: 5,
            streams: (0..5000).map(|n| n * 800_000).collect(),
        };
        let all = [few, none, many];
        for purged in &all {
            put(&kv, purged).unwrap();
        }
        assert_eq!(load(&kv).unwrap(), all);
        delete(&kv, &all[2]).unwrap();
        assert_eq!(load(&kv).unwrap(), all[..2]);
        let key = key(3, 0);
        let mut value = kv.get(Table::Meta, &key).unwrap().unwrap();
        *value.last_mut().unwrap() ^= 1;
        kv.put(Table::Meta, &key, &value).unwrap();
        assert!(matches!(load(&kv), Err(StoreError::DamagedBlock { .. })));
    }

    #[test]
    fn a_forgotten_device_is_gone_everywhere_and_what_it_sends_later_is_anew() {
        let dir = tempfile::tempdir().unwrap();
        let kept = kept();
        let store = Engine::open(dir.path(), options()).unwrap();
        filled(&store);
        assert!(!store.purge("nobody").unwrap());
        assert!(store.purge("gone").unwrap());
        assert!(!store.purge("gone").unwrap());
        assert_eq!(contents(&store), kept, "at once");
        assert_eq!(store.status().series, 4);
        drop(store);
        let store = Engine::open(dir.path(), options()).unwrap();
        assert_eq!(contents(&store), kept, "opened again: the journal says so");
        store.seal_now().unwrap();
        assert_eq!(contents(&store), kept, "sealed");
        drop(store);
        check(dir.path());
        let store = Engine::open(dir.path(), options()).unwrap();
        assert_eq!(contents(&store), kept, "opened again: the database says so");
        store.compact_before(ALL).unwrap();
        assert_eq!(contents(&store), kept, "compacted");
        assert_eq!(store.count_blocks(), 0);
        drop(store);
        assert_eq!(
            left(dir.path()),
            (2, 0),
            "its bytes are gone, and so is the tombstone"
        );
        check(dir.path());

        let store = Engine::open(dir.path(), options()).unwrap();
        store.commit(&messages("gone", 3..4)).unwrap();
        let anew = contents(&store);
        assert_eq!(anew.len(), kept.len() + 4);
        assert!(
            anew.iter()
                .all(|((device, _), samples)| device == "keep" || samples.len() == 1)
        );
        store.compact_before(ALL).unwrap();
        assert_eq!(contents(&store), anew);
        drop(store);
        // The copy of the catalogue beside the day files has forgotten it, too.
        std::fs::write(dir.path().join("db/conf"), b"not sled's").unwrap();
        let store = Engine::open(dir.path(), options()).unwrap();
        assert_eq!(contents(&store), anew);
    }

    #[test]
    fn forgotten_and_compacted_at_once_the_names_forget_it_too() {
        let dir = tempfile::tempdir().unwrap();
        let kept = kept();
        let store = Engine::open(dir.path(), options()).unwrap();
        filled(&store);
        store.compact_before(ALL).unwrap();
        store.purge("gone").unwrap();
        store.seal_now().unwrap();
        store.compact_before(ALL).unwrap();
        drop(store);
        assert_eq!(left(dir.path()), (2, 0));
        std::fs::write(dir.path().join("db/conf"), b"not sled's").unwrap();
        let store = Engine::open(dir.path(), options()).unwrap();
        assert_eq!(contents(&store), kept);
    }

    #[test]
    fn killed_at_any_step_a_forgotten_device_stays_forgotten() {
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
        let kept = kept();
        filled(&store);
        watching.store(true, Ordering::SeqCst);
        store.purge("gone").unwrap();
        store.seal_now().unwrap();
        store.compact_before(ALL).unwrap();
        watching.store(false, Ordering::SeqCst);
        assert_eq!(contents(&store), kept);
        drop(store);
        let taken = taken.load(Ordering::SeqCst);
        assert!(taken > 15, "only {taken} steps were seen");
        for n in 0..taken {
            let dir = copies.path().join(n.to_string());
            check(&dir);
            let store = Engine::open(&dir, options()).unwrap();
            assert_eq!(store.status().degraded, None, "step {n}");
            assert_eq!(contents(&store), kept, "step {n}");
            store.compact_before(ALL).unwrap();
            store.seal_now().unwrap();
            store.compact_before(ALL).unwrap();
            assert_eq!(contents(&store), kept, "step {n}, compacted");
            assert_eq!(
                (store.count_blocks(), store.status().blocks),
                (0, 0),
                "step {n}"
            );
            drop(store);
            assert_eq!(left(&dir), (2, 0), "step {n}");
            check(&dir);
        }
    }
}

//! Records of any length in a database whose values are short: packed, checksummed, cut into pieces, and switched over all at once.
//!
//! Each record is written anew under the generation of a seal; it counts once that seal is committed. So a crash between two pieces leaves the record of the
//! generation before, whole, and pieces that [`load`] names as garbage.
//!
//! | offset | size | key |
//! |---|---|---|
//! | 0 | 1 | kind of record |
//! | 1 | 4 | number: which device, which stream; big-endian, like all of the key |
//! | 5 | 4 | generation |
//! | 9 | 2 | piece, from 0 |
//!
//! | offset | size | the pieces, joined |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 4 | CRC-32C of kind, number, generation and all that follows, little-endian |
//! | 5 | varint | length of the record |
//! | | rest | the record as zstd |

use std::ops::ControlFlow;

use super::engine::StoreError;
use super::kv::{Kv, MAX_VALUE_BYTES, Table};
use super::varint::{Cursor, Malformed, put_u64};

const VERSION: u8 = 1;
const ZSTD_LEVEL: i32 = 3;
/// Largest record: a stream of a million series with short values. Bounds what a reader allocates.
const MAX_RECORD_BYTES: usize = 256 << 20;
const KEY_BYTES: usize = 11;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Kind {
    /// Numbers given, and blocks by hour. One.
    Checkpoint = 0,
    /// Some devices: times, presence, windows of messages.
    Devices = 1,
    /// A device's about.
    About = 2,
    /// A stream: its device, name and paths.
    Stream = 3,
    /// Some streams: the newest sample of each series.
    Latest = 4,
    /// Hours that a seal is about to write to. One; it matters only if that seal was not committed.
    Intent = 5,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Checkpoint,
        Self::Devices,
        Self::About,
        Self::Stream,
        Self::Latest,
        Self::Intent,
    ];

    /// The kind with this number.
    pub(super) fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// Which record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Id {
    pub(super) kind: Kind,
    pub(super) number: u32,
}

fn key(id: Id, generation: u32, piece: u16) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[0] = id.kind as u8;
    key[1..5].copy_from_slice(&id.number.to_be_bytes());
    key[5..9].copy_from_slice(&generation.to_be_bytes());
    key[9..11].copy_from_slice(&piece.to_be_bytes());
    key
}

fn parse_key(key: &[u8]) -> Option<(Id, u32, u16)> {
    let key: &[u8; KEY_BYTES] = key.try_into().ok()?;
    let kind = Kind::of(key[0])?;
    let number = u32::from_be_bytes([key[1], key[2], key[3], key[4]]);
    let generation = u32::from_be_bytes([key[5], key[6], key[7], key[8]]);
    Some((
        Id { kind, number },
        generation,
        u16::from_be_bytes([key[9], key[10]]),
    ))
}

/// Writes a record; durable after the next barrier, valid once `generation` is committed.
pub(super) fn put(kv: &dyn Kv, id: Id, generation: u32, record: &[u8]) -> Result<(), StoreError> {
    let too_long = |detail: String| StoreError::DamagedBlock {
        key: format!("{id:?}"),
        detail,
    };
    if record.len() > MAX_RECORD_BYTES {
        return Err(too_long(format!(
            "a record of {} bytes; the most is {MAX_RECORD_BYTES}",
            record.len()
        )));
    }
    let packed = zstd::bulk::compress(record, ZSTD_LEVEL).map_err(|e| too_long(e.to_string()))?;
    let mut bytes = vec![VERSION, 0, 0, 0, 0];
    put_u64(&mut bytes, record.len() as u64);
    bytes.extend_from_slice(&packed);
    let crc = checksum(id, generation, &bytes);
    bytes[1..5].copy_from_slice(&crc.to_le_bytes());
    for (piece, value) in bytes.chunks(MAX_VALUE_BYTES).enumerate() {
        let piece = u16::try_from(piece).ok().filter(|piece| *piece < u16::MAX);
        let piece = piece.ok_or_else(|| too_long("more than 65 535 pieces".to_owned()))?;
        kv.put(Table::Catalogue, &key(id, generation, piece), value)?;
    }
    Ok(())
}

/// Removes a record of one generation.
pub(super) fn delete(kv: &dyn Kv, id: Id, generation: u32) -> Result<(), StoreError> {
    let mut keys = Vec::new();
    let (from, to) = (key(id, generation, 0), key(id, generation, u16::MAX));
    kv.scan(Table::Catalogue, &from, &to, &mut |key, _| {
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    })?;
    keys.iter()
        .try_for_each(|key| kv.delete(Table::Catalogue, key))
}

/// What [`load`] found besides the records that count.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// Records that were replaced, and those of seals that were never committed.
    pub(super) garbage: Vec<(Id, u32)>,
    /// Intents of seals that were never committed; one that is damaged was never durable, and then no block was written.
    pub(super) intents: Vec<(u32, Vec<u8>)>,
}

/// Hands over the newest committed version of each record, by kind and number, with its generation.
///
/// # Errors
/// [`StoreError::DamagedBlock`]; or what `each` returns.
pub(super) fn load(
    kv: &dyn Kv,
    committed: u32,
    each: &mut dyn FnMut(Id, u32, Vec<u8>) -> Result<(), StoreError>,
) -> Result<Leftovers, StoreError> {
    // Versions of one record are neighbours, older first, and pieces in order: one pass, one record in memory.
    let mut loader = Loader {
        committed,
        newest: None,
        current: None,
        leftovers: Leftovers::default(),
        each,
    };
    let mut failed = Ok(());
    kv.scan(
        Table::Catalogue,
        &[],
        &[0xff; KEY_BYTES],
        &mut |key, value| {
            failed = loader.piece(key, value);
            if failed.is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        },
    )?;
    failed?;
    loader.finish()?;
    Ok(loader.leftovers)
}

struct Version {
    id: Id,
    generation: u32,
    bytes: Vec<u8>,
}

struct Loader<'a> {
    committed: u32,
    /// The newest committed version so far of the current record.
    newest: Option<Version>,
    current: Option<Version>,
    leftovers: Leftovers,
    each: &'a mut dyn FnMut(Id, u32, Vec<u8>) -> Result<(), StoreError>,
}

impl Loader<'_> {
    fn piece(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let Some((id, generation, _)) = parse_key(key) else {
            return Ok(()); // a kind that a newer release may have added
        };
        match &mut self.current {
            Some(current) if current.id == id && current.generation == generation => {
                current.bytes.extend_from_slice(value);
            }
            _ => {
                self.close_version();
                if self.newest.as_ref().is_some_and(|newest| newest.id != id) {
                    self.close_record()?;
                }
                self.current = Some(Version {
                    id,
                    generation,
                    bytes: value.to_vec(),
                });
            }
        }
        Ok(())
    }

    fn close_version(&mut self) {
        let Some(version) = self.current.take() else {
            return;
        };
        if version.generation > self.committed {
            if version.id.kind == Kind::Intent {
                let intent = unpack(&version).unwrap_or_default();
                self.leftovers.intents.push((version.generation, intent));
            }
            self.leftovers
                .garbage
                .push((version.id, version.generation));
        } else if let Some(older) = self.newest.replace(version) {
            self.leftovers.garbage.push((older.id, older.generation)); // of the same record: others were closed before
        }
    }

    fn close_record(&mut self) -> Result<(), StoreError> {
        let Some(version) = self.newest.take() else {
            return Ok(());
        };
        let record = unpack(&version).map_err(|malformed| StoreError::DamagedBlock {
            key: format!("{:?} of generation {}", version.id, version.generation),
            detail: malformed.to_string(),
        })?;
        (self.each)(version.id, version.generation, record)
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        self.close_version();
        self.close_record()
    }
}

fn unpack(version: &Version) -> Result<Vec<u8>, Malformed> {
    let mut cursor = Cursor(&version.bytes);
    if cursor.u8()? != VERSION {
        return Err(Malformed("a version that this release does not know"));
    }
    if u32::from_le_bytes(cursor.array()?)
        != checksum(version.id, version.generation, &version.bytes)
    {
        return Err(Malformed("the checksum does not fit"));
    }
    let length = cursor.count(MAX_RECORD_BYTES)?;
    zstd::bulk::decompress(cursor.0, length).map_err(|_| Malformed("zstd does not unpack it"))
}

/// Of the key without the piece, and of the bytes behind the checksum.
fn checksum(id: Id, generation: u32, bytes: &[u8]) -> u32 {
    let key = key(id, generation, 0);
    crc32c::crc32c_append(crc32c::crc32c(&key), &bytes[5..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::kv::SledKv;

    type Found = Vec<(Id, u32, Vec<u8>)>;

    fn loaded(kv: &dyn Kv, committed: u32) -> (Found, Leftovers) {
        let mut found = Found::new();
        let leftovers = load(kv, committed, &mut |id, generation, record| {
            found.push((id, generation, record));
            Ok(())
        });
        (found, leftovers.unwrap())
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u32;
        let next = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        next.take(length).collect()
    }

    #[test]
    fn the_newest_committed_version_counts_and_the_rest_is_garbage() {
        let dir = tempfile::tempdir().unwrap();
        let kv = SledKv::open_anew(dir.path());
        let a = Id {
            kind: Kind::Devices,
            number: 1,
        };
        let b = Id {
            kind: Kind::Latest,
            number: 1,
        };
        let long = noise(50_000); // 9 pieces: it does not pack
        put(&kv, a, 1, b"old").unwrap();
        put(&kv, a, 2, &long).unwrap();
        put(&kv, a, 3, b"not committed").unwrap();
        put(&kv, b, 3, b"nor this").unwrap();
        put(
            &kv,
            Id {
                kind: Kind::Intent,
                number: 0,
            },
            3,
            b"hours",
        )
        .unwrap();
        let (found, leftovers) = loaded(&kv, 2);
        assert_eq!(found, [(a, 2, long.clone())]);
        assert_eq!(leftovers.garbage.len(), 4);
        assert_eq!(leftovers.intents, [(3, b"hours".to_vec())]);
        for (id, generation) in leftovers.garbage {
            delete(&kv, id, generation).unwrap();
        }
        let (found, leftovers) = loaded(&kv, u32::MAX);
        assert_eq!(found, [(a, 2, long)]);
        assert!(leftovers.garbage.is_empty());
    }

    #[test]
    fn a_missing_or_damaged_piece_is_an_error_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let kv = SledKv::open_anew(dir.path());
        let id = Id {
            kind: Kind::Stream,
            number: 5,
        };
        put(&kv, id, 1, &noise(20_000)).unwrap();
        kv.delete(Table::Catalogue, &key(id, 1, 1)).unwrap();
        let error = load(&kv, 1, &mut |_, _, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains("Stream"), "{error}");
    }
}

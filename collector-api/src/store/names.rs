//! Whose samples the day files hold: a copy of the catalogue beside them, for the day when the database is lost.
//!
//! A day file knows streams by number only; what a number means stands in the database. So before a day file counts, the catalogue as it is then is written
//! to `archive/names`, whole and in one step. A start that finds an empty database beside an archive begins with this copy: devices, their windows of
//! messages, paths, and the newest samples as they were. Numbers given later belong to no day file.
//!
//! | offset | size | little-endian |
//! |---|---|---|
//! | 0 | 4 | `DMN` and the version, 1 |
//! | 4 | 4 | CRC-32C of all that follows |
//! | 8 | | zstd of the records, those of `persist`, by kind; each: kind (a byte), number, length (varints), bytes |

use std::collections::HashMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use devmon_core::wire::DeviceId;

use super::blob::{Id, Kind};
use super::catalogue::{Catalogue, Stream};
use super::days;
use super::engine::StoreError;
use super::local::Shared;
use super::persist::{self, Restore};
use super::varint::{Cursor, Malformed, put_bytes, put_u64};

const MAGIC: [u8; 4] = *b"DMN\x01";
const ZSTD_LEVEL: i32 = 3;

fn path(dir: &Path) -> PathBuf {
    days::folder(dir).join("names")
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> StoreError {
    move |error| StoreError::Database {
        path: path.to_owned(),
        detail: error.to_string(),
    }
}

/// The file, with the checksum of what went through.
struct Summed {
    file: std::fs::File,
    crc: u32,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// True if it was written at some time.
pub(super) fn exist(dir: &Path) -> bool {
    path(dir).exists()
}

/// Writes the catalogue as it is now.
pub(super) fn write(shared: &Shared) -> Result<(), StoreError> {
    let path = path(&shared.dir);
    let temporary = path.with_extension(days::TEMPORARY.trim_start_matches('.'));
    write_to(shared, &temporary).map_err(failed(&temporary))?;
    days::publish(&temporary, &path)
}

fn write_to(shared: &Shared, path: &Path) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(&MAGIC)?;
    file.write_all(&[0; 4])?;
    let mut out = zstd::Encoder::new(Summed { file, crc: 0 }, ZSTD_LEVEL)?;
    // What comes while this is written is not in it, or only in part: of each device the number, of each stream how many series it was written with.
    let devices: Vec<(DeviceId, u32)> = {
        let state = shared.read();
        let first = persist::checkpoint(&state.catalogue, &std::collections::BTreeMap::new());
        put(&mut out, Kind::Checkpoint, 0, &first)?;
        let devices = state.catalogue.devices.iter();
        devices
            .map(|(id, device)| (id.clone(), device.number))
            .collect()
    };
    let mut written = HashMap::new();
    for kind in [Kind::Devices, Kind::About, Kind::Stream, Kind::Latest] {
        for device in &devices {
            for (number, record) in records(&shared.read().catalogue, device, kind, &mut written) {
                put(&mut out, kind, number, &record)?;
            }
        }
    }
    let Summed { mut file, crc } = out.finish()?;
    file.seek(SeekFrom::Start(MAGIC.len() as u64))?;
    file.write_all(&crc.to_le_bytes())?;
    file.sync_all()
}

fn records(
    catalogue: &Catalogue,
    (id, number): &(DeviceId, u32),
    kind: Kind,
    written: &mut HashMap<u32, usize>,
) -> Vec<(u32, Vec<u8>)> {
    let number = *number;
    let device = catalogue.devices.get(id);
    let Some(device) = device.filter(|device| device.number == number) else {
        return Vec::new(); // forgotten meanwhile
    };
    match kind {
        Kind::Devices => vec![(number, persist::devices(std::iter::once((id, device))))],
        Kind::About => device
            .about
            .iter()
            .map(|about| (number, persist::about(about)))
            .collect(),
        Kind::Stream => {
            let record = |stream: &Stream| {
                written.insert(stream.number, stream.series.len());
                (stream.number, persist::stream(number, stream))
            };
            device.streams.iter().map(record).collect()
        }
        Kind::Latest => {
            let series = |stream: &Stream| written.get(&stream.number).copied().unwrap_or(0);
            let streams = device.streams.iter();
            let record = persist::latest(streams.map(|stream| (stream, series(stream))));
            vec![(number, record)]
        }
        Kind::Checkpoint | Kind::Intent => Vec::new(),
    }
}

fn put(out: &mut impl Write, kind: Kind, number: u32, record: &[u8]) -> std::io::Result<()> {
    let mut head = vec![kind as u8];
    put_u64(&mut head, number.into());
    put_bytes(&mut head, record);
    out.write_all(&head)
}

/// Reads the catalogue back; `None` if there is no such file.
///
/// # Errors
/// [`StoreError`] naming the file: it is damaged, or can not be read.
pub(super) fn read(dir: &Path) -> Result<Option<Catalogue>, StoreError> {
    let path = path(dir);
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(failed(&path))?,
    };
    match restore(&bytes) {
        Ok(catalogue) => Ok(Some(catalogue)),
        Err(malformed) => Err(StoreError::Database {
            path,
            detail: malformed.to_string(),
        }),
    }
}

fn restore(bytes: &[u8]) -> Result<Catalogue, Malformed> {
    let mut from = Cursor(bytes);
    if from.array()? != MAGIC {
        return Err(Malformed("a version that this release does not know"));
    }
    if u32::from_le_bytes(from.array()?) != crc32c::crc32c(from.0) {
        return Err(Malformed("the checksum does not fit"));
    }
    let body = zstd::decode_all(from.0).map_err(|_| Malformed("zstd does not unpack it"))?;
    let mut body = Cursor(&body);
    let mut restore = Restore::default();
    while !body.0.is_empty() {
        let kind = Kind::of(body.u8()?).ok_or(Malformed("a kind of record that is not known"))?;
        let number = body.u32()?;
        restore.record(Id { kind, number }, body.bytes()?)?;
    }
    let (mut catalogue, _) = restore.finish()?;
    for device in catalogue.devices.values_mut() {
        // None of it is in the database.
        device.touched = true;
        device.about_touched = device.about.is_some();
        for stream in &mut device.streams {
            stream.persisted = 0;
        }
    }
    Ok(catalogue)
}

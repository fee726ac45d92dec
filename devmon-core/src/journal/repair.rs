//! What a segment's bytes hold, good and bad; and putting a readable segment in the place of a damaged one.

use std::path::{Path, PathBuf};

use super::segment::{self, HEADER_BYTES, Header};
use super::{JournalError, Position, disk};

/// How far behind bad bytes a start looks for a good record: past any message that a collector takes (2 MiB), with room.
pub(super) const SEARCH_BYTES: u64 = 4 << 20;

/// What a segment's file holds.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) header: bool,
    /// Length up to the end of the last good record.
    pub(super) intact: u64,
    /// Bad bytes with good records behind them: from, to.
    pub(super) holes: Vec<(u64, u64)>,
    pub(super) records: u64,
    /// Bytes in holes that an earlier repair made.
    pub(super) given_up: u64,
}

/// Looks at every byte and hands over every good record; behind bad bytes, a good one is looked for as far as `search`.
pub(super) fn examine(
    bytes: &[u8],
    path: &Path,
    number: u64,
    search: u64,
    each: &mut dyn FnMut(Position, &[u8]),
) -> Result<Found, JournalError> {
    let header = match segment::check_header(bytes, number) {
        Header::Good => true,
        Header::Bad => false,
        Header::UnknownVersion(version) => {
            return Err(JournalError::Version {
                path: path.to_owned(),
                version,
            });
        }
    };
    let mut found = Found {
        header,
        intact: HEADER_BYTES,
        holes: Vec::new(),
        records: 0,
        given_up: 0,
    };
    while let Some((offset, entry)) = next_good(bytes, number, found.intact, search) {
        if offset > found.intact {
            found.holes.push((found.intact, offset));
        }
        found.intact = offset + entry.size();
        if entry.is_hole {
            found.given_up += entry.size();
        } else {
            found.records += 1;
            each(
                Position {
                    segment: number,
                    offset,
                },
                entry.payload,
            );
        }
    }
    Ok(found)
}

/// The first good record at or behind `from`.
fn next_good(
    bytes: &[u8],
    number: u64,
    from: u64,
    search: u64,
) -> Option<(u64, segment::Entry<'_>)> {
    // A hole is never shorter than a record's header, so nothing is looked for closer than that.
    let shortest = segment::RECORD_HEADER_BYTES as u64;
    for at in std::iter::once(from).chain(from + shortest..=from.saturating_add(search)) {
        let rest = bytes.get(usize::try_from(at).ok()?..)?;
        if rest.is_empty() {
            return None;
        }
        if let Ok(entry) = segment::decode(rest, number, at) {
            return Some((at, entry));
        }
    }
    None
}

/// Keeps the file as it is under another name beside it, `*.damaged`, also when its own name gets another content.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, JournalError> {
    let mut aside = path.with_extension("dmj.damaged");
    let mut n = 1;
    while aside.exists() {
        n += 1;
        aside = path.with_extension(format!("dmj.damaged-{n}"));
    }
    // A link takes no space, which may be short; not every file system has them.
    std::fs::hard_link(path, &aside)
        .or_else(|_| {
            std::fs::copy(path, &aside)?;
            std::fs::File::open(&aside)?.sync_all()
        })
        .map_err(JournalError::io(&aside, "set aside"))?;
    Ok(aside)
}

/// Puts in the place of the damaged segment, at one stroke, the same with its header right and its bad bytes marked as holes. The caller syncs the directory.
pub(super) fn mend(
    path: &Path,
    number: u64,
    mut bytes: Vec<u8>,
    found: &Found,
) -> Result<(), JournalError> {
    bytes.truncate(usize::try_from(found.intact).unwrap_or(usize::MAX));
    bytes.resize(bytes.len().max(HEADER_BYTES as usize), 0);
    bytes.splice(..HEADER_BYTES as usize, segment::header(number));
    for &(from, to) in &found.holes {
        if let Some(hole) = bytes.get_mut(from as usize..to as usize) {
            segment::make_hole(hole, number, from);
        }
    }
    let fresh = path.with_extension("dmj.new");
    let write = || -> std::io::Result<()> {
        let file = disk::create(&fresh)?;
        disk::write_at(&file, &bytes, 0)?;
        // Its age is that of its records.
        if let Ok(written) = std::fs::metadata(path).and_then(|meta| meta.modified()) {
            file.set_modified(written)?;
        }
        disk::sync_all(&file)?;
        disk::rename(&fresh, path)
    };
    write().map_err(JournalError::io(&fresh, "write"))
}

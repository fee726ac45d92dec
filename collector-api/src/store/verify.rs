//! Verifying a store at rest: every checksum, and every reference from one part to another. What it finds is told as it is found; nothing is changed ([`look`]
//! says what sled does).
//!
//! | part | is looked at |
//! |---|---|
//! | journal | each segment's header, each record's checksum, and whether its message can be decoded; whether it begins where the watermark asks for |
//! | catalogue | each record: checksum, form, device and stream that it names |
//! | blocks | each: checksum, all columns, times within its hour, stream and series in the catalogue, hour in the list by which reads find it |
//! | archive | each day file: every checksum, every column decoded; its streams in the catalogue |
//! | dead letters | each segment and record |

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use devmon_core::journal::{Checker, Position};
use devmon_core::wire::TimestampMs;

use super::archive::DayFile;
use super::block::{self, Block};
use super::days::{self, DAY_HOURS, Named};
use super::engine::StoreError;
use super::head::hour_of;
use super::kv::Kv;
use super::{dead_letters, look, open, record};

/// How verifying goes.
pub trait Watch {
    /// A part begins; `total` steps will be done, about.
    fn part(&mut self, name: &'static str, total: u64);
    fn done(&mut self, steps: u64);
    /// Something is wrong at a place.
    fn fault(&mut self, place: &str, what: &str);
    /// Something is worth knowing and no fault.
    fn note(&mut self, text: &str);
}

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    pub journal_segments: u64,
    pub journal_records: u64,
    pub devices: u64,
    pub series: u64,
    pub blocks: u64,
    /// In blocks.
    pub samples: u64,
    pub day_files: u64,
    /// In day files, or that their rollups stand for.
    pub archived_samples: u64,
    pub dead_letters: u64,
    pub faults: u64,
}

/// Counts faults on their way.
struct Finder<'a> {
    watch: &'a mut dyn Watch,
    verified: Verified,
}

impl Finder<'_> {
    fn fault(&mut self, place: &str, what: &dyn std::fmt::Display) {
        self.verified.faults += 1;
        self.watch.fault(place, &what.to_string());
    }
}

/// Looks at all of the store in `dir`.
///
/// # Errors
/// [`StoreError`]: it can not be looked at at all: there is none, or a collector runs on it. Damage is no error but a fault, told to `watch`.
pub fn verify(dir: &Path, watch: &mut dyn Watch) -> Result<Verified, StoreError> {
    let journal = look::hold(dir)?;
    let mut finder = Finder {
        watch,
        verified: Verified::default(),
    };
    if let Some(text) = open::degraded(dir, Vec::new())? {
        finder.watch.note(&text);
    }
    let mut count = 0;
    let segments = verify_journal(
        &journal,
        "journal",
        &mut finder,
        &mut |finder, place, bytes| {
            count += 1;
            if let Err(error) = record::decode(bytes) {
                finder.fault(&place_of("journal", place), &error);
            }
        },
    )?;
    finder.verified.journal_segments = segments;
    finder.verified.journal_records = count;

    let mut archive = None;
    match look::database(dir) {
        Ok(None) => finder.watch.note("there is no database yet"),
        Ok(Some(kv)) => archive = verify_database(&kv, &journal, &mut finder),
        Err(error) => finder.fault("db", &error),
    }
    verify_archive(dir, archive.as_ref(), &mut finder)?;

    let letters = dir.join("dead-letters");
    if letters.is_dir() {
        let letters = Checker::open(&letters)?;
        let mut count = 0;
        verify_journal(
            &letters,
            "dead-letters",
            &mut finder,
            &mut |finder, place, bytes| {
                count += 1;
                if let Err(error) = dead_letters::decode(bytes) {
                    finder.fault(&place_of("dead-letters", place), &error);
                }
            },
        )?;
        finder.verified.dead_letters = count;
    }
    Ok(finder.verified)
}

fn place_of(folder: &str, position: Position) -> String {
    let Position { segment, offset } = position;
    format!("{folder}/{segment:020}.dmj, byte {offset}")
}

type EachRecord<'a> = &'a mut dyn FnMut(&mut Finder<'_>, Position, &[u8]);

/// Looks at the segments of a journal and returns their number.
fn verify_journal(
    journal: &Checker,
    name: &'static str,
    finder: &mut Finder<'_>,
    each: EachRecord<'_>,
) -> Result<u64, StoreError> {
    finder.watch.part(name, journal.size_bytes()?);
    for &number in journal.segments() {
        let at = |offset| {
            place_of(
                name,
                Position {
                    segment: number,
                    offset,
                },
            )
        };
        let report = match journal.check(number, &mut |place, bytes| each(finder, place, bytes)) {
            Ok(report) => report,
            Err(error) => {
                finder.fault(&at(0), &error);
                continue;
            }
        };
        for stretch in &report.damaged {
            let what = format!("{} bytes can not be read", stretch.bytes);
            finder.fault(&at(stretch.offset), &what);
        }
        if report.torn_bytes > 0 {
            let (torn, place) = (report.torn_bytes, at(report.bytes - report.torn_bytes));
            finder.watch.note(&format!(
                "{place}: {torn} bytes of an append that was never committed; the next start cuts them off"
            ));
        }
        if report.given_up_bytes > 0 {
            let (bytes, place) = (report.given_up_bytes, at(0));
            finder.watch.note(&format!(
                "{place}: {bytes} bytes were given up in an earlier repair"
            ));
        }
        finder.watch.done(report.bytes);
    }
    Ok(journal.segments().len() as u64)
}

/// Number of series by stream, as the catalogue has them.
type Streams = HashMap<u32, u32>;

/// What day files have to agree with.
struct Archive {
    days: BTreeMap<u32, Named>,
    streams: Streams,
    purged: BTreeSet<u32>,
}

/// Looks at the database and returns what it says of the archive, if that can be read.
fn verify_database(kv: &dyn Kv, journal: &Checker, finder: &mut Finder<'_>) -> Option<Archive> {
    let known = match look::known(kv) {
        Ok(known) => Some(known),
        Err(error) => {
            finder.fault("db: catalogue", &error);
            finder.watch.note("without the catalogue it is not known which blocks count: only their checksums are looked at");
            None
        }
    };
    let mut series = Streams::new();
    if let Some(known) = &known {
        verify_watermark(known, journal, finder);
        if known.leftovers > 0 {
            let text = format!(
                "{} replaced records wait in the catalogue for the next start to remove them",
                known.leftovers
            );
            finder.watch.note(&text);
        }
        finder.verified.devices = known.catalogue.devices.len() as u64;
        finder.verified.series = known.catalogue.series;
        let devices = known.catalogue.devices.values();
        for stream in devices.flat_map(|device| &device.streams) {
            if series
                .insert(stream.number, stream.series.len() as u32)
                .is_some()
            {
                finder.fault(
                    &format!("db: catalogue, stream {}", stream.number),
                    &"two streams have this number",
                );
            }
        }
    }
    verify_blocks(kv, known.as_ref(), &series, finder);
    known.map(|known| Archive {
        days: known.days,
        streams: series,
        purged: known.purged,
    })
}

/// The journal has to begin at or before the place from which a start replays.
fn verify_watermark(known: &look::Known, journal: &Checker, finder: &mut Finder<'_>) {
    let (Some(watermark), Some(&first)) = (known.watermark, journal.segments().first()) else {
        return;
    };
    let from = watermark.replay_from;
    // All of the segment in which it lies may be sealed and gone; then the next one is the first.
    if from != Position::START && first > from.segment + 1 {
        let what = format!(
            "a start replays from segment {}, and the first that is there is {first}: what lay between is missing",
            from.segment
        );
        finder.fault("journal", &what);
    }
}

fn verify_blocks(
    kv: &dyn Kv,
    known: Option<&look::Known>,
    series: &Streams,
    finder: &mut Finder<'_>,
) {
    let committed = known.map_or(u32::MAX, |k| k.watermark.map_or(0, |w| w.generation));
    let expected = known.map_or(0, |k| k.hours.values().map(|hour| hour.blocks).sum());
    finder.watch.part("blocks", expected);
    let mut by_hour: BTreeMap<u32, u64> = BTreeMap::new();
    let mut unlisted = BTreeSet::new();
    let mut unfinished = 0u64;
    let scanned = look::blocks(kv, &mut |key, value| {
        finder.watch.done(1);
        let place = format!("db: block {}", hex(key));
        let Some(parts) = block::parse_key(key) else {
            finder.fault(&place, &"its key is not of our form");
            return ControlFlow::Continue(());
        };
        if parts.generation > committed {
            unfinished += 1;
            return ControlFlow::Continue(());
        }
        finder.verified.blocks += 1;
        *by_hour.entry(parts.hour).or_default() += 1;
        let block = match Block::decode(key, value, &|_| true) {
            Ok(block) => block,
            Err(error) => {
                finder.fault(&place, &error);
                return ControlFlow::Continue(());
            }
        };
        let known_series = series.get(&parts.stream).copied();
        let (mut samples, mut astray, mut highest) = (0u64, 0u64, 0u32);
        block.columns(&mut |number, ts, _| {
            samples += ts.len() as u64;
            highest = highest.max(number);
            let outside = ts
                .iter()
                .filter(|ts| hour_of(TimestampMs(**ts)) != parts.hour);
            astray += outside.count() as u64;
        });
        finder.verified.samples += samples;
        if astray > 0 {
            finder.fault(&place, &format!("{astray} samples lie outside its hour"));
        }
        if let Some(known) = known {
            match known_series {
                None if known.purged.contains(&parts.stream) => {}
                None => finder.fault(
                    &place,
                    &format!("the catalogue has no stream {}", parts.stream),
                ),
                Some(count) if highest >= count => finder.fault(
                    &place,
                    &format!(
                        "the catalogue has no series {highest} in stream {}",
                        parts.stream
                    ),
                ),
                Some(_) => {}
            }
            if !known.hours.contains_key(&parts.hour) && unlisted.insert(parts.hour) {
                let what = "its hour is not in the catalogue: no read finds it";
                finder.fault(&place, &what);
            }
        }
        ControlFlow::Continue(())
    });
    if let Err(error) = scanned {
        finder.fault("db: blocks", &error);
    }
    if unfinished > 0 {
        finder.watch.note(&format!(
            "{unfinished} blocks of a seal that was not finished; the journal has what is in them, and the next start removes them"
        ));
    }
    // A day's file stands for its blocks, and their hours are counted anew at each start.
    let archived = |hour: u32| known.is_some_and(|k| k.days.contains_key(&(hour / DAY_HOURS)));
    let listed = known.iter().flat_map(|k| &k.hours);
    for (hour, listed) in listed.filter(|(hour, _)| !archived(**hour)) {
        let found = by_hour.get(hour).copied().unwrap_or(0);
        if found < listed.blocks {
            // Retention may have been at work when the collector ended, so this is no proof of a loss.
            finder.watch.note(&format!(
                "hour {hour}: {found} of {} blocks are there; retention removed the others, or they are lost",
                listed.blocks
            ));
        }
    }
}

/// `known`: what the database says of day files and streams, if it could be read. Files that it does not name do not count, and go at the next start.
fn verify_archive(
    dir: &Path,
    known: Option<&Archive>,
    finder: &mut Finder<'_>,
) -> Result<(), StoreError> {
    let folder = days::folder(dir);
    if !folder.is_dir() {
        return Ok(());
    }
    let mut found: Vec<PathBuf> = days::files(&folder)?;
    found.retain(|path| days::is_day_file(path));
    found.sort();
    let mut counted = found.clone();
    if let Some(known) = known {
        let named = known.days.iter();
        counted = named
            .map(|(day, named)| days::path(dir, *day, named.revision))
            .collect();
        let others = found.iter().filter(|path| !counted.contains(path)).count();
        if others > 0 {
            finder.watch.note(&format!(
                "archive: {others} files that do not count; the next start removes them"
            ));
        }
    }
    let bytes = |path: &PathBuf| path.metadata().map_or(0, |meta| meta.len());
    finder
        .watch
        .part("archive", counted.iter().map(bytes).sum());
    for path in counted {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let place = format!("archive/{name}");
        if let Err(error) = verify_day_file(&path, &place, known, finder) {
            finder.fault(&place, &error);
        }
        finder.watch.done(bytes(&path));
    }
    Ok(())
}

fn verify_day_file(
    path: &Path,
    place: &str,
    known: Option<&Archive>,
    finder: &mut Finder<'_>,
) -> Result<(), StoreError> {
    let file = DayFile::open(path)?;
    finder.verified.day_files += 1;
    finder.verified.archived_samples += file.figures().samples;
    file.verify()?;
    let Some(known) = known else { return Ok(()) };
    let unknown = file
        .streams()?
        .into_iter()
        .filter(|s| !known.streams.contains_key(s) && !known.purged.contains(s))
        .count();
    if unknown > 0 {
        finder.fault(
            place,
            &format!("the catalogue does not have {unknown} of its streams"),
        );
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use devmon_core::wire::FlatMessage;

    use super::*;
    use crate::store::archive::{Holds, Writer};
    use crate::store::block::{Table, TableColumn};
    use crate::store::engine::{Accepted, Content, Store as _};
    use crate::store::{Cells, Engine, Options};

    /// Keeps what it is told.
    #[derive(Default)]
    struct Told {
        faults: Vec<String>,
        notes: Vec<String>,
    }

    impl Watch for Told {
        fn part(&mut self, _: &'static str, _: u64) {}
        fn done(&mut self, _: u64) {}
        fn fault(&mut self, place: &str, what: &str) {
            self.faults.push(format!("{place}: {what}"));
        }
        fn note(&mut self, text: &str) {
            self.notes.push(text.to_owned());
        }
    }

    fn told(dir: &Path) -> (Verified, Told) {
        let mut told = Told::default();
        let verified = verify(dir, &mut told).unwrap();
        assert_eq!(verified.faults, told.faults.len() as u64);
        (verified, told)
    }

    /// One device with one series: three samples of now in a block, and three of two days ago in a day file, whose path is returned.
    fn store(dir: &Path) -> PathBuf {
        let store = Engine::open(dir, Options::default()).unwrap();
        let now = TimestampMs::now();
        let old = TimestampMs(now.0 - 2 * days::DAY_MS);
        let day = days::start_of(days::day_of(old)).0;
        for ts in (0..3).flat_map(|n| [now.0 - n, day + n]) {
            let payload = format!("{{\"ts\":{ts},\"metrics\":{{\"cpu\":{{\"n\":{ts}}}}}}}");
            let message = FlatMessage::decode(payload.as_bytes()).unwrap();
            let item = Accepted {
                device: "d".parse().unwrap(),
                received: now,
                payload: payload.into(),
                content: Content::Metrics {
                    id: None,
                    frames: message.frames,
                },
            };
            store.commit(&[item]).unwrap();
        }
        store
            .compact_before(TimestampMs(now.0 - days::DAY_MS))
            .unwrap();
        days::path(dir, days::day_of(old), 1)
    }

    #[test]
    fn day_files_are_verified_byte_by_byte_and_against_the_catalogue() {
        let dir = tempfile::tempdir().unwrap();
        let path = store(dir.path());
        let name = format!("archive/{}", path.file_name().unwrap().to_str().unwrap());
        let (verified, clean) = told(dir.path());
        assert_eq!(clean.faults, [""; 0]);
        assert_eq!(clean.notes, [""; 0]);
        assert!(
            verified.samples <= 3,
            "one at midnight goes to its day's file"
        );
        assert_eq!((verified.day_files, verified.archived_samples), (1, 3));
        let bytes = std::fs::read(&path).unwrap();
        for at in (0..bytes.len()).step_by(bytes.len() / 9) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x20;
            std::fs::write(&path, changed).unwrap();
            let (_, found) = told(dir.path());
            assert_eq!(found.faults.len(), 1, "byte {at}");
            assert!(found.faults[0].starts_with(&name), "{:?}", found.faults);
        }
        std::fs::write(&path, bytes).unwrap();
        let other = path.with_file_name("2020-01-01.7.dma");
        std::fs::copy(&path, &other).unwrap();
        let (_, found) = told(dir.path());
        assert_eq!(found.faults, [""; 0]);
        assert!(
            found.notes[0].contains("1 files that do not count"),
            "{:?}",
            found.notes
        );
        std::fs::remove_file(&other).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (_, found) = told(dir.path());
        assert_eq!(found.faults.len(), 1);
        assert!(found.faults[0].starts_with(&name), "{:?}", found.faults);
    }

    #[test]
    fn a_day_file_with_a_stream_that_nobody_knows_is_a_fault() {
        let dir = tempfile::tempdir().unwrap();
        let path = store(dir.path());
        std::fs::remove_file(&path).unwrap();
        let day = days::day_of(TimestampMs::now()) - 2;
        let table = Table {
            ts: vec![days::start_of(day).0],
            columns: vec![TableColumn {
                series: 0,
                rows: vec![0],
                cells: Cells::Float(vec![0.5]),
            }],
        };
        let mut writer = Writer::create(&path, day, Holds::Raw).unwrap();
        writer.raw(7, &table).unwrap();
        writer.finish().unwrap();
        let (_, found) = told(dir.path());
        assert_eq!(found.faults.len(), 1);
        let said = "does not have 1 of its streams";
        assert!(found.faults[0].contains(said), "{:?}", found.faults);
    }

    #[test]
    fn a_database_that_does_not_open_is_a_fault_and_stays_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path());
        let log = dir.path().join("db/db");
        let length = std::fs::metadata(&log).unwrap().len() as usize;
        std::fs::write(&log, vec![0x5a; length]).unwrap();
        let conf = dir.path().join("db/conf");
        std::fs::write(&conf, b"nothing of sled's").unwrap();
        let (_, found) = told(dir.path());
        assert!(found.faults[0].starts_with("db: "), "{:?}", found.faults);
        assert!(found.notes.is_empty(), "{:?}", found.notes);
        assert_eq!(std::fs::read(&log).unwrap(), vec![0x5a; length]);
    }
}

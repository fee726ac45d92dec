//! Verifying a store at rest: every checksum, and every reference from one part to another. What it finds is told as it is found; nothing is changed ([`look`]
//! says what sled does).
//!
//! | part | is looked at |
//! |---|---|
//! | journal | each segment's header, each record's checksum, and whether its message can be decoded; whether it begins where the watermark asks for |
//! | catalogue | each record: checksum, form, device and stream that it names |
//! | blocks | each: checksum, all columns, times within its hour, stream and series in the catalogue, hour in the list by which reads find it |
//! | dead letters | each segment and record |

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::Path;

use devmon_core::journal::{Checker, Position};
use devmon_core::wire::TimestampMs;

use super::block::{self, Block};
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

    match look::database(dir) {
        Ok(None) => finder.watch.note("there is no database yet"),
        Ok(Some(kv)) => verify_database(&kv, &journal, &mut finder),
        Err(error) => finder.fault("db", &error),
    }

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

fn verify_database(kv: &dyn Kv, journal: &Checker, finder: &mut Finder<'_>) {
    let known = match look::known(kv) {
        Ok(known) => Some(known),
        Err(error) => {
            finder.fault("db: catalogue", &error);
            finder.watch.note("without the catalogue it is not known which blocks count: only their checksums are looked at");
            None
        }
    };
    let mut series = HashMap::new();
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
    series: &HashMap<u32, u32>,
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
    for (hour, listed) in known.iter().flat_map(|k| &k.hours) {
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

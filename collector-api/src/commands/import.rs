//! `import`: what `export` wrote, into a store. Each sample lands at its own time; one that is there already is the same sample still, so importing twice
//! changes nothing.
//!
//! A row is checked as the intake checks a message, and what is wrong ends the import with its line: the rows before it may be stored by then. Rows of one device
//! and time become messages in the short form of the wire, which the journal keeps, as if the device had sent them at that time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use devmon_core::wire::json::TreeJson;
use devmon_core::wire::{DeviceId, FlatMessage, TimestampMs};
use devmon_core::{MetricTree, Node, Value};

use super::progress::{Progress, while_it_works};
use super::rows::{Row, read};
use super::{at, open, print};
use crate::cli::ImportArgs;
use crate::store::engine::{Accepted, Content, Store};

/// Rows that are sorted into messages and committed together.
const BATCH_ROWS: usize = 50_000;
/// What the rows of a message may take as JSON, every byte escaped: below the wire's limit on a payload.
const MESSAGE_BYTES: usize = 200 << 10;
/// How a Parquet file begins; no other form does.
const PARQUET: &[u8] = b"PAR1";
/// As the intake's default: an hour.
const MAX_AHEAD_MS: i64 = 3_600_000;

/// Imports the files that `args` name.
///
/// # Errors
/// A file that can not be read, with the line that is wrong; a store that does not take it.
pub fn run(args: &ImportArgs) -> anyhow::Result<()> {
    let size = |file: &std::path::PathBuf| std::fs::metadata(file).map_or(0, |meta| meta.len());
    let store = open(&args.data_dir)?;
    let mut importer = Importer {
        store: &store,
        dir: &args.data_dir,
        now: TimestampMs::now(),
        waiting: BTreeMap::new(),
        ready: Vec::new(),
        rows: 0,
        imported: 0,
    };
    let mut progress = Progress::new("importing", args.files.iter().map(size).sum());
    for file in &args.files {
        let name = file.display();
        let input: Box<dyn Read> = if file.as_os_str() == "-" {
            Box::new(std::io::stdin().lock())
        } else {
            Box::new(File::open(file).with_context(|| format!("cannot read {name}"))?)
        };
        let counted = Counted(input, &mut progress);
        let mut input = BufReader::with_capacity(1 << 20, counted);
        let is_parquet = input
            .fill_buf()
            .is_ok_and(|front| front.starts_with(PARQUET));
        if is_parquet {
            drop(input);
            parquet(file, &mut importer, &mut progress).with_context(|| name.to_string())?;
            continue;
        }
        read(input, &mut |_, row| importer.row(row)).with_context(|| name.to_string())?;
    }
    importer.commit()?;
    let imported = importer.imported;
    drop(progress);
    let sealed = while_it_works("sealing", || (0, 0), || store.seal_now());
    at(&args.data_dir, sealed)?;
    print(format_args!("{imported} samples"))
}

#[cfg(feature = "parquet")]
fn parquet(
    file: &Path,
    importer: &mut Importer<'_>,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        file.as_os_str() != "-",
        "Parquet is read from its end: name the file"
    );
    progress.set(0, std::fs::metadata(file)?.len());
    super::parquet::read(
        File::open(file)?,
        &mut |_, row| importer.row(row),
        &mut |bytes| {
            progress.add(bytes);
        },
    )
}

#[cfg(not(feature = "parquet"))]
fn parquet(_: &Path, _: &mut Importer<'_>, _: &mut Progress) -> anyhow::Result<()> {
    anyhow::bail!("{}", super::WITHOUT_PARQUET)
}

/// Tells how much was read.
struct Counted<'a>(Box<dyn Read>, &'a mut Progress);

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(into)?;
        self.1.add(n as u64);
        Ok(n)
    }
}

struct Importer<'a> {
    store: &'a dyn Store,
    dir: &'a Path,
    now: TimestampMs,
    /// Messages that may grow, by device and time.
    waiting: BTreeMap<(DeviceId, TimestampMs), Growing>,
    /// Those that are full, in order.
    ready: Vec<Accepted>,
    /// In both.
    rows: usize,
    imported: u64,
}

#[derive(Default)]
struct Growing {
    metrics: MetricTree,
    bytes: usize,
}

impl Importer<'_> {
    fn row(&mut self, row: Row) -> anyhow::Result<()> {
        let Row {
            device,
            path,
            ts,
            value,
        } = row;
        anyhow::ensure!(
            ts.since(self.now) <= MAX_AHEAD_MS,
            "ts {ts} is {} s ahead of this machine's clock",
            ts.since(self.now) / 1000
        );
        let text = if let Value::Text(text) = &value {
            text.len()
        } else {
            0
        };
        let bytes = 6 * (path.as_str().len() + text) + 64;
        let names: Vec<_> = path.segments().collect();
        let place = (device, ts);
        let full = self.waiting.get(&place).is_some_and(|growing| {
            growing.bytes + bytes > MESSAGE_BYTES || !has_room(&growing.metrics, &names)
        });
        if full && let Some((place, growing)) = self.waiting.remove_entry(&place) {
            self.ready.push(message(place, &growing)?);
        }
        let growing = self.waiting.entry(place).or_default();
        growing.bytes += bytes;
        if let Some((leaf, branches)) = names.split_last() {
            let mut at = &mut growing.metrics;
            for name in branches {
                at = at.branch(name.as_ref());
            }
            at.set(leaf.as_ref(), value);
        }
        self.rows += 1;
        if self.rows >= BATCH_ROWS {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        for (place, growing) in std::mem::take(&mut self.waiting) {
            self.ready.push(message(place, &growing)?);
        }
        if !self.ready.is_empty() {
            at(self.dir, self.store.commit(&self.ready))?;
        }
        self.ready.clear();
        self.imported += std::mem::take(&mut self.rows) as u64;
        Ok(())
    }
}

/// Whether a leaf can be put there and nothing has to go for it: a tree has no leaf that is a branch too, and each leaf once.
fn has_room<S: AsRef<str>>(tree: &MetricTree, names: &[S]) -> bool {
    let Some((leaf, branches)) = names.split_last() else {
        return false;
    };
    let mut at = tree;
    for name in branches {
        match at.get(name.as_ref()) {
            None => return true,
            Some(Node::Branch(tree)) => at = tree,
            Some(Node::Leaf(_)) => return false,
        }
    }
    at.get(leaf.as_ref()).is_none()
}

/// Through the wire's own decoder, as a restart will read it from the journal.
fn message((device, ts): (DeviceId, TimestampMs), growing: &Growing) -> anyhow::Result<Accepted> {
    let metrics = serde_json::to_string(&TreeJson(&growing.metrics))?;
    let payload = format!("{{\"ts\":{ts},\"metrics\":{metrics}}}");
    let message = FlatMessage::decode(payload.as_bytes());
    let message = message.map_err(|refusal| anyhow!("device {device} at ts {ts}: {refusal}"))?;
    Ok(Accepted {
        device,
        received: ts,
        payload: payload.into(),
        content: Content::Metrics {
            id: message.id,
            frames: message.frames,
        },
    })
}

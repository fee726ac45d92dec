//! `export`: samples out of a store, as text that `import` reads again.
//!
//! Device by device, within a device by windows of six hours, within a window path by path, by time: one order for one content, whatever is in blocks, heads
//! or archive. Memory is bounded by the samples of a window.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use devmon_core::MetricPath;
use devmon_core::path::is_within;
use devmon_core::wire::{DeviceId, TimestampMs};

use super::progress::Progress;
use super::rows::{CsvWriter, JsonLinesWriter, RowWriter};
use super::{at, open_existing};
use crate::cli::{ExportArgs, ExportFormat};
use crate::store::engine::{SeriesRange, Store, StoreError};

const WINDOW_MS: i64 = 6 * 3_600_000;
/// Paths that are read together, and samples of one read at most; a window with more is read in parts.
const PATHS: usize = 64;
const SAMPLES: usize = 1_000_000;
/// Devices and series that are listed at a time.
const PAGE: usize = 1000;

/// Exports what `args` name.
///
/// # Errors
/// Arguments that say nothing, a store that can not be opened or read, an output that can not be written: then there is none.
pub fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let wanted = Wanted::new(args)?;
    let store = open_existing(&args.data_dir)?;
    let count = match &args.output {
        None => {
            let out = BufWriter::new(std::io::stdout().lock());
            export(
                &store,
                &args.data_dir,
                &wanted,
                &mut *writer(args.format, out)?,
            )?
        }
        Some(path) => {
            let mut file = Replacing::new(path)?;
            let mut out = writer(args.format, BufWriter::new(&mut file.file))?;
            let count = export(&store, &args.data_dir, &wanted, &mut *out)?;
            drop(out);
            file.done()?;
            count
        }
    };
    eprintln!("{count} samples");
    Ok(())
}

fn writer<'a>(
    format: ExportFormat,
    out: impl Write + 'a,
) -> anyhow::Result<Box<dyn RowWriter + 'a>> {
    Ok(match format {
        ExportFormat::Csv => Box::new(CsvWriter::new(out)?),
        ExportFormat::Jsonl => Box::new(JsonLinesWriter(out)),
    })
}

/// What is asked for.
struct Wanted {
    devices: Vec<DeviceId>,
    path: Option<(String, glob::Pattern)>,
    from: TimestampMs,
    to: TimestampMs,
}

impl Wanted {
    fn new(args: &ExportArgs) -> anyhow::Result<Self> {
        let now = TimestampMs::now();
        let time = |name: &str, text: &Option<String>, default: i64| {
            let Some(text) = text else {
                return Ok(TimestampMs(default));
            };
            crate::api::time::parse(text, now).map_err(|e| anyhow!("{name}: {e}"))
        };
        let devices = args
            .device
            .iter()
            .map(|id| id.parse::<DeviceId>().map_err(|e| anyhow!("--device: {e}")));
        let path = args.path.as_ref().map(|text| {
            let pattern = glob::Pattern::new(text);
            let pattern = pattern.map_err(|e| anyhow!("--path: {text:?} is no pattern: {e}"))?;
            anyhow::Ok((text.clone(), pattern))
        });
        Ok(Self {
            devices: devices.collect::<anyhow::Result<_>>()?,
            path: path.transpose()?,
            from: time("--from", &args.from, i64::MIN)?,
            to: time("--to", &args.to, i64::MAX)?,
        })
    }

    /// The pattern matches all of the path, `*` within one of its names and `**` over several; or the path lies below it.
    fn takes(&self, path: &str) -> bool {
        const OPTIONS: glob::MatchOptions = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: false,
        };
        self.path.as_ref().is_none_or(|(text, pattern)| {
            is_within(path, text) || pattern.matches_with(path, OPTIONS)
        })
    }
}

/// A device's part: its paths, and the times between which they have samples.
struct Part {
    device: DeviceId,
    paths: Vec<MetricPath>,
    from: i64,
    to: i64,
}

impl Part {
    fn windows(&self) -> impl Iterator<Item = (i64, i64)> {
        let (from, to) = (self.from, self.to);
        let first = from.div_euclid(WINDOW_MS);
        let last = (to - 1).div_euclid(WINDOW_MS);
        (first..=last).map(move |n| {
            let begin = n.saturating_mul(WINDOW_MS);
            (begin.max(from), begin.saturating_add(WINDOW_MS).min(to))
        })
    }
}

fn export(
    store: &dyn Store,
    dir: &Path,
    wanted: &Wanted,
    out: &mut dyn RowWriter,
) -> anyhow::Result<u64> {
    let devices = devices(store, wanted)?;
    let windows = devices
        .iter()
        .filter_map(|id| part(store, id.clone(), wanted));
    let windows: u64 = windows.map(|part| part.windows().count() as u64).sum();
    let mut progress = Progress::new("exporting", windows);
    let mut count = 0;
    for device in devices {
        let Some(part) = part(store, device, wanted) else {
            continue;
        };
        for (from, to) in part.windows() {
            for paths in part.paths.chunks(PATHS) {
                let mut failed = Ok(());
                let read = window(store, &part.device, paths, (from, to), &mut |series| {
                    if failed.is_ok() {
                        failed = write(&part.device, series, out);
                        count += series.ts.len() as u64;
                    }
                });
                at(dir, read)?;
                failed.context("the output can not be written")?;
            }
            progress.add(1);
        }
    }
    out.finish().context("the output can not be written")?;
    Ok(count)
}

fn devices(store: &dyn Store, wanted: &Wanted) -> anyhow::Result<Vec<DeviceId>> {
    let mut asked = wanted.devices.clone();
    if !asked.is_empty() {
        asked.sort();
        asked.dedup();
        for id in &asked {
            let known = store.device(id.as_str()).is_some();
            anyhow::ensure!(known, "--device: the store knows no device {id}");
        }
        return Ok(asked);
    }
    let mut all: Vec<DeviceId> = Vec::new();
    loop {
        let page = store.devices(all.last().map(DeviceId::as_str), PAGE, &|_| true);
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page.into_iter().map(|device| device.id));
    }
}

fn part(store: &dyn Store, device: DeviceId, wanted: &Wanted) -> Option<Part> {
    let mut part = Part {
        device,
        paths: Vec::new(),
        from: i64::MAX,
        to: i64::MIN,
    };
    let mut after: Option<String> = None;
    loop {
        let page = store.series(part.device.as_str(), "", after.as_deref(), PAGE);
        let Some(last) = page.last() else { break };
        after = Some(last.path.as_str().to_owned());
        for series in page {
            if wanted.takes(series.path.as_str()) {
                part.from = part.from.min(series.first_ts.0);
                part.to = part.to.max(series.last_ts.0.saturating_add(1));
                part.paths.push(series.path);
            }
        }
    }
    part.from = part.from.max(wanted.from.0);
    part.to = part.to.min(wanted.to.0);
    (part.from < part.to).then_some(part)
}

/// Reads a window path by path; in halves where it holds too much for once: the order is the same.
fn window(
    store: &dyn Store,
    device: &DeviceId,
    paths: &[MetricPath],
    (from, to): (i64, i64),
    each: &mut dyn FnMut(&SeriesRange),
) -> Result<(), StoreError> {
    let read = store.range(
        device.as_str(),
        paths,
        TimestampMs(from),
        TimestampMs(to),
        SAMPLES,
    );
    match (read, paths) {
        (Err(StoreError::TooManySamples { .. }), [_, _, ..]) => {
            let (left, right) = paths.split_at(paths.len() / 2);
            window(store, device, left, (from, to), each)?;
            window(store, device, right, (from, to), each)
        }
        (Err(StoreError::TooManySamples { .. }), _) if to - from > 1 => {
            let middle = from + (to - from) / 2;
            window(store, device, paths, (from, middle), each)?;
            window(store, device, paths, (middle, to), each)
        }
        (read, _) => {
            read?.iter().for_each(each);
            Ok(())
        }
    }
}

fn write(device: &DeviceId, series: &SeriesRange, out: &mut dyn RowWriter) -> anyhow::Result<()> {
    for (i, ts) in series.ts.iter().enumerate() {
        out.row(device, &series.path, *ts, &series.values.get(i))?;
    }
    Ok(())
}

/// A file that takes its name only once it is whole.
struct Replacing {
    file: File,
    fresh: PathBuf,
    path: PathBuf,
    done: bool,
}

impl Replacing {
    fn new(path: &Path) -> anyhow::Result<Self> {
        let mut name = path
            .file_name()
            .context("--output names no file")?
            .to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let fresh = path.with_file_name(name);
        let file = File::create(&fresh);
        let file = file.with_context(|| format!("cannot write {}", fresh.display()))?;
        Ok(Self {
            file,
            fresh,
            path: path.to_owned(),
            done: false,
        })
    }

    fn done(mut self) -> anyhow::Result<()> {
        let renamed = self
            .file
            .sync_all()
            .and_then(|()| std::fs::rename(&self.fresh, &self.path));
        renamed.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Replacing {
    fn drop(&mut self) {
        if !self.done {
            let removed = std::fs::remove_file(&self.fresh);
            drop(removed);
        }
    }
}

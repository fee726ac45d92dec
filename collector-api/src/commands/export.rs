//! `export`: samples out of a store, in forms that `import` reads again; or its rollups, as text for other tools.
//!
//! Device by device, within a device by windows of six hours, within a window path by path, by time: one order for one content, whatever is in blocks, heads
//! or archive. Memory is bounded by the samples of a window. Where the archive keeps rollups only, there are no samples to export: that is said, and
//! `--tier` exports those.

use std::io::{BufWriter, IsTerminal as _, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context as _, anyhow};
use devmon_core::MetricPath;
use devmon_core::path::is_within;
use devmon_core::wire::{DeviceId, TimestampMs};

use super::output::{Interrupt, Replacing, Standard};
use super::progress::Progress;
use super::rollup_rows::{CsvRollups, JsonLinesRollups, RollupWriter};
use super::rows::{CsvWriter, JsonLinesWriter, RowWriter};
use super::{at, open_existing};
use crate::cli::{ExportArgs, ExportFormat, ExportTier};
use crate::store::Engine;
use crate::store::engine::{SeriesRange, Store, StoreError};
use crate::store::rollup::Tier;

const WINDOW_MS: i64 = 6 * 3_600_000;
/// Paths that are read together, and samples of one read at most; a window with more is read in parts.
const PATHS: usize = 64;
const SAMPLES: usize = 1_000_000;
/// Devices and series that are listed at a time.
const PAGE: usize = 1000;

/// Exports what `args` name.
///
/// # Errors
/// Arguments that say nothing, a store that can not be opened or read, an output that can not be written, a signal: then there is none. A store of which a part is
/// missing: then what is there was exported.
pub fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let wanted = Wanted::new(args)?;
    anyhow::ensure!(
        args.format != ExportFormat::Parquet
            || args.output.is_some()
            || !std::io::stdout().is_terminal(),
        "--format: Parquet is nothing for a terminal; name a file with --output"
    );
    let interrupt = Interrupt::watch()?;
    let store = open_existing(&args.data_dir)?;
    if args.tier == ExportTier::Raw {
        tell_what_is_gone(&store, &wanted);
    }
    let mut count = 0;
    let mut export = |out: &mut dyn Sink| {
        let exported = Exporter {
            store: &store,
            dir: &args.data_dir,
            wanted: &wanted,
            interrupt: &interrupt,
        };
        count = exported.run(out)?;
        out.finish().context("the output can not be written")
    };
    match args
        .output
        .as_deref()
        .filter(|path| *path != Path::new("-"))
    {
        None => {
            let closed = Arc::new(AtomicBool::new(false));
            let out = Standard {
                closed: closed.clone(),
            };
            let exported = writer(args, out).and_then(|mut out| export(&mut *out));
            if closed.load(Relaxed) {
                return Ok(()); // who read it has enough
            }
            exported?;
        }
        Some(path) => {
            let file = Replacing::new(path)?;
            writer(args, &file.file)
                .and_then(|mut out| export(&mut *out))
                .with_context(|| path.display().to_string())?;
            interrupt.check()?;
            file.done()?;
        }
    }
    let what = match args.tier {
        ExportTier::Raw => "samples",
        ExportTier::Minute => "minutes",
        ExportTier::Hour => "hours",
    };
    eprintln!("{count} {what}");
    if let Some(missing) = store.status().degraded {
        anyhow::bail!("all that can be read was exported, but not all that was stored: {missing}");
    }
    Ok(())
}

/// Some of what is asked for may be kept as rollups only, and would silently be missing.
fn tell_what_is_gone(store: &dyn Store, wanted: &Wanted) {
    let (samples, minutes) = (store.kept_from(Tier::Raw), store.kept_from(Tier::Minute));
    if samples <= wanted.from || samples.0 == i64::MIN {
        return;
    }
    let day = |time: TimestampMs| crate::api::time::format(time.0);
    let from = match minutes.0 {
        i64::MIN => String::new(),
        _ => format!(" from {} on", day(minutes)),
    };
    eprintln!(
        "note: samples from before {} are gone; their minutes{from} can be exported with --tier 1m, their hours with --tier 1h",
        day(samples)
    );
}

fn writer<'a>(
    args: &ExportArgs,
    out: impl Write + Send + 'a,
) -> anyhow::Result<Box<dyn Sink + 'a>> {
    let out = BufWriter::with_capacity(1 << 16, out);
    let tier = match args.tier {
        ExportTier::Raw => Tier::Raw,
        ExportTier::Minute => Tier::Minute,
        ExportTier::Hour => Tier::Hour,
    };
    Ok(match (tier, args.format) {
        (Tier::Raw, ExportFormat::Csv) => Box::new(Samples(CsvWriter::new(out)?)),
        (Tier::Raw, ExportFormat::Jsonl) => Box::new(Samples(JsonLinesWriter(out))),
        #[cfg(feature = "parquet")]
        (Tier::Raw, ExportFormat::Parquet) => {
            Box::new(Samples(super::parquet::ParquetWriter::new(out)?))
        }
        #[cfg(not(feature = "parquet"))]
        (Tier::Raw, ExportFormat::Parquet) => anyhow::bail!("{}", super::WITHOUT_PARQUET),
        (_, ExportFormat::Csv) => Box::new(Rollups(tier, CsvRollups::new(out)?)),
        (_, ExportFormat::Jsonl) => Box::new(Rollups(tier, JsonLinesRollups(out))),
        (_, ExportFormat::Parquet) => {
            anyhow::bail!("--tier: rollups are written as csv or jsonl, not as parquet")
        }
    })
}

/// Takes a window of some paths of a device, and writes what it reads there.
trait Sink {
    /// Returns the number of rows.
    fn window(
        &mut self,
        store: &dyn Store,
        device: &DeviceId,
        paths: &[MetricPath],
        window: (i64, i64),
    ) -> Result<u64, Failed>;

    fn finish(&mut self) -> anyhow::Result<()>;
}

/// What failed of a window.
enum Failed {
    Reading(StoreError),
    Writing(anyhow::Error),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Reading(error)
    }
}

struct Samples<W>(W);

impl<W: RowWriter> Sink for Samples<W> {
    fn window(
        &mut self,
        store: &dyn Store,
        device: &DeviceId,
        paths: &[MetricPath],
        (from, to): (i64, i64),
    ) -> Result<u64, Failed> {
        let (from, to) = (TimestampMs(from), TimestampMs(to));
        let mut rows = 0;
        for series in store.range(device.as_str(), paths, from, to, SAMPLES)? {
            self.write(device, &series).map_err(Failed::Writing)?;
            rows += series.len() as u64;
        }
        Ok(rows)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        self.0.finish()
    }
}

impl<W: RowWriter> Samples<W> {
    fn write(&mut self, device: &DeviceId, series: &SeriesRange) -> anyhow::Result<()> {
        for (i, ts) in series.ts.iter().enumerate() {
            self.0
                .row(device, &series.path, *ts, &series.values.get(i))?;
        }
        Ok(())
    }
}

struct Rollups<W>(Tier, W);

impl<W: RollupWriter> Sink for Rollups<W> {
    fn window(
        &mut self,
        store: &dyn Store,
        device: &DeviceId,
        paths: &[MetricPath],
        (from, to): (i64, i64),
    ) -> Result<u64, Failed> {
        let (from, to) = (TimestampMs(from), TimestampMs(to));
        let mut rows = 0;
        for series in store.rollups(device.as_str(), paths, self.0, from, to, SAMPLES)? {
            for rollup in &series.rollups {
                let written = self.1.row(device, &series.path, rollup);
                written.map_err(Failed::Writing)?;
            }
            rows += series.rollups.len() as u64;
        }
        Ok(rows)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        self.1.finish()
    }
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

/// What an export works with.
struct Exporter<'a> {
    store: &'a Engine,
    dir: &'a Path,
    wanted: &'a Wanted,
    interrupt: &'a Interrupt,
}

impl Exporter<'_> {
    /// Returns the number of rows.
    fn run(&self, out: &mut dyn Sink) -> anyhow::Result<u64> {
        let devices = devices(self.store, self.wanted)?;
        let windows = devices
            .iter()
            .filter_map(|id| part(self.store, id.clone(), self.wanted));
        let windows: u64 = windows.map(|part| part.windows().count() as u64).sum();
        let mut progress = Progress::new("exporting", windows);
        let mut count = 0;
        for device in devices {
            let Some(part) = part(self.store, device, self.wanted) else {
                continue;
            };
            for window in part.windows() {
                self.interrupt.check()?;
                for paths in part.paths.chunks(PATHS) {
                    count += self.window(&part.device, paths, window, out)?;
                }
                progress.add(1);
            }
        }
        Ok(count)
    }

    /// Exports a window path by path; in halves where it holds too much for once: the order is the same.
    fn window(
        &self,
        device: &DeviceId,
        paths: &[MetricPath],
        (from, to): (i64, i64),
        out: &mut dyn Sink,
    ) -> anyhow::Result<u64> {
        let written = out.window(self.store, device, paths, (from, to));
        match (written, paths) {
            (Ok(rows), _) => Ok(rows),
            (Err(Failed::Reading(StoreError::TooManySamples { .. })), [_, _, ..]) => {
                let (left, right) = paths.split_at(paths.len() / 2);
                let rows = self.window(device, left, (from, to), out)?;
                Ok(rows + self.window(device, right, (from, to), out)?)
            }
            (Err(Failed::Reading(StoreError::TooManySamples { .. })), _) if to - from > 1 => {
                let middle = from + (to - from) / 2;
                let rows = self.window(device, paths, (from, middle), out)?;
                Ok(rows + self.window(device, paths, (middle, to), out)?)
            }
            (Err(Failed::Reading(error)), _) => at(self.dir, Err(error)),
            (Err(Failed::Writing(error)), _) => Err(error.context("the output can not be written")),
        }
    }
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

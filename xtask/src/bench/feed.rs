//! What is fed to the servers, written to disk before any clock starts, so that a generator costs as little as it can while a server is measured.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use anyhow::Context;

use super::http::Client;
use super::set::Set;
use super::stop;

/// Samples of one HTTP request: some 300–800 KiB, a thousand lines of fifty fields. Larger ones gain neither peer anything.
const BATCH_SAMPLES: usize = 50_000;
/// Connections that feed a server at once: one for each of the reference machine's two cores.
const CONNECTIONS: usize = 2;

/// Requests for `/write` of both peers, one behind the other in a file.
pub(super) struct Lines {
    file: File,
    /// Begin and length of each.
    batches: Vec<(u64, usize)>,
}

impl Lines {
    /// Tick by tick, all devices, as live data comes.
    pub(super) fn write(set: &Set, dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(format!("{}.lines", set.name));
        let mut out = BufWriter::new(File::create(&path).with_context(|| shown(&path))?);
        let per_tick = set.series().max(1);
        let (mut batches, mut batch, mut at, mut samples) = (Vec::new(), Vec::new(), 0, 0);
        for tick in 0..set.times.len() {
            stop::check()?;
            for device in &set.devices {
                set.lines(device, tick, &mut batch);
            }
            samples += per_tick;
            if samples + per_tick > BATCH_SAMPLES || tick + 1 == set.times.len() {
                out.write_all(&batch)?;
                batches.push((at, batch.len()));
                at += batch.len() as u64;
                batch.clear();
                samples = 0;
            }
        }
        out.flush()?;
        Ok(Self {
            file: File::open(&path)?,
            batches,
        })
    }

    /// Posts all of it to `base` + `path`. Returns the seconds from the first request to the last answer.
    pub(super) fn post(&self, base: &str, path: &str) -> anyhow::Result<f64> {
        let next = AtomicUsize::new(0);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let sender = || -> anyhow::Result<()> {
                let client = Client::new(base);
                let mut body = Vec::new();
                while let Some((at, length)) = self.batches.get(next.fetch_add(1, Relaxed)) {
                    stop::check()?;
                    body.resize(*length, 0);
                    self.file.read_exact_at(&mut body, *at)?;
                    client.post(path, &body)?;
                }
                Ok(())
            };
            let senders: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(sender)).collect();
            senders.into_iter().try_for_each(|s| {
                s.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        Ok(begin.elapsed().as_secs_f64())
    }
}

/// The agents' messages, in the form that `collector-api/examples/intake.rs` reads.
pub(super) struct Messages {
    pub(super) files: Vec<PathBuf>,
    pub(super) count: u64,
    pub(super) bytes: u64,
}

impl Messages {
    /// Devices are dealt out to some files, each a stream of its own; tick by tick in each.
    pub(super) fn write(set: &Set, dir: &Path) -> anyhow::Result<Self> {
        const STREAMS: usize = 8;
        let mut all = Self {
            files: Vec::new(),
            count: 0,
            bytes: 0,
        };
        for stream in 0..STREAMS.min(set.devices.len()) {
            let path = dir.join(format!("{}-{stream}.messages", set.name));
            let mut out = BufWriter::new(File::create(&path).with_context(|| shown(&path))?);
            let mut payload = Vec::new();
            for tick in 0..set.times.len() {
                stop::check()?;
                for device in set.devices.iter().skip(stream).step_by(STREAMS) {
                    payload.clear();
                    set.message(device, tick, &mut payload);
                    let topic = format!("devmon/v1/0/{}/metrics", device.id);
                    out.write_all(&u16::try_from(topic.len())?.to_le_bytes())?;
                    out.write_all(topic.as_bytes())?;
                    out.write_all(&u32::try_from(payload.len())?.to_le_bytes())?;
                    out.write_all(&payload)?;
                    all.count += 1;
                    all.bytes += payload.len() as u64;
                }
            }
            out.flush()?;
            all.files.push(path);
        }
        Ok(all)
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

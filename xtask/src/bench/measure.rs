//! What is measured, what is asked, and whether the answers are right.

use super::http::Latency;
use super::set::{Device, Series, Set};
use super::synthetic::Random;

/// Questions of each kind; the first few warm up.
const QUESTIONS: usize = 520;
const SEED: u64 = 7;

/// What one server did with one set.
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) samples: u64,
    pub(super) intake: Stage,
    /// CPU seconds of the load generator, where that is a process of its own that was looked at.
    pub(super) client_cpu_s: Option<f64>,
    /// Most memory during intake.
    pub(super) peak_bytes: u64,
    /// On disk after an orderly end behind the intake.
    pub(super) intake_bytes: u64,
    /// From there to the smallest that it makes of it.
    pub(super) compaction: Stage,
    pub(super) compacted_bytes: u64,
    /// That, by what lies in its directory.
    pub(super) parts: Vec<(String, u64)>,
    /// From its start, with this data, to its first answer.
    pub(super) ready_ms: f64,
    pub(super) queries: Queries,
    pub(super) checks: Vec<Check>,
}

#[derive(Clone, Copy)]
pub(super) struct Stage {
    pub(super) wall_s: f64,
    pub(super) cpu_s: f64,
}

pub(super) struct Queries {
    pub(super) raw: Latency,
    pub(super) average: Latency,
    pub(super) latest: Latency,
    /// Most memory of the process that answered.
    pub(super) peak_bytes: u64,
}

/// One comparison of what is stored with what was sent.
pub(super) struct Check {
    pub(super) what: String,
    /// `None`: equal.
    pub(super) wrong: Option<String>,
}

impl Check {
    pub(super) fn count(set: &Set, counted: u64) -> Self {
        let sent = set.samples();
        Self {
            what: "number of samples".into(),
            wrong: (counted != sent).then(|| format!("{counted} stored, {sent} sent")),
        }
    }
}

/// Compares a series' samples as answered with those sent, time and value, and says both checksums if they differ.
pub(super) fn check_values(set: &Set, series: &Series, answered: &[(i64, f64)]) -> Check {
    let sent: Vec<(i64, f64)> = set
        .times
        .iter()
        .copied()
        .zip(series.values.iter().copied())
        .filter(|(_, v)| !v.is_nan())
        .collect();
    // FNV-1a over the bits.
    let sum = |samples: &[(i64, f64)]| {
        let words = samples.iter().flat_map(|(t, v)| [*t as u64, v.to_bits()]);
        words
            .flat_map(u64::to_le_bytes)
            .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
                (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
    };
    let (a, b) = (sum(answered), sum(&sent));
    Check {
        what: format!("values of {}", series.pointer()),
        wrong: (a != b).then(|| {
            let first = answered.iter().zip(&sent).find(|(a, b)| a != b);
            format!(
                "{} samples with checksum {a:016x}, sent were {} with {b:016x}; first difference: {first:?}",
                answered.len(),
                sent.len()
            )
        }),
    }
}

/// The same questions for every server, in the same order: series drawn from all, with a fixed seed, so that hardly one is asked twice.
pub(super) struct Questions<'a>(Vec<(&'a Device, &'a Series)>);

impl<'a> Questions<'a> {
    pub(super) fn of(set: &'a Set) -> Self {
        let mut random = Random(SEED);
        let draw = |_| {
            let one = |n: usize, random: &mut Random| random.within(0, n as i64 - 1) as usize;
            let device = set.devices.get(one(set.devices.len(), &mut random))?;
            Some((
                device,
                device.series.get(one(device.series.len(), &mut random))?,
            ))
        };
        Self((0..QUESTIONS).filter_map(draw).collect())
    }

    pub(super) fn ask(&self, path: impl Fn(&str, &Series) -> String) -> Vec<String> {
        self.0.iter().map(|(d, s)| path(&d.id, s)).collect()
    }

    /// Some series of the first and the last device, one of each kind.
    pub(super) fn to_check(set: &'a Set) -> impl Iterator<Item = (&'a str, &'a Series)> {
        let ends = set.devices.first().into_iter().chain(set.devices.last());
        ends.flat_map(|device| {
            let step = (device.series.len() / 5).max(1) + 1;
            device
                .series
                .iter()
                .step_by(step)
                .map(|s| (device.id.as_str(), s))
        })
    }
}

//! What was found, and how it is printed: for people, or as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use super::said::Sizes;

/// Paths that are named with a finding; beyond them they are counted.
const MAX_NAMED: usize = 3;
/// Paths that are told apart with a finding.
const MAX_COUNTED: usize = 10_000;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// The agent refuses it, or readers are misled.
    Wrong,
    /// It may be meant so.
    Look,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::Look => "look",
        }
    }
}

/// One thing that is wrong, wherever it is.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) rule: String,
    pub(super) problem: String,
    pub(super) advice: String,
}

/// All of them, the same thing once, with the paths where it is.
#[derive(Debug, Default)]
pub(super) struct Findings(BTreeMap<Finding, BTreeSet<String>>);

impl Findings {
    /// Adds one; `at` is a path or template below the source's name, or empty.
    pub(super) fn add(&mut self, level: Level, rule: &str, at: &str, problem: &str, advice: &str) {
        let finding = Finding {
            level,
            rule: rule.to_owned(),
            problem: problem.to_owned(),
            advice: advice.to_owned(),
        };
        let places = self.0.entry(finding).or_default();
        if !at.is_empty() && places.len() < MAX_COUNTED {
            places.insert(at.to_owned());
        }
    }

    fn count(&self, level: Level) -> usize {
        self.0.keys().filter(|f| f.level == level).count()
    }
}

/// How long a round took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speed {
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) max: Duration,
}

/// The outcome of `check-plugin`.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) file: String,
    pub(super) source: Option<String>,
    pub(super) version: Option<String>,
    pub(super) abi: Option<String>,
    pub(super) rounds: usize,
    /// Of the largest round.
    pub(super) leaves: usize,
    pub(super) speed: Option<Speed>,
    /// Warmed up and at the end.
    pub(super) sizes: Option<(Sizes, Sizes)>,
    pub(super) findings: Findings,
}

impl Report {
    pub(super) fn is_good(&self, strict: bool) -> bool {
        self.findings.count(Level::Wrong) == 0 && !(strict && self.findings.count(Level::Look) > 0)
    }

    pub(super) fn text(&self) -> String {
        let mut out = format!("{}: ", self.file);
        let _ = match (&self.source, &self.abi) {
            (Some(source), Some(abi)) => {
                let version = self.version.as_ref().map(|v| format!(" {v}"));
                writeln!(out, "source {source}{}, {abi}", version.unwrap_or_default())
            }
            _ => writeln!(out, "not loaded"),
        };
        if let Some(speed) = self.speed {
            let (p50, p99, max) = (time(speed.p50), time(speed.p99), time(speed.max));
            let (rounds, leaves) = (self.rounds, self.leaves);
            let _ = writeln!(out, "rounds  {rounds}, of {leaves} leaves");
            let _ = writeln!(out, "speed   p50 {p50}, p99 {p99}, max {max}");
        }
        if let Some((from, to)) = self.sizes {
            let memory = format!("{:+} KiB", memory_growth(&from, &to) / 1024);
            let files = growth(from.files, to.files);
            let threads = growth(from.threads, to.threads);
            let rounds = format!("from round {} to {}", from.rounds, to.rounds);
            let _ = writeln!(
                out,
                "growth  memory {memory}, open files {files:+}, threads {threads:+} {rounds}"
            );
        }
        for (finding, places) in &self.findings.0 {
            let _ = write!(out, "\n{:5}  {}: ", finding.level.as_str(), finding.rule);
            if !places.is_empty() {
                let named: Vec<_> = places.iter().take(MAX_NAMED).map(String::as_str).collect();
                let _ = write!(out, "{}", named.join(", "));
                if places.len() > MAX_NAMED {
                    let _ = write!(out, " and {} more", places.len() - MAX_NAMED);
                }
                out.push_str(": ");
            }
            // A parser's message has lines of its own.
            let problem = finding.problem.trim_end().replace('\n', "\n       ");
            let _ = write!(out, "{problem}\n       → {}\n", finding.advice);
        }
        let _ = match (
            self.findings.count(Level::Wrong),
            self.findings.count(Level::Look),
        ) {
            (0, 0) => writeln!(out, "\nnothing wrong"),
            (wrong, look) => writeln!(out, "\n{wrong} wrong, {look} to look at"),
        };
        out
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let findings = self.findings.0.iter().map(|(f, places)| {
            serde_json::json!({
                "level": f.level.as_str(),
                "rule": f.rule,
                "at": places.iter().take(MAX_NAMED).collect::<Vec<_>>(),
                "places": places.len(),
                "problem": f.problem,
                "advice": f.advice,
            })
        });
        let micros = |d: Duration| d.as_nanos() as f64 / 1000.0;
        serde_json::json!({
            "file": self.file,
            "source": self.source,
            "version": self.version,
            "abi": self.abi,
            "rounds": self.rounds,
            "leaves": self.leaves,
            "speed": self.speed.map(|s| serde_json::json!({
                "p50_us": micros(s.p50), "p99_us": micros(s.p99), "max_us": micros(s.max),
            })),
            "growth": self.sizes.map(|(from, to)| serde_json::json!({
                "from_round": from.rounds,
                "to_round": to.rounds,
                "memory_bytes": memory_growth(&from, &to),
                "open_files": growth(from.files, to.files),
                "threads": growth(from.threads, to.threads),
            })),
            "findings": findings.collect::<Vec<_>>(),
            "wrong": self.findings.count(Level::Wrong),
            "look": self.findings.count(Level::Look),
        })
    }
}

/// From one size to another, either way.
pub(super) fn growth(from: u64, to: u64) -> i64 {
    to.cast_signed().saturating_sub(from.cast_signed())
}

/// By both counts: what is mapped without the allocator is missing in one, what fits into free pages in the other.
pub(super) fn memory_growth(from: &Sizes, to: &Sizes) -> i64 {
    let resident = growth(from.memory_bytes, to.memory_bytes);
    resident.max(growth(from.allocated_bytes, to.allocated_bytes))
}

/// In the unit in which it has one to three digits before the point.
pub(super) fn time(duration: Duration) -> String {
    let micros = duration.as_nanos() as f64 / 1000.0;
    match micros {
        ..1_000.0 => format!("{micros:.0} µs"),
        ..1_000_000.0 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}

//! The tables: printed, and written between the markers of `docs/benchmarks.md`.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context, bail};

use super::measure::{Check, Measured};
use super::set::Set;
use crate::root;

#[derive(Default)]
pub(super) struct Report {
    /// The text of each, and its figures.
    sets: Vec<(String, Vec<Measured>)>,
    left_out: Vec<String>,
}

/// A line of a table: what, a figure for each server, how it is written, whether less is better.
struct Row {
    what: &'static str,
    figure: fn(&Measured) -> Option<f64>,
    digits: usize,
    better: Better,
}

#[derive(Clone, Copy)]
enum Better {
    Less,
    More,
}

const fn less(what: &'static str, digits: usize, figure: fn(&Measured) -> Option<f64>) -> Row {
    Row {
        what,
        figure,
        digits,
        better: Better::Less,
    }
}

const fn more(what: &'static str, digits: usize, figure: fn(&Measured) -> Option<f64>) -> Row {
    Row {
        what,
        figure,
        digits,
        better: Better::More,
    }
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    less("intake, s", 2, |m| Some(m.intake.wall_s)),
    more("intake, thousand samples/s", 0, |m| Some(samples(m) / m.intake.wall_s / 1e3)),
    more("**intake, thousand samples per CPU second**", 0, |m| Some(samples(m) / m.intake.cpu_s / 1e3)),
    more("the same, CPU of compaction counted too", 0, |m| Some(samples(m) / (m.intake.cpu_s + m.compaction.cpu_s) / 1e3)),
    less("CPU of the load generator, s (not counted above)", 2, |m| m.client_cpu_s),
    less("most memory during intake, MB", 0, |m| Some(mb(m.peak_bytes))),
    less("on disk after intake, MB", 1, |m| Some(mb(m.intake_bytes))),
    less("compaction, s", 1, |m| Some(m.compaction.wall_s)),
    less("on disk after compaction, MB", 2, |m| Some(mb(m.compacted_bytes))),
    less("**bytes a sample after compaction**", 3, |m| Some(mb(m.compacted_bytes) * 1e6 / samples(m))),
    less("start with this data, ms", 0, |m| Some(m.ready_ms)),
    less("**one series, all raw**: p50, ms", 2, |m| Some(m.queries.raw.p50_ms)),
    less("one series, all raw: p99, ms", 2, |m| Some(m.queries.raw.p99_ms)),
    less("**one series at 60 s average**: p50, ms", 2, |m| Some(m.queries.average.p50_ms)),
    less("one series at 60 s average: p99, ms", 2, |m| Some(m.queries.average.p99_ms)),
    less("**latest of a device**: p50, ms", 2, |m| Some(m.queries.latest.p50_ms)),
    less("latest of a device: p99, ms", 2, |m| Some(m.queries.latest.p99_ms)),
    less("most memory while starting and answering, MB", 0, |m| Some(mb(m.queries.peak_bytes))),
];

fn samples(m: &Measured) -> f64 {
    m.samples as f64
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl Report {
    /// Takes in what one set has shown; returns its part of the text.
    pub(super) fn push(&mut self, set: &Set, measured: Vec<Measured>) -> &str {
        let mut text = format!(
            "### Set `{}`: {} device{}, {} series, {} times, {} samples\n\n",
            set.name,
            set.devices.len(),
            if set.devices.len() == 1 { "" } else { "s" },
            set.series(),
            set.times.len(),
            set.samples()
        );
        table(&mut text, &measured);
        let _ = writeln!(text);
        for m in &measured {
            let wrong: Vec<String> = m.checks.iter().filter_map(Check::wrong).collect();
            let _ = match wrong.is_empty() {
                true => writeln!(
                    text,
                    "- {}: {} comparisons with what was sent, all equal",
                    m.name,
                    m.checks.len()
                ),
                false => writeln!(text, "- {}: **WRONG**: {}", m.name, wrong.join("; ")),
            };
        }
        for m in &measured {
            let parts = m.parts.iter().filter(|(_, bytes)| *bytes > 0);
            let parts: Vec<String> = parts
                .map(|(name, bytes)| format!("{name} {} kB", bytes / 1000))
                .collect();
            let _ = writeln!(
                text,
                "- {} on disk after compaction: {}",
                m.name,
                parts.join(", ")
            );
        }
        &self.sets.push_mut((text, measured)).0
    }

    pub(super) fn left_out(&mut self, program: &str) {
        self.left_out.push(program.to_owned());
    }

    /// Machine, versions, and what is missing.
    pub(super) fn head(&self) -> anyhow::Result<String> {
        let mut text = machine()?;
        for program in &self.left_out {
            let _ = write!(
                text,
                "\n**NOT MEASURED: {program} was left out or is not installed. This run compares nothing with it.**\n"
            );
        }
        Ok(text)
    }

    /// All of it, as Markdown.
    pub(super) fn text(&self) -> anyhow::Result<String> {
        let parts = self.sets.iter().map(|(text, _)| text.as_str());
        let parts: Vec<&str> = parts.collect();
        Ok(format!("{}\n{}", self.head()?, parts.join("\n")))
    }

    /// # Errors
    /// devmon answered something else than it was sent. A peer that does is only shown: it is no fault of ours.
    pub(super) fn verdict(&self) -> anyhow::Result<()> {
        let all = self.sets.iter().flat_map(|(_, measured)| measured);
        for m in all.filter(|m| m.name.starts_with("devmon")) {
            if let Some(wrong) = m.checks.iter().find_map(Check::wrong) {
                bail!("{}: {wrong}", m.name);
            }
        }
        Ok(())
    }
}

/// Puts the text between the markers of `docs/benchmarks.md` that name the command.
pub(super) fn write_between(command: &str, text: &str) -> anyhow::Result<()> {
    let [begin, end] = ["begin", "end"]
        .map(|word| format!("<!-- {word}: written by cargo xtask bench {command} -->"));
    let path = root().join("docs/benchmarks.md");
    let page = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let parts = page
        .split_once(&begin)
        .and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let (before, after) =
        parts.with_context(|| format!("{}: no line {begin:?} … {end:?}", path.display()))?;
    fs::write(&path, format!("{before}{begin}\n\n{text}\n{end}{after}"))?;
    println!("written to {}", path.display());
    Ok(())
}

impl Check {
    fn wrong(&self) -> Option<String> {
        Some(format!("{}: {}", self.what, self.wrong.as_ref()?))
    }
}

fn table(text: &mut String, measured: &[Measured]) {
    let names: Vec<&str> = measured.iter().map(|m| m.name.as_str()).collect();
    let (ours, peers): (Vec<_>, Vec<_>) =
        measured.iter().partition(|m| m.name.starts_with("devmon"));
    let _ = write!(text, "| | {} |", names.join(" | "));
    for peer in &peers {
        let name = peer.name.split(' ').next().unwrap_or_default();
        let _ = write!(text, " × better than {name} |");
    }
    let _ = write!(
        text,
        "\n|---|{}\n",
        "---:|".repeat(names.len() + peers.len())
    );
    for row in ROWS {
        let figures: Vec<Option<f64>> = measured.iter().map(row.figure).collect();
        if figures.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(text, "| {} |", row.what);
        for figure in figures {
            let _ = match figure {
                Some(figure) => write!(text, " {figure:.*} |", row.digits),
                None => write!(text, " – |"),
            };
        }
        for peer in &peers {
            // Of both our ways in, in their order.
            let ratios: Vec<String> = ours
                .iter()
                .filter_map(|our| {
                    let (our, peer) = ((row.figure)(our)?, (row.figure)(peer)?);
                    Some(match row.better {
                        Better::Less => peer / our,
                        Better::More => our / peer,
                    })
                })
                .map(|ratio| format!("{ratio:.2}"))
                .collect();
            let _ = write!(text, " {} |", ratios.join(", "));
        }
        let _ = writeln!(text);
    }
}

/// Where and when and of what.
pub(super) fn machine() -> anyhow::Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("unknown", |l| l.trim_start_matches(['\t', ' ', ':']));
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let kib = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0);
    let load = fs::read_to_string("/proc/loadavg")?;
    let said = |program: &str, args: &[&str]| {
        let out = Command::new(program)
            .args(args)
            .current_dir(root())
            .output();
        out.map_or_else(
            |_| "unknown".to_owned(),
            |out| String::from_utf8_lossy(&out.stdout).trim().to_owned(),
        )
    };
    let changed = if said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty() {
        ""
    } else {
        ", with changes"
    };
    Ok(format!(
        "{}, commit {}{changed}. {model}, {cores} cores, {:.1} GiB RAM, Linux {}; load average at the end {}.\n",
        said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        said("git", &["rev-parse", "--short", "HEAD"]),
        kib as f64 / 1024.0 / 1024.0,
        kernel.trim(),
        load.split(' ').next().unwrap_or_default(),
    ))
}

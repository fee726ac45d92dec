//! The table of `bench agent`.

use std::fmt::Write as _;
use std::time::Instant;

use super::count::Counts;
use super::peers::{Measured, Peer};
use super::usage::Usage;

/// One program's figures.
pub(super) struct Row {
    peer: Peer,
    version: String,
    configuration: String,
    seconds: f64,
    before: Usage,
    after: Usage,
    sent: Counts,
}

type Look = (Usage, Counts, Instant);

impl Row {
    pub(super) fn new(measured: &Measured, before: Look, after: Look) -> Self {
        let (from, to) = (before.1, after.1);
        Self {
            peer: measured.peer,
            version: measured.version.clone(),
            configuration: measured.configuration.clone(),
            seconds: (after.2 - before.2).as_secs_f64(),
            before: before.0,
            after: after.0,
            sent: Counts {
                bytes_up: to.bytes_up - from.bytes_up,
                bytes_down: to.bytes_down - from.bytes_down,
                messages: to.messages - from.messages,
                values: to.values - from.values,
            },
        }
    }

    fn a_second(&self, n: u64) -> f64 {
        n as f64 / self.seconds
    }
}

/// What, how many digits, the figure; `None`: not known for this one. Less is better.
type Line = (&'static str, usize, fn(&Row) -> Option<f64>);

#[rustfmt::skip]
const LINES: &[Line] = &[
    ("**CPU, % of a core**", 3, |r| Some(100.0 * (r.after.cpu_s - r.before.cpu_s) / r.seconds)),
    ("**RSS at the end, MB**", 2, |r| Some(mb(r.after.rss))),
    ("RSS at the begin, MB", 2, |r| Some(mb(r.before.rss))),
    ("RSS at most since its start, MB", 2, |r| Some(mb(r.after.rss_most))),
    ("PSS, MB", 2, |r| Some(mb(r.after.pss))),
    ("private memory, MB", 2, |r| Some(mb(r.after.private))),
    ("wake-ups a second", 1, |r| Some(r.a_second(r.after.wakeups.saturating_sub(r.before.wakeups)))),
    ("bytes sent a second", 0, |r| Some(r.a_second(r.sent.bytes_up))),
    ("bytes received a second", 0, |r| Some(r.a_second(r.sent.bytes_down))),
    ("bytes written to disk a second", 1, |r| Some(r.a_second(r.after.disk_bytes - r.before.disk_bytes))),
];

/// Said beside, and no contest.
#[rustfmt::skip]
const FACTS: &[Line] = &[
    ("messages a second", 1, |r| (r.sent.messages > 0).then(|| r.a_second(r.sent.messages))),
    ("values a second", 1, |r| (r.sent.values > 0).then(|| r.a_second(r.sent.values))),
    ("bytes sent a value", 1, |r| (r.sent.values > 0).then(|| r.sent.bytes_up as f64 / r.sent.values as f64)),
    ("processes", 0, |r| Some(r.after.processes as f64)),
    ("threads", 0, |r| Some(r.after.threads as f64)),
];

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

pub(super) struct Report {
    minutes: f64,
    missing: Vec<String>,
}

impl Report {
    pub(super) fn new(minutes: f64) -> Self {
        Self {
            minutes,
            missing: Vec::new(),
        }
    }

    pub(super) fn missing(&mut self, what: String) {
        self.missing.push(what);
    }

    /// All of it, as Markdown.
    pub(super) fn text(&self, rows: &[Row]) -> anyhow::Result<String> {
        let mut text = crate::bench::report::machine()?;
        let _ = writeln!(text, "\n{} minutes at 1 s, all at once.", self.minutes);
        for what in &self.missing {
            let _ = write!(text, "\n**NOT MEASURED: {what}.**\n");
        }
        let (ours, peers): (Vec<&Row>, Vec<&Row>) =
            rows.iter().partition(|row| row.peer == Peer::Devmon);
        let ours = ours.first().copied();
        let _ = write!(text, "\n| |");
        for row in rows {
            let _ = write!(text, " {} |", row.peer.name());
        }
        for row in &peers {
            let name = row.peer.name().split(' ').next().unwrap_or_default();
            let _ = write!(text, " {name} ÷ devmon |");
        }
        let _ = write!(
            text,
            "\n|---|{}\n",
            "---:|".repeat(rows.len() + peers.len())
        );
        for (contest, (what, digits, figure)) in
            (LINES.iter().map(|line| (true, line))).chain(FACTS.iter().map(|line| (false, line)))
        {
            let _ = write!(text, "| {what} |");
            for row in rows {
                let _ = match figure(row) {
                    Some(figure) => write!(text, " {figure:.digits$} |"),
                    None => write!(text, " – |"),
                };
            }
            for row in &peers {
                let ratio = figure(row)
                    .zip(ours.and_then(figure))
                    .filter(|(_, ours)| contest && *ours > 0.0);
                let _ = match ratio {
                    Some((peer, ours)) => write!(text, " {:.2} |", peer / ours),
                    None => write!(text, " |"),
                };
            }
            let _ = writeln!(text);
        }
        let _ = writeln!(text);
        for row in rows {
            let _ = writeln!(text, "- **{}**: {}", row.version, row.configuration);
        }
        Ok(text)
    }
}

//! The commands that print: `collect` asks every source without a broker, `plugins` lists files and verdicts.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use devmon_core::wire::TimestampMs;
use devmon_core::wire::about::SourceState;
use devmon_core::wire::json::TreeJson;
use devmon_core::{MetricTree, Node};
use tokio::sync::mpsc;

use crate::config::Settings;
use crate::control::{self, Request};
use crate::plugins::directory::{self, Found};
use crate::plugins::running::Sources;
use crate::plugins::source::Report;
use crate::plugins::supervise;

/// Between the two rounds of `collect`: sources of rates have nothing to say in their first, and sysinfo averages over at least 200 ms.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(300);

/// How `collect` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Indented, for people
    Tree,
    /// One line a leaf: path, value, unit
    Flat,
    /// One JSON object
    Json,
}

/// Asks each source twice and prints what is known then. Fails if a source fails; one that is unavailable does not count.
pub async fn collect(settings: &Settings, format: Format) -> ExitCode {
    let found = match scan(settings) {
        Ok(found) => found,
        Err(code) => return code,
    };
    if found.is_empty() {
        eprintln!("no plugins in {}", settings.plugin_dir.display());
    }
    let (mut sources, mut reports) = Sources::start(found, settings, supervise::deadline);
    let mut device = MetricTree::new();
    round(&mut sources, &mut reports, &mut device).await;
    tokio::time::sleep(BETWEEN_ROUNDS).await;
    round(&mut sources, &mut reports, &mut device).await;

    let mut code = ExitCode::SUCCESS;
    let mut states = Vec::new();
    for (name, (state, reason)) in sources.names().zip(sources.states()) {
        if state == SourceState::Failing {
            code = ExitCode::FAILURE;
        }
        // Standard output is for values; whoever looks for a source finds here why it has none.
        if let (false, Some(reason)) = (state == SourceState::Ok, &reason) {
            let state = format!("{state:?}").to_lowercase();
            eprintln!("{name} is {state}: {reason}");
        }
        states.push(serde_json::json!({"name": name, "state": state, "reason": reason}));
    }
    let text = match format {
        Format::Tree => tree(&device, &sources),
        Format::Flat => flat(&device, &sources),
        Format::Json => {
            let json = serde_json::json!({
                "device": settings.device,
                "ts": TimestampMs::now(),
                "metrics": serde_json::to_value(TreeJson(&device)).unwrap_or_default(),
                "sources": states,
            });
            format!("{json:#}\n")
        }
    };
    print(&text);
    code
}

/// One round of all sources; later values replace earlier ones.
pub(crate) async fn round(
    sources: &mut Sources,
    reports: &mut mpsc::Receiver<Report>,
    device: &mut MetricTree,
) {
    let now = Instant::now();
    let numbers: Vec<usize> = sources.intervals().map(|(number, _)| number).collect();
    for number in numbers {
        sources.ask(number, TimestampMs::now(), now);
    }
    while sources.is_awaiting() {
        let overdue = sources.next_overdue().unwrap_or(now);
        if let Ok(Some(report)) = tokio::time::timeout_at(overdue.into(), reports.recv()).await
            && let Some(frame) = sources.take(report, Instant::now())
        {
            let name = frame.source.unwrap_or_default();
            device.insert(name, Node::Branch(frame.metrics));
        }
        sources.check(Instant::now());
    }
}

fn flat(device: &MetricTree, sources: &Sources) -> String {
    let mut out = String::new();
    for (path, value) in device.leaves() {
        let unit = sources.unit(&path).unwrap_or_default();
        let _ = writeln!(out, "{}", format!("{path} {value} {unit}").trim_end());
    }
    out
}

fn tree(device: &MetricTree, sources: &Sources) -> String {
    fn branch(out: &mut String, tree: &MetricTree, names: &mut Vec<String>, sources: &Sources) {
        for (name, node) in tree.children() {
            let indent = "  ".repeat(names.len());
            names.push(name.to_owned());
            match node {
                Node::Branch(below) => {
                    let _ = writeln!(out, "{indent}{name}");
                    branch(out, below, names, sources);
                }
                Node::Leaf(value) => {
                    let path = devmon_core::MetricPath::from_segments(&*names).ok();
                    let unit = path.as_ref().and_then(|p| sources.unit(p));
                    let line = format!("{indent}{name}: {value} {}", unit.unwrap_or_default());
                    let _ = writeln!(out, "{}", line.trim_end());
                }
            }
            names.pop();
        }
    }
    let mut out = String::new();
    branch(&mut out, device, &mut Vec::new(), sources);
    out
}

/// Lists the candidates of the plugin directory.
#[must_use]
pub fn plugins(settings: &Settings, json: bool) -> ExitCode {
    let found = match scan(settings) {
        Ok(found) => found,
        Err(code) => return code,
    };
    let rows: Vec<Row> = found.iter().map(Row::of).collect();
    if json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        return print(&format!("{:#}\n", serde_json::Value::Array(rows)));
    }
    if rows.is_empty() {
        return print(&format!(
            "no plugins in {}\n",
            settings.plugin_dir.display()
        ));
    }
    let width = |f: fn(&Row) -> &str, head: &str| {
        let widest = rows.iter().map(|r| f(r).chars().count()).max();
        widest.unwrap_or(0).max(head.len())
    };
    let (file, source) = (width(|r| &r.file, "FILE"), width(|r| &r.source, "SOURCE"));
    let version = width(|r| &r.version, "VERSION");
    let mut out = format!(
        "{:file$}  {:source$}  {:version$}  VERDICT\n",
        "FILE", "SOURCE", "VERSION"
    );
    for row in &rows {
        let verdict = match &row.reason {
            Some(reason) => format!("refused: {reason}"),
            None => format!("{}, {}", row.abi, row.isolation),
        };
        let _ = writeln!(
            out,
            "{:file$}  {:source$}  {:version$}  {verdict}",
            row.file, row.source, row.version
        );
    }
    print(&out)
}

struct Row {
    file: String,
    source: String,
    version: String,
    abi: String,
    /// `inline`, `process` or `exec`; empty if refused.
    isolation: &'static str,
    reason: Option<String>,
}

impl Row {
    fn of(found: &Found) -> Self {
        let file = found.file();
        match &found.verdict {
            Ok(plugin) => Self {
                file,
                source: plugin.name.clone(),
                version: plugin.version.clone().unwrap_or_default(),
                abi: plugin.kind.interface(),
                isolation: plugin.kind.isolation(),
                reason: None,
            },
            Err(refusal) => Self {
                file,
                source: String::new(),
                version: String::new(),
                abi: String::new(),
                isolation: "",
                reason: Some(refusal.to_string()),
            },
        }
    }

    fn json(&self) -> serde_json::Value {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        serde_json::json!({
            "file": self.file,
            "source": some(&self.source),
            "version": some(&self.version),
            "abi": some(&self.abi),
            "isolation": some(self.isolation),
            "loaded": self.reason.is_none(),
            "reason": self.reason,
        })
    }
}

/// Asks the running agent; fails if none answers.
#[must_use]
pub fn status(settings: &Settings, json: bool) -> ExitCode {
    let status = match control::ask(settings.state_dir.as_deref(), &Request::Status) {
        Ok(status) => status,
        Err(problem) => return refused(&problem),
    };
    if json {
        return print(&format!("{status:#}\n"));
    }
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    };
    let at = |pointer: &str| status.pointer(pointer).map(text).unwrap_or_default();
    let mut out = format!(
        "{} (devmon-agent {}, process {}, up {} s)\n",
        at("/device"),
        at("/version"),
        at("/pid"),
        at("/uptime_s")
    );
    let link = if at("/connected") == "true" {
        "connected".to_owned()
    } else {
        format!("not connected: {}", at("/problem"))
    };
    let _ = writeln!(out, "{}: {link}", at("/mqtt"));
    let _ = writeln!(
        out,
        "messages: {} published, {} acknowledged, {} waiting in memory, spool {} bytes{}",
        at("/published"),
        at("/acknowledged"),
        at("/outbox/messages"),
        at("/spool/bytes"),
        if at("/spool/backlog") == "true" {
            " with backlog"
        } else {
            ""
        }
    );
    for (what, pointer) in [("spool", "/spool/problem")] {
        if !at(pointer).is_empty() {
            let _ = writeln!(out, "{what}: {}", at(pointer));
        }
    }
    for (reason, count) in status["dropped"].as_object().into_iter().flatten() {
        let _ = writeln!(out, "dropped: {count} ({reason})");
    }
    if at("/clock/set") == "false" {
        let _ = writeln!(
            out,
            "the clock is not set: {} frames wait",
            at("/clock/held_frames")
        );
    }
    let _ = writeln!(
        out,
        "\n{:16}  {:11}  {:8}  {:>8}  {:>7}  REASON",
        "SOURCE", "STATE", "RUNS", "INTERVAL", "CRASHES"
    );
    for source in status["sources"].as_array().into_iter().flatten() {
        let of = |key: &str| text(&source[key]);
        let runs = status["isolation"]
            .get(of("name"))
            .map(text)
            .unwrap_or_default();
        let interval_ms = source["interval_ms"].as_f64().unwrap_or_default();
        let interval = if interval_ms > 0.0 {
            format!("{} s", interval_ms / 1000.0)
        } else {
            String::new()
        };
        let crashes = status["crashes"].get(of("name")).map(text);
        let crashes = crashes.unwrap_or_default();
        let line = format!(
            "{:16}  {:11}  {runs:8}  {interval:>8}  {crashes:>7}  {}",
            of("name"),
            of("state"),
            of("reason")
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    print(&out)
}

/// Has the running agent try a source again.
#[must_use]
pub fn retry(settings: &Settings, source: String) -> ExitCode {
    match control::ask(
        settings.state_dir.as_deref(),
        &Request::Retry(source.clone()),
    ) {
        Ok(answer) => match answer["file"].as_str() {
            Some(file) => print(&format!("{file} is looked at again\n")),
            None => print(&format!("{source} is tried again at its next tick\n")),
        },
        Err(problem) => refused(&problem),
    }
}

fn refused(problem: &str) -> ExitCode {
    eprintln!("devmon-agent: {problem}");
    ExitCode::FAILURE
}

/// Prints to standard output; a reader that left early is no failure.
pub(crate) fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    ExitCode::SUCCESS
}

fn scan(settings: &Settings) -> Result<Vec<Found>, ExitCode> {
    directory::scan(settings).map_err(|e| {
        let dir = settings.plugin_dir.display();
        eprintln!("devmon-agent: cannot list plugin directory {dir}: {e}");
        ExitCode::FAILURE
    })
}

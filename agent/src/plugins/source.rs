//! One source on its own thread: made from its plugin, asked for rounds, its trees checked before anyone else sees them.
//!
//! **Takes** orders, one at a time. **Gives** a [`Report::Answered`] for each, through a bounded channel. The thread may block in the plugin for as long as the plugin likes: nobody
//! waits for it. When to ask, how long to wait and what an answer means is left to [`supervise`](super::supervise). A source that crashed is dropped here and
//! made anew by the next order.
//!
//! Three kinds answer the same orders: a library **inline**, in this thread; a library in a **process** of its own ([`host`](super::host)), which is killed when it takes too long; and an
//! **executable** that is run each time ([`exec`](super::exec)).

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use devmon_core::MetricTree;
use devmon_core::descriptor::Descriptor;
use devmon_core::wire::TimestampMs;
use devmon_core::wire::json::json_bytes;
use tokio::sync::mpsc;

use super::exec::ExecFile;
use super::host::{Ended, Host, HostedPlugin, Log};
use super::load::{Abi, LoadedSource, Plugin, Refusal, Round};
use super::trust;

/// Stack of a source's thread. Plugins parse files and walk trees of at most 16 levels; pages are only paid for when touched.
pub(super) const STACK_BYTES: usize = 512 * 1024;

/// Most bytes of a round as JSON: 10 000 numbers with long names fit, 10 000 texts do not. A source that gives more at each tick would push what all others measured
/// out of outbox and spool.
pub(crate) const MAX_ROUND_BYTES: usize = 1024 * 1024;

/// What a source's thread says. `source` is its index in the list of all.
#[derive(Debug)]
pub enum Report {
    /// The source was made, for the first time or anew.
    Made { source: usize, made: Made },
    /// The answer to an order.
    Answered {
        source: usize,
        /// The tick that it was asked for.
        tick: TimestampMs,
        answer: Answer,
    },
}

/// What a round came to.
#[derive(Debug)]
pub enum Answer {
    /// A valid tree; with what had to be left out of it, if anything.
    Tree {
        tree: MetricTree,
        left_out: Option<String>,
    },
    NoData,
    Unavailable(String),
    Failed(String),
    /// There is no source: its constructor said why. It is made anew when it is asked again.
    NotStarted(String),
    /// An executable was not done in time. It is run again, ever more seldom, and never left alone for it: what it waits for may come back.
    TooSlow(String),
    /// The source is gone, and not politely; it is made anew when it is asked again.
    Crashed(String),
}

/// What became of a file: from it, sources of one name can be made.
#[derive(Clone)]
pub struct Loaded {
    /// First segment of its paths.
    pub name: String,
    pub version: Option<String>,
    /// The interval that suits it, if it has an opinion.
    pub preferred_interval: Option<Duration>,
    pub kind: Kind,
    /// The private copy that it runs from; `None`: it runs from the operator's own file.
    pub copy: Option<PathBuf>,
}

/// How a source runs.
#[derive(Clone)]
pub enum Kind {
    Inline(Plugin),
    Process(HostedPlugin, Abi),
    Exec(ExecFile),
}

impl Kind {
    /// The interface, for people.
    #[must_use]
    pub fn interface(&self) -> String {
        match self {
            Self::Inline(plugin) => plugin.abi.to_string(),
            Self::Process(_, abi) => abi.to_string(),
            Self::Exec(_) => "executable".into(),
        }
    }

    /// `inline`, `process` or `exec`.
    #[must_use]
    pub fn isolation(&self) -> &'static str {
        match self {
            Self::Inline(_) => "inline",
            Self::Process(..) => "process",
            Self::Exec(_) => "exec",
        }
    }
}

/// What a source says about itself once.
#[derive(Debug, Default, PartialEq)]
pub struct Made {
    /// From the device's root: below the source's name.
    pub descriptors: Vec<Descriptor>,
    pub facts: serde_json::Map<String, serde_json::Value>,
    /// Why there are no descriptors although the plugin gave some.
    pub problem: Option<String>,
}

/// The daemon's end of a source's thread. Dropping it ends the thread after its present round.
pub struct SourceThread {
    orders: SyncSender<TimestampMs>,
    thread: std::thread::JoinHandle<()>,
}

impl SourceThread {
    /// Starts the thread, which makes the source at once: rates are measured from here. A process that takes longer than `limit` for an answer is killed.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn spawn(
        index: usize,
        loaded: Loaded,
        config: String,
        limit: Duration,
        reports: mpsc::Sender<Report>,
    ) -> std::io::Result<Self> {
        let (orders, inbox) = sync_channel(1); // the supervisor asks a source that has answered, never a busy one
        let thread = std::thread::Builder::new()
            .name(loaded.name.chars().take(15).collect()) // the kernel shows 15 bytes
            .stack_size(STACK_BYTES)
            .spawn(move || run(index, &loaded, &config, limit, &inbox, &reports))?;
        Ok(Self { orders, thread })
    }

    /// Asks for a round. False if the thread is busy or gone.
    pub fn ask(&self, tick: TimestampMs) -> bool {
        match self.orders.try_send(tick) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Says that no order will come any more. The handle tells when the thread has ended.
    #[must_use]
    pub fn stop(self) -> std::thread::JoinHandle<()> {
        self.thread
    }
}

/// A source that was made.
enum Source {
    Inline(LoadedSource),
    Process(Box<Host>),
    Exec(Box<Log>),
}

fn run(
    index: usize,
    loaded: &Loaded,
    config: &str,
    limit: Duration,
    orders: &Receiver<TimestampMs>,
    reports: &mpsc::Sender<Report>,
) {
    let make = || {
        let (source, made) = make(loaded, config, limit)?;
        let _ = reports.blocking_send(Report::Made {
            source: index,
            made,
        });
        Ok(source)
    };
    let mut source = Some(make());
    for tick in orders {
        let answer = match source.take().unwrap_or_else(make) {
            Ok(mut made) => {
                let answer = match &mut made {
                    Source::Inline(inline) => judge(inline.collect()),
                    Source::Process(host) => host.collect(limit).unwrap_or_else(crashed),
                    Source::Exec(log) => match &loaded.kind {
                        Kind::Exec(file) => file.collect(&loaded.name, config, limit, log),
                        _ => Answer::NoData, // an executable's kind is Exec
                    },
                };
                if !matches!(answer, Answer::Crashed(_)) {
                    source = Some(Ok(made));
                }
                answer
            }
            Err(answer) => answer,
        };
        let report = Report::Answered {
            source: index,
            tick,
            answer,
        };
        if reports.blocking_send(report).is_err() {
            return; // the daemon is gone
        }
    }
}

fn make(loaded: &Loaded, config: &str, limit: Duration) -> Result<(Source, Made), Answer> {
    match &loaded.kind {
        Kind::Inline(plugin) => {
            let source = plugin.start(config).map_err(Answer::NotStarted)?;
            let made = describe(&plugin.name, &source);
            Ok((Source::Inline(source), made))
        }
        Kind::Process(hosted, _) => {
            if loaded.copy.is_none() {
                trust::open(&hosted.path).map_err(|e| Answer::NotStarted(e.to_string()))?;
            }
            let (mut host, _) = Host::start(hosted, limit).map_err(|refusal| match refusal {
                Refusal::Crashed(reason) => Answer::Crashed(reason),
                polite => Answer::NotStarted(polite.to_string()),
            })?;
            let made = host.make(&loaded.name, config, limit).map_err(crashed)?;
            let made = made.map_err(Answer::NotStarted)?;
            Ok((Source::Process(Box::new(host)), made))
        }
        Kind::Exec(file) => Ok((Source::Exec(Box::new(file.log())), file.made(&loaded.name))),
    }
}

fn crashed(Ended(reason): Ended) -> Answer {
    Answer::Crashed(format!("it {reason}"))
}

/// Checks a tree once, where it enters the agent.
pub(crate) fn judge(round: Round) -> Answer {
    match round {
        Round::Tree(mut tree, unknown) => {
            let not_finite = tree.remove_non_finite();
            match tree
                .validate()
                .map_err(|e| e.to_string())
                .and_then(|_| check_size(&tree))
            {
                Ok(()) => Answer::Tree {
                    tree,
                    left_out: left_out(&not_finite, unknown),
                },
                Err(e) => Answer::Failed(format!("its tree was refused: {e}")),
            }
        }
        Round::NoData => Answer::NoData,
        Round::Unavailable(reason) => Answer::Unavailable(reason),
        Round::Failed(reason) => Answer::Failed(reason),
        Round::Panicked(text) => Answer::Crashed(format!("panicked: {text}")),
    }
}

fn check_size(tree: &MetricTree) -> Result<(), String> {
    // An escaped byte has six. Most trees need not be written to be known to be small.
    if tree.size_bytes() <= MAX_ROUND_BYTES / 6 {
        return Ok(());
    }
    match json_bytes(tree) {
        ..=MAX_ROUND_BYTES => Ok(()),
        bytes => Err(format!(
            "it is {bytes} bytes as JSON; the most is {MAX_ROUND_BYTES} (1 MiB)"
        )),
    }
}

fn left_out(not_finite: &[String], unknown: usize) -> Option<String> {
    let mut parts = Vec::new();
    match not_finite {
        [] => {}
        [one] => parts.push(format!("{one} is not a finite number")),
        [first, more @ ..] => parts.push(format!(
            "{first} and {} more are not finite numbers",
            more.len()
        )),
    }
    if unknown > 0 {
        parts.push(format!(
            "{unknown} values are of kinds that this agent does not know: update the agent"
        ));
    }
    (!parts.is_empty()).then(|| format!("left out: {}", parts.join("; ")))
}

fn describe(name: &str, source: &LoadedSource) -> Made {
    let facts = source.facts();
    let below = |descriptors: Vec<Descriptor>| {
        descriptors
            .into_iter()
            .map(|d| d.below(name).map_err(|e| e.to_string()))
            .collect::<Result<Vec<_>, _>>()
    };
    match source.descriptors().and_then(below) {
        Ok(descriptors) => Made {
            descriptors,
            facts,
            problem: None,
        },
        Err(e) => Made {
            facts,
            problem: Some(e),
            ..Made::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use devmon_core::tree::MAX_LEAVES;

    #[test]
    fn a_tree_over_the_limits_is_refused_whole() {
        let mut tree = MetricTree::new();
        for i in 0..=MAX_LEAVES {
            tree.set(i.to_string(), 1);
        }
        let Answer::Failed(reason) = judge(Round::Tree(tree, 0)) else {
            panic!("accepted")
        };
        assert!(reason.contains("more than 10000 leaves"), "{reason}");
    }

    #[test]
    fn a_round_of_more_bytes_than_everybody_has_room_for_is_refused_with_its_size() {
        let texts = |n: usize| {
            let mut tree = MetricTree::new();
            for i in 0..n {
                tree.set(format!("{i:04}"), "x".repeat(1_000));
            }
            judge(Round::Tree(tree, 0))
        };
        assert!(matches!(texts(1_038), Answer::Tree { .. }));
        let Answer::Failed(reason) = texts(1_039) else {
            panic!("accepted")
        };
        // {"0000":"xxx…",…}
        let part = format!(
            "it is {} bytes as JSON; the most is 1048576",
            1_039 * 1_010 + 1
        );
        assert!(reason.contains(&part), "{reason}");
        let mut numbers = MetricTree::new();
        for i in 0..MAX_LEAVES {
            numbers.set(
                format!("a rather long name of a metric, with its unit, number {i}"),
                1.0 / 3.0,
            );
        }
        assert!(matches!(
            judge(Round::Tree(numbers, 0)),
            Answer::Tree { .. }
        ));
        let mut escaped = MetricTree::new();
        for i in 0..200 {
            escaped.set(i.to_string(), "\u{1}".repeat(1_024));
        }
        assert!(matches!(judge(Round::Tree(escaped, 0)), Answer::Failed(_)));
    }

    #[test]
    fn what_is_not_finite_is_left_out_and_named() {
        let mut tree = MetricTree::new();
        tree.set("good", 1.5);
        tree.set("bad", f64::NAN);
        let Answer::Tree { tree, left_out } = judge(Round::Tree(tree, 2)) else {
            panic!("refused")
        };
        assert_eq!(tree.leaves().count(), 1);
        let said = left_out.unwrap();
        assert!(said.contains("/bad is not a finite number"), "{said}");
        assert!(said.contains("2 values"), "{said}");
    }
}

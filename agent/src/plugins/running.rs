//! All sources of this agent: started from what the directory holds, asked at their ticks, their answers turned into frames.
//!
//! Files that were refused and sources that are switched off are listed as well: an operator who dropped a file in sees what became of it.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use devmon_core::config::nearest;
use devmon_core::descriptor::DescriptorText;
use devmon_core::wire::about::{SourceAbout, SourceState};
use devmon_core::wire::{Frame, TimestampMs};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::directory::Found;
use super::load::Plugin;
use super::source::{Answer, Made, Report, SourceThread};
use super::supervise::Supervised;
use crate::config::Settings;

/// Answers that wait for the daemon; a source's thread blocks on more, which hurts only that source.
const REPORTS: usize = 256;

/// One source with its thread and state.
struct Running {
    name: String,
    file: String,
    version: Option<String>,
    interval: Duration,
    thread: Option<SourceThread>,
    supervised: Supervised,
    made: Made,
}

/// All of them; a source is known by its index.
pub struct Sources {
    running: Vec<Running>,
    /// Refused or switched off; they only show.
    idle: Vec<SourceAbout>,
    changed: bool,
}

impl Sources {
    /// Starts a thread for each plugin that is not switched off. Returns at once, however long their constructors take. `deadline` says how long a source with an
    /// interval may take for a round.
    #[must_use]
    pub fn start(
        found: Vec<Found>,
        settings: &Settings,
        deadline: fn(Duration) -> Duration,
    ) -> (Self, mpsc::Receiver<Report>) {
        let (tell, reports) = mpsc::channel(REPORTS);
        let mut sources = Self {
            running: Vec::new(),
            idle: Vec::new(),
            changed: true,
        };
        for found in found {
            let file = found.file();
            match found.verdict {
                Err(refusal) => {
                    warn!(file, reason = %refusal, "plugin refused");
                    sources.idle.push(idle(
                        file.clone(),
                        SourceState::Failing,
                        refusal.to_string(),
                        file,
                    ));
                }
                Ok(plugin) if !settings.source(&plugin.name).enabled => {
                    info!(source = plugin.name, "source is switched off");
                    let reason = "switched off in the configuration".to_owned();
                    sources
                        .idle
                        .push(idle(plugin.name, SourceState::Stopped, reason, file));
                }
                Ok(plugin) => {
                    let interval = settings.interval_of(&plugin.name, plugin.preferred_interval);
                    let supervised = Supervised::new(&plugin.name, deadline(interval));
                    sources.add(plugin, file, settings, interval, supervised, &tell);
                }
            }
        }
        (sources, reports)
    }

    fn add(
        &mut self,
        plugin: Plugin,
        file: String,
        settings: &Settings,
        interval: Duration,
        supervised: Supervised,
        reports: &mpsc::Sender<Report>,
    ) {
        let config = serde_json::Value::Object(settings.source(&plugin.name).config).to_string();
        let mut running = Running {
            name: plugin.name.clone(),
            file,
            version: plugin.version.clone(),
            interval,
            thread: None,
            supervised,
            made: Made::default(),
        };
        let index = self.running.len();
        info!(source = running.name, file = running.file, version = running.version, abi = %plugin.abi, ?interval, "source loaded");
        match SourceThread::spawn(index, plugin, config, reports.clone()) {
            Ok(thread) => running.thread = Some(thread),
            Err(e) => {
                running
                    .supervised
                    .lost(format!("no thread could be started for it: {e}"));
            }
        }
        self.running.push(running);
    }

    /// Names of the running sources, by index.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.running.iter().map(|r| r.name.as_str())
    }

    /// Intervals of the running sources, by index.
    pub fn intervals(&self) -> impl Iterator<Item = Duration> {
        self.running.iter().map(|r| r.interval)
    }

    /// States and reasons of the running sources, by index.
    pub fn states(&self) -> impl Iterator<Item = (SourceState, Option<&str>)> {
        self.running
            .iter()
            .map(|r| (r.supervised.state(), r.supervised.reason()))
    }

    /// Asks a source for a round, if it may be asked now.
    pub fn ask(&mut self, index: usize, tick: TimestampMs, now: Instant) -> bool {
        let Some(running) = self.running.get_mut(index) else {
            return false;
        };
        let may = running.supervised.may_ask(now);
        let asked = may && running.thread.as_ref().is_some_and(|t| t.ask(tick));
        if asked {
            running.supervised.asked(now);
        } else if may {
            self.changed |= running.supervised.lost("its thread has ended".to_owned());
        }
        asked
    }

    /// Takes a report; gives the frame to publish, if there is one.
    pub fn take(&mut self, report: Report, now: Instant) -> Option<Frame> {
        match report {
            Report::Made { source, made } => {
                let running = self.running.get_mut(source)?;
                if let Some(problem) = &made.problem {
                    let source = running.name.as_str();
                    warn!(
                        source,
                        problem, "its descriptors are not usable: metrics have no units"
                    );
                }
                self.changed |= made != running.made;
                running.made = made;
                None
            }
            Report::Answered {
                source,
                tick,
                answer,
            } => {
                let running = self.running.get_mut(source)?;
                let (changed, in_time) = running.supervised.answered(now, &answer);
                self.changed |= changed;
                match answer {
                    Answer::Tree { tree, .. } if in_time && !tree.is_empty() => Some(Frame {
                        ts: Some(tick),
                        source: Some(running.name.as_str().into()),
                        metrics: tree,
                    }),
                    _ => None,
                }
            }
        }
    }

    /// Looks for rounds over their deadline.
    pub fn check(&mut self, now: Instant) {
        for running in &mut self.running {
            self.changed |= running.supervised.check(now);
        }
    }

    /// When the next awaited round becomes overdue.
    #[must_use]
    pub fn next_overdue(&self) -> Option<Instant> {
        let each = self.running.iter();
        each.filter_map(|r| r.supervised.overdue_at()).min()
    }

    /// True while a round is awaited that is not overdue.
    #[must_use]
    pub fn is_awaiting(&self) -> bool {
        self.running.iter().any(|r| r.supervised.is_awaited())
    }

    /// True once after a state, a reason or a description changed.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Everything for an `about` message.
    #[must_use]
    pub fn about(&self) -> (Vec<SourceAbout>, Vec<DescriptorText>) {
        let running = self.running.iter().map(|r| SourceAbout {
            name: r.name.clone(),
            state: r.supervised.state(),
            reason: r.supervised.reason().map(str::to_owned),
            interval_ms: u64::try_from(r.interval.as_millis()).unwrap_or(u64::MAX),
            version: r.version.clone(),
            file: Some(r.file.clone()),
            facts: r.made.facts.clone(),
        });
        let descriptors = self.running.iter().flat_map(|r| &r.made.descriptors);
        (
            running.chain(self.idle.iter().cloned()).collect(),
            descriptors.map(DescriptorText::from).collect(),
        )
    }

    /// Unit of a leaf, by its path from the device's root.
    #[must_use]
    pub fn unit(&self, path: &devmon_core::MetricPath) -> Option<&str> {
        let first = path.segments().next()?;
        let running = self.running.iter().find(|r| r.name == first)?;
        devmon_core::descriptor::best_match(&running.made.descriptors, path)
            .map(|d| d.unit.as_str())
    }

    /// Ends all threads that are not stuck in their plugin, within the limit.
    pub async fn stop(self, limit: Duration) {
        let until = Instant::now() + limit;
        let stopping: Vec<(String, JoinHandle<()>)> = self
            .running
            .into_iter()
            .filter_map(|r| Some((r.name, r.thread?.stop())))
            .collect();
        // A thread can not be awaited without blocking; there are few, and this happens once.
        while Instant::now() < until && stopping.iter().any(|(_, t)| !t.is_finished()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for (source, _) in stopping.iter().filter(|(_, t)| !t.is_finished()) {
            warn!(source, "source did not end; it is left behind");
        }
    }
}

fn idle(name: String, state: SourceState, reason: String, file: String) -> SourceAbout {
    SourceAbout {
        name,
        state,
        reason: Some(reason),
        interval_ms: 0,
        version: None,
        file: Some(file),
        facts: serde_json::Map::new(),
    }
}

/// Configured sources that no plugin provides: most often a misspelt name.
#[must_use]
pub fn unknown(settings: &Settings, known: &[&str]) -> Vec<String> {
    let names = settings.sources.keys();
    names
        .filter(|name| !known.contains(&name.as_str()))
        .map(|name| match nearest(name, known) {
            Some(near) => format!(
                "[sources.{name}] is configured, but no plugin is called so; did you mean {near:?}?"
            ),
            None => format!("[sources.{name}] is configured, but no plugin is called so"),
        })
        .collect()
}

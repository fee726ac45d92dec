//! All sources of this agent: started from what the directory holds, asked at their ticks, their answers turned into frames.
//!
//! Files that were refused and sources that are switched off are listed as well: an operator who dropped a file in sees what became of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use devmon_core::config::nearest;
use devmon_core::descriptor::DescriptorText;
use devmon_core::wire::about::{SourceAbout, SourceState};
use devmon_core::wire::{Frame, TimestampMs};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::directory::{Found, Rank, name_by_file};
use super::load::Refusal;
use super::source::{Answer, Kind, Loaded, Made, Report, SourceThread};
use super::supervise::{Supervised, cut};
use super::watch::Change;
use crate::config::Settings;
use crate::own;

/// Answers that wait for the daemon; a source's thread blocks on more, which hurts only that source.
const REPORTS: usize = 256;
/// Replaced libraries stay mapped for ever, some 0.5 MB each: later ones of the same agent run in processes, which give everything back.
const MAX_INLINE_REPLACED: usize = 30;
/// A process is killed this much before the daemon would call the source hung: the better reason of the two comes first.
const KILL_EARLIER: Duration = Duration::from_millis(200);

/// One source with its thread and state.
struct Running {
    name: String,
    file: String,
    version: Option<String>,
    /// Against other files that want its name.
    rank: Rank,
    isolation: &'static str,
    interval: Duration,
    thread: Option<SourceThread>,
    supervised: Supervised,
    made: Made,
    /// The private copy that it runs from.
    copy: Option<PathBuf>,
    companion: Vec<i128>,
    /// What an operator should know although the source runs: a newer file of it was refused.
    note: Option<String>,
}

impl Running {
    /// Of its state; else what an operator should know of a source that is well.
    fn reason(&self) -> Option<String> {
        let said = self.supervised.reason().or(self.note.as_deref());
        let undescribed = || {
            let problem = self.made.problem.as_deref()?;
            let reason =
                format!("its descriptors are not usable, its metrics have no units: {problem}");
            Some(cut(&reason).into_owned())
        };
        said.map(str::to_owned).or_else(undescribed)
    }
}

/// A file without a source.
struct Idle {
    about: SourceAbout,
    /// Refused only for the name of another, which may go.
    duplicate: bool,
}

/// All of them; a source is known by its number, which is never used again.
pub struct Sources {
    running: BTreeMap<usize, Running>,
    next: usize,
    /// Refused, switched off or removed, by file; they only show.
    idle: BTreeMap<String, Idle>,
    deadline: fn(Duration) -> Duration,
    reports: mpsc::Sender<Report>,
    replaced: usize,
    /// The file that has just lost its name to another.
    displaced: Option<String>,
    changed: bool,
}

/// What the schedule must follow.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Moves {
    pub gone: Vec<usize>,
    pub new: Vec<(usize, Duration)>,
    /// Files to be looked at again: the name that they were refused for is free.
    pub again: Vec<String>,
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
            running: BTreeMap::new(),
            next: 0,
            idle: BTreeMap::new(),
            deadline,
            reports: tell,
            replaced: 0,
            displaced: None,
            changed: true,
        };
        // Those that have their names before those that are refused for them: nothing is started in vain.
        let mut found = found;
        found.sort_by_cached_key(|f| {
            let rank = f.verdict.as_ref().ok().map(|l| Rank::of(l, &f.file()));
            (rank.is_none(), rank)
        });
        for found in found {
            sources.apply(Change::Found(Box::new(found)), settings);
        }
        (sources, reports)
    }

    /// Follows a change of the plugin directory. A source whose new file is refused goes on as it was, from its private copy; one without is ended.
    pub fn apply(&mut self, change: Change, settings: &Settings) -> Moves {
        self.changed = true;
        let mut moves = Moves::default();
        match change {
            Change::Removed { file } => {
                let reason = "its file was removed";
                self.idle.remove(&file);
                for (_, source) in self.take_out(|r| r.file == file, &mut moves) {
                    info!(source, file, "{reason}");
                    let about = idle(source, SourceState::Stopped, reason.into(), file.clone());
                    self.rest(about, false);
                }
            }
            Change::Found(found) => self.found(*found, settings, &mut moves),
            Change::Looked => {}
        }
        // What ran before: its file needs no second look to be refused.
        let displaced = self.displaced.take();
        if !moves.gone.is_empty() {
            let waiting = self.idle.iter().filter(|(_, i)| i.duplicate);
            let waiting = waiting.filter(|(file, _)| displaced.as_ref() != Some(file));
            moves.again = waiting.map(|(file, _)| file.clone()).collect();
        }
        moves
    }

    fn found(&mut self, found: Found, settings: &Settings, moves: &mut Moves) {
        let file = found.file();
        self.idle.remove(&file);
        let loaded = match found.verdict {
            Ok(loaded) => loaded,
            Err(refusal) => return self.refused(file, &refusal, settings, moves),
        };
        if loaded.name == own::NAME {
            let refusal = Refusal::Duplicate {
                name: loaded.name,
                by: "the agent itself".into(),
            };
            return self.refused(file, &refusal, settings, moves);
        }
        let same = |r: &&mut Running| {
            r.file == file
                && r.name == loaded.name
                && (r.copy.is_some() && r.copy == loaded.copy)
                && r.companion == found.companion
        };
        if let Some(running) = self.running.values_mut().find(same) {
            running.note = None; // touched, or written anew with the same content, or no longer refused
            return;
        }
        let other = self
            .running
            .values()
            .find(|r| r.name == loaded.name && r.file != file);
        if let Some((other, rank)) = other.map(|o| (o.file.clone(), &o.rank)) {
            let name = loaded.name.clone();
            if *rank < Rank::of(&loaded, &file) {
                let refusal = Refusal::Duplicate { name, by: other };
                return self.refused(file, &refusal, settings, moves);
            }
            self.take_out(|r| r.file == other, moves);
            let by = file.clone();
            let refusal = Refusal::Duplicate { name, by };
            self.refused(other.clone(), &refusal, settings, moves);
            self.displaced = Some(other);
        }
        self.idle
            .retain(|_, i| i.about.name != loaded.name || i.about.state != SourceState::Stopped);
        let before = self.take_out(|r| r.file == file, moves);
        if !settings.source(&loaded.name).enabled {
            return self.switched_off(loaded.name, file);
        }
        let mut loaded = loaded;
        if let (false, Kind::Inline(plugin)) = (before.is_empty(), &loaded.kind) {
            self.replaced += 1;
            if self.replaced > MAX_INLINE_REPLACED {
                let hosted = super::host::HostedPlugin {
                    path: plugin.path.clone(),
                    file: file.clone(),
                    limits: settings.limits_of(&loaded.name),
                };
                loaded.kind = Kind::Process(hosted, plugin.abi);
            }
        }
        let interval = settings.interval_of(&loaded.name, loaded.preferred_interval);
        let number = self.add(loaded, found.companion, file, settings, interval);
        moves.new.push((number, interval));
    }

    fn refused(&mut self, file: String, refusal: &Refusal, settings: &Settings, moves: &mut Moves) {
        let name = name_by_file(&file);
        if !settings.source(&name).enabled {
            self.take_out(|r| r.file == file, moves);
            return self.switched_off(name, file);
        }
        warn!(file, reason = %refusal, "plugin refused");
        // Without a copy, what runs is the very file that was refused.
        self.take_out(|r| r.file == file && r.copy.is_none(), moves);
        if let Some(running) = self.running.values_mut().find(|r| r.file == file) {
            running.note = Some(format!(
                "the file was changed, and refused: {refusal}; the source runs as it was before"
            ));
            return;
        }
        let duplicate = matches!(refusal, Refusal::Duplicate { .. });
        let mut reason = refusal.to_string();
        if refusal.may_pass() {
            reason.push_str("; it is tried again, ever more seldom");
        }
        let about = idle(file.clone(), SourceState::Failing, reason, file);
        self.rest(about, duplicate);
    }

    fn switched_off(&mut self, name: String, file: String) {
        info!(source = name, "source is switched off");
        let reason = "switched off in the configuration".to_owned();
        self.rest(idle(name, SourceState::Stopped, reason, file), false);
    }

    fn rest(&mut self, about: SourceAbout, duplicate: bool) {
        let file = about.file.clone().unwrap_or_default();
        self.idle.insert(file, Idle { about, duplicate });
    }

    /// Ends these sources after their present round; their numbers and names.
    fn take_out(
        &mut self,
        which: impl Fn(&Running) -> bool,
        moves: &mut Moves,
    ) -> Vec<(usize, String)> {
        let some = self.running.iter().filter(|(_, r)| which(r));
        let out: Vec<_> = some.map(|(number, r)| (*number, r.name.clone())).collect();
        for (number, _) in &out {
            if let Some(running) = self.running.remove(number) {
                drop(running.thread.map(SourceThread::stop)); // it may be stuck: nobody waits for it
            }
            moves.gone.push(*number);
        }
        out
    }

    /// Takes these sources out; their files are to be looked at again.
    pub fn restart(&mut self, names: &[String]) -> Moves {
        self.changed = true;
        let mut moves = Moves::default();
        let known: Vec<String> = (self.running.values().map(|r| &r.file))
            .chain(self.idle.keys())
            .cloned()
            .collect();
        self.take_out(|r| names.contains(&r.name), &mut moves);
        self.idle
            .retain(|_, i| !names.contains(&i.about.name) || i.about.state != SourceState::Stopped);
        let left: Vec<&String> = (self.running.values().map(|r| &r.file))
            .chain(self.idle.keys())
            .collect();
        moves.again = known
            .into_iter()
            .filter(|file| !left.contains(&file))
            .collect();
        moves
    }

    /// An operator wants a source to be tried again now, by its name or its file's; gives the file that has to be looked at again for that, if it has no running source.
    ///
    /// # Errors
    /// For an operator: there is none such.
    pub fn readmit(&mut self, name: &str) -> Result<Option<String>, String> {
        let wanted = |r: &&mut Running| r.name == name || r.file == name;
        if let Some(running) = self.running.values_mut().find(wanted) {
            self.changed |= running.supervised.readmit(Instant::now());
            return Ok(None);
        }
        if self.idle.contains_key(name) {
            return Ok(Some(name.to_owned()));
        }
        let idle = self.idle.iter().find(|(_, i)| i.about.name == name);
        if let Some((file, _)) = idle {
            return Ok(Some(file.clone()));
        }
        let all = self.names().chain(self.idle.keys().map(String::as_str));
        Err(format!(
            "no source or file is called {name:?}; there are: {}",
            all.collect::<Vec<_>>().join(", ")
        ))
    }

    /// Private copies that sources run from.
    #[must_use]
    pub fn copies(&self) -> Vec<PathBuf> {
        let each = self.running.values();
        each.filter_map(|r| r.copy.clone()).collect()
    }

    fn add(
        &mut self,
        loaded: Loaded,
        companion: Vec<i128>,
        file: String,
        settings: &Settings,
        interval: Duration,
    ) -> usize {
        let config = settings.config_of(&loaded.name);
        let own = settings.timeout_of(&loaded.name);
        let (deadline, limit) = patience(own, || (self.deadline)(interval), &loaded.kind);
        let mut running = Running {
            name: loaded.name.clone(),
            version: loaded.version.clone(),
            rank: Rank::of(&loaded, &file),
            file,
            isolation: loaded.kind.isolation(),
            interval,
            thread: None,
            supervised: Supervised::new(&loaded.name, deadline),
            made: Made::default(),
            copy: loaded.copy.clone(),
            companion,
            note: None,
        };
        let number = self.next;
        self.next += 1;
        info!(
            source = running.name,
            file = running.file,
            version = running.version,
            abi = loaded.kind.interface(),
            isolation = running.isolation,
            ?interval,
            "source loaded"
        );
        match SourceThread::spawn(number, loaded, config, limit, self.reports.clone()) {
            Ok(thread) => running.thread = Some(thread),
            Err(e) => {
                let reason = format!("no thread could be started for it: {e}");
                running.supervised.lost(Instant::now(), reason);
            }
        }
        self.running.insert(number, running);
        number
    }

    /// Names of the running sources, by number.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.running.values().map(|r| r.name.as_str())
    }

    /// Names that the configuration may speak of: those of the running sources, and of files without a source as far as they tell.
    #[must_use]
    pub fn known(&self) -> Vec<String> {
        let idle = self.idle.iter().map(|(file, i)| match i.about.state {
            SourceState::Stopped => i.about.name.clone(),
            _ => name_by_file(file),
        });
        self.names().map(str::to_owned).chain(idle).collect()
    }

    /// Intervals of the running sources, with their numbers.
    pub fn intervals(&self) -> impl Iterator<Item = (usize, Duration)> {
        self.running.iter().map(|(number, r)| (*number, r.interval))
    }

    /// How many sources are in each state.
    #[must_use]
    pub fn count_states(&self) -> Vec<(&'static str, usize)> {
        let running = self.running.values().map(|r| r.supervised.state());
        let idle = self.idle.values().map(|i| i.about.state);
        let all: Vec<SourceState> = running.chain(idle).collect();
        let of = |state| all.iter().filter(|s| **s == state).count();
        vec![
            ("ok", of(SourceState::Ok)),
            ("unavailable", of(SourceState::Unavailable)),
            ("failing", of(SourceState::Failing)),
            ("quarantined", of(SourceState::Quarantined)),
            ("stopped", of(SourceState::Stopped)),
        ]
    }

    /// How long the last answered round of each source took.
    #[must_use]
    pub fn rounds(&self) -> Vec<(&str, Duration)> {
        let each = self.running.values();
        each.filter_map(|r| Some((r.name.as_str(), r.supervised.took()?)))
            .collect()
    }

    /// How often each running source has crashed since it was loaded; those that never did are left out.
    pub fn crashes(&self) -> impl Iterator<Item = (&str, u64)> {
        let each = self.running.values();
        let each = each.map(|r| (r.name.as_str(), r.supervised.crashes()));
        each.filter(|(_, crashes)| *crashes > 0)
    }

    /// Where each running source runs: name, `inline`, `process` or `exec`.
    pub fn isolations(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.running
            .values()
            .map(|r| (r.name.as_str(), r.isolation))
    }

    /// States and reasons of the running sources, by number.
    pub fn states(&self) -> impl Iterator<Item = (SourceState, Option<String>)> {
        self.running
            .values()
            .map(|r| (r.supervised.state(), r.reason()))
    }

    /// Asks a source for a round, if it may be asked now.
    pub fn ask(&mut self, index: usize, tick: TimestampMs, now: Instant) -> bool {
        let Some(running) = self.running.get_mut(&index) else {
            return false;
        };
        let may = running.supervised.may_ask(now);
        let asked = may && running.thread.as_ref().is_some_and(|t| t.ask(tick));
        if asked {
            running.supervised.asked(now);
        } else if may {
            let reason = "its thread has ended".to_owned();
            self.changed |= running.supervised.lost(now, reason);
        }
        asked
    }

    /// Takes a report; gives the frame to publish, if there is one.
    pub fn take(&mut self, report: Report, now: Instant) -> Option<Frame> {
        match report {
            Report::Made { source, made } => {
                let running = self.running.get_mut(&source)?;
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
                let running = self.running.get_mut(&source)?;
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
        for running in self.running.values_mut() {
            self.changed |= running.supervised.check(now);
        }
    }

    /// When the next awaited round becomes overdue.
    #[must_use]
    pub fn next_overdue(&self) -> Option<Instant> {
        let each = self.running.values();
        each.filter_map(|r| r.supervised.overdue_at()).min()
    }

    /// True while a round is awaited that is not overdue.
    #[must_use]
    pub fn is_awaiting(&self) -> bool {
        self.running.values().any(|r| r.supervised.is_awaited())
    }

    /// True once after a state, a reason or a description changed.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Everything for an `about` message.
    #[must_use]
    pub fn about(&self) -> (Vec<SourceAbout>, Vec<DescriptorText>) {
        let running = self.running.values().map(|r| SourceAbout {
            name: r.name.clone(),
            state: r.supervised.state(),
            reason: r.reason(),
            interval_ms: u64::try_from(r.interval.as_millis()).unwrap_or(u64::MAX),
            version: r.version.clone(),
            file: Some(r.file.clone()),
            facts: r.made.facts.clone(),
        });
        let descriptors = self.running.values().flat_map(|r| &r.made.descriptors);
        (
            running
                .chain(self.idle.values().map(|i| i.about.clone()))
                .collect(),
            descriptors.map(DescriptorText::from).collect(),
        )
    }

    /// Unit of a leaf, by its path from the device's root.
    #[must_use]
    pub fn unit(&self, path: &devmon_core::MetricPath) -> Option<&str> {
        let first = path.segments().next()?;
        let running = self.running.values().find(|r| r.name == first)?;
        devmon_core::descriptor::best_match(&running.made.descriptors, path)
            .map(|d| d.unit.as_str())
    }

    /// Ends all threads that are not stuck in their plugin, within the limit.
    pub async fn stop(self, limit: Duration) {
        let until = Instant::now() + limit;
        let stopping: Vec<(String, JoinHandle<()>)> = self
            .running
            .into_values()
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

/// How long the daemon waits for a round, and after what time a process is killed for it. A timeout that somebody wrote down is meant to the letter: what comes later is the daemon's word.
fn patience(
    own: Option<Duration>,
    usual: impl Fn() -> Duration,
    kind: &Kind,
) -> (Duration, Duration) {
    match (own, kind) {
        (Some(timeout), Kind::Inline(_)) => (timeout, timeout),
        (Some(timeout), Kind::Process(..) | Kind::Exec(_)) => (timeout + KILL_EARLIER, timeout),
        (None, _) => {
            let deadline = usual();
            (deadline, deadline.saturating_sub(KILL_EARLIER))
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
pub fn unknown(settings: &Settings, known: &[String]) -> Vec<String> {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let wanted = settings.sources.iter().filter(|(_, s)| s.enabled);
    wanted
        .map(|(name, _)| name)
        .filter(|name| *name != own::NAME && !known.contains(&name.as_str()))
        .map(|name| match nearest(name, &known) {
            Some(near) => format!(
                "[sources.{name}] is configured, but no plugin is called so; did you mean {near:?}?"
            ),
            None => format!("[sources.{name}] is configured, but no plugin is called so"),
        })
        .collect()
}

#[cfg(test)]
mod tests;

//! What the child said, made into findings. Pure: nothing is started or measured here.
//!
//! The rules of names, units, kinds and values are devmon-core's ([`rules`]); limits of trees are those that the agent refuses by. What only many rounds show is kept
//! here: counters that fall, types that change, paths that come and go, time, growth.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use devmon_core::descriptor::{Descriptor, DescriptorText, Kind};
use devmon_core::path::{MAX_DEPTH, MAX_NAME_BYTES, MetricPath, check_name};
use devmon_core::rules::{self, Breach};
use devmon_core::tree::{MAX_LEAVES, MAX_TEXT_BYTES};
use devmon_core::{MetricTree, Node, Value};
use serde_json::Value as Json;

use super::child::STACK_BYTES;
use super::report::{Findings, Level, Report, Speed, growth, time};
use super::said::{Came, Phase, Said, Sizes};
use super::watch::{Ending, How, MAX_MEMORY_BYTES};
use crate::plugins::supervise::MIN_DEADLINE;

/// A tree with more leaves lists things rather than measures; each leaf is a series that is kept for years.
const MANY_LEAVES: usize = 1000;
/// Different paths over all rounds, above those of the largest round: a disk may come, but not one each round.
const STRAY_PATHS: usize = 20;
/// Paths that are remembered; a plugin beyond this has made its point.
const MAX_PATHS: usize = 4 * MAX_LEAVES;
/// Slower than this at the 99th percentile, a source costs what it shows at an interval of 1 s.
const SLOW: Duration = Duration::from_millis(100);
/// Growth of memory that no allocator's habit explains.
const LEAK_BYTES: i64 = 128 * 1024;
/// More open files or threads than when warmed up; one may be a connection that came back.
const LEAK_COUNT: i64 = 4;
/// Fewer rounds say nothing about leaks.
const LEAK_ROUNDS: u32 = 50;

/// A path over all rounds.
struct Seen {
    /// Index of its descriptor.
    descriptor: Option<usize>,
    type_name: &'static str,
    /// Of a counter.
    last: Option<f64>,
}

/// Gathers findings.
pub(super) struct Judge {
    report: Report,
    rounds_wanted: u32,
    descriptors: Vec<Descriptor>,
    is_used: Vec<bool>,
    seen: BTreeMap<MetricPath, Seen>,
    times: Vec<u64>,
    sizes: Vec<Sizes>,
    trees: usize,
    empty: usize,
    /// Rounds that gave a reason: how often, and the first words.
    failed: (usize, String),
    unavailable: (usize, String),
    has_panicked: bool,
    is_c: bool,
}

impl Judge {
    pub(super) fn new(file: &Path, rounds: u32) -> Self {
        let mut judge = Self {
            report: Report {
                file: file.display().to_string(),
                ..Report::default()
            },
            rounds_wanted: rounds,
            descriptors: Vec::new(),
            is_used: Vec::new(),
            seen: BTreeMap::new(),
            times: Vec::new(),
            sizes: Vec::new(),
            trees: 0,
            empty: 0,
            failed: (0, String::new()),
            unavailable: (0, String::new()),
            has_panicked: false,
            is_c: false,
        };
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if !(name.starts_with("lib") && name.ends_with(".so")) {
            let problem = "the agent does not look at a file of this name";
            judge.wrong("file", problem, "name it lib<name>.so");
        }
        judge
    }

    /// Takes the next thing that the child said.
    pub(super) fn take(&mut self, said: Said) {
        match said {
            Said::Begins(_) | Said::Done => {}
            Said::Refused {
                rule,
                reason,
                missing,
            } => self.refused(&rule, &reason, &missing),
            Said::Loaded { name, version, abi } => {
                self.is_c = abi.starts_with('C');
                self.report.source = Some(name);
                self.report.version = version;
                self.report.abi = Some(abi);
            }
            Said::NotMade {
                again: false,
                reason,
            } => {
                let problem = format!("no source could be made: {reason}");
                let advice = "if it needs options, give them: --config '{…}'; if not, let new succeed with {} and report what is missing from collect";
                self.wrong("start", &problem, advice);
            }
            Said::NotMade {
                again: true,
                reason,
            } => {
                let problem = format!(
                    "a second source could not be made after the first was dropped: {reason}"
                );
                let advice = "release everything when a source is dropped: the agent makes it anew after a panic and at a reload";
                self.wrong("start", &problem, advice);
            }
            Said::Described(texts) => self.described(texts),
            Said::Round { took_ns, came } => {
                self.times.push(took_ns);
                self.round(came);
            }
            Said::Sizes(sizes) => self.sizes.push(sizes),
            Said::Stopped { rounds } if self.trees > 0 => {
                let problem = format!(
                    "{rounds} of {} rounds were run in a minute",
                    self.rounds_wanted
                );
                self.look(
                    "speed",
                    &problem,
                    "nothing, if its rounds must take that long",
                );
            }
            Said::Stopped { .. } => {}
        }
    }

    fn refused(&mut self, rule: &str, reason: &str, missing: &[String]) {
        // All five missing is another kind of file, not an unfinished plugin.
        if (1..5).contains(&missing.len()) {
            let problem = format!("lacks {}", missing.join(", "));
            let advice = "define and export them as devmon_plugin.h declares (not static, in C++ extern \"C\")";
            return self.wrong("entry", &problem, advice);
        }
        let advice = match rule {
            "file" => {
                "give a shared library (.so) that was built for this machine and copied whole"
            }
            "load" => {
                "link what it needs: build with -shared -fPIC and -Wl,--no-undefined, and see ldd for missing libraries"
            }
            "entry" => {
                "in Rust use export_plugin! in a cdylib; in C define the functions of devmon_plugin.h"
            }
            "name" => "name the source with 1 to 128 bytes without NUL",
            _ => "rebuild it with the devmon-core (or devmon_plugin.h) of this agent's release",
        };
        self.wrong(rule, reason, advice);
    }

    fn described(&mut self, texts: Result<Vec<DescriptorText>, String>) {
        let parsed = texts.and_then(|texts| {
            let each = texts.into_iter().map(Descriptor::try_from);
            each.collect::<Result<Vec<_>, _>>()
                .map_err(|e| e.to_string())
        });
        match parsed {
            Ok(descriptors) => {
                for breach in rules::check_descriptors(&descriptors) {
                    self.breach(&breach);
                }
                self.is_used = vec![false; descriptors.len()];
                self.descriptors = descriptors;
            }
            Err(e) => {
                let advice = "correct it; until then nothing of it is described";
                self.wrong(
                    "described",
                    &format!("its descriptors can not be read: {e}"),
                    advice,
                );
            }
        }
    }

    fn round(&mut self, came: Came) {
        match came {
            Came::NoData => {}
            Came::Unavailable(reason) => count(&mut self.unavailable, reason),
            Came::Failed { reason, text } => {
                if let Some(json) = text.and_then(|text| serde_json::from_str(&text).ok()) {
                    // The agent stops at the first thing; here they are all.
                    self.tree(&json);
                }
                count(&mut self.failed, reason);
            }
            Came::Panicked(text) => {
                self.has_panicked = true;
                let problem = format!("collect panicked in round {}: {text}", self.times.len());
                self.wrong("panic", &problem, "return CollectError instead; the source is made anew after each panic, ever more seldom");
            }
            Came::Tree {
                leaves,
                tree,
                not_finite,
                unknown,
            } => {
                self.trees += 1;
                self.report.leaves = self.report.leaves.max(leaves);
                self.empty += usize::from(leaves == 0);
                for path in not_finite {
                    let advice = "leave the leaf out when there is no number";
                    self.at(
                        Level::Wrong,
                        "value",
                        &path,
                        "is not a finite number",
                        advice,
                    );
                }
                if unknown > 0 {
                    let problem = "gives values of kinds that this agent does not know";
                    self.look(
                        "abi",
                        problem,
                        "check it with the agent that it was built for",
                    );
                }
                if let Some(tree) = tree {
                    self.tree(&tree);
                }
            }
        }
    }

    /// Looks at a tree: limits first, then what is within them.
    fn tree(&mut self, json: &Json) {
        let mut tree = MetricTree::new();
        let mut leaves = 0;
        match json {
            Json::Object(_) => within_limits(
                json,
                "",
                1,
                &mut leaves,
                &mut tree,
                &mut self.report.findings,
            ),
            _ => {
                let problem = "what collect returned is no JSON object";
                self.wrong("tree", problem, "return an object: {\"name\": 1}");
            }
        }
        if leaves > MAX_LEAVES {
            let problem = format!(
                "more than {MAX_LEAVES} leaves in one round: the agent refuses the whole tree"
            );
            self.wrong(
                "cardinality",
                &problem,
                "measure fewer things, or sum them up",
            );
        }
        for (path, value) in tree.leaves() {
            self.leaf(path, value);
        }
    }

    fn leaf(&mut self, path: MetricPath, value: &Value) {
        let known = self.seen.get_mut(&path);
        let descriptor = match &known {
            Some(seen) => seen.descriptor,
            None => {
                let best = devmon_core::descriptor::best_match(&self.descriptors, &path);
                best.and_then(|best| self.descriptors.iter().position(|d| std::ptr::eq(d, best)))
            }
        };
        let described = descriptor.and_then(|i| self.descriptors.get(i));
        let found = rules::check_leaf(described, &path, value);
        let is_counter = described.is_some_and(|d| d.kind == Kind::Counter);
        let last = is_counter.then(|| value.as_f64()).flatten();
        let type_name = match value {
            Value::Float(_) | Value::Integer(_) => "number", // one that is whole now and then is an integer in JSON
            _ => value.type_name(),
        };
        let (mut fell, mut changed) = (false, None);
        if let Some(seen) = known {
            fell = matches!((seen.last, last), (Some(before), Some(now)) if now < before);
            if seen.type_name != type_name {
                changed = Some(format!("was a {}, then a {type_name}", seen.type_name));
            }
            (seen.last, seen.type_name) = (last, type_name);
        } else if self.seen.len() < MAX_PATHS {
            let seen = Seen {
                descriptor,
                type_name,
                last,
            };
            self.seen.insert(path.clone(), seen);
            if let Some(i) = descriptor {
                self.is_used[i] = true;
            }
        }
        for breach in &found {
            self.breach(breach);
        }
        let at = path.as_str();
        if fell {
            let advice =
                "return the raw count since the start; what can fall is a gauge, without _total";
            self.at(Level::Wrong, "counter", at, "a counter fell", advice);
        }
        if let Some(problem) = changed {
            self.at(
                Level::Wrong,
                "kind",
                at,
                &problem,
                "give a path values of one type",
            );
        }
    }

    /// The child has ended.
    pub(super) fn close(mut self, ending: Ending) -> Report {
        self.judge_ending(&ending);
        let was_made = self.report.source.is_some() && !self.times.is_empty();
        if was_made {
            self.judge_rounds(ending.how == How::Done);
            self.judge_speed();
        }
        self.judge_sizes();
        // Its last words belong to a crash, and are in the finding.
        if ending.how == How::Done && !self.has_panicked {
            for (name, text) in ["standard output", "standard error"]
                .iter()
                .zip(&ending.printed)
            {
                if let Some(line) = text.lines().find(|l| !l.trim().is_empty()) {
                    let problem = format!("prints to {name}: {:?}", short(line));
                    let advice = "return text as an error or leave it: in the agent this is mixed into its log";
                    self.look("prints", &problem, advice);
                }
            }
        }
        self.report.rounds = self.times.len();
        self.report
    }

    fn judge_ending(&mut self, ending: &Ending) {
        let phase = ending.phase;
        let where_ = match phase {
            Phase::Collect => format!("{phase}, round {}", self.times.len() + 1),
            _ => phase.to_string(),
        };
        let words = ending.printed[1]
            .lines()
            .rev()
            .find(|l| !l.trim().is_empty());
        let words = words.map_or(String::new(), |l| format!("; last words: {:?}", short(l)));
        let (rule, problem, advice) = match ending.how {
            How::Done => return,
            How::Hung(deadline) => (
                "hang",
                format!("did not return for {} {where_}", time(deadline)),
                "give every read and every lock a time limit; the agent calls the source failing and asks it no more until it returns".to_owned(),
            ),
            How::TooLarge(size) => (
                "memory",
                format!("held {} MiB {where_}; it was ended at {} MiB", size >> 20, MAX_MEMORY_BYTES >> 20),
                "free what a round allocates, and bound what is read".to_owned(),
            ),
            How::Killed(_) if words.contains("stack overflow") => (
                "crash",
                format!("ran out of stack {where_}"),
                format!("put large arrays on the heap and bound recursion: a source has {} KiB of stack", STACK_BYTES >> 10),
            ),
            How::Killed(signal) => (
                "crash",
                format!("crashed with {} {where_}{words}", signal_name(signal)),
                match signal {
                    6 => "find the abort or failed assertion; in Rust build with panic = \"unwind\"".to_owned(),
                    _ => "run it under gdb or valgrind".to_owned(),
                },
            ),
            How::Exited(code) => (
                "crash",
                format!("ended the process with exit code {code} {where_}{words}"),
                "never call exit in a plugin; let no panic or exception leave its functions".to_owned(),
            ),
        };
        self.wrong(rule, &problem, &advice);
    }

    fn judge_rounds(&mut self, is_whole: bool) {
        let rounds = self.times.len();
        let (failed, reason) = std::mem::take(&mut self.failed);
        if failed > 0 {
            let problem = format!(
                "collect failed in {failed} of {rounds} rounds, first with: {}",
                short(&reason)
            );
            let advice = if reason.starts_with("invalid_") || reason.contains("UTF-8") {
                "return one JSON object in UTF-8, numbers finite, quotes and backslashes in texts escaped"
            } else {
                "leave out a single value that can not be read; fail only where nothing can be"
            };
            self.wrong("failed", &problem, advice);
        }
        let (unavailable, reason) = std::mem::take(&mut self.unavailable);
        if unavailable > 0 {
            let problem = format!(
                "unavailable in {unavailable} of {rounds} rounds: {}",
                short(&reason)
            );
            let advice = "check it again on a machine that has what it measures: names and values could not be judged here";
            self.look("unavailable", &problem, advice);
        }
        let had_answer = failed + unavailable > 0 || self.has_panicked || !is_whole;
        if self.trees == 0 && !had_answer {
            let problem = format!("none of {rounds} rounds had data");
            let advice = if self.is_c {
                "return a tree; where there is none for a reason, say the reason from devmon_plugin_error"
            } else {
                "return a tree; where there is none for a reason, return CollectError::Unavailable or Failed with it"
            };
            self.wrong("no-data", &problem, advice);
        }
        if self.trees > 0 && self.trees == self.empty {
            self.wrong(
                "no-data",
                "no tree had a leaf",
                "set values; where there are none, return no data and say why",
            );
        }
        if self.descriptors.is_empty() && self.trees > 0 {
            let advice = if self.is_c {
                "define devmon_plugin_describe: without unit and help a chart means nothing"
            } else {
                "write metrics.toml: without unit and help a chart means nothing"
            };
            self.wrong("described", "describes nothing", advice);
        }
        if self.trees > self.empty {
            let unused = self
                .descriptors
                .iter()
                .zip(&self.is_used)
                .filter(|(_, used)| !**used);
            let unused: Vec<_> = unused.map(|(d, _)| d.template.to_string()).collect();
            for at in unused {
                let advice = "remove it, or correct its path, unless it is for hardware or errors that are not here";
                self.at(
                    Level::Look,
                    "described",
                    &at,
                    "no leaf of any round is described by it",
                    advice,
                );
            }
        }
        if (MANY_LEAVES + 1..=MAX_LEAVES).contains(&self.report.leaves) {
            let problem = format!("{} leaves in a round", self.report.leaves);
            self.look("cardinality", &problem, "each is a series that is kept for years: measure the most important, or sum them up");
        }
        let paths = self.seen.len();
        if paths > self.report.leaves + self.report.leaves / 2 + STRAY_PATHS {
            let problem = format!(
                "{paths} different paths in {rounds} rounds of at most {} leaves",
                self.report.leaves
            );
            let advice = "keep what changes (process ids, times, counters) out of names: each new path is a new series";
            self.wrong("cardinality", &problem, advice);
        }
    }

    fn judge_speed(&mut self) {
        let mut times = std::mem::take(&mut self.times);
        let rounds = times.len();
        times.sort_unstable();
        let at = |part: usize| Duration::from_nanos(times[(rounds * part / 100).min(rounds - 1)]);
        let speed = Speed {
            p50: at(50),
            p99: at(99),
            max: at(100),
        };
        if speed.max >= MIN_DEADLINE {
            let problem = format!("a round took {}", time(speed.max));
            let advice = "answer within the interval: the agent gives up after it (2 s at least, 30 s at most) and throws the answer away; do slow work on a thread of your own";
            self.wrong("speed", &problem, advice);
        } else if speed.p99 >= SLOW {
            let problem = format!("one round in a hundred takes {} or longer", time(speed.p99));
            self.look(
                "speed",
                &problem,
                "give it a longer interval (interval_ms in export_plugin!), or read less",
            );
        }
        self.report.speed = Some(speed);
        self.times = times;
    }

    fn judge_sizes(&mut self) {
        let (Some(&first), Some(&last)) = (self.sizes.first(), self.sizes.last()) else {
            return;
        };
        let rounds = last.rounds - first.rounds;
        if rounds < LEAK_ROUNDS {
            return;
        }
        self.report.sizes = Some((first, last));
        let half = self.sizes.get(1).copied().unwrap_or(first);
        let memory = growth(first.memory_bytes, last.memory_bytes);
        // A cache that fills up grows in the first half only.
        let late = growth(half.memory_bytes, last.memory_bytes);
        let is_larger = memory >= LEAK_BYTES && late * 4 >= memory;
        if is_larger {
            let each = memory / i64::from(rounds);
            let problem = format!(
                "memory grew by {} KiB in {rounds} rounds, {each} bytes a round, and did not stop",
                memory / 1024
            );
            let advice = if self.is_c {
                "free what a round allocates: valgrind --leak-check=full names the place; devmon_plugin_free must free the text"
            } else {
                "look for collections that are only added to"
            };
            self.wrong("leak", &problem, advice);
        }
        let mut counted = |what: &str, from: u64, to: u64, advice: &str| {
            let more = growth(from, to);
            if more >= LEAK_COUNT {
                self.wrong(
                    "leak",
                    &format!("{more} more {what} after {rounds} rounds"),
                    advice,
                );
            }
        };
        counted(
            "open files",
            first.files,
            last.files,
            "close what a round opens, on every way out",
        );
        counted(
            "threads",
            first.threads,
            last.threads,
            "keep one thread for as long as the source lives; end it when the source is dropped",
        );
    }

    fn breach(&mut self, breach: &Breach) {
        let level = if breach.rule == "help" {
            Level::Look
        } else {
            Level::Wrong
        };
        self.at(
            level,
            breach.rule,
            &breach.at,
            &breach.problem,
            &breach.advice,
        );
    }

    fn wrong(&mut self, rule: &str, problem: &str, advice: &str) {
        self.at(Level::Wrong, rule, "", problem, advice);
    }

    fn look(&mut self, rule: &str, problem: &str, advice: &str) {
        self.at(Level::Look, rule, "", problem, advice);
    }

    fn at(&mut self, level: Level, rule: &str, at: &str, problem: &str, advice: &str) {
        self.report.findings.add(level, rule, at, problem, advice);
    }
}

fn count(counted: &mut (usize, String), reason: String) {
    if counted.0 == 0 {
        counted.1 = reason;
    }
    counted.0 += 1;
}

/// Rebuilds what the agent would accept of a branch, and tells all that it would not.
fn within_limits(
    json: &Json,
    at: &str,
    depth: usize,
    leaves: &mut usize,
    tree: &mut MetricTree,
    findings: &mut Findings,
) {
    let Json::Object(object) = json else {
        return;
    };
    for (name, below) in object {
        let here = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        let mut wrong = |rule: &str, problem: &str, advice: &str| {
            findings.add(Level::Wrong, rule, short(&here), problem, advice);
        };
        if let Err(e) = check_name(name) {
            let advice = format!("name it with 1 to {MAX_NAME_BYTES} bytes of UTF-8 without NUL");
            wrong(
                "tree",
                &format!("the agent refuses the whole tree: {e}"),
                &advice,
            );
            continue;
        }
        if depth > MAX_DEPTH {
            let problem =
                format!("deeper than {MAX_DEPTH} levels: the agent refuses the whole tree");
            wrong("tree", &problem, "use fewer levels");
            continue;
        }
        let value = match below {
            Json::Object(_) => {
                let branch = tree.branch(name);
                within_limits(below, &here, depth + 1, leaves, branch, findings);
                continue;
            }
            Json::Null => continue, // no leaf
            Json::Array(_) => {
                wrong(
                    "tree",
                    "is an array",
                    "use an object with names that stay: {\"0\": …}",
                );
                continue;
            }
            Json::Bool(x) => Value::Boolean(*x),
            Json::String(x) if x.len() > MAX_TEXT_BYTES => {
                let problem = format!(
                    "text is longer than {MAX_TEXT_BYTES} bytes: the agent refuses the whole tree"
                );
                wrong(
                    "text",
                    &problem,
                    "give a short state or name; logs belong elsewhere",
                );
                continue;
            }
            Json::String(x) => Value::Text(x.clone()),
            Json::Number(x) => match (x.as_i64(), x.as_f64()) {
                (Some(x), _) => Value::Integer(x),
                (None, Some(x)) if below.is_f64() => Value::Float(x),
                _ => {
                    let problem = "is an integer beyond 64 bits: the agent refuses the whole tree";
                    wrong("tree", problem, "write it with a decimal point");
                    continue;
                }
            },
        };
        *leaves += 1;
        if *leaves <= MAX_LEAVES {
            tree.insert(name, Node::Leaf(value));
        }
    }
}

/// The start of a text that may be long.
fn short(text: &str) -> &str {
    let end = text.char_indices().nth(200).map_or(text.len(), |(i, _)| i);
    &text[..end]
}

/// Names of the signals that end a faulty program (signal(7), the same on all architectures of Linux but MIPS and SPARC).
fn signal_name(signal: i32) -> String {
    let name = match signal {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

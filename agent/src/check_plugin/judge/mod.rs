//! What the child said, made into findings. Pure: nothing is started or measured here.
//!
//! The rules of names, units, kinds and values are devmon-core's ([`rules`]); limits of trees are those that the agent refuses by. What only many rounds show is kept
//! here: counters that fall, types that change, paths that come and go; [`close`] judges the whole run at its end.

mod close;
mod limits;

use std::collections::BTreeMap;
use std::path::Path;

use devmon_core::descriptor::{Descriptor, DescriptorText, Kind};
use devmon_core::path::MetricPath;
use devmon_core::rules::{self, Breach};
use devmon_core::tree::MAX_LEAVES;
use devmon_core::{MetricTree, Value};
use serde_json::Value as Json;

use super::report::{Level, Report};
use super::said::{Came, Said, Sizes};
use limits::{within_bytes, within_limits};

/// Paths that are remembered; a plugin beyond this has made its point.
const MAX_PATHS: usize = 4 * MAX_LEAVES;

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
    /// Of the largest tree that the agent refuses.
    refused_leaves: usize,
    /// Rounds that gave a reason: how often, and the first words.
    failed: (usize, String),
    unavailable: (usize, String),
    has_panicked: bool,
    /// The present round came a while after the one before.
    is_spaced: bool,
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
            refused_leaves: 0,
            failed: (0, String::new()),
            unavailable: (0, String::new()),
            has_panicked: false,
            is_spaced: true,
            is_c: false,
        };
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if !(name.starts_with("lib") && name.ends_with(".so")) {
            let problem = "the agent does not take a file of this name for a library";
            let advice = "name it lib<name>.so; an executable is tried out with `devmon-agent collect`, in a plugin directory of its own";
            judge.wrong("file", problem, advice);
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
            Said::Round {
                took_ns,
                is_spaced,
                came,
            } => {
                self.times.push(took_ns);
                self.is_spaced = is_spaced;
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
                let source = self.report.source.clone().unwrap_or_default();
                for d in &descriptors {
                    if let Err(e) = d.clone().below(&source) {
                        let problem = format!("the agent refuses all descriptors: {e}");
                        let at = d.template.to_string();
                        self.at(Level::Wrong, "described", &at, &problem, "use fewer levels");
                    }
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
                    let leaves = self.tree(&json);
                    self.refused_leaves = self.refused_leaves.max(leaves);
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

    /// Looks at a tree: limits first, then what is within them. Gives how many leaves it has.
    fn tree(&mut self, json: &Json) -> usize {
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
        within_bytes(json, &mut self.report.findings);
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
        leaves
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
            // Said once at the end, if it describes nothing at all.
            if breach.rule != "described" || !self.descriptors.is_empty() {
                self.breach(breach);
            }
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

    fn breach(&mut self, breach: &Breach) {
        let (rule, at, advice) = (breach.rule, &breach.at, &breach.advice);
        if rule == "range" && !self.is_spaced {
            // The agent leaves at least 100 ms between rounds.
            let problem = format!(
                "{}, when asked at once after the round before",
                breach.problem
            );
            let advice =
                "leave a rate out while the time since the last round is too short to divide by";
            return self.at(Level::Look, rule, at, &problem, advice);
        }
        let level = if rule == "help" {
            Level::Look
        } else {
            Level::Wrong
        };
        self.at(level, rule, at, &breach.problem, advice);
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

/// The start of a text that may be long.
fn short(text: &str) -> &str {
    let end = text.char_indices().nth(200).map_or(text.len(), |(i, _)| i);
    &text[..end]
}

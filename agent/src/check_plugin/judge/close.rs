//! What the whole run says, once it is over: how it ended, how many rounds had data, how long they took, what grew.

use std::time::Duration;

use devmon_core::tree::MAX_LEAVES;
use devmon_core::wire::refusal::Reason;

use super::{Judge, short};
use crate::check_plugin::child::STACK_BYTES;
use crate::check_plugin::report::{Level, Report, Speed, growth, memory_growth, time};
use crate::check_plugin::said::Phase;
use crate::check_plugin::watch::{Ending, How, MAX_MEMORY_BYTES};
use crate::plugins::host::Limits;
use crate::plugins::supervise::MIN_DEADLINE;

/// A tree with more leaves lists things rather than measures; each leaf is a series that is kept for years.
const MANY_LEAVES: usize = 1000;
/// Different paths over all rounds, above those of the largest round: a disk may come, but not one each round.
const STRAY_PATHS: usize = 20;
/// Slower than this at the 99th percentile, a source costs what it shows at an interval of 1 s.
const SLOW: Duration = Duration::from_millis(100);
/// Growth of memory that no allocator's habit explains: 73 bytes a round over 1000. Sources without a leak stay below 24 KiB.
const LEAK_BYTES: i64 = 64 * 1024;
/// More open files or threads than when warmed up; one may be a connection that came back.
const LEAK_COUNT: i64 = 4;
/// Fewer rounds say nothing about leaks.
const LEAK_ROUNDS: u32 = 50;

impl Judge {
    /// The child has ended.
    pub(in crate::check_plugin) fn close(mut self, ending: Ending) -> Report {
        self.judge_ending(&ending);
        self.judge_memory(&ending);
        if !ending.left.is_empty() && ending.how == How::Done {
            let left = &ending.left;
            let problem = format!(
                "leaves {} running: {}",
                processes(left.len()),
                left.join(", ")
            );
            let advice = "end what it starts when its source is dropped: the agent kills it with the plugin's process, but nobody does where the plugin runs inline";
            self.wrong("leak", short(&problem), advice);
        }
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

    fn judge_memory(&mut self, ending: &Ending) {
        let limit = Limits::default().memory_bytes;
        if ending.memory_bytes <= limit || matches!(ending.how, How::TooLarge(_)) {
            return;
        }
        let (most, limit) = (ending.memory_bytes >> 20, limit >> 20);
        let problem = format!(
            "has {most} MiB of memory; in the agent its limit is {limit} MiB, and it gets no more or is ended"
        );
        let advice = "need less (memory that is only reserved counts, too), or have memory_bytes set in [sources.NAME] on each device";
        self.wrong("memory", &problem, advice);
    }

    fn judge_rounds(&mut self, is_whole: bool) {
        let rounds = self.times.len();
        let (failed, reason) = std::mem::take(&mut self.failed);
        if failed > 0 {
            let problem = format!(
                "collect failed in {failed} of {rounds} rounds, first with: {}",
                short(&reason)
            );
            let is_refused = |r: &Reason| reason.starts_with(r.as_str());
            let is_no_json = reason.starts_with(Reason::InvalidJson.as_str());
            let advice = if !is_no_json && Reason::ALL.iter().any(is_refused) {
                "the agent refuses the whole tree for it: see what else is found, which names everything of that kind"
            } else if is_no_json || reason.contains("UTF-8") {
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
        let (paths, leaves) = (self.seen.len(), self.report.leaves.max(self.refused_leaves));
        if paths > leaves + leaves / 2 + STRAY_PATHS {
            let problem =
                format!("{paths} different paths in {rounds} rounds of at most {leaves} leaves");
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
        let memory = memory_growth(&first, &last);
        // A cache that fills up grows in the first half only.
        let late = memory_growth(&half, &last);
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
}

fn processes(number: usize) -> String {
    match number {
        1 => "a process".to_owned(),
        more => format!("{more} processes"),
    }
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

//! The child of `check-plugin`: the only process that loads the plugin. It says before each step what it begins, so that its end tells where.
//!
//! Standard input is one end of a socket pair: the configuration comes in as the first line, and what is [said](super::said) goes out. Standard output and error belong to the plugin and are
//! listened to. When the checking process goes, so does this one.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use devmon_core::descriptor::DescriptorText;
use devmon_core::wire::json::TreeJson;
use devmon_core::wire::refusal::Reason;

use rustix::process::{Signal, getpgrp, getpid, kill_process_group};

use super::said::{Came, Phase, Said, Sizes};
use crate::plugins::load::{LoadedSource, Plugin, Refusal, Round, load, missing_c_functions};

/// As large as the stack on which the agent runs a source.
pub(super) const STACK_BYTES: usize = 512 * 1024;
/// Rounds at the start that are apart, for sources of rates average over at least 200 ms.
const SPACED_ROUNDS: u32 = 4;
const SPACE: Duration = Duration::from_millis(300);
/// An author waits for the answer.
const MAX_RUN: Duration = Duration::from_secs(60);
/// Rounds in a row without any tree after which there is nothing more to learn.
const MAX_BARREN: u32 = 20;
/// Of larger trees only some rounds are sent: all rounds of 1000 leaves.
const LEAVES_SENT: usize = 1000;
/// Rounds of a large tree that are sent in any case.
const ALWAYS_SENT: u32 = 20;
/// A text that is no tree is sent up to this size, to be looked at more closely.
const MAX_TEXT_SENT: usize = 8 << 20;

/// The hidden subcommand.
#[derive(Debug, clap::Args)]
pub struct Child {
    file: PathBuf,
    rounds: u32,
}

impl Child {
    /// Runs the plugin and says what happens. Ends when the other end of standard input does.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        let Ok(socket) = std::io::stdin().as_fd().try_clone_to_owned() else {
            return ExitCode::FAILURE;
        };
        let socket = UnixStream::from(socket);
        let (mut config, Ok(read)) = (String::new(), socket.try_clone()) else {
            return ExitCode::FAILURE;
        };
        let mut read = BufReader::new(read);
        if read.read_line(&mut config).is_err() {
            return ExitCode::FAILURE;
        }
        let (file, rounds) = (self.file.clone(), self.rounds);
        let worker = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || work(&file, config.trim_end(), rounds, &mut Mouth(socket)));
        let Ok(worker) = worker else {
            return ExitCode::FAILURE;
        };
        // Nothing more comes in; an end is the end of whoever checks, or of the work.
        std::thread::spawn(move || {
            let _ = read.read(&mut [0]);
            // What the plugin started goes with it.
            if getpgrp() == getpid() {
                let _ = kill_process_group(getpid(), Signal::KILL);
            }
            std::process::exit(1);
        });
        match worker.join() {
            Ok(Ok(())) => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}

/// The way out.
struct Mouth(UnixStream);

impl Mouth {
    fn say(&mut self, said: &Said) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(said)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

fn work(file: &Path, config: &str, rounds: u32, mouth: &mut Mouth) -> std::io::Result<()> {
    mouth.say(&Said::Begins(Phase::Load))?;
    let plugin = match load(file) {
        Ok(plugin) => plugin,
        Err(refusal) => {
            let missing = match refusal {
                Refusal::NoEntry | Refusal::MissingFunction(_) => missing_c_functions(file),
                _ => Vec::new(),
            };
            return mouth.say(&Said::Refused {
                rule: rule_of(&refusal).to_owned(),
                reason: refusal.to_string(),
                missing: missing.into_iter().map(str::to_owned).collect(),
            });
        }
    };
    mouth.say(&Said::Loaded {
        name: plugin.name.clone(),
        version: plugin.version.clone(),
        abi: plugin.abi.to_string(),
    })?;
    mouth.say(&Said::Begins(Phase::New))?;
    let mut source = match plugin.start(config) {
        Ok(source) => source,
        Err(reason) => {
            return mouth.say(&Said::NotMade {
                again: false,
                reason,
            });
        }
    };
    mouth.say(&Said::Begins(Phase::Describe))?;
    let descriptors = source.descriptors();
    let texts = descriptors.map(|all| all.iter().map(DescriptorText::from).collect());
    mouth.say(&Said::Described(texts))?;
    let _facts = source.facts();

    mouth.say(&Said::Begins(Phase::Collect))?;
    let sound = ask(&mut source, rounds, mouth)?;
    mouth.say(&Said::Begins(Phase::Drop))?;
    drop(source);
    if sound {
        mouth.say(&Said::Begins(Phase::NewAgain))?;
        make_again(&plugin, config, mouth)?;
    }
    mouth.say(&Said::Done)?;
    mouth.say(&Said::Begins(Phase::End))
}

/// The agent makes a source anew after a panic and at a reload.
fn make_again(plugin: &Plugin, config: &str, mouth: &mut Mouth) -> std::io::Result<()> {
    match plugin.start(config) {
        Ok(mut source) => {
            let _answer = source.collect();
            Ok(())
        }
        Err(reason) => mouth.say(&Said::NotMade {
            again: true,
            reason,
        }),
    }
}

/// Asks for the rounds. False if the source must not be used again.
fn ask(source: &mut LoadedSource, rounds: u32, mouth: &mut Mouth) -> std::io::Result<bool> {
    let start = Instant::now();
    let mut barren = 0;
    for round in 1..=rounds {
        let began = Instant::now();
        let answer = source.collect();
        let took_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let panicked = matches!(answer, Round::Panicked(_));
        barren = if matches!(answer, Round::Tree(..)) {
            0
        } else {
            barren + 1
        };
        let came = came(answer, round, source);
        let is_spaced = round <= SPACED_ROUNDS + 1;
        mouth.say(&Said::Round {
            took_ns,
            is_spaced,
            came,
        })?;
        if panicked {
            return Ok(false);
        }
        // Warmed up, half-way, at the end: a leak goes on, a cache does not.
        if [rounds.div_ceil(10), rounds.div_ceil(2), rounds].contains(&round) {
            mouth.say(&Said::Sizes(sizes(round)))?;
        }
        let is_last = round == rounds;
        if !is_last && (barren >= MAX_BARREN || start.elapsed() > MAX_RUN) {
            mouth.say(&Said::Sizes(sizes(round)))?;
            mouth.say(&Said::Stopped { rounds: round })?;
            break;
        }
        if round <= SPACED_ROUNDS && !is_last {
            std::thread::sleep(SPACE);
        }
    }
    Ok(true)
}

fn came(answer: Round, round: u32, source: &mut LoadedSource) -> Came {
    match answer {
        Round::Tree(mut tree, unknown) => {
            let not_finite = tree.remove_non_finite();
            let mut leaves = 0;
            tree.visit(&mut String::new(), &mut |_, _| leaves += 1);
            let every = 1 + leaves / LEAVES_SENT;
            let is_sent = round <= ALWAYS_SENT || (round as usize).is_multiple_of(every);
            Came::Tree {
                leaves,
                tree: is_sent.then(|| serde_json::to_value(TreeJson(&tree)).unwrap_or_default()),
                not_finite,
                unknown,
            }
        }
        Round::NoData => Came::NoData,
        Round::Unavailable(reason) => Came::Unavailable(reason),
        Round::Failed(reason) => {
            let is_refused = Reason::ALL.iter().any(|r| reason.starts_with(r.as_str()));
            let text = is_refused.then(|| source.collect_text()).flatten();
            Came::Failed {
                reason,
                text: text.filter(|text| text.len() <= MAX_TEXT_SENT),
            }
        }
        Round::Panicked(text) => Came::Panicked(text),
    }
}

/// The rule of a finding that a refusal is.
fn rule_of(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotARegularFile | Refusal::Unreadable(_) | Refusal::NotALibrary(_) => "file",
        Refusal::Dlopen(_) => "load",
        Refusal::NoEntry | Refusal::MissingFunction(_) => "entry",
        Refusal::Name(_) => "name",
        _ => "abi",
    }
}

/// As the kernel says; a process can always read its own. Memory is counted page by page (`smaps_rollup`): the counters in `status` are not exact (proc(5)). What leaks into pages that an
/// earlier round left free shows in the allocator's own count only.
fn sizes(rounds: u32) -> Sizes {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let (status, pages) = (read("/proc/self/status"), read("/proc/self/smaps_rollup"));
    let number = |text: &str, name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        line?.split_whitespace().next()?.parse::<u64>().ok()
    };
    let field = |name: &str| number(&status, name).unwrap_or(0);
    let memory_kib = number(&pages, "Anonymous:").unwrap_or_else(|| field("RssAnon:"));
    Sizes {
        rounds,
        memory_bytes: memory_kib * 1024,
        allocated_bytes: crate::footprint::allocated_bytes(),
        files: std::fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64),
        threads: field("Threads:"),
    }
}

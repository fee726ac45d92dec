//! `cargo xtask soak`: a real collector under load, killed with -9 at random moments, again and again; and that nothing acknowledged is ever missing or doubled.
//!
//! Each loop starts the collector on the same data, with other bounds for sealing and archiving, sends a bounded number of messages and kills: while it starts, at a random moment
//! under load or behind it, or, in every second loop, shortly after it began to seal, to archive a day, to make one coarser, to clean up behind that, or to remove one. The messages are new ones in the
//! order of time, such as were left out before, ones that were sent to the last life without an acknowledgement, and repeats, by their own name and by another.
//!
//! Time is synthetic: the devices' clock begins [`CALENDAR_DAYS`] ago and runs as fast as they send, a day in some ten loops. Each start counts the ages of the tiers from where that clock
//! has come to ([`Kept`]), so for the store days close, become files, lose their samples, their minutes, and go, as they do in years. Every [`Soak::check_every`] loops and at
//! the end all that is kept is read back (`check`) and `devmon-collector verify` is asked.
//!
//! What fails keeps the data and names the seed. Only children of its own are killed, by pid.

mod check;
mod ledger;
mod retention;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use crate::collector::{Collector, Said};
use crate::load::{self, Link, Message, Random, Script, Shape, Tally, Turn, now_ms};
use ledger::{FRAMES, Ledger, SLOTS, chunk_of, message, renamed};

const METRICS: u32 = 10;
const CONNECTIONS: u32 = 3;
/// Of the synthetic time.
const STEP_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;
/// How long samples, minutes and hours are kept.
const RAW_MS: i64 = 2 * DAY_MS;
const MINUTES_MS: i64 = 4 * DAY_MS;
const HOURS_MS: i64 = 6 * DAY_MS;
/// The synthetic time begins so long ago; where it comes up to now, nothing new is sent.
const CALENDAR_DAYS: i64 = 1000;
/// A collector that is not ready by then will not be.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Paths whose rollups a check reads.
const ROLLED_UP: u32 = 3;
/// A kill that is aimed at a seal or the like comes so long after that began, at most.
const AIM: Duration = Duration::from_millis(25);
/// How long it is waited for.
const AIM_PATIENCE: Duration = Duration::from_millis(1500);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(1);
const AIMS: [&str; 5] = [
    "sealing",
    "archiving",
    "making coarser",
    "cleaning",
    "removing a day",
];
/// The store says what it does at this level.
const LOG: &str =
    "info,devmon_collector::store=debug,devmon_collector::intake::listen=warn,sled=error";

#[derive(Debug, Args)]
pub struct Soak {
    /// How many times the collector is killed.
    #[arg(long, default_value_t = 1000)]
    pub loops: u32,
    /// End after so many minutes, if that is sooner.
    #[arg(long)]
    pub minutes: Option<f64>,
    /// What is random follows from it, but for the moments.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The collector's program [default: it is built].
    #[arg(long, value_name = "PATH")]
    pub collector: Option<PathBuf>,
    /// Build for development.
    #[arg(long)]
    pub dev: bool,
    /// A new folder for the data; it is removed at a good end [default: target/soak/SEED-PID].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Read everything back after so many loops.
    #[arg(long, default_value_t = 25)]
    pub check_every: u32,
    /// Most messages of a loop.
    #[arg(long, default_value_t = 800)]
    pub messages: u32,
    /// More lines for the collector's configuration.
    #[arg(long, default_value = "")]
    pub config: String,
    /// Instead: write a day, drop a day, so many times, and measure bytes on disk and memory.
    #[arg(long, value_name = "N")]
    pub retention_cycles: Option<u32>,
}

/// What a soak did.
#[derive(Debug, Default)]
pub struct Summary {
    pub loops: u32,
    /// Where the collector was when it was killed.
    pub kills: BTreeMap<&'static str, u32>,
    /// What it had begun then and not ended, by what it logged; at the same time perhaps.
    pub interrupted: BTreeMap<&'static str, u32>,
    pub acknowledged: u64,
    /// Messages sent that the store had, or might have had.
    pub repeats: u64,
    pub late: u64,
    /// Sent without an acknowledgement when the kill came.
    pub cut_off: u64,
    pub checks: u32,
    pub samples_read: u64,
    /// Of them, those that had to be there: acknowledged, and inside the retention.
    pub samples_due: u64,
    /// Rollups that were compared.
    pub minutes: u64,
    pub hours: u64,
    pub verified: u32,
    open_ms: Vec<u64>,
    messages: BTreeMap<String, u64>,
    problems: BTreeMap<String, u64>,
    seconds: f64,
}

impl Summary {
    fn heard(&mut self, said: Said) {
        for (message, count) in said.messages {
            *self.messages.entry(message).or_default() += count;
        }
        for line in said.problems {
            let parsed: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let message = parsed["fields"]["message"].as_str().unwrap_or(&line);
            *self.problems.entry(message.to_owned()).or_default() += 1;
        }
    }

    /// How often the collector logged a message of this text.
    #[must_use]
    pub fn logged(&self, message: &str) -> u64 {
        self.messages.get(message).copied().unwrap_or(0)
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut open = self.open_ms.clone();
        open.sort_unstable();
        writeln!(
            f,
            "{} loops in {:.0} s; killed: {:?}; interrupted by that: {:?}",
            self.loops, self.seconds, self.kills, self.interrupted
        )?;
        writeln!(
            f,
            "{} messages acknowledged, {} samples each; repeats sent: {}, late: {}, cut off by a kill: {}",
            self.acknowledged,
            u32::from(FRAMES) * METRICS,
            self.repeats,
            self.late,
            self.cut_off
        )?;
        writeln!(
            f,
            "{} checks read {} samples, {} of them acknowledged and kept raw, and compared {} minutes and {} hours; verify was clean {} times",
            self.checks,
            self.samples_read,
            self.samples_due,
            self.minutes,
            self.hours,
            self.verified
        )?;
        writeln!(
            f,
            "from start to ready: p50 {} ms, max {} ms of {}",
            open.get(open.len() / 2).unwrap_or(&0),
            open.last().unwrap_or(&0),
            open.len()
        )?;
        writeln!(f, "the collector logged:")?;
        for (message, count) in &self.messages {
            let warned = self.problems.contains_key(message);
            writeln!(
                f,
                "{count:>8}  {message}{}",
                if warned { " (!)" } else { "" }
            )?;
        }
        Ok(())
    }
}

impl Soak {
    /// # Errors
    /// What was acknowledged is missing, something is there twice, a start failed; the data is kept then.
    pub fn run(mut self) -> anyhow::Result<()> {
        if self.collector.is_none() {
            self.collector = Some(crate::collector::build(self.dev)?);
        }
        if let Some(cycles) = self.retention_cycles {
            return retention::run(&self, cycles);
        }
        println!("{}", self.soak(true)?);
        Ok(())
    }

    /// Runs the loops; with `progress`, a line for each check.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn soak(&self, progress: bool) -> anyhow::Result<Summary> {
        let data = self.data_dir();
        let mut state = State::new(self, data.clone())?;
        let done = state.run(progress);
        let at = state.summary.loops;
        state.summary.acknowledged = state.ledger.messages_acked();
        state.summary.seconds = state.begin.elapsed().as_secs_f64();
        match done {
            Ok(()) => {
                std::fs::remove_dir_all(&data)?;
                Ok(state.summary)
            }
            Err(error) => {
                println!("{}", state.summary);
                Err(error.context(format!(
                    "seed {} loop {at} failed; the data is kept in {}",
                    self.seed,
                    data.display()
                )))
            }
        }
    }

    fn data_dir(&self) -> PathBuf {
        let name = format!("{}-{}", self.seed, std::process::id());
        let given = self.data.clone();
        given.unwrap_or_else(|| crate::target_dir().join("soak").join(name))
    }

    fn program(&self) -> anyhow::Result<&Path> {
        self.collector.as_deref().context("no collector was named")
    }
}

/// What is kept, by the devices' clock: it stands where they have come to, and in a running collector goes on as time does.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// How far it is behind ours.
    behind_ms: i64,
}

impl Kept {
    /// Begin of the oldest day of which something is kept that goes with `age_ms`, now.
    fn from(self, age_ms: i64, now_ms: i64) -> i64 {
        (now_ms - self.behind_ms - age_ms).div_euclid(DAY_MS) * DAY_MS
    }

    fn raw_from(self, now_ms: i64) -> i64 {
        self.from(RAW_MS, now_ms)
    }

    fn minutes_from(self, now_ms: i64) -> i64 {
        self.from(MINUTES_MS, now_ms)
    }

    fn hours_from(self, now_ms: i64) -> i64 {
        self.from(HOURS_MS, now_ms)
    }

    fn config(self) -> String {
        let behind = self.behind_ms;
        format!(
            "retention = \"{}ms\"\nretention_1m = \"{}ms\"\nretention_1h = \"{}ms\"\narchive_after = \"{}ms\"\n",
            behind + RAW_MS,
            behind + MINUTES_MS,
            behind + HOURS_MS,
            behind + HOUR_MS
        )
    }
}

struct State<'a> {
    soak: &'a Soak,
    data: PathBuf,
    random: Random,
    shape: Shape,
    ledger: Ledger,
    summary: Summary,
    begin: Instant,
    kept: Kept,
}

impl<'a> State<'a> {
    fn new(soak: &'a Soak, data: PathBuf) -> anyhow::Result<Self> {
        if data.join("journal").exists() {
            bail!("{} holds data already; name a new folder", data.display());
        }
        let origin_ms = (now_ms() / DAY_MS - CALENDAR_DAYS) * DAY_MS;
        Ok(Self {
            soak,
            data,
            random: Random::new(soak.seed),
            shape: Shape::new("soak", METRICS, origin_ms, STEP_MS),
            ledger: Ledger::default(),
            summary: Summary::default(),
            begin: Instant::now(),
            kept: Kept {
                behind_ms: now_ms() - origin_ms,
            },
        })
    }

    fn run(&mut self, progress: bool) -> anyhow::Result<()> {
        let end = self
            .soak
            .minutes
            .map(|m| self.begin + Duration::from_secs_f64(m * 60.0));
        while self.summary.loops < self.soak.loops && end.is_none_or(|end| Instant::now() < end) {
            self.summary.loops += 1;
            // A loop's choices are its own: how many numbers the last one drew depended on time.
            let of_loop = u64::from(self.summary.loops) << 20;
            self.random = Random::new(self.soak.seed.wrapping_add(of_loop));
            self.one()?;
            if self
                .summary
                .loops
                .is_multiple_of(self.soak.check_every.max(1))
            {
                self.check()?;
                if progress {
                    println!(
                        "loop {}: {:.0} s, {} acknowledged, day {}, {:.1} MB on disk; interrupted: {:?}",
                        self.summary.loops,
                        self.begin.elapsed().as_secs_f64(),
                        self.ledger.messages_acked(),
                        (self.now_there() - self.shape.ts(0, 0)) / DAY_MS,
                        crate::collector::bytes_on_disk(&self.data) as f64 / 1e6,
                        self.summary.interrupted
                    );
                }
            }
        }
        self.check()
    }

    /// What the devices' clock says: never less than before, for what a collector took away is gone.
    fn now_there(&self) -> i64 {
        self.shape.ts(0, self.ledger.front() * u32::from(FRAMES))
    }

    fn start(&mut self) -> anyhow::Result<Collector> {
        self.kept.behind_ms = self.kept.behind_ms.min(now_ms() - self.now_there());
        let random = &mut self.random;
        // From a seal for every few batches to none in this life; the journal's bound makes small segments, too.
        let config = format!(
            "{}archive_late_after = \"{}ms\"\n{}\n[store]\nseal_samples = {}\nseal_journal_bytes = {}\nseal_age = \"{}ms\"\n",
            self.kept.config(),
            [360, 3_600, 36_000, 21_600_000][random.below(4) as usize],
            self.soak.config,
            [1_000, 3_000, 10_000, 4_000_000][random.below(4) as usize],
            [65_536, 262_144, 1 << 28][random.below(3) as usize],
            [200, 1_000, 3_600_000][random.below(3) as usize],
        );
        Collector::start(self.soak.program()?, &self.data, &config, LOG)
    }

    fn ready(&mut self, collector: &mut Collector) -> anyhow::Result<()> {
        let Some(took) = collector.wait_ready(START_PATIENCE)? else {
            bail!(
                "not ready after {START_PATIENCE:?}:\n{}",
                collector.said().last.join("\n")
            );
        };
        self.summary.open_ms.push(took.as_millis() as u64);
        Ok(())
    }

    /// One life of the collector.
    fn one(&mut self) -> anyhow::Result<()> {
        let mut collector = self.start()?;
        let phase = if self.random.below(5) == 0 {
            // It opens files, replays, removes what an unfinished seal wrote: as far as the usual start and a bit more.
            let usual = self.summary.open_ms.last().copied().unwrap_or(100);
            let wait = Duration::from_micros(self.random.below(usual * 1250 + 1));
            match collector.wait_ready(wait)? {
                None => "at start",
                Some(_) => "just ready",
            }
        } else {
            self.ready(&mut collector)?;
            self.load(&mut collector)?
        };
        *self.summary.kills.entry(phase).or_default() += 1;
        let said = collector.kill_9()?;
        for work in &said.under_way {
            *self.summary.interrupted.entry(work).or_default() += 1;
        }
        self.summary.heard(said);
        Ok(())
    }

    /// Sends, and returns at the moment at which it is to be killed.
    fn load(&mut self, collector: &mut Collector) -> anyhow::Result<&'static str> {
        let random = &mut self.random;
        let messages = 1 + random.below(u64::from(self.soak.messages)) as u32;
        // Most are killed while messages are under way; those whose time is longer while seals, retention or nothing is.
        let window = [1, 4, 20][random.below(3) as usize];
        let life = Duration::from_millis([60, 250, 1000][random.below(3) as usize]);
        let life = life.mul_f64(random.below(1000) as f64 / 1000.0);
        let aim = (random.below(2) == 0).then(|| Aim {
            at: AIMS[random.below(AIMS.len() as u64) as usize],
            after: AIM.mul_f64(random.below(1000) as f64 / 1000.0),
        });
        let link = Link {
            to: collector.mqtt()?,
            connections: CONNECTIONS,
            client: "soak".into(),
            window,
            reconnect: false,
        };
        let last_chunk = last_chunk(&self.shape);
        let mut script = Life {
            ledger: &mut self.ledger,
            random: random.clone(),
            summary: &mut self.summary,
            last_chunk,
            left: messages,
            under_way: 0,
            kill_at: None,
            life: if aim.is_some() { AIM_PATIENCE } else { life },
            aim,
            phase: None,
            collector,
        };
        load::drive(&link, &self.shape, &mut script)?;
        script
            .phase
            .context("the connections ended before the collector was killed")
    }

    fn check(&mut self) -> anyhow::Result<()> {
        let mut collector = self.start()?;
        self.ready(&mut collector)?;
        check::status(&collector)?;
        let first_kept = self.kept.hours_from(now_ms()) - DAY_MS;
        let first_of = self.random.below(u64::from(METRICS - ROLLED_UP)) as u32;
        let metrics: Vec<u32> = (first_of..first_of + ROLLED_UP).collect();
        for (number, ledger) in (0..).zip(&self.ledger.devices) {
            if self.shape.ts(number, ledger.next * u32::from(FRAMES)) < first_kept {
                continue; // all that it ever sent is gone
            }
            let check = check::Check {
                collector: &collector,
                shape: &self.shape,
                number,
                ledger,
                kept: self.kept,
            };
            let looked = check.run(&metrics)?;
            self.summary.samples_read += looked.read;
            self.summary.samples_due += looked.due;
            self.summary.minutes += looked.minutes;
            self.summary.hours += looked.hours;
        }
        self.summary.checks += 1;
        // Now and then an orderly end, too.
        let said = if self.random.below(2) == 0 {
            collector.kill_9()?
        } else {
            collector.terminate()?
        };
        self.summary.heard(said);
        self.verify()
    }

    fn verify(&mut self) -> anyhow::Result<()> {
        let done = Command::new(self.soak.program()?)
            .args(["verify", "--data-dir"])
            .arg(&self.data)
            .output()?;
        if !done.status.success() {
            bail!(
                "verify: {}\n{}{}",
                done.status,
                String::from_utf8_lossy(&done.stdout),
                String::from_utf8_lossy(&done.stderr)
            );
        }
        self.summary.verified += 1;
        Ok(())
    }
}

/// The last chunk that may be sent: it ends now.
fn last_chunk(shape: &Shape) -> u32 {
    let ticks = (now_ms() - shape.ts(0, 0)) / STEP_MS;
    u32::try_from(ticks / i64::from(FRAMES) - 1).unwrap_or(0)
}

/// A kill so long after the collector has begun something.
struct Aim {
    at: &'static str,
    after: Duration,
}

/// What one life of the collector is sent.
struct Life<'a> {
    ledger: &'a mut Ledger,
    random: Random,
    summary: &'a mut Summary,
    last_chunk: u32,
    /// Messages that may still be sent.
    left: u32,
    under_way: u32,
    kill_at: Option<Instant>,
    life: Duration,
    aim: Option<Aim>,
    /// Where the kill found it; a word once it has come.
    phase: Option<&'static str>,
    collector: &'a mut Collector,
}

impl Life<'_> {
    fn choose(&mut self, connection: u32) -> Option<Message> {
        let slot =
            connection + self.random.below(u64::from(SLOTS / CONNECTIONS)) as u32 * CONNECTIONS;
        let device = self.ledger.current(slot);
        match self.random.below(20) {
            0 => {
                // What was acknowledged comes again.
                let acked = &self.ledger.device(device).acked;
                let of = acked.len();
                let chunk = acked.nth(self.random.below(of.max(1)))?;
                self.summary.repeats += 1;
                let again = message(device, chunk);
                Some(if self.random.below(3) == 0 {
                    renamed(again)
                } else {
                    again
                })
            }
            1 if !self.ledger.held.is_empty() => {
                let at = self.random.below(self.ledger.held.len() as u64) as usize;
                let (device, chunk) = self.ledger.held.swap_remove(at);
                self.summary.late += 1;
                Some(message(device, chunk))
            }
            2..5 if !self.ledger.lost.is_empty() => {
                let (device, chunk) = self.ledger.lost.swap_remove(0);
                self.summary.repeats += 1;
                // Half of those that do it are clients that have forgotten; then it may be in the store or not.
                (self.random.below(2) == 0).then(|| message(device, chunk))
            }
            _ => {
                let next = self.ledger.device(device).next;
                if next > self.last_chunk {
                    return None;
                }
                self.ledger.device(device).next += 1;
                if self.random.below(15) == 0 {
                    self.ledger.held.push((device, next));
                    return None;
                }
                Some(message(device, next))
            }
        }
    }
}

impl Script for Life<'_> {
    fn turn(&mut self, now: Instant, _: &mut Tally, woken: &mut Vec<u32>) -> Turn {
        if let Some(aim) = self.aim.take_if(|aim| self.collector.is_at(aim.at)) {
            self.kill_at = Some(now + aim.after);
        }
        let kill_at = *self.kill_at.get_or_insert(now + self.life);
        if now >= kill_at && self.phase.is_none() {
            self.phase = Some(if self.under_way > 0 {
                "under load"
            } else {
                "idle"
            });
            self.collector.send_kill();
        }
        if self.phase.is_some() {
            // PUBACKs that were on their way are still read, as a client would; then the connections end.
            return Turn::Go(Duration::from_millis(100));
        }
        woken.extend(0..CONNECTIONS);
        Turn::Go(match self.aim {
            Some(_) => LOOK,
            None => kill_at - now,
        })
    }

    fn next(&mut self, connection: u32, now: Instant) -> Option<(Message, Instant)> {
        if self.phase.is_some() || self.left == 0 {
            return None;
        }
        let message = (0..8).find_map(|_| self.choose(connection))?;
        self.left -= 1;
        self.under_way += 1;
        self.ledger.sent(&message);
        Some((message, now))
    }

    fn acked(&mut self, message: &Message) {
        self.under_way -= 1;
        self.ledger.acked(message);
    }

    fn lost(&mut self, message: &Message) {
        self.under_way -= 1;
        self.summary.cut_off += 1;
        debug_assert!(
            self.ledger
                .device(message.device)
                .sent
                .contains(chunk_of(message))
        );
        self.ledger.lost(message);
    }
}

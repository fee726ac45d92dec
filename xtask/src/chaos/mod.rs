//! `cargo xtask chaos`: agents, a broker and a collector, all real, and everything that can happen to them in random order; and that nothing acknowledged is missing or doubled, and no
//! series has a hole but where its device was dead.
//!
//! The broker is killed with -9 and started again. The network between agents and broker stalls, loses what comes back, is cut or unplugged, and so,
//! but for the last, is that between broker and collector. Agents are
//! killed with -9. The collector is killed or ended and stays away, once for a sixth of the whole run, in one of half an hour or more for twelve
//! minutes: to the agent at 200 ms that is as many rounds as an hour at 1 s. An agent's clock steps. Outages overlap as they come.
//!
//! The network is two relays of ours (`relay`), and a namespace for the agents where we may make one (`cable`). The relays see every PUBLISH and PUBACK: the ledger of what was acknowledged is theirs, not the agents' (`ledger`). At the end everything is
//! repaired, the agents drain, and `check` reads all that is stored.
//!
//! The machine's clock is everybody's and is not touched: each agent has a preloaded `clock_gettime` of its own (`clock.c`). What the agent reads as wall-clock time steps as
//! `clock_settime` would make it; that the kernel tells a timer of it (`TFD_TIMER_CANCEL_ON_SET`) and what `adjtimex` says is not simulated.
//!
//! A run is its seed: events, their order, their lengths. What fails keeps the folder.

mod cable;
mod check;
mod ledger;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use crate::load::{Random, now_ms};
use crate::prepare;
use crate::relay::{Line, Relay};
use check::{Lived, Verdict};
use world::{Plan, World};

/// No backlog has come for so long: the agents have none.
const QUIET: Duration = Duration::from_secs(5);
/// For draining, beyond twice the length of the run: an agent that waits for its next attempt to connect waits for 60 s and more.
const DRAIN_PATIENCE: Duration = Duration::from_secs(180);
/// The broker has nothing more for the collector, or will never give it.
const BROKER_PATIENCE: Duration = Duration::from_secs(90);
const DAY_MS: u64 = 86_400_000;
/// Intervals of the agents, in turn.
const INTERVALS_MS: [i64; 3] = [1000, 500, 200];

#[derive(Args, Debug, Clone)]
pub struct Chaos {
    /// How long things happen; repairing, draining and looking come behind it.
    #[arg(long, default_value_t = 30.0)]
    pub minutes: f64,
    /// Events, their order and their lengths [default: another each time].
    #[arg(long)]
    pub seed: Option<u64>,
    /// A minute in all, with short outages.
    #[arg(long)]
    pub short: bool,
    /// Agents, at 1 s, 500 ms, 200 ms in turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub agents: u32,
    /// What may happen [default: all of it].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub events: Vec<Event>,
    /// Configuration of the agents in place of the one that keeps every round on disk.
    #[arg(long, value_name = "FILE")]
    pub agent_config: Option<PathBuf>,
    /// What a kill -9 of an agent may cost of the time before it.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub may_lose_ms: u64,
    /// The folder with the programs [default: they are built].
    #[arg(long, value_name = "DIR")]
    pub bin: Option<PathBuf>,
    /// Where everything is written [default: target/chaos/SEED].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Event {
    /// The broker is killed with -9.
    Broker,
    /// The network between agents and broker is gone.
    Network,
    /// The network between broker and collector is gone.
    Backbone,
    /// An agent is killed with -9.
    Agent,
    /// An agent's clock steps.
    Clock,
    /// The collector is killed with -9 or ended.
    Collector,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Summary {
    pub seed: u64,
    pub seconds: f64,
    pub events: BTreeMap<Event, u64>,
    /// Messages that passed to the broker; of them again, and as backlog; PUBACKs from it; PUBACKs of the collector.
    pub published: u64,
    pub again: u64,
    pub backlog: u64,
    pub acked: u64,
    pub stored: u64,
    /// Samples that were acknowledged, and of these, found.
    pub due: u64,
    pub found: u64,
    pub ticks_due: u64,
    pub ticks_found: u64,
    pub lost_by_broker: u64,
    /// How old the broker's file was at each kill, the most of it.
    pub broker_unsaved: std::time::Duration,
    /// How often each kind of fault was found, and the first of each in words.
    pub kinds: BTreeMap<&'static str, u64>,
    pub faults: Vec<String>,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "seed {}, {:.0} s; events {:?}",
            self.seed, self.seconds, self.events
        )?;
        writeln!(
            f,
            "messages: {} published ({} again, {} backlog), {} acknowledged by the broker, {} by the collector",
            self.published, self.again, self.backlog, self.acked, self.stored
        )?;
        writeln!(
            f,
            "samples: {} acknowledged, {} of them found once; ticks: {} due, {} found",
            self.due, self.found, self.ticks_due, self.ticks_found
        )?;
        write!(
            f,
            "lost by mosquitto, which answers before it writes (its file was up to {:?} old when it was killed): {}; faults: {:?}",
            self.broker_unsaved, self.lost_by_broker, self.kinds
        )
    }
}

impl Chaos {
    /// # Errors
    /// A program is missing, or something that was acknowledged is not there once, or a series has a hole.
    pub fn run(self) -> anyhow::Result<()> {
        prepare::debian_packages(&[("mosquitto", "mosquitto"), ("cc", "gcc")])?;
        let bin = match &self.bin {
            Some(bin) => bin.clone(),
            None => build()?,
        };
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, stop.clone())?;
        }
        let summary = self.chaos(&bin, &stop)?;
        println!("\n{summary}");
        for fault in &summary.faults {
            println!("- {fault}");
        }
        if !summary.kinds.is_empty() {
            bail!(
                "chaos --seed {}: {} faults; all is kept in {}",
                summary.seed,
                summary.kinds.values().sum::<u64>(),
                self.place(summary.seed).display()
            );
        }
        Ok(())
    }

    /// Runs it with the programs of a folder. Faults are no error: they stand in the summary.
    ///
    /// # Errors
    /// A program does not start, ends by itself, or does not answer; or `stop` became true.
    pub fn chaos(&self, bin: &Path, stop: &AtomicBool) -> anyhow::Result<Summary> {
        let seed = self.seed.unwrap_or(now_ms().unsigned_abs() % 1_000_000);
        let dir = self.place(seed);
        if dir.exists() {
            bail!(
                "{} is there already; remove it or name another",
                dir.display()
            );
        }
        println!("seed {seed}, in {}", dir.display());
        let agent_config = match &self.agent_config {
            Some(file) => {
                std::fs::read_to_string(file).with_context(|| file.display().to_string())?
            }
            None => strict_config(bin)?,
        };
        let intervals: Vec<i64> = INTERVALS_MS
            .into_iter()
            .cycle()
            .take(self.agents as usize)
            .collect();
        let world = World::start(&Plan {
            bin,
            dir: &dir,
            intervals_ms: &intervals,
            agent_config: &agent_config,
            may_lose: Duration::from_millis(self.may_lose_ms),
        })?;
        let mut run = Run {
            chaos: self,
            random: Random::new(seed),
            world,
            undo: Vec::new(),
            summary: Summary {
                seed,
                ..Summary::default()
            },
            begin: Instant::now(),
            stop,
        };
        run.happen()?;
        run.drain()?;
        run.check()?;
        let summary = run.end();
        if summary.kinds.is_empty() {
            std::fs::remove_dir_all(&dir)?;
        }
        Ok(summary)
    }

    fn place(&self, seed: u64) -> PathBuf {
        let given = self.dir.clone();
        given.unwrap_or_else(|| crate::target_dir().join("chaos").join(seed.to_string()))
    }

    fn length(&self) -> Duration {
        if self.short {
            return Duration::from_secs(35);
        }
        Duration::from_secs_f64(self.minutes * 60.0)
    }

    fn long_absence(&self) -> Duration {
        let length = self.length();
        if length >= Duration::from_secs(30 * 60) {
            return Duration::from_secs(12 * 60);
        }
        length / 6
    }

    fn may(&self, event: Event) -> bool {
        self.events.is_empty() || self.events.contains(&event)
    }
}

/// How an outage ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    StartBroker,
    OpenLine,
    OpenBackbone,
    StartAgent(usize),
    StartCollector,
}

struct Run<'a> {
    chaos: &'a Chaos,
    random: Random,
    world: World,
    undo: Vec<(Instant, Undo)>,
    summary: Summary,
    begin: Instant,
    stop: &'a AtomicBool,
}

impl Run<'_> {
    /// Events until the time is over.
    fn happen(&mut self) -> anyhow::Result<()> {
        if self.chaos.may(Event::Clock) && !self.world.has_clocks() {
            println!("NOT DONE: no clock steps; there is no C compiler for the agents' own clock");
        }
        if let Some(why) = self.world.no_cable() {
            println!(
                "NOT DONE: the agents' network is never unplugged, only cut by the relay: {why}"
            );
        }
        // Some rounds of peace first: what the agents are is known then.
        self.wait_until(Instant::now() + Duration::from_secs(3))?;
        let end = self.begin + self.chaos.length();
        let mut long_absence = Some(self.begin + self.chaos.length() / 3);
        while Instant::now() < end {
            let pause = self.millis(if self.chaos.short {
                (200, 2000)
            } else {
                (500, 8000)
            });
            self.wait_until((Instant::now() + pause).min(end))?;
            if long_absence.is_some_and(|at| Instant::now() >= at)
                && self.chaos.may(Event::Collector)
                && self.world.collector.is_some()
            {
                long_absence = None;
                self.end_collector(self.chaos.long_absence())?;
                continue;
            }
            self.one()?;
        }
        Ok(())
    }

    fn one(&mut self) -> anyhow::Result<()> {
        // Drawn whatever can happen now, so that what comes later does not depend on it.
        let kind = self.random.below(6);
        let agent = self.random.below(u64::from(self.chaos.agents)) as usize;
        let how = self.random.below(4);
        let for_ = self.millis(if self.chaos.short {
            (100, 5000)
        } else {
            (100, 30_000)
        });
        let ahead_ms = self.ahead_ms();
        let busy = |undo: Undo| self.undo.iter().any(|(_, u)| *u == undo);
        let event = match kind {
            0 if self.world.has_broker() => Event::Broker,
            1 if !busy(Undo::OpenLine) => Event::Network,
            2 if !busy(Undo::OpenBackbone) => Event::Backbone,
            3 if self.world.is_alive(agent) => Event::Agent,
            4 if self.world.has_clocks() => Event::Clock,
            5 if self.world.collector.is_some() => Event::Collector,
            _ => return Ok(()),
        };
        if !self.chaos.may(event) {
            return Ok(());
        }
        let unplugged = how == 3 && event == Event::Network && self.world.no_cable().is_none();
        let line = match how {
            0 => Line::Stalled,
            1 => Line::Deaf,
            _ => Line::Cut,
        };
        let undo = match event {
            Event::Broker => {
                self.world.kill_broker()?;
                Some(Undo::StartBroker)
            }
            Event::Network => {
                if unplugged {
                    self.world.plug(false)?;
                } else {
                    self.world.agent_line.set(line);
                }
                Some(Undo::OpenLine)
            }
            Event::Backbone => {
                self.world.collector_line.set(line);
                Some(Undo::OpenBackbone)
            }
            Event::Agent => {
                self.world.kill_agent(agent)?;
                Some(Undo::StartAgent(agent))
            }
            Event::Clock => {
                self.world.set_clock(agent, ahead_ms)?;
                None
            }
            Event::Collector => return self.end_collector(for_),
        };
        let how = match event {
            Event::Network if unplugged => format!("unplugged for {for_:?}"),
            Event::Network | Event::Backbone => format!("{line:?} for {for_:?}"),
            Event::Agent => format!("{agent} is away for {for_:?}"),
            Event::Clock => format!("of agent {agent} is {ahead_ms} ms ahead"),
            _ => format!("is away for {for_:?}"),
        };
        self.say(event, &how);
        self.undo
            .extend(undo.map(|undo| (Instant::now() + for_, undo)));
        Ok(())
    }

    fn end_collector(&mut self, for_: Duration) -> anyhow::Result<()> {
        let Some(collector) = self.world.collector.take() else {
            return Ok(());
        };
        let in_order = self.random.below(2) == 0 && !collector.http.is_empty();
        if in_order {
            collector.terminate()?;
        } else {
            collector.kill_9()?;
        }
        let how = if in_order { "ended" } else { "killed" };
        self.say(Event::Collector, &format!("{how}, away for {for_:?}"));
        self.undo
            .push((Instant::now() + for_, Undo::StartCollector));
        Ok(())
    }

    /// A clock that is right, a little off, ahead, or days behind.
    fn ahead_ms(&mut self) -> i64 {
        let within = |random: &mut Random, ms: u64| random.below(ms).cast_signed();
        match self.random.below(4) {
            0 => 0,
            1 => within(&mut self.random, 6000) - 3000,
            2 => within(&mut self.random, 1_800_000),
            _ => -within(&mut self.random, 2 * DAY_MS),
        }
    }

    fn say(&mut self, event: Event, how: &str) {
        *self.summary.events.entry(event).or_default() += 1;
        println!(
            "{:7.1} s  {event:?} {how}",
            self.begin.elapsed().as_secs_f64()
        );
    }

    fn millis(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_millis(least + self.random.below(most - least))
    }

    /// Waits, ends the outages that are over, and sees to it that all are alive that should be.
    fn wait_until(&mut self, until: Instant) -> anyhow::Result<()> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                bail!("ended by a signal");
            }
            self.world.check_alive()?;
            if let Some(collector) = &mut self.world.collector
                && collector.http.is_empty()
            {
                // Its address, once it says so: it can be ended in order then.
                collector.wait_ready(Duration::ZERO)?;
            }
            let now = Instant::now();
            while let Some(i) = self.undo.iter().position(|(at, _)| *at <= now) {
                let (_, undo) = self.undo.swap_remove(i);
                self.repair(undo)?;
            }
            if now >= until {
                return Ok(());
            }
            let next = self.undo.iter().map(|(at, _)| *at).min();
            let next = next.map_or(until, |at| at.min(until));
            let pause = next.saturating_duration_since(now);
            std::thread::sleep(pause.min(Duration::from_millis(50)));
        }
    }

    fn repair(&mut self, undo: Undo) -> anyhow::Result<()> {
        match undo {
            Undo::StartBroker => self.world.start_broker(),
            Undo::OpenLine => {
                self.world.plug(true)?;
                mend(&self.world.agent_line);
                Ok(())
            }
            Undo::OpenBackbone => {
                mend(&self.world.collector_line);
                Ok(())
            }
            Undo::StartAgent(i) => self.world.start_agent(i),
            Undo::StartCollector => self.world.start_collector(),
        }
    }

    /// Repairs everything, and waits until the agents have no backlog, the broker none for the collector.
    fn drain(&mut self) -> anyhow::Result<()> {
        self.undo.clear();
        self.world.heal()?;
        println!(
            "{:7.1} s  all is repaired",
            self.begin.elapsed().as_secs_f64()
        );
        let give_up = Instant::now() + DRAIN_PATIENCE + 2 * self.chaos.length();
        let mut quiet_since = Instant::now();
        loop {
            self.wait_until(Instant::now() + Duration::from_millis(200))?;
            let mut late = self.world.ledger.undrained();
            if late.is_empty() {
                // All of that time: one that has just connected sends its newest message first.
                if quiet_since.elapsed() < QUIET {
                    continue;
                }
                // Asked, too: a slow broker leaves an agent time for nothing but its newest.
                late = self.world.with_backlog();
                if late.is_empty() {
                    break;
                }
            }
            quiet_since = Instant::now();
            if Instant::now() > give_up {
                self.fault(
                    "not drained",
                    format!("{} still send backlog, or nothing", late.join(", ")),
                );
                break;
            }
        }
        println!(
            "{:7.1} s  the agents are drained",
            self.begin.elapsed().as_secs_f64()
        );
        self.world.stop_agents()?;
        let mut last = (usize::MAX, Instant::now());
        loop {
            self.wait_until(Instant::now() + Duration::from_millis(200))?;
            let between = self.world.ledger.state().between();
            if between < last.0 {
                last = (between, Instant::now());
            }
            // What is left will not come: the check says whose it is.
            if between == 0 || last.1.elapsed() > BROKER_PATIENCE {
                break;
            }
        }
        println!(
            "{:7.1} s  the broker is drained",
            self.begin.elapsed().as_secs_f64()
        );
        Ok(())
    }

    fn fault(&mut self, kind: &'static str, what: String) {
        *self.summary.kinds.entry(kind).or_default() += 1;
        self.summary.faults.push(format!("{kind}: {what}"));
    }

    fn check(&mut self) -> anyhow::Result<()> {
        let collector = self.world.collector.as_ref().context("no collector")?;
        let state = self.world.ledger.state();
        let mut verdict = Verdict::default();
        for agent in &self.world.agents {
            let lived = Lived {
                name: &agent.name,
                interval_ms: agent.interval_ms,
                lives: &agent.lives,
                steps: &agent.steps,
            };
            let kills = &self.world.broker_kills;
            check::device(collector, &state, &lived, kills, &mut verdict)?;
        }
        let (counts, summary) = (state.counts, &mut self.summary);
        for text in &state.unreadable {
            *summary.kinds.entry("unreadable").or_default() += 1;
            summary.faults.push(format!("unreadable: {text}"));
        }
        summary.published = counts.published;
        summary.again = counts.again;
        summary.backlog = counts.backlog;
        summary.acked = counts.acked;
        summary.stored = counts.stored;
        summary.due = verdict.due;
        summary.found = verdict.found;
        summary.ticks_due = verdict.ticks_due;
        summary.ticks_found = verdict.ticks_found;
        summary.lost_by_broker = verdict.lost_by_broker;
        let kills = self.world.broker_kills.iter();
        let unsaved = kills.filter_map(|kill| kill.unsaved_for()).max();
        summary.broker_unsaved = unsaved.unwrap_or_default();
        summary.kinds.extend(verdict.kinds);
        summary.faults.extend(verdict.faults);
        Ok(())
    }

    fn end(mut self) -> Summary {
        self.summary.seconds = self.begin.elapsed().as_secs_f64();
        self.summary
    }
}

/// Opens a line. What came back meanwhile on a deaf one is lost with its connections: what was received there is sent again.
fn mend(relay: &Relay) {
    if relay.line() == Line::Deaf {
        relay.set(Line::Cut);
    }
    relay.set(Line::Open);
}

/// Every round on disk as soon as it is measured, so that a kill -9 costs nothing; nothing to say to an agent that has no spool.
fn strict_config(bin: &Path) -> anyhow::Result<String> {
    let said = std::process::Command::new(bin.join("devmon-agent"))
        .arg("config")
        .output()
        .with_context(|| bin.join("devmon-agent").display().to_string())?;
    let known = String::from_utf8_lossy(&said.stdout);
    if known.contains("durability") {
        // An hour: most steps of a clock are longer, and no backlog lives that long here.
        return Ok("[spool]\ndurability = \"strict\"\nmax_age = \"1h\"\n".into());
    }
    println!(
        "This agent has no spool: what waits in it when it is killed is lost, and will be found missing."
    );
    Ok(String::new())
}

fn build() -> anyhow::Result<PathBuf> {
    prepare::heading("Building collector, agent and plugins (release)");
    let mut args = vec![
        "build",
        "--release",
        "-p",
        "devmon-collector",
        "-p",
        "devmon-agent",
    ];
    for plugin in [
        "devmon-plugin-cpu",
        "devmon-plugin-memory",
        "devmon-plugin-disk",
    ] {
        args.extend(["-p", plugin]);
    }
    prepare::cargo(&args)?;
    Ok(crate::target_dir().join("release"))
}

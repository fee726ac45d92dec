//! The real programs, and what can be done to them: a mosquitto that keeps its sessions on disk, a collector in broker mode, agents, a relay on either side of the broker,
//! and a clock for each agent that can be set.
//!
//! All children are killed by pid, whatever happens. The broker saves at every change, so that a kill -9 costs it milliseconds.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};

use super::cable::Cable;
use super::ledger::{AgentSide, CollectorSide, Ledger};
use crate::children::Running;
use crate::collector::Collector;
use crate::load::now_ms;
use crate::relay::{Line, Relay};

/// The sources of the run; they are there on every machine.
const PLUGINS: [&str; 3] = ["cpu", "memory", "disk"];
const READY_DEADLINE: Duration = Duration::from_secs(30);
const CLOCK_C: &str = include_str!("clock.c");
/// What a collector is told. An agent's clock is set ahead by up to half an hour.
const COLLECTOR_CONFIG: &str = "max_ahead = \"2h\"\n";

/// From `ready` to the end, by our clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    pub(super) begin_ms: i64,
    pub(super) end_ms: Option<i64>,
    /// What its end may have cost, by the agent's own promise.
    pub(super) may_lose_ms: i64,
}

/// One agent and all its lives.
pub(super) struct Agent {
    pub(super) name: String,
    pub(super) interval_ms: i64,
    process: Option<Running>,
    pub(super) lives: Vec<Life>,
    /// From when (our clock) its clock was how far ahead.
    pub(super) steps: Vec<(i64, i64)>,
    clock: File,
    dir: PathBuf,
}

pub(super) struct World {
    pub(super) ledger: Arc<Ledger>,
    pub(super) agents: Vec<Agent>,
    pub(super) collector: Option<Collector>,
    broker: Option<Running>,
    pub(super) broker_kills: Vec<BrokerKill>,
    broker_addr: SocketAddr,
    pub(super) agent_line: Relay,
    pub(super) collector_line: Relay,
    /// Between the agents and their line; an error says why there is none.
    cable: anyhow::Result<Cable>,
    bin: PathBuf,
    dir: PathBuf,
    /// What an agent is configured with, beside what is on its command line.
    agent_config: PathBuf,
    preload: Option<PathBuf>,
    may_lose_ms: i64,
}

/// What a world is made of.
pub(super) struct Plan<'a> {
    pub(super) bin: &'a Path,
    pub(super) dir: &'a Path,
    /// One agent each.
    pub(super) intervals_ms: &'a [i64],
    /// TOML.
    pub(super) agent_config: &'a str,
    pub(super) may_lose: Duration,
}

impl World {
    /// Makes everything and starts it.
    ///
    /// # Errors
    /// A program is missing or does not start.
    pub(super) fn start(plan: &Plan<'_>) -> anyhow::Result<Self> {
        let dir = plan.dir.to_owned();
        std::fs::create_dir_all(dir.join("plugins"))?;
        std::fs::create_dir_all(dir.join("broker"))?;
        for name in PLUGINS {
            let file = format!("libdevmon_plugin_{name}.so");
            let from = plan.bin.join(&file);
            std::fs::copy(&from, dir.join("plugins").join(&file))
                .with_context(|| from.display().to_string())?;
        }
        let agent_config = dir.join("agent.toml");
        std::fs::write(&agent_config, plan.agent_config)?;
        let ledger = Arc::new(Ledger::default());
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let broker_addr = SocketAddr::from(([127, 0, 0, 1], port));
        let cable = Cable::lay();
        let at = cable
            .as_ref()
            .map_or(Ipv4Addr::LOCALHOST, |cable| cable.addr);
        let tap = Arc::new(AgentSide::new(ledger.clone()));
        let agent_line = Relay::start_at(at, broker_addr, tap)?;
        let collector_line =
            Relay::start(broker_addr, Arc::new(CollectorSide::new(ledger.clone())))?;
        let mut world = Self {
            ledger,
            agents: Vec::new(),
            collector: None,
            broker: None,
            broker_kills: Vec::new(),
            broker_addr,
            agent_line,
            collector_line,
            cable,
            bin: plan.bin.to_owned(),
            preload: preload(&dir),
            dir,
            agent_config,
            may_lose_ms: i64::try_from(plan.may_lose.as_millis())?,
        };
        world.start_broker()?;
        world.start_collector()?;
        if let Some(collector) = &mut world.collector {
            let ready = collector.wait_ready(READY_DEADLINE)?;
            ready.context("the collector is not ready")?;
        }
        // The broker queues for the collector only once that has subscribed.
        world.wait_for_subscription()?;
        for (i, interval_ms) in plan.intervals_ms.iter().enumerate() {
            let dir = world.dir.join(format!("agent-{i}"));
            std::fs::create_dir_all(&dir)?;
            let clock = File::create(dir.join("clock"))?;
            clock.write_all_at(&[0; 8], 0)?;
            world.agents.push(Agent {
                name: format!("chaos-{i}"),
                interval_ms: *interval_ms,
                process: None,
                lives: Vec::new(),
                steps: vec![(0, 0)],
                clock,
                dir,
            });
            world.start_agent(i)?;
        }
        Ok(world)
    }

    pub(super) fn has_clocks(&self) -> bool {
        self.preload.is_some()
    }

    /// Why the network can not be unplugged, if it can not.
    pub(super) fn no_cable(&self) -> Option<String> {
        self.cable.as_ref().err().map(|error| format!("{error:#}"))
    }

    /// Takes the agents' network away, or gives it back.
    pub(super) fn plug(&self, in_: bool) -> anyhow::Result<()> {
        self.cable.as_ref().map_or(Ok(()), |cable| cable.plug(in_))
    }

    pub(super) fn has_broker(&self) -> bool {
        self.broker.is_some()
    }

    /// It saves once a second. At every change it would save all that it holds for the collector some thousand times over, and on a busy machine serve nobody meanwhile.
    pub(super) fn start_broker(&mut self) -> anyhow::Result<()> {
        let config = self.dir.join("mosquitto.conf");
        let text = format!(
            "listener {} {}\nallow_anonymous true\nuser root\nlog_type error\nlog_type warning\npersistence true\npersistence_location {}/\n\
             autosave_on_changes false\nautosave_interval 1\nmax_queued_messages 0\nmax_inflight_messages 200\n",
            self.broker_addr.port(),
            self.broker_addr.ip(),
            self.dir.join("broker").display(),
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new("mosquitto");
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .arg("-c")
            .arg(&config)
            .env("PATH", format!("{path}:/usr/sbin"))
            .stdout(Stdio::null())
            .stderr(self.log("mosquitto.log")?);
        let mut broker = Running::start("mosquitto", command)?;
        let begin = Instant::now();
        while TcpStream::connect(self.broker_addr).is_err() {
            if let Some(status) = broker.ended()? {
                bail!("mosquitto ended at start ({status}): see mosquitto.log");
            }
            if begin.elapsed() > READY_DEADLINE {
                bail!("mosquitto does not listen on {}", self.broker_addr);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.broker = Some(broker);
        Ok(())
    }

    pub(super) fn kill_broker(&mut self) -> anyhow::Result<()> {
        if let Some(mut broker) = self.broker.take() {
            broker.kill_9()?;
            let file = self.dir.join("broker").join("mosquitto.db");
            let written = std::fs::metadata(file).and_then(|file| file.modified());
            self.broker_kills.push(BrokerKill::now(written.ok()));
        }
        Ok(())
    }

    /// Returns at once; it may be killed before it is ready.
    pub(super) fn start_collector(&mut self) -> anyhow::Result<()> {
        let broker = format!("mqtt://{}", self.collector_line.addr());
        let args = ["--mqtt-listen", "off", "--broker", &broker];
        let program = self.bin.join("devmon-collector");
        let data = self.dir.join("collector");
        self.collector = Some(Collector::start_with(
            &program,
            &data,
            COLLECTOR_CONFIG,
            "info",
            &args,
        )?);
        Ok(())
    }

    pub(super) fn start_agent(&mut self, i: usize) -> anyhow::Result<()> {
        let log = self.log(&format!("agent-{i}.log"))?;
        let agent = self.agents.get_mut(i).context("no such agent")?;
        let program = self.bin.join("devmon-agent");
        let mut command = match &self.cable {
            Ok(cable) => cable.at_the_other_end(&program),
            Err(_) => Command::new(program),
        };
        command
            .args(["run", "--device", &agent.name])
            .args(["--interval", &format!("{}ms", agent.interval_ms)])
            .args(["--mqtt", &format!("mqtt://{}", self.agent_line.addr())])
            .arg("--plugin-dir")
            .arg(self.dir.join("plugins"))
            .arg("--state-dir")
            .arg(agent.dir.join("state"))
            .arg("--config")
            .arg(&self.agent_config)
            .env_remove("AWS_IOT_ENDPOINT")
            .env_remove("DEVICE_NAME")
            .stderr(log);
        if let Some(preload) = &self.preload {
            command
                .env("LD_PRELOAD", preload)
                .env("DEVMON_CHAOS_CLOCK", agent.dir.join("clock"));
        }
        let (process, _) = Running::ready(&agent.name, command, READY_DEADLINE)?;
        agent.process = Some(process);
        agent.lives.push(Life {
            begin_ms: now_ms(),
            end_ms: None,
            may_lose_ms: self.may_lose_ms,
        });
        Ok(())
    }

    pub(super) fn is_alive(&self, i: usize) -> bool {
        self.agents.get(i).is_some_and(|a| a.process.is_some())
    }

    pub(super) fn kill_agent(&mut self, i: usize) -> anyhow::Result<()> {
        let agent = self.agents.get_mut(i).context("no such agent")?;
        if let Some(mut process) = agent.process.take() {
            // The moment before: what came after it may have come no more.
            agent.end(now_ms());
            process.kill_9()?;
        }
        Ok(())
    }

    /// Sets an agent's clock so far ahead of ours.
    pub(super) fn set_clock(&mut self, i: usize, ahead_ms: i64) -> anyhow::Result<()> {
        let agent = self.agents.get_mut(i).context("no such agent")?;
        self.ledger.set_clock(&agent.name, ahead_ms);
        let ns = ahead_ms * 1_000_000;
        agent.clock.write_all_at(&ns.to_ne_bytes(), 0)?;
        agent.steps.push((now_ms(), ahead_ms));
        Ok(())
    }

    /// Who should run and does not.
    ///
    /// # Errors
    /// One of them ended by itself.
    pub(super) fn check_alive(&mut self) -> anyhow::Result<()> {
        let agents = self.agents.iter_mut().filter_map(|a| a.process.as_mut());
        for process in agents.chain(self.broker.as_mut()) {
            if let Some(status) = process.ended()? {
                bail!("{} ended by itself ({status})", process.name());
            }
        }
        if let Some(collector) = &mut self.collector
            && let Some(status) = collector.ended()?
        {
            let last = collector.said().last.join("\n");
            bail!("the collector ended by itself ({status}):\n{last}");
        }
        Ok(())
    }

    /// All repaired, nobody away.
    pub(super) fn heal(&mut self) -> anyhow::Result<()> {
        if !self.has_broker() {
            self.start_broker()?;
        }
        self.plug(true)?;
        self.agent_line.set(Line::Open);
        self.collector_line.set(Line::Open);
        if self.collector.is_none() {
            self.start_collector()?;
        }
        for i in 0..self.agents.len() {
            if !self.is_alive(i) {
                self.start_agent(i)?;
            }
        }
        if let Some(collector) = &mut self.collector
            && collector.http.is_empty()
        {
            let ready = collector.wait_ready(READY_DEADLINE)?;
            ready.context("the collector is not ready")?;
        }
        Ok(())
    }

    /// The agents that have messages left from before, by their own word; also those that give none.
    pub(super) fn with_backlog(&self) -> Vec<String> {
        let program = self.bin.join("devmon-agent");
        let has_none = |agent: &&Agent| {
            let mut status = Command::new(&program);
            status
                .args(["status", "--json", "--device", &agent.name])
                .arg("--state-dir")
                .arg(agent.dir.join("state"))
                .env_remove("AWS_IOT_ENDPOINT")
                .env_remove("DEVICE_NAME");
            let said = status.output().ok();
            let said =
                said.and_then(|out| serde_json::from_slice::<serde_json::Value>(&out.stdout).ok());
            said.and_then(|said| said.pointer("/spool/backlog")?.as_bool()) == Some(false)
        };
        let late = self.agents.iter().filter(|agent| !has_none(agent));
        late.map(|agent| agent.name.clone()).collect()
    }

    pub(super) fn stop_agents(&mut self) -> anyhow::Result<()> {
        for agent in &mut self.agents {
            if let Some(mut process) = agent.process.take() {
                agent.end(now_ms());
                process.terminate(READY_DEADLINE)?;
            }
        }
        Ok(())
    }

    fn wait_for_subscription(&self) -> anyhow::Result<()> {
        let begin = Instant::now();
        while !self.ledger.state().subscribed {
            if begin.elapsed() > READY_DEADLINE {
                let said = self.collector.as_ref().map(Collector::said);
                let last = said.unwrap_or_default().last.join("\n");
                bail!("the collector has not subscribed:\n{last}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn log(&self, name: &str) -> anyhow::Result<File> {
        let path = self.dir.join(name);
        let file = File::options().create(true).append(true).open(&path);
        file.with_context(|| path.display().to_string())
    }
}

impl Agent {
    fn end(&mut self, now_ms: i64) {
        if let Some(life) = self.lives.last_mut() {
            life.end_ms = Some(now_ms);
        }
    }
}

/// The library that gives an agent a clock of its own; `None` where there is no C compiler.
fn preload(dir: &Path) -> Option<PathBuf> {
    let (source, library) = (dir.join("clock.c"), dir.join("libclock.so"));
    std::fs::write(&source, CLOCK_C).ok()?;
    let built = Command::new("cc")
        .args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    built
        .is_ok_and(|status| status.success())
        .then_some(library)
}

/// A kill -9 of the broker, and when it had last written its sessions down.
#[derive(Clone, Copy, Debug)]
pub(super) struct BrokerKill {
    at: Instant,
    saved: Option<Instant>,
}

impl BrokerKill {
    /// Right behind the kill; `written` is the file's mtime, `None` if there is no file.
    fn now(written: Option<SystemTime>) -> Self {
        let at = Instant::now();
        // An mtime ahead of now counts as now: nothing is forgiven by it.
        let ago = written.map(|w| SystemTime::now().duration_since(w).unwrap_or_default());
        Self {
            at,
            saved: ago.and_then(|ago| at.checked_sub(ago)),
        }
    }

    /// Acknowledged before this kill, and not in any file since. mosquitto has one thread: while it writes, it acknowledges nothing.
    pub(super) fn forgot(&self, acked: Instant) -> bool {
        acked <= self.at && self.saved.is_none_or(|saved| acked >= saved)
    }

    /// How long before the kill the file was written; `None` if never.
    pub(super) fn unsaved_for(&self) -> Option<Duration> {
        self.saved.map(|saved| self.at.duration_since(saved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broker_forgets_what_came_after_its_last_save_only() {
        let before = Instant::now();
        let saved = SystemTime::now();
        std::thread::sleep(Duration::from_millis(20));
        let between = Instant::now();
        let kill = BrokerKill::now(Some(saved));
        let Some(later) = kill.at.checked_add(Duration::from_millis(1)) else {
            panic!("no such time");
        };
        assert!(kill.forgot(between));
        assert!(!kill.forgot(later), "the next broker has acknowledged it");
        let Some(earlier) = before.checked_sub(Duration::from_millis(5)) else {
            return; // this machine has only just started
        };
        assert!(!kill.forgot(earlier));
        assert!(BrokerKill::now(None).forgot(earlier), "never saved");
    }
}

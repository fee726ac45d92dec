//! `cargo xtask fleet`: a fleet at its pace, each device once in an interval, against a collector of its own; every ten seconds what that takes.
//!
//! As many connections as descriptors allow: the limit is raised for this process, and the collector inherits it; devices share connections beyond. Lag counts from the
//! moment at which a message was due, so that a collector that falls behind shows it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use hdrhistogram::Histogram;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::collector::{Collector, Usage, bytes_on_disk};
use crate::load::{self, Fleet, Latency, Link, Message, Plan, Script, Shape, Tally, Turn, now_ms};

/// What is asked for, where we may; else as many as we may.
const MOST_DESCRIPTORS: u64 = 1 << 20;
/// Of a process's descriptors, those that are no connections.
const OWN_DESCRIPTORS: u64 = 1000;
const START_PATIENCE: Duration = Duration::from_secs(300);
const REPORT_EVERY: Duration = Duration::from_secs(10);
const LOG: &str = "info,devmon_collector::store=debug,devmon_collector::intake::listen=error";

#[derive(Debug, Args)]
pub struct FleetRun {
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=999_999))]
    devices: u32,
    /// Leaves in each device's tree.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=2000))]
    metrics: u32,
    /// Seconds between two messages of a device.
    #[arg(long, default_value = "10s", value_parser = seconds)]
    interval: Duration,
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Connections [default: one for each device, or what descriptors allow].
    #[arg(long)]
    connections: Option<u32>,
    /// The collector's program [default: a release build].
    #[arg(long, value_name = "PATH")]
    collector: Option<PathBuf>,
    /// A new folder for the data; it is removed at the end [default: target/fleet/PID].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Leave the data where it is.
    #[arg(long)]
    keep: bool,
    /// More lines for the collector's configuration.
    #[arg(long, default_value = "")]
    config: String,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse::<f64>();
    let number = number.ok().filter(|s| *s > 0.0 && s.is_finite());
    number
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("{text:?} is no number of seconds such as 10s"))
}

impl FleetRun {
    /// # Errors
    /// The collector does not start, or ends.
    pub fn run(self) -> anyhow::Result<()> {
        let limit = raise_descriptors()?;
        let possible = u32::try_from(limit.saturating_sub(OWN_DESCRIPTORS)).unwrap_or(u32::MAX);
        let connections = self
            .connections
            .unwrap_or(self.devices)
            .min(self.devices)
            .min(possible)
            .max(1);
        let program = match &self.collector {
            Some(path) => path.clone(),
            None => crate::collector::build(false)?,
        };
        let pid = std::process::id().to_string();
        let data = self
            .data
            .clone()
            .unwrap_or_else(|| crate::target_dir().join("fleet").join(pid));
        let config = format!(
            "mqtt_max_connections = {}\n{}\n",
            connections + 100,
            self.config
        );
        let mut collector = Collector::start(&program, &data, &config, LOG)?;
        collector
            .wait_ready(START_PATIENCE)?
            .context("the collector was not ready in time")?;
        println!(
            "{} devices × {} metrics every {:?} over {connections} connections ({limit} descriptors): {:.0} messages/s, {:.0} samples/s",
            self.devices,
            self.metrics,
            self.interval,
            f64::from(self.devices) / self.interval.as_secs_f64(),
            f64::from(self.devices) * f64::from(self.metrics) / self.interval.as_secs_f64(),
        );
        let plan = Plan {
            devices: self.devices,
            metrics: self.metrics,
            connections,
            window: u16::try_from(self.devices.div_ceil(connections) * 2)
                .unwrap_or(u16::MAX)
                .max(8),
            step: self.interval,
            flat_out: false,
            origin_ms: now_ms(),
            seconds: Some(self.minutes * 60.0),
            name: "fleet".into(),
            reconnect: true,
            ..Plan::flat_out(collector.mqtt()?)
        };
        let link = Link {
            to: plan.to,
            connections,
            client: "fleet".into(),
            window: plan.window,
            reconnect: true,
        };
        let shape = Shape::new(
            "fleet",
            self.metrics,
            plan.origin_ms,
            self.interval.as_millis() as i64,
        );
        let mut watch = Watch::new(
            Fleet::new(&plan, connections),
            &collector,
            &data,
            self.metrics,
        )?;
        println!(
            "| s | due/s | messages/s | samples/s | lag p50 ms | p99 ms | max ms | waiting | collector CPU % | generator CPU % | RSS MB | journal MB | db MB | archive MB | seals |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
        let tally = load::drive(&link, &shape, &mut watch)?;
        let (all, begun) = (watch.all, watch.begun);
        let took = begun.elapsed().as_secs_f64();
        let usage = collector.usage()?;
        let samples = tally.acked * u64::from(self.metrics);
        let bytes = bytes_on_disk(&data);
        println!(
            "\n{} messages ({} again), {} acknowledged in {took:.0} s: {:.0} messages/s, {:.0} samples/s; connections lost: {}",
            tally.sent,
            tally.again,
            tally.acked,
            tally.acked as f64 / took,
            samples as f64 / took,
            tally.connections_lost
        );
        println!("lag: {}", Latency(&all));
        println!(
            "collector: {:.0} % of a core, {:.0} MB resident at most, {:.1} MB on disk, {:.2} bytes a sample",
            100.0 * usage.cpu_seconds / took,
            usage.rss_most as f64 / 1e6,
            bytes as f64 / 1e6,
            bytes as f64 / samples.max(1) as f64
        );
        println!("{}", collector.json("/api/v1/status")?);
        let begin = Instant::now();
        let said = collector.terminate()?;
        println!(
            "ended in {:.1} s; it logged {:?}",
            begin.elapsed().as_secs_f64(),
            said.messages
        );
        for line in said.done.iter().chain(said.problems.iter().take(10)) {
            println!("{line}");
        }
        let mut again = Collector::start(&program, &data, &config, LOG)?;
        let opened = again
            .wait_ready(START_PATIENCE)?
            .context("the collector was not ready again in time")?;
        println!(
            "a restart is ready after {:.2} s and takes {:.0} MB",
            opened.as_secs_f64(),
            again.usage()?.rss as f64 / 1e6
        );
        again.terminate()?;
        if !self.keep {
            std::fs::remove_dir_all(&data)?;
        }
        Ok(())
    }
}

/// Raises the number of descriptors as far as we may; returns it.
fn raise_descriptors() -> anyhow::Result<u64> {
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: Some(MOST_DESCRIPTORS),
        maximum: Some(MOST_DESCRIPTORS),
    };
    if setrlimit(Resource::Nofile, wanted).is_err() {
        // Not root: the hard limit is what we have.
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: now.maximum,
                ..now
            },
        )?;
    }
    Ok(getrlimit(Resource::Nofile)
        .current
        .unwrap_or(MOST_DESCRIPTORS))
}

/// The fleet's script, and a line every ten seconds.
struct Watch<'a> {
    fleet: Fleet<'a>,
    collector: &'a Collector,
    data: &'a std::path::Path,
    metrics: u32,
    all: Histogram<u64>,
    begun: Instant,
    next: Instant,
    /// At the last line: due, acknowledged, the collector's and our CPU.
    last: (u64, u64, Usage, f64),
}

impl<'a> Watch<'a> {
    fn new(
        fleet: Fleet<'a>,
        collector: &'a Collector,
        data: &'a std::path::Path,
        metrics: u32,
    ) -> anyhow::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            fleet,
            collector,
            data,
            metrics,
            all: Histogram::new_with_bounds(1, 600_000_000, 2)?,
            begun: now,
            next: now,
            last: (0, 0, collector.usage()?, load::cpu_seconds()),
        })
    }

    fn line(&mut self, now: Instant, tally: &mut Tally) {
        let Ok(usage) = self.collector.usage() else {
            return; // it has ended, and the connections say so
        };
        let passed = (now + REPORT_EVERY - self.next).as_secs_f64().max(0.001);
        let due = self.fleet.handed_out();
        let cpu = load::cpu_seconds();
        let (due_before, acked_before, usage_before, cpu_before) = self.last;
        let rate = |n: u64| n as f64 / passed;
        let ms = |q: f64| tally.latency_us.value_at_quantile(q) as f64 / 1000.0;
        let mb = |name: &str| bytes_on_disk(&self.data.join(name)) as f64 / 1e6;
        let messages = rate(tally.acked - acked_before);
        println!(
            "| {:.0} | {:.0} | {messages:.0} | {:.0} | {:.1} | {:.1} | {:.0} | {} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} | {:.1} | {} |",
            (now - self.begun).as_secs_f64(),
            rate(due - due_before),
            messages * f64::from(self.metrics),
            ms(0.5),
            ms(0.99),
            tally.latency_us.max() as f64 / 1000.0,
            due - tally.acked,
            100.0 * (usage.cpu_seconds - usage_before.cpu_seconds) / passed,
            100.0 * (cpu - cpu_before) / passed,
            usage.rss as f64 / 1e6,
            mb("journal"),
            mb("db"),
            mb("archive"),
            self.collector.said().messages.get("sealed").unwrap_or(&0)
        );
        if self.all.add(&tally.latency_us).is_err() {
            println!("the line above is not in the summary's lag");
        }
        tally.latency_us.reset();
        self.last = (due, tally.acked, usage, cpu);
    }
}

impl Script for Watch<'_> {
    fn turn(&mut self, now: Instant, tally: &mut Tally, woken: &mut Vec<u32>) -> Turn {
        if self.fleet.handed_out() == 0 && tally.acked == 0 {
            // All connections stand: the first second begins here.
            (self.begun, self.next) = (now, now + REPORT_EVERY);
        }
        if now >= self.next {
            self.line(now, tally);
            self.next = now + REPORT_EVERY;
        }
        self.fleet.turn(now, tally, woken)
    }

    fn next(&mut self, connection: u32, now: Instant) -> Option<(Message, Instant)> {
        self.fleet.next(connection, now)
    }

    fn acked(&mut self, message: &Message) {
        self.fleet.acked(message);
    }
}

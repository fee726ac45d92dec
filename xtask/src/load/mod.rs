//! `cargo xtask load`: MQTT 3.1.1 QoS 1 from many simulated devices to a collector that runs already, over plain TCP.
//!
//! Flat out, or each device once in an interval, at moments spread over it. One thread carries some hundred thousand messages a second; it should not take
//! the processor from what it measures. [`run`] is the same for other commands: a [`Plan`] in, a [`Report`] out. `engine` sends for any [`Script`], `message` is what is sent.

mod engine;
mod message;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use hdrhistogram::Histogram;

pub use engine::{Link, Script, Tally, Turn, drive};
pub use message::{Message, Random, Shape};

/// How long PUBACKs are waited for at the end.
const DRAIN: Duration = Duration::from_secs(30);
const DAY_MS: i64 = 86_400_000;

/// What is to be sent.
#[derive(Debug, Clone)]
pub struct Plan {
    pub to: SocketAddr,
    pub devices: u32,
    pub metrics: u32,
    pub connections: u32,
    /// Messages of a connection that may wait for their PUBACK.
    pub window: u16,
    /// Frames in a message; each is one tick of its device.
    pub frames: u16,
    /// Between two ticks of a device.
    pub step: Duration,
    /// Send as fast as PUBACKs come; else each device sends once in `step` × `frames`.
    pub flat_out: bool,
    /// Time of the first tick. Flat out the ticks run ahead of the clock, so it should lie back far enough.
    pub origin_ms: i64,
    /// Whichever comes first; none: for ever.
    pub seconds: Option<f64>,
    pub messages: Option<u64>,
    /// Devices are called this, `-` and a number.
    pub name: String,
    /// Lost connections are made again, and what was not acknowledged is sent again.
    pub reconnect: bool,
}

impl Plan {
    /// 100 devices with 50 metrics over 10 connections, flat out, from 20 days ago on, for 10 s.
    #[must_use]
    pub fn flat_out(to: SocketAddr) -> Self {
        Self {
            to,
            devices: 100,
            metrics: 50,
            connections: 10,
            window: 500,
            frames: 1,
            step: Duration::from_secs(10),
            flat_out: true,
            origin_ms: (now_ms() / DAY_MS - 20) * DAY_MS,
            seconds: Some(10.0),
            messages: None,
            name: "load".into(),
            reconnect: false,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    pub sent: u64,
    pub again: u64,
    pub acked: u64,
    pub samples: u64,
    pub bytes: u64,
    pub connections_lost: u64,
    /// From the first message to the last PUBACK.
    pub seconds: f64,
    /// Of this process, user and system.
    pub cpu_seconds: f64,
    /// From due to PUBACK.
    pub latency_us: Histogram<u64>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = |n: u64| n as f64 / self.seconds;
        writeln!(
            f,
            "{} messages sent ({} again), {} acknowledged in {:.2} s: {:.0} messages/s, {:.0} samples/s, {:.1} MB/s",
            self.sent,
            self.again,
            self.acked,
            self.seconds,
            rate(self.acked),
            rate(self.samples),
            rate(self.bytes) / 1e6
        )?;
        writeln!(f, "PUBACK: {}", Latency(&self.latency_us))?;
        write!(
            f,
            "connections lost: {}; CPU of the generator: {:.2} s ({:.0} %)",
            self.connections_lost,
            self.cpu_seconds,
            100.0 * self.cpu_seconds / self.seconds
        )
    }
}

/// A histogram in one line, in milliseconds.
#[derive(Debug)]
pub struct Latency<'a>(pub &'a Histogram<u64>);

impl std::fmt::Display for Latency<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |q: f64| self.0.value_at_quantile(q) as f64 / 1000.0;
        write!(
            f,
            "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            ms(0.5),
            ms(0.99),
            self.0.max() as f64 / 1000.0
        )
    }
}

/// Sends as planned.
///
/// # Errors
/// As [`drive`].
pub fn run(plan: &Plan) -> anyhow::Result<Report> {
    let shape = Shape::new(
        &plan.name,
        plan.metrics,
        plan.origin_ms,
        plan.step.as_millis() as i64,
    );
    let link = Link {
        to: plan.to,
        connections: plan.connections.min(plan.devices).max(1),
        client: plan.name.clone(),
        window: plan.window,
        reconnect: plan.reconnect,
    };
    let cpu = cpu_seconds();
    let mut fleet = Fleet::new(plan, link.connections);
    let tally = drive(&link, &shape, &mut fleet)?;
    let begin = fleet.begin.unwrap_or_else(Instant::now);
    let end = fleet.last_ack.unwrap_or_else(Instant::now);
    Ok(Report {
        sent: tally.sent,
        again: tally.again,
        acked: tally.acked,
        samples: tally.acked * u64::from(plan.frames.max(1)) * u64::from(shape.metrics()),
        bytes: tally.bytes,
        connections_lost: tally.connections_lost,
        seconds: end.saturating_duration_since(begin).as_secs_f64().max(1e-6),
        cpu_seconds: cpu_seconds() - cpu,
        latency_us: tally.latency_us,
    })
}

/// The script of a plan: connection c has the devices c, c + connections, …
pub(crate) struct Fleet<'a> {
    plan: &'a Plan,
    connections: u32,
    boot: u32,
    begin: Option<Instant>,
    stop_sending: Option<Instant>,
    last_ack: Option<Instant>,
    /// Messages handed out; paced, the number of the next one that is due: device by device, then the next tick.
    sent: u64,
    /// Flat out: how many each connection has handed out. It takes its devices in turn.
    taken: Vec<u64>,
    /// Paced: what is due and was not taken yet.
    due: Vec<VecDeque<(Message, Instant)>>,
}

impl<'a> Fleet<'a> {
    pub(crate) fn new(plan: &'a Plan, connections: u32) -> Self {
        Self {
            plan,
            connections,
            // A boot of its own for each run: the collector would take a second run for repeats.
            boot: (now_ms() / 1000 % 100_000_000) as u32,
            begin: None,
            stop_sending: None,
            last_ack: None,
            sent: 0,
            taken: vec![0; connections as usize],
            due: vec![VecDeque::new(); connections as usize],
        }
    }

    /// Messages that were due so far.
    pub(crate) fn handed_out(&self) -> u64 {
        self.sent
    }

    fn message(&self, device: u32, turn: u64) -> Message {
        let frames = self.plan.frames.max(1);
        Message {
            device,
            boot: self.boot,
            seq: turn as u32,
            tick: turn as u32 * u32::from(frames),
            frames,
        }
    }
}

impl Script for Fleet<'_> {
    fn turn(&mut self, now: Instant, _: &mut Tally, woken: &mut Vec<u32>) -> Turn {
        let begin = *self.begin.get_or_insert(now);
        let over = self
            .plan
            .seconds
            .is_some_and(|s| now >= begin + Duration::from_secs_f64(s))
            || self.plan.messages.is_some_and(|most| self.sent >= most);
        if over {
            let since = *self.stop_sending.get_or_insert(now);
            return if now > since + DRAIN {
                Turn::Stop
            } else {
                Turn::Drain
            };
        }
        if self.plan.flat_out {
            return Turn::Go(Duration::from_millis(100));
        }
        let devices = u64::from(self.plan.devices.max(1));
        let round = self.plan.step * u32::from(self.plan.frames.max(1));
        loop {
            let (turn, device) = (self.sent / devices, (self.sent % devices) as u32);
            let at =
                begin + round * turn as u32 + round.mul_f64(f64::from(device) / devices as f64);
            if at > now {
                return Turn::Go((at - now).max(Duration::from_millis(1)));
            }
            let connection = device % self.connections;
            let message = self.message(device, turn);
            self.due[connection as usize].push_back((message, at));
            woken.push(connection);
            self.sent += 1;
        }
    }

    fn next(&mut self, connection: u32, now: Instant) -> Option<(Message, Instant)> {
        if !self.plan.flat_out {
            return self.due[connection as usize].pop_front();
        }
        if self.plan.messages.is_some_and(|most| self.sent >= most) {
            return None;
        }
        let devices = (self.plan.devices - connection).div_ceil(self.connections);
        let taken = &mut self.taken[connection as usize];
        let device = connection + (*taken % u64::from(devices)) as u32 * self.connections;
        let turn = *taken / u64::from(devices);
        *taken += 1;
        self.sent += 1;
        Some((self.message(device, turn), now))
    }

    fn acked(&mut self, _: &Message) {
        self.last_ack = Some(Instant::now());
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as i64)
}

/// What this process has used of the processors.
pub(crate) fn cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

#[derive(Args)]
pub struct Load {
    /// Where the collector's MQTT listener is.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:1883")]
    to: SocketAddr,
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=999_999))]
    devices: u32,
    /// Leaves in each device's tree.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=2000))]
    metrics: u32,
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Milliseconds between two ticks of a device.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,
    /// As fast as it is acknowledged, with times from 20 days ago on, an interval apart.
    #[arg(long)]
    flat_out: bool,
    /// Ticks in each message.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    frames: u16,
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    seconds: f64,
    /// End after so many messages, if that is sooner.
    #[arg(long, value_name = "K")]
    messages: Option<u64>,
    /// Messages of a connection that may wait for their PUBACK.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// Devices are called this and a number.
    #[arg(long, default_value = "load")]
    name: String,
}

impl Load {
    pub fn run(self) -> anyhow::Result<()> {
        let mut plan = Plan {
            devices: self.devices,
            metrics: self.metrics,
            connections: self.connections,
            window: self.window,
            frames: self.frames,
            step: Duration::from_millis(self.interval),
            flat_out: self.flat_out,
            seconds: Some(self.seconds),
            messages: self.messages,
            name: self.name,
            ..Plan::flat_out(self.to)
        };
        if !plan.flat_out {
            plan.origin_ms = now_ms();
            plan.reconnect = true;
        }
        println!("{}", run(&plan)?);
        Ok(())
    }
}

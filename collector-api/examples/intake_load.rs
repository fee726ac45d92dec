//! Load on the intake, and what it costs: messages of one source with 50 leaves each from 100 devices, decoded, checked, stored and fsynced.
//!
//! ```text
//! cargo run --release -p devmon-collector --example intake_load -- submit DIR [DEVICES] [METRICS] [TICKS]
//! cargo run --release -p devmon-collector --example intake_load -- listen DIR [DEVICES] [METRICS] [TICKS] [CONNECTIONS]
//! ```
//! `submit` hands the messages to the intake in this process; `listen` sends them over TCP to the listener, at QoS 1, from threads of this process. DIR must not
//! exist. CPU seconds are the process' without those of making (and, for `listen`, sending) the messages.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use devmon_collector::intake::{Intake, IntakeSettings, Limits, Listener, Outcome, Publish};
use devmon_collector::store::engine::Store;
use devmon_collector::store::{Engine, Options};
use tokio::sync::watch;

/// Messages under way, of all connections together: an agent's outbox, many times over.
const WINDOW: usize = 4000;
/// 2026-11-23T10:00:00Z, and one message of each device every 10 s.
const BEGIN_MS: i64 = 1_795_428_000_000;
const TICK_MS: i64 = 10_000;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| {
        args.get(at).map_or(Ok(default), |text| {
            text.parse::<usize>().context("a number")
        })
    };
    let (Some(how), Some(dir)) = (args.first(), args.get(1)) else {
        bail!("usage: intake_load submit|listen DIR [DEVICES] [METRICS] [TICKS] [CONNECTIONS]");
    };
    let dir = Path::new(dir);
    ensure!(!dir.exists(), "{} is there already", dir.display());
    let load = Load {
        devices: number(2, 100)?,
        metrics: number(3, 50)?,
        ticks: number(4, 2160)?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let store: Arc<dyn Store> = Arc::new(Engine::open(dir, Options::default())?);
    let settings = IntakeSettings {
        max_ahead_ms: i64::MAX,
        ..IntakeSettings::default()
    };
    let (intake, writer) = Intake::new(store.clone(), settings);

    let (begin, cpu) = (Instant::now(), cpu_seconds("self")?);
    let others = match how.as_str() {
        "submit" => runtime.block_on(submit(intake.clone(), load))?,
        "listen" => listen(&runtime, intake.clone(), load, number(5, 4)?)?,
        other => bail!("{other}: neither submit nor listen"),
    };
    let (took, cpu) = (
        begin.elapsed().as_secs_f64(),
        cpu_seconds("self")? - cpu - others,
    );

    let status = intake.status();
    let (messages, samples) = (status.messages as f64, status.samples as f64);
    ensure!(status.samples == load.samples(), "{status:?}");
    println!(
        "{messages} messages, {samples} samples in {took:.2} s: {:.0} msg/s, {:.2} M samples/s",
        messages / took,
        samples / took / 1e6
    );
    println!(
        "CPU {cpu:.2} s (and {others:.2} s for the load itself): {:.2} M samples/CPU s, {:.1} us/message",
        samples / cpu / 1e6,
        cpu / messages * 1e6
    );
    println!("{}", memory()?);
    let kept = store.status();
    println!(
        "{} series, {} samples in the head, journal {} MB, database {} MB",
        kept.series,
        kept.head_samples,
        kept.journal_bytes >> 20,
        kept.database_bytes >> 20
    );
    drop(intake);
    writer.stop();
    drop(store);
    drop(runtime);
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Load {
    devices: usize,
    metrics: usize,
    ticks: usize,
}

impl Load {
    fn samples(self) -> u64 {
        (self.devices * self.metrics * self.ticks) as u64
    }
}

/// Makes messages; each value is one that a host might send.
struct Maker {
    load: Load,
    /// Decimals between 0 and 1 with four digits, a slow walk.
    ratios: Vec<String>,
    names: Vec<String>,
}

impl Maker {
    fn new(load: Load) -> Self {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut at = 5000i64;
        let ratios = (0..4096).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            at = (at + (state % 401) as i64 - 200).clamp(0, 9999);
            format!("{}", at as f64 / 10_000.0)
        });
        // As a tree: ten leaves in each branch.
        let names = (0..load.metrics).map(|metric| {
            let begin = match metric % 10 {
                0 if metric == 0 => format!("\"part_{}\":{{", metric / 10),
                0 => format!("}},\"part_{}\":{{", metric / 10),
                _ => ",".into(),
            };
            let kind = ["utilization", "used_bytes", "bytes_total", "load"][metric % 4];
            format!("{begin}\"{}_{kind}\":", metric % 10)
        });
        Self {
            load,
            ratios: ratios.collect(),
            names: names.collect(),
        }
    }

    fn write(&self, device: usize, tick: usize, out: &mut Vec<u8>) -> std::io::Result<()> {
        let ts = BEGIN_MS + tick as i64 * TICK_MS + device as i64;
        write!(
            out,
            r#"{{"v":1,"device":"device-{device:05}","boot":"01KAR3ND6QJ5SCW3T1ZTQY1BQ3","seq":{tick},"frames":[{{"ts":{ts},"source":"host","metrics":{{"#
        )?;
        for (metric, name) in self.names.iter().enumerate() {
            out.extend_from_slice(name.as_bytes());
            let ratio = &self.ratios[(tick + device * 61 + metric * 97) % self.ratios.len()];
            match metric % 4 {
                0 | 3 => out.extend_from_slice(ratio.as_bytes()),
                // Some 8 GB, in pages: the walk's digits are the pages.
                1 => {
                    out.extend_from_slice(b"80");
                    out.extend_from_slice(ratio.as_bytes().get(2..).unwrap_or_default());
                    out.extend_from_slice(b"4096");
                }
                _ => write!(out, "{}", (tick as u64) * 1_234_567 + metric as u64 * 1000)?,
            }
        }
        out.extend_from_slice(b"}}}]}");
        Ok(())
    }
}

/// Hands the messages over in this process; returns the CPU seconds of making them, taken in a run of its own.
async fn submit(intake: Intake, load: Load) -> anyhow::Result<f64> {
    let maker = Arc::new(Maker::new(load));
    let before = cpu_seconds("thread-self")?;
    let mut payload = Vec::new();
    for at in 0..load.ticks * load.devices {
        payload.clear();
        maker.write(at % load.devices, at / load.devices, &mut payload)?;
        std::hint::black_box(&payload);
    }
    let others = cpu_seconds("thread-self")? - before;
    let tasks = (0..2).map(|part| {
        let (intake, maker) = (intake.clone(), maker.clone());
        tokio::spawn(async move {
            let mut tickets = std::collections::VecDeque::new();
            for tick in 0..load.ticks {
                for device in (part..load.devices).step_by(2) {
                    let mut payload = Vec::with_capacity(2048);
                    maker.write(device, tick, &mut payload)?;
                    let topic = format!("devmon/v1/0/device-{device:05}/metrics");
                    tickets.push_back(intake.submit(Publish::new(topic, payload)).await);
                    if tickets.len() > WINDOW / 2 {
                        let oldest = tickets.pop_front().context("there is one")?;
                        ensure!(oldest.await == Outcome::Acknowledge);
                    }
                }
            }
            for ticket in tickets {
                ensure!(ticket.await == Outcome::Acknowledge);
            }
            Ok(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    // Made twice.
    Ok(others * 2.0)
}

/// Sends the messages to a listener; returns the CPU seconds of the senders.
fn listen(
    runtime: &tokio::runtime::Runtime,
    intake: Intake,
    load: Load,
    connections: usize,
) -> anyhow::Result<f64> {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let listener = runtime.block_on(Listener::bind(any, None, Limits::default()))?;
    let addr = listener.local_addr()?;
    let (stop, stops) = watch::channel(false);
    let listening = runtime.spawn(listener.run(intake, stops));
    let maker = Maker::new(load);
    let senders = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..connections)
            .map(|part| {
                let maker = &maker;
                scope.spawn(move || send(maker, addr, part, connections))
            })
            .collect();
        let ended = senders.into_iter().map(|sender| match sender.join() {
            Ok(cpu) => cpu,
            Err(_) => bail!("a sender panicked"),
        });
        ended.sum::<anyhow::Result<f64>>()
    })?;
    stop.send(true)?;
    runtime.block_on(listening)?;
    Ok(senders)
}

/// One connection, for every `parts`-th device.
fn send(maker: &Maker, addr: SocketAddr, part: usize, parts: usize) -> anyhow::Result<f64> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let name = format!("load-{part}");
    let mut connect = vec![0x10, (12 + name.len()) as u8, 0, 4];
    connect.extend_from_slice(b"MQTT\x04\x02\0\0\0");
    connect.push(name.len() as u8);
    connect.extend_from_slice(name.as_bytes());
    stream.write_all(&connect)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    ensure!(answer == [0x20, 2, 0, 0], "not welcome: {answer:?}");

    let window = (WINDOW / parts).clamp(1, 900);
    let (mut payload, mut out, mut acks) = (Vec::new(), Vec::new(), vec![0; 64 * 1024]);
    let (mut under_way, mut held) = (0usize, 0usize);
    let mut packet_id = 0u16;
    let load = maker.load;
    let mut due = (0..load.ticks)
        .flat_map(|tick| (part..load.devices).step_by(parts).map(move |d| (d, tick)))
        .peekable();
    while due.peek().is_some() || under_way > 0 {
        out.clear();
        while under_way < window && out.len() < 128 * 1024 {
            let Some((device, tick)) = due.next() else {
                break;
            };
            payload.clear();
            maker.write(device, tick, &mut payload)?;
            packet_id = packet_id % 60_000 + 1;
            publish(&mut out, device, packet_id, &payload)?;
            under_way += 1;
        }
        stream.write_all(&out)?;
        if under_way == window || due.peek().is_none() {
            let read = stream.read(&mut acks[held..])?;
            ensure!(read > 0, "closed by the listener");
            held += read;
            under_way -= held / 4;
            held %= 4; // a PUBACK has four bytes
        }
    }
    cpu_seconds("thread-self")
}

fn publish(out: &mut Vec<u8>, device: usize, id: u16, payload: &[u8]) -> std::io::Result<()> {
    let begin = out.len();
    out.extend_from_slice(&[0x32, 0, 0, 0, 0]); // the length in three bytes, then the topic's
    write!(out, "\0devmon/v1/0/device-{device:05}/metrics")?;
    let topic = out.len() - begin - 6;
    out[begin + 5] = topic as u8;
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(payload);
    let length = out.len() - begin - 4;
    out[begin + 1] = length as u8 | 0x80;
    out[begin + 2] = (length >> 7) as u8 | 0x80;
    out[begin + 3] = (length >> 14) as u8;
    Ok(())
}

/// CPU seconds of `self` or `thread-self`: user and system, in steps of 10 ms for the process.
fn cpu_seconds(whose: &str) -> anyhow::Result<f64> {
    if whose == "thread-self" {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
        let ns: f64 = text.split(' ').next().context("schedstat")?.parse()?;
        return Ok(ns / 1e9);
    }
    let text = std::fs::read_to_string(format!("/proc/{whose}/stat"))?;
    let behind_name = text.rsplit(')').next().context("stat")?;
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("stat")?;
    Ok((user + system) / 100.0)
}

fn memory() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let wanted = ["VmHWM", "VmRSS", "RssAnon"];
    let lines = text
        .lines()
        .filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    Ok(lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join(", "))
}

//! Measures what a question costs, over HTTP with a kept connection, against a store of 100 devices × 50 metrics × 2160 ticks of 10 s, sealed:
//! `cargo run --release -p devmon-collector --example query_latency [-- DEVICES]`. Prints p50 and p99 over HTTP, and p50 of the parts in process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use devmon_collector::api::server::Server;
use devmon_collector::api::{Api, Front};
use devmon_collector::intake::IntakeStatus;
use devmon_collector::query::aggregate::Aggregate;
use devmon_collector::query::range::{self, Resolution, SeriesQuery};
use devmon_collector::store::engine::{Accepted, Content, Store};
use devmon_collector::store::{Engine, Options};
use devmon_core::wire::{FlatMessage, TimestampMs};

const SOURCES: [&str; 5] = ["cpu", "memory", "disk", "network", "sensors"];
const METRICS: u64 = 10;
const TICKS: u64 = 2160;
const STEP_MS: u64 = 10_000;
const BEGIN_MS: u64 = 1_795_392_000_000;
const ROUNDS: usize = 2_000;

fn main() -> anyhow::Result<()> {
    let devices = std::env::args().nth(1).map_or(Ok(100), |n| n.parse())?;
    let dir = std::env::temp_dir().join(format!("query-latency-{}", std::process::id()));
    let measured = measure(&dir, devices);
    std::fs::remove_dir_all(&dir)?;
    measured
}

fn measure(dir: &std::path::Path, devices: u64) -> anyhow::Result<()> {
    let options = Options {
        retention: Duration::from_secs(100 * 365 * 86_400),
        ..Options::default()
    };
    let store = Arc::new(Engine::open(dir, options)?);
    let begin = Instant::now();
    for tick in 0..TICKS {
        let batch: Vec<Accepted> = (0..devices)
            .map(|device| message(device, tick))
            .collect::<anyhow::Result<_>>()?;
        store.commit(&batch)?;
    }
    store.seal_now()?;
    println!("{} samples in {:?}", devices * 50 * TICKS, begin.elapsed());

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let front = Front::new(None, String::new);
    let started = TimestampMs::now();
    front.open(Api::new(
        store.clone(),
        IntakeStatus::default,
        "listener",
        started,
    ));
    let server = runtime.block_on(Server::bind(([127, 0, 0, 1], 0).into(), 16))?;
    let addr = server.local_addr()?;
    let (_stop, stops) = tokio::sync::watch::channel(false);
    runtime.spawn(server.run(Arc::new(front), stops));

    let (from, to) = (BEGIN_MS, BEGIN_MS + TICKS * STEP_MS);
    let series = format!(
        "/api/v1/devices/d{}/series?path=/disk/m3&from={from}&to={to}",
        devices / 2
    );
    let latest = format!("/api/v1/devices/d{}/latest", devices / 2);
    for (name, url) in [
        ("6 h raw", series.clone()),
        ("6 h at 60 s, avg", format!("{series}&step=60s")),
        (
            "6 h at 60 s, min,avg,max",
            format!("{series}&step=60s&agg=min,avg,max"),
        ),
        ("6 h at 1 h, avg", format!("{series}&step=1h")),
        (
            "6 h raw, float",
            series.replace("disk", "cpu").replace("m3", "m0"),
        ),
        ("latest of 50", latest),
        ("livez", "/livez".to_owned()),
    ] {
        let (p50, p99, bytes) = over_http(addr, &url)?;
        println!("{name:28} p50 {p50:>9.1?}  p99 {p99:>9.1?}  {bytes} bytes");
    }
    parts(&store, devices / 2)?;
    Ok(())
}

fn message(device: u64, tick: u64) -> anyhow::Result<Accepted> {
    let ts = BEGIN_MS + tick * STEP_MS;
    let noise = |n: u64| (device * 7919 + tick * 104_729 + n * 1_299_709) >> 3;
    let frames: Vec<String> = SOURCES
        .iter()
        .enumerate()
        .map(|(s, source)| {
            let metrics: Vec<String> = (0..METRICS)
                .map(|m| {
                    let value = match s {
                        0 => format!("0.{:04}", noise(m) % 10_000),
                        1 => format!("{}", 4096 * (100_000 + noise(m) % 5_000)),
                        2 | 3 => format!("{}", tick * 1000 * (m + 1) + noise(m) % 1000),
                        _ => format!("{}.5", 40 + noise(m) % 10),
                    };
                    format!("\"m{m}\":{value}")
                })
                .collect();
            format!(
                "{{\"ts\":{ts},\"source\":\"{source}\",\"metrics\":{{{}}}}}",
                metrics.join(",")
            )
        })
        .collect();
    let payload = format!(
        "{{\"v\":1,\"boot\":\"B\",\"seq\":{tick},\"frames\":[{}]}}",
        frames.join(",")
    );
    let message = FlatMessage::decode(payload.as_bytes()).map_err(|e| anyhow::anyhow!("{e:?}"))?;
    Ok(Accepted {
        device: format!("d{device}").parse()?,
        received: TimestampMs(i64::try_from(ts)?),
        payload: payload.into(),
        content: Content::Metrics {
            id: message.id,
            frames: message.frames,
        },
    })
}

fn over_http(addr: SocketAddr, url: &str) -> anyhow::Result<(Duration, Duration, usize)> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    let (mut writer, mut reader) = (
        stream.try_clone()?,
        BufReader::with_capacity(1 << 17, stream),
    );
    let request = format!("GET {url} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let mut took = Vec::new();
    let mut body = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        writer.write_all(request.as_bytes())?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if let Some(text) = line.strip_prefix("content-length: ") {
                length = text.trim().parse()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        took.push(begin.elapsed());
    }
    took.sort_unstable();
    Ok((took[ROUNDS / 2], took[ROUNDS * 99 / 100], body.len()))
}

fn parts(store: &Engine, device: u64) -> anyhow::Result<()> {
    let device = format!("d{device}");
    let path = ["/disk/m3".parse()?];
    let (from, to) = (
        TimestampMs(BEGIN_MS as i64),
        TimestampMs((BEGIN_MS + TICKS * STEP_MS) as i64),
    );
    let read = || drop(store.range(&device, &path, from, to, 1_000_000));
    let mut query = SeriesQuery {
        device: device.clone(),
        paths: path.to_vec(),
        from,
        to,
        resolution: Resolution::Raw,
        aggregates: Vec::new(),
        limit: 10_000,
        start: None,
    };
    let raw = query.clone();
    (query.resolution, query.aggregates) = (Resolution::Step(60_000), vec![Aggregate::Avg]);
    println!("store.range                  p50 {:>9.1?}", p50(&read));
    println!(
        "query raw                    p50 {:>9.1?}",
        p50(&|| drop(range::series(store, &raw)))
    );
    println!(
        "query at 60 s                p50 {:>9.1?}",
        p50(&|| drop(range::series(store, &query)))
    );
    println!(
        "store.series of a device     p50 {:>9.1?}",
        p50(&|| drop(store.series(&device, "", None, 1000)))
    );
    Ok(())
}

fn p50(f: &dyn Fn()) -> Duration {
    let mut took: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            f();
            begin.elapsed()
        })
        .collect();
    took.sort_unstable();
    took[ROUNDS / 2]
}

//! `cargo xtask bench api`: a hundred clients at once with wrk, beside VictoriaMetrics' nearest calls; and the latest values while messages arrive.
//!
//! One server at a time, both with the same six hours of the synthetic set, compacted and started anew. wrk runs on the same cores: requests per second are those of both
//! together, CPU per request is the server's own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Args;

use super::feed::{Lines, Messages};
use super::measure::Questions;
use super::ours::{self, Ours};
use super::peers::Peer;
use super::server::{Server, word};
use super::set::Set;
use super::{report, stop, store, synthetic};
use crate::prepare::{self, heading};
use crate::target_dir;

const CLIENTS: u32 = 100;
/// Devices of the live part; each sends so often that all of them send [`LIVE_MESSAGES`] a second.
const LIVE_DEVICES: u32 = 3000;
const LIVE_MESSAGES: u32 = 30_000;
const LIVE_CLIENTS: [u32; 3] = [1, 10, 100];
/// Names of the threads that answer (`collector-api/src/serve.rs`).
const API_THREADS: &str = "api";
/// Until all devices are known and the intake runs evenly.
const LIVE_WARM_UP: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(crate) struct Api {
    /// How long each call is asked for.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// A smoke run: 10 devices, an hour, no messages meanwhile. Writes no file.
    #[arg(long)]
    quick: bool,
    /// Only the latest values while messages arrive. Writes no file.
    #[arg(long, conflicts_with = "quick")]
    live: bool,
    /// Keep docs/benchmarks.md as it is.
    #[arg(long)]
    no_write: bool,
    /// The programs are built, and this is one of them.
    #[arg(long, hide = true)]
    built: bool,
}

impl Api {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if !self.built {
            return store::build_and_go();
        }
        stop::listen()?;
        prepare::debian_packages(&[("wrk", "wrk"), Peer::Victoria.program()])?;
        let place = target_dir().join("bench");
        std::fs::create_dir_all(&place)?;
        let dir = tempfile::Builder::new().prefix("api-").tempdir_in(&place)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let (devices, ticks) = if self.quick { (10, 360) } else { (100, 2160) };
        let set = synthetic::set(devices, ticks, i64::try_from(now)?);
        let mut text = report::machine()?;
        let wrk = Wrk::new(dir.path(), self.seconds)?;
        if !self.live {
            text.push_str(&self.both(&set, &wrk, dir.path())?);
        }
        if !self.quick {
            text.push_str(&live(&wrk, dir.path())?);
        }
        println!("\n{text}");
        if !self.quick && !self.live && !self.no_write {
            report::write_between("api", &text)?;
        }
        Ok(())
    }

    fn both(&self, set: &Set, wrk: &Wrk, dir: &Path) -> anyhow::Result<String> {
        heading("devmon");
        let ours = Ours::new();
        let data = dir.join("devmon");
        std::fs::create_dir_all(&data)?;
        let (server, line) = ours.start(&data)?;
        ours::publish(&line, &Messages::write(set, dir)?)?;
        server.stop()?;
        ours.compact(&data)?;
        let (server, _) = ours.start(&data)?;
        let our = wrk.ask_all(&server, &our_calls(set))?;
        server.stop()?;

        heading("VictoriaMetrics");
        let place = dir.join("victoria");
        std::fs::create_dir_all(&place)?;
        let server = Peer::Victoria.start_with_defaults(&place)?;
        let lines = Lines::write(set, dir)?;
        lines.post(&server.base, Peer::Victoria.write_path())?;
        server.stop()?;
        Peer::Victoria.compact(&place, &place.join("data"))?;
        let server = Peer::Victoria.start_with_defaults(&place)?;
        let peer = wrk.ask_all(&server, &peer_calls(set))?;
        server.stop()?;

        let mut text = format!(
            "\n{CLIENTS} connections of wrk, {} s for each call; {} devices, {} series, {} samples; devmon | {}\n\n\
             | call | requests/s | × | p50, ms | p99, ms | × less p99 | server CPU, ms/request | × less |\n|---|---:|---:|---:|---:|---:|---:|---:|\n",
            self.seconds,
            set.devices.len(),
            set.series(),
            set.samples(),
            Peer::Victoria.version()?,
        );
        for ((name, a), (_, b)) in our.iter().zip(&peer) {
            let _ = writeln!(
                text,
                "| {name} | {:.0} \\| {:.0} | {:.2} | {:.2} \\| {:.2} | {:.2} \\| {:.2} | {:.2} | {:.3} \\| {:.3} | {:.2} |",
                a.per_s(),
                b.per_s(),
                a.per_s() / b.per_s(),
                a.p50_ms,
                b.p50_ms,
                a.p99_ms,
                b.p99_ms,
                b.p99_ms / a.p99_ms,
                a.cpu_ms(),
                b.cpu_ms(),
                b.cpu_ms() / a.cpu_ms(),
            );
        }
        Ok(text)
    }
}

type Calls = [(&'static str, Vec<String>); 4];

fn our_calls(set: &Set) -> Calls {
    let (from, to) = set.range();
    let questions = Questions::of(set);
    let range = |device: &str, path: &str, more: &str| {
        let path = xtask::collector::encode(path);
        format!("/api/v1/devices/{device}/series?path={path}&from={from}&to={to}{more}")
    };
    [
        ("devices", vec!["/api/v1/devices?limit=100".into()]),
        (
            "latest of a device",
            questions.ask(|d, _| format!("/api/v1/devices/{d}/latest?format=flat")),
        ),
        (
            "one series, 6 h raw",
            questions.ask(|d, s| range(d, &s.pointer(), "")),
        ),
        (
            "one series, 6 h at 60 s average",
            questions.ask(|d, s| range(d, &s.pointer(), "&step=60s&agg=avg")),
        ),
    ]
}

fn peer_calls(set: &Set) -> Calls {
    let questions = Questions::of(set);
    let peer = Peer::Victoria;
    [
        ("devices", vec!["/api/v1/label/device/values".into()]),
        ("latest", questions.ask(|d, _| peer.latest(set, d))),
        ("raw", questions.ask(|d, s| peer.raw(set, d, s))),
        ("average", questions.ask(|d, s| peer.average(set, d, s))),
    ]
}

/// Latest values of a device while [`LIVE_MESSAGES`] a second arrive, are fsynced and acknowledged.
fn live(wrk: &Wrk, dir: &Path) -> anyhow::Result<String> {
    heading("Latest values while messages arrive");
    let data = dir.join("live");
    std::fs::create_dir_all(&data)?;
    let (server, line) = Ours::new().start(&data)?;
    let to = word(&line, "mqtt=mqtt://").context("its ready line names no mqtt address")?;
    let seconds = LIVE_WARM_UP.as_secs() + u64::from(wrk.seconds + 2) * LIVE_CLIENTS.len() as u64;
    let mut load = Command::new(std::env::current_exe()?);
    let interval_ms = 1000 * LIVE_DEVICES / LIVE_MESSAGES;
    load.args(["load", "--to", to, "--metrics", "50"])
        .args(["--devices", &LIVE_DEVICES.to_string()])
        .args(["--interval", &interval_ms.to_string()])
        .args(["--seconds", &seconds.to_string()])
        .stdout(Stdio::piped());
    let mut load = load.spawn().context("the load generator")?;
    std::thread::sleep(LIVE_WARM_UP);
    let asked = (|| -> anyhow::Result<_> {
        let devices = server.http.json("/api/v1/devices?limit=500")?;
        let ids = devices.pointer("/items").and_then(|i| i.as_array());
        let ids = ids
            .into_iter()
            .flatten()
            .filter_map(|d| d.get("id")?.as_str());
        let known: Vec<_> = ids
            .map(|id| format!("/api/v1/devices/{id}/latest?format=flat"))
            .collect();
        if known.len() != 500 {
            bail!("{} devices after {LIVE_WARM_UP:?}", known.len());
        }
        LIVE_CLIENTS
            .iter()
            .map(|clients| {
                let before = server.ran_and_waited_s(API_THREADS)?;
                let answered = wrk.ask(&server, *clients, &known)?;
                let after = server.ran_and_waited_s(API_THREADS)?;
                let each = |before: f64, after: f64| (after - before) * 1000.0 / answered.requests;
                let ran_ms = each(before.0, after.0);
                let waited_ms = each(before.1, after.1);
                Ok((*clients, answered, ran_ms, waited_ms))
            })
            .collect::<anyhow::Result<Vec<_>>>()
    })();
    if asked.is_err() {
        let _ = load.kill(); // by its handle: a process of ours
    }
    let out = load.wait_with_output()?;
    let asked = asked?;
    server.stop()?;
    let said = String::from_utf8_lossy(&out.stdout);
    let mut text = format!(
        "\nLatest of a device (50 leaves) while {LIVE_DEVICES} devices send {LIVE_MESSAGES} messages a second of 50 leaves in all, fsynced; generator, wrk and collector on the same cores:\n\n\
         | clients | requests/s | p50, ms | p99, ms | API's threads ran, ms/request | and waited for a core, ms/request |\n|---:|---:|---:|---:|---:|---:|\n"
    );
    for (clients, a, ran_ms, waited_ms) in asked {
        let _ = writeln!(
            text,
            "| {clients} | {:.0} | {:.2} | {:.2} | {ran_ms:.3} | {waited_ms:.3} |",
            a.per_s(),
            a.p50_ms,
            a.p99_ms
        );
    }
    let _ = write!(
        text,
        "\nThe generator meanwhile: {}",
        said.trim().replace('\n', "; ")
    );
    text.push('\n');
    Ok(text)
}

/// wrk with a script that goes round in a list of questions and prints figures.
struct Wrk {
    script: PathBuf,
    paths: PathBuf,
    seconds: u32,
}

struct Answered {
    requests: f64,
    seconds: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_s: f64,
}

impl Answered {
    fn per_s(&self) -> f64 {
        self.requests / self.seconds
    }

    fn cpu_ms(&self) -> f64 {
        self.cpu_s * 1000.0 / self.requests
    }
}

const SCRIPT: &str = r#"
local requests, at = {}, 0
function init(args)
  for path in io.lines(args[1]) do requests[#requests + 1] = wrk.format("GET", path) end
  math.randomseed(os.time())
  at = math.random(#requests)
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(s, latency)
  local e = s.errors
  print(string.format("figures requests=%d us=%d p50=%d p99=%d failed=%d", s.requests, s.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

impl Wrk {
    fn new(dir: &Path, seconds: u32) -> anyhow::Result<Self> {
        let script = dir.join("ask.lua");
        std::fs::write(&script, SCRIPT)?;
        Ok(Self {
            script,
            paths: dir.join("paths"),
            seconds,
        })
    }

    fn ask_all(
        &self,
        server: &Server,
        calls: &Calls,
    ) -> anyhow::Result<Vec<(&'static str, Answered)>> {
        let asked = calls.iter().map(|(name, paths)| {
            println!("{name} …");
            let answered = self.ask(server, CLIENTS, paths);
            Ok((*name, answered.with_context(|| (*name).to_owned())?))
        });
        asked.collect()
    }

    /// Every answer must be a success, of a question that is answered with something.
    fn ask(&self, server: &Server, clients: u32, paths: &[String]) -> anyhow::Result<Answered> {
        for path in paths.iter().take(20) {
            if server.http.get(path)?.len() < 20 {
                bail!("GET {path}: the answer is empty");
            }
        }
        std::fs::write(&self.paths, paths.join("\n"))?;
        let mut command = Command::new("wrk");
        command
            .arg(format!("-t{}", clients.min(2)))
            .arg(format!("-c{clients}"))
            .arg(format!("-d{}s", self.seconds))
            .args(["--timeout", "20s", "-s"])
            .args([&self.script])
            .arg(&server.base)
            .arg("--")
            .arg(&self.paths)
            .stdout(Stdio::piped());
        let before = server.cpu_s()?;
        let out = command.spawn().context("wrk")?.wait_with_output()?;
        let cpu_s = server.cpu_s()? - before;
        let said = String::from_utf8_lossy(&out.stdout);
        let line = said.lines().find(|line| line.starts_with("figures "));
        let line = line.with_context(|| format!("wrk said no figures: {said}"))?;
        let figure = |key| {
            let text = word(line, key).with_context(|| line.to_owned())?;
            anyhow::Ok(text.parse::<f64>()?)
        };
        if figure("failed=")? > 0.0 || figure("requests=")? < 1.0 {
            bail!("wrk: {line}");
        }
        Ok(Answered {
            requests: figure("requests=")?,
            seconds: figure("us=")? / 1e6,
            p50_ms: figure("p50=")? / 1000.0,
            p99_ms: figure("p99=")? / 1000.0,
            cpu_s,
        })
    }
}

//! `cargo xtask bench agent`: what the agent costs a device, beside collectd, node_exporter with vmagent, and netdata, all at 1 s, side by side in one run.
//!
//! `peers` starts each with its configuration, `count` counts what it sends, `usage` reads what it costs, `report` prints. A peer that can not be had is named as missing.

mod count;
mod peers;
mod report;
mod usage;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use self::peers::{Measured, Peer};
use self::report::{Report, Row};
use super::server::{Server, free_port};
use super::stop;
use crate::children::Running;
use crate::prepare::{self, heading};
use crate::{root, target_dir};

/// Until everybody has started, connected and read its files once.
const WARM_UP: Duration = Duration::from_secs(15);
const READY_DEADLINE: Duration = Duration::from_secs(20);
/// Shorter runs write no page.
const WHOLE_RUN_MINUTES: f64 = 10.0;
/// The sources of the comparison; `network` once the plugin is there.
const SOURCES: [&str; 4] = ["cpu", "memory", "disk", "network"];

#[derive(Args)]
pub(crate) struct Agent {
    /// How long is measured, behind 15 s of warming up. Ten or more write docs/benchmarks.md.
    #[arg(long, default_value_t = WHOLE_RUN_MINUTES)]
    minutes: f64,
    /// Keep docs/benchmarks.md as it is.
    #[arg(long)]
    no_write: bool,
    /// Only these, by name [default: all]. Writes no page.
    #[arg(long, value_parser = ["devmon-agent", "collectd", "node_exporter", "netdata"])]
    only: Vec<String>,
    /// Another agent's folder: the program and its plugins. Writes no page.
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
}

impl Agent {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let sources: Vec<&str> = SOURCES
            .into_iter()
            .filter(|name| root().join("plugins").join(name).is_dir())
            .collect();
        let bin = match &self.bin {
            Some(bin) => bin.clone(),
            None => build(&sources)?,
        };
        stop::listen()?;
        let place = target_dir().join("bench");
        std::fs::create_dir_all(&place)?;
        let dir = tempfile::Builder::new()
            .prefix("agent-")
            .tempdir_in(&place)?;
        let mut report = Report::new(self.minutes);
        for name in SOURCES.iter().filter(|name| !sources.contains(name)) {
            report.missing(format!(
                "devmon's plugin `{name}`: it is not there yet, so devmon-agent does without and the peers do not"
            ));
        }
        let rows = self.measure(&bin, &sources, dir.path(), &mut report)?;
        let whole = self.only.is_empty() && self.bin.is_none() && rows.len() == Peer::ALL.len();
        let text = report.text(&rows)?;
        println!("\n{text}");
        if whole && !self.no_write && self.minutes >= WHOLE_RUN_MINUTES {
            super::report::write_between("agent", &text)?;
        }
        Ok(())
    }

    fn wanted(&self, peer: Peer) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| peer.name().starts_with(name))
    }

    fn measure(
        &self,
        bin: &Path,
        sources: &[&str],
        dir: &Path,
        report: &mut Report,
    ) -> anyhow::Result<Vec<Row>> {
        let mosquitto = prepare::debian_packages(&[("mosquitto", "mosquitto")]);
        mosquitto.context("without a broker nothing can be measured")?;
        heading("Starting");
        let (broker, _mosquitto) = mosquitto_at(dir)?;
        let mut victoria = None;
        let mut running: Vec<Measured> = Vec::new();
        for peer in Peer::ALL {
            stop::check()?;
            if !self.wanted(peer) {
                report.missing(format!("{}: left out by --only", peer.name()));
                continue;
            }
            if let Err(error) = prepare::debian_packages(peer.programs()) {
                report.missing(format!("{}: {error:#}", peer.name()));
                continue;
            }
            let to = match peer {
                Peer::Devmon | Peer::Collectd => broker,
                Peer::NodeExporter => victoria_at(dir, &mut victoria)?,
                Peer::Netdata => sink()?,
            };
            let place = dir.join(peer.name().split(' ').next().unwrap_or_default());
            let started = peer
                .start(bin, sources, &place, to)
                .and_then(|mut measured| {
                    measured.wait_until_it_sends()?;
                    Ok(measured)
                });
            match started {
                Ok(measured) => {
                    let pids: Vec<String> = measured.pids().map(|pid| pid.to_string()).collect();
                    println!("{}: pid {}", measured.version, pids.join(", "));
                    running.push(measured);
                }
                // Ours has to run; a peer that does not is said to be missing.
                Err(error) if peer == Peer::Devmon => return Err(error),
                Err(error) => report.missing(format!("{}: {error:#}", peer.name())),
            }
        }
        wait(WARM_UP)?;
        heading(&format!("Measuring for {} minutes", self.minutes));
        let looks = |running: &[Measured]| -> anyhow::Result<Vec<_>> {
            let look = |m: &Measured| Ok((m.usage()?, m.counts(), Instant::now()));
            running.iter().map(look).collect()
        };
        let before = looks(&running)?;
        wait(Duration::from_secs_f64(self.minutes * 60.0))?;
        let after = looks(&running)?;
        let rows = running.iter().zip(before.into_iter().zip(after));
        Ok(rows
            .map(|(measured, (before, after))| Row::new(measured, before, after))
            .collect())
    }
}

fn wait(time: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        stop::check()?;
        // Seldom: this process shares the processors with those that are measured.
        std::thread::sleep(Duration::from_millis(500).min(end - Instant::now()));
    }
    Ok(())
}

fn build(sources: &[&str]) -> anyhow::Result<PathBuf> {
    // What goes onto devices (README), not what is fastest.
    heading("Building the agent and its plugins (dist)");
    let packages: Vec<String> = sources
        .iter()
        .map(|name| format!("devmon-plugin-{name}"))
        .collect();
    let mut args = vec!["build", "--profile", "dist", "-p", "devmon-agent"];
    for package in &packages {
        args.extend(["-p", package]);
    }
    prepare::cargo(&args)?;
    Ok(target_dir().join("dist"))
}

/// A broker on loopback that keeps nothing.
fn mosquitto_at(dir: &Path) -> anyhow::Result<(SocketAddr, Running)> {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let config = dir.join("mosquitto.conf");
    let text = format!(
        "listener {} {}\nallow_anonymous true\nuser root\nlog_type error\n",
        addr.port(),
        addr.ip()
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new("mosquitto");
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .arg("-c")
        .arg(&config)
        .env("PATH", format!("{path}:/usr/sbin"))
        .stdout(Stdio::null());
    let mut process = Running::start("mosquitto", command)?;
    let begin = Instant::now();
    while TcpStream::connect(addr).is_err() {
        if let Some(status) = process.ended()? {
            bail!("mosquitto ended at start ({status})");
        }
        if begin.elapsed() > READY_DEADLINE {
            bail!("mosquitto does not listen on {addr}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((addr, process))
}

fn victoria_at(dir: &Path, server: &mut Option<Server>) -> anyhow::Result<SocketAddr> {
    let port = free_port()?;
    let mut command = Command::new("victoria-metrics");
    command
        .arg(format!(
            "-storageDataPath={}",
            dir.join("victoria").display()
        ))
        .arg(format!("-httpListenAddr=127.0.0.1:{port}"));
    let log = dir.join("victoria.log");
    *server = Some(Server::start(
        "VictoriaMetrics",
        command,
        &log,
        port,
        "/health",
    )?);
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Takes in whatever comes.
fn sink() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
        }
    });
    Ok(addr)
}

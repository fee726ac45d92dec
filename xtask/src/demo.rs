//! `cargo xtask demo`: the main job on this machine, with its real metrics.
//!
//! Builds the dashboard and the release binaries, starts the collector with its embedded store and listener, then one or more agents with the
//! bundled plugins, and prints the dashboard's address. Ctrl-C (or SIGTERM) ends everything it started. The data stays in `target/demo/data` for the next
//! run, unless `--data` names another place.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::children::Running;
use crate::prepare::{self, heading};
use crate::{root, target_dir};

/// The bundled plugins, in the order in which they are shown.
const PLUGINS: [&str; 9] = [
    "cpu",
    "memory",
    "disk",
    "network",
    "pressure",
    "processes",
    "sensors",
    "system",
    "gpu",
];
const READY_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(crate) struct Demo {
    /// How many agents to run; each is a device of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=200))]
    devices: u32,
    /// Go through a mosquitto broker instead of straight to the collector.
    #[arg(long)]
    broker: bool,
    /// Where the dashboard and the REST API listen.
    #[arg(long, default_value = "127.0.0.1:8765", value_name = "ADDR:PORT")]
    http: String,
    /// Where devices connect: the collector's own listener, or the broker's with --broker.
    #[arg(long, default_value = "127.0.0.1:1883", value_name = "ADDR:PORT")]
    mqtt: String,
    /// Where the collector keeps its data [default: target/demo/data].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How often each source is asked.
    #[arg(long, default_value = "1s")]
    interval: String,
    /// Build for development: compiles faster, runs slower.
    #[arg(long)]
    dev: bool,
}

impl Demo {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let bin = self.build()?;
        let place = target_dir().join("demo");
        let data = self.data.clone().unwrap_or_else(|| place.join("data"));
        let plugins = copy_plugins(&bin, &place.join("plugins"))?;

        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, stop.clone())?;
        }

        // Dropped in reverse: agents first, so that they say good-bye, then the collector, then the broker.
        let mut running = Vec::new();
        heading("Starting");
        let mut collector = Command::new(bin.join("devmon-collector"));
        collector
            .arg("run")
            .arg("--data-dir")
            .arg(&data)
            .args(["--http", &self.http]);
        if self.broker {
            running.push(start_mosquitto(&self.mqtt, &place)?);
            collector.args([
                "--mqtt-listen",
                "off",
                "--broker",
                &format!("mqtt://{}", self.mqtt),
            ]);
        } else {
            collector.args(["--mqtt-listen", &self.mqtt]);
        }
        let (collector, ready) = Running::ready("devmon-collector", collector, READY_DEADLINE)?;
        running.push(collector);
        let named = |key: &str| {
            ready
                .split_whitespace()
                .find_map(|w| w.strip_prefix(key))
                .map(|w| w.trim_start_matches('=').to_owned())
        };
        let http = named("http=").context("the collector's ready line names no http address")?;
        let mqtt = if self.broker { None } else { named("mqtt=") };
        let mqtt = mqtt.unwrap_or_else(|| format!("mqtt://{}", self.mqtt));

        for i in 1..=self.devices {
            let mut agent = Command::new(bin.join("devmon-agent"));
            agent
                .args([
                    "run",
                    "--device",
                    &format!("edge_device_{i:02}"),
                    "--mqtt",
                    &mqtt,
                ])
                .args(["--interval", &self.interval])
                .arg("--plugin-dir")
                .arg(&plugins)
                .arg("--state-dir")
                .arg(place.join(format!("agent_{i:02}")));
            let (agent, line) =
                Running::ready(&format!("devmon-agent {i}"), agent, READY_DEADLINE)?;
            println!("{line}");
            running.push(agent);
        }

        println!(
            "\nready dashboard={http} api={http}/api/v1/devices devices={} data={}",
            self.devices,
            data.display()
        );
        println!("Press Ctrl-C to end everything.");
        let ended = watch(&mut running, &stop);
        heading("Ending");
        while let Some(program) = running.pop() {
            drop(program);
        }
        ended
    }

    /// Builds and returns the folder with the binaries.
    fn build(&self) -> anyhow::Result<PathBuf> {
        if self.broker {
            prepare::debian_packages(&[("mosquitto", "mosquitto")])?;
        }
        prepare::dashboard()?;
        let profile = if self.dev { "dev" } else { "release" };
        heading(&format!(
            "Building collector, agent and plugins ({profile}; the first time takes some minutes)"
        ));
        let mut args = vec![
            "build",
            "--profile",
            profile,
            "-p",
            "devmon-collector",
            "-p",
            "devmon-agent",
        ];
        let packages = PLUGINS.map(|name| format!("devmon-plugin-{name}"));
        for package in &packages {
            args.extend(["-p", package]);
        }
        prepare::cargo(&args)?;
        Ok(target_dir().join(if self.dev { "debug" } else { "release" }))
    }
}

/// Waits for a signal, or for one of the programs to end by itself, which is an error.
fn watch(running: &mut [Running], stop: &AtomicBool) -> anyhow::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        for program in running.iter_mut() {
            if let Some(status) = program.ended()? {
                bail!(
                    "{} ended by itself ({status}); its message is above",
                    program.name()
                );
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Puts the plugins into a directory of their own, as an installation would have them.
fn copy_plugins(bin: &Path, to: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(to)?;
    for name in PLUGINS {
        let file = format!("libdevmon_plugin_{name}.so");
        // Copied beside and renamed: an agent of another demo may have the old file mapped, and overwriting would crash it.
        let fresh = to.join(format!(".{file}.new"));
        std::fs::copy(bin.join(&file), &fresh).with_context(|| format!("cannot copy {file}"))?;
        std::fs::rename(&fresh, to.join(&file))?;
    }
    Ok(to.to_owned())
}

/// A mosquitto on loopback that keeps its sessions on disk.
fn start_mosquitto(addr: &str, place: &Path) -> anyhow::Result<Running> {
    let (host, port) = addr
        .rsplit_once(':')
        .context("--mqtt: expected ADDR:PORT")?;
    let dir = place.join("mosquitto");
    std::fs::create_dir_all(&dir)?;
    let config = dir.join("mosquitto.conf");
    let text = format!(
        "listener {port} {host}\nallow_anonymous true\npersistence true\npersistence_location {}/\n\
         max_inflight_messages 200\nmax_queued_messages 0\n{}",
        dir.display(),
        // Started by root, mosquitto would drop to a user that may not write here.
        "user root\n"
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new("mosquitto");
    command.arg("-c").arg(&config).current_dir(root());
    command.env(
        "PATH",
        format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()),
    );
    let mut program = Running::start("mosquitto", command)?;
    let begin = std::time::Instant::now();
    loop {
        // Ours has to be alive, or it is another's broker that answers.
        std::thread::sleep(Duration::from_millis(200));
        if let Some(status) = program.ended()? {
            bail!(
                "mosquitto ended at start ({status}); is {addr} taken? Choose another with --mqtt ADDR:PORT"
            );
        }
        if std::net::TcpStream::connect(addr).is_ok() {
            println!("mosquitto listens on {addr}");
            return Ok(program);
        }
        if begin.elapsed() > READY_DEADLINE {
            bail!("mosquitto does not listen on {addr}");
        }
    }
}

//! `cargo xtask bench store`: builds what is measured, makes the sets, takes each server through them, one at a time.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use clap::Args;

use super::feed::{Lines, Messages};
use super::measure::Measured;
use super::ours::Ours;
use super::peers::Peer;
use super::replay::Recording;
use super::report::Report;
use super::set::Set;
use super::{recording_path, stop, synthetic};
use crate::children::Running;
use crate::prepare::{self, heading};
use crate::{root, target_dir};

#[derive(Args)]
pub(crate) struct Store {
    /// A smoke run: 10 devices, an hour. Writes no file; peers that are not installed are left out, loudly.
    #[arg(long)]
    quick: bool,
    /// Leave the peers out. Writes no file.
    #[arg(long)]
    without_peers: bool,
    /// Only this set.
    #[arg(long, value_parser = ["synthetic", "replay"])]
    set: Option<String>,
    /// Keep docs/benchmarks.md as it is.
    #[arg(long)]
    no_write: bool,
    /// The programs are built, and this is one of them.
    #[arg(long, hide = true)]
    built: bool,
}

impl Store {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if !self.built {
            return build_and_go();
        }
        stop::listen()?;
        let peers = self.peers()?;
        let place = target_dir().join("bench");
        std::fs::create_dir_all(&place)?;
        // On the disk of the repository: a temporary directory in memory would measure no fsync. Removed however this ends.
        let dir = tempfile::Builder::new()
            .prefix("store-")
            .tempdir_in(&place)?;
        let mut report = Report::default();
        for set in self.sets()? {
            stop::check()?;
            heading(&format!(
                "Set {}: {} devices, {} series, {} times, {} samples",
                set.name,
                set.devices.len(),
                set.series(),
                set.times.len(),
                set.samples()
            ));
            let place = dir.path().join(&set.name);
            std::fs::create_dir_all(&place)?;
            let measured = measure(&set, &peers, &place)?;
            std::fs::remove_dir_all(&place)?;
            // Shown at once: what comes later may fail.
            println!("\n{}", report.push(&set, measured));
        }
        for peer in Peer::ALL.iter().filter(|peer| !peers.contains(peer)) {
            report.left_out(peer.program().0);
        }
        let text = report.text()?;
        println!("\n{}", report.head()?);
        let whole = self.set.is_none() && !self.quick && peers.len() == Peer::ALL.len();
        if whole && !self.no_write {
            super::report::write_between("store", &text)?;
        }
        report.verdict()
    }

    fn peers(&self) -> anyhow::Result<Vec<Peer>> {
        if self.without_peers {
            return Ok(Vec::new());
        }
        if self.quick {
            let mut peers = Peer::ALL.to_vec();
            peers.retain(|peer| prepare::is_installed(peer.program().0));
            return Ok(peers);
        }
        prepare::debian_packages(&Peer::ALL.map(Peer::program))?;
        Ok(Peer::ALL.to_vec())
    }

    fn sets(&self) -> anyhow::Result<Vec<Set>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let now = i64::try_from(now)?;
        let (devices, ticks) = if self.quick { (10, 360) } else { (100, 2160) };
        let mut sets = Vec::new();
        if self.set.as_deref() != Some("replay") {
            sets.push(synthetic::set(devices, ticks, now));
        }
        if self.set.as_deref() == Some("replay") || (self.set.is_none() && !self.quick) {
            sets.push(Recording::load(&recording_path())?.set(now)?);
        }
        Ok(sets)
    }
}

fn measure(set: &Set, peers: &[Peer], dir: &std::path::Path) -> anyhow::Result<Vec<Measured>> {
    let ours = Ours::new();
    let messages = Messages::write(set, dir)?;
    println!(
        "{} messages of {} bytes on average",
        messages.count,
        messages.bytes / messages.count.max(1)
    );
    let mut measured = Vec::new();
    println!("devmon, the intake as a library …");
    measured.push(ours.in_process(set, &messages, dir)?);
    println!("devmon, the listener …");
    measured.push(ours.listener(set, &messages, dir)?);
    let lines = if peers.is_empty() {
        None
    } else {
        Some(Lines::write(set, dir)?)
    };
    for (peer, lines) in peers.iter().zip(std::iter::repeat(&lines)) {
        println!("{} …", peer.program().0);
        if let Some(lines) = lines {
            measured.push(peer.measure(set, lines, dir)?);
        }
    }
    Ok(measured)
}

/// Builds the programs for release and goes on in one of them: what feeds the servers must not be slower than they.
pub(super) fn build_and_go() -> anyhow::Result<()> {
    heading("Building for release");
    let packages = ["-p", "devmon-collector", "-p", "xtask"];
    let build = ["build", "--release"].into_iter().chain(packages);
    let build: Vec<&str> = build.chain(["--bins", "--example", "intake"]).collect();
    prepare::cargo(&build)?;
    let mut again = Command::new(target_dir().join("release/xtask"));
    again
        .args(std::env::args_os().skip(1))
        .arg("--built")
        .current_dir(root());
    // A signal is passed on, and its end is waited for: it has servers to end.
    stop::listen()?;
    let mut inner = Running::start("the release build", again)?;
    let status = loop {
        if let Some(status) = inner.ended()? {
            break status;
        }
        if stop::check().is_err() {
            inner.terminate(Duration::from_secs(180))?;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if !status.success() {
        bail!("the benchmark failed; its message is above");
    }
    Ok(())
}

//! A network of the agents' own: a namespace, joined to ours by a pair of virtual Ethernet devices, which can be unplugged. Packets vanish then, and TCP finds out by itself.
//!
//! Needs root, `ip` and `nsenter`; removed when dropped.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, bail};

/// Several in one process.
static NUMBER: AtomicU16 = AtomicU16::new(0);

pub(super) struct Cable {
    namespace: String,
    /// Our end.
    device: String,
    /// Where we can be reached from the other.
    pub(super) addr: Ipv4Addr,
}

impl Cable {
    /// # Errors
    /// It may not be laid here.
    pub(super) fn lay() -> anyhow::Result<Self> {
        let (pid, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let namespace = format!("devmon-chaos-{pid}-{number}");
        let (ours, theirs) = (format!("dmh{pid}-{number}"), format!("dma{pid}-{number}"));
        // A network of four addresses, link-local: it leads nowhere.
        let [high, low] = (((pid << 2) as u16).wrapping_add(number << 2)).to_be_bytes();
        let addr = |last: u8| Ipv4Addr::new(169, 254, high, low.wrapping_add(last));
        ip(&["netns", "add", &namespace])?;
        // From here on it is removed by drop.
        let cable = Self {
            namespace,
            device: ours,
            addr: addr(1),
        };
        let (ours, there) = (cable.device.as_str(), cable.namespace.as_str());
        let mask = |addr: Ipv4Addr| format!("{addr}/30");
        ip(&[
            "link", "add", ours, "type", "veth", "peer", "name", &theirs, "netns", there,
        ])?;
        ip(&["addr", "add", &mask(addr(1)), "dev", ours])?;
        ip(&["-n", there, "addr", "add", &mask(addr(2)), "dev", &theirs])?;
        ip(&["-n", there, "link", "set", "lo", "up"])?;
        ip(&["-n", there, "link", "set", &theirs, "up"])?;
        cable.plug(true)?;
        Ok(cable)
    }

    pub(super) fn plug(&self, in_: bool) -> anyhow::Result<()> {
        let state = if in_ { "up" } else { "down" };
        ip(&["link", "set", &self.device, state])
    }

    /// Runs a program at the other end; its pid is the child's.
    pub(super) fn at_the_other_end(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .arg(program);
        command
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // With it goes its end of the pair, and so ours.
        if let Err(error) = ip(&["netns", "del", &self.namespace]) {
            eprintln!("{error:#}");
        }
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    let out = Command::new("ip")
        .args(args)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .context("cannot start ip")?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        bail!("ip {}: {}", args.join(" "), said.trim());
    }
    Ok(())
}

//! The programs that measure a device, each with its configuration: devmon-agent, collectd, node_exporter with vmagent, netdata. All ask every second, for the same four
//! areas, and send to a receiver of their own on loopback through a relay that counts.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::count::{Counter, Counts, Spelling};
use super::usage::Usage;
use crate::bench::server::{free_port, tail};
use crate::bench::stop;
use crate::children::Running;
use crate::relay::Relay;
use crate::root;

const READY_DEADLINE: Duration = Duration::from_secs(30);

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Devmon,
    Collectd,
    NodeExporter,
    Netdata,
}

/// One that runs.
pub(super) struct Measured {
    pub(super) peer: Peer,
    pub(super) version: String,
    pub(super) configuration: String,
    counter: Arc<Counter>,
    processes: Vec<Running>,
    _relay: Relay,
}

impl Peer {
    pub(super) const ALL: [Self; 4] = [
        Self::Devmon,
        Self::Collectd,
        Self::NodeExporter,
        Self::Netdata,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Devmon => "devmon-agent",
            Self::Collectd => "collectd",
            Self::NodeExporter => "node_exporter + vmagent",
            Self::Netdata => "netdata",
        }
    }

    /// Its programs, and Debian's packages with them.
    pub(super) fn programs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Devmon => &[],
            Self::Collectd => &[("collectd", "collectd-core")],
            Self::NodeExporter => &[
                ("prometheus-node-exporter", "prometheus-node-exporter"),
                ("vmagent", "victoria-metrics"),
            ],
            Self::Netdata => &[("netdata", "netdata-core")],
        }
    }

    fn version(self) -> String {
        if self == Self::Devmon {
            return format!("devmon-agent {}", env!("CARGO_PKG_VERSION"));
        }
        let versions = self.programs().iter().map(|(program, package)| {
            let out = Command::new("dpkg-query")
                .args(["-W", "-f=${source:Upstream-Version}", package])
                .output();
            let text = out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
            let version = text.unwrap_or_default();
            let digits = version.split(['+', '~']).next().filter(|v| !v.is_empty());
            let name = program.trim_start_matches("prometheus-");
            format!("{name} {}", digits.unwrap_or("of unknown version"))
        });
        versions.collect::<Vec<_>>().join(", ")
    }

    fn spelling(self) -> Spelling {
        match self {
            Self::Devmon => Spelling::Devmon,
            Self::Collectd => Spelling::Collectd,
            Self::NodeExporter => Spelling::Opaque,
            Self::Netdata => Spelling::Lines,
        }
    }

    /// Starts it in `dir`, sending to `to`.
    ///
    /// # Errors
    /// It can not be started, or ends at once.
    pub(super) fn start(
        self,
        bin: &Path,
        sources: &[&str],
        dir: &Path,
        to: SocketAddr,
    ) -> anyhow::Result<Measured> {
        fs::create_dir_all(dir)?;
        let counter = Arc::new(Counter::new(self.spelling()));
        let relay = Relay::start(to, counter.clone())?;
        let addr = relay.addr();
        let (processes, configuration) = match self {
            Self::Devmon => devmon(bin, sources, dir, addr)?,
            Self::Collectd => collectd(dir, addr)?,
            Self::NodeExporter => node_exporter(dir, addr)?,
            Self::Netdata => netdata(dir, addr)?,
        };
        Ok(Measured {
            peer: self,
            version: self.version(),
            configuration,
            counter,
            processes,
            _relay: relay,
        })
    }
}

impl Measured {
    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        let pids: Vec<u32> = self.processes.iter().map(Running::pid).collect();
        Usage::of(&pids).with_context(|| format!("{} has ended", self.peer.name()))
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().map(Running::pid)
    }

    pub(super) fn counts(&self) -> Counts {
        self.counter.counts()
    }

    /// Waits until it has sent something.
    pub(super) fn wait_until_it_sends(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        while self.counts().bytes_up == 0 {
            stop::check()?;
            for process in &mut self.processes {
                if let Some(status) = process.ended()? {
                    bail!("{} ended at start ({status})", process.name());
                }
            }
            if begin.elapsed() > READY_DEADLINE {
                bail!(
                    "{} has sent nothing within {READY_DEADLINE:?}",
                    self.peer.name()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

type Started = (Vec<Running>, String);

fn spawn(name: &str, mut command: Command, dir: &Path) -> anyhow::Result<Running> {
    let log = dir.join(format!("{name}.log"));
    let file = fs::File::create(&log)?;
    let sbin = format!(
        "{}:/usr/sbin:/usr/local/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .env("PATH", sbin)
        .current_dir(root());
    Running::start(name, command).with_context(|| tail(&log))
}

fn devmon(bin: &Path, sources: &[&str], dir: &Path, to: SocketAddr) -> anyhow::Result<Started> {
    let plugins = dir.join("plugins");
    fs::create_dir_all(&plugins)?;
    for name in sources {
        let file = format!("libdevmon_plugin_{name}.so");
        fs::copy(bin.join(&file), plugins.join(&file))?;
    }
    let mut command = Command::new(bin.join("devmon-agent"));
    command
        .args(["run", "--device", "bench", "--interval", "1s"])
        .args(["--mqtt", &format!("mqtt://{to}")])
        .arg("--plugin-dir")
        .arg(&plugins)
        .arg("--state-dir")
        .arg(dir.join("state"))
        .env_remove("AWS_IOT_ENDPOINT")
        .env_remove("DEVICE_NAME");
    let text = format!(
        "dist build, all defaults but `--interval 1s`; sources {}; to mosquitto, QoS 1",
        sources.join(", ")
    );
    Ok((vec![spawn("devmon-agent", command, dir)?], text))
}

fn collectd(dir: &Path, to: SocketAddr) -> anyhow::Result<Started> {
    let config = dir.join("collectd.conf");
    let text = format!(
        "Hostname \"bench\"\nFQDNLookup false\nInterval 1\nBaseDir \"{d}\"\nPIDFile \"{d}/pid\"\nTypesDB \"/usr/share/collectd/types.db\"\n\
         LoadPlugin cpu\nLoadPlugin load\nLoadPlugin memory\nLoadPlugin df\nLoadPlugin disk\nLoadPlugin interface\nLoadPlugin mqtt\n\
         <Plugin mqtt>\n<Publish \"bench\">\nHost \"{}\"\nPort {}\nClientId \"bench-collectd\"\nQoS 1\nPrefix \"collectd\"\nStoreRates false\n</Publish>\n</Plugin>\n",
        to.ip(),
        to.port(),
        d = dir.display(),
    );
    fs::write(&config, text)?;
    let mut command = Command::new("collectd");
    command.arg("-f").arg("-C").arg(&config);
    let text = "`Interval 1`; plugins cpu, load, memory, df, disk, interface, each with its defaults; mqtt to mosquitto, `QoS 1`, `StoreRates false`".to_owned();
    Ok((vec![spawn("collectd", command, dir)?], text))
}

fn node_exporter(dir: &Path, to: SocketAddr) -> anyhow::Result<Started> {
    let port = free_port()?;
    let collectors = [
        "cpu",
        "loadavg",
        "meminfo",
        "filesystem",
        "diskstats",
        "netdev",
    ];
    let mut exporter = Command::new("prometheus-node-exporter");
    exporter
        .arg("--collector.disable-defaults")
        .args(collectors.map(|c| format!("--collector.{c}")))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let exporter = spawn("node_exporter", exporter, dir)?;
    let scrape = dir.join("scrape.yml");
    let text = format!(
        "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nscrape_configs:\n  - job_name: node\n    static_configs:\n      - targets: [\"127.0.0.1:{port}\"]\n"
    );
    fs::write(&scrape, text)?;
    let mut vmagent = Command::new("vmagent");
    vmagent
        .arg(format!("-promscrape.config={}", scrape.display()))
        .arg(format!("-remoteWrite.url=http://{to}/api/v1/write"))
        .arg(format!(
            "-remoteWrite.tmpDataPath={}",
            dir.join("vmagent").display()
        ))
        .arg(format!("-httpListenAddr=127.0.0.1:{}", free_port()?));
    let vmagent = spawn("vmagent", vmagent, dir)?;
    let text = format!(
        "node_exporter with the collectors {} and no others; vmagent scrapes it every second and writes to victoria-metrics by remote write; else defaults",
        collectors.join(", ")
    );
    Ok((vec![exporter, vmagent], text))
}

/// What netdata's proc plugin reads of itself and nobody else here reads.
const NETDATA_OFF: [&str; 28] = [
    "/proc/uptime",
    "/proc/pressure",
    "/proc/interrupts",
    "/proc/softirqs",
    "/proc/vmstat",
    "/proc/pagetypeinfo",
    "/sys/kernel/mm/ksm",
    "/sys/block/zram",
    "/sys/devices/system/edac/mc",
    "/sys/devices/system/node",
    "/proc/net/wireless",
    "/proc/net/sockstat",
    "/proc/net/sockstat6",
    "/proc/net/netstat",
    "/proc/net/sctp/snmp",
    "/proc/net/softnet_stat",
    "/proc/net/ip_vs/stats",
    "/sys/class/infiniband",
    "/proc/net/stat/conntrack",
    "/proc/net/stat/synproxy",
    "/proc/mdstat",
    "/proc/net/rpc/nfsd",
    "/proc/net/rpc/nfs",
    "/proc/spl/kstat/zfs/arcstats",
    "/proc/spl/kstat/zfs/pool/state",
    "/sys/fs/btrfs",
    "ipc",
    "/sys/class/power_supply",
];

fn netdata(dir: &Path, to: SocketAddr) -> anyhow::Result<Started> {
    let place = |name: &str| -> anyhow::Result<PathBuf> {
        let path = dir.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    };
    let mut text = String::from("[global]\nrun as user = root\n[directories]\n");
    for name in ["config", "cache", "lib", "log", "lock"] {
        let path = place(name)?;
        text.push_str(&format!("{name} = {}\n", path.display()));
    }
    text.push_str(&format!(
        "[db]\nmode = ram\nretention = 600\nupdate every = 1\n[web]\nmode = none\n[health]\nenabled = no\n[ml]\nenabled = no\n[statsd]\nenabled = no\n\
         [registry]\nenabled = no\n[cloud]\nenabled = no\n[plugins]\nenable running new plugins = no\nproc = yes\ndiskspace = yes\n{}[plugin:proc]\n{}",
        ["timex", "tc", "idlejitter", "cgroups", "checks", "netdata monitoring", "netdata monitoring extended", "apps", "statsd", "slabinfo", "perf", "nfacct", "cups", "python.d", "charts.d", "node.d", "go.d", "fping", "ioping", "freeipmi", "xenstat", "ebpf", "profile"]
            .iter()
            .map(|name| format!("{name} = no\n"))
            .collect::<String>(),
        NETDATA_OFF
            .map(|name| format!("{name} = no\n"))
            .concat(),
    ));
    let config = dir.join("netdata.conf");
    fs::write(&config, text)?;
    let exporting = format!(
        "[exporting:global]\nenabled = yes\nupdate every = 1\n[graphite:bench]\nenabled = yes\ndestination = {to}\ndata source = as collected\nupdate every = 1\n"
    );
    fs::write(dir.join("config/exporting.conf"), exporting)?;
    let mut command = Command::new("netdata");
    command
        .arg("-D")
        .arg("-c")
        .arg(&config)
        .env("DO_NOT_TRACK", "1");
    let text = "the plugins proc (of it stat, loadavg, meminfo, diskstats, net/dev) and diskspace; the database in memory, 600 s; no web, health, statistics or learning; exports every second in Graphite's lines to a sink".to_owned();
    Ok((vec![spawn("netdata", command, dir)?], text))
}

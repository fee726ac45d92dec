//! Those who take remote write, and what they hold.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value as Json;

use crate::collector::{get, wait_for};

/// By labels, as `name="value",…` in order: values by time in unix ms.
pub(crate) type Held = BTreeMap<String, BTreeMap<i64, f64>>;

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    VictoriaMetrics,
    /// As it comes: in the order of time only.
    Prometheus,
    /// With `out_of_order_time_window`: it also takes what comes late, or again after a restart.
    PatientPrometheus,
}

pub(crate) struct Receiver {
    pub(crate) addr: SocketAddr,
    kind: Kind,
    child: Child,
}

pub(crate) fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

impl Receiver {
    /// On `addr`, with what it held before in `dir`.
    pub(crate) fn start(kind: Kind, addr: SocketAddr, dir: &Path) -> Self {
        let data = dir.join("receiver");
        let mut command = command(kind, addr, &data);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("victoria-metrics and prometheus are installed by cargo xtask test");
        let receiver = Self { addr, kind, child };
        wait_for("the receiver is ready", || {
            std::net::TcpStream::connect(addr).ok()?;
            (get(addr, "/-/ready").0 == 200 || get(addr, "/health").0 == 200).then_some(())
        });
        receiver
    }

    /// Where it takes remote write.
    pub(crate) fn url(addr: SocketAddr) -> String {
        format!("http://{addr}/api/v1/write")
    }

    /// What it holds of a device.
    pub(crate) fn held(&self, device: &str) -> Held {
        let selector = format!("%7Bdevice%3D%22{device}%22%7D");
        match self.kind {
            Kind::VictoriaMetrics => {
                get(self.addr, "/internal/force_flush");
                let url = format!("/api/v1/export?reduce_mem_usage=1&match%5B%5D={selector}");
                let lines = get(self.addr, &url).1;
                let mut held = Held::new();
                for line in lines.lines() {
                    let line: Json = serde_json::from_str(line).unwrap();
                    let times = line["timestamps"].as_array().unwrap().iter();
                    let values = line["values"].as_array().unwrap().iter();
                    let series = held.entry(labels(&line["metric"])).or_default();
                    series.extend(
                        times
                            .zip(values)
                            .map(|(t, v)| (t.as_i64().unwrap(), v.as_f64().unwrap())),
                    );
                }
                held
            }
            Kind::Prometheus | Kind::PatientPrometheus => {
                let url = format!("/api/v1/query?query={selector}%5B3h%5D");
                let answer: Json = serde_json::from_str(&get(self.addr, &url).1).unwrap();
                let result = answer["data"]["result"].as_array().unwrap();
                let series = result.iter().map(|series| {
                    let samples = series["values"].as_array().unwrap().iter().map(|sample| {
                        let ms = (sample[0].as_f64().unwrap() * 1000.0).round() as i64;
                        (ms, sample[1].as_str().unwrap().parse().unwrap())
                    });
                    (labels(&series["metric"]), samples.collect())
                });
                series.collect()
            }
        }
    }

    /// Times of one series of [`frames`](crate::collector::frames).
    pub(crate) fn times_of_v0(&self, device: &str) -> Vec<i64> {
        let key = format!("__name__=\"devmon_s_v0\",device=\"{device}\"");
        self.held(device)
            .remove(&key)
            .unwrap_or_default()
            .into_keys()
            .collect()
    }

    /// Ends it as an operator does, so that it writes all it has.
    pub(crate) fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        self.child.wait().unwrap();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn labels(metric: &Json) -> String {
    let labels = metric.as_object().unwrap().iter();
    let mut labels: Vec<_> = labels
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    labels.sort();
    labels.join(",")
}

/// The program, not started.
pub(crate) fn command(kind: Kind, addr: SocketAddr, data: &Path) -> Command {
    match kind {
        Kind::VictoriaMetrics => victoria_metrics(addr, data),
        Kind::Prometheus => prometheus(addr, data, ""),
        Kind::PatientPrometheus => prometheus(
            addr,
            data,
            "storage: { tsdb: { out_of_order_time_window: 30m } }\n",
        ),
    }
}

fn victoria_metrics(addr: SocketAddr, data: &Path) -> Command {
    let mut command = Command::new("victoria-metrics");
    command
        .arg(format!("-httpListenAddr={addr}"))
        .arg(format!("-storageDataPath={}", data.display()))
        .arg("-memory.allowedBytes=256MB");
    command
}

fn prometheus(addr: SocketAddr, data: &Path, settings: &str) -> Command {
    let config = data.with_extension("yml");
    std::fs::write(&config, settings).unwrap();
    let mut command = Command::new("prometheus");
    command
        .arg("--web.enable-remote-write-receiver")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .arg(format!("--web.listen-address={addr}"));
    command
}

//! VictoriaMetrics and InfluxDB 1.6, as Debian packages them: fed with line protocol over HTTP, asked over HTTP, both with their defaults.
//!
//! Each lives four times on the same directory: taking in; compacting; starting with what it holds; answering. Between them it is ended by SIGTERM, so that
//! all that it keeps in memory is on disk when its bytes are counted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::feed::Lines;
use super::http::Client;
use super::measure::{Check, Measured, Queries, Questions, Stage, check_values};
use super::server::{Server, disk_bytes, disk_parts, free_port, wait_until_quiet};
use super::set::{MEASUREMENT, PeerName, Series, Set};
use xtask::collector::encode;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Victoria,
    Influx,
}

/// How a server is started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Defaults,
    /// InfluxDB compacts hours after the last write; here at once.
    Compacting,
}

const QUIET: Duration = Duration::from_secs(6);

impl Peer {
    pub(super) const ALL: [Self; 2] = [Self::Victoria, Self::Influx];

    /// The program, and Debian's package with it.
    pub(super) fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::Victoria => ("victoria-metrics", "victoria-metrics"),
            Self::Influx => ("influxd", "influxdb"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Victoria => "VictoriaMetrics",
            Self::Influx => "InfluxDB",
        }
    }

    /// As Debian names it: their own programs do not all know.
    pub(super) fn version(self) -> anyhow::Result<String> {
        let (_, package) = self.program();
        let format = "-f=${source:Upstream-Version}";
        let out = Command::new("dpkg-query")
            .args(["-W", format, package])
            .output()?;
        let text = String::from_utf8_lossy(&out.stdout);
        let digits = text.split(['+', '~']).next().filter(|v| !v.is_empty());
        Ok(format!(
            "{} {}",
            self.name(),
            digits.unwrap_or("of unknown version")
        ))
    }

    pub(super) fn write_path(self) -> &'static str {
        match self {
            Self::Victoria => "/write?precision=ms",
            Self::Influx => "/write?db=bench&precision=ms",
        }
    }

    fn start(self, dir: &Path, mode: Mode) -> anyhow::Result<Server> {
        let port = free_port()?;
        let log = dir.with_extension("log");
        let (program, _) = self.program();
        let mut command = Command::new(program);
        let data = dir.join("data");
        let probe = match self {
            Self::Victoria => {
                command
                    .arg(format!("-storageDataPath={}", data.display()))
                    .arg(format!("-httpListenAddr=127.0.0.1:{port}"));
                "/health"
            }
            Self::Influx => {
                let config = dir.join("influxdb.conf");
                let text = format!(
                    "reporting-disabled = true\nbind-address = \"127.0.0.1:{}\"\n[meta]\ndir = \"{d}/meta\"\n[data]\ndir = \"{d}/data\"\nwal-dir = \"{d}/wal\"\n{}\
                     [http]\nbind-address = \"127.0.0.1:{port}\"\nlog-enabled = false\n[monitor]\nstore-enabled = false\n",
                    free_port()?,
                    match mode {
                        Mode::Defaults => "",
                        Mode::Compacting =>
                            "cache-snapshot-write-cold-duration = \"1s\"\ncompact-full-write-cold-duration = \"1s\"\n",
                    },
                    d = data.display(),
                );
                std::fs::create_dir_all(dir)?;
                std::fs::write(&config, text)?;
                command.arg("-config").arg(&config);
                "/ping"
            }
        };
        Server::start(self.name(), command, &log, port, probe)
    }

    pub(super) fn start_with_defaults(self, dir: &Path) -> anyhow::Result<Server> {
        self.start(dir, Mode::Defaults)
    }

    /// Everything there is to measure on one set.
    pub(super) fn measure(self, set: &Set, lines: &Lines, dir: &Path) -> anyhow::Result<Measured> {
        let place: PathBuf = dir.join(self.program().0);
        std::fs::create_dir_all(&place)?;
        let data = place.join("data");

        let server = self.start(&place, Mode::Defaults)?;
        if self == Self::Influx {
            server
                .http
                .post("/query?q=CREATE%20DATABASE%20bench", b"")?;
        }
        let before = server.cpu_s()?;
        let wall_s = lines.post(&server.base, self.write_path())?;
        let intake = Stage {
            wall_s,
            cpu_s: server.cpu_s()? - before,
        };
        let peak_bytes = server.peak_bytes()?;
        server.stop()?;
        let intake_bytes = disk_bytes(&data)?;

        let compaction = self.compact(&place, &data)?;
        let compacted_bytes = disk_bytes(&data)?;
        let parts = disk_parts(&data)?;

        let server = self.start(&place, Mode::Defaults)?;
        let ready_ms = server.ready_ms;
        let checks = self.check(set, &server.http)?;
        let questions = Questions::of(set);
        let queries = Queries {
            raw: server
                .http
                .latency(&questions.ask(|d, s| self.raw(set, d, s)))?,
            average: server
                .http
                .latency(&questions.ask(|d, s| self.average(set, d, s)))?,
            latest: server
                .http
                .latency(&questions.ask(|d, _| self.latest(set, d)))?,
            peak_bytes: server.peak_bytes()?,
        };
        Ok(Measured {
            name: self.version()?,
            samples: set.samples(),
            intake,
            client_cpu_s: None,
            peak_bytes,
            intake_bytes,
            compaction,
            compacted_bytes,
            parts,
            ready_ms,
            queries,
            checks,
        })
    }

    pub(super) fn compact(self, place: &Path, data: &Path) -> anyhow::Result<Stage> {
        let begin = std::time::Instant::now();
        let server = self.start(place, Mode::Compacting)?;
        let mut idle_s = QUIET.as_secs_f64();
        if self == Self::Victoria {
            server.http.get("/internal/force_merge")?;
            idle_s += wait_for_merges(&server.http)?;
        }
        wait_until_quiet(data, QUIET)?;
        let stage = Stage {
            wall_s: begin.elapsed().as_secs_f64() - idle_s,
            cpu_s: server.cpu_s()?,
        };
        server.stop()?;
        Ok(stage)
    }

    fn selector(self, device: &str, series: &Series) -> String {
        match &series.name {
            PeerName::Field(field) => format!("{MEASUREMENT}_{field}{{device=\"{device}\"}}"),
            PeerName::Metric { name, labels } => {
                let labels: Vec<_> = labels
                    .iter()
                    .map(|(l, t)| format!(",{l}={}", Value::from(t.as_str())))
                    .collect();
                let instance = series.name.device_label();
                format!("{name}_value{{{instance}=\"{device}\"{}}}", labels.concat())
            }
        }
    }

    /// Field, measurement and condition of a series in InfluxDB.
    fn columns(device: &str, series: &Series) -> (String, String, String) {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
        match &series.name {
            PeerName::Field(field) => (
                format!("\"{field}\""),
                MEASUREMENT.to_owned(),
                format!("device='{device}'"),
            ),
            PeerName::Metric { name, labels } => {
                let labels: Vec<_> = labels
                    .iter()
                    .filter(|(_, t)| !t.is_empty())
                    .map(|(l, t)| format!(" AND \"{l}\"='{}'", quoted(t)))
                    .collect();
                (
                    "\"value\"".to_owned(),
                    format!("\"{name}\""),
                    format!(
                        "{}='{device}'{}",
                        series.name.device_label(),
                        labels.concat()
                    ),
                )
            }
        }
    }

    pub(super) fn raw(self, set: &Set, device: &str, series: &Series) -> String {
        let (from, to) = set.range();
        match self {
            Self::Victoria => format!(
                "/api/v1/export?match%5B%5D={}&start={}&end={}",
                encode(&self.selector(device, series)),
                seconds(from),
                seconds(to - 1)
            ),
            Self::Influx => {
                let (field, measurement, of) = Self::columns(device, series);
                influx(&format!(
                    "SELECT {field} FROM {measurement} WHERE {of} AND time>={from}ms AND time<{to}ms"
                ))
            }
        }
    }

    pub(super) fn average(self, set: &Set, device: &str, series: &Series) -> String {
        let (from, to) = set.range();
        match self {
            Self::Victoria => format!(
                "/api/v1/query_range?query={}&start={}&end={}&step=60",
                encode(&format!(
                    "avg_over_time({}[60s])",
                    self.selector(device, series)
                )),
                seconds(from + 60_000),
                seconds(to - 1)
            ),
            Self::Influx => {
                let (field, measurement, of) = Self::columns(device, series);
                influx(&format!(
                    "SELECT MEAN({field}) FROM {measurement} WHERE {of} AND time>={from}ms AND time<{to}ms GROUP BY time(60s)"
                ))
            }
        }
    }

    pub(super) fn latest(self, set: &Set, device: &str) -> String {
        let (_, to) = set.range();
        match self {
            // Asked for the set's own last time: there is nothing newer, and "now" would find nothing.
            Self::Victoria => format!(
                "/api/v1/query?query={}&time={}",
                encode(&format!("{{{}=\"{device}\"}}", set.device_label())),
                seconds(to - 1)
            ),
            Self::Influx => influx(&format!(
                "SELECT * FROM /.*/ WHERE {}='{device}' ORDER BY time DESC LIMIT 1",
                set.device_label()
            )),
        }
    }

    fn check(self, set: &Set, http: &Client) -> anyhow::Result<Vec<Check>> {
        let (from, to) = set.range();
        let counted = match self {
            Self::Victoria => {
                // The window leaves its first moment out; it reaches back before the set.
                let question = format!(
                    "sum(count_over_time({{{}=~\"bench-.*\"}}[{}ms]))",
                    set.device_label(),
                    to - from + 1000
                );
                let path = format!(
                    "/api/v1/query?query={}&time={}",
                    encode(&question),
                    seconds(to - 1)
                );
                let answer = http.json(&path)?;
                let text = answer.pointer("/data/result/0/value/1");
                text.and_then(Value::as_str).and_then(|t| t.parse().ok())
            }
            Self::Influx => {
                let question =
                    format!("SELECT COUNT(*) FROM /.*/ WHERE time>={from}ms AND time<{to}ms");
                let answer = http.json(&influx(&question))?;
                let all = answer
                    .pointer("/results/0/series")
                    .and_then(Value::as_array);
                all.map(|all| {
                    let rows = all
                        .iter()
                        .filter_map(|s| s.pointer("/values/0")?.as_array());
                    rows.flat_map(|row| row.iter().skip(1))
                        .filter_map(Value::as_u64)
                        .sum()
                })
            }
        };
        let mut checks = vec![Check::count(
            set,
            counted.context("no count in the answer")?,
        )];
        for (device, series) in Questions::to_check(set) {
            let body = http.get(&self.raw(set, device, series))?;
            let values = self.values(&body)?;
            checks.push(check_values(set, series, &values));
        }
        Ok(checks)
    }

    /// Times and values of a raw answer.
    fn values(self, body: &[u8]) -> anyhow::Result<Vec<(i64, f64)>> {
        let text = std::str::from_utf8(body)?;
        let mut samples = Vec::new();
        match self {
            Self::Victoria => {
                for line in text.lines() {
                    let line: Value = serde_json::from_str(line)?;
                    let array = |name| line.get(name).and_then(Value::as_array);
                    let (times, values) = array("timestamps")
                        .zip(array("values"))
                        .context("an export without values")?;
                    let pairs = times.iter().zip(values);
                    samples.extend(pairs.filter_map(|(t, v)| Some((t.as_i64()?, v.as_f64()?))));
                }
                samples.sort_unstable_by_key(|s| s.0);
            }
            Self::Influx => {
                let answer: Value = serde_json::from_str(text)?;
                let rows = answer.pointer("/results/0/series/0/values");
                let rows = rows.and_then(Value::as_array).into_iter().flatten();
                samples
                    .extend(rows.filter_map(|r| Some((r.get(0)?.as_i64()?, r.get(1)?.as_f64()?))));
            }
        }
        Ok(samples)
    }
}

fn influx(question: &str) -> String {
    format!("/query?db=bench&epoch=ms&q={}", encode(question))
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// Waits until no merge has run for some seconds; returns how long nothing did.
fn wait_for_merges(http: &Client) -> anyhow::Result<f64> {
    let mut quiet = 0;
    while quiet < 10 {
        super::stop::check()?;
        let metrics = String::from_utf8(http.get("/metrics")?)?;
        let active: f64 = metrics
            .lines()
            .filter(|l| {
                l.starts_with("vm_active_merges") || l.starts_with("vm_active_force_merges")
            })
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        quiet = if active > 0.0 { 0 } else { quiet + 1 };
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(2.0)
}

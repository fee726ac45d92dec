//! A data set: devices with series, all with a value (or none) at the same times. And its three spellings: the messages that an agent sends, InfluxDB's line
//! protocol, Prometheus' text format. All three say the same values.

use std::collections::BTreeMap;
use std::io::Write as _;

/// Devices × series × times.
pub(super) struct Set {
    /// How it is called in the report.
    pub(super) name: String,
    /// Unix ms, ascending.
    pub(super) times: Vec<i64>,
    pub(super) devices: Vec<Device>,
}

pub(super) struct Device {
    pub(super) id: String,
    pub(super) series: Vec<Series>,
    /// One branch for each source.
    sources: Vec<(String, Node)>,
}

pub(super) struct Series {
    /// The segments of its path; the first is its source.
    pub(super) path: Vec<String>,
    /// What the peers call it.
    pub(super) name: PeerName,
    /// Every value is whole, and is sent as an integer.
    pub(super) integer: bool,
    /// One for each time; NaN: none.
    pub(super) values: Vec<f64>,
}

pub(super) enum PeerName {
    /// One of the fields of one line for each device and time: the cheapest input that both peers read.
    Field(String),
    /// A measurement of its own, with its labels.
    Metric {
        name: String,
        labels: Vec<(String, String)>,
    },
}

impl PeerName {
    /// The label that names the device. node_exporter has a `device` of its own, as `eth0`.
    pub(super) fn device_label(&self) -> &'static str {
        match self {
            Self::Field(_) => "device",
            Self::Metric { .. } => "instance",
        }
    }
}

enum Node {
    /// Index of the series.
    Leaf(usize),
    /// Names as JSON strings.
    Branch(Vec<(String, Self)>),
}

/// The measurement of lines with fields; VictoriaMetrics puts it before each field: `bench_cpu_core_0_utilization`.
pub(super) const MEASUREMENT: &str = "bench";

impl Device {
    pub(super) fn new(id: String, series: Vec<Series>) -> Self {
        let mut by_source: BTreeMap<&str, Vec<(&[String], usize)>> = BTreeMap::new();
        for (i, series) in series.iter().enumerate() {
            if let Some((source, below)) = series.path.split_first() {
                by_source.entry(source).or_default().push((below, i));
            }
        }
        let sources = by_source
            .into_iter()
            .map(|(source, leaves)| (source.to_owned(), branch(&leaves)))
            .collect();
        Self {
            id,
            series,
            sources,
        }
    }
}

fn branch(leaves: &[(&[String], usize)]) -> Node {
    let mut names: BTreeMap<&str, Vec<(&[String], usize)>> = BTreeMap::new();
    for (path, series) in leaves {
        match path.split_first() {
            None => return Node::Leaf(*series),
            Some((name, below)) => names.entry(name).or_default().push((below, *series)),
        }
    }
    let nodes = names.into_iter().map(|(name, leaves)| {
        let name = serde_json::Value::from(name).to_string();
        (name, branch(&leaves))
    });
    Node::Branch(nodes.collect())
}

impl Series {
    /// The address of the leaf, as the API wants it.
    pub(super) fn pointer(&self) -> String {
        let segment = |s: &String| format!("/{}", s.replace('~', "~0").replace('/', "~1"));
        self.path.iter().map(segment).collect()
    }

    fn put(&self, value: f64, out: &mut Vec<u8>) {
        // Writing to a Vec does not fail.
        let _ = if self.integer {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "whole and below 2^53 by the set's promise"
            )]
            let whole = value as i64;
            write!(out, "{whole}")
        } else {
            write!(out, "{value:?}")
        };
    }

    fn present(&self, tick: usize) -> Option<f64> {
        self.values.get(tick).copied().filter(|v| !v.is_nan())
    }
}

impl Set {
    /// Values that are there.
    pub(super) fn samples(&self) -> u64 {
        let series = self.devices.iter().flat_map(|d| &d.series);
        series
            .map(|s| s.values.iter().filter(|v| !v.is_nan()).count() as u64)
            .sum()
    }

    /// What the peers call the label that names the device.
    pub(super) fn device_label(&self) -> &'static str {
        let first = self.devices.iter().flat_map(|d| &d.series).next();
        first.map_or("device", |series| series.name.device_label())
    }

    pub(super) fn series(&self) -> usize {
        self.devices.iter().map(|d| d.series.len()).sum()
    }

    /// First time, and one after the last.
    pub(super) fn range(&self) -> (i64, i64) {
        let first = self.times.first().copied().unwrap_or_default();
        (first, self.times.last().map_or(first, |t| t + 1))
    }

    /// The agent's message of one round: every source a frame, all at the same time.
    pub(super) fn message(&self, device: &Device, tick: usize, out: &mut Vec<u8>) {
        let ts = self.times.get(tick).copied().unwrap_or_default();
        let _ = write!(
            out,
            "{{\"v\":1,\"device\":\"{}\",\"boot\":\"01KB0000000000000000000000\",\"seq\":{tick},\"frames\":[",
            device.id
        );
        let mut any = false;
        for (source, tree) in &device.sources {
            let begin = out.len();
            let comma = if any { "," } else { "" };
            let _ = write!(
                out,
                "{comma}{{\"ts\":{ts},\"source\":\"{source}\",\"metrics\":"
            );
            if put_tree(tree, device, tick, out) {
                any = true;
                out.push(b'}');
            } else {
                out.truncate(begin);
            }
        }
        out.extend_from_slice(b"]}");
    }

    /// Line protocol, times in ms.
    pub(super) fn lines(&self, device: &Device, tick: usize, out: &mut Vec<u8>) {
        let ts = self.times.get(tick).copied().unwrap_or_default();
        let mut separator = b' ';
        for series in &device.series {
            let Some(value) = series.present(tick) else {
                continue;
            };
            match &series.name {
                PeerName::Field(field) => {
                    if separator == b' ' {
                        let _ = write!(out, "{MEASUREMENT},device={}", device.id);
                    }
                    out.push(separator);
                    separator = b',';
                    let _ = write!(out, "{field}=");
                    series.put(value, out);
                    out.extend_from_slice(if series.integer { b"i" } else { b"" });
                }
                PeerName::Metric { name, labels } => {
                    let _ = write!(out, "{name},{}={}", series.name.device_label(), device.id);
                    for (label, text) in labels.iter().filter(|(_, text)| !text.is_empty()) {
                        let _ = write!(out, ",{}={}", tag(label), tag(text));
                    }
                    out.extend_from_slice(b" value=");
                    series.put(value, out);
                    out.extend_from_slice(if series.integer { b"i" } else { b"" });
                    let _ = writeln!(out, " {ts}");
                }
            }
        }
        if separator == b',' {
            let _ = writeln!(out, " {ts}");
        }
    }
}

/// A tag's name or value in line protocol.
pub(super) fn tag(text: &str) -> String {
    // Our sets' texts hold no line breaks and end in no backslash.
    text.replace(',', "\\,")
        .replace('=', "\\=")
        .replace(' ', "\\ ")
}

/// Writes a tree without its absent leaves; false, and nothing written, if all are.
fn put_tree(node: &Node, device: &Device, tick: usize, out: &mut Vec<u8>) -> bool {
    match node {
        Node::Leaf(i) => match device
            .series
            .get(*i)
            .and_then(|s| Some((s, s.present(tick)?)))
        {
            Some((series, value)) => {
                series.put(value, out);
                true
            }
            None => false,
        },
        Node::Branch(nodes) => {
            let begin = out.len();
            out.push(b'{');
            let mut any = false;
            for (name, node) in nodes {
                let before = out.len();
                if any {
                    out.push(b',');
                }
                out.extend_from_slice(name.as_bytes());
                out.push(b':');
                if put_tree(node, device, tick, out) {
                    any = true;
                } else {
                    out.truncate(before);
                }
            }
            if any {
                out.push(b'}');
            } else {
                out.truncate(begin);
            }
            any
        }
    }
}

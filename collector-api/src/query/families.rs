//! Paths as Prometheus names them: a metric family and labels. The one place for this mapping; exposition, PromQL and whatever else speaks Prometheus' words use
//! it. Pure: a path, its descriptor and the type of its value go in.
//!
//! | path, template, unit, kind | family and labels |
//! |---|---|
//! | `/disk/~1home/used_bytes`, `/disk/{mount}/used_bytes`, `By`, gauge | `devmon_disk_used_bytes{mount="/home"}` |
//! | `/memory/free`, the same, `By`, gauge | `devmon_memory_free_bytes` |
//! | `/cpu/core/0/utilization`, `/cpu/core/{core}/utilization`, `1`, gauge | `devmon_cpu_core_utilization{core="0"}` |
//! | `/network/eth0/errors`, `/network/{interface}/errors`, `1`, counter | `devmon_network_errors_total{interface="eth0"}` |
//! | `/system/processes/total`, the same, `1`, gauge | `devmon_system_processes` |
//! | `/gpu/0/name` (a text), `/gpu/{index}/name`, text | `devmon_gpu_name_info{index="0",value="…"}`, always 1 |
//! | `/greenhouse/temperature`, no descriptor | `devmon_greenhouse_temperature` |
//!
//! 1. The name is `devmon` and the literal segments, joined by `_`; what is not an ASCII letter, digit or `_` becomes `_`. Without a descriptor all segments are
//!    literal. A path without literals is `devmon_value`.
//! 2. The unit is appended as Prometheus writes it ([`unit_word`]) unless the name ends with it, or with the unit's own code. `1` and units without a word add nothing.
//! 3. Counters end in `_total`. A gauge or state ends neither in that nor in what parts of histograms, summaries and infos end in ([`OF_OTHER_TYPES`]), which promtool
//!    refuses: such endings are taken away. Without a descriptor a name that ends in `_total` is a counter's, and every other one's type is unknown.
//! 4. Labels are the placeholders. The device's id is the label `device`; it comes from whoever knows the device. A placeholder named like a label that has
//!    a meaning of its own (`device`, `path`, `value`, `le`, `quantile`, `__…`, or one that begins with a digit) gets `exported_` in front.
//! 5. A device can not take the names of what the collector says of it ([`OWN`]): `devmon_exported_device_online`.
//! 6. Two paths of one device that come out alike both get the label `path` ([`doubles`]).

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use devmon_core::descriptor::{Descriptor, Kind};
use devmon_core::{MetricPath, Value};

/// In front of every name.
const PREFIX: &str = "devmon";
/// Labels that a placeholder may not take.
const TAKEN: [&str; 5] = ["device", "path", "value", "le", "quantile"];
/// What names end in that belong to other types than gauges.
const OF_OTHER_TYPES: [&str; 5] = ["_total", "_count", "_sum", "_bucket", "_info"];

/// Families that the collector makes of what it knows of devices; a path that comes out as one of them is renamed.
pub const OWN: [&str; 3] = [
    "devmon_device_online",
    "devmon_device_last_seen_timestamp_seconds",
    "devmon_device_labels",
];

/// What Prometheus calls the type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    Counter,
    Gauge,
    /// Always 1; what there is to say is in its labels.
    Info,
    /// Buckets of a histogram; only the collector's own.
    Histogram,
    Unknown,
}

/// A metric family: all series of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// As queries name it: with `_total` for counters, `_info` for texts.
    pub name: String,
    pub type_: Type,
    /// The word for the unit that the name ends with, `_total` aside.
    pub unit: Option<&'static str>,
    pub help: String,
}

/// A path in Prometheus' words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    pub family: Family,
    /// Sorted by name; neither `device` nor, of an info, `value`.
    pub labels: Vec<(String, String)>,
    /// The same for two paths with the same name and labels.
    pub identity: u64,
}

/// The Prometheus words of a path with this descriptor, for its numbers or for its texts.
#[must_use]
pub fn map(path: &MetricPath, descriptor: Option<&Descriptor>, text: bool) -> Mapped {
    let (name, labels) = match descriptor {
        Some(descriptor) => (literals(descriptor, path), placeholders(descriptor, path)),
        None => (path.segments().map(|s| sanitize(&s)).collect(), Vec::new()),
    };
    let name: Vec<String> = name;
    let name = if name.is_empty() {
        format!("{PREFIX}_value")
    } else {
        format!("{PREFIX}_{}", name.join("_"))
    };
    let unit = descriptor.map_or("", |d| d.unit.as_str());
    let (name, type_, unit) = if text {
        (format!("{name}_info"), Type::Info, None)
    } else {
        match descriptor.map(|d| d.kind) {
            Some(Kind::Counter) => counter(&name, unit),
            Some(_) => {
                let (name, unit) = with_unit(&name, unit);
                (gauge(&name), Type::Gauge, unit)
            }
            None if name.ends_with("_total") => counter(&name, ""),
            None => (name, Type::Unknown, None),
        }
    };
    let name = match name.strip_prefix(PREFIX) {
        Some(rest) if OWN.contains(&name.as_str()) => format!("{PREFIX}_exported{rest}"),
        _ => name,
    };
    let help = match descriptor {
        Some(d) if !d.help.is_empty() => d.help.clone(),
        Some(d) => format!("Described without a help text: {}.", d.template),
        None => format!("No plugin describes {path}."),
    };
    let mut hasher = DefaultHasher::new();
    (&name, &labels).hash(&mut hasher);
    Mapped {
        family: Family {
            name,
            type_,
            unit,
            help,
        },
        labels,
        identity: hasher.finish(),
    }
}

/// Whether a value is one of an info: a text. Booleans are the numbers 0 and 1.
#[must_use]
pub fn is_text(value: &Value) -> bool {
    matches!(value, Value::Text(_))
}

/// What several of a device's series have as their identity: these also need the label `path`.
#[must_use]
pub fn doubles(identities: impl Iterator<Item = u64>) -> HashSet<u64> {
    let mut count: HashMap<u64, bool> = HashMap::new();
    for identity in identities {
        count.entry(identity).and_modify(|d| *d = true).or_default();
    }
    count
        .into_iter()
        .filter_map(|(identity, double)| double.then_some(identity))
        .collect()
}

/// How Prometheus writes a UCUM unit at the end of a name.
#[must_use]
pub fn unit_word(unit: &str) -> Option<&'static str> {
    Some(match unit {
        "By" => "bytes",
        "bit" => "bits",
        "By/s" => "bytes_per_second",
        "bit/s" => "bits_per_second",
        "s" => "seconds",
        "ms" => "milliseconds",
        "us" => "microseconds",
        "ns" => "nanoseconds",
        "min" => "minutes",
        "h" => "hours",
        "d" => "days",
        "Cel" => "celsius",
        "K" => "kelvin",
        "[degF]" => "fahrenheit",
        "W" => "watts",
        "J" => "joules",
        "V" => "volts",
        "A" => "amperes",
        "Hz" => "hertz",
        "m" => "meters",
        "m/s" => "meters_per_second",
        "g" => "grams",
        "Pa" => "pascals",
        "%" => "percent",
        _ => return None,
    })
}

/// Without all endings of other types; what was nothing else is a value.
fn gauge(name: &str) -> String {
    let mut name = name;
    while let Some(short) = OF_OTHER_TYPES
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
    {
        name = short;
    }
    if name == PREFIX {
        return format!("{PREFIX}_value");
    }
    name.to_owned()
}

fn counter(name: &str, unit: &str) -> (String, Type, Option<&'static str>) {
    let (name, unit) = with_unit(name.strip_suffix("_total").unwrap_or(name), unit);
    (format!("{name}_total"), Type::Counter, unit)
}

/// The name with its unit at the end, and the unit if it is there.
fn with_unit(name: &str, unit: &str) -> (String, Option<&'static str>) {
    let ends_with = |word: &str| {
        name.strip_suffix(word)
            .is_some_and(|rest| rest.ends_with('_'))
    };
    match unit_word(unit) {
        None => (name.to_owned(), None),
        Some(word) if ends_with(word) => (name.to_owned(), Some(word)),
        Some(_) if ends_with(&unit.to_ascii_lowercase()) => (name.to_owned(), None),
        Some(word) => (format!("{name}_{word}"), Some(word)),
    }
}

/// The segments of a path that its template names.
fn literals(descriptor: &Descriptor, path: &MetricPath) -> Vec<String> {
    let template = descriptor.template.to_string();
    let is_literal = |segment: &str| !segment.starts_with('{');
    let segments = template.split('/').skip(1).zip(path.segments());
    segments
        .filter(|(of_template, _)| is_literal(of_template))
        .map(|(_, segment)| sanitize(&segment))
        .collect()
}

fn placeholders(descriptor: &Descriptor, path: &MetricPath) -> Vec<(String, String)> {
    let mut labels: Vec<(String, String)> = Vec::new();
    for (name, value) in descriptor.template.labels(path).into_iter().flatten() {
        let taken = TAKEN.contains(&name)
            || name.starts_with("__")
            || name.starts_with(|c: char| c.is_ascii_digit());
        let mut name = if taken {
            format!("exported_{name}")
        } else {
            name.to_owned()
        };
        while labels.iter().any(|(other, _)| *other == name) {
            name = format!("exported_{name}");
        }
        labels.push((name, value));
    }
    labels.sort_unstable();
    labels
}

fn sanitize(segment: &str) -> String {
    let keep = |c: char| {
        if c.is_ascii_alphanumeric() { c } else { '_' }
    };
    segment.chars().map(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(path: &str, template: &str, unit: &str, kind: Kind) -> (String, Type, String) {
        let descriptor = Descriptor {
            template: template.parse().unwrap(),
            unit: unit.to_owned(),
            kind,
            help: String::new(),
        };
        words(&map(&path.parse().unwrap(), Some(&descriptor), false))
    }

    fn words(mapped: &Mapped) -> (String, Type, String) {
        let labels: Vec<_> = mapped
            .labels
            .iter()
            .map(|(n, v)| format!("{n}={v}"))
            .collect();
        let family = &mapped.family;
        (family.name.clone(), family.type_, labels.join(","))
    }

    fn is(name: &str, type_: Type, labels: &str) -> (String, Type, String) {
        (name.to_owned(), type_, labels.to_owned())
    }

    #[test]
    fn units_and_totals_stand_once_and_at_the_end() {
        use Kind::{Counter, Gauge, State};
        for (path, unit, kind, expected) in [
            ("/memory/free", "By", Gauge, "devmon_memory_free_bytes"),
            (
                "/memory/free_bytes",
                "By",
                Gauge,
                "devmon_memory_free_bytes",
            ),
            ("/memory/total", "By", Gauge, "devmon_memory_total_bytes"),
            ("/processes/total", "1", Gauge, "devmon_processes"),
            ("/processes/count", "1", Gauge, "devmon_processes"),
            ("/a/sum", "1", Gauge, "devmon_a"),
            ("/a/bucket", "1", State, "devmon_a"),
            ("/a/b_info", "1", Gauge, "devmon_a_b"),
            ("/a/count_total", "1", Gauge, "devmon_a"),
            ("/a/count", "By", Gauge, "devmon_a_count_bytes"),
            ("/a/count", "1", Counter, "devmon_a_count_total"),
            ("/a/account", "1", Gauge, "devmon_a_account"),
            ("/count", "1", Gauge, "devmon_value"),
            (
                "/net/sent_bytes_total",
                "By",
                Counter,
                "devmon_net_sent_bytes_total",
            ),
            (
                "/net/sent_total",
                "By",
                Counter,
                "devmon_net_sent_bytes_total",
            ),
            ("/net/sent", "By", Counter, "devmon_net_sent_bytes_total"),
            ("/net/packets", "1", Counter, "devmon_net_packets_total"),
            ("/net/kbytes", "By", Gauge, "devmon_net_kbytes_bytes"),
            (
                "/net/speed_bytes_per_second",
                "By/s",
                Gauge,
                "devmon_net_speed_bytes_per_second",
            ),
            ("/ping/latency_ms", "ms", Gauge, "devmon_ping_latency_ms"),
            ("/ping/up", "", State, "devmon_ping_up"),
            ("/ping/lost", "{packet}", Gauge, "devmon_ping_lost"),
        ] {
            assert_eq!(mapped(path, path, unit, kind).0, expected, "{path}");
        }
    }

    #[test]
    fn placeholders_are_labels_and_names_are_legal() {
        let home = mapped(
            "/disk/~1home/used_bytes",
            "/disk/{mount}/used_bytes",
            "By",
            Kind::Gauge,
        );
        assert_eq!(
            home,
            is("devmon_disk_used_bytes", Type::Gauge, "mount=/home")
        );
        let odd = mapped("/Größe.x/1/2", "/Größe.x/{device}/{0}", "", Kind::Gauge);
        assert_eq!(
            odd,
            is(
                "devmon_Gr__e_x",
                Type::Gauge,
                "exported_0=2,exported_device=1"
            )
        );
        let reserved = mapped("/h/1/2", "/h/{le}/{quantile}", "", Kind::Gauge);
        assert_eq!(
            reserved,
            is("devmon_h", Type::Gauge, "exported_le=1,exported_quantile=2")
        );
        let twice = mapped("/1/2", "/{path}/{exported_path}", "", Kind::Gauge);
        assert_eq!(
            twice,
            is(
                "devmon_value",
                Type::Gauge,
                "exported_exported_path=2,exported_path=1"
            )
        );
    }

    #[test]
    fn without_a_descriptor_the_name_says_it_all() {
        let plain = |path: &str, text| words(&map(&path.parse().unwrap(), None, text));
        assert_eq!(
            plain("/a/b c", false),
            is("devmon_a_b_c", Type::Unknown, "")
        );
        for (path, name) in [
            ("/device/online", "devmon_exported_device_online"),
            (
                "/device_last/seen_timestamp_seconds",
                "devmon_exported_device_last_seen_timestamp_seconds",
            ),
            ("/device/onlines", "devmon_device_onlines"),
        ] {
            assert_eq!(
                plain(path, false),
                is(name, Type::Unknown, ""),
                "the collector's own"
            );
        }
        assert_eq!(
            plain("/a/n_total", false),
            is("devmon_a_n_total", Type::Counter, "")
        );
        assert_eq!(
            plain("/a/name", true),
            is("devmon_a_name_info", Type::Info, "")
        );
    }

    #[test]
    fn paths_that_come_out_alike_are_found() {
        let of = |path: &str| map(&path.parse().unwrap(), None, false).identity;
        let all = [of("/a/b_c"), of("/a_b/c"), of("/a/b")];
        assert_eq!(doubles(all.into_iter()), HashSet::from([all[0]]));
        assert_eq!(all[0], all[1]);
    }
}

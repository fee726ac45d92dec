//! `GET /metrics/devices`: the newest values of all devices, for a Prometheus to scrape.
//!
//! No timestamps: a value counts from the moment at which it is scraped, as Prometheus wants it. What is not fresh is left out, so that Prometheus
//! ends the series: all values of an offline device, and a value older than five minutes (its look-back) or three intervals of its source, whichever is longer.

use std::time::Duration;

use devmon_core::Value;
use devmon_core::wire::TimestampMs;

use super::super::Api;
use super::super::params::{Params, all};
use super::super::problem::{Kind, Problem};
use super::text::{Exposition, Format};
use crate::query::devices::{STALE_INTERVALS, Status, labels, patience_ms, status};
use crate::query::families::{Family, OWN, Type};
use crate::query::fleet::Pattern;
use crate::query::names::NamedSeries;
use crate::store::engine::DeviceRecord;

/// Most series of one answer: some 30 MB of text. 4 000 devices of 57 metrics; more are scraped in several jobs by `device`.
const MAX_SERIES: usize = 250_000;
/// Prometheus forgets a value after so long.
const FRESH: Duration = Duration::from_secs(300);
/// Devices that are looked through between two looks at the list of devices.
const DEVICES_AT_ONCE: usize = 256;

/// Which values are wanted; nothing given: all.
pub(super) struct Wanted {
    /// Ids, with `*` for any characters; none: all.
    devices: Vec<glob::Pattern>,
    prefix: String,
    paths: Vec<Pattern>,
}

impl Wanted {
    pub(super) fn parse(query: &str) -> Result<Self, Problem> {
        let known = ["device", "prefix", "path"];
        let (_, (filter, prefix, paths)) = Params::read("", query, &known, |params| {
            let paths = match params.get("path") {
                Some(_) => params.patterns(),
                None => Ok(Vec::new()),
            };
            all((params.device_filter(), params.prefix(), paths))
        })?;
        Ok(Self {
            devices: filter.ids,
            prefix,
            paths,
        })
    }

    fn device(&self, device: &DeviceRecord) -> bool {
        let fits = |pattern: &glob::Pattern| pattern.matches(device.id.as_str());
        self.devices.is_empty() || self.devices.iter().any(fits)
    }

    fn series(&self, one: &NamedSeries) -> bool {
        let path = &one.series.path;
        let paths = &self.paths;
        path.is_within(&self.prefix) && (paths.is_empty() || paths.iter().any(|p| p.matches(path)))
    }

    fn all_of_a_device(&self) -> bool {
        self.prefix.is_empty() && self.paths.is_empty()
    }
}

/// Gathers the wanted values.
pub(super) fn gather(
    api: &Api,
    wanted: &Wanted,
    format: Format,
    now: TimestampMs,
) -> Result<Exposition, Problem> {
    let mut exposition = Exposition::new(format);
    let mut count = 0;
    let mut after: Option<String> = None;
    loop {
        let page = api
            .store
            .devices(after.as_deref(), DEVICES_AT_ONCE, &|d| wanted.device(d));
        let Some(last) = page.last() else { break };
        after = Some(last.id.to_string());
        for device in &page {
            let status = status(device, now);
            if wanted.all_of_a_device() {
                count += 3;
                about_device(&mut exposition, device, status);
            }
            if status != Status::Offline {
                for one in api.names.series(&*api.store, device) {
                    if wanted.series(&one) && is_fresh(&one, device, now) {
                        count += 1;
                        add(&mut exposition, device.id.as_str(), &one);
                    }
                }
            }
            if count > MAX_SERIES {
                return Err(Problem::new(
                    Kind::TooManyPoints,
                    format!(
                        "more than {MAX_SERIES} series; ask for a part of the devices (device=edge-0*) or of the metrics (prefix=/cpu, path=/disk/*/utilization), in several jobs"
                    ),
                ));
            }
        }
    }
    Ok(exposition)
}

fn about_device(exposition: &mut Exposition, device: &DeviceRecord, status: Status) {
    let id = [("device", device.id.as_str())];
    let gauge = |name: &str, unit, help: &str| Family {
        name: name.to_owned(),
        type_: Type::Gauge,
        unit,
        help: help.to_owned(),
    };
    let online = gauge(
        OWN[0],
        None,
        "1 while the device is online, 0 while it is stale or offline.",
    );
    exposition.add(
        &online,
        id,
        &Value::Integer(i64::from(status == Status::Online)),
    );
    let seen = gauge(
        OWN[1],
        Some("seconds"),
        "When its last message arrived, in unix time.",
    );
    exposition.add(&seen, id, &Value::Float(device.last_seen.0 as f64 / 1000.0));
    let labels = labels(device);
    if !labels.is_empty() {
        let family = gauge(
            OWN[2],
            None,
            "1, with the labels that people gave the device, each with label_ before its name.",
        );
        let labels: Vec<_> = labels
            .into_iter()
            .map(|(name, value)| (format!("label_{name}"), value))
            .collect();
        let labels = labels.iter().map(|(name, value)| (name.as_str(), *value));
        exposition.add(&family, id.into_iter().chain(labels), &Value::Integer(1));
    }
}

fn is_fresh(one: &NamedSeries, device: &DeviceRecord, now: TimestampMs) -> bool {
    let about = device.about.as_deref();
    let first = one.series.path.segments().next();
    let sources = about.iter().flat_map(|a| &a.sources);
    let interval_ms = sources
        .filter(|source| first.as_deref() == Some(source.name.as_str()))
        .map(|source| source.interval_ms)
        .max();
    // What is online has its values: at least as long as the device may be silent.
    let patience_ms = interval_ms
        .unwrap_or(0)
        .saturating_mul(STALE_INTERVALS)
        .max(patience_ms(about, &device.gaps));
    let patience_ms = u128::from(patience_ms).max(FRESH.as_millis());
    u128::try_from(now.since(one.series.last_ts)).is_ok_and(|age| age <= patience_ms)
        || one.series.last_ts > now
}

fn add(exposition: &mut Exposition, device: &str, one: &NamedSeries) {
    let labels = one
        .mapped
        .labels
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()));
    let path = one.with_path.then(|| ("path", one.series.path.as_str()));
    let value = match &one.series.last_value {
        Value::Text(text) => Some(("value", text.as_ref())),
        _ => None,
    };
    let all = [("device", device)]
        .into_iter()
        .chain(labels)
        .chain(path)
        .chain(value);
    exposition.add(&one.mapped.family, all, &one.series.last_value);
}

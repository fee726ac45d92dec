//! What the device says about itself: host facts, agent version, sources with their states, descriptors. One retained message, `about`.

use std::collections::BTreeMap;

use devmon_core::descriptor::DescriptorText;
use devmon_core::wire::TimestampMs;
use devmon_core::wire::about::{About, AgentFacts, HostFacts, SourceAbout};
use devmon_core::wire::message::MAX_SENT_BYTES;
use serde::Serialize;
use tracing::warn;

use crate::config::Settings;

/// Reads what the kernel and the distribution say. What cannot be read is left out.
#[must_use]
pub fn host_facts() -> HostFacts {
    let line = |path: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    let value = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        text.lines()
            .find_map(|l| l.strip_prefix(key))
            .map(|v| v.trim().trim_matches('"').to_owned())
    };
    let boot_s = value("/proc/stat", "btime ").and_then(|s| s.parse::<i64>().ok());
    HostFacts {
        hostname: line("/proc/sys/kernel/hostname"),
        os: value("/etc/os-release", "PRETTY_NAME="),
        kernel: line("/proc/sys/kernel/osrelease"),
        arch: Some(std::env::consts::ARCH.to_owned()),
        cpus: std::thread::available_parallelism()
            .ok()
            .and_then(|n| u32::try_from(n.get()).ok()),
        boot_ts: boot_s.map(|s| TimestampMs(s * 1000)),
    }
}

/// Longest version of a plugin that is passed on.
const MAX_VERSION_BYTES: usize = 64;
/// Most facts of one source, as JSON: some GPUs with their names.
const MAX_FACTS_BYTES: usize = 8 * 1024;

/// The payload: never larger than a broker takes, whatever plugins say of themselves. If it would be, help texts are left out first; then, source by source, the largest first, descriptors, with
/// a reason at that source if it has none; then facts.
#[must_use]
pub fn payload(
    settings: &Settings,
    host: &HostFacts,
    sources: Vec<SourceAbout>,
    descriptors: Vec<DescriptorText>,
) -> Vec<u8> {
    let mut about = About {
        v: 1,
        device: Some(settings.device.clone()),
        ts: Some(TimestampMs::now()),
        agent: AgentFacts {
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            publish_every_ms: u64::try_from(settings.publish_every.as_millis()).unwrap_or(u64::MAX),
        },
        host: host.clone(),
        labels: settings.labels.clone(),
        sources,
        descriptors,
    };
    for source in &mut about.sources {
        if let Some(version) = &mut source.version {
            version.truncate(version.floor_char_boundary(MAX_VERSION_BYTES));
        }
        if json(&source.facts).len() > MAX_FACTS_BYTES {
            warn!(
                source = source.name,
                "its facts are over {MAX_FACTS_BYTES} bytes and are left out"
            );
            source.facts.clear();
        }
    }
    let whole = json(&about);
    if whole.len() <= MAX_SENT_BYTES {
        return whole;
    }
    warn!(
        size_bytes = whole.len(),
        "about is too large: help texts are left out"
    );
    about.descriptors.iter_mut().for_each(|d| d.help.clear());
    loop {
        let bytes = json(&about);
        if bytes.len() <= MAX_SENT_BYTES || !shrink(&mut about) {
            return bytes;
        }
    }
}

/// Leaves out the largest part that may be left out; false if there is none any more.
fn shrink(about: &mut About) -> bool {
    let source_of = |d: &DescriptorText| {
        let first = d.path.trim_start_matches('/').split('/').next();
        first.unwrap_or_default().to_owned()
    };
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    for descriptor in &about.descriptors {
        *sizes.entry(source_of(descriptor)).or_default() += json(descriptor).len();
    }
    if let Some((name, bytes)) = sizes.into_iter().max_by_key(|(_, bytes)| *bytes) {
        let reason = format!(
            "its descriptors take {bytes} bytes, too much for one message, and are left out: its metrics have no units"
        );
        warn!(source = name, reason, "about is too large");
        about.descriptors.retain(|d| source_of(d) != name);
        let source = about.sources.iter_mut().find(|s| s.name == name);
        if let Some(source) = source.filter(|s| s.reason.is_none()) {
            source.reason = Some(reason);
        }
        return true;
    }
    if about.sources.iter().any(|s| !s.facts.is_empty()) {
        warn!("about is too large: facts are left out");
        about.sources.iter_mut().for_each(|s| s.facts.clear());
        return true;
    }
    // What is left of a source is some hundred bytes and its reason: hundreds of sources.
    let left_out = about.sources.len() - about.sources.len() / 2;
    warn!(left_out, "about is too large: sources are left out");
    about.sources.truncate(about.sources.len() / 2);
    left_out > 0
}

/// Plain values into memory: no failure is possible.
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use devmon_core::descriptor::Kind;
    use devmon_core::wire::about::SourceState;

    #[test]
    fn an_about_that_is_too_large_loses_help_before_descriptors() {
        let flags = crate::config::Flags {
            device: Some("d".parse().unwrap()),
            ..Default::default()
        };
        let settings = Settings::resolve(&flags, |_| None).unwrap();
        let many = |n: usize, help: usize| -> Vec<_> {
            (0..n)
                .map(|i| DescriptorText {
                    path: format!("/source/metric_{i}"),
                    unit: "By".into(),
                    kind: Kind::Gauge,
                    help: "h".repeat(help),
                })
                .collect()
        };
        let read = |descriptors| -> About {
            let bytes = payload(&settings, &host_facts(), Vec::new(), descriptors);
            assert!(bytes.len() <= MAX_SENT_BYTES);
            serde_json::from_slice(&bytes).unwrap()
        };
        assert_eq!(read(many(10, 100)).descriptors[0].help.len(), 100);
        let large = read(many(500, 400));
        assert_eq!(
            (large.descriptors.len(), large.descriptors[0].help.len()),
            (500, 0)
        );
        assert!(read(many(10_000, 0)).descriptors.is_empty());

        // One source's are left out, the others' stay, and it has the reason.
        let source = |name: &str, facts: usize| SourceAbout {
            name: name.into(),
            state: SourceState::Ok,
            reason: None,
            interval_ms: 1000,
            version: Some("1".repeat(10_000)),
            file: None,
            facts: serde_json::Map::from_iter([("x".into(), "y".repeat(facts).into())]),
        };
        let mut descriptors = many(10_000, 0);
        descriptors.extend(many(10, 0).into_iter().map(|d| DescriptorText {
            path: d.path.replace("/source/", "/cpu/"),
            ..d
        }));
        let sources = vec![source("cpu", 10), source("source", 1_000_000)];
        let bytes = payload(&settings, &host_facts(), sources, descriptors);
        assert!(bytes.len() <= MAX_SENT_BYTES);
        let about: About = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(about.descriptors.len(), 10);
        let [cpu, large] = &about.sources[..] else {
            panic!("{about:?}")
        };
        assert_eq!((cpu.reason.as_ref(), cpu.facts.len()), (None, 1));
        assert_eq!(
            cpu.version.as_ref().map(String::len),
            Some(MAX_VERSION_BYTES)
        );
        assert!(large.reason.as_ref().unwrap().contains("left out") && large.facts.is_empty());

        // And if there is nothing else to leave out.
        let sources = (0..2000).map(|i| SourceAbout {
            reason: Some("r".repeat(500)),
            ..source(&i.to_string(), 8000)
        });
        let bytes = payload(&settings, &host_facts(), sources.collect(), Vec::new());
        assert!(bytes.len() <= MAX_SENT_BYTES);
    }

    #[test]
    fn this_host_has_facts() {
        let host = host_facts();
        assert!(
            host.kernel.is_some() && host.cpus > Some(0) && host.boot_ts > Some(TimestampMs(0)),
            "{host:?}"
        );
    }
}

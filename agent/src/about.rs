//! What the device says about itself: host facts, agent version, sources with their states, descriptors. One retained message, `about`.

use devmon_core::descriptor::DescriptorText;
use devmon_core::wire::TimestampMs;
use devmon_core::wire::about::{About, AgentFacts, HostFacts, SourceAbout};
use devmon_core::wire::message::MAX_SENT_BYTES;
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

/// The payload. If it would be too large for a broker, help texts are left out first, then all descriptors.
#[must_use]
pub fn payload(
    settings: &Settings,
    host: &HostFacts,
    sources: Vec<SourceAbout>,
    descriptors: Vec<DescriptorText>,
) -> Vec<u8> {
    let mut about = About {
        v: 1,
        device: settings.device.clone(),
        ts: TimestampMs::now(),
        agent: AgentFacts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            publish_every_ms: u64::try_from(settings.publish_every.as_millis()).unwrap_or(u64::MAX),
        },
        host: host.clone(),
        labels: settings.labels.clone(),
        sources,
        descriptors,
    };
    let json = |about: &About| serde_json::to_vec(about).unwrap_or_default(); // plain values into memory: no failure is possible
    let whole = json(&about);
    if whole.len() <= MAX_SENT_BYTES {
        return whole;
    }
    about.descriptors.iter_mut().for_each(|d| d.help.clear());
    let without_help = json(&about);
    if without_help.len() <= MAX_SENT_BYTES {
        warn!(
            size_bytes = whole.len(),
            "about is too large: help texts are left out"
        );
        return without_help;
    }
    warn!(
        size_bytes = whole.len(),
        "about is too large: descriptors are left out"
    );
    about.descriptors.clear();
    json(&about)
}

#[cfg(test)]
mod tests {
    use super::*;
    use devmon_core::descriptor::Kind;

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

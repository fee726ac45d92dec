//! `/{{name}}`: what this source is about, in one line.
//!
//! **Measures** how long the machine has been up; put what you measure in its place.
//! **Units**: seconds. Names end in the base unit: `_bytes`, `_seconds`, `_celsius`.
//! **Cost**: one read of `/proc/uptime` a round.
//! **When it fails**: an unreadable file is a failed round, never an old value.

use std::path::PathBuf;

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

/// What a metric of this source means.
pub const METRICS_TOML: &str = include_str!("../metrics.toml");

/// The options of `[sources.{{name}}]`; any other is refused by name.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a JSON object")]
struct Config {
    /// Where the kernel's files are; a fixture in tests.
    proc: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
        }
    }
}

/// The source.
pub struct Source {
    config: Config,
}

impl Source {
    /// Starts the source from its configuration, a JSON object.
    ///
    /// # Errors
    /// An option that is not known.
    pub fn new(config: &str) -> Result<Self, String> {
        let config = serde_json::from_str(config).map_err(|e| format!("its configuration: {e}"))?;
        Ok(Self { config })
    }
}

impl MetricSource for Source {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        let path = self.config.proc.join("uptime");
        let failed = |what: String| CollectError::Failed(format!("{}: {what}", path.display()));
        let text = std::fs::read_to_string(&path).map_err(|e| failed(e.to_string()))?;
        let uptime = uptime_of(&text).ok_or_else(|| failed("has no number".into()))?;

        let mut tree = MetricTree::new();
        tree.set("uptime_seconds", uptime);
        Ok(tree)
    }
}

/// The first number of `/proc/uptime` (proc(5)): seconds since the boot.
fn uptime_of(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

export_plugin! {
    name: "{{name}}",
    metrics: METRICS_TOML,
    new: Source::new,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_counts() {
        assert_eq!(uptime_of("350735.47 234388.90\n"), Some(350_735.47));
        assert_eq!(uptime_of(""), None);
    }

    #[test]
    fn an_unknown_option_is_refused_by_name() {
        let error = Source::new(r#"{"porc":"/proc"}"#).err().unwrap();
        assert!(error.contains("porc"), "{error}");
    }
}

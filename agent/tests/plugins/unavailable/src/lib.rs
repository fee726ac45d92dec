//! There is nothing to measure on this machine.

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

struct Source;

impl MetricSource for Source {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        Err(CollectError::Unavailable("no such hardware".into()))
    }
}

export_plugin! { name: "unavailable", metrics: "", new: |_config: &str| Ok::<_, String>(Source) }

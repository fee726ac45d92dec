//! Its constructor panics.

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

struct Source;

impl MetricSource for Source {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        Ok(MetricTree::new())
    }
}

export_plugin! { name: "panics-in-new", metrics: "", new: |_config: &str| -> Result<Source, String> { panic!("no such sensor") } }

//! Never returns from collect.

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

struct Source;

impl MetricSource for Source {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        loop {
            std::thread::park();
        }
    }
}

export_plugin! { name: "hangs", metrics: "", new: |_config: &str| Ok::<_, String>(Source) }

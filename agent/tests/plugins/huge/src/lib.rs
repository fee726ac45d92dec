//! One leaf more than a frame may have.

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

struct Source;

impl MetricSource for Source {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        let mut tree = MetricTree::new();
        for i in 0..10_001 {
            tree.set(i.to_string(), i);
        }
        Ok(tree)
    }
}

export_plugin! { name: "huge", metrics: "", new: |_config: &str| Ok::<_, String>(Source) }

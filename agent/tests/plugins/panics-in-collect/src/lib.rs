//! Panics in every second round of its life, and once more when it is dropped; each life starts with a good round.

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

struct Source(bool);

impl MetricSource for Source {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        if self.0 {
            panic!("boom in round two");
        }
        self.0 = true;
        let mut tree = MetricTree::new();
        tree.set("fine", true);
        Ok(tree)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        panic!("boom in drop");
    }
}

export_plugin! { name: "panics", metrics: "", new: |_config: &str| Ok::<_, String>(Source(false)) }

//! A leaf that is not a number beside two good ones.

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

struct Source;

impl MetricSource for Source {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        let mut tree = MetricTree::new();
        tree.set("bad", f64::NAN);
        tree.set("good", 1.5);
        tree.branch("below").set("good", 2);
        Ok(tree)
    }
}

export_plugin! { name: "nan", metrics: "", new: |_config: &str| Ok::<_, String>(Source) }

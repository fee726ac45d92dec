//! Two plugins from one source: the same types, other names. A loader that keeps the first library of a type would give the first for both.

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

struct Source;

impl MetricSource for Source {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        let mut tree = MetricTree::new();
        tree.set("package", env!("CARGO_PKG_NAME"));
        Ok(tree)
    }

    fn facts(&self) -> MetricTree {
        let mut facts = MetricTree::new();
        facts.set("package", env!("CARGO_PKG_NAME"));
        facts
    }
}

export_plugin! {
    name: env!("CARGO_PKG_NAME").trim_start_matches("test-plugin-"),
    metrics: "[[metric]]\npath = '/package'\nkind = 'text'\nhelp = 'Which one this is.'\n",
    new: |_config: &str| Ok::<_, String>(Source),
}

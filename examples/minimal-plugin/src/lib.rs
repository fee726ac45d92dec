//! `/folder`: how much waits in a folder, and since when; a mail queue, say, or an upload directory.

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Folder {
    /// Whose files are counted; not those of folders in it.
    path: std::path::PathBuf,
}

impl MetricSource for Folder {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        let fail = |e| CollectError::Failed(format!("cannot list {}: {e}", self.path.display()));
        let (mut files, mut bytes, mut oldest) = (0_u64, 0, None);
        for entry in std::fs::read_dir(&self.path).map_err(fail)? {
            // A file that goes while it is looked at is no failure.
            if let Ok(meta) = entry.map_err(fail)?.metadata()
                && meta.is_file()
            {
                files += 1;
                bytes += meta.len();
                oldest = oldest.max(meta.modified().ok().and_then(|at| at.elapsed().ok()));
            }
        }
        let mut tree = MetricTree::new();
        tree.set("files", files);
        tree.set("size_bytes", bytes);
        tree.set_some("oldest_age_seconds", oldest.map(|age| age.as_secs()));
        Ok(tree)
    }
}

export_plugin! {
    name: "folder",
    metrics: include_str!("../metrics.toml"),
    new: serde_json::from_str::<Folder>,
}

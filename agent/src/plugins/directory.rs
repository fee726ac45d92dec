//! The plugin directory: which files are candidates, and what became of each.
//!
//! Every `lib*.so` is a candidate, in the order of file names. Of two plugins with one source name the first file has it; the second is refused, for two writers of one
//! path would make nonsense of it. A missing or empty directory is no error: an agent without plugins runs and says so.

use std::path::{Path, PathBuf};

use super::load::{Plugin, Refusal, load};

/// A file and the verdict on it.
pub struct Found {
    pub path: PathBuf,
    pub verdict: Result<Plugin, Refusal>,
}

impl Found {
    /// The file's name without its directory.
    #[must_use]
    pub fn file(&self) -> String {
        file_name(&self.path)
    }
}

/// Loads all candidates.
///
/// # Errors
/// When the directory exists but can not be listed.
pub fn scan(dir: &Path) -> std::io::Result<Vec<Found>> {
    let mut found: Vec<Found> = Vec::new();
    for path in candidates(dir)? {
        let mut verdict = load(&path);
        if let Ok(plugin) = &verdict {
            let earlier = found
                .iter()
                .find(|f| matches!(&f.verdict, Ok(p) if p.name == plugin.name));
            if let Some(earlier) = earlier {
                verdict = Err(Refusal::Duplicate {
                    name: plugin.name.clone(),
                    by: earlier.file(),
                });
            }
        }
        found.push(Found { path, verdict });
    }
    Ok(found)
}

fn candidates(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = file_name(&path);
        if name.starts_with("lib") && name.ends_with(".so") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lib_so_files_are_candidates_in_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "libb.so",
            "liba.so",
            "c.so",
            "libd.so.tmp",
            ".libe.so",
            "README",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let names: Vec<_> = candidates(dir.path())
            .unwrap()
            .iter()
            .map(|p| file_name(p))
            .collect();
        assert_eq!(names, ["liba.so", "libb.so"]);
    }

    #[test]
    fn a_missing_directory_has_no_plugins() {
        assert!(scan(Path::new("/nonexistent/devmon")).unwrap().is_empty());
    }
}

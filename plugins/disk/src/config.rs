//! The plugin's options, from the JSON object that the agent hands over.

use glob::{MatchOptions, Pattern};
use serde::Deserialize;
use std::time::Duration;

/// Every key of [`Config`], for the hint at a misspelt one.
const KEYS: [&str; 4] = ["exclude", "exclude_types", "include", "statvfs_timeout_ms"];

/// The options as written; README.md explains each.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Globs; when there are any, only mounts that match one are measured.
    pub include: Vec<String>,
    /// Globs of mounts to leave out; wins over `include`.
    pub exclude: Vec<String>,
    /// Globs of filesystem types to leave out, on top of the pseudo filesystems.
    pub exclude_types: Vec<String>,
    /// How long a round waits for mounts that do not answer.
    pub statvfs_timeout_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            include: Vec::new(),
            exclude: Vec::new(),
            exclude_types: Vec::new(),
            // Half of the shortest deadline that the agent gives a round (2 s).
            statvfs_timeout_ms: 1_000,
        }
    }
}

impl Config {
    /// Reads a JSON object.
    ///
    /// # Errors
    /// A text that names the wrong key and the nearest right one, or the value that does not fit.
    pub fn parse(json: &str) -> Result<Self, String> {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json)
            .map_err(|e| format!("the options are no JSON object: {e}"))?;
        for key in object.keys() {
            if !KEYS.contains(&key.as_str()) {
                let nearest = nearest(key);
                return Err(format!("unknown option `{key}`; did you mean `{nearest}`?"));
            }
        }
        let config: Self = serde_json::from_value(object.into())
            .map_err(|e| format!("an option has a wrong value: {e}"))?;
        if config.statvfs_timeout_ms == 0 {
            return Err("`statvfs_timeout_ms` must be at least 1".into());
        }
        Ok(config)
    }

    /// The waiting time as a duration.
    #[must_use]
    pub fn statvfs_timeout(&self) -> Duration {
        Duration::from_millis(self.statvfs_timeout_ms)
    }
}

fn nearest(key: &str) -> &'static str {
    KEYS.into_iter()
        .min_by_key(|valid| strsim::damerau_levenshtein(key, valid))
        .expect("KEYS is not empty")
}

/// `*` and `?` stop at a `/`, `**` does not; a leading dot is nothing special.
pub(crate) const GLOB_RULES: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// Compiles globs, to be matched by [`GLOB_RULES`].
///
/// # Errors
/// A text that names the option and the glob.
pub(crate) fn globs(option: &str, globs: &[String]) -> Result<Vec<Pattern>, String> {
    let compile =
        |glob: &String| Pattern::new(glob).map_err(|e| format!("`{option}`: {glob}: {e}"));
    globs.iter().map(compile).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_set_is_the_default() {
        assert_eq!(Config::parse("{}").unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_option_names_the_nearest_valid_one() {
        for (wrong, right) in [
            ("inclde", "`include`"),
            ("exclud", "`exclude`"),
            ("exclude_type", "`exclude_types`"),
            ("statfs_timeout", "`statvfs_timeout_ms`"),
        ] {
            let error = Config::parse(&format!(r#"{{"{wrong}":[]}}"#)).unwrap_err();
            assert!(error.contains(wrong) && error.contains(right), "{error}");
        }
    }

    #[test]
    fn wrong_values_and_globs_are_refused_by_name() {
        assert!(Config::parse("[]").unwrap_err().contains("JSON object"));
        assert!(
            Config::parse(r#"{"include":"/"}"#)
                .unwrap_err()
                .contains("\"/\"")
        );
        let error = Config::parse(r#"{"statvfs_timeout_ms":0}"#).unwrap_err();
        assert!(error.contains("statvfs_timeout_ms"), "{error}");
        let error = globs("exclude", &["/a[".into()]).unwrap_err();
        assert!(
            error.contains("exclude") && error.contains("/a["),
            "{error}"
        );
    }

    #[test]
    fn a_star_stops_at_a_slash() {
        let matches = |glob: &Pattern, path| glob.matches_with(path, GLOB_RULES);
        let star = &globs("include", &["/data*".into()]).unwrap()[0];
        assert!(matches(star, "/data1") && !matches(star, "/data1/inner"));
        let stars = &globs("include", &["/data/**".into()]).unwrap()[0];
        assert!(matches(stars, "/data/a/b"));
    }
}

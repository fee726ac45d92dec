//! The plugin's options, from the JSON object that the agent hands over.

use devmon_core::path::check_name;
use serde::Deserialize;

use crate::stat::COMMAND_BYTES;

/// Four leaves each: well below the 10 000 of a frame.
const MOST_NAMES: usize = 1_000;

/// The options as written; README.md explains each.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a JSON object")]
pub struct Config {
    /// How many commands are at the top, by processor time and by memory each.
    pub top: usize,
    /// Commands that are always shown.
    pub names: Vec<String>,
    /// Whether to show only those.
    pub only_names: bool,
    /// Most commands that are shown over the life of the source, `names` included.
    pub max_names: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            top: 10,
            names: Vec::new(),
            only_names: false,
            max_names: 200,
        }
    }
}

impl Config {
    /// Reads a JSON object.
    ///
    /// # Errors
    /// A text that names the option that is wrong, and what it may be.
    pub fn parse(json: &str) -> Result<Self, String> {
        let config: Self =
            serde_json::from_str(json).map_err(|e| format!("processes options: {e}"))?;
        config
            .check()
            .map_err(|e| format!("processes options: {e}"))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        for (name, value) in [("top", self.top), ("max_names", self.max_names)] {
            if !(1..=MOST_NAMES).contains(&value) {
                return Err(format!("`{name}` is {value}; it must be 1 to {MOST_NAMES}"));
            }
        }
        if self.top > self.max_names {
            return Err(format!(
                "`top` is {}, more than the {} that `max_names` allows: lower the one or raise the other",
                self.top, self.max_names
            ));
        }
        if self.names.len() > self.max_names {
            return Err(format!(
                "`names` has {} commands, more than the {} that `max_names` allows: raise it",
                self.names.len(),
                self.max_names
            ));
        }
        if self.only_names && self.names.is_empty() {
            return Err("`only_names` is true, but `names` lists none".into());
        }
        self.names.iter().try_for_each(|name| check_command(name))
    }
}

/// A name that no process can have would be shown with 0 processes for ever.
fn check_command(name: &str) -> Result<(), String> {
    check_name(name).map_err(|e| format!("`names`: {e}"))?;
    let is_kept = |(at, c): &(usize, char)| at + c.len_utf8() <= COMMAND_BYTES;
    let kept: String = name
        .char_indices()
        .take_while(is_kept)
        .map(|(_, c)| c)
        .collect();
    // U+FFFD stands for one byte that is no UTF-8: how many there were cannot be told.
    if kept.len() < name.len() && !name.contains('\u{fffd}') {
        return Err(format!(
            "`names`: the kernel keeps {COMMAND_BYTES} bytes of a command, write \"{kept}\" for \"{name}\""
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_set_is_the_default() {
        assert_eq!(Config::parse("{}").unwrap(), Config::default());
    }

    #[test]
    fn bad_options_are_refused_with_what_to_do() {
        for (json, parts) in [
            (r#"{"tpo":3}"#, &["tpo", "`top`"][..]),
            (r#"{"top":0}"#, &["`top` is 0", "1 to 1000"]),
            (r#"{"top":-1}"#, &["-1"]),
            (r#"{"max_names":1001}"#, &["`max_names` is 1001"]),
            (r#"{"top":9,"max_names":5}"#, &["`top` is 9", "5"]),
            (
                r#"{"top":1,"max_names":1,"names":["a","b"]}"#,
                &["2 commands"],
            ),
            (r#"{"only_names":true}"#, &["`only_names`", "`names`"]),
            (r#"{"names":[""]}"#, &["`names`", "empty"]),
            (
                r#"{"names":["prometheus-node-exporter"]}"#,
                &["write \"prometheus-node\""],
            ),
            ("7", &["JSON object"]),
        ] {
            let error = Config::parse(json).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{part} in {error}");
            }
        }
    }

    #[test]
    fn names_that_a_process_can_have_are_taken() {
        let json = r#"{"names":["prometheus-node","a) (b","\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd"],"only_names":true}"#;
        assert!(Config::parse(json).is_ok());
    }
}

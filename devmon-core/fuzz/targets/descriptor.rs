//! Any text: descriptors whose templates are rebuilt from their text, or an error.
#![no_main]

use devmon_core::descriptor::{PathTemplate, parse_json, parse_toml};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for descriptors in [parse_toml(text).ok(), parse_json(text).ok()].into_iter().flatten() {
        for d in descriptors {
            let again: PathTemplate = d.template.to_string().parse().expect("a template's own text");
            assert_eq!(again, d.template);
        }
    }
});

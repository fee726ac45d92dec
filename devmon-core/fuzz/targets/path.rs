//! Any text: a path that is its own text and can be rebuilt from its names, or an error.
#![no_main]

use devmon_core::MetricPath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(path) = text.parse::<MetricPath>() {
        assert_eq!(path.as_str(), text);
        assert_eq!(MetricPath::from_segments(path.segments()).as_ref(), Ok(&path));
        assert!(path.is_within("") && path.is_within(text));
    }
});

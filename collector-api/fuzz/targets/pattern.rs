//! Any pattern of device ids and of paths, and any path: the pattern is read or refused, and fits what a naive reading of its segments says. One without a star fits itself.
#![no_main]

use devmon_collector::events::{DevicePattern, PathPattern};
use devmon_collector::query::fleet::Pattern;
use devmon_core::MetricPath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|texts: (&str, &str)| {
    let (text, other) = texts;
    if let Ok(pattern) = text.parse::<DevicePattern>() {
        let glob = pattern.into_glob();
        assert!(text.contains('*') || (glob.matches(text) && (text == other || !glob.matches(other))));
    }
    let read = text.parse::<Pattern>();
    assert_eq!(text.parse::<PathPattern>().is_ok(), read.is_ok());
    let Ok(pattern) = read else { return };
    let path: MetricPath = text.parse().expect("a pattern is a path");
    assert!(pattern.matches(&path));
    if let Ok(path) = other.parse::<MetricPath>() {
        let (wanted, given): (Vec<_>, Vec<_>) = (text.split('/').collect(), path.as_str().split('/').collect());
        let fits = wanted.len() == given.len() && wanted.iter().zip(&given).all(|(w, g)| *w == "*" || w == g);
        assert_eq!(pattern.matches(&path), fits, "{text} {other}");
    }
});

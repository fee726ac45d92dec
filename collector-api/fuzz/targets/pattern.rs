//! Any pattern of device ids and of paths: read or refused. One without a star fits itself.
#![no_main]

use devmon_collector::events::{DevicePattern, PathPattern};
use devmon_collector::query::fleet::Pattern;
use devmon_core::MetricPath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = text.parse::<DevicePattern>();
    let _ = text.parse::<PathPattern>();
    if let (Ok(pattern), Ok(path)) = (text.parse::<Pattern>(), text.parse::<MetricPath>()) {
        assert!(pattern.matches(&path));
    }
});

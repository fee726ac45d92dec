//! Any text: a point in time between the years 0 and 9999, or an error that names it. What is written again is read again.
#![no_main]

use devmon_collector::api::time;
use devmon_core::wire::TimestampMs;
use libfuzzer_sys::fuzz_target;

const NOW: TimestampMs = TimestampMs(1_795_457_000_000);
const YEARS: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

fuzz_target!(|text: &str| {
    let Ok(at) = time::parse(text, NOW) else {
        return;
    };
    assert!(YEARS.contains(&at.0), "{at:?}");
    let second = at.0.div_euclid(1000) * 1000;
    if second >= 0 {
        assert_eq!(time::parse(&time::format(second), NOW), Ok(TimestampMs(second)));
    }
});

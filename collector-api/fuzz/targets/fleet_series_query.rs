//! Any query string of a call for series over the fleet: a question within every bound, or an error that names a parameter.
#![no_main]

use devmon_collector::api::params::Params;
use devmon_collector::query::fleet_series::Buckets;
use devmon_core::wire::TimestampMs;
use libfuzzer_sys::fuzz_target;

const NOW: TimestampMs = TimestampMs(1_795_457_000_000);
const KNOWN: [&str; 11] =
    ["path", "device", "q", "status", "label", "from", "to", "step", "points", "agg", "limit"];

fuzz_target!(|raw: &str| {
    let known: Vec<&str> = KNOWN.iter().copied().chain(["cursor"]).collect();
    let params = match Params::parse(raw, &known) {
        Ok(params) => params,
        Err(problem) => return assert!(problem.parameter.is_some()),
    };
    match params.fleet_series(NOW) {
        Err(problem) => assert!(problem.parameter.is_some()),
        Ok(query) => {
            assert!(query.from <= query.to);
            assert!((1..=50).contains(&query.patterns.len()));
            assert!(query.limit > 0 && !query.aggregates.is_empty());
            match query.buckets {
                Buckets::Step(ms) => assert!(ms > 0),
                Buckets::Points(n) => assert!((2..=10_000).contains(&n)),
            }
        }
    }
});

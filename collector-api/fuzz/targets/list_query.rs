//! Any query string of a list: each of its parameters is read or refused by name.
#![no_main]

use devmon_collector::api::params::Params;
use devmon_collector::query::devices::SortBy;
use libfuzzer_sys::fuzz_target;

const KNOWN: [&str; 9] = ["limit", "cursor", "q", "status", "prefix", "path", "format", "sort", "label"];

fuzz_target!(|raw: &str| {
    let params = match Params::parse(raw, &KNOWN) {
        Ok(params) => params,
        Err(problem) => return assert!(problem.parameter.is_some()),
    };
    if let Ok(limit) = params.list_limit() {
        assert!((1..=1000).contains(&limit));
    }
    if let Ok(paths) = params.patterns() {
        assert!((1..=50).contains(&paths.len()));
    }
    if let Ok(prefix) = params.prefix() {
        assert!(prefix.is_empty() || prefix.starts_with('/'));
    }
    let sort = params.sort(&SortBy::ALL, SortBy::as_str);
    let refused = [
        params.cursor().err(),
        params.device_filter().err(),
        sort.err(),
        params.one_of("format", &[false, true], |t| if t { "tree" } else { "flat" }).err(),
    ];
    for problem in refused.into_iter().flatten() {
        assert!(problem.parameter.is_some());
    }
});

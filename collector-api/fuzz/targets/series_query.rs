//! Any query string of a series call: a question within every bound, or an error that names a parameter. The link to its next page asks the same.
#![no_main]

use devmon_collector::api::page::link;
use devmon_collector::api::params::Params;
use devmon_collector::query::range::Resolution;
use devmon_core::wire::TimestampMs;
use libfuzzer_sys::fuzz_target;

const NOW: TimestampMs = TimestampMs(1_795_457_000_000);
const KNOWN: [&str; 8] = ["path", "from", "to", "step", "points", "agg", "limit", "cursor"];

fuzz_target!(|raw: &str| {
    let device = "edge_device_01".parse().expect("legal");
    let params = match Params::parse(raw, &KNOWN) {
        Ok(params) => params,
        Err(problem) => return assert!(problem.parameter.is_some()),
    };
    let linked = link("/p", &params, "next");
    let again = linked.strip_prefix("</p?").and_then(|l| l.strip_suffix(">; rel=\"next\"")).expect("a link");
    let again = Params::parse(again, &KNOWN).expect("what we write, we read");
    let others = |params: &Params| {
        let pairs = params.pairs().filter(|(name, _)| *name != "cursor");
        pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(others(&params), others(&again));
    assert_eq!(params.query(), again.query());

    match params.series(Ok(device), NOW) {
        Err(problem) => assert!(problem.parameter.is_some()),
        Ok(query) => {
            assert!(query.from <= query.to);
            assert!((1..=50).contains(&query.paths.len()));
            assert!((1..=100_000).contains(&query.limit));
            assert!(query.start.is_none_or(|start| query.from <= start && start < query.to));
            match query.resolution {
                Resolution::Raw => assert!(query.aggregates.is_empty()),
                Resolution::Step(ms) => assert!(ms > 0 && !query.aggregates.is_empty()),
                Resolution::Points(n) => assert!((2..=10_000).contains(&n)),
            }
        }
    }
});

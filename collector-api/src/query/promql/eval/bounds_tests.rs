//! What a query may take is bounded over all its parts.

use super::*;
use crate::query::promql;
use crate::store::Engine;
use crate::store::seal_tests::{BASE_MS, metrics, options};

/// What `query` says where all its selectors together may name so many series of a device that has three.
fn ask(query: &str, series: usize) -> Result<Outcome, Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = Engine::open(dir.path(), options()).unwrap();
    let leaves = "\"a\":1,\"b\":2,\"c\":3".to_owned();
    let message = metrics("edge", 0, &[(0, "s", leaves)]);
    store.commit(std::slice::from_ref(&message)).unwrap();
    let steps = Steps {
        start_ms: BASE_MS,
        step_ms: 1,
        count: 1,
        end_ms: BASE_MS,
    };
    let names = NamesCache::default();
    let mut eval = Eval::new(&store, &names, steps, PATIENCE);
    assert_eq!(eval.budget.series, plan::MAX_SERIES_OF_ALL);
    eval.budget.series = series;
    eval.run(&promql::parse(query).unwrap())
}

#[test]
fn the_series_of_all_selectors_are_bounded_together() {
    let one = "sum({device=\"edge\"})";
    let two = format!("{one} + {one}");
    for (query, series) in [(one, 3), (&two, 6), ("{device=\"edge\"}", 3)] {
        assert!(ask(query, series).is_ok(), "{query}");
        let error = ask(query, series - 1).unwrap_err().to_string();
        assert!(error.contains("together"), "{error}");
    }
}

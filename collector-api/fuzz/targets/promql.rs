//! Any query: parsed within bounds of length and depth, or an error of Prometheus' own kind. Nothing panics, and nothing overflows the stack.
#![no_main]

use devmon_collector::query::promql::{Error, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match parse(text) {
        Ok(expr) => drop(expr),
        Err(error) => assert!(matches!(error, Error::BadData(_) | Error::Execution(_)), "{error}"),
    }
});

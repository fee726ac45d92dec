//! Any value of Accept and Accept-Encoding, and of the two forms of an exposition: weights within bounds.
#![no_main]

use devmon_collector::api::accept::{takes, weights};
use devmon_collector::api::prometheus::Format;
use http::HeaderValue;
use http::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.append(ACCEPT_ENCODING, value.clone());
    headers.append(ACCEPT, value.clone());
    headers.append(ACCEPT, value.clone());
    for name in [ACCEPT, ACCEPT_ENCODING] {
        let weights = weights(&headers, &name).expect("there is one");
        assert!(weights.len() <= 32 && weights.iter().all(|(name, q)| *q <= 1000 && !name.is_empty()));
    }
    for form in ["application/json", "text/csv", "nothing"] {
        let _ = takes(&headers, form);
    }
    let _ = Format::accepted(value.to_str().ok());
});

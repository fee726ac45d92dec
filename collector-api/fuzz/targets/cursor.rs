//! Any text: no cursor, or one that survives its own text.
#![no_main]

use devmon_collector::api::page::Cursor;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some((query, cursor)) = Cursor::parse(text) {
        assert_eq!(Cursor::parse(&cursor.text(query)), Some((query, cursor)));
    }
    // Most texts are no base64: what is in one is fuzzed as well.
    if let Some((query, cursor)) = Cursor::read(text) {
        assert_eq!(Cursor::parse(&cursor.text(query)), Some((query, cursor)));
    }
});

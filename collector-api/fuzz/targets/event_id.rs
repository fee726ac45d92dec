//! Any Last-Event-ID: the id of an event, which its text names again, or an error.
#![no_main]

use devmon_collector::events::EventId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<EventId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
});

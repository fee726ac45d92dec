//! Any text: a topic of ours that is rebuilt the same but for its shard, or an error.
#![no_main]

use devmon_core::wire::TopicScheme;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let scheme = TopicScheme::default();
    if let Ok((device, kind)) = scheme.parse(text) {
        let (again, same) = scheme.parse(&scheme.topic(&device, kind)).expect("our own topic");
        assert_eq!((again, same), (device, kind));
    }
});

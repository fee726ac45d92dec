//! Any bytes: a message or a refusal. What is taken keeps every limit and survives being packed and read again.
#![no_main]

use devmon_core::wire::message::Message;
use devmon_core::wire::pack::pack;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::decode(bytes) else { return };
    for frame in &message.frames {
        frame.metrics.validate().expect("a tree over the limits was taken");
        for (path, _) in frame.metrics.leaves() {
            assert_eq!(path.as_str().parse().as_ref(), Ok(&path));
        }
    }
    if message.id.is_none() {
        return;
    }
    let device = "d".parse().expect("legal");
    let mut leaves = 0;
    for packed in pack(&device, "B", &mut 0, &message.frames) {
        let again = Message::decode(&packed.payload).expect("what we pack, we read");
        leaves += again.frames.iter().map(|f| f.metrics.leaves().count()).sum::<usize>();
    }
    assert_eq!(leaves, message.frames.iter().map(|f| f.metrics.leaves().count()).sum::<usize>());
});

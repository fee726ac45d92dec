//! Any bytes: a message or a refusal, the same from both readers. What is taken keeps every limit and survives being packed and read again.
#![no_main]

use devmon_core::wire::FlatMessage;
use devmon_core::wire::message::Message;
use devmon_core::wire::pack::pack;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (message, flat) = match (Message::decode(bytes), FlatMessage::decode(bytes)) {
        (Ok(message), Ok(flat)) => (message, flat),
        (message, flat) => return assert_eq!(message.err(), flat.err()),
    };
    assert_eq!(message.frames.len(), flat.frames.len());
    for (tree, flat) in message.frames.iter().zip(&flat.frames) {
        let mut leaves: Vec<_> = flat.leaves().collect();
        leaves.sort_by_key(|(path, _)| *path);
        let mut expected: Vec<_> = tree.metrics.leaves().collect();
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        assert!(leaves.iter().map(|(path, _)| *path).eq(expected.iter().map(|(path, _)| path.as_str())));
        assert!(leaves.iter().zip(&expected).all(|(a, b)| a.1.same_bits(b.1)));
    }
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

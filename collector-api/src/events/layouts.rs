//! Layouts of frames by number: a source, and the paths of what it sends. From round to round they stay the same, so what a follower wants of one is looked up once.
//!
//! Decoders share shapes as far as their small caches reach. Here every frame of one layout gets one shape, and one number, as long as [`MOST_BYTES`] of layouts
//! have not come since it was seen last; then it gets another number, which costs another look.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use devmon_core::wire::FlatFrame;
use devmon_core::wire::flat::Shape;

/// Bound on the layouts of each of two generations: some 2 KB for 50 paths, so 4000 different ones.
const MOST_BYTES: usize = 8 << 20;
/// What a layout takes beside its shape and its source, about.
const OVERHEAD_BYTES: usize = 128;

/// Names a layout as long as the process runs; 0 names none.
pub(super) type LayoutNumber = u64;

/// The next number. Never given twice, so that what somebody remembers of one is never taken for another.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// By shape, then by source; the short form has none, and no source's name is empty.
type Generation = HashMap<Arc<Shape>, HashMap<Box<str>, LayoutNumber>>;

/// Layouts that were seen lately.
#[derive(Debug)]
pub(super) struct Layouts {
    young: Generation,
    young_bytes: usize,
    /// Those before; one that is seen again is young.
    old: Generation,
    most_bytes: usize,
}

impl Default for Layouts {
    fn default() -> Self {
        Self::bounded(MOST_BYTES)
    }
}

impl Layouts {
    fn bounded(most_bytes: usize) -> Self {
        Self {
            young: HashMap::new(),
            young_bytes: 0,
            old: HashMap::new(),
            most_bytes,
        }
    }

    /// The number of a frame's layout. The frame gets the shape that others of it have.
    pub(super) fn number(&mut self, frame: &mut FlatFrame) -> LayoutNumber {
        let source = frame.source.as_deref().unwrap_or_default();
        let in_generation = |generation: &Generation| {
            let (shape, by_source) = generation.get_key_value(&frame.shape)?;
            Some((shape.clone(), *by_source.get(source)?))
        };
        if let Some((shape, number)) = in_generation(&self.young) {
            frame.shape = shape;
            return number;
        }
        let (shape, number) = in_generation(&self.old)
            .unwrap_or_else(|| (frame.shape.clone(), NEXT.fetch_add(1, Relaxed)));
        let shape = match self.young.get_key_value(&shape) {
            Some((shape, _)) => shape.clone(), // of another source
            None => shape,
        };
        let bytes = shape.size_bytes() + source.len() + OVERHEAD_BYTES;
        if self.young_bytes + bytes > self.most_bytes {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        let by_source = self.young.entry(shape.clone()).or_default();
        by_source.insert(source.into(), number);
        frame.shape = shape;
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use devmon_core::wire::{FlatMessage, Message};

    /// Of a decoder that shares no shapes.
    fn frame(source: &str, leaf: &str) -> FlatFrame {
        let text = format!(
            r#"{{"v":1,"boot":"B","seq":1,"frames":[{{"ts":1,"source":"{source}","metrics":{{"{leaf}":1}}}}]}}"#
        );
        let message = Message::decode(text.as_bytes()).unwrap();
        FlatMessage::from_trees(&message).frames.remove(0)
    }

    #[test]
    fn frames_of_one_layout_get_one_number_and_share_a_shape() {
        let mut layouts = Layouts::default();
        let (mut first, mut second) = (frame("s", "x"), frame("s", "x"));
        assert!(!Arc::ptr_eq(&first.shape, &second.shape));
        let number = layouts.number(&mut first);
        assert_eq!(layouts.number(&mut second), number);
        assert!(Arc::ptr_eq(&first.shape, &second.shape));
        let mut other_source = frame("t", "x");
        assert_ne!(layouts.number(&mut other_source), number);
        assert!(Arc::ptr_eq(&first.shape, &other_source.shape));
        assert_ne!(layouts.number(&mut frame("s", "y")), number);
    }

    #[test]
    fn a_layout_that_is_seen_now_and_then_keeps_its_number_and_others_are_given_up() {
        let size = frame("s", "x000").shape.size_bytes() + 1 + OVERHEAD_BYTES;
        let mut layouts = Layouts::bounded(10 * size);
        let often = layouts.number(&mut frame("s", "often"));
        let once = layouts.number(&mut frame("s", "once"));
        for n in 100..200 {
            layouts.number(&mut frame("s", &format!("x{n}")));
            assert_eq!(layouts.number(&mut frame("s", "often")), often);
            assert!(layouts.young.len() + layouts.old.len() <= 20);
        }
        assert_ne!(layouts.number(&mut frame("s", "once")), once);
    }
}

//! For benchmarks only: followers that look at messages, without log and sockets.

use std::sync::Arc;

use devmon_core::wire::{FlatFrame, FlatMessage, Message};

use super::event::{Event, What};
use super::filter::{Filter, Kinds, Wanted};
use super::layouts::Layouts;
use super::paths::Shared;

/// Followers that ask for so many paths each, of which some fit.
#[derive(Debug)]
pub struct Looks {
    device: Arc<str>,
    layouts: Layouts,
    filters: Vec<Filter>,
}

impl Looks {
    /// No patterns: all is wanted. With `alike` all followers ask for the same ones, else each for others.
    #[must_use]
    pub fn new(patterns: usize, followers: usize, alike: bool) -> Self {
        let shared = Shared::default();
        let filter = |follower: usize| {
            let mine = if alike { 0 } else { follower };
            let pattern = |n| match n % 5 {
                0 => format!("/cpu/{n}/utilization"),
                1 => format!("/*/{n}"),
                2 => format!("/disk/*/used_{n}"),
                _ => format!("/own_{mine}/{n}"),
            };
            let patterns = (0..patterns).filter_map(|n| pattern(n).parse().ok());
            Filter::new(Kinds::ALL, Vec::new(), patterns.collect()).sharing(&shared)
        };
        Self {
            device: "bench".into(),
            layouts: Layouts::default(),
            filters: (0..followers).map(filter).collect(),
        }
    }

    /// The frames of a message whose shapes nobody else has: the worst of decoders.
    #[must_use]
    pub fn frames(payload: &[u8]) -> Vec<FlatFrame> {
        let message = Message::decode(payload);
        message.map_or_else(|_| Vec::new(), |m| FlatMessage::from_trees(&m).frames)
    }

    /// How many followers want something of these.
    pub fn look(&mut self, frames: Vec<FlatFrame>) -> usize {
        let mut wanted = 0;
        for mut frame in frames {
            let event = Event {
                device_number: 1,
                layout: self.layouts.number(&mut frame),
                ..Event::new(self.device.clone(), What::Samples(frame))
            };
            let wants = |f: &mut Filter| usize::from(f.wanted(&event) != Wanted::Nothing);
            wanted += self.filters.iter_mut().map(wants).sum::<usize>();
        }
        wanted
    }
}

//! Patterns of paths, and which leaves of a frame fit one of them.
//!
//! Patterns are compared with a layout once, for all followers that ask for the same ones ([`Shared`]); what was found is kept by the layout's number, within [`MOST_BYTES`].
//! A comparison goes down a tree of the patterns' segments, so that it hardly matters how many there are.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use devmon_core::MetricPath;
use devmon_core::wire::FlatFrame;

use super::filter::Wanted;
use super::layouts::LayoutNumber;
use crate::query::fleet::{PatternError, starred};

/// Bound on what is kept of each of two generations of layouts: of 1000 and more.
const MOST_BYTES: usize = 256 << 10;
/// What the choice of a layout takes beside its places, about.
const OVERHEAD_BYTES: usize = 64;

/// A path, with all that is below it; a segment `*` stands for any one name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathPattern(MetricPath);

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        starred(text).map(Self)
    }
}

/// The patterns' segments as they stand in the text, from the top.
#[derive(Debug, Default)]
struct Node {
    /// A pattern ends here: all below fits.
    is_end: bool,
    names: HashMap<Box<str>, Node>,
    any: Option<Box<Node>>,
}

impl Node {
    fn add<'a>(&mut self, mut wanted: impl Iterator<Item = &'a str>) {
        match wanted.next() {
            None => self.is_end = true,
            Some("*") => self.any.get_or_insert_default().add(wanted),
            Some(name) => self.names.entry(name.into()).or_default().add(wanted),
        }
    }

    /// Whether a path fits, given by its segments as they stand in the text. No node is visited twice.
    fn fits<'a, I: Iterator<Item = &'a str> + Clone>(&self, mut given: I) -> bool {
        if self.is_end {
            return true;
        }
        let Some(name) = given.next() else {
            return false;
        };
        let below = |node: &Self| node.fits(given.clone());
        self.names.get(name).is_some_and(below) || self.any.as_deref().is_some_and(below)
    }
}

/// Patterns, and what they chose lately.
#[derive(Debug, Default)]
pub struct Paths {
    /// In order, each once; none: all leaves are wanted.
    patterns: Vec<PathPattern>,
    tree: Node,
    chosen: RwLock<Chosen>,
    /// Layouts that were compared.
    #[cfg(test)]
    pub(super) compared: std::sync::atomic::AtomicU64,
}

/// What is wanted of layouts.
#[derive(Debug, Default)]
struct Chosen {
    young: HashMap<LayoutNumber, Wanted>,
    young_bytes: usize,
    old: HashMap<LayoutNumber, Wanted>,
}

impl Chosen {
    fn keep(&mut self, layout: LayoutNumber, wanted: Wanted) {
        let places = match &wanted {
            Wanted::Some(places) => size_of_val(&**places),
            Wanted::Nothing | Wanted::All => 0,
        };
        if self.young_bytes + places + OVERHEAD_BYTES > MOST_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(layout, wanted).is_none() {
            self.young_bytes += places + OVERHEAD_BYTES;
        }
    }
}

impl Paths {
    pub(super) fn new(mut patterns: Vec<PathPattern>) -> Self {
        patterns.sort_unstable();
        patterns.dedup();
        let mut tree = Node::default();
        for PathPattern(path) in &patterns {
            tree.add(path.as_str().split('/').skip(1));
        }
        Self {
            patterns,
            tree,
            ..Self::default()
        }
    }

    /// What of a frame of this layout; 0: of one that has no number, which is compared each time.
    pub(super) fn wanted(&self, frame: &FlatFrame, layout: LayoutNumber) -> Wanted {
        if self.patterns.is_empty() {
            return Wanted::All;
        }
        if layout == 0 {
            return self.compare(frame);
        }
        {
            let chosen = self.chosen.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(wanted) = chosen.young.get(&layout) {
                return wanted.clone();
            }
        }
        // Under the lock: of many followers that come to a new layout at once, one compares.
        let mut chosen = self.chosen.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(wanted) = chosen.young.get(&layout) {
            return wanted.clone();
        }
        let kept = chosen.old.remove(&layout);
        let wanted = kept.unwrap_or_else(|| self.compare(frame));
        chosen.keep(layout, wanted.clone());
        wanted
    }

    fn compare(&self, frame: &FlatFrame) -> Wanted {
        #[cfg(test)]
        self.compared
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let source = frame.source.as_deref().map(escaped);
        let fits = |path: &str| {
            let segments = path.split('/').skip(1);
            self.tree
                .fits(source.as_deref().into_iter().chain(segments))
        };
        let places = (0..).zip(frame.shape.paths());
        let places = places.filter(|(_, path)| fits(path));
        let places: Arc<[u32]> = places.map(|(place, _)| place).collect();
        match places.len() {
            0 => Wanted::Nothing,
            n if n == frame.shape.len() => Wanted::All,
            _ => Wanted::Some(places),
        }
    }
}

/// A source's name as the first segment of its paths.
#[must_use]
pub fn escaped(source: &str) -> String {
    source.replace('~', "~0").replace('/', "~1")
}

/// The patterns that followers ask for now: like ones are there once.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<Vec<Weak<Paths>>>);

impl Shared {
    /// The same patterns, as others ask for them if somebody does.
    pub(super) fn like(&self, paths: Arc<Paths>) -> Arc<Paths> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|paths| paths.strong_count() > 0); // as many as there are clients at most
        let mut there = all.iter().filter_map(Weak::upgrade);
        if let Some(like) = there.find(|p| p.patterns == paths.patterns) {
            return like;
        }
        all.push(Arc::downgrade(&paths));
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::layouts::Layouts;
    use devmon_core::wire::{FlatMessage, Message};
    use std::sync::atomic::Ordering::Relaxed;

    fn paths(patterns: &[&str]) -> Paths {
        Paths::new(patterns.iter().map(|p| p.parse().unwrap()).collect())
    }

    /// Of a decoder that shares no shapes.
    fn frame(text: &str) -> FlatFrame {
        let text = format!(r#"{{"v":1,"boot":"B","seq":1,"frames":[{text}]}}"#);
        let message = Message::decode(text.as_bytes()).unwrap();
        FlatMessage::from_trees(&message).frames.remove(0)
    }

    fn chosen(patterns: &[&str], text: &str) -> Vec<u32> {
        match paths(patterns).wanted(&frame(text), 0) {
            Wanted::Nothing => vec![],
            Wanted::All => vec![99],
            Wanted::Some(places) => places.to_vec(),
        }
    }

    #[test]
    fn patterns_name_a_leaf_a_branch_or_any_segment() {
        // In the order of a tree: /~1/used, /~1home/size, /~1home/used.
        let disk =
            r#"{"ts":1,"source":"disk","metrics":{"/":{"used":3},"/home":{"size":2,"used":1}}}"#;
        assert_eq!(chosen(&["/disk/~1home/used"], disk), [2]);
        assert_eq!(chosen(&["/disk/~1home"], disk), [1, 2]);
        assert_eq!(chosen(&["/disk/*/used"], disk), [0, 2]);
        assert_eq!(chosen(&["/*/*/size", "/disk/~1/used"], disk), [0, 1]);
        assert_eq!(chosen(&["/disk/*/size", "/disk/~1home/used"], disk), [1, 2]);
        assert_eq!(chosen(&["/disk"], disk), [99]);
        for none in ["/dis", "/disk/~1home/used/x", "/cpu", "/disk/home"] {
            assert!(chosen(&[none], disk).is_empty(), "{none}");
        }
        let slash = r#"{"ts":1,"source":"a/b","metrics":{"x":1}}"#;
        assert_eq!(chosen(&["/a~1b/x"], slash), [99]);
        assert!(chosen(&["/a/b"], slash).is_empty());
    }

    #[test]
    fn a_layout_is_compared_once_for_all_messages_and_all_followers_with_the_same_patterns() {
        let (shared, mut layouts) = (Shared::default(), Layouts::default());
        let followers: Vec<_> = [["/s/x", "/t"], ["/t", "/s/x"]]
            .map(|patterns| shared.like(Arc::new(paths(&patterns))))
            .into();
        for round in 0..100 {
            for (source, wanted) in [
                ("s", Wanted::Some([0].into())),
                ("t", Wanted::All),
                ("u", Wanted::Nothing),
            ] {
                let text =
                    format!(r#"{{"ts":1,"source":"{source}","metrics":{{"x":{round},"y":1}}}}"#);
                let mut frame = frame(&text);
                let layout = layouts.number(&mut frame);
                for paths in &followers {
                    assert_eq!(paths.wanted(&frame, layout), wanted);
                }
            }
        }
        let compared = followers.iter().map(|paths| paths.compared.load(Relaxed));
        assert_eq!(compared.collect::<Vec<_>>(), [3, 3], "one and the same");
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_asked_for_often_stays() {
        let paths = paths(&["/s/x"]);
        let often = frame(r#"{"ts":1,"source":"s","metrics":{"x":1,"y":1}}"#);
        let layouts = 10 * (MOST_BYTES / OVERHEAD_BYTES) as u64;
        for layout in 2..layouts {
            assert_eq!(paths.wanted(&often, 1), Wanted::Some([0].into()));
            paths.wanted(&often, layout);
        }
        assert_eq!(paths.compared.load(Relaxed), layouts - 1);
        let kept = paths.chosen.read().unwrap();
        let kept = kept.young.len() + kept.old.len();
        assert!(kept <= 2 * MOST_BYTES / OVERHEAD_BYTES, "{kept}");
    }

    #[test]
    fn patterns_that_nobody_asks_for_any_more_are_forgotten() {
        let shared = Shared::default();
        let first = shared.like(Arc::new(paths(&["/a"])));
        drop(first);
        let _second = shared.like(Arc::new(paths(&["/b"])));
        assert_eq!(shared.0.lock().unwrap().len(), 1);
    }
}

//! Which events a follower wants: of which devices, of which kinds, and of samples which paths.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::{Arc, Weak};

use devmon_core::MetricPath;
use devmon_core::path::PathError;
use devmon_core::wire::{FlatFrame, flat::Shape};

use super::event::{Event, Kind, What};

/// Shapes whose chosen leaves a filter remembers; beyond it, it begins anew.
const REMEMBERED: usize = 1024;

/// Ids of devices: `*` stands for any characters, none too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePattern(glob::Pattern);

impl DevicePattern {
    /// As a pattern of any text.
    #[must_use]
    pub fn into_glob(self) -> glob::Pattern {
        self.0
    }
}

/// A text that is no pattern of device ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no device id, nor a pattern of some; * stands for any characters, as in edge_*")]
pub struct DevicePatternError(String);

impl FromStr for DevicePattern {
    type Err = DevicePatternError;

    fn from_str(text: &str) -> Result<Self, DevicePatternError> {
        let error = || DevicePatternError(text.chars().take(128).collect());
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._:-*".contains(&b);
        let is_one = (1..=128).contains(&text.len()) && text.bytes().all(legal);
        // Two stars in a row mean something else to glob, and nothing here.
        if !is_one || text.contains("**") {
            return Err(error());
        }
        glob::Pattern::new(text).map(Self).map_err(|_| error())
    }
}

/// A path, with all that is below it; a segment `*` stands for any one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern(MetricPath);

impl FromStr for PathPattern {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        text.parse().map(Self)
    }
}

impl PathPattern {
    /// Whether it is one of these, given by its segments as they stand in the text.
    fn matches<'a>(&self, mut given: impl Iterator<Item = &'a str>) -> bool {
        let mut wanted = self.0.as_str().split('/').skip(1);
        wanted.all(|wanted| given.next().is_some_and(|g| wanted == "*" || wanted == g))
    }
}

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds([bool; Kind::ALL.len()]);

impl Kinds {
    pub const ALL: Self = Self([true; Kind::ALL.len()]);
    pub const NONE: Self = Self([false; Kind::ALL.len()]);

    #[must_use]
    pub fn with(mut self, kind: Kind) -> Self {
        self.0[kind as usize] = true;
        self
    }

    #[must_use]
    pub fn has(self, kind: Kind) -> bool {
        self.0[kind as usize]
    }
}

/// What a follower wants.
#[derive(Debug)]
pub struct Filter {
    kinds: Kinds,
    /// Those named in full; `None`: all devices.
    devices: Option<(HashSet<String>, Vec<DevicePattern>)>,
    /// Of samples; empty: all.
    paths: Vec<PathPattern>,
    /// Places of the wanted leaves, by shape and source.
    chosen: HashMap<usize, Chosen>,
}

#[derive(Debug)]
struct Chosen {
    /// Not the shape itself, which may be large; but as long as this is here, no other shape has its address.
    shape: Weak<Shape>,
    source: Option<Box<str>>,
    places: Arc<[u32]>,
}

/// What of an event is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Nothing,
    All,
    /// Of its samples those in these places.
    Some(Arc<[u32]>),
}

impl Filter {
    /// No devices: all; no paths: all.
    #[must_use]
    pub fn new(kinds: Kinds, devices: Vec<DevicePattern>, paths: Vec<PathPattern>) -> Self {
        let devices = (!devices.is_empty()).then(|| {
            let is_id = |p: &DevicePattern| !p.0.as_str().contains('*');
            let (ids, patterns): (Vec<_>, Vec<_>) = devices.into_iter().partition(is_id);
            let ids = ids.iter().map(|p| p.0.as_str().to_owned());
            (ids.collect(), patterns)
        });
        Self {
            kinds,
            devices,
            paths,
            chosen: HashMap::new(),
        }
    }

    /// What of this event.
    pub fn wanted(&mut self, event: &Event) -> Wanted {
        if !self.kinds.has(event.kind()) {
            return Wanted::Nothing;
        }
        if let Some((ids, patterns)) = &self.devices {
            let fits = |pattern: &DevicePattern| pattern.0.matches(&event.device);
            if !ids.contains(&*event.device) && !patterns.iter().any(fits) {
                return Wanted::Nothing;
            }
        }
        match &event.what {
            What::Samples(frame) if !self.paths.is_empty() => self.leaves(frame),
            _ => Wanted::All,
        }
    }

    fn leaves(&mut self, frame: &FlatFrame) -> Wanted {
        let address = Arc::as_ptr(&frame.shape).addr();
        let known = self.chosen.get(&address).filter(|chosen| {
            chosen.shape.as_ptr().addr() == address && chosen.source == frame.source
        });
        let places = match known {
            Some(chosen) => chosen.places.clone(),
            None => {
                let places = self.choose(frame);
                if self.chosen.len() >= REMEMBERED {
                    self.chosen.clear();
                }
                let chosen = Chosen {
                    shape: Arc::downgrade(&frame.shape),
                    source: frame.source.clone(),
                    places: places.clone(),
                };
                self.chosen.insert(address, chosen);
                places
            }
        };
        match places.len() {
            0 => Wanted::Nothing,
            n if n == frame.shape.len() => Wanted::All,
            _ => Wanted::Some(places),
        }
    }

    fn choose(&self, frame: &FlatFrame) -> Arc<[u32]> {
        let source = frame.source.as_deref().map(escaped);
        let is_wanted = |path: &str| {
            let segments = || source.as_deref().into_iter().chain(path.split('/').skip(1));
            self.paths.iter().any(|wanted| wanted.matches(segments()))
        };
        let places = (0..).zip(frame.shape.paths());
        let places = places.filter(|(_, path)| is_wanted(path));
        places.map(|(place, _)| place).collect()
    }
}

/// A source's name as the first segment of its paths.
#[must_use]
pub fn escaped(source: &str) -> String {
    source.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use devmon_core::wire::FlatMessage;

    fn event(device: &str, frame: &str) -> Event {
        let text = format!(r#"{{"v":1,"boot":"B","seq":1,"frames":[{frame}]}}"#);
        let mut message = FlatMessage::decode(text.as_bytes()).unwrap();
        Event::new(device.into(), What::Samples(message.frames.remove(0)))
    }

    fn chosen(paths: &[&str], frame: &str) -> Vec<u32> {
        let paths = paths.iter().map(|p| p.parse().unwrap()).collect();
        let mut filter = Filter::new(Kinds::ALL, Vec::new(), paths);
        let event = event("d", frame);
        let first = filter.wanted(&event);
        assert_eq!(filter.wanted(&event), first, "remembered as found");
        match first {
            Wanted::Nothing => vec![],
            Wanted::All => vec![99],
            Wanted::Some(places) => places.to_vec(),
        }
    }

    #[test]
    fn paths_name_a_leaf_a_branch_or_any_segment() {
        let disk =
            r#"{"ts":1,"source":"disk","metrics":{"/home":{"used":1,"size":2},"/":{"used":3}}}"#;
        assert_eq!(chosen(&["/disk/~1home/used"], disk), [0]);
        assert_eq!(chosen(&["/disk/~1home"], disk), [0, 1]);
        assert_eq!(chosen(&["/disk/*/used"], disk), [0, 2]);
        assert_eq!(chosen(&["/*/*/size", "/disk/~1/used"], disk), [1, 2]);
        assert_eq!(chosen(&["/disk"], disk), [99]);
        for none in ["/dis", "/disk/~1home/used/x", "/cpu", "/disk/home"] {
            assert!(chosen(&[none], disk).is_empty(), "{none}");
        }
        let slash = r#"{"ts":1,"source":"a/b","metrics":{"x":1}}"#;
        assert_eq!(chosen(&["/a~1b/x"], slash), [99]);
        assert!(chosen(&["/a/b"], slash).is_empty());
    }

    #[test]
    fn shapes_of_two_sources_are_told_apart() {
        let mut filter = Filter::new(Kinds::ALL, Vec::new(), vec!["/b/x".parse().unwrap()]);
        for (source, wanted) in [
            ("a", Wanted::Nothing),
            ("b", Wanted::All),
            ("a", Wanted::Nothing),
        ] {
            // The decoder gives like frames the same shape.
            let frame = format!(r#"{{"ts":1,"source":"{source}","metrics":{{"x":1}}}}"#);
            assert_eq!(filter.wanted(&event("d", &frame)), wanted, "{source}");
        }
    }

    #[test]
    fn devices_are_named_or_fit_a_pattern() {
        let frame = r#"{"ts":1,"source":"s","metrics":{"x":1}}"#;
        let wants = |patterns: &[&str], device: &str| {
            let patterns = patterns.iter().map(|p| p.parse().unwrap()).collect();
            let mut filter = Filter::new(Kinds::ALL, patterns, Vec::new());
            filter.wanted(&event(device, frame)) == Wanted::All
        };
        assert!(wants(&[], "any"));
        assert!(wants(&["a", "b"], "b") && !wants(&["a", "b"], "c"));
        assert!(wants(&["edge_*"], "edge_1") && !wants(&["edge_*"], "Edge_1"));
        assert!(wants(&["*_0*"], "x_01") && !wants(&["*_0"], "x_01"));
        assert!(wants(&["*"], "x:y.z"));
        for bad in ["", "a?", "[a]", "a**", "a/b", "ä"] {
            assert!(bad.parse::<DevicePattern>().is_err(), "{bad:?}");
        }
    }
}

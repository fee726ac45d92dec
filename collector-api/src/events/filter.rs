//! Which events a follower wants: of which devices, of which kinds, and of samples which [paths](super::paths).
//!
//! A device is compared with the patterns once, a layout too; what is done for each event is to look that up.

use std::collections::HashSet;
use std::str::FromStr;
use std::sync::Arc;

use super::event::{Event, Kind, What};
use super::paths::{PathPattern, Paths, Shared};

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
    /// `None`: all devices.
    devices: Option<Devices>,
    /// Of samples.
    paths: Arc<Paths>,
}

/// Devices by their names and by patterns.
#[derive(Debug)]
struct Devices {
    ids: HashSet<String>,
    patterns: Vec<DevicePattern>,
    /// By the device's number: whether it fits, once that was asked.
    known: Vec<Option<bool>>,
    /// Devices that were compared.
    #[cfg(test)]
    compared: u64,
}

impl Devices {
    fn has(&mut self, event: &Event) -> bool {
        let place = event.device_number as usize;
        if let Some(&Some(fits)) = self.known.get(place) {
            return fits;
        }
        #[cfg(test)]
        {
            self.compared += 1;
        }
        let fits = |pattern: &DevicePattern| pattern.0.matches(&event.device);
        let fits = self.ids.contains(&*event.device) || self.patterns.iter().any(fits);
        if place > 0 {
            if self.known.len() <= place {
                self.known.resize(place + 1, None);
            }
            self.known[place] = Some(fits);
        }
        fits
    }
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
            Devices {
                ids: ids.iter().map(|p| p.0.as_str().to_owned()).collect(),
                patterns,
                known: Vec::new(),
                #[cfg(test)]
                compared: 0,
            }
        });
        Self {
            kinds,
            devices,
            paths: Arc::new(Paths::new(paths)),
        }
    }

    /// The same, with what others know already who ask for the same paths.
    #[must_use]
    pub(super) fn sharing(mut self, shared: &Shared) -> Self {
        self.paths = shared.like(self.paths);
        self
    }

    /// What of this event.
    pub fn wanted(&mut self, event: &Event) -> Wanted {
        if !self.kinds.has(event.kind()) || self.devices.as_mut().is_some_and(|d| !d.has(event)) {
            return Wanted::Nothing;
        }
        match &event.what {
            What::Samples(frame) => self.paths.wanted(frame, event.layout),
            _ => Wanted::All,
        }
    }
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

    #[test]
    fn a_device_is_compared_once_and_one_without_a_number_each_time() {
        let frame = r#"{"ts":1,"source":"s","metrics":{"x":1}}"#;
        let devices = vec!["edge_*".parse().unwrap()];
        let mut filter = Filter::new(Kinds::ALL, devices, Vec::new());
        let compared = |filter: &Filter| filter.devices.as_ref().unwrap().compared;
        for _ in 0..10 {
            for (device, number, wanted) in
                [("edge_1", 1, Wanted::All), ("lab", 9, Wanted::Nothing)]
            {
                let event = Event {
                    device_number: number,
                    ..event(device, frame)
                };
                assert_eq!(filter.wanted(&event), wanted, "{device}");
            }
        }
        assert_eq!(compared(&filter), 2);
        assert_eq!(filter.wanted(&event("edge_1", frame)), Wanted::All);
        assert_eq!(filter.wanted(&event("lab", frame)), Wanted::Nothing);
        assert_eq!(compared(&filter), 4);
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

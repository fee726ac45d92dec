//! The Prometheus words of whole devices: [`families`](super::families) with a memory.
//!
//! Devices of one make have the same descriptors, and mostly the same paths. Descriptors are parsed once for each distinct set of them, and a path is
//! mapped once for each set. Both memories are bounded, and start anew when they are full.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use devmon_core::wire::about::About;

use super::descriptors::Described;
use super::families::{self, Mapped};
use crate::store::engine::{DeviceRecord, SeriesRecord, Store};

/// Sets of descriptors that are kept parsed: as many makes of devices as a fleet has, times some releases.
const MAX_SETS: usize = 64;
/// Paths of one set that are kept mapped; with all sets some 80 MB at the very most.
const MAX_PATHS: usize = 4_096;

/// One set of descriptors, and the paths that were mapped with it.
#[derive(Debug, Default)]
struct Names {
    described: Described,
    /// By path, for numbers and for texts.
    known: [Mutex<HashMap<Box<str>, Arc<Mapped>>>; 2],
}

impl Names {
    fn map(&self, series: &SeriesRecord) -> Arc<Mapped> {
        let text = families::is_text(&series.last_value);
        let mut known = self.known[usize::from(text)]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(mapped) = known.get(series.path.as_str()) {
            return mapped.clone();
        }
        let descriptor = self.described.find(&series.path);
        let mapped = Arc::new(families::map(&series.path, descriptor, text));
        if known.len() >= MAX_PATHS {
            known.clear();
        }
        known.insert(series.path.as_str().into(), mapped.clone());
        mapped
    }
}

/// The names of all devices asked about lately.
#[derive(Debug, Default)]
pub struct NamesCache {
    sets: Mutex<HashMap<u64, Arc<Names>>>,
}

/// A series of a device in Prometheus' words.
#[derive(Debug, Clone)]
pub struct NamedSeries {
    pub series: SeriesRecord,
    pub mapped: Arc<Mapped>,
    /// Another path of the device comes out alike: the label `path` tells them apart.
    pub with_path: bool,
}

impl NamesCache {
    /// All series of a device, by path.
    #[must_use]
    pub fn series(&self, store: &dyn Store, device: &DeviceRecord) -> Vec<NamedSeries> {
        let names = self.of(device.about.as_deref());
        let all = store.series(device.id.as_str(), "", None, usize::MAX);
        let mut named: Vec<NamedSeries> = all
            .into_iter()
            .map(|series| NamedSeries {
                mapped: names.map(&series),
                series,
                with_path: false,
            })
            .collect();
        let doubles = families::doubles(named.iter().map(|n| n.mapped.identity));
        if !doubles.is_empty() {
            for one in &mut named {
                one.with_path = doubles.contains(&one.mapped.identity);
            }
        }
        named
    }

    fn of(&self, about: Option<&About>) -> Arc<Names> {
        let mut hasher = DefaultHasher::new();
        for text in about.iter().flat_map(|about| &about.descriptors) {
            (&text.path, &text.unit, text.kind, &text.help).hash(&mut hasher);
        }
        let key = hasher.finish();
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(names) = sets.get(&key) {
            return names.clone();
        }
        let names = Arc::new(Names {
            described: about.map(Described::new).unwrap_or_default(),
            known: Default::default(),
        });
        if sets.len() >= MAX_SETS {
            sets.clear();
        }
        sets.insert(key, names.clone());
        names
    }
}

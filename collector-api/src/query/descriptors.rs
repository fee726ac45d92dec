//! Descriptors of a device, ready for matching: parsed once for each `about` message, not once for each series.
//!
//! A device with 10 000 series and 50 descriptors is matched in some ms: candidates are found by the number of segments and the first
//! segment, and [`best_match`] decides among them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use devmon_core::MetricPath;
use devmon_core::descriptor::{Descriptor, best_match};
use devmon_core::wire::DeviceId;
use devmon_core::wire::about::About;

/// Devices whose descriptors are kept parsed. Dashboards look at a few devices over and over; a walk over a large fleet starts anew.
const MAX_CACHED: usize = 1_024;

/// The descriptors of one device.
#[derive(Debug, Default)]
pub struct Described {
    /// By number of segments.
    groups: HashMap<usize, Group>,
}

/// Descriptors of one length, in their order.
#[derive(Debug, Default)]
struct Group {
    all: Vec<Descriptor>,
    /// By first segment as written in the path. Of use only if no template starts with a placeholder.
    by_first: HashMap<String, Vec<Descriptor>>,
    starts_open: bool,
}

impl Described {
    /// Parses an about message's descriptors. One that is malformed is left out: the rest still helps.
    #[must_use]
    pub fn new(about: &About) -> Self {
        let mut described = Self::default();
        for text in &about.descriptors {
            let Ok(descriptor) = Descriptor::try_from(text.clone()) else {
                tracing::debug!(device = ?about.device, path = text.path, "malformed descriptor left out");
                continue;
            };
            let group = described.groups.entry(length(&text.path)).or_default();
            let first = first(&text.path);
            group.starts_open |= first.starts_with('{');
            group.all.push(descriptor.clone());
            group
                .by_first
                .entry(first.to_owned())
                .or_default()
                .push(descriptor);
        }
        described
    }

    /// The descriptor that fits a path best.
    #[must_use]
    pub fn find(&self, path: &MetricPath) -> Option<&Descriptor> {
        let group = self.groups.get(&length(path.as_str()))?;
        let candidates = if group.starts_open {
            &group.all
        } else {
            group.by_first.get(first(path.as_str()))?
        };
        best_match(candidates, path)
    }
}

fn length(path: &str) -> usize {
    path.matches('/').count()
}

fn first(path: &str) -> &str {
    path.split('/').nth(1).unwrap_or_default()
}

/// What was parsed, and what from: the same message is the same allocation.
type Parsed = (Arc<About>, Arc<Described>);

/// Parsed descriptors of the devices asked about lately.
#[derive(Debug, Default)]
pub struct DescriptorCache {
    /// The intake has named the device in each message.
    devices: Mutex<HashMap<Option<DeviceId>, Parsed>>,
}

impl DescriptorCache {
    /// The descriptors of a device with this about message; none without one.
    #[must_use]
    pub fn of(&self, about: Option<&Arc<About>>) -> Arc<Described> {
        let Some(about) = about else {
            return Arc::default();
        };
        {
            let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((known, described)) = devices.get(&about.device)
                && Arc::ptr_eq(known, about)
            {
                return described.clone();
            }
        }
        let described = Arc::new(Described::new(about)); // outside the lock: parsing takes a while
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if devices.len() >= MAX_CACHED {
            devices.clear();
        }
        devices.insert(about.device.clone(), (about.clone(), described.clone()));
        described
    }
}

#[cfg(test)]
mod tests {
    use devmon_core::descriptor::{DescriptorText, Kind};
    use devmon_core::wire::Labels;
    use devmon_core::wire::about::{AgentFacts, HostFacts};

    use super::*;

    fn about(templates: &[&str]) -> Arc<About> {
        Arc::new(About {
            v: 1,
            device: Some("d".parse().unwrap()),
            ts: None,
            agent: AgentFacts::default(),
            host: HostFacts::default(),
            labels: Labels::new(),
            sources: Vec::new(),
            descriptors: templates
                .iter()
                .map(|t| DescriptorText {
                    path: (*t).to_owned(),
                    unit: String::new(),
                    kind: Kind::Gauge,
                    help: (*t).to_owned(),
                })
                .collect(),
        })
    }

    #[test]
    fn grouped_search_finds_what_a_search_through_all_finds() {
        let about = about(&[
            "/{a}/{b}",
            "/cpu/{b}",
            "/{a}/load",
            "/cpu/core/{n}",
            "/disk/{m}/used",
            "/gpu",
            "bad",
        ]);
        let all: Vec<_> = about
            .descriptors
            .iter()
            .filter_map(|t| Descriptor::try_from(t.clone()).ok())
            .collect();
        let described = Described::new(&about);
        for path in [
            "/cpu/load",
            "/gpu/load",
            "/x/y",
            "/gpu",
            "/cpu",
            "/cpu/core/0",
            "/disk/~1home/used",
            "/disk/a/b/used",
        ] {
            let path = path.parse().unwrap();
            assert_eq!(described.find(&path), best_match(&all, &path), "{path}");
        }
    }

    #[test]
    fn a_new_about_message_replaces_what_was_cached() {
        let cache = DescriptorCache::default();
        let old = about(&["/a"]);
        let first = cache.of(Some(&old));
        assert!(Arc::ptr_eq(&first, &cache.of(Some(&old))));
        let new = cache.of(Some(&about(&["/b"])));
        assert!(new.find(&"/a".parse().unwrap()).is_none());
        assert!(new.find(&"/b".parse().unwrap()).is_some());
    }
}

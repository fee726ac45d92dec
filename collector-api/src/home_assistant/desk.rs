//! What was said, what is true now, and so what has to be said. It reads the store and knows no connection.
//!
//! A topic waits once however often what it says changes; what goes out is what is true when it goes. All that was said on an earlier connection has to be said [again](Desk::again): a broker may have
//! forgotten it. What the broker still holds of us is [looked through](Desk::held), and what nobody asks for any more is taken back.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use devmon_core::wire::about::About;
use devmon_core::wire::{DeviceId, TimestampMs};
use serde_json::Value as Json;

use super::entity::{Entity, OFFLINE, ONLINE, Topics, described, device_of};
use super::progress::Progress;
use super::settings::Settings;
use super::{MAX_DEVICE_ENTITIES, MAX_ENTITIES, words};
use crate::query::descriptors::DescriptorCache;
use crate::query::devices::{STALE_INTERVALS, Status, patience_ms, status};
use crate::store::engine::{DeviceRecord, SeriesRecord, Store};

/// What the broker holds of a device that the store does not know is taken back so long after the connection began: with a new data directory, devices are known once they have sent something, and Home
/// Assistant forgets how an entity was renamed when it goes.
const STRANGERS_STAY: Duration = Duration::from_secs(60);
/// Topics of which that is noted; beyond it they stay.
const MAX_STRANGERS: usize = MAX_ENTITIES;

/// A retained message to publish; an empty one takes back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
}

/// What waits to be said.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Item {
    State(DeviceId),
    Status(DeviceId),
    Discovery(DeviceId, Box<str>),
    TakeBack(Box<str>),
}

/// Items in order, each once.
#[derive(Debug, Default)]
struct Queue {
    order: BTreeMap<u64, Item>,
    /// Where each stands in `order`.
    places: HashMap<Item, u64>,
    next: u64,
}

impl Queue {
    fn push(&mut self, item: Item) {
        if let Entry::Vacant(place) = self.places.entry(item) {
            self.order.insert(self.next, place.key().clone());
            place.insert(self.next);
            self.next += 1;
        }
    }

    fn pop(&mut self) -> Option<Item> {
        let (_, item) = self.order.pop_first()?;
        self.places.remove(&item);
        Some(item)
    }

    fn remove(&mut self, item: &Item) {
        if let Some(place) = self.places.remove(item) {
            self.order.remove(&place);
        }
    }

    fn retain(&mut self, keep: impl Fn(&Item) -> bool) {
        self.order.retain(|_, item| keep(item));
        self.places.retain(|item, _| keep(item));
    }

    fn len(&self) -> usize {
        self.order.len()
    }
}

/// A series, and whether it comes.
#[derive(Debug)]
struct Told {
    entity: Entity,
    last_ts: TimestampMs,
    /// When a newer sample was found, by our clock.
    moved: Option<TimestampMs>,
}

#[derive(Debug)]
struct Device {
    about: Option<Arc<About>>,
    described: Json,
    online: bool,
    /// By path.
    entities: BTreeMap<String, Told>,
    state: String,
    /// Its series are looked at again then.
    due: Instant,
    left_out: u64,
}

#[derive(Debug)]
pub(super) struct Desk {
    settings: Settings,
    topics: Topics,
    descriptors: DescriptorCache,
    devices: BTreeMap<DeviceId, Device>,
    /// Topics of discovery that count, and whose they are.
    wanted: HashMap<String, (DeviceId, Box<str>)>,
    queue: Queue,
    /// What the broker holds and nobody asks for, with its device.
    strangers: HashMap<String, Option<String>>,
    began: Instant,
    progress: Arc<Progress>,
    warned: bool,
    /// Most entities of all devices.
    pub(super) most: usize,
}

impl Desk {
    pub(super) fn new(settings: Settings, progress: Arc<Progress>) -> Self {
        Self {
            topics: Topics::new(&settings),
            settings,
            descriptors: DescriptorCache::default(),
            devices: BTreeMap::new(),
            wanted: HashMap::new(),
            queue: Queue::default(),
            strangers: HashMap::new(),
            began: Instant::now(),
            progress,
            warned: false,
            most: MAX_ENTITIES,
        }
    }

    pub(super) fn topics(&self) -> &Topics {
        &self.topics
    }

    /// A connection begins: nothing is known of what the broker holds.
    pub(super) fn begin(&mut self, now: Instant) {
        self.strangers.clear();
        self.began = now;
        // The rest is said anew, in its order.
        self.queue.retain(|item| matches!(item, Item::TakeBack(_)));
        self.again();
    }

    /// All that is true has to be said.
    pub(super) fn again(&mut self) {
        for (id, device) in &self.devices {
            if device.entities.is_empty() {
                continue;
            }
            // In this order: whoever hears of an entity finds its state there.
            self.queue.push(Item::State(id.clone()));
            self.queue.push(Item::Status(id.clone()));
            for path in device.entities.keys() {
                self.queue
                    .push(Item::Discovery(id.clone(), path.as_str().into()));
            }
        }
    }

    /// The broker holds this of what we said once.
    pub(super) fn held(&mut self, topic: String, payload: &[u8]) {
        if payload.is_empty() || topic == self.topics.collector() {
            return;
        }
        let owner = match self.topics.device(&topic) {
            Some(device) if known_entities(self.devices.get(device)) > 0 => return, // said anew anyway
            Some(device) => Some(device.to_owned()),
            None => {
                if let Some((id, path)) = self.wanted.get(&topic).cloned() {
                    // As it is to be: it need not be said again.
                    if self.discovery(&id, &path).as_deref() == Some(payload) {
                        self.queue.remove(&Item::Discovery(id, path));
                    }
                    return;
                }
                device_of(payload)
            }
        };
        if self.strangers.len() < MAX_STRANGERS {
            self.strangers.insert(topic, owner);
        }
    }

    /// Messages to publish now, at most so many.
    pub(super) fn take(&mut self, most: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        while messages.len() < most
            && let Some(item) = self.queue.pop()
        {
            messages.extend(self.message(&item));
        }
        self.progress.waiting(self.queue.len());
        messages
    }

    pub(super) fn waits(&self) -> bool {
        self.queue.len() > 0
    }

    /// Items that take memory.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.queue.order.len()
    }

    /// What an item says now; `None`: nothing any more.
    fn message(&self, item: &Item) -> Option<Message> {
        let (topic, payload) = match item {
            Item::State(id) => {
                let device = self.devices.get(id)?;
                (
                    self.topics.state(id.as_str()),
                    device.state.clone().into_bytes(),
                )
            }
            Item::Status(id) => {
                let device = self.devices.get(id)?;
                let word = if device.online { ONLINE } else { OFFLINE };
                (self.topics.status(id.as_str()), word.into())
            }
            Item::Discovery(id, path) => {
                let told = self.devices.get(id)?.entities.get(&**path)?;
                (told.entity.topic.clone(), self.discovery(id, path)?)
            }
            Item::TakeBack(topic) => {
                let again = self.wanted.contains_key(&**topic)
                    || self
                        .topics
                        .device(topic)
                        .is_some_and(|device| self.devices.contains_key(device));
                if again {
                    return None; // it is there again, and was said or will be
                }
                (topic.to_string(), Vec::new())
            }
        };
        Some(Message { topic, payload })
    }

    fn discovery(&self, id: &DeviceId, path: &str) -> Option<Vec<u8>> {
        let device = self.devices.get(id)?;
        let entity = &device.entities.get(path)?.entity;
        Some(entity.message(&self.topics, id.as_str(), &device.described))
    }

    /// Compares with the store. `unix` and `now` are the same moment.
    pub(super) fn look(&mut self, store: &dyn Store, unix: TimestampMs, now: Instant) {
        let settings = &self.settings;
        let wanted = |record: &DeviceRecord| settings.wants_device(&record.id);
        let records = store.devices(None, usize::MAX, &wanted);
        let there: HashSet<&DeviceId> = records.iter().map(|record| &record.id).collect();
        let gone = self.devices.keys().filter(|id| !there.contains(id));
        let gone: Vec<DeviceId> = gone.cloned().collect();
        for id in gone {
            self.forget(&id);
        }
        for record in &records {
            self.look_at(store, record, unix, now);
        }
        self.turn_away(store, now);
        let left_out = self.devices.values().map(|device| device.left_out).sum();
        let devices = self.devices.values().filter(|d| !d.entities.is_empty());
        self.progress
            .looked(devices.count(), self.wanted.len(), left_out);
        self.progress.waiting(self.queue.len());
        if left_out > 0 && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                left_out,
                most = MAX_ENTITIES,
                most_of_a_device = MAX_DEVICE_ENTITIES,
                "more series are chosen for Home Assistant than it is told of; choose fewer with paths and devices"
            );
        }
    }

    /// Takes back what the broker holds and nobody asks for.
    fn turn_away(&mut self, store: &dyn Store, now: Instant) {
        let late = now.saturating_duration_since(self.began) >= STRANGERS_STAY;
        let (queue, wanted, devices) = (&mut self.queue, &self.wanted, &self.devices);
        self.strangers.retain(|topic, owner| {
            let told = owner.as_deref().and_then(|id| devices.get(id));
            if wanted.contains_key(topic) || (told.is_some() && self.topics.device(topic).is_some())
            {
                return false; // it is there by now
            }
            let known = owner
                .as_deref()
                .is_some_and(|id| store.device(id).is_some());
            if known || late {
                queue.push(Item::TakeBack(topic.as_str().into()));
            }
            !(known || late)
        });
    }

    /// Whether all that the broker may hold was looked through long ago.
    pub(super) fn knows_the_broker(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= STRANGERS_STAY && self.strangers.is_empty()
    }

    fn forget(&mut self, id: &DeviceId) {
        let Some(device) = self.devices.remove(id) else {
            return;
        };
        for told in device.entities.into_values() {
            self.wanted.remove(&told.entity.topic);
            self.queue
                .push(Item::TakeBack(told.entity.topic.as_str().into()));
        }
        for topic in [
            self.topics.state(id.as_str()),
            self.topics.status(id.as_str()),
        ] {
            self.queue.push(Item::TakeBack(topic.into()));
        }
    }

    fn look_at(
        &mut self,
        store: &dyn Store,
        record: &DeviceRecord,
        unix: TimestampMs,
        now: Instant,
    ) {
        let online = status(record, unix) == Status::Online;
        let known = self.devices.get(&record.id);
        let turned = known.is_some_and(|device| device.online != online);
        if known.is_some_and(|device| device.due > now && !turned) {
            return;
        }
        let series = self.chosen(store, record);
        if series.is_empty() {
            self.forget(&record.id); // nothing is said of a device without an entity
            return;
        }
        let others = self.wanted.len() - known_entities(self.devices.get(&record.id));
        let most = MAX_DEVICE_ENTITIES.min(self.most.saturating_sub(others));
        let device = self
            .devices
            .entry(record.id.clone())
            .or_insert_with(|| Device {
                about: None,
                described: Json::Null,
                online,
                entities: BTreeMap::new(),
                state: String::new(),
                due: now,
                left_out: 0,
            });
        device.left_out = series.len().saturating_sub(most) as u64;
        device.due = now + self.settings.interval;
        device.online = online;
        let described = described(&record.id, record.about.as_deref());
        let other = device.described != described;
        device.described = described;
        device.about.clone_from(&record.about);

        let words = self.descriptors.of(record.about.as_ref());
        let mut entities = BTreeMap::new();
        let mut announced = Vec::new();
        let begins = device.entities.is_empty();
        for series in series.into_values().take(most) {
            let path = series.path.to_string();
            let entity = Entity::new(&self.topics, &record.id, &series, words.find(&series.path));
            let before = device.entities.remove(&path);
            let moved = match &before {
                Some(told) if told.last_ts != series.last_ts => Some(unix),
                Some(told) => told.moved,
                None => None,
            };
            if other || before.as_ref().is_none_or(|told| told.entity != entity) {
                announced.push(path.clone());
            }
            if let Some(told) = before.filter(|told| told.entity.topic != entity.topic) {
                self.wanted.remove(&told.entity.topic); // it was a sensor of another kind
                self.queue
                    .push(Item::TakeBack(told.entity.topic.as_str().into()));
            }
            let owner = (record.id.clone(), path.as_str().into());
            self.wanted.insert(entity.topic.clone(), owner);
            let told = Told {
                entity,
                last_ts: series.last_ts,
                moved,
            };
            entities.insert(path, (told, series));
        }
        for told in std::mem::take(&mut device.entities).into_values() {
            self.wanted.remove(&told.entity.topic);
            self.queue
                .push(Item::TakeBack(told.entity.topic.as_str().into()));
        }
        let state = state(record, &entities, unix);
        let speaks = !entities.is_empty(); // not of a device for which there are too many others
        if speaks && (begins || state != device.state) {
            device.state = state;
            self.queue.push(Item::State(record.id.clone()));
        }
        if speaks && (begins || turned) {
            self.queue.push(Item::Status(record.id.clone()));
        }
        device.entities = entities
            .into_iter()
            .map(|(path, (told, _))| (path, told))
            .collect();
        for path in announced {
            self.queue
                .push(Item::Discovery(record.id.clone(), path.into()));
        }
    }

    /// The series of a device that patterns choose, by path.
    fn chosen(&self, store: &dyn Store, record: &DeviceRecord) -> BTreeMap<String, SeriesRecord> {
        let above = self.settings.above();
        let all = above
            .iter()
            .flat_map(|above| store.series(record.id.as_str(), above, None, usize::MAX));
        let chosen = all.filter(|series| self.settings.wants_path(series.path.as_str()));
        chosen
            .map(|series| (series.path.to_string(), series))
            .collect()
    }
}

fn known_entities(device: Option<&Device>) -> usize {
    device.map_or(0, |device| device.entities.len())
}

/// The values as an object: `null` for a series that does not come.
fn state(
    record: &DeviceRecord,
    entities: &BTreeMap<String, (Told, SeriesRecord)>,
    unix: TimestampMs,
) -> String {
    let mut values = serde_json::Map::new();
    for (told, series) in entities.values() {
        let patience = series_patience_ms(record, series);
        let within = |at: TimestampMs| u64::try_from(unix.since(at)).is_ok_and(|ms| ms <= patience);
        // By its own clock, or, where that is wrong, by what we saw.
        let comes = within(series.last_ts) || told.moved.is_some_and(within);
        let value = comes
            .then(|| words::state(&series.last_value, &told.entity.form))
            .flatten();
        values.insert(told.entity.key.clone(), value.unwrap_or(Json::Null));
    }
    Json::Object(values).to_string()
}

/// How long a series may stay away: as long as its device, or some intervals of its own source.
fn series_patience_ms(record: &DeviceRecord, series: &SeriesRecord) -> u64 {
    let about = record.about.as_deref();
    let source = series.path.segments().next();
    let sources = about.iter().flat_map(|about| &about.sources);
    let own = sources
        .filter(|known| source.as_deref() == Some(known.name.as_str()))
        .map(|known| known.interval_ms.saturating_mul(STALE_INTERVALS));
    own.max().unwrap_or(0).max(patience_ms(about, &record.gaps))
}

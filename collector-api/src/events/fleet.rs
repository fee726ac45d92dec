//! What is known of all devices, so that a change is seen as one.
//!
//! The store has the last word on how a device does; it is asked when something may have changed, and never for the samples of a device that is online: at 100 000 messages
//! a second that would be felt.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use devmon_core::wire::TimestampMs;
use devmon_core::wire::about::About;

use super::event::{Event, What};
use super::layouts::Layouts;
use crate::query::devices::{Status, patience_ms, status};
use crate::store::Gaps;
use crate::store::engine::{Accepted, Content, DeviceRecord, Store};

/// A device as it was told last.
#[derive(Debug)]
struct Known {
    id: Arc<str>,
    number: u32,
    status: Status,
    /// Without a sample it is stale after this.
    fresh_until: TimestampMs,
    patience_ms: i64,
    /// When it was heard last, and how often it is.
    last: Option<TimestampMs>,
    gaps: Gaps,
    about: Option<Arc<About>>,
    /// It was told that it has appeared, or it was there before.
    told: bool,
}

impl Known {
    fn of(record: &DeviceRecord, number: u32, now: TimestampMs) -> Self {
        let mut known = Self {
            id: record.id.as_str().into(),
            number,
            status: status(record, now),
            fresh_until: TimestampMs(0),
            patience_ms: 0,
            last: None,
            gaps: Gaps::default(),
            about: None,
            told: false,
        };
        known.take(record);
        known
    }

    fn take(&mut self, record: &DeviceRecord) {
        self.about = record.about.clone();
        self.gaps = record.gaps;
        self.last = record.last_metrics;
        self.wait_anew();
        let last = record.last_metrics.unwrap_or(record.first_seen);
        self.fresh_until = TimestampMs(last.0.saturating_add(self.patience_ms));
    }

    /// A sample arrived, as the store has it too by now.
    fn heard(&mut self, at: TimestampMs) {
        if self.gaps.heard(self.last, at) {
            self.wait_anew();
        }
        self.last = self.last.max(Some(at));
        let last = self.last.unwrap_or(at);
        self.fresh_until = TimestampMs(last.0.saturating_add(self.patience_ms));
    }

    /// How long it may be silent from now on.
    fn wait_anew(&mut self) {
        let patience = patience_ms(self.about.as_deref(), &self.gaps);
        self.patience_ms = i64::try_from(patience).unwrap_or(i64::MAX);
    }
}

/// All devices as they were told last.
#[derive(Debug)]
pub(super) struct Fleet {
    known: HashMap<Arc<str>, Known>,
    /// Numbers that were given to devices, from 1 on. One that was forgotten and comes again gets another.
    numbers: u32,
    layouts: Layouts,
}

impl Fleet {
    /// As the store has them.
    pub(super) fn of(store: &dyn Store, now: TimestampMs) -> Self {
        let records = store.devices(None, usize::MAX, &|_| true);
        let known = (1..)
            .zip(&records)
            .map(|(number, record)| Known::of(record, number, now));
        let known: HashMap<_, _> = known.map(|known| (known.id.clone(), known)).collect();
        Self {
            numbers: known.len() as u32, // the store has far fewer devices
            known,
            layouts: Layouts::default(),
        }
    }

    /// Makes events of what was stored.
    pub(super) fn stored(
        &mut self,
        store: &dyn Store,
        stored: Vec<Accepted>,
        now: TimestampMs,
        made: &mut Vec<Event>,
    ) {
        for item in stored {
            let is_metrics = matches!(item.content, Content::Metrics { .. });
            let quick = self
                .known
                .get_mut(item.device.as_str())
                .filter(|known| is_metrics && known.status == Status::Online && known.told);
            let (id, number) = match quick {
                Some(known) => {
                    known.heard(item.received);
                    (known.id.clone(), known.number)
                }
                None => {
                    match self.look(store, item.device.as_str(), Some(item.received), now, made) {
                        Some(named) => named,
                        None => continue, // forgotten meanwhile, with all that it sent
                    }
                }
            };
            let Content::Metrics { frames, .. } = item.content else {
                continue;
            };
            let frames = frames.into_iter().filter(|frame| !frame.values.is_empty());
            made.extend(frames.map(|mut frame| Event {
                device_number: number,
                layout: self.layouts.number(&mut frame),
                ..Event::new(id.clone(), What::Samples(frame))
            }));
        }
    }

    /// Asks the store for a device and tells what has changed; its name and number, or `None`: there is none.
    fn look(
        &mut self,
        store: &dyn Store,
        device: &str,
        received: Option<TimestampMs>,
        now: TimestampMs,
        made: &mut Vec<Event>,
    ) -> Option<(Arc<str>, u32)> {
        let record = store.device(device)?;
        let is_new = !self.known.contains_key(device);
        if is_new {
            self.numbers += 1;
            let new = Known::of(&record, self.numbers, now);
            self.known.insert(new.id.clone(), new);
        }
        let known = self.known.get_mut(device)?;
        let (id, number) = (known.id.clone(), known.number);
        let mut tell = |what| {
            made.push(Event {
                device_number: number,
                ..Event::new(id.clone(), what)
            });
        };
        // Its first message may have been stored a moment before we looked at the store, and be told of only now.
        let is_first = received.is_some_and(|received| record.first_seen >= received);
        let appeared = !known.told && (is_new || is_first);
        known.told = true;
        if appeared {
            tell(What::Device {
                is_there: true,
                ts: now,
            });
        }
        let (before, status) = (known.status, status(&record, now));
        if appeared || before != status {
            let previous = (!appeared).then_some(before);
            tell(What::Status {
                status,
                previous,
                ts: now,
            });
        }
        known.status = status;
        let before = known.about.clone().filter(|_| !appeared);
        let is_same = match (&before, &record.about) {
            (Some(before), Some(about)) => Arc::ptr_eq(before, about),
            (before, about) => before.is_none() && about.is_none(),
        };
        if !is_same {
            sources(before.as_deref(), record.about.as_deref(), now, &mut tell);
        }
        known.take(&record);
        Some((id, number))
    }

    /// Tells of devices that have sent nothing for too long.
    pub(super) fn look_for_silence(
        &mut self,
        store: &dyn Store,
        now: TimestampMs,
        made: &mut Vec<Event>,
    ) {
        let silent = |known: &&Known| known.status == Status::Online && known.fresh_until < now;
        let silent: Vec<_> = self
            .known
            .values()
            .filter(silent)
            .map(|k| k.id.clone())
            .collect();
        for device in silent {
            self.look(store, &device, None, now, made);
        }
    }

    /// Some of what was stored was not told: compares all devices with the store.
    pub(super) fn look_again(
        &mut self,
        store: &dyn Store,
        now: TimestampMs,
        made: &mut Vec<Event>,
    ) {
        let there = store.devices(None, usize::MAX, &|_| true);
        for record in &there {
            self.look(store, record.id.as_str(), None, now, made);
        }
        let there: HashSet<_> = there.iter().map(|record| record.id.as_str()).collect();
        let gone = self
            .known
            .keys()
            .filter(|id| !there.contains(&***id))
            .cloned();
        for device in gone.collect::<Vec<_>>() {
            self.forgotten(store, &device, now, made);
        }
    }

    /// Tells that a device was forgotten; one that has come again since was so too.
    pub(super) fn forgotten(
        &mut self,
        store: &dyn Store,
        device: &str,
        now: TimestampMs,
        made: &mut Vec<Event>,
    ) {
        let (id, device_number) = self
            .known
            .remove(device)
            .map_or_else(|| (device.into(), 0), |known| (known.id, known.number));
        let is_there = false;
        made.push(Event {
            device_number,
            ..Event::new(id, What::Device { is_there, ts: now })
        });
        self.look(store, device, None, now, made);
    }
}

/// Tells how the sources of a device have changed.
fn sources(
    before: Option<&About>,
    after: Option<&About>,
    ts: TimestampMs,
    tell: &mut impl FnMut(What),
) {
    let before = before.map_or(&[][..], |about| &about.sources);
    let after = after.map_or(&[][..], |about| &about.sources);
    for source in after {
        let previous = before.iter().find(|b| b.name == source.name);
        if previous.is_some_and(|p| p.state == source.state && p.reason == source.reason) {
            continue;
        }
        tell(What::Source {
            name: source.name.as_str().into(),
            state: Some(source.state),
            reason: source.reason.as_deref().map(Box::from),
            previous: previous.map(|p| p.state),
            ts,
        });
    }
    for source in before
        .iter()
        .filter(|b| after.iter().all(|a| a.name != b.name))
    {
        tell(What::Source {
            name: source.name.as_str().into(),
            state: None,
            reason: None,
            previous: Some(source.state),
            ts,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Engine, Options};
    use devmon_core::wire::FlatMessage;

    /// What a publisher without `about` sends at this second.
    fn message(second: i64) -> Accepted {
        let received = TimestampMs(1_795_450_000_000 + second * 1000);
        let text = format!(r#"{{"ts":{},"metrics":{{"a":1}}}}"#, received.0);
        Accepted {
            device: "d".parse().unwrap(),
            received,
            payload: text.clone().into(),
            content: Content::Metrics {
                id: None,
                frames: FlatMessage::decode(text.as_bytes()).unwrap().frames,
            },
        }
    }

    #[test]
    fn who_sends_each_minute_and_says_nothing_about_itself_is_not_stale_between() {
        let dir = tempfile::tempdir().unwrap();
        let store = Engine::open(dir.path(), Options::default()).unwrap();
        let mut fleet = Fleet::of(&store, message(0).received);
        let mut seen = Vec::new();
        for second in 0..800 {
            let now = message(second).received;
            let mut made = Vec::new();
            if second % 60 == 0 && second <= 300 {
                let message = message(second);
                store.commit(std::slice::from_ref(&message)).unwrap();
                fleet.stored(&store, vec![message], now, &mut made);
            }
            fleet.look_for_silence(&store, now, &mut made);
            for event in made {
                if let What::Status { status, .. } = event.what {
                    seen.push((second, status));
                }
            }
            let record = store.device("d").unwrap();
            let told = seen.last().map(|(_, status)| *status);
            assert_eq!(told, Some(status(&record, now)), "both say the same");
        }
        let expected = [
            (0, Status::Online),
            (16, Status::Stale), // one message only: nothing is known of its gaps
            (60, Status::Online),
            (481, Status::Stale), // three of them
        ];
        assert_eq!(seen, expected);
    }
}

//! Labels that an operator gave to devices, in the database: no device said them, so no journal has them.
//!
//! Durable when [`put`] has returned and the next barrier, too. A label counts for the device that was there when it was given: one that is older than its device is of another
//! one of the same name, which was forgotten.
//!
//! | size | entry of the table `meta`; its key is `label`, the id of the device, NUL, the name of the label |
//! |---|---|
//! | 1 | version, 1 |
//! | 4 | CRC-32C of key and all that follows, little-endian |
//! | 8 | when it was given, unix ms, little-endian |
//! | rest | the value |

use std::ops::ControlFlow;
use std::sync::Arc;

use devmon_core::wire::{DeviceId, TimestampMs};

use super::catalogue::Catalogue;
use super::engine::StoreError;
use super::kv::{Kv, Table};

const PREFIX: &[u8] = b"label";
const BEHIND: &[u8] = b"labem";
const VERSION: u8 = 1;

fn key(device: &DeviceId, name: &str) -> Vec<u8> {
    [PREFIX, device.as_str().as_bytes(), b"\0", name.as_bytes()].concat()
}

/// Device, name, time and value.
fn decode<'a>(key: &'a [u8], entry: &'a [u8]) -> Option<(DeviceId, &'a str, TimestampMs, &'a str)> {
    let key_text = std::str::from_utf8(key.strip_prefix(PREFIX)?).ok()?;
    let (device, name) = key_text.split_once('\0')?;
    let (&version, rest) = entry.split_first()?;
    let (crc, body) = rest.split_first_chunk()?;
    let (given, value) = body.split_first_chunk()?;
    let good = crc32c::crc32c_append(crc32c::crc32c(key), body) == u32::from_le_bytes(*crc);
    if version != VERSION || !good {
        return None;
    }
    let given = TimestampMs(i64::from_le_bytes(*given));
    Some((
        device.parse().ok()?,
        name,
        given,
        std::str::from_utf8(value).ok()?,
    ))
}

/// Gives a label, or with `None` takes it away.
pub(super) fn put(
    kv: &dyn Kv,
    device: &DeviceId,
    name: &str,
    value: Option<&str>,
    given: TimestampMs,
) -> Result<(), StoreError> {
    let key = key(device, name);
    let Some(value) = value else {
        return kv.delete(Table::Meta, &key);
    };
    let body = [&given.0.to_le_bytes(), value.as_bytes()].concat();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&key), &body);
    let entry = [&[VERSION][..], &crc.to_le_bytes(), &body].concat();
    kv.put(Table::Meta, &key, &entry)
}

/// Gives the devices of an opened store their labels; removes those of devices that are gone. One that is damaged is left out: it is no reason not to start.
pub(super) fn restore(kv: &dyn Kv, catalogue: &mut Catalogue) -> Result<(), StoreError> {
    let mut over = Vec::new();
    kv.scan(Table::Meta, PREFIX, BEHIND, &mut |key, entry| {
        match decode(key, entry) {
            None => {
                let key = String::from_utf8_lossy(key);
                tracing::error!(%key, "a label in the database is damaged and left out");
            }
            Some((id, name, given, value)) => match catalogue.devices.get_mut(&id) {
                Some(device) if device.first_seen <= given => {
                    let labels = device.labels.get_or_insert_default();
                    Arc::make_mut(labels).insert(name.to_owned(), value.to_owned());
                }
                _ => over.push(key.to_vec()),
            },
        }
        ControlFlow::Continue(())
    })?;
    over.iter().try_for_each(|key| kv.delete(Table::Meta, key))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Engine;
    use super::super::engine::{Store, StoreError};
    use super::super::seal_tests::{copy, metrics, options};

    fn send(store: &Engine, device: &str, seq: u64) {
        let message = metrics(device, seq, &[(seq as i64, "cpu", "\"x\":1".to_owned())]);
        store.commit(&[message]).unwrap();
    }

    fn change(store: &Engine, device: &str, changes: &[(&str, Option<&str>)]) -> bool {
        let one =
            |(name, value): &(&str, Option<&str>)| ((*name).to_owned(), value.map(str::to_owned));
        let changes: BTreeMap<_, _> = changes.iter().map(one).collect();
        store.label(device, &changes).unwrap()
    }

    fn labels(store: &Engine, device: &str) -> Vec<(String, String)> {
        let labels = store.device(device).unwrap().labels;
        labels.map_or_else(Vec::new, |l| (*l).clone().into_iter().collect())
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        all.iter().map(pair).collect()
    }

    #[test]
    fn labels_outlive_a_kill_sealed_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Engine::open(dir.path(), options()).unwrap();
        send(&store, "d", 1);
        send(&store, "d.e", 1);
        assert!(change(
            &store,
            "d",
            &[("site", Some("berlin")), ("rack", Some("4"))]
        ));
        assert!(change(&store, "d.e", &[("site", Some(""))]));
        store.seal_now().unwrap();
        assert!(change(
            &store,
            "d",
            &[("site", Some("köln")), ("rack", None), ("none", None)]
        ));
        assert!(!change(&store, "nobody", &[("site", Some("x"))]));
        let killed = tempfile::tempdir().unwrap();
        copy(dir.path(), killed.path()); // as it lies there while it runs
        let again = Engine::open(killed.path(), options()).unwrap();
        for store in [&store, &again] {
            assert_eq!(labels(store, "d"), pairs(&[("site", "köln")]));
            assert_eq!(labels(store, "d.e"), pairs(&[("site", "")]));
        }
    }

    #[test]
    fn a_device_that_is_forgotten_takes_its_labels_along() {
        let dir = tempfile::tempdir().unwrap();
        let store = Engine::open(dir.path(), options()).unwrap();
        send(&store, "d", 1);
        send(&store, "keep", 1);
        change(&store, "d", &[("site", Some("berlin"))]);
        change(&store, "keep", &[("site", Some("bonn"))]);
        assert!(store.purge("d").unwrap());
        send(&store, "d", 2);
        assert_eq!(labels(&store, "d"), pairs(&[]));
        drop(store);
        let store = Engine::open(dir.path(), options()).unwrap();
        assert_eq!(labels(&store, "d"), pairs(&[]));
        assert_eq!(labels(&store, "keep"), pairs(&[("site", "bonn")]));
    }

    #[test]
    fn labels_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Engine::open(dir.path(), options()).unwrap();
        send(&store, "d", 1);
        let all: BTreeMap<_, _> = (0..33)
            .map(|i| (format!("l{i:02}"), Some("v".to_owned())))
            .collect();
        assert!(matches!(
            store.label("d", &all),
            Err(StoreError::TooManyLabels { limit: 32 })
        ));
        assert_eq!(labels(&store, "d"), pairs(&[]), "nothing was changed");
        let mut less = all.clone();
        less.pop_last();
        assert!(store.label("d", &less).unwrap());
        assert!(store.label("d", &all).is_err());
        let other = [("l00".to_owned(), None), ("x".to_owned(), Some("y".into()))];
        assert!(store.label("d", &other.into()).unwrap());
        assert_eq!(store.device("d").unwrap().labels.unwrap().len(), 32);
    }
}

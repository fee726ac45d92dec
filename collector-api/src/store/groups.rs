//! Which records of the catalogue a seal writes, and who stands in them.
//!
//! Neighbours share a record: [`GROUP`] devices, and the newest samples of [`GROUP`] streams. A large fleet changes nearly all of them between two seals, and
//! sled takes one value of 5 KiB far more easily than fifty of 100 bytes. The record of a group is written when one of its members changed, and holds them
//! all. A stream's paths seldom change: they have a record for each stream.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use devmon_core::wire::DeviceId;

use super::blob::{Id, Kind};
use super::catalogue::Catalogue;
use super::persist;
use super::purge::Purged;

/// Members of a group: their numbers divided by this are the same.
const GROUP: u32 = 32;

/// The groups in which something changed.
#[derive(Debug, Default)]
pub(super) struct Groups {
    devices: BTreeMap<u32, Vec<DeviceId>>,
    /// Streams: their device, and their place in it.
    streams: BTreeMap<u32, Vec<(DeviceId, usize)>>,
}

impl Groups {
    /// The groups of these devices and of their streams, and those in which devices stood that were forgotten.
    pub(super) fn of(catalogue: &Catalogue, touched: &[DeviceId], purged: &[Purged]) -> Self {
        let (mut devices, mut streams) = (BTreeSet::new(), BTreeSet::new());
        for id in touched {
            let Some(device) = catalogue.devices.get(id) else {
                continue;
            };
            devices.insert(device.number / GROUP);
            streams.extend(device.streams.iter().map(|stream| stream.number / GROUP));
        }
        let mut groups = Self::default();
        for purged in purged {
            // Written without it, though nobody else may be in them.
            devices.insert(purged.device / GROUP);
            groups.devices.entry(purged.device / GROUP).or_default();
            for group in purged.streams.iter().map(|stream| stream / GROUP) {
                streams.insert(group);
                groups.streams.entry(group).or_default();
            }
        }
        for (id, device) in &catalogue.devices {
            let group = device.number / GROUP;
            if devices.contains(&group) {
                groups.devices.entry(group).or_default().push(id.clone());
            }
            for (at, stream) in device.streams.iter().enumerate() {
                let group = stream.number / GROUP;
                if streams.contains(&group) {
                    let members = groups.streams.entry(group).or_default();
                    members.push((id.clone(), at));
                }
            }
        }
        groups
    }

    /// Which records there are to write.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> {
        let id = |kind| {
            move |number: &u32| Id {
                kind,
                number: *number,
            }
        };
        let devices = self.devices.keys().map(id(Kind::Devices));
        devices.chain(self.streams.keys().map(id(Kind::Latest)))
    }

    /// One of these records, of the catalogue as it is now. `written`: the streams whose own record this seal has written, and with how many series.
    pub(super) fn record(
        &self,
        catalogue: &Catalogue,
        id: Id,
        written: &HashMap<u32, usize>,
    ) -> Vec<u8> {
        if id.kind == Kind::Devices {
            let members = self.devices.get(&id.number).into_iter().flatten();
            let members = members.filter_map(|id| catalogue.devices.get_key_value(id));
            return persist::devices(members);
        }
        let members = self.streams.get(&id.number).into_iter().flatten();
        let members = members.filter_map(|(id, at)| catalogue.devices.get(id)?.streams.get(*at));
        persist::latest(members.map(|stream| {
            let now = written.get(&stream.number).copied();
            (stream, now.unwrap_or(stream.persisted))
        }))
    }
}

//! One message in memory: where it stands in line, and whether it is on disk as well.

use std::time::Instant;

use devmon_core::journal::Position;

/// What a message costs beside its payload: map entry, vector header, allocator.
pub(super) const OVERHEAD_BYTES: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Live,
    Backlog,
    InFlight,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// `None`: it is in flight, and to send it again it is read from disk.
    pub(super) payload: Option<Vec<u8>>,
    pub(super) place: Place,
    pub(super) since: Instant,
    pub(super) disk: Disk,
}

/// Whether a message is on disk as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disk {
    No,
    /// It was handed to the spool's thread, which has not answered yet.
    Asked,
    At(Position),
    /// It was, and the spool deleted it to keep its bounds. It is not written again: that would only delete others.
    Deleted,
}

impl Disk {
    /// On disk, or with the spool's thread, which gives it back if it can not write it.
    pub(super) fn has_it(self) -> bool {
        matches!(self, Self::Asked | Self::At(_))
    }
}

impl Entry {
    pub(super) fn size_bytes(&self) -> usize {
        cost(self.payload.as_deref())
    }

    /// In memory only, and of use to the spool.
    pub(super) fn is_unwritten(&self) -> bool {
        self.disk == Disk::No && self.payload.is_some()
    }
}

pub(super) fn cost(payload: Option<&[u8]>) -> usize {
    payload.map_or(0, <[u8]>::len) + OVERHEAD_BYTES
}

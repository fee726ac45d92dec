//! Reading what was committed, in the order of its commits, from the journal. The journal's lock is held for a look at its list of segments; bytes are read and decoded without it.

use devmon_core::journal::Position;

use super::engine::{Followed, StoreError, Stretch};
use super::local::Shared;
use super::record::{self, Entry};

pub(super) fn follow(
    shared: &Shared,
    from: Position,
    max_bytes: u64,
) -> Result<Stretch, StoreError> {
    let (reader, mut stretch) = {
        let journal = shared.journal.lock();
        let stretch = Stretch {
            items: Vec::new(),
            end: from,
            oldest: journal.oldest(),
            committed: journal.committed(),
            behind_bytes: journal.bytes_behind(from),
            unreadable: 0,
        };
        (journal.read_from(from), stretch)
    };
    let mut bytes = 0;
    if max_bytes == 0 {
        return Ok(stretch);
    }
    for entry in reader {
        let entry = match entry {
            Ok(entry) => entry,
            // What stands before it first; then it is the first thing that is found.
            Err(_) if stretch.end > from => return Ok(stretch),
            Err(error) => return Err(error.into()),
        };
        bytes += entry.payload.len() as u64;
        stretch.end = entry.end;
        if record::is_metrics(&entry.payload) {
            match record::decode(&entry.payload) {
                Ok(Entry::Message(message)) => stretch.items.push(Followed {
                    message,
                    end: entry.end,
                }),
                Ok(Entry::Purge { .. }) => {}
                Err(error) => {
                    stretch.unreadable += 1;
                    tracing::error!(%error, "a message in the journal can not be read by this release and is left out");
                }
            }
        }
        if bytes >= max_bytes {
            return Ok(stretch);
        }
    }
    stretch.end = stretch.end.max(stretch.committed); // over an empty segment at the end, too
    Ok(stretch)
}

//! Which files of the plugin directory somebody writes to, by what inotify says of them.
//!
//! A file is open from the first time that it is written to until it is closed or removed; a new name goes with it. What is not seen: writers that were there before the directory was watched, those that write through a mapping or a
//! link, a second one when the first closes the file; and nothing at all on network file systems.

use std::collections::BTreeMap;
use std::time::Instant;

use rustix::fs::inotify::ReadFlags;

#[derive(Debug, Default)]
pub(super) struct Open {
    /// When each was last written to.
    pub(super) files: BTreeMap<String, Instant>,
    /// One that is on its way to another name: what the two events have in common.
    renamed: Option<(u32, Instant)>,
}

impl Open {
    /// Takes an event of the directory.
    pub(super) fn heard(&mut self, now: Instant, what: ReadFlags, cookie: u32, file: &str) {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            *self = Self::default(); // a closing may have been lost
        } else if what.contains(ReadFlags::MODIFY) {
            self.files.insert(file.to_owned(), now);
        } else if what.contains(ReadFlags::MOVED_FROM) {
            self.renamed = self.files.remove(file).map(|at| (cookie, at));
        } else if what.contains(ReadFlags::MOVED_TO) {
            self.files.remove(file);
            if let Some((_, at)) = self.renamed.take_if(|(of, _)| *of == cookie) {
                self.files.insert(file.to_owned(), at);
            }
        } else if what.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::DELETE) {
            self.files.remove(file);
        }
    }
}

//! What a running agent takes of a configuration that was read again, and what it does not before it is started anew.

use std::time::Duration;

use super::Settings;
use crate::outbox::Durability;

impl Settings {
    /// Puts the old values back where a change needs a restart, and where it would make a combination that the start refuses. What that was, for an operator.
    pub fn keep_until_restart(&mut self, old: &Self) -> Vec<&'static str> {
        let mut kept = Vec::new();
        for (what, changed) in [
            ("device", old.device != self.device),
            ("topic_prefix or shards", old.topics != self.topics),
            ("state_dir", old.state_dir != self.state_dir),
            (
                "[spool] or outbox_bytes",
                (&old.spool, old.outbox_bytes) != (&self.spool, self.outbox_bytes),
            ),
            ("log_format", old.log_format != self.log_format),
        ] {
            if changed {
                kept.push(what);
            }
        }
        self.device.clone_from(&old.device);
        self.topics.clone_from(&old.topics);
        self.state_dir.clone_from(&old.state_dir);
        self.spool.clone_from(&old.spool);
        (self.outbox_bytes, self.log_format) = (old.outbox_bytes, old.log_format);
        if self.is_strict_batch() {
            // The new file may be right in itself: with a spool that is strict no longer.
            self.publish_every = Duration::ZERO;
            kept.push("publish_every (the spool is strict until then, and writes each round as it is measured)");
        }
        kept
    }

    /// Rounds are put together, and each is to be on disk at once: not both.
    pub(super) fn is_strict_batch(&self) -> bool {
        !self.publish_every.is_zero() && self.spool.durability == Durability::Strict
    }
}

//! Why messages are given up: a closed list, for logs and counters.

/// Why a message was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// Memory was full, the spool took nothing, and this was the oldest message.
    OutboxFull,
    /// The spool was over its bytes, and this was among the oldest.
    SpoolFull,
    /// It was in the spool for longer than its age limit.
    SpoolAge,
    /// The disk changed its bytes; counted once a segment.
    SpoolDamaged,
    /// The agent ended before the broker had acknowledged it, and it could not be spooled.
    Shutdown,
}

impl DropReason {
    /// The name in logs and counters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutboxFull => "outbox_full",
            Self::SpoolFull => "spool_full",
            Self::SpoolAge => "spool_age",
            Self::SpoolDamaged => "spool_damaged",
            Self::Shutdown => "shutdown",
        }
    }
}

//! What the child says to the checking process: one line of JSON for each step. Both are the same program, so the form may change at any time.

use std::fmt;

use devmon_core::descriptor::DescriptorText;
use serde::{Deserialize, Serialize};

/// What the plugin is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    Load,
    New,
    Describe,
    Collect,
    Drop,
    NewAgain,
    /// The process ends: destructors of the library, `atexit`.
    End,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Load => "while it was loaded (its initialisers, its ABI functions)",
            Self::New => "while a source was made",
            Self::Describe => "in describe",
            Self::Collect => "in collect",
            Self::Drop => "while a source was dropped",
            Self::End => "at the end of the process (its destructors, atexit)",
            Self::NewAgain => "while a source was made and asked for the second time",
        })
    }
}

/// A step.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// It begins something that may not return.
    Begins(Phase),
    /// The file is not used. `rule` as in a finding.
    Refused {
        rule: String,
        reason: String,
        /// Functions of the C entry that are not there, if any of it is.
        missing: Vec<String>,
    },
    Loaded {
        name: String,
        version: Option<String>,
        abi: String,
    },
    NotMade {
        again: bool,
        reason: String,
    },
    Described(Result<Vec<DescriptorText>, String>),
    Round {
        took_ns: u64,
        /// Asked a while after the round before, as an agent would, and not at once.
        is_spaced: bool,
        came: Came,
    },
    Sizes(Sizes),
    /// The time for all rounds was over.
    Stopped {
        rounds: u32,
    },
    Done,
}

/// What a round brought.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Came {
    Tree {
        leaves: usize,
        /// Left out of some rounds of large trees.
        tree: Option<serde_json::Value>,
        /// Paths of numbers that are not finite; not in `tree`.
        not_finite: Vec<String>,
        /// Values of kinds that this agent does not know.
        unknown: usize,
    },
    NoData,
    Unavailable(String),
    Failed {
        reason: String,
        /// Of a C plugin whose text was no tree: a later round's text.
        text: Option<String>,
    },
    Panicked(String),
}

/// What the process holds after a number of rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sizes {
    pub(super) rounds: u32,
    /// Anonymous memory that is resident: what was written to, however it was allocated.
    pub(super) memory_bytes: u64,
    /// What the C library's allocator has given out and not got back; 0 where it does not say.
    pub(super) allocated_bytes: u64,
    pub(super) files: u64,
    pub(super) threads: u64,
}

//! What a process says on standard error, on its way into the agent's log.
//!
//! **Promises** at most some fifty lines of 500 bytes in five minutes ([`pace`](crate::plugins::pace)), and the number of those that were left out.

use std::io::Read;
use std::process::ChildStderr;
use std::time::Instant;

use tracing::info;

use crate::plugins::pace::{self, Pace};

/// Of what a plugin writes to standard error, this much of a line is kept.
const LINE_BYTES: usize = 500;
/// Lines in a round that are no messages any more: a debug switch that was left on.
const MANY_LINES: u32 = 100;

/// What came of reading a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// So many bytes.
    Some(usize),
    /// Nothing is there now.
    Nothing,
    /// There will be no more.
    End,
}

/// What a process writes to standard error: into the agent's log, line by line, the same line not too often.
pub(in crate::plugins) struct Log {
    file: String,
    pace: Pace,
    line: Vec<u8>,
    /// Since the round began.
    lines: u32,
    pub(in crate::plugins) last: String,
}

impl Log {
    pub(in crate::plugins) fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            pace: Pace::default(),
            line: Vec::new(),
            lines: 0,
            last: String::new(),
        }
    }

    /// A round is over: what was left out of the log is said when it is time; and for whoever looks at the source, that it says too much.
    pub(in crate::plugins) fn round_ends(&mut self) -> Option<String> {
        if let Some(left_out) = self.pace.take_left_out(Instant::now()) {
            info!(file = self.file, left_out, "plugin said more");
        }
        let lines = std::mem::take(&mut self.lines);
        (lines > MANY_LINES).then(|| {
            format!("it writes more than {MANY_LINES} lines to standard error in a round; most are left out of the log")
        })
    }

    /// Reads some of what is there, and does not wait for more.
    pub(super) fn read_some(&mut self, stream: Option<&mut ChildStderr>) -> Heard {
        let mut buffer = [0; 4096];
        match stream.map(|s| s.read(&mut buffer)) {
            Some(Ok(n @ 1..)) => {
                self.take(&buffer[..n]);
                Heard::Some(n)
            }
            Some(Err(e)) if e.kind() == std::io::ErrorKind::WouldBlock => Heard::Nothing,
            _ => {
                self.flush();
                Heard::End
            }
        }
    }

    pub(in crate::plugins) fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.flush();
            } else if self.line.len() < LINE_BYTES {
                self.line.push(byte);
            }
        }
    }

    pub(in crate::plugins) fn flush(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        let line = line.trim();
        // The hint that Rust's panic message ends with says nothing about the plugin.
        if !line.is_empty() && !line.starts_with("note: run with `RUST_BACKTRACE") {
            self.lines = self.lines.saturating_add(1);
            if let Some(left_out) = self.pace.may_say(Instant::now(), line) {
                let left_out = pace::some(left_out);
                info!(file = self.file, said = line, left_out, "plugin");
            }
            self.last = line.to_owned();
        }
    }
}

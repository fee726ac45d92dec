//! What a client has sent and is not understood yet: a buffer that is as large as the client's reads are.

use tokio::io::{AsyncRead, AsyncReadExt};

/// Room for input at first; most devices send little. It doubles when a read fills it, and halves when one fills less than a quarter.
const FIRST_INPUT_BYTES: usize = 2 * 1024;
/// Most of it, but for large packets.
pub(super) const MOST_INPUT_BYTES: usize = 16 * 1024;

/// Bytes read and not yet understood.
#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
    /// What the last read brought, if that has not been looked at.
    brought: Option<usize>,
}

impl Input {
    /// What is not understood yet.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.begin..self.end]
    }

    /// The front of it, which is understood now.
    pub(super) fn take(&mut self, bytes: usize) -> &[u8] {
        let begin = self.begin;
        self.begin = (begin + bytes).min(self.end);
        &self.bytes[begin..self.begin]
    }

    /// A read has brought so many bytes.
    pub(super) fn came(&mut self, count: usize) {
        self.end += count;
        self.brought = Some(count);
    }

    /// Reads, once all is understood that was read before; up to `most` bytes. Cancel-safe: what was read is reported, or was not read.
    pub(super) async fn read_from<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        most: usize,
    ) -> std::io::Result<usize> {
        let room = self.bytes.len();
        let wanted = match self.brought.take() {
            Some(count) if count == room => room * 2,
            Some(count) if count < room / 4 => room / 2,
            _ => room,
        };
        let wanted = wanted.clamp(FIRST_INPUT_BYTES, most);
        if wanted != room {
            self.bytes.resize(wanted, 0);
            self.bytes.shrink_to_fit();
        }
        (self.begin, self.end) = (0, 0);
        stream.read(&mut self.bytes).await
    }
}

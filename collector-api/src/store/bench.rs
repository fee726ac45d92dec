//! The store's inner steps, as the benchmarks in `benches/` call them. No part of any contract.

use devmon_core::Value;

use super::column::Cells;
use super::varint::Cursor;

/// The values of one series, as heads hold them.
#[derive(Debug)]
pub struct Column(Cells);

impl Column {
    /// `None` without a value.
    #[must_use]
    pub fn new(values: &[Value]) -> Option<Self> {
        let (first, rest) = values.split_first()?;
        let mut cells = Cells::of(first);
        for value in rest {
            cells.push(value);
        }
        Some(Self(cells))
    }

    /// As a block holds it, before zstd.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    /// Back from a block: `None` if the bytes are malformed.
    #[must_use]
    pub fn decode(bytes: &[u8], n: usize) -> Option<Self> {
        Cells::decode(&mut Cursor(bytes), n).ok().map(Self)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

//! Up to where the database holds what the journal has: the record that commits a seal, and that a start replays from.

use devmon_core::journal::Position;

/// The end of what the database holds, as one record of the table `meta`: written last, so that all that it vouches for is there.
///
/// | offset | size | little-endian |
/// |---|---|---|
/// | 0 | 1 | version, 1 |
/// | 1 | 4 | generation of the last seal |
/// | 5 | 8 + 8 | segment and offset in the journal from which a restart replays |
/// | 21 | 4 | CRC-32C of all of that |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Watermark {
    pub(super) generation: u32,
    pub(super) replay_from: Position,
}

impl Watermark {
    pub(super) const KEY: &'static [u8] = b"watermark";

    pub(super) fn encode(self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.replay_from.segment.to_le_bytes());
        out.extend_from_slice(&self.replay_from.offset.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk()?;
        let (&[1], rest) = body.split_first_chunk()? else {
            return None;
        };
        let (generation, rest) = rest.split_first_chunk()?;
        let (segment, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let good = rest.is_empty() && u32::from_le_bytes(*crc) == crc32c::crc32c(body);
        let replay_from = Position {
            segment: u64::from_le_bytes(*segment),
            offset: u64::from_le_bytes(*offset),
        };
        good.then_some(Self {
            generation: u32::from_le_bytes(*generation),
            replay_from,
        })
    }
}

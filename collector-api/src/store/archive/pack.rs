//! Bytes as zstd where that is shorter: a varint for the unpacked length, one for the packed length, or 0 for none; then the bytes.

use crate::store::varint::{Cursor, Malformed, put_u64};

/// Day files are written once and kept for years; 19 gains below 1 % more on them.
const LEVEL: i32 = 12;

/// The packed form with its lengths, if it is shorter than the bytes alone.
pub(super) fn shorter(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() < 24 {
        return None;
    }
    let packed = zstd::bulk::compress(bytes, LEVEL).ok()?; // fails only without memory; plain is as good
    let mut out = Vec::with_capacity(packed.len() + 6);
    put_u64(&mut out, bytes.len() as u64);
    put_u64(&mut out, packed.len() as u64);
    out.extend_from_slice(&packed);
    (out.len() < bytes.len()).then_some(out)
}

/// Appends the bytes, packed if that is shorter.
pub(super) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    if let Some(packed) = shorter(bytes) {
        out.extend_from_slice(&packed);
    } else {
        put_u64(out, bytes.len() as u64);
        out.push(0);
        out.extend_from_slice(bytes);
    }
}

/// Reads what [`put`] or [`shorter`] wrote: at most `most` bytes.
pub(super) fn unpack(from: &mut Cursor<'_>, most: usize) -> Result<Vec<u8>, Malformed> {
    let length = from.count(most)?;
    let packed = from.count(from.0.len())?;
    if packed == 0 {
        return Ok(from.take(length)?.to_vec());
    }
    let bytes = zstd::bulk::decompress(from.take(packed)?, length)
        .map_err(|_| Malformed("zstd does not unpack it"))?;
    if bytes.len() != length {
        return Err(Malformed("zstd holds fewer bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_come_back(bytes in prop::collection::vec(0u8..4, 0..200)) {
            let mut out = Vec::new();
            put(&mut out, &bytes);
            out.push(1);
            let mut cursor = Cursor(&out);
            prop_assert_eq!(unpack(&mut cursor, 200).unwrap(), bytes);
            prop_assert_eq!(cursor.0, [1u8]);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let read = unpack(&mut Cursor(&bytes), 1000);
            prop_assert!(read.is_err() || read.unwrap().len() <= 1000);
        }
    }
}

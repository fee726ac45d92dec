//! Numbers as bytes: LEB128 varints, zigzag for signed ones, and a cursor that never reads past its end.

/// Appends `x`, 7 bits a byte, least first; the top bit says that more follow. 1 to 10 bytes.
pub(super) fn put_u64(out: &mut Vec<u8>, mut x: u64) {
    while x >= 0x80 {
        out.push(x as u8 | 0x80);
        x >>= 7;
    }
    out.push(x as u8);
}

/// Appends `x` as a varint of its zigzag form: small distances from zero are short, whatever their sign.
pub(super) fn put_i64(out: &mut Vec<u8>, x: i64) {
    put_u64(out, ((x << 1) ^ (x >> 63)) as u64);
}

/// Appends length and bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// What stands where something else should: the bytes are damaged, or not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// Reads from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.0.split_first().ok_or(Malformed("ends too early"))?;
        self.0 = rest;
        Ok(first)
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .0
            .split_at_checked(n)
            .ok_or(Malformed("ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(Malformed("ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        let mut x = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            x |= bits << shift;
            if byte < 0x80 {
                return Ok(x);
            }
        }
        Err(Malformed("a varint of more than 64 bits"))
    }

    pub(super) fn i64(&mut self) -> Result<i64, Malformed> {
        let x = self.u64()?;
        Ok((x >> 1) as i64 ^ -((x & 1) as i64))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.u64()?).map_err(|_| Malformed("a number beyond 32 bits"))
    }

    /// A count of things of which each takes at least a byte of what follows, or a bit if `per_byte` is 8: bounds what a reader allocates.
    pub(super) fn count(&mut self, most: usize) -> Result<usize, Malformed> {
        let n = self.u64()?;
        let n = usize::try_from(n).map_err(|_| Malformed("a count beyond memory"))?;
        if n > most {
            return Err(Malformed("a count beyond its bound"));
        }
        Ok(n)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let n = self.count(self.0.len())?;
        self.take(n)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a text that is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(u: u64, i: i64, small in -70i64..70) {
            let mut out = Vec::new();
            put_u64(&mut out, u);
            put_i64(&mut out, i);
            put_i64(&mut out, small);
            put_bytes(&mut out, b"text");
            let mut cursor = Cursor(&out);
            prop_assert_eq!(cursor.u64(), Ok(u));
            prop_assert_eq!(cursor.i64(), Ok(i));
            prop_assert_eq!(cursor.i64(), Ok(small));
            prop_assert_eq!(cursor.text(), Ok("text"));
            prop_assert!(cursor.u8().is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            let mut cursor = Cursor(&bytes);
            while cursor.i64().is_ok() {}
            let mut cursor = Cursor(&bytes);
            while cursor.bytes().is_ok() {}
        }
    }

    #[test]
    fn the_largest_numbers_fit_and_nothing_larger() {
        let mut out = Vec::new();
        put_u64(&mut out, u64::MAX);
        assert_eq!(out.len(), 10);
        assert_eq!(Cursor(&out).u64(), Ok(u64::MAX));
        out[9] = 2;
        assert!(Cursor(&out).u64().is_err());
    }
}

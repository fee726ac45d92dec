//! `/run/utmp`: who is logged in. Pure.
//!
//! The file is an array of `struct utmp` (utmp(5)) as glibc and musl lay it out, in the machine's own byte order:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 2 | `ut_type`; 7 is a user's session |
//! | 4 | 4 | `ut_pid` of the login process |
//! | 8 | to the end | terminal, user, host, times |
//!
//! A record is 384 bytes where glibc keeps 32-bit times for compatibility (x86, arm, riscv64, ppc64, s390x) and 400 where it never had any (aarch64, loongarch64).

/// Bytes of a record.
pub const RECORD_BYTES: usize = if cfg!(any(target_arch = "aarch64", target_arch = "loongarch64")) {
    400
} else {
    384
};
/// `USER_PROCESS`.
const USER_SESSION: i16 = 7;

/// The login processes of the sessions; `None` if the file is no array of records.
#[must_use]
pub fn sessions(bytes: &[u8]) -> Option<impl Iterator<Item = i32>> {
    let session = |record: &[u8]| match *record {
        [t0, t1, _, _, p0, p1, p2, p3, ..] => (i16::from_ne_bytes([t0, t1]) == USER_SESSION)
            .then(|| i32::from_ne_bytes([p0, p1, p2, p3])),
        _ => None,
    };
    bytes
        .len()
        .is_multiple_of(RECORD_BYTES)
        .then(|| bytes.chunks_exact(RECORD_BYTES).filter_map(session))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sessions_of_users_count() {
        let mut bytes = Vec::new();
        for (kind, pid) in [(2_i16, 0_i32), (7, 41), (8, 42), (7, 43)] {
            let mut record = [0; RECORD_BYTES];
            record[..2].copy_from_slice(&kind.to_ne_bytes());
            record[4..8].copy_from_slice(&pid.to_ne_bytes());
            bytes.extend(record);
        }
        assert_eq!(sessions(&bytes).unwrap().collect::<Vec<_>>(), [41, 43]);
        assert_eq!(sessions(&[]).unwrap().count(), 0);
        bytes.pop();
        assert!(sessions(&bytes).is_none());
    }
}

//! Bytes read and written by block devices: `/proc/diskstats`, parsed. Pure.

/// Unit of the sector counts in `/proc/diskstats`, whatever the device's own sector size (kernel: Documentation/admin-guide/iostats.rst).
const SECTOR_BYTES: u64 = 512;

/// Counters of one device since it appeared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Io {
    pub read_bytes: u64,
    pub written_bytes: u64,
}

/// One device.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Major and minor number.
    pub number: (u32, u32),
    /// Name below `/dev`.
    pub name: &'a str,
    pub io: Io,
}

/// Reads the table. Kernels have 14 columns, 18 since 4.18 and 20 since 5.5; what is needed stands in the first ten. Other lines are skipped.
///
/// ```text
/// major minor name reads merged sectors-read ms writes merged sectors-written ...
/// ```
#[must_use]
pub fn parse(text: &str) -> Vec<Line<'_>> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Line<'_>> {
    let mut fields = line.split_ascii_whitespace();
    let number = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let name = fields.next()?;
    let sectors_read: u64 = fields.nth(2)?.parse().ok()?;
    let sectors_written: u64 = fields.nth(3)?.parse().ok()?;
    let io = Io {
        read_bytes: sectors_read.saturating_mul(SECTOR_BYTES),
        written_bytes: sectors_written.saturating_mul(SECTOR_BYTES),
    };
    Some(Line { number, name, io })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: (u32, u32), name: &str, read: u64, written: u64) -> Line<'_> {
        let io = Io {
            read_bytes: read * 512,
            written_bytes: written * 512,
        };
        Line { number, name, io }
    }

    #[test]
    fn columns_of_all_kernels_are_read() {
        let text = "   8       1 sda1 423 10 6254 138 2 0 2 12 0 86 150\n \
                    259     0 nvme0n1 7 1 64 3 9 2 72 5 0 8 8 1 0 4096 0\n \
                    254     0 vda 42759 9215 5130770 50649 24828 42994 4557064 15546 0 20444 67335 8640 24 719304 1001 3559 138\n";
        assert_eq!(
            parse(text),
            [
                line((8, 1), "sda1", 6254, 2),
                line((259, 0), "nvme0n1", 64, 72),
                line((254, 0), "vda", 5_130_770, 4_557_064),
            ]
        );
    }

    #[test]
    fn lines_of_another_form_are_skipped_and_huge_counts_do_not_wrap() {
        let text = "8 1 sda1 1 2 3 4\n\nx y z\n8 2 sda2 0 0 18446744073709551615 0 0 0 1 0 0 0 0";
        let lines = parse(text);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].io.read_bytes, u64::MAX);
    }
}

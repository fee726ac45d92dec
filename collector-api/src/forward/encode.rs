//! The bytes of remote write 1.0: `prometheus.WriteRequest` as protobuf, then Snappy's block format.
//!
//! | message | field | |
//! |---|---|---|
//! | WriteRequest | 1, repeated | TimeSeries |
//! | TimeSeries | 1, repeated | Label, sorted by name |
//! | | 2, repeated | Sample, ascending by time |
//! | Label | 1, 2 | name, value: strings |
//! | Sample | 1 | value: double |
//! | | 2 | timestamp: int64, unix ms |
//!
//! Four messages, so written by hand: the labels of a series are encoded once and copied into each request, which no generated type allows. The tests read all of it back with prost.

/// Length-delimited fields 1 and 2, a 64-bit field 1, a varint field 2: `field << 3 | wire type`.
const BYTES_1: u8 = 0x0a;
const BYTES_2: u8 = 0x12;
const DOUBLE_1: u8 = 0x09;
const VARINT_2: u8 = 0x10;
/// What Prometheus writes for a value that is not a number; its other NaN ends a series.
const NAN: u64 = 0x7ff8_0000_0000_0001;

/// A time in unix ms, and a value.
pub(super) type Sample = (i64, f64);

fn put_varint(out: &mut Vec<u8>, mut x: u64) {
    while x >= 0x80 {
        out.push(x as u8 | 0x80);
        x >>= 7;
    }
    out.push(x as u8);
}

fn varint_len(x: u64) -> usize {
    (64 - (x | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The labels of a series as they stand in its TimeSeries. Sorts them; those without a value are left out, for that is what no value means.
pub(super) fn labels(labels: &mut Vec<(&str, &str)>) -> Vec<u8> {
    labels.retain(|(_, value)| !value.is_empty());
    labels.sort_unstable();
    let mut out = Vec::new();
    let mut label = Vec::new();
    for (name, value) in labels {
        label.clear();
        put_bytes(&mut label, BYTES_1, name.as_bytes());
        put_bytes(&mut label, BYTES_2, value.as_bytes());
        put_bytes(&mut out, BYTES_1, &label);
    }
    out
}

/// Adds a series to a request.
pub(super) fn put_series(out: &mut Vec<u8>, labels: &[u8], samples: &[Sample]) {
    let size = |sample: &Sample| 1 + 8 + 1 + varint_len(sample.0 as u64);
    let samples_len: usize = samples.iter().map(|s| 2 + size(s)).sum(); // a sample is shorter than 128 bytes
    out.push(BYTES_1);
    put_varint(out, (labels.len() + samples_len) as u64);
    out.extend_from_slice(labels);
    for sample in samples {
        let (ts, value) = *sample;
        let bits = if value.is_nan() { NAN } else { value.to_bits() };
        out.push(BYTES_2);
        out.push(size(sample) as u8);
        out.push(DOUBLE_1);
        out.extend_from_slice(&bits.to_le_bytes());
        out.push(VARINT_2);
        put_varint(out, ts as u64); // int64: negative ones as ten bytes of two's complement
    }
}

/// A request as it is sent.
pub(super) fn compress(request: &[u8]) -> Result<Vec<u8>, snap::Error> {
    snap::raw::Encoder::new().compress_vec(request)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    /// As the specification has them, read by somebody else's code.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in super::super) struct WriteRequest {
        #[prost(message, repeated, tag = "1")]
        pub timeseries: Vec<TimeSeries>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in super::super) struct TimeSeries {
        #[prost(message, repeated, tag = "1")]
        pub labels: Vec<LabelPair>,
        #[prost(message, repeated, tag = "2")]
        pub samples: Vec<Point>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in super::super) struct LabelPair {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub value: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in super::super) struct Point {
        #[prost(double, tag = "1")]
        pub value: f64,
        #[prost(int64, tag = "2")]
        pub timestamp: i64,
    }

    /// Reads a request as a receiver does.
    pub(in super::super) fn decode(body: &[u8]) -> WriteRequest {
        let bytes = snap::raw::Decoder::new().decompress_vec(body).unwrap();
        WriteRequest::decode(&bytes[..]).unwrap()
    }

    proptest! {
        #[test]
        fn a_receiver_reads_what_was_written(
            series in prop::collection::vec(
                (prop::collection::btree_map("[a-z_]{1,9}", ".{1,200}", 1..6), prop::collection::vec((any::<i64>(), any::<f64>()), 0..20)),
                0..20,
            )
        ) {
            let mut out = Vec::new();
            let mut expected = WriteRequest::default();
            for (names, samples) in &series {
                let mut pairs: Vec<_> = names.iter().rev().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                pairs.push(("zz_empty", ""));
                put_series(&mut out, &labels(&mut pairs), samples);
                expected.timeseries.push(TimeSeries {
                    labels: names.iter().map(|(n, v)| LabelPair { name: n.clone(), value: v.clone() }).collect(),
                    samples: samples.iter().map(|&(timestamp, value)| Point { value, timestamp }).collect(),
                });
            }
            prop_assert_eq!(decode(&compress(&out).unwrap()), expected);
        }
    }

    #[test]
    fn what_is_no_number_does_not_end_the_series() {
        let stale = f64::from_bits(0x7ff0_0000_0000_0002);
        let mut out = Vec::new();
        put_series(&mut out, &[], &[(1, stale), (2, f64::INFINITY)]);
        let read = decode(&compress(&out).unwrap());
        let samples = &read.timeseries[0].samples;
        assert_eq!(samples[0].value.to_bits(), NAN);
        assert_eq!(samples[1].value, f64::INFINITY);
    }

    #[test]
    fn lengths_of_varints_are_as_written() {
        for x in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::MAX,
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, x);
            assert_eq!(out.len(), varint_len(x), "{x}");
        }
    }
}

//! Integer series for the archive: times, values, counts, positions. Each is written in the shortest of a few exact forms.
//!
//! | tag | form | bytes behind the tag, for n numbers |
//! |---|---|---|
//! | 0 | steps | zigzag varints: first, step; the rest follows by adding (wraps around) |
//! | 1 | varints | an integer series (`store/column`) |
//! | 2 | packed varints | packed bytes (`pack`) that hold such a series |
//! | 3 | runs | varint: number of runs r; r lengths less one, r values: series of this kind, but not 3 |
//! | 4 | multiples | zigzag varint first, varint factor f ≥ 2; a series of (x − first) / f, of this kind, but not 4 |
//! | 5 | pco | varint length; that many bytes: pco's wrapped format, one chunk meta and one page (i64) |
//! | 6 | line | zigzag varint step; what is left of each number when i × step is taken from the ith, from 0 on: a series of this kind, but not 6 |

use pco::data_types::Number;
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec};

use super::pack;
use crate::store::column::{get_series, put_series};
use crate::store::varint::{Cursor, Malformed, put_bytes, put_i64, put_u64};

const STEPS: u8 = 0;
const VARINTS: u8 = 1;
const PACKED: u8 = 2;
const RUNS: u8 = 3;
const MULTIPLES: u8 = 4;
const PCO: u8 = 5;
const LINE: u8 = 6;

/// pco's own default; see docs/benchmarks.md for what others gain.
const PCO_LEVEL: usize = 8;
/// How often differences are taken. All are tried: pco's own search samples, and finds 3 % less on real metrics.
const ORDERS: [DeltaSpec; 3] = [
    DeltaSpec::NoOp,
    DeltaSpec::TryConsecutive(1),
    DeltaSpec::TryConsecutive(2),
];
/// Times that take no more need no line.
const MOST_FOR_EVEN_TIMES: usize = 32;
/// Below, pco's table of bins costs more than it saves.
const LEAST_FOR_PCO: usize = 48;
/// Above, varints hardly ever win over pco.
const MOST_FOR_VARINTS: usize = 128;

/// Appends the series.
pub(super) fn put(out: &mut Vec<u8>, values: &[i64]) {
    put_as(out, values, true, true);
}

/// Appends a series of times that are meant to be evenly apart: what each is early or late is less than what two neighbours are together.
pub(super) fn put_times(out: &mut Vec<u8>, values: &[i64]) {
    let mut best = Vec::new();
    put(&mut best, values);
    let mut apart: Vec<i64> = values.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
    let middle = apart.len() / 2;
    if best.len() > MOST_FOR_EVEN_TIMES && middle > 0 {
        let median = *apart.select_nth_unstable(middle).1;
        let mut steps = [1, 10, 100, 1000]
            .map(|unit| median.saturating_add(unit / 2) / unit * unit)
            .to_vec();
        steps.dedup();
        for step in steps {
            let mut line = 0i64;
            let rest = values.iter().map(|x| {
                let rest = x.wrapping_sub(line);
                line = line.wrapping_add(step);
                rest
            });
            let rest: Vec<i64> = rest.collect();
            let mut other = vec![LINE];
            put_i64(&mut other, step);
            put(&mut other, &rest);
            keep_shorter(&mut best, other);
        }
    }
    out.extend_from_slice(&best);
}

fn put_as(out: &mut Vec<u8>, values: &[i64], runs: bool, multiples: bool) {
    if let Some((first, step)) = steps(values) {
        out.push(STEPS);
        put_i64(out, first);
        put_i64(out, step);
        return;
    }
    let factor = if multiples { factor(values) } else { 1 };
    if factor > 1 {
        let first = values[0];
        let divided: Vec<i64> = values.iter().map(|x| (x - first) / factor).collect();
        out.push(MULTIPLES);
        put_i64(out, first);
        put_u64(out, factor as u64);
        put_as(out, &divided, runs, false);
        return;
    }
    let mut best = Vec::new();
    if values.len() <= MOST_FOR_VARINTS {
        best.push(VARINTS);
        put_series(&mut best, values);
        if let Some(packed) = pack::shorter(&best[1..]) {
            best.clear();
            best.push(PACKED);
            best.extend_from_slice(&packed);
        }
    }
    if runs && let Some(shorter) = as_runs(values, multiples) {
        keep_shorter(&mut best, shorter);
    }
    if (values.len() >= LEAST_FOR_PCO || best.is_empty())
        && let Some(bytes) = pco_bytes(values, &ORDERS)
    {
        let mut shorter = vec![PCO];
        put_bytes(&mut shorter, &bytes);
        keep_shorter(&mut best, shorter);
    }
    if best.is_empty() {
        best.push(VARINTS);
        put_series(&mut best, values);
    }
    out.extend_from_slice(&best);
}

pub(super) fn keep_shorter(best: &mut Vec<u8>, other: Vec<u8>) {
    if best.is_empty() || other.len() < best.len() {
        *best = other;
    }
}

fn steps(values: &[i64]) -> Option<(i64, i64)> {
    let (Some(&first), second) = (values.first(), values.get(1)) else {
        return Some((0, 0));
    };
    let step = second.map_or(0, |second| second.wrapping_sub(first));
    let even = values
        .windows(2)
        .all(|pair| pair[1].wrapping_sub(pair[0]) == step);
    even.then_some((first, step))
}

/// The greatest number that divides all distances from the first value; 1 if there is none, or a distance is beyond 64 bits.
fn factor(values: &[i64]) -> i64 {
    let first = values.first().copied().unwrap_or(0);
    let mut factor = 0i64;
    for x in values {
        let Some(distance) = x.checked_sub(first).and_then(i64::checked_abs) else {
            return 1;
        };
        let (mut a, mut b) = (factor, distance);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        factor = a;
        if factor == 1 {
            return 1;
        }
    }
    factor.max(1)
}

fn as_runs(values: &[i64], multiples: bool) -> Option<Vec<u8>> {
    let count = values.chunk_by(|a, b| a == b).count();
    if count > values.len() / 3 {
        return None;
    }
    let (lengths, firsts): (Vec<i64>, Vec<i64>) = values
        .chunk_by(|a, b| a == b)
        .map(|run| (run.len() as i64 - 1, run[0]))
        .unzip();
    let mut out = vec![RUNS];
    put_u64(&mut out, count as u64);
    put_as(&mut out, &lengths, false, multiples);
    put_as(&mut out, &firsts, false, multiples);
    Some(out)
}

/// Reads a series of `n` numbers; `n` must be bounded by the caller.
pub(super) fn get(from: &mut Cursor<'_>, n: usize) -> Result<Vec<i64>, Malformed> {
    if from.0.first() != Some(&LINE) {
        return get_as(from, n, true, true);
    }
    from.u8()?;
    let step = from.i64()?;
    let mut values = get_as(from, n, true, true)?;
    let mut line = 0i64;
    for x in &mut values {
        *x = x.wrapping_add(line);
        line = line.wrapping_add(step);
    }
    Ok(values)
}

fn get_as(
    from: &mut Cursor<'_>,
    n: usize,
    runs: bool,
    multiples: bool,
) -> Result<Vec<i64>, Malformed> {
    Ok(match from.u8()? {
        STEPS => {
            let (first, step) = (from.i64()?, from.i64()?);
            let next = |x: &i64| Some(x.wrapping_add(step));
            std::iter::successors(Some(first), next).take(n).collect()
        }
        VARINTS => get_series(from, n)?,
        PACKED => {
            let bytes = pack::unpack(from, 1 + n * 10)?;
            get_series(&mut Cursor(&bytes), n)?
        }
        RUNS if runs => {
            let lengths_of = from.count(n)?;
            let lengths = get_as(from, lengths_of, false, multiples)?;
            let firsts = get_as(from, lengths_of, false, multiples)?;
            let mut values = Vec::with_capacity(n);
            for (length, first) in lengths.into_iter().zip(firsts) {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if length >= n - values.len() {
                    return Err(Malformed("runs beyond the end"));
                }
                values.resize(values.len() + length + 1, first);
            }
            if values.len() != n {
                return Err(Malformed("runs end too early"));
            }
            values
        }
        MULTIPLES if multiples => {
            let (first, factor) = (from.i64()?, from.u64()? as i64);
            let mut values = get_as(from, n, runs, false)?;
            for x in &mut values {
                *x = x.wrapping_mul(factor).wrapping_add(first);
            }
            values
        }
        PCO => get_pco(from.bytes()?, n)?,
        _ => return Err(Malformed("unknown form of an integer series")),
    })
}

/// pco's form with the best of the given ways to take differences.
pub(super) fn pco_bytes<T: Number>(values: &[T], specs: &[DeltaSpec]) -> Option<Vec<u8>> {
    let mut best = Vec::new();
    for spec in specs {
        // An error means only that this form can not be used.
        if let Ok(bytes) = try_pco(values, spec) {
            keep_shorter(&mut best, bytes);
        }
    }
    (!best.is_empty()).then_some(best)
}

fn try_pco<T: Number>(values: &[T], spec: &DeltaSpec) -> pco::errors::PcoResult<Vec<u8>> {
    let config = ChunkConfig::default()
        .with_compression_level(PCO_LEVEL)
        .with_delta_spec(spec.clone());
    let file = FileCompressor::default();
    let mut chunk = file.chunk_compressor(values, &config)?;
    let mut out = Vec::with_capacity(chunk.meta_size_hint() + chunk.page_size_hint(0));
    file.write_header(&mut out)?;
    chunk.write_meta(&mut out)?;
    chunk.write_page(0, &mut out)?;
    Ok(out)
}

pub(super) fn get_pco<T: Number + Default>(bytes: &[u8], n: usize) -> Result<Vec<T>, Malformed> {
    let broken = |_| Malformed("pco does not unpack it");
    let (file, rest) = FileDecompressor::new(bytes).map_err(broken)?;
    let (mut chunk, rest) = file.chunk_decompressor::<T, _>(rest).map_err(broken)?;
    let mut page = chunk.page_decompressor(rest, n).map_err(broken)?;
    let mut values = vec![T::default(); n];
    let progress = page.read(&mut values).map_err(broken)?;
    if progress.n_processed != n {
        return Err(Malformed("pco holds fewer numbers"));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there_and_back(values: &[i64]) -> usize {
        let mut bytes = Vec::new();
        put(&mut bytes, values);
        bytes.push(99);
        let mut cursor = Cursor(&bytes);
        assert_eq!(get(&mut cursor, values.len()).unwrap(), values);
        assert_eq!(cursor.0, [99], "what is behind is left alone");
        bytes.len() - 1
    }

    fn series() -> impl Strategy<Value = Vec<i64>> {
        let runs = prop::collection::vec((any::<i64>(), 1usize..40), 0..20).prop_map(|runs| {
            runs.into_iter()
                .flat_map(|(x, n)| vec![x; n])
                .collect::<Vec<i64>>()
        });
        let walk = (
            any::<i64>(),
            prop::collection::vec(-50i64..50, 0..300),
            prop::sample::select(vec![1i64, 2, 4096]),
        )
            .prop_map(|(first, steps, factor)| {
                let mut at = first;
                steps
                    .into_iter()
                    .map(|step| {
                        at = at.wrapping_add(step * factor);
                        at
                    })
                    .collect()
            });
        prop_oneof![prop::collection::vec(any::<i64>(), 0..100), runs, walk]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn series_come_back(values in series()) {
            there_and_back(&values);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), n in 0usize..200) {
            let read = get(&mut Cursor(&bytes), n);
            prop_assert!(read.is_err() || read.unwrap().len() == n);
        }

        #[test]
        fn damaged_pco_is_read_or_refused(values in prop::collection::vec(0i64..999, 60..400), at in 0usize..300, flip in 1u8..) {
            let mut bytes = pco_bytes(&values, &[DeltaSpec::Auto]).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            let read = get_pco::<i64>(&bytes, values.len());
            prop_assert!(read.is_err() || read.unwrap().len() == values.len());
        }
    }

    #[test]
    fn late_times_cost_what_they_are_late() {
        let late = |i: i64| i * 7919 % 5;
        let times: Vec<i64> = (0..8640)
            .map(|i| i * 10_000 + late(i) + i / 3000 * 40_000)
            .collect();
        let mut bytes = Vec::new();
        put_times(&mut bytes, &times);
        assert_eq!(get(&mut Cursor(&bytes), times.len()).unwrap(), times);
        assert!(
            bytes.len() < 8640 * 25 / 80,
            "{} bytes: 2.3 bits each are in them",
            bytes.len()
        );
    }

    #[test]
    fn usual_series_are_short() {
        let size = |f: &dyn Fn(i64) -> i64| there_and_back(&(0..8640).map(f).collect::<Vec<_>>());
        assert!(size(&|i| 1_795_450_000_000 + i * 10_000) < 12, "times");
        assert!(size(&|_| 7) < 4, "constant");
        assert!(size(&|i| i / 1000) < 40, "runs");
        assert!(size(&|i| i * 7919 % 101 * 4096) < 7500, "multiples");
    }
}

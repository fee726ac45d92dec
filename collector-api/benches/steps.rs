//! What single steps of a sample's way cost: `cargo bench -p devmon-collector --bench steps`. Whole ways are `cargo xtask bench store`'s.
//!
//! The messages are what an agent sends: 50 leaves in five frames, some 2 KB. The columns hold an hour at 10 s of the kinds of values that the synthetic set has.

use devmon_collector::events::bench::Looks;
use devmon_collector::store::bench::Column;
use devmon_core::Value;
use devmon_core::wire::Message;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};

const LEAVES: usize = 50;
const ROWS: usize = 360;

fn main() {
    divan::main();
}

/// What differs from one leaf to the next must not be the same digits.
fn number(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 31)
}

fn payload() -> Vec<u8> {
    let frame = |source: &str, leaf: &dyn Fn(u64) -> String| {
        let leaves: Vec<String> = (0..LEAVES as u64 / 5).map(leaf).collect();
        format!(
            r#"{{"ts":1795392000000,"source":"{source}","metrics":{{{}}}}}"#,
            leaves.join(",")
        )
    };
    let whole = |name: &'static str, bits: u32| {
        move |i: u64| format!(r#""{i}":{{"{name}":{}}}"#, number(i) >> (64 - bits))
    };
    let frames = [
        frame("cpu", &|i| {
            format!(r#""{i}":{{"utilization":0.{:04}}}"#, number(i) % 10_000)
        }),
        frame("memory", &whole("used_bytes", 36)),
        frame("network", &whole("received_bytes_total", 40)),
        frame("sensors", &|i| {
            format!(
                r#""{i}":{{"temperature_celsius":{}.5}}"#,
                30 + number(i) % 40
            )
        }),
        frame("disk", &whole("used_bytes", 38)),
    ];
    format!(
        r#"{{"v":1,"device":"bench-000","boot":"01KB0000000000000000000000","seq":1,"frames":[{}]}}"#,
        frames.join(",")
    )
    .into_bytes()
}

/// Checks included, as the intake does it.
#[divan::bench]
fn decode_message(bencher: Bencher<'_, '_>) {
    let payload = payload();
    bencher
        .counter(ItemsCount::new(LEAVES))
        .counter(BytesCount::of_slice(&payload))
        .bench(|| Message::decode(black_box(&payload)));
}

/// A tree as paths and values.
#[divan::bench]
fn flatten_message(bencher: Bencher<'_, '_>) {
    let Ok(message) = Message::decode(&payload()) else {
        return;
    };
    bencher.counter(ItemsCount::new(LEAVES)).bench(|| {
        let leaves = |source: &str, frame: &devmon_core::wire::Frame| {
            frame
                .metrics
                .leaves_below(&format!("/{source}"))
                .map(|(path, _)| path.as_str().len())
                .sum::<usize>()
        };
        let frames = black_box(&message).frames.iter();
        frames
            .map(|f| leaves(f.source.as_deref().unwrap_or_default(), f))
            .sum::<usize>()
    });
}

const KINDS: [&str; 4] = ["utilization", "bytes", "counter", "constant"];

fn column(kind: &str) -> Option<Column> {
    let mut at = 5_000i64;
    let values: Vec<Value> = (0..ROWS as u64)
        .map(|i| {
            let random = number(i);
            let step = |most: i64| (random % (2 * most as u64 + 1)) as i64 - most;
            match kind {
                "utilization" => {
                    at = (at + step(150)).clamp(0, 10_000);
                    Value::Float(at as f64 / 10_000.0)
                }
                "bytes" => {
                    at = (at + step(2_000)).max(0);
                    Value::Integer(at * 4096)
                }
                "counter" => {
                    at += 3_000 + step(1_500);
                    Value::Integer(at)
                }
                _ => Value::Integer(4711),
            }
        })
        .collect();
    Column::new(&values)
}

#[divan::bench(args = KINDS)]
fn encode_column(bencher: Bencher<'_, '_>, kind: &str) {
    let Some(column) = column(kind) else { return };
    let mut out = Vec::new();
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| {
        out.clear();
        black_box(&column).encode(&mut out);
    });
}

#[divan::bench(args = KINDS)]
fn decode_column(bencher: Bencher<'_, '_>, kind: &str) {
    let Some(column) = column(kind) else { return };
    let mut bytes = Vec::new();
    column.encode(&mut bytes);
    bencher
        .counter(ItemsCount::new(ROWS))
        .bench(|| Column::decode(black_box(&bytes), ROWS));
}

/// Messages that followers of events look at; none shares its shapes with another. Patterns, followers, and whether all of these ask for the same.
#[divan::bench(args = [(0, 1, true), (0, 200, true), (50, 1, true), (50, 200, true), (50, 200, false)])]
fn look_at_events(bencher: Bencher<'_, '_>, (patterns, followers, alike): (usize, usize, bool)) {
    let payload = payload();
    let mut looks = Looks::new(patterns, followers, alike);
    bencher
        .counter(ItemsCount::new(1usize))
        .with_inputs(|| Looks::frames(&payload))
        .bench_local_values(|frames| looks.look(black_box(frames)));
}

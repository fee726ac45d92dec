//! Ranges against the simplest model that can be written down.

use std::collections::BTreeMap;

use devmon_collector::query::aggregate::Aggregate;
use devmon_collector::query::range::{Resolution, SeriesQuery, series};
use devmon_collector::store::rollup::Tier;
use devmon_core::Value;
use devmon_core::wire::TimestampMs;
use proptest::prelude::*;

use crate::support::MemoryStore;

const HOUR: i64 = 3_600_000;

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (0_i64..1_000).prop_map(Value::Integer),
        2 => (-1e6_f64..1e6).prop_map(Value::Float),
        1 => (-1_000_000_000_i64..1_000_000_000).prop_map(Value::Integer), // what is beyond 2^53 has tests of its own: the model adds in floats
        1 => any::<bool>().prop_map(Value::Boolean),
        1 => "[a-c]".prop_map(Value::Text),
    ]
}

/// Samples some seconds apart, with gaps of up to four hours.
fn samples() -> impl Strategy<Value = BTreeMap<i64, Value>> {
    let apart = prop_oneof![8 => 1_i64..5_000, 1 => 1_i64..4 * HOUR];
    proptest::collection::vec((apart, value()), 0..60).prop_map(|steps| {
        let mut at = 1_795_450_000_000;
        let place = |(apart, value)| {
            at += apart;
            (at, value)
        };
        steps.into_iter().map(place).collect()
    })
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64()
}

/// One bucket, from all samples of the series, word by word as the contract has it.
fn model(
    all: &BTreeMap<i64, Value>,
    aggregate: Aggregate,
    step: i64,
    from: i64,
    to: i64,
    start: i64,
) -> Option<Value> {
    let inside: Vec<(i64, &Value)> = all
        .iter()
        .map(|(t, v)| (*t, v))
        .filter(|(t, _)| (from.max(start)..to.min(start + step)).contains(t))
        .collect();
    let numbers: Vec<f64> = inside.iter().filter_map(|(_, v)| number(v)).collect();
    match aggregate {
        Aggregate::Count => (!inside.is_empty()).then_some(Value::Integer(inside.len() as i64)),
        Aggregate::Last => inside.last().map(|(_, v)| (*v).clone()),
        Aggregate::Min => numbers.iter().copied().reduce(f64::min).map(Value::Float),
        Aggregate::Max => numbers.iter().copied().reduce(f64::max).map(Value::Float),
        Aggregate::Sum => (!numbers.is_empty()).then(|| Value::Float(numbers.iter().sum())),
        Aggregate::Avg => (!numbers.is_empty())
            .then(|| Value::Float(numbers.iter().sum::<f64>() / numbers.len() as f64)),
        Aggregate::Rate => {
            let counter: Vec<(i64, f64)> = all
                .iter()
                .filter_map(|(t, v)| Some((*t, number(v)?)))
                .collect();
            let pairs: Vec<_> = counter
                .windows(2)
                .filter(|w| {
                    inside.iter().any(|(t, _)| *t == w[1].0) && w[1].0 - w[0].0 <= step.max(HOUR)
                })
                .collect();
            let increase: f64 = pairs
                .iter()
                .map(|w| {
                    if w[1].1 < w[0].1 {
                        w[1].1
                    } else {
                        w[1].1 - w[0].1
                    }
                })
                .sum();
            let ms: i64 = pairs.iter().map(|w| w[1].0 - w[0].0).sum();
            (ms > 0).then(|| Value::Float(increase / (ms as f64 / 1000.0)))
        }
    }
}

fn close(a: &Option<Value>, b: &Option<Value>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => match (number(a), number(b)) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-4, // sums of 60 values of up to 1e9, the rate over 1 ms of them
            _ => a == b,
        },
        (None, None) => true,
        _ => false,
    }
}

fn ask(
    all: &[&BTreeMap<i64, Value>],
    from: i64,
    to: i64,
    asked: (Resolution, &[Aggregate]),
    limit: usize,
) -> (Vec<i64>, Vec<Vec<Option<Value>>>) {
    let store = MemoryStore::default();
    for (i, samples) in all.iter().enumerate() {
        for (t, v) in *samples {
            store.put("d", &format!("/p/{i}"), *t, v.clone());
        }
    }
    let (t, columns, _) = ask_store(&store, all.len(), (from, to), asked, limit);
    (t, columns)
}

/// Follows the pages to the end: times, columns, tier.
fn ask_store(
    store: &MemoryStore,
    paths: usize,
    (from, to): (i64, i64),
    (resolution, aggregates): (Resolution, &[Aggregate]),
    limit: usize,
) -> (Vec<i64>, Vec<Vec<Option<Value>>>, Tier) {
    let mut query = SeriesQuery {
        device: "d".into(),
        paths: (0..paths)
            .map(|i| format!("/p/{i}").parse().unwrap())
            .collect(),
        from: TimestampMs(from),
        to: TimestampMs(to),
        resolution,
        aggregates: aggregates.to_vec(),
        limit,
        start: None,
    };
    let mut columns = vec![Vec::new(); paths * aggregates.len().max(1)];
    let mut t = Vec::new();
    loop {
        let page = series(store, &query).unwrap();
        assert!(page.t.len() <= limit);
        t.extend(&page.t);
        for (column, more) in columns.iter_mut().zip(&page.columns) {
            assert_eq!(more.len(), page.t.len());
            column.extend(more.iter());
        }
        match page.next {
            Some(next) => query.start = Some(next),
            None => return (t, columns, page.tier),
        }
    }
}

fn bounds(all: &BTreeMap<i64, Value>, cut: (u16, u16)) -> (i64, i64) {
    let (first, last) = (*all.keys().next().unwrap(), *all.keys().last().unwrap());
    let at = |part: u16| first - 10 + (last - first + 20) * i64::from(part) / i64::from(u16::MAX);
    (at(cut.0.min(cut.1)), at(cut.0.max(cut.1)))
}

proptest! {
    #[test]
    fn raw_pages_hold_every_sample_at_its_time(a in samples(), b in samples(), cut in any::<(u16, u16)>(), limit in 1_usize..40) {
        prop_assume!(!a.is_empty() && !b.is_empty());
        let (from, to) = bounds(&a, cut);
        let (t, columns) = ask(&[&a, &b], from, to, (Resolution::Raw, &[]), limit);
        let union: std::collections::BTreeSet<i64> = a.range(from..to).chain(b.range(from..to)).map(|(t, _)| *t).collect();
        prop_assert_eq!(&t, &union.into_iter().collect::<Vec<_>>());
        for (column, all) in columns.iter().zip([&a, &b]) {
            let expected: Vec<Option<Value>> = t.iter().map(|t| all.get(t).cloned()).collect();
            prop_assert_eq!(column, &expected);
        }
    }

    #[test]
    fn buckets_are_those_of_the_model(
        all in samples(),
        cut in any::<(u16, u16)>(),
        step in prop_oneof![Just(1_000_i64), Just(10_000), Just(60_000), Just(HOUR), Just(7 * HOUR)],
        which in 0_usize..7,
        limit in 100_usize..1_000,
    ) {
        let aggregate = Aggregate::ALL[which];
        let mut all = all;
        if aggregate == Aggregate::Rate && step % HOUR == 0 {
            all.retain(|_, v| number(v).is_some()); // rollups do not tell where numbers begin and end among texts
        }
        prop_assume!(!all.is_empty());
        let (from, to) = bounds(&all, cut);
        prop_assume!((to - from) / step < 20_000);
        let (t, columns) = ask(&[&all], from, to, (Resolution::Step(step), &[aggregate]), limit);
        let first = from - from.rem_euclid(step);
        let expected: Vec<i64> = (0..).map(|i| first + i * step).take_while(|t| *t < to).collect();
        prop_assert_eq!(&t, &if from < to { expected } else { Vec::new() });
        for (start, value) in t.iter().zip(&columns[0]) {
            let expected = model(&all, aggregate, step, from, to, *start);
            prop_assert!(close(value, &expected), "{:?} at {}: {:?} expected {:?}", aggregate, start, value, expected);
        }
    }
}

/// What retention has left is read at the tier that has it, and gives what the samples would have given.
#[derive(Debug, Clone)]
struct Kept {
    all: BTreeMap<i64, Value>,
    from: i64,
    to: i64,
    raw_from: i64,
    minute_from: i64,
}

fn kept() -> impl Strategy<Value = Kept> {
    let number = prop_oneof![
        2 => (0_i64..1_000).prop_map(Value::Integer),
        1 => (-1_000_000_i64..1_000_000).prop_map(|x| Value::Float(x as f64 / 4.0)),
        1 => any::<bool>().prop_map(Value::Boolean),
    ];
    let apart = prop_oneof![8 => 1_i64..90_000, 1 => 1_i64..2 * HOUR];
    let samples = proptest::collection::vec((apart, number), 1..80);
    (samples, any::<(u16, u16)>(), 0_i64..8, 0_i64..4).prop_map(|(steps, cut, raw, minute)| {
        let begin = 1_795_450_000_000;
        let mut at = begin;
        let place = |(apart, value)| {
            at += apart;
            (at, value)
        };
        let all: BTreeMap<i64, Value> = steps.into_iter().map(place).collect();
        let (from, to) = bounds(&all, cut);
        let hours = |n: i64| begin - begin.rem_euclid(HOUR) + n * HOUR;
        Kept {
            all,
            from,
            to,
            raw_from: hours(raw),
            minute_from: hours(minute.min(raw)),
        }
    })
}

proptest! {
    #[test]
    fn every_tier_gives_what_the_samples_would(
        Kept { all, from, to, raw_from, minute_from } in kept(),
        step in prop_oneof![Just(20_000_i64), Just(60_000), Just(300_000), Just(HOUR), Just(3 * HOUR)],
        limit in 3_usize..1_000,
    ) {
        let store = MemoryStore::default();
        all.iter().for_each(|(t, v)| store.put("d", "/p/0", *t, v.clone()));
        store.keep(raw_from, minute_from);
        let (t, columns, tier) = ask_store(&store, 1, (from, to), (Resolution::Step(step), &Aggregate::ALL), limit);
        let (expected_tier, bucket, kept_from) = match step {
            _ if step % HOUR == 0 => (Tier::Hour, HOUR, i64::MIN),
            20_000 => (Tier::Raw, 1, raw_from),
            _ if from < raw_from => (Tier::Minute, 60_000, minute_from),
            _ => (Tier::Raw, 1, raw_from),
        };
        prop_assert_eq!(tier, expected_tier);
        // Where a bucket of the tier is cut and the samples are gone, it counts whole.
        let floor = |t: i64| t - t.rem_euclid(bucket);
        let first = if from < raw_from { floor(from) } else { from };
        let last = if floor(to) < raw_from { floor(to + bucket - 1) } else { to };
        let visible: BTreeMap<i64, Value> = all.range(kept_from..).map(|(t, v)| (*t, v.clone())).collect();
        for (aggregate, column) in Aggregate::ALL.into_iter().zip(&columns) {
            for (start, value) in t.iter().zip(column) {
                let expected = model(&visible, aggregate, step, first, last, *start);
                prop_assert!(close(value, &expected), "{:?} at {}: {:?} expected {:?}", aggregate, start, value, expected);
            }
        }
    }
}

#[test]
fn points_take_a_step_for_which_there_is_a_tier() {
    let store = MemoryStore::default();
    let begin = 1_795_392_000_000; // a midnight
    for i in 0..48 * 60 {
        store.put("d", "/p/0", begin + i * 60_000, i);
    }
    let ask = |from_hour: i64, to_hour: i64| {
        let range = (begin + from_hour * HOUR, begin + to_hour * HOUR);
        let asked = (Resolution::Points(10_000), &[Aggregate::Count][..]);
        let (t, columns, tier) = ask_store(&store, 1, range, asked, 10_000);
        assert!(columns[0].iter().all(Option::is_some) || tier == Tier::Raw);
        (t[1] - t[0], tier)
    };
    store.keep(begin + 24 * HOUR, begin + 12 * HOUR);
    assert_eq!(ask(24, 48), (10_000, Tier::Raw));
    assert_eq!(ask(12, 14), (60_000, Tier::Minute));
    assert_eq!(ask(0, 14), (HOUR, Tier::Hour));
}

#[test]
fn a_reset_counts_from_zero_and_a_long_gap_makes_no_rate() {
    let at = |ms: i64, n: i64| (ms, Value::Integer(n));
    let all = BTreeMap::from([
        at(0, 100),
        at(10_000, 200),
        at(20_000, 30),
        at(30_000, 60),
        at(30_000 + HOUR + 1, 9_999),
        at(40_000 + HOUR + 1, 10_009),
    ]);
    let rate = |from, to| {
        ask(
            &[&all],
            from,
            to,
            (Resolution::Step(10_000), &[Aggregate::Rate]),
            10_000,
        )
        .1
        .remove(0)
    };
    let some = |x: f64| Some(Value::Float(x));
    assert_eq!(rate(0, 40_000), [None, some(10.0), some(3.0), some(3.0)]);
    assert_eq!(
        rate(10_000, 20_000),
        [some(10.0)],
        "the sample before the range makes the first bucket"
    );
    assert_eq!(
        rate(30_000 + HOUR, 50_000 + HOUR),
        [None, some(1.0)],
        "an hour and more of silence is no rate"
    );
    let exact = BTreeMap::from([at(0, i64::MAX - 1), at(1_000, i64::MAX)]);
    assert_eq!(
        ask(
            &[&exact],
            0,
            2_000,
            (Resolution::Step(1_000), &[Aggregate::Rate]),
            10
        )
        .1[0],
        [None, some(1.0)]
    );
}

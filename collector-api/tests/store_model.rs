//! The store against a map: whatever is committed, repeated, sealed, compacted, forgotten or reopened, in whatever order, reads return what the map holds: samples, and
//! rollups of them as this file computes them, also when the samples are gone.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

use devmon_collector::store::engine::{Accepted, Committed, Content, SeriesRange, Store};
use devmon_collector::store::rollup::{Rollup, Tier};
use devmon_collector::store::{Engine, Options};
use devmon_core::wire::{FlatMessage, TimestampMs};
use devmon_core::{MetricPath, Value};
use proptest::prelude::*;

/// 2025-11-23T16:06:40Z: its day and the next are over, so that retention can take them.
const BASE_MS: i64 = 1_763_914_000_000;
const ALL: (TimestampMs, TimestampMs) = (TimestampMs(0), TimestampMs(i64::MAX));

/// A message as its publisher would write it.
fn accepted(device: &str, received: i64, payload: String) -> Accepted {
    let mut message = FlatMessage::decode(payload.as_bytes()).unwrap();
    for frame in &mut message.frames {
        frame.ts.get_or_insert(TimestampMs(received));
    }
    Accepted {
        device: device.parse().unwrap(),
        received: TimestampMs(received),
        payload: payload.into(),
        content: Content::Metrics {
            id: message.id,
            frames: message.frames,
        },
    }
}

fn options() -> Options {
    Options {
        retention: Duration::from_secs(100 * 365 * 86_400),
        archive_after: Duration::from_secs(1000 * 365 * 86_400), // not by itself
        ..Options::default()
    }
}

fn open(dir: &Path) -> Engine {
    Engine::open(dir, options()).unwrap()
}

#[derive(Debug, Clone)]
enum Op {
    /// Messages of one batch: device, seq, source (empty: short form), time slots with leaves.
    Commit(Vec<Sent>),
    /// Sends the n-th last message again.
    Repeat(usize),
    Seal,
    /// Makes all days files, late samples of those that are it included.
    Compact,
    /// Forgets a device.
    Purge(u8),
    Reopen,
}

#[derive(Debug, Clone)]
struct Sent {
    device: u8,
    source: &'static str,
    frames: Vec<(i64, Vec<(u8, Value)>)>,
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::Integer),
        prop_oneof![Just(0.0), Just(-0.0), -1e6f64..1e6, Just(f64::MIN_POSITIVE)]
            .prop_map(Value::Float),
        any::<bool>().prop_map(Value::Boolean),
        "[a-z]{0,3}".prop_map(Value::Text),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    // Slots of 20 minutes over 8 hours of one or two days: in order, late, and twice.
    let frame = (0i64..24, prop::collection::vec((0u8..4, value()), 1..4));
    let source = prop::sample::select(vec!["cpu", "disk", ""]);
    (0u8..2, source, prop::collection::vec(frame, 1..3)).prop_map(|(device, source, frames)| Sent {
        device,
        source,
        frames,
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => prop::collection::vec(sent(), 1..4).prop_map(Op::Commit),
        2 => (0usize..4).prop_map(Op::Repeat),
        2 => Just(Op::Seal),
        2 => Just(Op::Compact),
        1 => (0u8..2).prop_map(Op::Purge),
        1 => Just(Op::Reopen),
    ]
}

fn json(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

/// The payloads of one thing that is sent: the short form has one frame in each message.
fn payloads(sent: &Sent, seq: &mut u64) -> Vec<String> {
    let tree = |leaves: &[(u8, Value)]| {
        let leaves: BTreeMap<_, _> = leaves.iter().map(|(n, v)| (n, v)).collect(); // a name stands once
        let leaves: Vec<_> = leaves
            .iter()
            .map(|(n, v)| format!("\"m{n}\":{}", json(v)))
            .collect();
        format!("{{{}}}", leaves.join(","))
    };
    if sent.source.is_empty() {
        // One branch has the name of a source, and one leaf lies at the very top: three streams.
        let short = |(slot, leaves): &(i64, Vec<(u8, Value)>)| {
            let tree = tree(leaves);
            let ts = BASE_MS + slot * 1_200_000;
            format!("{{\"ts\":{ts},\"metrics\":{{\"cpu\":{tree},\"x/y\":{tree},\"top\":{slot}}}}}")
        };
        return sent.frames.iter().map(short).collect();
    }
    let frames: Vec<_> = sent
        .frames
        .iter()
        .map(|(slot, leaves)| {
            let ts = BASE_MS + slot * 1_200_000;
            format!(
                "{{\"ts\":{ts},\"source\":\"{}\",\"metrics\":{}}}",
                sent.source,
                tree(leaves)
            )
        })
        .collect();
    *seq += 1;
    vec![format!(
        "{{\"v\":1,\"device\":\"d{}\",\"boot\":\"B\",\"seq\":{seq},\"frames\":[{}]}}",
        sent.device,
        frames.join(",")
    )]
}

type Model = BTreeMap<(String, String), BTreeMap<i64, Value>>;

fn apply(model: &mut Model, item: &Accepted) {
    let Content::Metrics { frames, .. } = &item.content else {
        return;
    };
    for frame in frames {
        let prefix = frame
            .source
            .as_ref()
            .map_or(String::new(), |source| format!("/{source}"));
        for (path, value) in frame.leaves() {
            let series = model
                .entry((item.device.to_string(), format!("{prefix}{path}")))
                .or_default();
            series.insert(frame.ts.unwrap().0, value.clone());
        }
    }
}

fn same(a: &SeriesRange, b: &BTreeMap<i64, Value>) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|((t, v), (u, w))| t.0 == *u && v.same_bits(w))
}

fn check(store: &Engine, model: &Model) {
    for device in ["d0", "d1"] {
        let expected: BTreeMap<_, _> = model
            .iter()
            .filter(|((d, _), _)| d == device)
            .map(|((_, p), s)| (p, s))
            .collect();
        let listed = store.series(device, "", None, 1000);
        let paths: Vec<&str> = listed.iter().map(|s| s.path.as_str()).collect();
        assert_eq!(
            paths,
            expected.keys().map(|p| p.as_str()).collect::<Vec<_>>()
        );
        for (listed, series) in listed.iter().zip(expected.values()) {
            let (first, _) = series.first_key_value().unwrap();
            let (last, value) = series.last_key_value().unwrap();
            assert_eq!(
                (listed.first_ts.0, listed.last_ts.0),
                (*first, *last),
                "{}",
                listed.path
            );
            assert!(
                listed.last_value.same_bits(value),
                "{}: {:?}, not {value:?}",
                listed.path,
                listed.last_value
            );
        }
        let paths: Vec<MetricPath> = listed.into_iter().map(|s| s.path).collect();
        let ranges = store
            .range(device, &paths, ALL.0, ALL.1, 1_000_000)
            .unwrap();
        for range in &ranges {
            assert!(
                same(range, expected[&range.path.to_string()]),
                "{device} {}: {:?}",
                range.path,
                range.values
            );
        }
        // A part of the time, of every second path, in another order.
        let (from, to) = (BASE_MS + 3 * 1_200_000, BASE_MS + 11 * 1_200_000);
        let some: Vec<MetricPath> = paths.iter().rev().step_by(2).cloned().collect();
        for range in &store
            .range(device, &some, TimestampMs(from), TimestampMs(to), 1_000_000)
            .unwrap()
        {
            let within = expected[&range.path.to_string()]
                .range(from..to)
                .map(|(t, v)| (*t, v.clone()))
                .collect();
            assert!(same(range, &within), "{device} {} in a part", range.path);
        }
        assert_eq!(
            store.device(device).map_or(0, |d| d.series),
            expected.len() as u64
        );
    }
    check_rollups(store, model, &TIERS, true);
}

const TIERS: [Tier; 2] = [Tier::Minute, Tier::Hour];

/// What a bucket holds, in the plainest arithmetic.
struct Bucket<'a> {
    samples: Vec<(i64, &'a Value)>,
}

impl Bucket<'_> {
    fn numbers(&self) -> Vec<f64> {
        let number = |(_, value): &(i64, &Value)| match value {
            Value::Float(x) => Some(*x),
            Value::Integer(i) => Some(*i as f64),
            Value::Boolean(b) => Some(f64::from(u8::from(*b))),
            _ => None,
        };
        self.samples.iter().filter_map(number).collect()
    }

    /// Panics if it is not what the rollup says. `ordered`: that no sample came after the raw ones were gone.
    fn check(&self, found: &Rollup, ordered: bool) {
        let numbers = self.numbers();
        let as_number = |value: &Value| match value {
            Value::Integer(i) => *i as f64,
            Value::Boolean(b) => f64::from(u8::from(*b)),
            Value::Float(x) => *x,
            other => panic!("{other:?} is no number"),
        };
        assert_eq!(found.count, self.samples.len() as u64);
        assert_eq!(found.numbers, numbers.len() as u64);
        let least = numbers.iter().copied().reduce(f64::min);
        let most = numbers.iter().copied().reduce(f64::max);
        assert_eq!(found.min.as_ref().map(as_number), least);
        assert_eq!(found.max.as_ref().map(as_number), most);
        // Added in another order, integers beyond 2^53 exactly.
        let close =
            |a: f64, b: f64| (a - b).abs() <= 1e-9 * numbers.iter().map(|x| x.abs()).sum::<f64>();
        match &found.sum {
            Some(sum) => assert!(
                close(as_number(sum), numbers.iter().sum()),
                "{sum:?} of {numbers:?}"
            ),
            None => assert!(numbers.is_empty()),
        }
        if !ordered {
            return;
        }
        let (first, last) = (self.samples[0], self.samples[self.samples.len() - 1]);
        assert_eq!((found.first_ts.0, found.last_ts.0), (first.0, last.0));
        assert!(found.first.same_bits(first.1) && found.last.same_bits(last.1));
        let step = |w: &[f64]| if w[1] >= w[0] { w[1] - w[0] } else { w[1] };
        let increase: f64 = numbers.windows(2).map(step).sum();
        let all: f64 = numbers.iter().map(|x| x.abs()).sum();
        assert!(
            (found.increase - increase).abs() <= 1e-9 * all.max(1.0),
            "{} of {numbers:?}",
            found.increase
        );
    }
}

fn check_rollups(store: &Engine, model: &Model, tiers: &[Tier], ordered: bool) {
    for ((device, path), series) in model {
        for tier in tiers {
            let width = tier.bucket_ms().unwrap();
            let mut expected: BTreeMap<i64, Bucket<'_>> = BTreeMap::new();
            for (ts, value) in series {
                let bucket = expected.entry(ts.div_euclid(width) * width);
                let bucket = bucket.or_insert(Bucket {
                    samples: Vec::new(),
                });
                bucket.samples.push((*ts, value));
            }
            let paths = [path.parse::<MetricPath>().unwrap()];
            let found = store
                .rollups(device, &paths, *tier, ALL.0, ALL.1, 1_000_000)
                .unwrap();
            let found = &found[0].rollups;
            let buckets: Vec<i64> = found.iter().map(|r| r.ts.0).collect();
            let wanted: Vec<i64> = expected.keys().copied().collect();
            assert_eq!(buckets, wanted, "{device} {path} {tier:?}");
            for (rollup, bucket) in found.iter().zip(expected.values()) {
                bucket.check(rollup, ordered);
            }
        }
    }
}

/// No raw samples, and no rollups of these tiers.
fn check_gone(store: &Engine, model: &Model, tiers: &[Tier]) {
    for (device, path) in model.keys() {
        let paths = [path.parse::<MetricPath>().unwrap()];
        let raw = store
            .range(device, &paths, ALL.0, ALL.1, 1_000_000)
            .unwrap();
        assert!(raw[0].is_empty(), "{device} {path}");
        for tier in tiers {
            let found = store
                .rollups(device, &paths, *tier, ALL.0, ALL.1, 1_000_000)
                .unwrap();
            assert_eq!(found[0].rollups, [], "{device} {path} {tier:?}");
        }
    }
}

/// Goes through the tiers as time would: each shorter retention is one of a later year. What comes late is folded into what is there.
fn age(dir: &Path, model: &mut Model) {
    let gone = Duration::ZERO;
    let by = |retention: Duration, retention_1m: Duration, retention_1h: Duration| {
        let options = Options {
            retention,
            retention_1m,
            retention_1h,
            ..options()
        };
        let store = Engine::open(dir, options).unwrap();
        store.compact_before(ALL.1).unwrap();
        store
    };
    let century = options().retention;
    let store = by(gone, century, century);
    check_gone(&store, model, &[]);
    check_rollups(&store, model, &TIERS, true);
    let late: Vec<Accepted> = (0..24)
        .step_by(5)
        .map(|slot| {
            let ts = BASE_MS + slot * 1_200_000 + 777; // no sample stands there yet
            accepted(
                "d0",
                BASE_MS,
                format!(
                    "{{\"ts\":{ts},\"metrics\":{{\"cpu\":{{\"m0\":{slot},\"late\":{slot}}}}}}}"
                ),
            )
        })
        .collect();
    store.commit(&late).unwrap();
    for item in &late {
        apply(model, item);
    }
    store.compact_before(ALL.1).unwrap();
    check_rollups(&store, model, &TIERS, false);
    drop(store);
    let store = by(gone, gone, century);
    check_gone(&store, model, &[Tier::Minute]);
    check_rollups(&store, model, &[Tier::Hour], false);
    drop(store);
    let store = by(gone, gone, gone);
    check_gone(&store, model, &TIERS);
    assert_eq!(
        (store.status().archive_files, store.status().blocks),
        (0, 0)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn store_is_a_map(ops in prop::collection::vec(op(), 1..25)) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let mut model = Model::new();
        let mut log: Vec<Accepted> = Vec::new();
        let mut ids = HashSet::new();
        let mut seq = 0;
        for op in ops {
            match op {
                Op::Commit(sents) => {
                    let mut batch = Vec::new();
                    for sent in &sents {
                        for payload in payloads(sent, &mut seq) {
                            batch.push(accepted(&format!("d{}", sent.device), BASE_MS + batch.len() as i64, payload));
                        }
                    }
                    let committed = store.commit(&batch).unwrap();
                    prop_assert_eq!(committed.len(), batch.len());
                    for (item, committed) in batch.iter().zip(committed) {
                        let stored = matches!(committed, Committed::Stored { .. });
                        prop_assert!(stored);
                        apply(&mut model, item);
                        if let Content::Metrics { id: Some(id), .. } = &item.content {
                            ids.insert((item.device.clone(), id.clone()));
                        }
                    }
                    log.extend(batch);
                }
                Op::Repeat(n) => {
                    let Some(item) = log.iter().rev().nth(n).cloned() else { continue };
                    let committed = store.commit(&[item.clone(), item.clone()]).unwrap();
                    if matches!(item.content, Content::Metrics { id: Some(_), .. }) {
                        prop_assert_eq!(committed, [Committed::Duplicate; 2]);
                    } else {
                        apply(&mut model, &item); // the short form has no id: it counts again
                    }
                }
                Op::Purge(n) => {
                    let device = format!("d{n}");
                    let known = model.keys().any(|(d, _)| *d == device);
                    prop_assert_eq!(store.purge(&device).unwrap(), known);
                    model.retain(|(d, _), _| *d != device);
                    log.retain(|item| item.device.as_str() != device); // what it sends again is new
                }
                Op::Seal => store.seal_now().unwrap(),
                Op::Compact => store.compact_before(ALL.1).unwrap(),
                Op::Reopen => {
                    check(&store, &model);
                    drop(store);
                    store = open(dir.path());
                    prop_assert_eq!(store.status().degraded, None);
                }
            }
        }
        check(&store, &model);
        drop(store);
        let store = open(dir.path());
        check(&store, &model);
        store.seal_now().unwrap();
        check(&store, &model);
        prop_assert_eq!(store.status().head_samples, 0);
        store.compact_before(ALL.1).unwrap();
        check(&store, &model);
        prop_assert_eq!(store.status().blocks, 0);
        drop(store);
        age(dir.path(), &mut model);
    }
}

#[test]
fn live_first_and_backlog_later_is_no_repeat_even_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let payload = |seq: u64| {
        let ts = BASE_MS + seq as i64 * 1000;
        format!(
            "{{\"v\":1,\"device\":\"d\",\"boot\":\"B\",\"seq\":{seq},\"frames\":[{{\"ts\":{ts},\"source\":\"s\",\"metrics\":{{\"x\":{seq}}}}}]}}"
        )
    };
    let item = |seq| accepted("d", BASE_MS, payload(seq));
    let store = open(dir.path());
    store
        .commit(&(500..600).map(item).collect::<Vec<_>>())
        .unwrap();
    store.seal_now().unwrap();
    drop(store);
    let store = open(dir.path());
    for seq in (0..500).rev() {
        assert_eq!(
            store.commit(&[item(seq)]).unwrap(),
            [Committed::Stored { samples: 1 }],
            "{seq}"
        );
    }
    drop(store);
    let store = open(dir.path());
    for seq in 0..600 {
        assert_eq!(
            store.commit(&[item(seq)]).unwrap(),
            [Committed::Duplicate],
            "{seq}"
        );
    }
    let path = ["/s/x".parse().unwrap()];
    let range = store.range("d", &path, ALL.0, ALL.1, 600).unwrap();
    assert_eq!(range[0].len(), 600);
    assert!(range[0].ts.is_sorted());
    assert!(
        store.range("d", &path, ALL.0, ALL.1, 599).is_err(),
        "one more than the limit"
    );
}

#[test]
fn status_and_about_survive_a_restart_sealed_or_not() {
    let about = r#"{"v":1,"device":"d","ts":1795450000000,"agent":{"version":"1.2"},"host":{"hostname":"h"},"sources":[],"descriptors":[]}"#;
    let status = r#"{"status":"online"}"#;
    for sealed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let item = |payload: &str, content| Accepted {
            device: "d".parse().unwrap(),
            received: TimestampMs(BASE_MS),
            payload: payload.to_owned().into(),
            content,
        };
        let batch = [
            item(
                about,
                Content::About(std::sync::Arc::new(serde_json::from_str(about).unwrap())),
            ),
            item(
                status,
                Content::Status(devmon_core::wire::about::Presence::Online),
            ),
        ];
        store.commit(&batch).unwrap();
        if sealed {
            store.seal_now().unwrap();
        }
        drop(store);
        let store = open(dir.path());
        let device = store.device("d").unwrap();
        assert_eq!(
            device.presence,
            Some(devmon_core::wire::about::Presence::Online)
        );
        let version = device.about.unwrap().agent.version.clone();
        assert_eq!(version.as_deref(), Some("1.2"));
        assert_eq!(device.first_seen, TimestampMs(BASE_MS));
        assert_eq!(device.last_metrics, None);
    }
}

#[test]
fn devices_and_series_are_listed_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for device in ["b", "a", "c"] {
        let payload = r#"{"metrics":{"disk":{"a":1,"a-b":2,"a/b":3},"diskette":{"x":1},"t":20.5}}"#;
        store
            .commit(&[accepted(device, BASE_MS, payload.into())])
            .unwrap();
    }
    let ids = |after, limit| -> Vec<String> {
        store
            .devices(after, limit, &|d| d.id.as_str() != "b")
            .iter()
            .map(|d| d.id.to_string())
            .collect()
    };
    assert_eq!(ids(None, 10), ["a", "c"]);
    assert_eq!(ids(None, 1), ["a"]);
    assert_eq!(ids(Some("a"), 1), ["c"]);
    let paths = |prefix, after, limit| -> Vec<String> {
        store
            .series("a", prefix, after, limit)
            .iter()
            .map(|s| s.path.to_string())
            .collect()
    };
    assert_eq!(
        paths("", None, 10),
        ["/disk/a", "/disk/a-b", "/disk/a~1b", "/diskette/x", "/t"]
    );
    assert_eq!(paths("/disk", None, 2), ["/disk/a", "/disk/a-b"]);
    assert_eq!(paths("/disk", Some("/disk/a-b"), 2), ["/disk/a~1b"]);
    assert_eq!(paths("/disk/a", None, 10), ["/disk/a"]);
    assert!(store.series("nobody", "", None, 10).is_empty());
}

#[test]
fn retention_takes_whole_days_and_only_old_ones() {
    let dir = tempfile::tempdir().unwrap();
    let now = TimestampMs::now().0;
    let days = |n: i64| now - n * 86_400_000;
    let message = |ts: i64, leaf: &str| {
        accepted(
            "d",
            now,
            format!("{{\"ts\":{ts},\"metrics\":{{\"s\":{{\"{leaf}\":1}}}}}}"),
        )
    };
    {
        let store = open(dir.path());
        let batch = [
            message(days(40), "old"),
            message(days(40), "both"),
            message(days(1), "both"),
            message(days(1), "new"),
        ];
        store.commit(&batch).unwrap();
        store.seal_now().unwrap();
        assert!(store.status().blocks >= 2);
    }
    let month = Duration::from_secs(30 * 86_400);
    let options = Options {
        retention: month,
        retention_1m: month,
        retention_1h: month,
        ..Options::default()
    };
    let store = Engine::open(dir.path(), options).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while store.device("d").unwrap().series != 2 {
        assert!(
            std::time::Instant::now() < deadline,
            "retention does not begin"
        );
        std::thread::yield_now();
    }
    let listed = store.series("d", "", None, 10);
    assert_eq!(
        listed.iter().map(|s| s.path.as_str()).collect::<Vec<_>>(),
        ["/s/both", "/s/new"]
    );
    assert!(
        listed[0].first_ts.0 > days(31),
        "the oldest sample that is kept"
    );
    let range = store
        .range("d", &["/s/both".parse().unwrap()], ALL.0, ALL.1, 10)
        .unwrap();
    assert_eq!(range[0].ts, [days(1)]);
}

#[test]
fn a_second_collector_can_not_open_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let error = Engine::open(dir.path(), options()).unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
}

#[test]
fn a_database_that_is_damaged_is_set_aside_and_the_journal_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let message = |n: i64| {
        accepted(
            "d",
            BASE_MS,
            format!(
                "{{\"ts\":{},\"metrics\":{{\"s\":{{\"x\":{n}}}}}}}",
                BASE_MS + n
            ),
        )
    };
    {
        let store = open(dir.path());
        store.commit(&[message(1)]).unwrap();
        store.seal_now().unwrap();
        store.commit(&[message(2)]).unwrap();
    }
    std::fs::write(dir.path().join("db/conf"), b"not sled's").unwrap();
    let store = open(dir.path());
    let degraded = store.status().degraded.unwrap();
    assert!(degraded.contains("quarantine"), "{degraded}");
    let range = store
        .range("d", &["/s/x".parse().unwrap()], ALL.0, ALL.1, 10)
        .unwrap();
    let values: Vec<_> = range[0].iter().map(|(_, v)| v).collect();
    // The last segment of the journal is kept even when it is sealed: here nothing is missing at all.
    assert_eq!(values, [Value::Integer(1), Value::Integer(2)]);
    store.seal_now().unwrap();
    drop(store);
    let said = open(dir.path()).status().degraded;
    assert_eq!(
        said.as_ref(),
        Some(&degraded),
        "said until somebody has seen to it"
    );
    let aside = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().path());
    for path in aside.filter(|p| p.to_string_lossy().contains("quarantine")) {
        std::fs::remove_dir_all(path).unwrap();
    }
    assert_eq!(open(dir.path()).status().degraded, None);
}

#[test]
fn a_journal_that_was_moved_away_does_not_hide_what_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let message = |n: i64| {
        accepted(
            "d",
            BASE_MS,
            format!(
                "{{\"ts\":{},\"metrics\":{{\"s\":{{\"x\":{n}}}}}}}",
                BASE_MS + n
            ),
        )
    };
    for n in 0..3 {
        let store = open(dir.path()); // each open begins a segment
        store.commit(&[message(n)]).unwrap();
        store.seal_now().unwrap();
    }
    std::fs::remove_dir_all(dir.path().join("journal")).unwrap();
    let store = open(dir.path());
    store.commit(&[message(3)]).unwrap();
    drop(store);
    let store = open(dir.path());
    let range = store
        .range("d", &["/s/x".parse().unwrap()], ALL.0, ALL.1, 10)
        .unwrap();
    assert_eq!(range[0].len(), 4);
}

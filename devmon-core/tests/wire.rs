//! Messages against a simple model: what is packed is read back bit for bit, and hostile bytes end in a refusal, never a panic.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

use std::collections::BTreeMap;

use devmon_core::path::MAX_DEPTH;
use devmon_core::wire::message::{
    Frame, MAX_DECOMPRESSED_BYTES, MAX_PAYLOAD_BYTES, MAX_SENT_BYTES, Message,
};
use devmon_core::wire::pack::pack;
use devmon_core::wire::{DeviceId, Reason, Refusal, TimestampMs, TopicScheme};
use devmon_core::{MetricPath, MetricTree, Node, Value};
use proptest::prelude::*;

fn refusal(payload: &[u8]) -> Refusal {
    Message::decode(payload).expect_err("it was taken")
}

fn reason(payload: &[u8]) -> Reason {
    refusal(payload).reason
}

fn agent_form(metrics: &str) -> Vec<u8> {
    format!(r#"{{"v":1,"device":"d","boot":"B","seq":7,"frames":[{{"ts":1795450000000,"source":"s","metrics":{metrics}}}]}}"#)
        .into_bytes()
}

fn nested(depth: usize) -> String {
    format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth))
}

#[test]
fn the_documented_message_is_read() {
    let payload = br#"{"v":1,"device":"edge_device_01","boot":"01K","seq":4711,
        "frames":[{"ts":1795450000000,"source":"cpu","metrics":{"utilization":0.125,"core":{"0":{"utilization":0.031}}}}]}"#;
    let message = Message::decode(payload).unwrap();
    assert_eq!(message.device.unwrap().as_str(), "edge_device_01");
    let id = message.id.unwrap();
    assert_eq!((id.boot.as_ref(), id.seq), ("01K", 4711));
    let frame = &message.frames[0];
    let flat: Vec<_> = frame
        .metrics
        .leaves_below("/cpu")
        .map(|(p, v)| format!("{p}={v}"))
        .collect();
    assert_eq!(
        flat,
        ["/cpu/core/0/utilization=0.031", "/cpu/utilization=0.125"]
    );
}

#[test]
fn the_short_form_of_any_publisher_is_read() {
    let message =
        Message::decode(br#"{"metrics":{"temperature_celsius":21.5,"door":{"open":false}}}"#)
            .unwrap();
    assert_eq!((message.device, message.id), (None, None));
    assert_eq!(
        (message.frames[0].ts, message.frames[0].source.clone()),
        (None, None)
    );
    let message = Message::decode(br#"{"ts":1795450000000,"metrics":{"a":1}}"#).unwrap();
    assert_eq!(message.frames[0].ts, Some(TimestampMs(1_795_450_000_000)));
}

#[test]
fn null_is_absent_and_unknown_fields_are_skipped() {
    let message =
        Message::decode(br#"{"metrics":{"a":null,"b":1},"from_the_future":[1,{"x":2}]}"#).unwrap();
    assert_eq!(message.frames[0].metrics.leaves().count(), 1);
}

#[test]
fn integers_keep_every_digit_and_floats_every_bit() {
    let message = Message::decode(
        br#"{"metrics":{"max":9223372036854775807,"min":-9223372036854775808,"odd":9007199254740993,"neg":-0.0,"sub":5e-324,"f":0.30000000000000004,"one":1.0}}"#,
    )
    .unwrap();
    let tree = &message.frames[0].metrics;
    let is = |name: &str, value: Value| match tree.get(name) {
        Some(Node::Leaf(found)) => assert!(
            found.same_bits(&value),
            "{name}: {found:?} is not {value:?}"
        ),
        other => panic!("{name}: {other:?}"),
    };
    is("max", Value::Integer(i64::MAX));
    is("min", Value::Integer(i64::MIN));
    is("odd", Value::Integer(9_007_199_254_740_993));
    is("neg", Value::Float(-0.0));
    is("sub", Value::Float(5e-324));
    is("f", Value::Float(0.1 + 0.2));
    is("one", Value::Float(1.0));
}

#[test]
fn each_mistake_has_its_reason() {
    let rows: &[(&[u8], Reason)] = &[
        (b"", Reason::InvalidJson),
        (b"{not json", Reason::InvalidJson),
        (br#"{"metrics":{"a":NaN}}"#, Reason::InvalidJson),
        (br#"{"metrics":{"a":1e999}}"#, Reason::InvalidJson),
        (br#"{"metrics":{"a":1}} x"#, Reason::InvalidJson),
        (br#"{"metrics":{"a":"\ud800"}}"#, Reason::InvalidJson),
        (b"{\"metrics\":{\"a\xff\":1}}", Reason::InvalidUtf8),
        (b"[]", Reason::InvalidMessage),
        (b"{}", Reason::InvalidMessage),
        (br#"{"metrics":1}"#, Reason::InvalidMessage),
        (br#"{"metrics":{},"frames":[]}"#, Reason::InvalidMessage),
        (br#"{"metrics":{},"metrics":{}}"#, Reason::InvalidMessage),
        (br#"{"v":1,"frames":[]}"#, Reason::InvalidMessage),
        (
            br#"{"v":1,"boot":"a b","seq":1,"frames":[]}"#,
            Reason::InvalidMessage,
        ),
        (
            br#"{"v":1,"boot":"b","seq":-1,"frames":[]}"#,
            Reason::InvalidMessage,
        ),
        (
            br#"{"v":1,"boot":"b","seq":1,"frames":[{"source":"s","metrics":{}}]}"#,
            Reason::InvalidMessage,
        ),
        (
            br#"{"v":1,"device":"no/device","boot":"b","seq":1,"frames":[]}"#,
            Reason::InvalidMessage,
        ),
        (
            br#"{"v":2,"boot":"b","seq":1,"frames":[]}"#,
            Reason::UnsupportedVersion,
        ),
        (br#"{"metrics":{"":1}}"#, Reason::InvalidName),
        (br#"{"metrics":{"a\u0000":1}}"#, Reason::InvalidName),
        (br#"{"metrics":{"a":1,"a":1}}"#, Reason::InvalidName),
        (
            br#"{"v":1,"boot":"b","seq":1,"frames":[{"ts":1,"source":"","metrics":{}}]}"#,
            Reason::InvalidName,
        ),
        (br#"{"metrics":{"a":[1]}}"#, Reason::InvalidValue),
        (
            br#"{"metrics":{"a":9223372036854775808}}"#,
            Reason::InvalidValue,
        ),
        (
            &[0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3],
            Reason::InvalidCompression,
        ),
    ];
    for (payload, expected) in rows {
        let found = refusal(payload);
        assert_eq!(
            found.reason,
            *expected,
            "{}: {}",
            String::from_utf8_lossy(payload),
            found.detail
        );
        assert!(!found.detail.is_empty());
    }
    let named = refusal(br#"{"metrics":{"a":{"b":[1]}}}"#).detail;
    assert!(named.contains("line 1 column"), "{named}");
}

#[test]
fn limits_hold_at_their_edge() {
    assert!(Message::decode(&agent_form(&nested(MAX_DEPTH))).is_ok());
    assert_eq!(reason(&agent_form(&nested(MAX_DEPTH + 1))), Reason::TooDeep);
    assert_eq!(reason(&agent_form(&nested(100_000 / 6))), Reason::TooDeep);

    let wide = |n: usize| {
        let leaves: Vec<_> = (0..n).map(|i| format!("\"{i}\":1")).collect();
        agent_form(&format!("{{{}}}", leaves.join(",")))
    };
    assert!(Message::decode(&wide(10_000)).is_ok());
    assert_eq!(reason(&wide(10_001)), Reason::TooManyLeaves);

    let named = |n: usize| agent_form(&format!("{{\"{}\":1}}", "n".repeat(n)));
    assert!(Message::decode(&named(128)).is_ok());
    assert_eq!(reason(&named(129)), Reason::InvalidName);

    let text = |n: usize| agent_form(&format!("{{\"t\":\"{}\"}}", "x".repeat(n)));
    assert!(Message::decode(&text(1024)).is_ok());
    assert_eq!(reason(&text(1025)), Reason::InvalidValue);

    assert_eq!(
        reason(&vec![b' '; MAX_PAYLOAD_BYTES + 1]),
        Reason::PayloadTooLarge
    );
}

#[test]
fn zstd_is_read_and_a_bomb_refused() {
    let plain = agent_form(r#"{"a":1}"#);
    let packed = zstd::bulk::compress(&plain, 3).unwrap();
    assert_eq!(
        Message::decode(&packed).unwrap(),
        Message::decode(&plain).unwrap()
    );
    let bomb = zstd::bulk::compress(&vec![b' '; 64 * MAX_DECOMPRESSED_BYTES], 19).unwrap();
    assert!(bomb.len() < MAX_PAYLOAD_BYTES);
    assert_eq!(reason(&bomb), Reason::PayloadTooLarge);
}

#[test]
fn clocks_that_cannot_be_right_are_refused() {
    let now = TimestampMs(1_795_450_000_000);
    let year = 365 * 86_400_000;
    let at = |ts: i64| {
        let payload = format!(r#"{{"ts":{ts},"metrics":{{"a":1}}}}"#);
        Message::decode(payload.as_bytes())
            .unwrap()
            .check_times(now, 3_600_000)
    };
    assert!(at(now.0).is_ok() && at(now.0 + 3_600_000).is_ok() && at(now.0 - 10 * year).is_ok());
    for bad in [now.0 + year, now.0 + 3_600_001, 0, -1, i64::MIN, i64::MAX] {
        assert_eq!(
            at(bad).unwrap_err().reason,
            Reason::TimestampOutOfRange,
            "{bad}"
        );
    }
}

#[test]
fn the_topic_has_the_last_word_on_the_device() {
    let message = Message::decode(&agent_form("{}")).unwrap();
    assert!(message.check_device(&"d".parse().unwrap()).is_ok());
    let other: DeviceId = "other".parse().unwrap();
    assert_eq!(
        message.check_device(&other).unwrap_err().reason,
        Reason::DeviceMismatch
    );
}

/// Names with everything that JSON, paths and topics treat specially.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z_]{1,12}",
        "[/~\"\\\\{}+#$ ]{1,6}",
        "\\PC{1,20}",
        Just("~01".to_owned()),
        Just("/".to_owned()),
    ]
    .prop_filter("a legal name", |n| devmon_core::path::check_name(n).is_ok())
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<f64>()
            .prop_filter("finite", |x| x.is_finite())
            .prop_map(Value::Float),
        prop_oneof![
            any::<i64>(),
            Just(i64::MIN),
            Just(i64::MAX),
            Just((1 << 53) + 1)
        ]
        .prop_map(Value::Integer),
        any::<bool>().prop_map(Value::Boolean),
        "\\PC{0,40}".prop_map(Value::Text),
    ]
}

/// A tree, and beside it the model: a plain map from names to value.
fn tree_and_model() -> impl Strategy<Value = (MetricTree, BTreeMap<Vec<String>, Value>)> {
    prop::collection::vec(
        (prop::collection::vec(name(), 1..=MAX_DEPTH), value()),
        0..40,
    )
    .prop_map(|entries| {
        let mut model: BTreeMap<Vec<String>, Value> = BTreeMap::new();
        let mut tree = MetricTree::new();
        for (names, value) in entries {
            // A leaf replaces what is below it, a branch replaces a leaf above it: the model says the same in its own way.
            model.retain(|k, _| !k.starts_with(&names) && !names.starts_with(k));
            let (leaf, branches) = names.split_last().unwrap();
            let mut at = &mut tree;
            for branch in branches {
                at = at.branch(branch.as_str());
            }
            at.insert(leaf.as_str(), Node::Leaf(value.clone()));
            model.insert(names, value);
        }
        (tree, model)
    })
}

proptest! {
    #[test]
    fn flattening_agrees_with_a_map((tree, model) in tree_and_model()) {
        prop_assert_eq!(tree.validate(), Ok(model.len()));
        let flat: BTreeMap<Vec<String>, Value> = tree
            .leaves()
            .map(|(path, value)| (path.segments().map(std::borrow::Cow::into_owned).collect(), value.clone()))
            .collect();
        prop_assert_eq!(flat, model);
    }

    #[test]
    fn packed_trees_are_read_back_bit_for_bit((tree, model) in tree_and_model(), ts in 0..i64::MAX) {
        let device: DeviceId = "d".parse().unwrap();
        let frame = Frame { ts: Some(TimestampMs(ts)), source: Some("s".into()), metrics: tree };
        let packed = pack(&device, "B", &mut 1, std::slice::from_ref(&frame));
        prop_assert_eq!(packed.len(), 1);
        prop_assert!(packed[0].payload.len() <= MAX_SENT_BYTES);
        let back = Message::decode(&packed[0].payload).unwrap();
        prop_assert_eq!(back.frames[0].ts, frame.ts);
        let found: Vec<_> = back.frames[0].metrics.leaves().collect();
        prop_assert_eq!(found.len(), model.len());
        for (path, value) in found {
            let names: Vec<_> = path.segments().map(std::borrow::Cow::into_owned).collect();
            prop_assert!(model[&names].same_bits(value), "{}", path);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::decode(&bytes);
        let mut zstd = vec![0x28, 0xb5, 0x2f, 0xfd];
        zstd.extend(&bytes);
        let _ = Message::decode(&zstd);
        let text = String::from_utf8_lossy(&bytes);
        let _ = text.parse::<MetricPath>();
        let _ = TopicScheme::default().parse(&text);
        let _ = devmon_core::descriptor::parse_toml(&text);
    }

    #[test]
    fn paths_and_names_convert_without_loss(names in prop::collection::vec(name(), 1..=17)) {
        let path = MetricPath::from_segments(&names).unwrap();
        let back: Vec<_> = path.segments().map(std::borrow::Cow::into_owned).collect();
        prop_assert_eq!(&back, &names);
        prop_assert_eq!(path.as_str().parse::<MetricPath>().unwrap(), path);
    }

    #[test]
    fn a_parsed_path_is_its_own_text(text in "/[a-z~/01é]{0,20}") {
        if let Ok(path) = text.parse::<MetricPath>() {
            prop_assert_eq!(path.as_str(), text.as_str());
            let again = MetricPath::from_segments(path.segments()).unwrap();
            prop_assert_eq!(again, path);
        }
    }
}

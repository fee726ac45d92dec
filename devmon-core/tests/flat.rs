//! The reader of flat leaves against the reader of trees: on any bytes they take the same, and refuse the same for the same reason.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use devmon_core::Value;
use devmon_core::wire::{FlatMessage, Message};
use proptest::prelude::*;

/// Panics where the two differ.
fn assert_same(payload: &[u8]) {
    let shown = || String::from_utf8_lossy(&payload[..payload.len().min(2000)]);
    let (tree, flat) = match (Message::decode(payload), FlatMessage::decode(payload)) {
        (Ok(tree), Ok(flat)) => (tree, flat),
        (tree, flat) => return assert_eq!(tree.err(), flat.err(), "{}", shown()),
    };
    assert_eq!((&tree.device, &tree.id), (&flat.device, &flat.id));
    assert_eq!(tree.frames.len(), flat.frames.len());
    for (tree, flat) in tree.frames.iter().zip(&flat.frames) {
        assert_eq!((tree.ts, &tree.source), (flat.ts, &flat.source));
        assert_eq!(flat.shape.len(), flat.values.len());
        let mut leaves: BTreeMap<&str, &Value> = flat.leaves().collect();
        assert_eq!(
            leaves.len(),
            flat.values.len(),
            "a path stands twice: {}",
            shown()
        );
        for (path, value) in tree.metrics.leaves() {
            let found = leaves.remove(path.as_str()).unwrap();
            assert!(found.same_bits(value), "{path}: {found:?} is not {value:?}");
        }
        assert!(leaves.is_empty(), "{leaves:?}");
    }
}

/// JSON that is nearly a tree of metrics: few names, so that they stand twice; all that is no metric.
fn node(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        4 => any::<i32>().prop_map(|n| n.to_string()),
        2 => any::<f64>().prop_map(|n| n.to_string()),
        2 => Just("null".to_owned()),
        1 => prop::sample::select(vec![
            "true", "-0", "-0.0", "1.0", "1e400", "18446744073709551615", "9223372036854775808", "-9223372036854775808", "01", "1.", "NaN",
            "\"\"", "\"a\\u00e9\\n\"", "\"\\ud800\"", "[]", "[1]", "{}", "{,}", "\"open",
        ]).prop_map(str::to_owned),
        1 => (1020usize..1030).prop_map(|n| format!("\"{}\"", "x".repeat(n))),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let name = prop_oneof![
        8 => prop::sample::select(vec!["a", "b", "c", "a/b", "~", "~1", "é", "\\u0061", "\\\"", "aa"]).prop_map(str::to_owned),
        4 => "[a-z]{1,3}",
        1 => prop::sample::select(vec!["", "\\u0000"]).prop_map(str::to_owned),
        1 => (126usize..131).prop_map(|n| "n".repeat(n)),
    ];
    let branch = prop::collection::vec((name, node(depth - 1)), 0..6).prop_map(|entries| {
        let entries: Vec<_> = entries
            .iter()
            .map(|(name, node)| format!("\"{name}\":{node}"))
            .collect();
        format!("{{{}}}", entries.join(", "))
    });
    prop_oneof![leaf, branch].boxed()
}

fn message() -> impl Strategy<Value = String> {
    let field = |node: &str| {
        prop::sample::select(vec![
            r#""v":1"#.to_owned(),
            r#""v":2"#.into(),
            r#""device":"d""#.into(),
            r#""device":"_""#.into(),
            r#""boot":"B""#.into(),
            r#""boot":"""#.into(),
            r#""seq":7"#.into(),
            r#""seq":-1"#.into(),
            r#""ts":1795450000000"#.into(),
            r#""ts":null"#.into(),
            r#""ts":1.5"#.into(),
            r#""source":"s/~""#.into(),
            r#""source":"""#.into(),
            r#""new":[{"a":1}]"#.into(),
            format!(r#""metrics":{node}"#),
            r#""metrics":null"#.into(),
            format!(r#""frames":[{{"ts":1,"source":"s","metrics":{node}}}]"#),
            format!(
                r#""frames":[{{"metrics":{node},"source":"s","ts":1}},{{"ts":2,"source":"t","x":[],"metrics":{{"k":1}}}}]"#
            ),
            r#""frames":[]"#.into(),
            r#""frames":[{"ts":1}]"#.into(),
        ])
    };
    prop_oneof![
        node(4).prop_map(|n| format!(r#"{{"metrics":{n}}}"#)),
        node(4).prop_map(|n| format!(
            r#"{{"v":1,"boot":"B","seq":7,"frames":[{{"ts":1,"source":"s","metrics":{n}}}]}}"#
        )),
        node(2)
            .prop_flat_map(move |n| prop::collection::vec(field(&n), 0..7))
            .prop_map(|fields| format!("{{{}}}", fields.join(","))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]
    #[test]
    fn both_readers_agree_on_hostile_json(text in message(), cut in any::<prop::sample::Index>(), byte in any::<u8>(), how in 0..8) {
        let mut bytes = text.into_bytes();
        let at = cut.index(bytes.len());
        match how {
            0 => bytes[at] = byte,
            1 => bytes.truncate(at),
            2 => bytes.insert(at, byte),
            _ => {}
        }
        assert_same(&bytes);
    }

    #[test]
    fn both_readers_agree_on_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        assert_same(&bytes);
    }
}

fn short(metrics: impl AsRef<str>) -> Vec<u8> {
    format!("{{\"metrics\":{}}}", metrics.as_ref()).into_bytes()
}

#[test]
fn both_readers_agree_at_the_limits() {
    for depth in 15..=18 {
        let nested = format!("{}1{}", r#"{"a/~":"#.repeat(depth), "}".repeat(depth));
        assert_same(&short(nested));
    }
    for leaves in [9_999, 10_000, 10_001] {
        let entries: Vec<_> = (0..leaves).map(|n| format!("\"{n}\":{n}")).collect();
        assert_same(&short(format!("{{{}}}", entries.join(","))));
    }
    // Many names that are not sorted: found twice wherever the second one stands.
    for count in [23, 24, 25, 26, 300] {
        let mut entries: Vec<_> = (0..count).rev().map(|n| format!("\"n{n}\":{{}}")).collect();
        assert_same(&short(format!("{{{}}}", entries.join(","))));
        for twice in [0, 1, count / 2, count - 1] {
            entries.push(format!("\"n{twice}\":1"));
            assert_same(&short(format!("{{{}}}", entries.join(","))));
            entries.insert(count / 2, "\"n1\":null".into());
            assert_same(&short(format!("{{{}}}", entries.join(","))));
            entries.remove(count / 2);
            entries.pop();
        }
    }
    let frames = vec![r#"{"ts":1,"source":"s","metrics":{}}"#; 4097];
    for count in [4096, 4097] {
        let frames = frames[..count].join(",");
        assert_same(format!(r#"{{"v":1,"boot":"B","seq":1,"frames":[{frames}]}}"#).as_bytes());
    }
}

#[test]
fn like_frames_share_a_shape() {
    let read =
        |n: u32| FlatMessage::decode(&short(format!(r#"{{"b":{n},"a":{{"x":1.5}}}}"#))).unwrap();
    let (first, second) = (read(1), read(2));
    assert!(Arc::ptr_eq(&first.frames[0].shape, &second.frames[0].shape));
    assert_eq!(
        first.frames[0].shape.paths().collect::<Vec<_>>(),
        ["/b", "/a/x"]
    );
    // "/b" and "/a" is not "/b/a".
    let one = FlatMessage::decode(&short(r#"{"b":{"a":1}}"#)).unwrap();
    let two = FlatMessage::decode(&short(r#"{"b":1,"a":1}"#)).unwrap();
    assert_ne!(one.frames[0].shape, two.frames[0].shape);
}

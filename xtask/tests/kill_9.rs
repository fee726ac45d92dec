//! Acknowledged means on disk: 1 000 random trees from an independent client, the collector killed with -9 in the middle, every acknowledged leaf
//! read back exactly once, bit for bit.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

mod harness;
#[path = "harness/mqtt.rs"]
mod mqtt;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use harness::{all_pages, collector, encode, free_port, get_json, wait_for};
use mqtt::Publisher;
use serde_json::Value as Json;

const TREES: u16 = 1_000;
const DEVICES: u16 = 5;
const FIRST_TS: i64 = 1_790_000_000_000;

/// xorshift64*: repeatable, and no part of what is tested.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 8) % n
    }

    fn name(&mut self) -> String {
        const PARTS: [&str; 20] = [
            "a", "cpu", "/", "~", "~1", "~0", "/home", "é", "日本", "😀", "\"", "\\", " ", "{x}",
            "%41", "+", "#", "?&=", "\t", ".",
        ];
        (0..=self.below(3))
            .map(|_| PARTS[self.below(20) as usize])
            .collect()
    }

    fn value(&mut self) -> Json {
        match self.below(8) {
            0 => Json::from(self.next() as i64),
            1 => Json::from(
                [i64::MAX, i64::MIN, (1 << 53) + 1, -(1 << 53) - 1, 0][self.below(5) as usize],
            ),
            2 => Json::from(self.below(1000) as i64),
            3 => {
                Json::from([-0.0, 5e-324, f64::MAX, 0.1 + 0.2, 1.0, -1e300][self.below(6) as usize])
            }
            4 => loop {
                let x = f64::from_bits(self.next());
                if x.is_finite() {
                    break Json::from(x);
                }
            },
            5 => Json::from(self.below(100) as f64 / 100.0),
            6 => Json::from(self.below(2) == 0),
            _ => Json::from((0..self.below(5)).map(|_| self.name()).collect::<String>()),
        }
    }

    /// A tree of `depth` levels at most and its leaves by pointer.
    fn tree(&mut self, depth: u32, at: &str, leaves: &mut BTreeMap<String, Json>) -> Json {
        let mut tree = serde_json::Map::new();
        for _ in 0..=self.below(3) {
            let name = self.name();
            if tree.contains_key(&name) {
                continue;
            }
            let pointer = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
            // Half of all nodes branch, down to the very bottom now and then.
            let node = if depth > 1 && self.below(2) == 0 {
                self.tree(depth - 1, &pointer, leaves)
            } else {
                let value = self.value();
                leaves.insert(pointer, value.clone());
                value
            };
            tree.insert(name, node);
        }
        Json::Object(tree)
    }
}

struct Sent {
    device: u16,
    ts: i64,
    payload: Vec<u8>,
    leaves: BTreeMap<String, Json>,
}

fn make() -> Vec<Sent> {
    let mut random = Random(0x00de_ad00_beef);
    (0..TREES)
        .map(|i| {
            let mut leaves = BTreeMap::new();
            let mut tree = random.tree(16, "/s", &mut leaves);
            if i % 50 == 0 {
                // The deepest that is allowed: 16 levels below the source.
                leaves.clear();
                leaves.insert(format!("/s{}", "/d".repeat(16)), Json::from(i));
                tree = (0..16).fold(Json::from(i), |below, _| serde_json::json!({ "d": below }));
            }
            let (device, ts) = (i % DEVICES, FIRST_TS + i64::from(i));
            let frame = serde_json::json!({ "ts": ts, "source": "s", "metrics": tree });
            let message = serde_json::json!(
                { "v": 1, "device": format!("d{device}"), "boot": "B", "seq": i, "frames": [frame] });
            Sent { device, ts, payload: message.to_string().into_bytes(), leaves }
        })
        .collect()
}

/// Equal to the last bit, and of the same type: 1 is not 1.0, 0.0 is not -0.0.
fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(x), Json::Number(y)) if x.is_f64() && y.is_f64() => {
            x.as_f64().unwrap().to_bits() == y.as_f64().unwrap().to_bits()
        }
        _ => a == b,
    }
}

/// Reads everything back and compares: each expected leaf is there once, with its value. What else is there must have been sent too.
fn check(http: &str, sent: &[Sent], acked: &BTreeSet<u16>) {
    for device in 0..DEVICES {
        let mut known: BTreeMap<(String, i64), &Json> = BTreeMap::new();
        let mut due: BTreeSet<(String, i64)> = BTreeSet::new();
        for (i, message) in sent.iter().enumerate().filter(|(_, m)| m.device == device) {
            for (path, value) in &message.leaves {
                known.insert((path.clone(), message.ts), value);
                if acked.contains(&(i as u16 + 1)) {
                    due.insert((path.clone(), message.ts));
                }
            }
        }
        let listed: Vec<String> = all_pages(&format!(
            "{http}/api/v1/devices/d{device}/metrics?limit=1000"
        ))
        .iter()
        .map(|m| m["path"].as_str().unwrap().to_owned())
        .collect();
        assert_eq!(
            listed.len(),
            listed.iter().collect::<BTreeSet<_>>().len(),
            "a metric is listed twice"
        );
        let mut found = BTreeSet::new();
        for paths in listed.chunks(50) {
            let query: String = paths
                .iter()
                .map(|p| format!("path={}&", encode(p)))
                .collect();
            let url = format!(
                "{http}/api/v1/devices/d{device}/series?{query}from={FIRST_TS}&to={}",
                FIRST_TS + 100_000
            );
            let reply = get_json(&url);
            assert_eq!(reply["next_cursor"], Json::Null);
            let times: Vec<i64> = reply["t"]
                .as_array()
                .unwrap()
                .iter()
                .map(|t| t.as_i64().unwrap())
                .collect();
            assert!(
                times.is_sorted_by(|a, b| a < b),
                "a time stands twice, or out of order"
            );
            for series in reply["series"].as_array().unwrap() {
                let path = series["path"].as_str().unwrap();
                let values = series["v"].as_array().unwrap();
                assert_eq!(values.len(), times.len());
                for (&ts, value) in times.iter().zip(values).filter(|(_, v)| !v.is_null()) {
                    let key = (path.to_owned(), ts);
                    let sent = known.get(&key).unwrap_or_else(|| {
                        panic!("d{device}{path} at {ts}: {value} was never sent")
                    });
                    assert!(
                        same(sent, value),
                        "d{device}{path} at {ts}: sent {sent}, read {value}"
                    );
                    assert!(found.insert(key), "d{device}{path} at {ts} came twice");
                }
            }
        }
        let missing: Vec<_> = due.difference(&found).take(5).collect();
        assert!(
            missing.is_empty(),
            "d{device}: acknowledged and gone: {missing:?} (of {} due)",
            due.len()
        );
    }
}

#[test]
fn acknowledged_leaves_survive_kill_9_once_and_bit_for_bit() {
    let dir = harness::tempdir();
    let sent = make();
    let depth = sent
        .iter()
        .flat_map(|m| m.leaves.keys())
        .map(|p| p.matches('/').count())
        .max();
    assert_eq!(depth, Some(17), "the deepest legal path is among them");
    let mqtt_port = free_port();
    let listen = format!("127.0.0.1:{mqtt_port}");
    let acked = Arc::new(Mutex::new(BTreeSet::new()));
    let topic = |device: u16| format!("devmon/v1/0/d{device}/metrics");

    // First life: publish until it is killed, in the middle, while publishes are under way.
    let first = collector(dir.path(), &["--mqtt-listen", &listen]);
    let mut publisher = Publisher::connect(mqtt_port, "independent", acked.clone()).unwrap();
    let mut first = Some(first);
    for (i, message) in sent.iter().enumerate() {
        if !publisher.publish(&topic(message.device), i as u16 + 1, &message.payload) {
            break;
        }
        if i >= 500 && first.is_some() {
            wait_for("some acknowledgements", || {
                (publisher.acked().len() >= 300).then_some(())
            });
            first.take().unwrap().kill_9();
        }
    }
    let before = publisher.acked();
    drop(publisher);
    assert!(
        (300..usize::from(TREES)).contains(&before.len()),
        "{} acknowledged before the kill",
        before.len()
    );

    // Second life: what was acknowledged is there before anything is sent again.
    let second = collector(dir.path(), &["--mqtt-listen", &listen]);
    check(&second.named("http"), &sent, &before);

    // As QoS 1 asks, the client sends again what was not acknowledged; and, being careless, the first hundred once more.
    let mut publisher = Publisher::connect(mqtt_port, "independent", acked).unwrap();
    acked_again(
        &mut publisher,
        &sent,
        &topic,
        (1..=TREES).filter(|id| !before.contains(id)).chain(1..=100),
    );
    check(&second.named("http"), &sent, &(1..=TREES).collect());
    let status = get_json(&format!("{}/api/v1/status", second.named("http")));
    assert!(
        status["intake"]["duplicates"].as_u64().unwrap() >= 100,
        "{status}"
    );
    assert_eq!(status["intake"]["dead_letters"], 0, "{status}");

    // Third life, after an orderly end.
    assert_eq!(second.terminate(), Some(0));
    let third = collector(dir.path(), &["--mqtt-listen", &listen]);
    check(&third.named("http"), &sent, &(1..=TREES).collect());
}

fn acked_again(
    publisher: &mut Publisher,
    sent: &[Sent],
    topic: &dyn Fn(u16) -> String,
    ids: impl Iterator<Item = u16>,
) {
    for id in ids {
        let message = &sent[usize::from(id) - 1];
        assert!(
            publisher.publish(&topic(message.device), id, &message.payload),
            "the connection broke"
        );
    }
    wait_for("every message is acknowledged", || {
        (publisher.acked().len() == usize::from(TREES)).then_some(())
    });
}

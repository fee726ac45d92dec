//! Frames into messages, each below the size that every broker takes.
//!
//! Frames are packed in order. A frame that alone is too large is split into several of the same source and time with disjoint leaves; the collector's
//! (series, time) sees no difference.

use serde::Serialize;

use super::device::DeviceId;
use super::json::TreeJson;
use super::message::{Frame, MAX_FRAMES, MAX_SENT_BYTES};
use super::time::TimestampMs;
use crate::tree::{MetricTree, Node};

/// A message ready to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    pub seq: u64,
    pub payload: Vec<u8>,
}

#[derive(Serialize)]
struct FrameJson<'a> {
    ts: Option<TimestampMs>,
    source: &'a str,
    metrics: TreeJson<'a>,
}

/// Packs frames into as few messages as fit [`MAX_SENT_BYTES`], numbered from `*next_seq`, which is moved on.
///
/// The trees must be valid ([`MetricTree::validate`]); a float that is not finite would be written as `null` and so be absent.
#[must_use]
pub fn pack(device: &DeviceId, boot: &str, next_seq: &mut u64, frames: &[Frame]) -> Vec<Packed> {
    // {"v":1,"device":"…","boot":"…","seq":20 digits,"frames":[…]}
    let envelope = device.as_str().len() + boot.len() + 80;
    let room = MAX_SENT_BYTES - envelope;
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    let mut body = Vec::new();
    let mut count = 0;
    for frame in frames {
        for piece in pieces(frame, room) {
            if !body.is_empty() && (body.len() + 1 + piece.len() > room || count == MAX_FRAMES) {
                bodies.push(std::mem::take(&mut body));
                count = 0;
            }
            if !body.is_empty() {
                body.push(b',');
            }
            body.extend_from_slice(&piece);
            count += 1;
        }
    }
    if !body.is_empty() {
        bodies.push(body);
    }
    bodies
        .into_iter()
        .map(|body| {
            let seq = *next_seq;
            *next_seq += 1;
            let mut payload = format!(
                "{{\"v\":1,\"device\":\"{device}\",\"boot\":\"{boot}\",\"seq\":{seq},\"frames\":["
            )
            .into_bytes();
            payload.extend_from_slice(&body);
            payload.extend_from_slice(b"]}");
            Packed { seq, payload }
        })
        .collect()
}

/// The frame as JSON, halved by leaves until each piece fits. A single leaf always does: 17 names of 128 bytes and a text of 1 KiB are 20 KB escaped.
fn pieces(frame: &Frame, room: usize) -> Vec<Vec<u8>> {
    let json = |metrics: &MetricTree| {
        let frame = FrameJson {
            ts: frame.ts,
            source: frame.source.as_deref().unwrap_or_default(),
            metrics: TreeJson(metrics),
        };
        serde_json::to_vec(&frame).unwrap_or_default() // texts and numbers into memory: no failure is possible
    };
    let mut out = Vec::new();
    let mut waiting = vec![frame.metrics.clone()];
    while let Some(tree) = waiting.pop() {
        let bytes = json(&tree);
        if bytes.len() <= room {
            out.push(bytes);
            continue;
        }
        let (left, right) = halves(&tree);
        waiting.push(right);
        waiting.push(left);
    }
    out
}

/// Two trees with the first and the second half of the leaves.
fn halves(tree: &MetricTree) -> (MetricTree, MetricTree) {
    let half = tree.leaves().count() / 2;
    let (mut left, mut right) = (MetricTree::new(), MetricTree::new());
    for (i, (path, value)) in tree.leaves().enumerate() {
        let mut at = if i < half { &mut left } else { &mut right };
        let names: Vec<_> = path.segments().map(std::borrow::Cow::into_owned).collect();
        if let Some((leaf, branches)) = names.split_last() {
            for name in branches {
                at = at.branch(name.as_str());
            }
            at.insert(leaf.as_str(), Node::Leaf(value.clone()));
        }
    }
    (left, right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Message;

    #[test]
    fn a_large_round_is_split_and_loses_nothing() {
        let device: DeviceId = "d".parse().unwrap();
        let mut metrics = MetricTree::new();
        for i in 0..10_000 {
            metrics
                .branch(format!("branch-{}", i % 7))
                .set(format!("a rather long name {i}"), i);
        }
        let small = Frame {
            ts: Some(TimestampMs(1)),
            source: Some("s".into()),
            metrics: MetricTree::new(),
        };
        let large = Frame {
            metrics,
            ..small.clone()
        };
        let mut seq = 5;
        let packed = pack(&device, "B", &mut seq, &[small, large.clone()]);
        assert!(packed.len() > 1);
        assert_eq!(seq, 5 + packed.len() as u64);
        let mut back = std::collections::BTreeMap::new();
        for (i, message) in packed.iter().enumerate() {
            assert!(message.payload.len() <= MAX_SENT_BYTES);
            let decoded = Message::decode(&message.payload).unwrap();
            assert_eq!(decoded.id.unwrap().seq, 5 + i as u64);
            for frame in decoded.frames {
                for (path, value) in frame.metrics.leaves() {
                    assert!(
                        back.insert(path, value.clone()).is_none(),
                        "a leaf came twice"
                    );
                }
            }
        }
        let sent: std::collections::BTreeMap<_, _> = large
            .metrics
            .leaves()
            .map(|(p, v)| (p, v.clone()))
            .collect();
        assert_eq!(back, sent);
    }
}

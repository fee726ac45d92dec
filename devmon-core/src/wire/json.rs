//! Trees as JSON, both ways, with every limit checked while reading.
//!
//! serde's errors carry text only, but a refusal needs its [`Reason`]. So a check that fails inside serde leaves the refusal in a thread-local
//! slot, and the caller takes it out again and adds the position that the serde error knows.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::refusal::{Reason, Refusal};
use crate::path::{MAX_DEPTH, check_name};
use crate::tree::{MAX_LEAVES, MAX_TEXT_BYTES, MetricTree, Node, Value};

thread_local! {
    static REFUSAL: RefCell<Option<Refusal>> = const { RefCell::new(None) };
}

/// Ends deserialization with a refusal.
pub(super) fn refuse<E: de::Error>(refusal: Refusal) -> E {
    let error = E::custom(&refusal.detail);
    REFUSAL.with_borrow_mut(|slot| *slot = Some(refusal));
    error
}

/// Forgets a refusal of an earlier payload.
pub(super) fn clear_refusal() {
    REFUSAL.with_borrow_mut(|slot| *slot = None);
}

/// The refusal that ended deserialization, if one did, with the error's position in its detail.
pub(super) fn taken_refusal(error: &serde_json::Error) -> Option<Refusal> {
    let mut refusal = REFUSAL.with_borrow_mut(Option::take)?;
    refusal.detail = format!(
        "{} at line {} column {}",
        refusal.detail,
        error.line(),
        error.column()
    );
    Some(refusal)
}

/// Reads a tree from a JSON object. A `null` leaf is no leaf.
pub(super) struct JsonTree;

impl<'de> DeserializeSeed<'de> for JsonTree {
    type Value = MetricTree;

    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<MetricTree, D::Error> {
        let mut leaves = 0;
        d.deserialize_map(BranchVisitor {
            depth: 1,
            leaves: &mut leaves,
        })
    }
}

/// A JSON object at `depth` (1: the tree itself).
struct BranchVisitor<'a> {
    depth: usize,
    leaves: &'a mut usize,
}

impl<'de> Visitor<'de> for BranchVisitor<'_> {
    type Value = MetricTree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of metrics")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MetricTree, A::Error> {
        let mut tree = MetricTree::new();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if let Err(e) = check_name(&name) {
                return Err(refuse(Refusal::new(Reason::InvalidName, e)));
            }
            if self.depth > MAX_DEPTH {
                let detail = format!("deeper than {MAX_DEPTH} levels");
                return Err(refuse(Refusal::new(Reason::TooDeep, detail)));
            }
            if tree.get(&name).is_some() {
                let detail = format!("name {name:?} stands twice in one branch");
                return Err(refuse(Refusal::new(Reason::InvalidName, detail)));
            }
            let node = map.next_value_seed(NodeSeed {
                depth: self.depth,
                leaves: self.leaves,
            })?;
            if let Some(node) = node {
                tree.insert(name, node);
            }
        }
        Ok(tree)
    }
}

/// Whatever stands under a name.
struct NodeSeed<'a> {
    depth: usize,
    leaves: &'a mut usize,
}

impl NodeSeed<'_> {
    fn leaf<E: de::Error>(self, value: Value) -> Result<Option<Node>, E> {
        *self.leaves += 1;
        if *self.leaves > MAX_LEAVES {
            let detail = format!("more than {MAX_LEAVES} leaves in one frame");
            return Err(refuse(Refusal::new(Reason::TooManyLeaves, detail)));
        }
        Ok(Some(Node::Leaf(value)))
    }
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Option<Node>;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Option<Node>, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Option<Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, boolean, text or object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Option<Node>, A::Error> {
        let branch = BranchVisitor {
            depth: self.depth + 1,
            leaves: self.leaves,
        };
        branch.visit_map(map).map(|tree| Some(Node::Branch(tree)))
    }

    fn visit_f64<E: de::Error>(self, x: f64) -> Result<Option<Node>, E> {
        self.leaf(Value::Float(x))
    }

    fn visit_i64<E: de::Error>(self, x: i64) -> Result<Option<Node>, E> {
        self.leaf(Value::Integer(x))
    }

    fn visit_u64<E: de::Error>(self, x: u64) -> Result<Option<Node>, E> {
        match i64::try_from(x) {
            Ok(x) => self.leaf(Value::Integer(x)),
            Err(_) => {
                let detail = format!(
                    "integer {x} is beyond 64 bits with sign; send it as a float or a text"
                );
                Err(refuse(Refusal::new(Reason::InvalidValue, detail)))
            }
        }
    }

    fn visit_bool<E: de::Error>(self, x: bool) -> Result<Option<Node>, E> {
        self.leaf(Value::Boolean(x))
    }

    fn visit_str<E: de::Error>(self, x: &str) -> Result<Option<Node>, E> {
        if x.len() > MAX_TEXT_BYTES {
            let detail = format!("text of {} bytes; the most is {MAX_TEXT_BYTES}", x.len());
            return Err(refuse(Refusal::new(Reason::InvalidValue, detail)));
        }
        self.leaf(Value::Text(x.to_owned()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Option<Node>, E> {
        Ok(None)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<Option<Node>, A::Error> {
        let detail = "an array is no metric; name its items: {\"0\":…,\"1\":…}";
        Err(refuse(Refusal::new(Reason::InvalidValue, detail)))
    }
}

/// Writes a tree as a JSON object.
pub struct TreeJson<'a>(pub &'a MetricTree);

impl Serialize for TreeJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let children = self.0.children();
        let mut map = s.serialize_map(Some(children.len()))?;
        for (name, node) in children {
            match node {
                Node::Branch(tree) => map.serialize_entry(name, &TreeJson(tree))?,
                Node::Leaf(value) => map.serialize_entry(name, &ValueJson(value))?,
            }
        }
        map.end()
    }
}

/// How long a tree is as JSON. Nothing is kept of the text.
#[must_use]
pub fn json_bytes(tree: &MetricTree) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Texts and numbers, and a writer that takes everything: no failure is possible.
    let _ = serde_json::to_writer(&mut count, &TreeJson(tree));
    count.0
}

/// Writes a value as a JSON number, boolean or text.
pub struct ValueJson<'a>(pub &'a Value);

impl Serialize for ValueJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Float(x) => s.serialize_f64(*x),
            Value::Integer(x) => s.serialize_i64(*x),
            Value::Boolean(x) => s.serialize_bool(*x),
            Value::Text(x) => s.serialize_str(x),
        }
    }
}

/// Reads a tree from JSON text: a C plugin's round, an executable's output.
///
/// # Errors
/// [`Refusal`] as for a message.
pub fn tree_from_json(text: &str) -> Result<MetricTree, Refusal> {
    clear_refusal();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    JsonTree
        .deserialize(&mut deserializer)
        .and_then(|tree| deserializer.end().map(|()| tree))
        .map_err(|error| {
            taken_refusal(&error).unwrap_or_else(|| Refusal::new(Reason::InvalidJson, error))
        })
}

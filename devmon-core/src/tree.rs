//! The recursive value that a source returns: branches map names to nodes, leaves are [`Value`]s.
//!
//! Building a tree never fails; [`MetricTree::validate`] checks the limits once, where the tree enters a daemon: names as in
//! [`check_name`](crate::path::check_name), depth ≤ [`MAX_DEPTH`], ≤ [`MAX_LEAVES`] leaves, texts ≤ [`MAX_TEXT_BYTES`], finite floats.
//! Absent is absent: an empty branch is legal and has no leaves, and there is no null.

use std::collections::BTreeMap;
use std::fmt;

use crate::path::{self, MAX_DEPTH, MetricPath, PathError};

/// Most leaves in one frame. A 256-core machine with 200 mounts has about 2 000; beyond 10 000 a source is listing things, not measuring.
pub const MAX_LEAVES: usize = 10_000;
/// Longest text value in bytes of UTF-8. Texts are states and names; logs belong elsewhere.
pub const MAX_TEXT_BYTES: usize = 1024;

/// What a node takes beside the bytes of its name and text: its place in the map, and what the allocator adds.
const NODE_BYTES: usize = size_of::<(String, Node)>() + 40;

/// A leaf. Floats keep every bit; integers are exact over all of i64.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Float(f64),
    Integer(i64),
    Boolean(bool),
    Text(String),
}

impl Value {
    /// The word for this value's type in the API: `float`, `integer`, `boolean`, `text`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Float(_) => "float",
            Self::Integer(_) => "integer",
            Self::Boolean(_) => "boolean",
            Self::Text(_) => "text",
        }
    }

    /// The value as a number for arithmetic: integers beyond 2^53 lose their last digits, booleans are 0 and 1, texts are `None`.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(x) => Some(*x),
            Self::Integer(x) => Some(*x as f64),
            Self::Boolean(x) => Some(f64::from(u8::from(*x))),
            Self::Text(_) => None,
        }
    }

    /// Equal to the last bit: `-0.0` and `0.0` differ, a value equals itself whatever its bits. This, not `==`, decides duplicates.
    #[must_use]
    pub fn same_bits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (a, b) => a == b,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(x) => write!(f, "{x:?}"), // Debug keeps "1.0" apart from the integer 1
            Self::Integer(x) => write!(f, "{x}"),
            Self::Boolean(x) => write!(f, "{x}"),
            Self::Text(x) => f.write_str(x),
        }
    }
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),*) => { $(
        impl From<$from> for Value { fn from(x: $from) -> Self { Self::$variant(x.into()) } }
    )* };
}
value_from!(f64 => Float, f32 => Float, i64 => Integer, i32 => Integer, u32 => Integer, u16 => Integer, u8 => Integer,
            bool => Boolean, String => Text, &str => Text);

impl From<u64> for Value {
    /// Exact up to `i64::MAX` (8 EiB, or 292 years in ns); beyond that the nearest float.
    fn from(x: u64) -> Self {
        i64::try_from(x).map_or(Self::Float(x as f64), Self::Integer)
    }
}

/// A branch or a leaf.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    Branch(MetricTree),
    Leaf(Value),
}

/// A branch: names, sorted, each with its node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricTree {
    children: BTreeMap<String, Node>,
}

impl MetricTree {
    /// An empty branch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the leaf `name`, replacing what was there.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.insert(name, Node::Leaf(value.into()));
    }

    /// Sets the leaf `name` if there is a value, and leaves it out otherwise: no data, no leaf.
    pub fn set_some<V: Into<Value>>(&mut self, name: impl Into<String>, value: Option<V>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// The branch `name`, made if it is missing. A leaf of that name is replaced by the branch.
    pub fn branch(&mut self, name: impl Into<String>) -> &mut MetricTree {
        let node = self
            .children
            .entry(name.into())
            .and_modify(|node| {
                if matches!(node, Node::Leaf(_)) {
                    *node = Node::Branch(MetricTree::new());
                }
            })
            .or_insert_with(|| Node::Branch(MetricTree::new()));
        match node {
            Node::Branch(tree) => tree,
            Node::Leaf(_) => unreachable!("a leaf was replaced above"),
        }
    }

    /// Puts a node under `name` and returns what it replaced.
    pub fn insert(&mut self, name: impl Into<String>, node: Node) -> Option<Node> {
        self.children.insert(name.into(), node)
    }

    /// The node directly below this branch.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.children.get(name)
    }

    /// Names and nodes of this branch in order.
    pub fn children(&self) -> impl ExactSizeIterator<Item = (&str, &Node)> {
        self.children
            .iter()
            .map(|(name, node)| (name.as_str(), node))
    }

    /// True if nothing hangs below this branch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// About what it takes in memory: nodes, names and texts. For bounds; a JSON text of it is no longer, but for escapes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let node = |(name, node): (&String, &Node)| {
            let below = match node {
                Node::Leaf(Value::Text(text)) => text.len(),
                Node::Leaf(_) => 0,
                Node::Branch(tree) => tree.size_bytes(),
            };
            NODE_BYTES + name.len() + below
        };
        self.children.iter().map(node).sum()
    }

    /// All leaves with their paths, in order. Leaves below illegal names or below [`MAX_DEPTH`] are still listed: [`validate`](Self::validate) first.
    pub fn leaves(&self) -> impl Iterator<Item = (MetricPath, &Value)> {
        self.leaves_below("")
    }

    /// All leaves with their paths below the branch at `prefix` (`/cpu`, or empty), in order: flattening.
    pub fn leaves_below(&self, prefix: &str) -> impl Iterator<Item = (MetricPath, &Value)> {
        let mut out = Vec::new();
        let mut text = prefix.to_owned();
        self.visit(&mut text, &mut |path, value| {
            out.push((MetricPath::from_checked(path.to_owned()), value));
        });
        out.into_iter()
    }

    /// Calls `f` with the path text and value of each leaf, in order; `text` holds the prefix and is restored. No allocation per leaf.
    pub fn visit<'a>(&'a self, text: &mut String, f: &mut impl FnMut(&str, &'a Value)) {
        for (name, node) in &self.children {
            let len = text.len();
            path::push_segment(text, name);
            match node {
                Node::Leaf(value) => f(text, value),
                Node::Branch(tree) => tree.visit(text, f),
            }
            text.truncate(len);
        }
    }

    /// Checks every limit and returns the number of leaves.
    ///
    /// # Errors
    /// [`TreeError`] for the first thing that is wrong, with its path.
    pub fn validate(&self) -> Result<usize, TreeError> {
        let mut leaves = 0;
        self.validate_below(&mut String::new(), 1, &mut leaves)?;
        Ok(leaves)
    }

    fn validate_below(
        &self,
        text: &mut String,
        depth: usize,
        leaves: &mut usize,
    ) -> Result<(), TreeError> {
        for (name, node) in &self.children {
            path::check_name(name).map_err(|source| TreeError::Name {
                at: text.clone(),
                source,
            })?;
            if depth > MAX_DEPTH {
                return Err(TreeError::TooDeep { at: text.clone() });
            }
            let len = text.len();
            path::push_segment(text, name);
            match node {
                Node::Branch(tree) => tree.validate_below(text, depth + 1, leaves)?,
                Node::Leaf(value) => {
                    *leaves += 1;
                    if *leaves > MAX_LEAVES {
                        return Err(TreeError::TooManyLeaves);
                    }
                    check_value(value, text)?;
                }
            }
            text.truncate(len);
        }
        Ok(())
    }

    /// Takes out every float that is not a finite number and returns their paths: JSON cannot carry them, and "no data" is "no leaf".
    pub fn remove_non_finite(&mut self) -> Vec<String> {
        let mut removed = Vec::new();
        self.remove_non_finite_below(&mut String::new(), &mut removed);
        removed
    }

    fn remove_non_finite_below(&mut self, text: &mut String, removed: &mut Vec<String>) {
        self.children.retain(|name, node| {
            let len = text.len();
            path::push_segment(text, name);
            let keep = match node {
                Node::Leaf(Value::Float(x)) if !x.is_finite() => {
                    removed.push(text.clone());
                    false
                }
                Node::Leaf(_) => true,
                Node::Branch(tree) => {
                    tree.remove_non_finite_below(text, removed);
                    true
                }
            };
            text.truncate(len);
            keep
        });
    }
}

fn check_value(value: &Value, at: &str) -> Result<(), TreeError> {
    match value {
        Value::Float(x) if !x.is_finite() => Err(TreeError::NotFinite { at: at.to_owned() }),
        Value::Text(x) if x.len() > MAX_TEXT_BYTES => Err(TreeError::TextTooLong {
            at: at.to_owned(),
            size_bytes: x.len(),
        }),
        _ => Ok(()),
    }
}

/// Why a tree was refused; `at` is the path (empty: the root).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// An illegal name directly below `at`.
    #[error("below {at:?}: {source}")]
    Name {
        at: String,
        #[source]
        source: PathError,
    },
    /// Something hangs below a branch at depth [`MAX_DEPTH`].
    #[error("deeper than {MAX_DEPTH} levels at {at:?}")]
    TooDeep { at: String },
    /// More than [`MAX_LEAVES`] leaves.
    #[error("more than {MAX_LEAVES} leaves in one frame")]
    TooManyLeaves,
    /// NaN or an infinity.
    #[error("{at}: not a finite number")]
    NotFinite { at: String },
    /// A text over [`MAX_TEXT_BYTES`].
    #[error("{at}: text of {size_bytes} bytes; the most is {MAX_TEXT_BYTES}")]
    TextTooLong { at: String, size_bytes: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(depth: usize) -> MetricTree {
        let mut tree = MetricTree::new();
        let mut at = &mut tree;
        for _ in 1..depth {
            at = at.branch("d");
        }
        at.set("leaf", 1);
        tree
    }

    #[test]
    fn leaves_come_flat_and_in_order() {
        let mut tree = MetricTree::new();
        tree.set("utilization", 0.5);
        tree.branch("core").branch("0").set("utilization", 0.25);
        let flat: Vec<_> = tree
            .leaves_below("/cpu")
            .map(|(p, v)| format!("{p} {v}"))
            .collect();
        assert_eq!(
            flat,
            ["/cpu/core/0/utilization 0.25", "/cpu/utilization 0.5"]
        );
    }

    #[test]
    fn limits_hold_at_their_edge() {
        assert_eq!(chain(MAX_DEPTH).validate(), Ok(1));
        assert!(matches!(
            chain(MAX_DEPTH + 1).validate(),
            Err(TreeError::TooDeep { .. })
        ));
        let mut wide = MetricTree::new();
        for i in 0..MAX_LEAVES {
            wide.set(i.to_string(), true);
        }
        assert_eq!(wide.validate(), Ok(MAX_LEAVES));
        wide.set("more", true);
        assert_eq!(wide.validate(), Err(TreeError::TooManyLeaves));
        let mut text = MetricTree::new();
        text.set("t", "x".repeat(MAX_TEXT_BYTES));
        assert!(text.validate().is_ok());
        text.set("t", "x".repeat(MAX_TEXT_BYTES + 1));
        assert!(matches!(
            text.validate(),
            Err(TreeError::TextTooLong {
                size_bytes: 1025,
                ..
            })
        ));
    }

    #[test]
    fn the_size_in_memory_counts_names_and_texts() {
        let mut tree = MetricTree::new();
        for i in 0..100 {
            let branch = tree.branch(format!("{i:0100}"));
            branch.set("text", "x".repeat(1_000));
            branch.set("number", 1.5);
        }
        let size = tree.size_bytes();
        assert!((110_000..160_000).contains(&size), "{size}");
    }

    #[test]
    fn non_finite_floats_are_refused_or_removed_by_path() {
        let mut tree = MetricTree::new();
        tree.branch("a").set("nan", f64::NAN);
        tree.set("inf", f64::INFINITY);
        tree.set("fine", 1.0);
        assert!(matches!(tree.validate(), Err(TreeError::NotFinite { .. })));
        assert_eq!(tree.remove_non_finite(), ["/a/nan", "/inf"]);
        assert_eq!(tree.validate(), Ok(1));
    }

    #[test]
    fn a_u64_beyond_i64_becomes_the_nearest_float() {
        assert_eq!(Value::from(u64::MAX), Value::Float(u64::MAX as f64));
        assert_eq!(Value::from(i64::MAX as u64), Value::Integer(i64::MAX));
    }
}

//! The Rust entry: types with a checked layout, and the way of a tree across the boundary and back.
//!
//! A tree crosses as a list of [`AbiNode`]s whose `kind` is an open number. A fixed struct with open numbers was chosen over an abi_stable
//! `NonExhaustive` enum: it cannot reject an older peer, costs no boxing, and a kind from the future is skipped and counted, not fatal.

// abi_stable's derives expand to items in blocks, to unsafe vtable code and to names of their own; none of it is ours to change.
#![expect(unsafe_code, non_local_definitions)]
#![allow(
    clippy::allow_attributes,
    unreachable_pub,
    elided_lifetimes_in_paths,
    non_camel_case_types
)]

use abi_stable::{
    StableAbi,
    library::RootModule,
    sabi_trait,
    sabi_types::VersionStrings,
    std_types::{RBox, RResult, RStr, RString, RVec},
};

use crate::source::CollectError;
use crate::tree::{MetricTree, Node, Value};

/// What an [`AbiNode`] is. Readers skip numbers that they do not know.
pub mod kind {
    pub const BRANCH: u8 = 0;
    pub const FLOAT: u8 = 1;
    pub const INTEGER: u8 = 2;
    pub const BOOLEAN: u8 = 3;
    pub const TEXT: u8 = 4;
}

/// How a round ended. A reader takes numbers that it does not know for [`FAILED`](outcome::FAILED).
pub mod outcome {
    pub const TREE: u8 = 0;
    pub const NO_DATA: u8 = 1;
    pub const UNAVAILABLE: u8 = 2;
    pub const FAILED: u8 = 3;
    pub const PANICKED: u8 = 4;
}

/// One named node. 88 bytes on 64-bit machines; this struct never changes.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct AbiNode {
    pub name: RString,
    /// One of [`kind`].
    pub kind: u8,
    /// Float: its bits. Integer: its two's complement. Boolean: 0 or 1. Else 0.
    pub number: u64,
    /// Text: its value. Else empty.
    pub text: RString,
    /// Branch: its nodes. Else empty.
    pub children: RVec<AbiNode>,
}

/// What a round returned; this struct never changes.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct AbiCollected {
    /// One of [`outcome`].
    pub outcome: u8,
    /// Why there is no tree, for an operator. Empty with a tree.
    pub reason: RString,
    pub tree: RVec<AbiNode>,
}

/// A running source behind the boundary. Called by one thread at a time; never unwinds.
#[sabi_trait]
pub trait AbiSource: Send {
    /// The plugin's `metrics.toml`.
    fn describe(&self) -> RString;

    /// One round.
    #[sabi(last_prefix_field)]
    fn collect(&mut self) -> AbiCollected;

    /// Since minor 1. Facts as a JSON object; `{}` when there are none.
    fn facts(&self) -> RString {
        RString::from("{}")
    }
}

/// An owned source of some plugin.
pub type BoxedSource = AbiSource_TO<'static, RBox<()>>;

/// What a plugin exports: plain functions and its name. Grows at the end only.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModule_Ref)))]
#[sabi(missing_field(panic))]
pub struct PluginModule {
    /// Name of the source: the first segment of its paths.
    pub name: extern "C" fn() -> RString,
    /// The plugin's own version, for people.
    pub version: extern "C" fn() -> RString,
    /// Starts a source. The argument is its configuration as a JSON object, `{}` by default. The error says what an operator should do.
    #[sabi(last_prefix_field)]
    pub new: extern "C" fn(RStr<'_>) -> RResult<BoxedSource, RString>,
    /// Since minor 1. The interval that suits this source, in ms; 0 for no opinion. Configuration overrides it.
    #[sabi(missing_field(option))]
    pub default_interval_ms: extern "C" fn() -> u64,
}

impl RootModule for PluginModule_Ref {
    abi_stable::declare_root_module_statics! {PluginModule_Ref}
    const BASE_NAME: &'static str = "devmon_plugin";
    const NAME: &'static str = "devmon_plugin";
    // ABI_MAJOR.ABI_MINOR, not the package's version: the agent compares the major itself, since its layout check goes both ways.
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.1.0");
}

/// Deepest tree that is read from a plugin. Validation refuses far shallower ones; this bounds the recursion on the way in.
const MAX_NODE_DEPTH: usize = 64;

/// Turns a tree into what crosses the boundary.
#[must_use]
pub fn nodes_from_tree(tree: &MetricTree) -> RVec<AbiNode> {
    tree.children()
        .map(|(name, node)| {
            let mut out = AbiNode {
                name: name.into(),
                kind: kind::BRANCH,
                number: 0,
                text: RString::new(),
                children: RVec::new(),
            };
            match node {
                Node::Branch(tree) => out.children = nodes_from_tree(tree),
                Node::Leaf(Value::Float(x)) => (out.kind, out.number) = (kind::FLOAT, x.to_bits()),
                Node::Leaf(Value::Integer(x)) => {
                    (out.kind, out.number) = (kind::INTEGER, x.cast_unsigned());
                }
                Node::Leaf(Value::Boolean(x)) => {
                    (out.kind, out.number) = (kind::BOOLEAN, u64::from(*x));
                }
                Node::Leaf(Value::Text(x)) => {
                    (out.kind, out.text) = (kind::TEXT, x.as_str().into());
                }
            }
            out
        })
        .collect()
}

/// Rebuilds the tree on the agent's side and counts the nodes of kinds that this version does not know. The result is not yet validated.
///
/// # Errors
/// [`CollectError`] as the plugin said, or `Failed` for a tree deeper than can be read or with a name twice.
pub fn tree_from_collected(collected: AbiCollected) -> Result<(MetricTree, usize), CollectError> {
    let reason = collected.reason.into_string();
    match collected.outcome {
        outcome::TREE => {
            let mut unknown = 0;
            let tree = tree_from_nodes(collected.tree, 1, &mut unknown)?;
            Ok((tree, unknown))
        }
        outcome::NO_DATA => Err(CollectError::NoData),
        outcome::UNAVAILABLE => Err(CollectError::Unavailable(reason)),
        outcome::PANICKED => Err(CollectError::Failed(format!("panicked: {reason}"))),
        _ => Err(CollectError::Failed(reason)),
    }
}

fn tree_from_nodes(
    nodes: RVec<AbiNode>,
    depth: usize,
    unknown: &mut usize,
) -> Result<MetricTree, CollectError> {
    if depth > MAX_NODE_DEPTH {
        return Err(CollectError::Failed(format!(
            "the tree is deeper than {MAX_NODE_DEPTH} levels"
        )));
    }
    let mut tree = MetricTree::new();
    for node in nodes {
        let name = node.name.into_string();
        let value = match node.kind {
            kind::BRANCH => Node::Branch(tree_from_nodes(node.children, depth + 1, unknown)?),
            kind::FLOAT => Node::Leaf(Value::Float(f64::from_bits(node.number))),
            kind::INTEGER => Node::Leaf(Value::Integer(node.number.cast_signed())),
            kind::BOOLEAN => Node::Leaf(Value::Boolean(node.number != 0)),
            kind::TEXT => Node::Leaf(Value::Text(node.text.into_string())),
            _ => {
                *unknown += 1;
                continue;
            }
        };
        if tree.get(&name).is_some() {
            return Err(CollectError::Failed(format!(
                "name {name:?} stands twice in one branch"
            )));
        }
        tree.insert(name, value);
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(tree: RVec<AbiNode>) -> AbiCollected {
        AbiCollected {
            outcome: outcome::TREE,
            reason: RString::new(),
            tree,
        }
    }

    #[test]
    fn a_tree_crosses_bit_for_bit() {
        let mut tree = MetricTree::new();
        tree.set("f", -0.0);
        tree.set("i", i64::MIN);
        tree.set("b", true);
        tree.set("t", "héllo");
        tree.branch("deep").branch("er").set("x", f64::MIN_POSITIVE);
        let (back, unknown) = tree_from_collected(collected(nodes_from_tree(&tree))).unwrap();
        assert_eq!((&back, unknown), (&tree, 0));
        let Some(Node::Leaf(f)) = back.get("f") else {
            panic!("no leaf f")
        };
        assert!(f.same_bits(&Value::Float(-0.0)));
    }

    #[test]
    fn kinds_from_the_future_are_skipped_and_counted() {
        let mut tree = MetricTree::new();
        tree.set("known", 1);
        tree.set("new", 2);
        let mut nodes = nodes_from_tree(&tree);
        nodes[1].kind = 200;
        let (back, unknown) = tree_from_collected(collected(nodes)).unwrap();
        assert_eq!(unknown, 1);
        assert_eq!(back.leaves().count(), 1);
    }

    #[test]
    fn outcomes_arrive_as_what_they_are() {
        let say = |outcome| {
            tree_from_collected(AbiCollected {
                outcome,
                reason: "why".into(),
                tree: RVec::new(),
            })
        };
        assert_eq!(say(outcome::NO_DATA), Err(CollectError::NoData));
        assert_eq!(
            say(outcome::UNAVAILABLE),
            Err(CollectError::Unavailable("why".into()))
        );
        assert_eq!(
            say(outcome::PANICKED),
            Err(CollectError::Failed("panicked: why".into()))
        );
        assert_eq!(say(99), Err(CollectError::Failed("why".into())));
    }

    #[test]
    fn the_header_states_the_abi_version() {
        let stated = PluginModule_Ref::VERSION_STRINGS.version.as_str();
        assert_eq!(
            stated,
            format!("{}.{}.0", super::super::ABI_MAJOR, super::super::ABI_MINOR)
        );
    }

    #[test]
    fn a_bottomless_or_doubled_tree_is_refused() {
        let leaf = AbiNode {
            name: "a".into(),
            kind: kind::BRANCH,
            number: 0,
            text: RString::new(),
            children: RVec::new(),
        };
        let mut node = leaf.clone();
        for _ in 0..100 {
            node = AbiNode {
                children: vec![node].into(),
                ..leaf.clone()
            };
        }
        assert!(tree_from_collected(collected(vec![node].into())).is_err());
        assert!(tree_from_collected(collected(vec![leaf.clone(), leaf].into())).is_err());
    }
}

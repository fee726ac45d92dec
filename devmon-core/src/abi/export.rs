//! `export_plugin!`: everything unsafe or easily forgotten, done once, inside the plugin.
//!
//! The macro makes the root module; the functions here catch panics, turn errors into reasons and trees into [`AbiNode`](super::source::AbiNode)s. A panic in a
//! constructor or in `collect` becomes text for the operator; the source is not used again after a panic in `collect` until it is made anew,
//! since its state may be half changed.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use abi_stable::std_types::{RResult, RString, RVec};
use abi_stable::type_level::downcasting::TD_Opaque;

use super::source::{AbiCollected, AbiSource, AbiSource_TO, BoxedSource, nodes_from_tree, outcome};
use crate::source::{CollectError, MetricSource};
use crate::tree::{MetricTree, Node, Value};

/// A plugin's source as it stands behind the boundary.
pub struct Exported<S: MetricSource> {
    /// `None` only while it is dropped.
    inner: Option<S>,
    metrics_toml: &'static str,
    /// Set by a panic in `collect`: the state may be broken, so it is not touched again.
    poisoned: Option<String>,
}

impl<S: MetricSource> AbiSource for Exported<S> {
    fn describe(&self) -> RString {
        self.metrics_toml.into()
    }

    fn collect(&mut self) -> AbiCollected {
        if let Some(text) = &self.poisoned {
            return without_tree(outcome::PANICKED, text);
        }
        let Some(inner) = &mut self.inner else {
            return without_tree(outcome::FAILED, "the source has ended");
        };
        match catch_unwind(AssertUnwindSafe(|| collected(inner.collect()))) {
            Ok(collected) => collected,
            Err(panic) => {
                let text = panic_text(panic.as_ref());
                let collected = without_tree(outcome::PANICKED, &text);
                self.poisoned = Some(text);
                collected
            }
        }
    }

    fn facts(&self) -> RString {
        let facts = || self.inner.as_ref().map(|inner| facts_json(&inner.facts()));
        catch_unwind(AssertUnwindSafe(facts))
            .ok()
            .flatten()
            .unwrap_or_else(|| "{}".into())
            .into()
    }
}

impl<S: MetricSource> Drop for Exported<S> {
    /// A panic in the author's own `drop` would cross the boundary, too.
    fn drop(&mut self) {
        let inner = self.inner.take();
        let dropped = catch_unwind(AssertUnwindSafe(move || drop(inner)));
        drop(dropped);
    }
}

/// Runs a constructor and boxes what it makes.
pub fn start<S: MetricSource, E: std::fmt::Display>(
    metrics_toml: &'static str,
    new: impl FnOnce() -> Result<S, E>,
) -> RResult<BoxedSource, RString> {
    match catch_unwind(AssertUnwindSafe(|| new().map_err(|e| e.to_string()))) {
        Ok(Ok(inner)) => {
            let exported = Exported {
                inner: Some(inner),
                metrics_toml,
                poisoned: None,
            };
            RResult::ROk(AbiSource_TO::from_value(exported, TD_Opaque))
        }
        Ok(Err(error)) => RResult::RErr(error.into()),
        Err(panic) => {
            let text = format!(
                "panicked in its constructor: {}",
                panic_text(panic.as_ref())
            );
            RResult::RErr(text.into())
        }
    }
}

/// A round's result as it crosses.
pub fn collected(result: Result<MetricTree, CollectError>) -> AbiCollected {
    match result {
        Ok(tree) => AbiCollected {
            outcome: outcome::TREE,
            reason: RString::new(),
            tree: nodes_from_tree(&tree),
        },
        Err(CollectError::NoData) => without_tree(outcome::NO_DATA, ""),
        Err(CollectError::Unavailable(reason)) => without_tree(outcome::UNAVAILABLE, &reason),
        Err(CollectError::Failed(reason)) => without_tree(outcome::FAILED, &reason),
    }
}

fn without_tree(outcome: u8, reason: &str) -> AbiCollected {
    AbiCollected {
        outcome,
        reason: reason.into(),
        tree: RVec::new(),
    }
}

/// What a panic said, if it said text.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// Facts as a JSON object. Written by hand, for plugins do not link a JSON writer for four kinds of value.
pub fn facts_json(facts: &MetricTree) -> String {
    let mut out = String::from("{");
    for (i, (name, node)) in facts.children().enumerate() {
        if i > 0 {
            out.push(',');
        }
        push_json_text(&mut out, name);
        out.push(':');
        match node {
            Node::Branch(tree) => out.push_str(&facts_json(tree)),
            Node::Leaf(Value::Text(text)) => push_json_text(&mut out, text),
            Node::Leaf(Value::Float(x)) if !x.is_finite() => out.push_str("null"),
            Node::Leaf(value) => out.push_str(&value.to_string()),
        }
    }
    out.push('}');
    out
}

fn push_json_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Makes a `cdylib` a devmon plugin.
///
/// - `name`: the source's name, first segment of its paths;
/// - `metrics`: its `metrics.toml`, as text;
/// - `new`: how a source is made from its configuration (a JSON object as text): `fn(&str) -> Result<impl MetricSource, impl Display>`;
/// - `interval_ms` (optional): the interval that suits it.
///
/// Build with unwinding panics (the default): with `panic = "abort"` a panic of the plugin would end the agent.
///
/// ```
/// # use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};
/// struct Answer;
/// impl MetricSource for Answer {
///     fn collect(&mut self) -> Result<MetricTree, CollectError> {
///         let mut tree = MetricTree::new();
///         tree.set("answer", 42);
///         Ok(tree)
///     }
/// }
/// export_plugin! {
///     name: "answer",
///     metrics: "[[metric]]\npath = '/answer'\nunit = '1'\nkind = 'gauge'\nhelp = 'The answer.'\n",
///     new: |_config: &str| Ok::<_, String>(Answer),
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_plugin {
    (name: $name:expr, metrics: $metrics:expr, new: $new:expr $(,)?) => {
        $crate::export_plugin! { name: $name, metrics: $metrics, new: $new, interval_ms: 0 }
    };
    (name: $name:expr, metrics: $metrics:expr, new: $new:expr, interval_ms: $interval_ms:expr $(,)?) => {
        #[doc(hidden)]
        #[allow(
            unsafe_code,
            unreachable_pub,
            clippy::undocumented_unsafe_blocks,
            clippy::allow_attributes
        )]
        mod __devmon_plugin {
            #[allow(unused_imports)]
            use super::*;
            use p::PrefixTypeTrait as _;
            use $crate::abi::private as p;

            extern "C" fn name() -> p::RString {
                $name.into()
            }
            extern "C" fn version() -> p::RString {
                env!("CARGO_PKG_VERSION").into()
            }
            extern "C" fn new(
                config: p::RStr<'_>,
            ) -> p::RResult<$crate::abi::source::BoxedSource, p::RString> {
                p::start($metrics, || ($new)(config.as_str()))
            }
            extern "C" fn default_interval_ms() -> u64 {
                $interval_ms
            }
            fn root() -> $crate::abi::source::PluginModule_Ref {
                $crate::abi::source::PluginModule {
                    name,
                    version,
                    new,
                    default_interval_ms,
                }
                .leak_into_prefix()
            }
            extern "C" fn erased_root() -> p::RootModuleResult {
                p::__call_root_module_loader(root)
            }
            // What abi_stable's #[export_root_module] makes; that attribute names `::abi_stable`, which plugins need not depend on.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            pub static HEADER: p::LibHeader = unsafe {
                p::LibHeader::from_constructor::<$crate::abi::source::PluginModule_Ref>(
                    erased_root,
                    p::CheckTypeLayout::Yes,
                )
            };
        }
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_exported_name_is_the_one_that_abi_stable_looks_for() {
        let name = abi_stable::library::ROOT_MODULE_LOADER_NAME;
        let source = include_str!("export.rs");
        assert!(
            source.contains(&format!("export_name = \"{name}\"")),
            "{name}"
        );
    }
}

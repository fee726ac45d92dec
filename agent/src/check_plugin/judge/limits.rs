//! The limits by which the agent refuses a tree, all of them told and not the first only.

use devmon_core::path::{MAX_DEPTH, MAX_NAME_BYTES, check_name};
use devmon_core::tree::{MAX_LEAVES, MAX_TEXT_BYTES};
use devmon_core::{MetricTree, Node, Value};
use serde_json::Value as Json;

use super::short;
use crate::check_plugin::report::{Findings, Level};
use crate::plugins::source::MAX_ROUND_BYTES;

/// Tells if a tree is longer than the agent takes of one source.
pub(super) fn within_bytes(json: &Json, findings: &mut Findings) {
    let bytes = json.to_string().len();
    if bytes > MAX_ROUND_BYTES {
        // In tenths of MiB: one finding for rounds that differ by a few bytes.
        let problem = format!(
            "a round has {:.1} MiB as JSON: over 1 MiB, the agent refuses the whole tree",
            bytes as f64 / MAX_ROUND_BYTES as f64
        );
        let advice = "measure fewer things, or give fewer texts; logs belong elsewhere";
        findings.add(Level::Wrong, "tree", "", &problem, advice);
    }
}

/// Rebuilds what the agent would accept of a branch, and tells all that it would not.
pub(super) fn within_limits(
    json: &Json,
    at: &str,
    depth: usize,
    leaves: &mut usize,
    tree: &mut MetricTree,
    findings: &mut Findings,
) {
    let Json::Object(object) = json else {
        return;
    };
    for (name, below) in object {
        let here = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        let mut wrong = |rule: &str, problem: &str, advice: &str| {
            findings.add(Level::Wrong, rule, short(&here), problem, advice);
        };
        if let Err(e) = check_name(name) {
            let advice = format!("name it with 1 to {MAX_NAME_BYTES} bytes of UTF-8 without NUL");
            wrong(
                "tree",
                &format!("the agent refuses the whole tree: {e}"),
                &advice,
            );
            continue;
        }
        if depth > MAX_DEPTH {
            let problem =
                format!("deeper than {MAX_DEPTH} levels: the agent refuses the whole tree");
            wrong("tree", &problem, "use fewer levels");
            continue;
        }
        let value = match below {
            Json::Object(_) => {
                let branch = tree.branch(name);
                within_limits(below, &here, depth + 1, leaves, branch, findings);
                continue;
            }
            Json::Null => continue, // no leaf
            Json::Array(_) => {
                wrong(
                    "tree",
                    "is an array",
                    "use an object with names that stay: {\"0\": …}",
                );
                continue;
            }
            Json::Bool(x) => Value::Boolean(*x),
            Json::String(x) if x.len() > MAX_TEXT_BYTES => {
                let problem = format!(
                    "text is longer than {MAX_TEXT_BYTES} bytes: the agent refuses the whole tree"
                );
                wrong(
                    "text",
                    &problem,
                    "give a short state or name; logs belong elsewhere",
                );
                continue;
            }
            Json::String(x) => Value::Text(x.clone()),
            Json::Number(x) => match (x.as_i64(), x.as_f64()) {
                (Some(x), _) => Value::Integer(x),
                (None, Some(x)) if below.is_f64() => Value::Float(x),
                _ => {
                    let problem = "is an integer beyond 64 bits: the agent refuses the whole tree";
                    wrong("tree", problem, "write it with a decimal point");
                    continue;
                }
            },
        };
        *leaves += 1;
        if *leaves <= MAX_LEAVES {
            tree.insert(name, Node::Leaf(value));
        }
    }
}

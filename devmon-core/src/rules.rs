//! The rules of good metrics, beyond what is merely legal: names, units, kinds and values that every reader understands without asking.
//!
//! **Takes** descriptors and trees. **Gives** a [`Breach`] for each thing that is wrong, all of them and not the first only, each with what to do.
//! The tests of a plugin and `devmon-agent check-plugin` ask here, so that both say the same.
//!
//! | rule | says |
//! |---|---|
//! | `name` | a name states a base unit (`_bytes`, `_seconds`, …), never a scaled one; a share is called `utilization` |
//! | `unit` | the descriptor's unit is a base unit, and the one that the name states |
//! | `kind` | counters, and only they, end in `_total`; texts and booleans are `text` or `state`, numbers `gauge` or `counter` |
//! | `help` | a sentence |
//! | `described` | each leaf has a descriptor |
//! | `range` | utilization lies in 0 to 1; a counter is not negative |

use crate::descriptor::{Descriptor, Kind, best_match};
use crate::path::MetricPath;
use crate::tree::{MetricTree, Value};

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Breach {
    /// Which rule: a word of the table above.
    pub rule: &'static str,
    /// Template or path, below the source's name.
    pub at: String,
    /// What is wrong; the same text for the same thing at another place.
    pub problem: String,
    /// What to do.
    pub advice: String,
}

/// Endings of names, and the unit (UCUM) that each states.
const STATED: [(&str, &str); 9] = [
    ("bytes", "By"),
    ("seconds", "s"),
    ("celsius", "Cel"),
    ("watts", "W"),
    ("hertz", "Hz"),
    ("volts", "V"),
    ("amperes", "A"),
    ("joules", "J"),
    ("meters", "m"),
];

/// Endings that state a scaled unit, and what to write instead.
const SCALED: [(&[&str], &str); 8] = [
    (
        &["percent", "pct", "percentage"],
        "a ratio from 0 to 1 called utilization; the dashboard shows percent",
    ),
    (
        &[
            "ms",
            "millis",
            "milliseconds",
            "us",
            "micros",
            "ns",
            "nanos",
            "minutes",
            "hours",
            "days",
        ],
        "seconds, as a float where it must be fine, in a name that ends in _seconds",
    ),
    (
        &[
            "kb",
            "kib",
            "mb",
            "mib",
            "gb",
            "gib",
            "tb",
            "tib",
            "kilobytes",
            "megabytes",
            "gigabytes",
        ],
        "bytes, in a name that ends in _bytes",
    ),
    (
        &["fahrenheit", "kelvin"],
        "degrees Celsius, in a name that ends in _celsius",
    ),
    (
        &["khz", "mhz", "ghz"],
        "hertz, in a name that ends in _hertz",
    ),
    (
        &["mw", "milliwatts", "kw", "kilowatts"],
        "watts, in a name that ends in _watts",
    ),
    (
        &["mv", "millivolts"],
        "volts, in a name that ends in _volts",
    ),
    (
        &["milliamperes"],
        "amperes, in a name that ends in _amperes",
    ),
];

/// Units that are scaled, or words; what is meant is in [`STATED`].
const SCALED_UNITS: [&str; 26] = [
    "%", "ms", "us", "ns", "min", "h", "d", "kBy", "MBy", "GBy", "KiBy", "MiBy", "GiBy", "kHz",
    "MHz", "GHz", "mW", "kW", "mV", "mA", "B", "bytes", "seconds", "sec", "C", "celsius",
];

/// Names that mean a share of something.
const SHARES: [&str; 4] = ["usage", "ratio", "fraction", "load_ratio"];

/// Checks what is written about metrics: names, units, kinds, help.
#[must_use]
pub fn check_descriptors(descriptors: &[Descriptor]) -> Vec<Breach> {
    let mut found = Vec::new();
    for (i, d) in descriptors.iter().enumerate() {
        let at = d.template.to_string();
        let mut say = |rule, problem: &str, advice: &str| {
            found.push(breach(rule, &at, problem, advice));
        };
        if descriptors[..i].iter().any(|e| e.template == d.template) {
            say("described", "is described twice", "remove one of the two");
        }
        let last = at.rsplit('/').next().unwrap_or_default();
        let is_number = matches!(d.kind, Kind::Gauge | Kind::Counter);
        if (d.kind == Kind::Counter) != last.ends_with("_total") {
            let problem = "counters, and only they, end in _total";
            say(
                "kind",
                problem,
                "rename it, or correct its kind in the descriptor",
            );
        }
        if !d.help.trim_end().ends_with('.') {
            let advice = "say in a sentence what is measured, for whoever looks at the chart";
            say("help", "its help is no sentence", advice);
        }
        if !is_number {
            if !d.unit.is_empty() {
                say("unit", "a text or state has a unit", "leave the unit out");
            }
            continue;
        }
        if d.unit.is_empty() {
            let advice = "write By, s, Cel, W, Hz …, or \"1\" for a count or a ratio";
            say("unit", "has no unit", advice);
        } else if SCALED_UNITS.contains(&d.unit.as_str()) {
            let problem = format!("unit {:?} is no base unit", d.unit);
            let advice = "measure in the base unit (By, s, Cel, W, Hz, V, 1) and write that; the dashboard scales what it shows";
            say("unit", &problem, advice);
        } else if let Some(unit) = stated(&at) {
            if unit != d.unit {
                let problem = format!("its name says {unit}, its unit is {:?}", d.unit);
                say("unit", &problem, "correct the one that is wrong");
            }
        } else if let Some((word, _)) = STATED.iter().find(|(_, unit)| *unit == d.unit) {
            let problem = format!("unit {} is not in its name", d.unit);
            say("name", &problem, &format!("end the name in _{word}"));
        }
        if let Some(b) = check_name(&at) {
            found.push(b);
        }
        if is_utilization(last) && (d.unit != "1" || d.kind != Kind::Gauge) {
            let advice = "write unit = \"1\", kind = \"gauge\"";
            found.push(breach(
                "unit",
                &at,
                "utilization is a gauge with unit 1",
                advice,
            ));
        }
    }
    found
}

/// Checks the leaves of a round: described, of the described kind, in range.
#[must_use]
pub fn check_tree(descriptors: &[Descriptor], tree: &MetricTree) -> Vec<Breach> {
    let mut found = Vec::new();
    for (path, value) in tree.leaves() {
        let descriptor = best_match(descriptors, &path);
        found.extend(check_leaf(descriptor, &path, value));
    }
    found
}

/// Checks one leaf against its descriptor, if it has one.
#[must_use]
pub fn check_leaf(
    descriptor: Option<&Descriptor>,
    path: &MetricPath,
    value: &Value,
) -> Vec<Breach> {
    let at = path.as_str();
    let last = at.rsplit('/').next().unwrap_or_default();
    let mut found = Vec::new();
    match descriptor {
        None => {
            let advice = "add it to metrics.toml (in C: to what devmon_plugin_describe returns)";
            found.push(breach("described", at, "has no descriptor", advice));
            found.extend(check_name(at));
        }
        Some(d) => {
            let fits = match value {
                Value::Text(_) => matches!(d.kind, Kind::Text | Kind::State),
                Value::Boolean(_) => d.kind == Kind::State,
                Value::Float(_) | Value::Integer(_) => {
                    matches!(d.kind, Kind::Gauge | Kind::Counter)
                }
            };
            if !fits {
                let problem = format!(
                    "is of type {}, described as {}",
                    value.type_name(),
                    d.kind.as_str()
                );
                let advice = "numbers are gauge or counter, booleans state, texts text or state";
                found.push(breach("kind", at, &problem, advice));
            }
        }
    }
    let number = match value {
        Value::Float(_) | Value::Integer(_) => value.as_f64(),
        Value::Boolean(_) | Value::Text(_) => None,
    };
    if let Some(x) = number {
        if is_utilization(last) && !(0.0..=1.0).contains(&x) {
            let advice = "divide by the whole, or by 100 if it is a percentage";
            found.push(breach(
                "range",
                at,
                "utilization is not between 0 and 1",
                advice,
            ));
        }
        let is_counter = descriptor.map_or(last.ends_with("_total"), |d| d.kind == Kind::Counter);
        if is_counter && x < 0.0 {
            let advice = "count from 0 up; what can fall is a gauge, without _total";
            found.push(breach("range", at, "a counter is negative", advice));
        }
    }
    found
}

/// The rows of the table of metrics in a plugin's README, made from its descriptors.
#[must_use]
pub fn readme_rows(source: &str, descriptors: &[Descriptor]) -> Vec<String> {
    let row = |d: &Descriptor| {
        let kind = d.kind.as_str();
        format!(
            "| `/{source}{}` | {} | {kind} | {} |",
            d.template, d.unit, d.help
        )
    };
    descriptors.iter().map(row).collect()
}

fn breach(rule: &'static str, at: &str, problem: &str, advice: &str) -> Breach {
    Breach {
        rule,
        at: at.to_owned(),
        problem: problem.to_owned(),
        advice: advice.to_owned(),
    }
}

/// Checks the last name of a path or template.
fn check_name(at: &str) -> Option<Breach> {
    let name = at.rsplit('/').next()?;
    let name = name.strip_suffix("_total").unwrap_or(name);
    let lower = name.to_ascii_lowercase();
    for (words, instead) in SCALED {
        if let Some(word) = words.iter().find(|word| ends_in(&lower, word)) {
            let problem = format!("its name says {word}, which is no base unit");
            return Some(breach("name", at, &problem, &format!("give {instead}")));
        }
    }
    let share = SHARES.iter().find(|share| ends_in(&lower, share))?;
    let problem = format!("its name says {share}");
    let advice = "call a share of 0 to 1 utilization, and anything else by what it is";
    Some(breach("name", at, &problem, advice))
}

/// The unit that the last name with one states: of `/io_bytes/{kind}`, By.
fn stated(template: &str) -> Option<&'static str> {
    template.rsplit('/').find_map(|name| {
        let name = name.strip_suffix("_total").unwrap_or(name);
        let found = STATED.iter().find(|(word, _)| ends_in(name, word));
        found.map(|(_, unit)| *unit)
    })
}

/// `used_bytes` and `bytes` end in `bytes`; `kilobytes` does not.
fn ends_in(name: &str, word: &str) -> bool {
    name.strip_suffix(word)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('_'))
}

fn is_utilization(name: &str) -> bool {
    ends_in(name, "utilization")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(path: &str, unit: &str, kind: Kind) -> Descriptor {
        Descriptor {
            template: path.parse().unwrap(),
            unit: unit.to_owned(),
            kind,
            help: "Something.".to_owned(),
        }
    }

    fn rules(path: &str, unit: &str, kind: Kind) -> Vec<&'static str> {
        let found = check_descriptors(&[described(path, unit, kind)]);
        found.iter().map(|b| b.rule).collect()
    }

    #[test]
    fn good_names_pass() {
        for (path, unit, kind) in [
            ("/used_bytes", "By", Kind::Gauge),
            ("/{mount}/read_bytes_total", "By", Kind::Counter),
            ("/io_bytes/{direction}", "By", Kind::Gauge),
            ("/uptime_seconds", "s", Kind::Gauge),
            ("/utilization", "1", Kind::Gauge),
            ("/load/1m", "1", Kind::Gauge),
            ("/errors_total", "1", Kind::Counter),
            ("/fan_rpm", "{rev}/min", Kind::Gauge),
            ("/name", "", Kind::Text),
            ("/stuck", "", Kind::State),
        ] {
            assert_eq!(rules(path, unit, kind), [""; 0], "{path}");
        }
    }

    #[test]
    fn each_bad_name_is_told_by_its_rule() {
        for (path, unit, kind, expected) in [
            ("/used_mb", "1", Kind::Gauge, "name"),
            ("/latency_ms", "1", Kind::Gauge, "name"),
            ("/cpu_percent", "1", Kind::Gauge, "name"),
            ("/usage", "1", Kind::Gauge, "name"),
            ("/used", "By", Kind::Gauge, "name"),
            ("/used_bytes", "s", Kind::Gauge, "unit"),
            ("/latency", "ms", Kind::Gauge, "unit"),
            ("/used_bytes", "", Kind::Gauge, "unit"),
            ("/utilization", "%", Kind::Gauge, "unit"),
            ("/name", "1", Kind::Text, "unit"),
            ("/requests", "1", Kind::Counter, "kind"),
            ("/requests_total", "1", Kind::Gauge, "kind"),
        ] {
            let found = rules(path, unit, kind);
            assert!(found.contains(&expected), "{path}: {found:?}");
        }
        let twice = [0, 1].map(|_| described("/a", "1", Kind::Gauge));
        assert_eq!(check_descriptors(&twice)[0].rule, "described");
    }

    #[test]
    fn leaves_are_held_against_their_descriptors() {
        let descriptors = [
            described("/utilization", "1", Kind::Gauge),
            described("/seen_total", "1", Kind::Counter),
            described("/name", "", Kind::Text),
        ];
        let mut tree = MetricTree::new();
        tree.set("utilization", 0.5);
        tree.set("seen_total", 3);
        tree.set("name", "x");
        assert_eq!(check_tree(&descriptors, &tree), []);
        tree.set("utilization", 50);
        tree.set("seen_total", -1);
        tree.set("name", true);
        tree.set("other_kb", 1);
        let found: Vec<_> = check_tree(&descriptors, &tree)
            .into_iter()
            .map(|b| (b.rule, b.at))
            .collect();
        let expected = [
            ("kind", "/name"),
            ("described", "/other_kb"),
            ("name", "/other_kb"),
            ("range", "/seen_total"),
            ("range", "/utilization"),
        ];
        assert_eq!(found, expected.map(|(rule, at)| (rule, at.to_owned())));
    }
}

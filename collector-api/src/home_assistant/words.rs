//! Home Assistant's words for ours: units with their device classes, names, ids. Pure.
//!
//! Ids there may hold letters, digits, `_` and `-` only. [`id`] keeps these and writes any other byte as `_x` and two hexadecimal digits (so `_x` itself as `_x5fx`): two texts never come out alike. What
//! would be longer than [`MAX_ID_BYTES`] ends in a hash instead.

use devmon_core::descriptor::{Descriptor, Kind};
use devmon_core::{MetricPath, Value};

use crate::query::families::unit_word;

/// Longest id as it is; AWS allows topics of 256 bytes, and an id stands among others.
const MAX_ID_BYTES: usize = 160;
/// Longest state that Home Assistant takes, in characters.
const MAX_TEXT_CHARS: usize = 255;

/// A unit: in UCUM, in Home Assistant, the device class it belongs to, and whether that class may count upwards (`total_increasing`), may be measured.
type Unit = (&'static str, &'static str, Option<&'static str>, bool, bool);

/// A class goes with some units and with some state classes only; Home Assistant refuses other combinations.
const UNITS: [Unit; 27] = [
    ("By", "B", Some("data_size"), true, true),
    ("bit", "bit", Some("data_size"), true, true),
    ("By/s", "B/s", Some("data_rate"), false, true),
    ("bit/s", "bit/s", Some("data_rate"), false, true),
    ("s", "s", Some("duration"), true, true),
    ("ms", "ms", Some("duration"), true, true),
    ("us", "µs", None, true, true),
    ("ns", "ns", None, true, true),
    ("min", "min", Some("duration"), true, true),
    ("h", "h", Some("duration"), true, true),
    ("d", "d", Some("duration"), true, true),
    ("Cel", "°C", Some("temperature"), false, true),
    ("K", "K", Some("temperature"), false, true),
    ("[degF]", "°F", Some("temperature"), false, true),
    ("W", "W", Some("power"), false, true),
    ("J", "J", Some("energy"), true, false),
    ("V", "V", Some("voltage"), false, true),
    ("A", "A", Some("current"), false, true),
    ("Hz", "Hz", Some("frequency"), false, true),
    ("m", "m", Some("distance"), true, true),
    ("m/s", "m/s", Some("speed"), false, true),
    ("g", "g", Some("weight"), true, true),
    ("Pa", "Pa", Some("pressure"), false, true),
    ("%", "%", None, true, true),
    ("rpm", "rpm", None, true, true),
    ("1", "", None, true, true),
    ("", "", None, true, true),
];

/// How a value is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// A boolean: `ON` or `OFF`.
    Binary,
    Text,
    Number {
        unit: Option<String>,
        device_class: Option<&'static str>,
        state_class: Option<&'static str>,
        /// A ratio of 0 to 1, said as 0 to 100.
        percent: bool,
    },
}

/// How a series with this descriptor and newest value is shown. Without a descriptor its name says unit and kind, as far as it keeps to the convention.
pub(super) fn form(path: &MetricPath, descriptor: Option<&Descriptor>, newest: &Value) -> Form {
    match newest {
        Value::Boolean(_) => return Form::Binary,
        Value::Text(_) => return Form::Text,
        Value::Float(_) | Value::Integer(_) => {}
    }
    let (unit, kind) = unit_and_kind(path, descriptor);
    let percent = unit == "1" && last(path) == "utilization";
    if percent {
        return Form::Number {
            unit: Some("%".to_owned()),
            device_class: None,
            state_class: Some("measurement"),
            percent,
        };
    }
    let known = UNITS.iter().find(|(ucum, ..)| *ucum == unit);
    let (unit, class, counts, measures) = known
        .map_or((unit, None, true, true), |&(_, unit, class, c, m)| {
            (unit, class, c, m)
        });
    let (state_class, fits) = match kind {
        Kind::Counter => (Some("total_increasing"), counts),
        Kind::Gauge => (Some("measurement"), measures),
        Kind::State | Kind::Text => (None, true),
    };
    Form::Number {
        unit: (!unit.is_empty()).then(|| unit.to_owned()),
        device_class: class.filter(|_| fits),
        state_class,
        percent,
    }
}

fn unit_and_kind<'a>(path: &MetricPath, descriptor: Option<&'a Descriptor>) -> (&'a str, Kind) {
    if let Some(descriptor) = descriptor {
        return (descriptor.unit.as_str(), descriptor.kind);
    }
    let name = last(path);
    let (name, kind) = match name.strip_suffix("_total") {
        Some(rest) => (rest, Kind::Counter),
        None => (name.as_str(), Kind::Gauge),
    };
    if name == "utilization" {
        return ("1", kind);
    }
    let mut said = UNITS.iter().filter_map(|(ucum, ..)| {
        let rest = name.strip_suffix(unit_word(ucum)?)?;
        (rest.is_empty() || rest.ends_with('_')).then_some((*ucum, rest.len()))
    });
    // Of several the longest: bytes_per_second ends in seconds' singular only, but who knows.
    let first = said.next();
    let said = said.chain(first).min_by_key(|(_, rest)| *rest);
    (said.map_or("", |(ucum, _)| ucum), kind)
}

/// The value as a state; `None` if there is none to say.
pub(super) fn state(value: &Value, form: &Form) -> Option<serde_json::Value> {
    let number = |x: f64| serde_json::Number::from_f64(x).map(serde_json::Value::Number);
    match (value, form) {
        (Value::Boolean(b), Form::Binary) => Some(if *b { "ON" } else { "OFF" }.into()),
        (Value::Text(text), Form::Text) => {
            Some(text.chars().take(MAX_TEXT_CHARS).collect::<String>().into())
        }
        (Value::Float(x), Form::Number { percent: true, .. }) => number(percent(*x)),
        (Value::Integer(n), Form::Number { percent: true, .. }) => number(percent(*n as f64)),
        (Value::Float(x), Form::Number { .. }) => number(*x),
        (Value::Integer(n), Form::Number { .. }) => Some((*n).into()),
        _ => None, // of another type than it was announced with: it is announced anew first
    }
}

/// 0.29 is 29, not 28.999999999999996.
fn percent(ratio: f64) -> f64 {
    (ratio * 1e6).round() / 1e4
}

/// What an entity is called behind its device: the segments, the last without its unit.
pub(super) fn name(path: &MetricPath, descriptor: Option<&Descriptor>) -> String {
    let (unit, _) = unit_and_kind(path, descriptor);
    let last = last(path);
    let short = last.strip_suffix("_total").unwrap_or(&last);
    let bare = unit_word(unit)
        .and_then(|word| short.strip_suffix(word)?.strip_suffix('_'))
        .unwrap_or(short);
    let bare = if bare.is_empty() { &last } else { bare };
    let mut words: Vec<String> = path.segments().map(|s| s.into_owned()).collect();
    words.pop();
    words.push(bare.replace('_', " "));
    words.join(" ")
}

fn last(path: &MetricPath) -> String {
    path.segments()
        .last()
        .map(|s| s.into_owned())
        .unwrap_or_default()
}

/// A text as an id.
pub(super) fn id(text: &str) -> String {
    let mut id = String::with_capacity(text.len());
    let bytes = text.as_bytes();
    for (i, byte) in bytes.iter().enumerate() {
        let begins_escape = *byte == b'_' && bytes.get(i + 1) == Some(&b'x');
        if (byte.is_ascii_alphanumeric() || b"_-".contains(byte)) && !begins_escape {
            id.push(char::from(*byte));
        } else {
            id.push_str(&format!("_x{byte:02x}"));
        }
    }
    if id.len() > MAX_ID_BYTES {
        // FNV-1a: the same in every release. `_xx` can not come from above.
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        id.truncate(MAX_ID_BYTES - 19);
        id.push_str(&format!("_xx{hash:016x}"));
    }
    id
}

/// A path as a key that a template can hold between quotes: as it is, but for characters that mean something there.
pub(super) fn key(path: &MetricPath) -> String {
    let mut key = String::with_capacity(path.as_str().len());
    for byte in path.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || b"/_-.~:".contains(&byte) {
            key.push(char::from(byte));
        } else {
            key.push_str(&format!("%{byte:02x}"));
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(unit: &str, kind: Kind) -> Descriptor {
        Descriptor {
            template: "/a/{b}".parse().unwrap(),
            unit: unit.to_owned(),
            kind,
            help: String::new(),
        }
    }

    fn shown(
        path: &str,
        descriptor: Option<&Descriptor>,
    ) -> (Option<String>, Option<&'static str>, Option<&'static str>) {
        match form(&path.parse().unwrap(), descriptor, &Value::Float(0.0)) {
            Form::Number {
                unit,
                device_class,
                state_class,
                ..
            } => (unit, device_class, state_class),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn units_classes_and_kinds_go_together_as_home_assistant_has_them() {
        let gauge = Some("measurement");
        let counter = Some("total_increasing");
        for (unit, kind, expected) in [
            ("By", Kind::Gauge, (Some("B"), Some("data_size"), gauge)),
            ("By", Kind::Counter, (Some("B"), Some("data_size"), counter)),
            ("Cel", Kind::Gauge, (Some("°C"), Some("temperature"), gauge)),
            ("W", Kind::Gauge, (Some("W"), Some("power"), gauge)),
            // Classes that may not be counted, or not be measured.
            ("W", Kind::Counter, (Some("W"), None, counter)),
            ("J", Kind::Counter, (Some("J"), Some("energy"), counter)),
            ("J", Kind::Gauge, (Some("J"), None, gauge)),
            ("s", Kind::Counter, (Some("s"), Some("duration"), counter)),
            ("Hz", Kind::Gauge, (Some("Hz"), Some("frequency"), gauge)),
            ("1", Kind::Gauge, (None, None, gauge)),
            ("1", Kind::State, (None, None, None)),
            ("{packets}", Kind::Gauge, (Some("{packets}"), None, gauge)),
        ] {
            let (unit_there, class, state) = shown("/a/b", Some(&described(unit, kind)));
            assert_eq!(
                (unit_there.as_deref(), class, state),
                expected,
                "{unit} {kind:?}"
            );
        }
    }

    #[test]
    fn a_name_says_unit_and_kind_where_nothing_else_does() {
        for (path, unit, class, state) in [
            ("/x/used_bytes", Some("B"), Some("data_size"), "measurement"),
            (
                "/x/sent_bytes_total",
                Some("B"),
                Some("data_size"),
                "total_increasing",
            ),
            (
                "/x/speed_bytes_per_second",
                Some("B/s"),
                Some("data_rate"),
                "measurement",
            ),
            (
                "/temperature_celsius",
                Some("°C"),
                Some("temperature"),
                "measurement",
            ),
            ("/x/utilization", Some("%"), None, "measurement"),
            ("/x/moisture", None, None, "measurement"),
        ] {
            let shown = shown(path, None);
            assert_eq!(
                (shown.0.as_deref(), shown.1, shown.2),
                (unit, class, Some(state)),
                "{path}"
            );
        }
    }

    #[test]
    fn ratios_are_percent_and_what_is_no_number_is_nothing() {
        let path = "/cpu/utilization".parse().unwrap();
        let percent = form(&path, None, &Value::Float(0.5));
        assert_eq!(state(&Value::Float(0.29), &percent), Some(29.0.into()));
        assert_eq!(state(&Value::Integer(1), &percent), Some(100.0.into()));
        assert_eq!(state(&Value::Float(f64::NAN), &percent), None);
        assert_eq!(state(&Value::Boolean(true), &percent), None);
        let form = form(&path, None, &Value::Text("x".into()));
        let long = "é".repeat(300);
        let said = state(&Value::Text(long.as_str().into()), &form).unwrap();
        assert_eq!(said.as_str().unwrap().chars().count(), 255);
        assert_eq!(
            state(&Value::Boolean(false), &Form::Binary),
            Some("OFF".into())
        );
    }

    #[test]
    fn entities_are_called_what_they_measure() {
        for (path, expected) in [
            ("/cpu/utilization", "cpu utilization"),
            ("/disk/~1home/used_bytes", "disk /home used"),
            (
                "/network/eth0/received_bytes_total",
                "network eth0 received",
            ),
            ("/bytes", "bytes"),
        ] {
            assert_eq!(name(&path.parse().unwrap(), None), expected);
        }
    }

    #[test]
    fn ids_are_legal_and_never_alike() {
        let long = "x".repeat(300);
        let other = format!("{}y", "x".repeat(299));
        let texts = [
            "edge_device_01",
            "a.b",
            "a:b",
            "a_x2eb",
            "a_b",
            "a_xb",
            "a_x5fxb",
            "a/b",
            "ä",
            &long,
            &other,
        ];
        let ids: std::collections::BTreeSet<String> = texts.iter().map(|t| id(t)).collect();
        assert_eq!(ids.len(), texts.len());
        for id in &ids {
            let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            assert!(id.chars().all(legal) && id.len() <= MAX_ID_BYTES, "{id}");
        }
        assert_eq!(id("edge_device_01"), "edge_device_01");
        assert_eq!(id("a.b/c"), "a_x2eb_x2fc");
    }

    #[test]
    fn a_key_can_stand_between_quotes() {
        assert_eq!(
            key(&"/disk/~1home/used".parse().unwrap()),
            "/disk/~1home/used"
        );
        assert_eq!(key(&"/a'b\\{{ü".parse().unwrap()), "/a%27b%5c%7b%7b%c3%bc");
    }
}

//! Labels of a device: what people call it by, free of the program's own words (`site = "berlin"`). The agent's configuration gives them, in `about`; an operator of the collector
//! gives more, or others.

use std::collections::BTreeMap;

use serde::{Deserialize as _, Deserializer};

/// Most labels that one side gives a device.
pub const MAX_LABELS: usize = 32;
/// Longest name, in characters.
pub const MAX_NAME_CHARS: usize = 63;
/// Longest value, in bytes of UTF-8.
pub const MAX_VALUE_BYTES: usize = 256;

/// Values by name.
pub type Labels = BTreeMap<String, String>;

/// What is no label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    #[error(
        "label {0:?}: a name begins with a letter and has 1 to 63 of a-z, 0-9 and _; write site or rack_row"
    )]
    Name(String),
    #[error("label {name:?}: the value has {bytes} bytes; the most is 256")]
    Value { name: String, bytes: usize },
    #[error("{0} labels; the most is 32")]
    TooMany(usize),
}

/// Checks one label.
///
/// # Errors
/// [`LabelError`] for its name or its value.
pub fn check(name: &str, value: &str) -> Result<(), LabelError> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let named = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= MAX_NAME_CHARS
        && name.bytes().all(legal);
    if !named {
        return Err(LabelError::Name(name.chars().take(80).collect()));
    }
    if value.len() > MAX_VALUE_BYTES {
        let (name, bytes) = (name.to_owned(), value.len());
        return Err(LabelError::Value { name, bytes });
    }
    Ok(())
}

/// Checks all labels of a side.
///
/// # Errors
/// [`LabelError`] for the first that is none, or for their number.
pub fn check_all(labels: &Labels) -> Result<(), LabelError> {
    if labels.len() > MAX_LABELS {
        return Err(LabelError::TooMany(labels.len()));
    }
    labels
        .iter()
        .try_for_each(|(name, value)| check(name, value))
}

/// Reads labels of a message: what is none, and what is too much, is left out.
///
/// # Errors
/// Not a map of texts.
pub(super) fn lenient<'de, D: Deserializer<'de>>(from: D) -> Result<Labels, D::Error> {
    let mut labels = Labels::deserialize(from)?;
    labels.retain(|name, value| check(name, value).is_ok());
    while labels.len() > MAX_LABELS {
        labels.pop_last();
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_bounded() {
        for name in ["a", "site", "rack_row_2", &"a".repeat(63)] {
            assert_eq!(check(name, ""), Ok(()), "{name}");
        }
        for name in [
            "",
            "_a",
            "1a",
            "Site",
            "a-b",
            "a.b",
            "ä",
            "a b",
            &"a".repeat(64),
        ] {
            assert!(
                matches!(check(name, ""), Err(LabelError::Name(_))),
                "{name}"
            );
        }
        assert_eq!(check("a", &"ä".repeat(128)), Ok(()));
        assert!(check("a", &"ä".repeat(129)).is_err());
        let many = |n| (0..n).map(|i| (format!("l{i}"), String::new())).collect();
        assert_eq!(check_all(&many(32)), Ok(()));
        assert_eq!(check_all(&many(33)), Err(LabelError::TooMany(33)));
    }

    #[test]
    fn of_a_message_what_is_no_label_is_left_out() {
        let json = r#"{"site":"berlin","No":"x","long":"LONG"}"#.replace("LONG", &"x".repeat(257));
        let read = lenient(&mut serde_json::Deserializer::from_str(&json)).unwrap();
        assert_eq!(read, Labels::from([("site".into(), "berlin".into())]));
    }
}

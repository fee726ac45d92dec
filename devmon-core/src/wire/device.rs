//! The name of a device: also its MQTT client id, its AWS thing name, the name of its certificate files and a level of its topics.

use std::fmt;
use std::str::FromStr;

/// Longest device id in bytes; AWS IoT Core allows client ids and thing names of 128.
pub const MAX_DEVICE_ID_BYTES: usize = 128;

/// A legal device id: `[A-Za-z0-9][A-Za-z0-9._:-]{0,127}`. Safe in topics, file names and URLs as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct DeviceId(Box<str>);

/// A text that is no device id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "device id {0:?} is not legal: 1 to {MAX_DEVICE_ID_BYTES} characters of A-Z a-z 0-9 . _ : - starting with a letter or digit"
)]
pub struct DeviceIdError(String);

impl DeviceId {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// FNV-1a of the id: the same in every release and on every machine, which the standard library's hasher is not.
    #[must_use]
    pub fn stable_hash(&self) -> u64 {
        self.as_str()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            })
    }
}

impl FromStr for DeviceId {
    type Err = DeviceIdError;

    fn from_str(text: &str) -> Result<Self, DeviceIdError> {
        let mut bytes = text.bytes();
        let legal = text.len() <= MAX_DEVICE_ID_BYTES
            && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
            && bytes.all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
        if legal {
            Ok(Self(text.into()))
        } else {
            Err(DeviceIdError(
                text.chars().take(MAX_DEVICE_ID_BYTES).collect(),
            ))
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for DeviceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> serde::Deserialize<'de> for DeviceId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_form_is_legal() {
        for good in [
            "a",
            "edge_device_01",
            "7",
            "aa:bb:cc",
            "a.b-c",
            &"x".repeat(128),
        ] {
            assert_eq!(good.parse::<DeviceId>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "_a",
            "-a",
            ".",
            "a/b",
            "a+",
            "a#",
            "a b",
            "é",
            "a\0",
            &"x".repeat(129),
        ] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad:?}");
        }
    }
}

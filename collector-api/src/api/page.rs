//! Pages: opaque cursors, and the `Link` header to the next page.
//!
//! A cursor holds all that the next page needs and nothing else, so it outlives the collector. It names its list and its query ([`Params::query`]): a cursor of another one is refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use devmon_core::wire::TimestampMs;

use super::params::Params;

/// Where a page starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cursor {
    /// Devices after this id.
    Device(String),
    /// Metrics after this path.
    Metric(String),
    /// A list that is sorted otherwise, behind this place.
    Sorted {
        /// What list, and by what: `d-last_seen`, `mlast_ts`.
        list: String,
        key: i64,
        name: String,
    },
    /// Newest values of the fleet after this path of this device.
    Fleet { device: String, path: String },
    /// Dead letters below this id.
    DeadLetter(u64),
    /// Rows of a series from `next` on. Holds what a relative time or a wanted number of points meant on the first page.
    Series {
        next: TimestampMs,
        from: TimestampMs,
        to: TimestampMs,
        step_ms: Option<i64>,
    },
    /// Series of the fleet after this path of this device. Holds what the first page found for times and step.
    FleetSeries {
        device: String,
        path: String,
        from: TimestampMs,
        to: TimestampMs,
        step_ms: i64,
    },
}

impl Cursor {
    /// The opaque text, for a page of a query ([`Params::query`]).
    #[must_use]
    pub fn text(&self, query: u64) -> String {
        let plain = match self {
            Self::Device(id) => format!("d{id}"),
            Self::Metric(path) => format!("m{path}"),
            Self::Sorted { list, key, name } => format!("o{list},{key},{name}"), // no list has a comma
            Self::Fleet { device, path } => format!("f{device}{path}"),
            Self::DeadLetter(id) => format!("l{id}"),
            Self::Series {
                next,
                from,
                to,
                step_ms,
            } => format!("s{next},{from},{to},{}", step_ms.unwrap_or(0)),
            Self::FleetSeries {
                device,
                path,
                from,
                to,
                step_ms,
            } => format!("g{from},{to},{step_ms},{device}{path}"),
        };
        URL_SAFE_NO_PAD.encode(format!("{query:016x}{plain}"))
    }

    /// Reads the opaque text: what query it is of, and where its page starts; `None` if it is no cursor.
    #[must_use]
    pub fn parse(text: &str) -> Option<(u64, Self)> {
        let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        Self::read(&plain)
    }

    /// Reads what is in the opaque text.
    #[must_use]
    pub fn read(plain: &str) -> Option<(u64, Self)> {
        let (query, start) = plain.split_at_checked(16)?;
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let query = query.bytes().all(digit).then_some(query)?;
        let query = u64::from_str_radix(query, 16).ok()?;
        Some((query, Self::start(start)?))
    }

    fn start(plain: &str) -> Option<Self> {
        let (kind, rest) = plain.split_at_checked(1)?;
        match kind {
            "d" => Some(Self::Device(rest.to_owned())),
            "m" => Some(Self::Metric(rest.to_owned())),
            "o" => {
                let (list, rest) = rest.split_once(',')?;
                let (key, name) = rest.split_once(',')?;
                Some(Self::Sorted {
                    list: list.to_owned(),
                    key: key.parse().ok()?,
                    name: name.to_owned(),
                })
            }
            "f" => {
                let (device, path) = device_and_path(rest)?;
                Some(Self::Fleet { device, path })
            }
            "g" => {
                let mut parts = rest.splitn(4, ',');
                let mut number = || parts.next()?.parse().ok().filter(bounded);
                let (from, to, step_ms) = (number()?, number()?, number()?);
                let (device, path) = device_and_path(parts.next()?)?;
                (from <= to && step_ms > 0).then_some(Self::FleetSeries {
                    device,
                    path,
                    from: TimestampMs(from),
                    to: TimestampMs(to),
                    step_ms,
                })
            }
            "l" => rest.parse().ok().map(Self::DeadLetter),
            "s" => {
                let numbers: Vec<i64> = rest
                    .split(',')
                    .map(|n| n.parse().ok())
                    .collect::<Option<_>>()?;
                let [next, from, to, step_ms] = numbers[..] else {
                    return None;
                };
                let sound =
                    numbers.iter().all(bounded) && from <= next && next < to && step_ms >= 0;
                sound.then_some(Self::Series {
                    next: TimestampMs(next),
                    from: TimestampMs(from),
                    to: TimestampMs(to),
                    step_ms: (step_ms > 0).then_some(step_ms),
                })
            }
            _ => None,
        }
    }
}

/// A path begins with /, an id has none.
fn device_and_path(text: &str) -> Option<(String, String)> {
    let (device, path) = text.split_at_checked(text.find('/')?)?;
    Some((device.to_owned(), path.to_owned()))
}

/// A forged number must not overflow what is added to it: 35 000 years either way are enough.
fn bounded(number: &i64) -> bool {
    number.unsigned_abs() < 1 << 50
}

/// The `Link` header's value: the same call with the cursor of the next page (RFC 8288).
#[must_use]
pub fn link(path: &str, params: &Params, cursor: &str) -> String {
    let mut url = format!("{path}?");
    for (name, value) in params.pairs().filter(|(name, _)| *name != "cursor") {
        url.push_str(&format!("{}={}&", escape(name), escape(value)));
    }
    format!("<{url}cursor={}>; rel=\"next\"", escape(cursor))
}

/// Percent-encodes all but the unreserved characters of RFC 3986 and `/` `:`, which a query may hold.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_cursors_are_none() {
        let forged = |text: &str| Cursor::start(text);
        assert!(forged("s1,0,9,0").is_some());
        for bad in [
            "",
            "x",
            "s",
            "s1,2",
            "s9,0,9,0",
            "s1,0,9,-1",
            "s0,0,9223372036854775807,1",
            "s0,-9223372036854775808,1,1",
            "l-1",
            "fno-path",
            "od",
            "od,x,name",
            "od,99999999999999999999,name",
        ] {
            assert_eq!(forged(bad), None, "{bad}");
        }
        assert_eq!(Cursor::parse("é"), None);
    }

    #[test]
    fn cursors_survive_their_text() {
        for cursor in [
            Cursor::Device("a:b.c".into()),
            Cursor::Metric("/größe/~1home".into()),
            Cursor::Sorted {
                list: "d-last_seen".into(),
                key: i64::MIN,
                name: "a,b".into(),
            },
            Cursor::Fleet {
                device: "a:b.c".into(),
                path: "/disk/~1home".into(),
            },
            Cursor::DeadLetter(u64::MAX),
            Cursor::FleetSeries {
                device: "a:b.c".into(),
                path: "/a,b/~1home".into(),
                from: TimestampMs(-5),
                to: TimestampMs(-5),
                step_ms: 1,
            },
            Cursor::Series {
                next: TimestampMs(5),
                from: TimestampMs(-5),
                to: TimestampMs(9),
                step_ms: None,
            },
            Cursor::Series {
                next: TimestampMs(5),
                from: TimestampMs(5),
                to: TimestampMs(9),
                step_ms: Some(1),
            },
        ] {
            let query = 0x12_3456_789a_bcde;
            let text = cursor.text(query);
            assert!(
                text.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)),
                "{text}"
            );
            assert_eq!(Cursor::parse(&text), Some((query, cursor)));
        }
    }

    #[test]
    fn what_is_no_cursor_is_none() {
        for plain in [
            "",
            "x1",
            "l-1",
            "fno-path",
            "od",
            "od,x,name",
            "od,99999999999999999999,name",
            "lx",
            "s1,2,3",
            "s1,2,3,4",
            "s5,5,5,0",
            "s5,5,9,-1",
            "s1,1,2,3,4",
            "g1,2,3,no-path",
            "g1,2,0,d/a",
            "g2,1,3,d/a",
            "g1,2,d/a",
            "g1,1125899906842624,3,d/a",
        ] {
            assert_eq!(Cursor::start(plain), None, "{plain}");
        }
        assert!(Cursor::read("0123456789abcdefda").is_some());
        for plain in [
            "",
            "da",
            "0123456789abcdef",
            "0123456789ABCDEFda",
            "+123456789abcdefda",
            "0123456789abcdéda",
            "0123456789abcdefx",
        ] {
            assert_eq!(Cursor::read(plain), None, "{plain}");
        }
        for text in ["é", "a", "====", "ZA=="] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_link_repeats_the_call_with_another_cursor() {
        let params =
            Params::parse("q=a%26b&cursor=old&limit=2", &["q", "cursor", "limit"]).unwrap();
        assert_eq!(
            link("/api/v1/devices", &params, "new"),
            "</api/v1/devices?q=a%26b&limit=2&cursor=new>; rel=\"next\""
        );
    }
}

//! What a caller would rather have: headers whose entries carry weights (`Accept`, `Accept-Encoding`; RFC 9110 sections 12.4.2 and 12.5). Pure.

use warp::http::header::{ACCEPT, HeaderMap, HeaderName};

use super::problem::{Kind, Problem};

/// Entries of one header that are read; nobody needs more.
const MAX_ENTRIES: usize = 32;

/// The names of a header, in lower case, with their weights in thousandths. `None` without the header. What is malformed is left out; parameters other than `q` are skipped.
#[must_use]
pub fn weights(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<(String, u16)>> {
    let mut values = headers.get_all(name).iter().peekable();
    values.peek()?;
    let texts = values.filter_map(|value| value.to_str().ok());
    let entries = texts.flat_map(|text| text.split(','));
    Some(entries.filter_map(entry).take(MAX_ENTRIES).collect())
}

fn entry(text: &str) -> Option<(String, u16)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let mut weight = 1000;
    for part in parts {
        if let Some((key, value)) = part.split_once('=')
            && key.trim().eq_ignore_ascii_case("q")
        {
            weight = thousandths(value.trim())?;
        }
    }
    Some((name.to_ascii_lowercase(), weight))
}

/// `0` to `1` with at most three decimals.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = decimals.len() <= 3 && decimals.bytes().all(|b| b.is_ascii_digit());
    let decimals: u16 = format!("{decimals:0<3}").parse().ok().filter(|_| digits)?;
    match whole {
        "0" => Some(decimals),
        "1" if decimals == 0 => Some(1000),
        _ => None,
    }
}

/// A form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    Json,
    Csv,
}

impl Media {
    /// The form that is asked for, of those that there are; of equals JSON.
    ///
    /// # Errors
    /// 406: neither will do.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(wanted) = weights(headers, &ACCEPT) else {
            return Ok(Self::Json);
        };
        let (json, csv) = (
            weight(&wanted, "application", "json"),
            weight(&wanted, "text", "csv"),
        );
        match (json, csv) {
            (0, 0) => Err(Problem::new(
                Kind::NotAcceptable,
                "there is application/json and text/csv here; the Accept header takes neither",
            )),
            (json, csv) if json >= csv => Ok(Self::Json),
            _ => Ok(Self::Csv),
        }
    }
}

/// Whether the caller takes a media type.
#[must_use]
pub fn takes(headers: &HeaderMap, form: &str) -> bool {
    let (kind, subtype) = form.split_once('/').unwrap_or((form, ""));
    let wanted = weights(headers, &ACCEPT);
    wanted.is_none_or(|wanted| weight(&wanted, kind, subtype) > 0)
}

/// The weight of a media type: that of the entry that names it most closely.
fn weight(wanted: &[(String, u16)], kind: &str, subtype: &str) -> u16 {
    let fit = |name: &str| match name.split_once('/') {
        Some((k, s)) if k == kind && s == subtype => 3,
        Some((k, "*")) if k == kind => 2,
        Some(("*", "*")) => 1,
        _ => 0,
    };
    let fits = wanted.iter().map(|(name, q)| (fit(name), *q));
    fits.filter(|(fit, _)| *fit > 0).max().map_or(0, |(_, q)| q)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media(accept: &[&str]) -> Option<Media> {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        Media::of(&headers).ok()
    }

    #[test]
    fn the_closest_entry_decides_and_json_among_equals() {
        for (accept, expected) in [
            (&[][..], Some(Media::Json)),
            (&["*/*"], Some(Media::Json)),
            (&["text/csv"], Some(Media::Csv)),
            (&["Text/CSV; header=present"], Some(Media::Csv)),
            (&["text/csv, application/json"], Some(Media::Json)),
            (&["text/csv", "application/json;q=0.9"], Some(Media::Csv)),
            (&["text/html, */*;q=0.8"], Some(Media::Json)),
            (&["text/*, */*;q=0.5"], Some(Media::Csv)),
            (&["application/json;q=0, */*"], Some(Media::Csv)),
            (&["text/csv;q=0.001"], Some(Media::Csv)),
            (&["text/html"], None),
            (&["application/json;q=0"], None),
            (&["application/json;q=0.0, text/csv;q=0"], None),
            (&[""], None),
            (&["text/csv;q=2, application/json;q=0.1"], Some(Media::Json)),
        ] {
            assert_eq!(media(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn weights_have_three_decimals_at_most() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("1.0", Some(1000)),
            ("0.5", Some(500)),
            ("0.123", Some(123)),
            ("0.1234", None),
            ("1.001", None),
            ("-1", None),
            ("+1", None),
            ("0.+5", None),
            ("", None),
        ] {
            assert_eq!(thousandths(text), expected, "{text}");
        }
    }
}

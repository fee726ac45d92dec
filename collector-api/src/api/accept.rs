//! What a caller would rather have: headers whose entries carry weights (`Accept`, `Accept-Encoding`; RFC 9110 sections 12.4.2 and 12.5). Pure.

use warp::http::header::{ACCEPT, HeaderMap, HeaderName};

/// Entries of one header that are read; nobody needs more.
const MAX_ENTRIES: usize = 32;

/// The names of a header, in lower case, with their weights in thousandths. `None` without the header. What is malformed is left out; parameters other than `q` are skipped.
pub(super) fn weights(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<(String, u16)>> {
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

/// Whether the caller takes a media type.
pub(super) fn takes(headers: &HeaderMap, form: &str) -> bool {
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

    #[test]
    fn the_closest_entry_decides() {
        for (accept, json, csv) in [
            ("*/*", true, true),
            ("Text/CSV; header=present", false, true),
            ("text/*, application/json;q=0.1", true, true),
            ("application/json;q=0, */*", false, true),
            ("text/html", false, false),
            ("application/json;q=0.0, text/csv;q=0", false, false),
            ("text/csv;q=2, application/json", true, false),
            ("", false, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            let taken = ["application/json", "text/csv"].map(|form| takes(&headers, form));
            assert_eq!(taken, [json, csv], "{accept}");
        }
        assert!(takes(&HeaderMap::new(), "text/csv"));
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

//! A cursor goes on in the query that it comes from, and in no other one.

use std::collections::{BTreeMap, BTreeSet};

use devmon_core::wire::TimestampMs;
use serde_json::{Value as Json, json};

use crate::errors::problem;
use crate::support::Collector;

const T: i64 = 1_795_450_000_000;

/// A parameter of a query, and what stands for it in another one.
type Change = (&'static str, &'static str, &'static str);

/// Each paged call, the parameters that its first page is asked with, and other ones.
const PAGED: [(&str, &[Change]); 10] = [
    (
        "/api/v1/devices",
        &[
            ("device", "", "device=*"),
            ("q", "", "q=e"),
            ("status", "status=online", "status=online,stale"),
            ("label", "", "label=site"),
            ("sort", "", "sort=-id"),
            ("sort", "", "sort=metrics"),
        ],
    ),
    (
        "/api/v1/devices",
        &[("sort", "sort=-metrics", ""), ("q", "q=e", "q=")],
    ),
    (
        "/api/v1/devices/{device}/metrics",
        &[
            ("prefix", "", "prefix=/cpu"),
            ("q", "", "q=c"),
            ("kind", "", "kind=gauge"),
            ("unit", "", "unit=1"),
            ("sort", "", "sort=last_ts"),
        ],
    ),
    (
        "/api/v1/latest",
        &[
            ("path", "path=/cpu/a", "path=/cpu/*"),
            ("device", "device=e1&device=e2", "device=e1"),
            ("q", "", "q=e"),
            ("status", "", "status=online"),
            ("label", "", "label=site"),
        ],
    ),
    (
        "/api/v1/devices/{device}/series",
        &[
            ("path", "path=/cpu/a&path=/cpu/b", "path=/cpu/b&path=/cpu/a"),
            ("step", "", "step=1s"),
            ("points", "", "points=7"),
        ],
    ),
    (
        "/api/v1/devices/{device}/series",
        &[
            ("path", "path=/cpu/a", "path=/cpu/b"),
            ("step", "step=1s", "step=2s"),
            ("agg", "agg=min", "agg=max"),
        ],
    ),
    (
        "/api/v1/series",
        &[
            ("path", "path=/cpu/a", "path=/cpu/*"),
            ("points", "points=50", "points=51"),
            ("agg", "agg=min,max", "agg=max"),
            ("device", "", "device=*"),
            ("q", "", "q=e"),
            ("status", "", "status=online"),
            ("label", "", "label=site"),
        ],
    ),
    (
        "/api/v1/devices/{device}/series",
        &[
            ("path", "path=/cpu/*", "path=/cpu/a"),
            ("points", "points=50", "points=51"),
        ],
    ),
    (
        "/api/v1/series",
        &[
            ("path", "path=/cpu/a", "path=/cpu/b"),
            ("step", "step=1s", "step=2s"),
        ],
    ),
    (
        "/api/v1/dead-letters",
        &[("reason", "", "reason=invalid_json")],
    ),
];

fn fleet() -> Collector {
    let collector = Collector::start();
    for device in ["e1", "e2", "e3"] {
        for i in 0..20_i64 {
            collector.store.put(device, "/cpu/a", T + i * 1_000, i);
            collector.store.put(device, "/cpu/b", T + i * 1_000, i);
        }
        collector
            .store
            .put_letter(device[1..].parse().unwrap(), "x");
    }
    collector
}

/// A page with so many items of a query.
fn url(path: &str, query: &[&str], limit: usize) -> String {
    let mut url = format!("{path}?limit={limit}");
    for part in query.iter().filter(|part| !part.is_empty()) {
        url.push_str(&format!("&{part}"));
    }
    if path.ends_with("/series") {
        url.push_str(&format!("&from={T}&to={}", T + 100_000));
    }
    url
}

/// Asks for the page behind a cursor, and says why there is none.
fn refused(collector: &Collector, url: &str, cursor: &str) -> String {
    let path = url.split('?').next().unwrap();
    let answer = collector.get(&format!("{url}&cursor={cursor}"));
    let body = problem(&answer, 400, "invalid-parameter", path);
    let errors = body["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 1, "{url}: {body}");
    assert_eq!(errors[0]["parameter"], "cursor", "{url}: {body}");
    errors[0]["detail"].as_str().unwrap().to_owned()
}

#[test]
fn a_cursor_goes_on_in_its_own_query_only() {
    let collector = fleet();
    for (path, changes) in PAGED {
        let path = path.replace("{device}", "e1");
        let asked: Vec<_> = changes.iter().map(|(_, as_asked, _)| *as_asked).collect();
        let first = url(&path, &asked, 1);
        let cursor = collector.json(&first)["next_cursor"].clone();
        let cursor = cursor
            .as_str()
            .unwrap_or_else(|| panic!("{first} is one page"));
        for (place, (name, _, other)) in changes.iter().enumerate() {
            let mut query = asked.clone();
            query[place] = other;
            let says = match *name {
                "sort" => "not a cursor of this list",
                _ => "belongs to a call with other parameters",
            };
            let said = refused(&collector, &url(&path, &query, 1), cursor);
            assert!(said.contains(says), "{path} {query:?}: {said}");
        }
        if path.contains("/e1/") {
            let of_another = url(&path.replace("e1", "e2"), &asked, 1);
            let said = refused(&collector, &of_another, cursor);
            assert!(said.contains("other parameters"), "{of_another}: {said}");
        }
    }
}

#[test]
fn the_next_page_may_be_longer_written_otherwise_and_followed() {
    let collector = fleet();
    for (path, changes) in PAGED {
        let here = path.replace("{device}", "e1");
        let asked: Vec<_> = changes.iter().map(|(_, as_asked, _)| *as_asked).collect();
        let answer = collector.get(&url(&here, &asked, 1));
        let cursor = answer.json()["next_cursor"].as_str().unwrap().to_owned();
        let link = answer.header("link").unwrap();
        let link = link.strip_prefix('<').unwrap().split('>').next().unwrap();
        let next = collector.json(link);
        let goes_on = |url: String, limit: usize| {
            let answer = collector.get(&url);
            assert_eq!(answer.status, 200, "{url}: {}", answer.text());
            assert!(limit > 1 || answer.json() == next, "{url}");
        };
        goes_on(format!("{}&cursor={cursor}", url(&here, &asked, 1)), 1);
        goes_on(format!("{}&cursor={cursor}", url(&here, &asked, 2)), 2);
        // Parameters but paths in another order, and with other escapes.
        let mut parts: Vec<_> = asked.iter().flat_map(|part| part.split('&')).collect();
        let name = |part: &str| {
            part.strip_prefix("path=")
                .map_or(part.to_owned(), |_| "path".into())
        };
        parts.sort_by_key(|part| std::cmp::Reverse(name(part)));
        let escaped = url(&path.replace("{device}", "%651"), &parts, 1);
        let escaped = escaped.replace("/cpu", "%2Fcpu");
        goes_on(format!("{escaped}&cursor={cursor}"), 1);
        if !path.contains("metrics") && !path.contains("letters") {
            goes_on(
                format!("{}&follow=true&cursor={cursor}", url(&here, &asked, 1)),
                1,
            );
        }
    }
}

/// So that a parameter that comes later is in the table above, too.
#[test]
fn every_parameter_of_every_paged_call_is_tried() {
    let collector = Collector::start();
    let document = collector.json("/openapi.json");
    let mut described = BTreeMap::new();
    for (path, calls) in document["paths"].as_object().unwrap() {
        let names = calls["get"]["parameters"].as_array().into_iter().flatten();
        let names = names.filter(|p| p["in"] == "query");
        let mut names: BTreeSet<_> = names.map(|p| p["name"].as_str().unwrap()).collect();
        if names.contains("cursor") {
            for of_a_page in ["cursor", "limit", "follow", "from", "to"] {
                names.remove(of_a_page);
            }
            described.insert(path.as_str(), names);
        }
    }
    let mut tried: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (path, changes) in PAGED {
        let names = changes.iter().map(|(name, _, _)| *name);
        tried.entry(path).or_default().extend(names);
    }
    assert_eq!(tried, described);
}

#[test]
fn a_range_that_moves_goes_on_if_it_is_as_long() {
    let collector = Collector::start();
    let now = TimestampMs::now().0;
    for device in ["e1", "e2"] {
        for i in 1..=20_i64 {
            collector.store.put(device, "/a", now - i * 1_000, i);
        }
    }
    for path in ["/api/v1/devices/e1/series", "/api/v1/series"] {
        let asked = |range: &str| format!("{path}?path=/a&points=100&limit=1{range}");
        let first = collector.json(&asked("&from=-1h"));
        let cursor = first["next_cursor"].as_str().unwrap();
        let fixed = format!("&from={}&to={}", first["from"], first["to"]);
        for range in ["&from=-1h", "&from=-60m&to=now", "", &fixed] {
            let next = collector.json(&format!("{}&cursor={cursor}", asked(range)));
            let range_of = |page: &Json| json!([page["from"], page["to"], page["step_ms"]]);
            assert_eq!(range_of(&next), range_of(&first), "{path} {range}");
        }
        for range in ["&from=-2h", "&from=-1h&to=-1m"] {
            let said = refused(&collector, &asked(range), cursor);
            assert!(said.contains("a range of 3600000 ms"), "{range}: {said}");
        }
    }
}

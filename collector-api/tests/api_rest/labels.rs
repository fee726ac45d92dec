//! Labels of devices: given by the device and by an operator, shown, found by.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::errors::problem;
use crate::support::{Answer, Collector, about, send};

const T: i64 = 1_795_450_000_000;
const TOKEN: &str = "correct-horse-battery";
const URL: &str = "/api/v1/devices/d";

fn fleet() -> Collector {
    let collector = Collector::with_token(Some(TOKEN));
    for (id, labels) in [
        ("d", &[("site", "berlin"), ("rack", "4")][..]),
        ("e", &[("site", "berlin")]),
        ("f", &[]),
    ] {
        collector.store.put(id, "/a", T, 1.0);
        let mut said = about(id, &[], &[]);
        let own = &mut Arc::get_mut(&mut said).unwrap().labels;
        own.extend(labels.iter().map(|(n, v)| ((*n).into(), (*v).into())));
        collector.store.put_device(id, |d| d.about = Some(said));
    }
    collector
}

fn patch(collector: &Collector, url: &str, kind: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("authorization", &bearer[..]), ("content-type", kind)];
    send(collector.addr, "PATCH", url, &headers, body)
}

fn get(collector: &Collector, url: &str) -> Answer {
    let bearer = format!("Bearer {TOKEN}");
    collector.call("GET", url, &[("authorization", &bearer)])
}

fn ids(collector: &Collector, query: &str) -> Vec<String> {
    let answer = get(collector, &format!("/api/v1/devices?{query}"));
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    let body = answer.json();
    let items = body["items"].as_array().unwrap();
    let id = |device: &Json| device["id"].as_str().unwrap().to_owned();
    items.iter().map(id).collect()
}

const PATCH: &str = "application/merge-patch+json";

#[test]
fn an_operators_label_counts_more_than_the_devices_own_until_it_is_taken_away() {
    let collector = fleet();
    let answer = patch(
        &collector,
        URL,
        PATCH,
        r#"{"labels":{"site":"köln","team":"x:y","nothing":null}}"#,
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    for body in [answer.json(), get(&collector, URL).json()] {
        assert_eq!(
            body["labels"],
            json!({"site": "köln", "rack": "4", "team": "x:y"})
        );
        assert_eq!(body["agent_labels"], json!({"site": "berlin", "rack": "4"}));
        assert_eq!(
            body["operator_labels"],
            json!({"site": "köln", "team": "x:y"})
        );
    }
    let list = get(&collector, "/api/v1/devices?limit=1").json();
    assert_eq!(
        list["items"][0]["labels"],
        json!({"site": "köln", "rack": "4", "team": "x:y"})
    );
    let answer = patch(
        &collector,
        URL,
        "application/json",
        r#"{"labels":{"site":null}}"#,
    );
    assert_eq!(
        answer.json()["labels"],
        json!({"site": "berlin", "rack": "4", "team": "x:y"})
    );
}

#[test]
fn devices_are_found_by_their_labels() {
    let collector = fleet();
    let changes = r#"{"labels":{"site":"köln","team":"x:y"}}"#;
    assert_eq!(patch(&collector, URL, PATCH, changes).status, 200);
    for (query, expected) in [
        ("label=site:berlin", &["e"][..]),
        ("label=site:k%C3%B6ln", &["d"]),
        ("label=site", &["d", "e"]),
        ("label=site&label=rack:4", &["d"]),
        ("label=site:berlin&label=rack:4", &[]),
        ("label=team:x:y", &["d"]),
        ("label=team:", &[]),
        ("label=site&sort=-id&q=e", &["e"]),
        ("", &["d", "e", "f"]),
    ] {
        assert_eq!(ids(&collector, query), expected, "{query}");
    }
    for query in ["label=Site:x", "label=", "label=:x", "label=site=berlin"] {
        let answer = get(&collector, &format!("/api/v1/devices?{query}"));
        let body = problem(&answer, 400, "invalid-parameter", "/api/v1/devices");
        assert_eq!(body["errors"][0]["parameter"], "label", "{query}");
        let hint = body["detail"]
            .as_str()
            .unwrap()
            .contains("label=site:berlin");
        assert_eq!(hint, query.contains("=site="), "{body}");
    }
    let text = get(&collector, "/metrics/devices");
    let line = "devmon_device_labels{device=\"d\",label_rack=\"4\",label_site=\"köln\",label_team=\"x:y\"} 1";
    assert!(text.text().contains(line), "{}", text.text());
}

#[test]
fn a_patch_of_nothing_changes_nothing_and_null_takes_all_away_that_was_given() {
    let collector = fleet();
    let changes = r#"{"labels":{"site":"köln","team":"x:y"}}"#;
    let changed = patch(&collector, URL, PATCH, changes).json();
    let same = patch(&collector, URL, PATCH, "{}");
    assert_eq!((same.status, same.json()), (200, changed));
    let none = patch(&collector, URL, PATCH, r#"{"labels":null}"#).json();
    assert_eq!(none["operator_labels"], json!({}));
    assert_eq!(none["labels"], json!({"site": "berlin", "rack": "4"}));
    let nobody = "/api/v1/devices/nobody";
    for body in ["{}", r#"{"labels":null}"#] {
        let answer = patch(&collector, nobody, PATCH, body);
        problem(&answer, 404, "not-found", nobody);
    }
}

#[test]
fn what_is_wrong_with_a_patch_is_said_in_words_of_json() {
    let collector = fleet();
    for (body, said) in [
        ("[]", "the body is no JSON object"),
        (r#"{"id":"x"}"#, "\"id\" can not be changed; labels can"),
        (
            r#"{"labels":{"site":1}}"#,
            "labels is neither null nor an object of texts and nulls",
        ),
    ] {
        let answer = patch(&collector, URL, PATCH, body);
        let detail = problem(&answer, 400, "malformed", URL)["detail"].clone();
        let detail = detail.as_str().unwrap();
        assert!(detail.starts_with(&format!("{said}; send {{")), "{detail}");
    }
}

#[test]
fn what_is_no_patch_of_labels_changes_nothing_and_says_why() {
    let collector = fleet();
    let long = format!(
        "{{\"labels\":{{\"ok\":\"1\",\"site\":\"{}\"}}}}",
        "x".repeat(257)
    );
    for (body, parameter) in [
        (r#"{"labels":{"ok":"1","Bad-Name":"x"}}"#, "labels.Bad-Name"),
        (&long, "labels.site"),
    ] {
        let answer = patch(&collector, URL, PATCH, body);
        let body = problem(&answer, 400, "invalid-parameter", URL);
        assert_eq!(body["errors"][0]["parameter"], parameter);
    }
    let many: Vec<_> = (0..33).map(|i| format!("\"l{i}\":\"x\"")).collect();
    let many = format!("{{\"labels\":{{{}}}}}", many.join(","));
    let body = problem(
        &patch(&collector, URL, PATCH, &many),
        400,
        "invalid-parameter",
        URL,
    );
    assert_eq!(body["errors"][0]["parameter"], "labels");
    for body in [
        "",
        "{",
        "[]",
        r#"{"id":"x"}"#,
        r#"{"labels":[]}"#,
        r#"{"labels":{"site":1}}"#,
        r#"{"labels":{},"status":"online"}"#,
    ] {
        problem(&patch(&collector, URL, PATCH, body), 400, "malformed", URL);
    }
    problem(
        &patch(&collector, URL, "text/plain", "{}"),
        415,
        "unsupported-media-type",
        URL,
    );
    let large = format!("{{\"labels\":{{}}{}}}", " ".repeat(64 << 10));
    problem(
        &patch(&collector, URL, PATCH, &large),
        413,
        "body-too-large",
        URL,
    );
    let nobody = "/api/v1/devices/nobody";
    problem(
        &patch(&collector, nobody, PATCH, r#"{"labels":{"a":"b"}}"#),
        404,
        "not-found",
        nobody,
    );
    let headers = [("content-type", PATCH)];
    let answer = send(collector.addr, "PATCH", URL, &headers, "{}");
    problem(&answer, 401, "unauthorized", URL);
    assert_eq!(
        get(&collector, URL).json()["labels"],
        json!({"site": "berlin", "rack": "4"})
    );
    let open = Collector::start();
    open.store.put("d", "/a", T, 1.0);
    let answer = send(open.addr, "PATCH", URL, &headers, r#"{"labels":{"a":"b"}}"#);
    problem(&answer, 403, "forbidden", URL);
}

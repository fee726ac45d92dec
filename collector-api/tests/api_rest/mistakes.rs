//! All that is wrong with a call is said at once: names and values, each with its parameter.

use serde_json::Value as Json;

use crate::errors::problem;
use crate::support::{Answer, Collector};

/// The parameters that an answer calls wrong, in its order, each with what is wrong with it.
fn errors(answer: &Answer, path: &str) -> Vec<(String, String)> {
    let body = problem(answer, 400, "invalid-parameter", path);
    let text = |error: &Json, field: &str| error[field].as_str().unwrap().to_owned();
    let errors = body["errors"].as_array().unwrap().iter();
    let errors: Vec<_> = errors
        .map(|e| (text(e, "parameter"), text(e, "detail")))
        .collect();
    let said: Vec<_> = errors.iter().map(|(n, d)| format!("{n}: {d}")).collect();
    assert_eq!(body["detail"], said.join("; "));
    errors
}

fn named(collector: &Collector, url: &str) -> Vec<String> {
    let path = url.split('?').next().unwrap();
    let errors = errors(&collector.get(url), path).into_iter();
    errors.map(|(name, _)| name).collect()
}

#[test]
fn all_values_that_are_wrong_are_said_at_once() {
    let collector = Collector::start();
    collector.store.put("d", "/a", 1, 1.0);
    for (url, expected) in [
        (
            "/api/v1/devices?follow=1&limit=0&label=Site&status=on,online,off&device=a%20b&device=a&device=%C3%A9&sort=x&cursor=x",
            "sort cursor device device status status label limit follow",
        ),
        ("/api/v1/devices?sort=-id&limit=0&cursor=x", "cursor limit"),
        (
            "/api/v1/devices/a%20b/metrics?limit=x&prefix=x&kind=x&sort=x&cursor=x",
            "device sort cursor prefix kind limit",
        ),
        (
            "/api/v1/devices/a%20b/latest?prefix=x&format=x&follow=x",
            "device format prefix follow",
        ),
        (
            "/api/v1/devices/d/series?from=x&to=y&step=-1&limit=abc",
            "path from to step limit",
        ),
        (
            "/api/v1/devices/a%20b/series?path=/a&path=a&path=/a&from=2&to=1&step=x&points=5&agg=min,x,min&limit=0&cursor=x&follow=x",
            "device path path from step points agg agg limit cursor follow",
        ),
        (
            "/api/v1/latest?path=a&path=/**&device=a%20b&status=x&label=Site&cursor=x&limit=x&follow=x",
            "path path device status label cursor limit follow",
        ),
        (
            "/api/v1/series?path=a&device=a%20b&status=x&from=x&to=x&limit=x&cursor=x&follow=x",
            "path device status from to step limit cursor follow",
        ),
        (
            "/api/v1/dead-letters?reason=x&cursor=x&limit=x",
            "reason cursor limit",
        ),
        (
            "/api/v1/events?device=a%20b&path=a&path=/**&types=x,samples,y&min_interval=1&last_event_id=x",
            "device path path types types min_interval last_event_id",
        ),
        (
            "/metrics/devices?device=a%20b&prefix=x&path=a",
            "device prefix path",
        ),
    ] {
        assert_eq!(named(&collector, url).join(" "), expected, "{url}");
    }
}

#[test]
fn a_mistake_among_others_is_said_as_it_is_alone() {
    let collector = Collector::start();
    let path = "/api/v1/devices/d/series";
    let wrong = ["from=x", "to=-1y", "step=0", "limit=100001", "follow=1"];
    let url = |query: &str| format!("{path}?path=/a&{query}");
    let alone: Vec<_> = wrong
        .iter()
        .flat_map(|one| errors(&collector.get(&url(one)), path))
        .collect();
    assert_eq!(alone.len(), wrong.len());
    assert_eq!(errors(&collector.get(&url(&wrong.join("&"))), path), alone);
}

#[test]
fn names_and_values_that_are_wrong_are_said_at_once() {
    let collector = Collector::start();
    for (url, expected) in [
        (
            "/api/v1/devices?limt=5&limit=+5&x=%ff&sort=id&sort=id",
            "limt x sort limit",
        ),
        ("/api/v1/devices/a%20b?x=1", "x device"),
        ("/api/v1/dead-letters/x?x=1", "x id"),
        ("/api/v1/events?kinds=x&types=x", "kinds types"),
        ("/metrics/devices?x=1&prefix=x", "x prefix"),
        // Of what can not be decoded is not said that it is missing.
        ("/api/v1/devices/d/series?path=%FF&limit=0", "path limit"),
        ("/api/v1/series?path=/a&step=%FF&limit=0", "step limit"),
    ] {
        assert_eq!(named(&collector, url).join(" "), expected, "{url}");
    }
    let guarded = Collector::with_token(Some("secret"));
    let token = [("authorization", "Bearer secret")];
    let answer = guarded.call("DELETE", "/api/v1/devices/a%20b?x=1", &token);
    let errors = errors(&answer, "/api/v1/devices/a%20b").into_iter();
    let names: Vec<_> = errors.map(|(name, _)| name).collect();
    assert_eq!(names, ["x", "device"]);
}

#[test]
fn of_very_many_mistakes_some_are_said() {
    let collector = Collector::start();
    let path = "/api/v1/devices";
    let answer = collector.get(&format!("{path}?{}", "a&".repeat(7_000)));
    assert_eq!(errors(&answer, path).len(), 20);
    assert!(answer.body.len() < 8_192, "{} bytes", answer.body.len());
    let names = named(&collector, &format!("{path}?{}", "device=+&".repeat(30)));
    assert_eq!(names, ["device"; 20]);
    let both = format!("{path}?{}{}limit=0", "a&".repeat(15), "label=+&".repeat(9));
    let names = named(&collector, &both).join(" ");
    assert_eq!(
        names,
        format!("{}{}", "a ".repeat(15), ["label"; 5].join(" "))
    );
}

//! Every error is a problem document that names what is wrong; methods, tokens, panics.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value as Json, json};

use crate::support::{Answer, Collector};

const T: i64 = 1_795_450_000_000;

/// Checks the form of an error and returns its document.
pub(crate) fn problem(answer: &Answer, status: u16, kind: &str, instance: &str) -> Json {
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (status, Some("application/problem+json")),
        "{}",
        answer.text()
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let body = answer.json();
    assert_eq!(body["request_id"].as_str(), answer.header("x-request-id"));
    assert_eq!(
        body["type"],
        format!("https://devmon.invalid/problems/{kind}")
    );
    assert_eq!(
        (&body["status"], &body["instance"]),
        (&json!(status), &json!(instance))
    );
    assert!(
        !body["title"].as_str().unwrap().is_empty() && !body["detail"].as_str().unwrap().is_empty()
    );
    body
}

#[test]
fn a_wrong_parameter_is_named() {
    let collector = Collector::start();
    collector.store.put("d", "/a", 1, 1.0);
    for (url, parameter, says) in [
        (
            "/api/v1/devices?limit=5000",
            "limit",
            "5000 is more than the maximum of 1000",
        ),
        (
            "/api/v1/devices?limit=99999999999999999999",
            "limit",
            "more than the maximum of 1000",
        ),
        (
            "/api/v1/devices?limit=0",
            "limit",
            "less than the minimum of 1",
        ),
        ("/api/v1/devices?limit=-1", "limit", "not a whole number"),
        ("/api/v1/devices?limit=", "limit", "not a whole number"),
        ("/api/v1/devices?limit=1&limit=2", "limit", "stands twice"),
        (
            "/api/v1/devices?limti=1",
            "limti",
            "did you mean \"limit\"?",
        ),
        (
            "/api/v1/devices?status=on",
            "status",
            "none of online, stale, offline",
        ),
        (
            "/api/v1/devices?cursor=x",
            "cursor",
            "not a cursor of this list",
        ),
        (
            "/api/v1/devices?cursor=bS9h",
            "cursor",
            "not a cursor of this list",
        ),
        (
            "/api/v1/devices?sort=name",
            "sort",
            "none of id, status, first_seen",
        ),
        (
            "/api/v1/devices?sort=--id",
            "sort",
            "none of id, status, first_seen",
        ),
        (
            "/api/v1/devices?status=online,",
            "status",
            "none of online, stale, offline",
        ),
        (
            "/api/v1/devices?sort=-last_seen&cursor=ZGE",
            "cursor",
            "not a cursor of this list",
        ),
        (
            "/api/v1/devices/d/metrics?kind=histogram",
            "kind",
            "none of gauge, counter, state, text",
        ),
        (
            "/api/v1/devices/d/metrics?sort=unit",
            "sort",
            "none of path, first_ts, last_ts",
        ),
        (
            "/api/v1/dead-letters?reason=bad",
            "reason",
            "none of invalid_topic",
        ),
        ("/api/v1/devices?q=%FF", "q", "percent-encoded UTF-8"),
        ("/api/v1/devices?q=%4", "q", "percent-encoded UTF-8"),
        ("/api/v1/devices/a%20b", "device", "not legal"),
        ("/api/v1/devices/%C3%A9", "device", "not legal"),
        ("/api/v1/devices/%FF", "device", "percent-encoded UTF-8"),
        ("/api/v1/devices/d?limit=1", "limit", "known here: none"),
        (
            "/api/v1/devices/d/metrics?prefix=cpu",
            "prefix",
            "does not start with '/'",
        ),
        (
            "/api/v1/devices/d/metrics?cursor=ZGE",
            "cursor",
            "not a cursor of this list",
        ),
        (
            "/api/v1/devices/d/latest?format=xml",
            "format",
            "none of flat, tree",
        ),
        (
            "/api/v1/devices/d/latest?prefix=/a~2",
            "prefix",
            "not followed by 0 or 1",
        ),
        ("/api/v1/devices/d/series", "path", "is missing"),
        (
            "/api/v1/devices/d/series?path=",
            "path",
            "does not start with '/'",
        ),
        (
            "/api/v1/devices/d/series?path=/a&path=/a",
            "path",
            "stands twice",
        ),
        (
            "/api/v1/devices/d/series?path=/a&from=yesterday",
            "from",
            "RFC 3339",
        ),
        ("/api/v1/devices/d/series?path=/a&to=-6x", "to", "RFC 3339"),
        (
            "/api/v1/devices/d/series?path=/a&from=2000&to=1000",
            "from",
            "lies after to",
        ),
        (
            "/api/v1/devices/d/series?path=/a&step=0",
            "step",
            "out of range",
        ),
        (
            "/api/v1/devices/d/series?path=/a&step=1y",
            "step",
            "10s, 1m",
        ),
        (
            "/api/v1/devices/d/series?path=/a&points=1",
            "points",
            "minimum of 2",
        ),
        (
            "/api/v1/devices/d/series?path=/a&points=10001",
            "points",
            "maximum of 10000",
        ),
        (
            "/api/v1/devices/d/series?path=/a&points=5&step=1s",
            "points",
            "does not go with step",
        ),
        (
            "/api/v1/devices/d/series?path=/a&agg=avg",
            "agg",
            "needs step or points",
        ),
        (
            "/api/v1/devices/d/series?path=/a&step=1s&agg=median",
            "agg",
            "none of avg, min, max, sum, count, last, rate",
        ),
        (
            "/api/v1/devices/d/series?path=/a&limit=100001",
            "limit",
            "maximum of 100000",
        ),
        (
            "/api/v1/devices/d/series?path=/a&cursor=ZGE",
            "cursor",
            "not a cursor of this list",
        ),
        ("/api/v1/status?verbose=1", "verbose", "unknown parameter"),
        (
            "/api/v1/dead-letters?limit=x",
            "limit",
            "not a whole number",
        ),
        ("/api/v1/dead-letters/-1", "id", "not a whole number"),
    ] {
        let body = problem(
            &collector.get(url),
            400,
            "invalid-parameter",
            url.split('?').next().unwrap(),
        );
        assert_eq!(body["title"], "Invalid parameter");
        let error = &body["errors"][0];
        assert_eq!(error["parameter"], parameter, "{url}");
        assert!(
            error["detail"].as_str().unwrap().contains(says),
            "{url}: {error}"
        );
        assert_eq!(
            body["detail"],
            format!("{parameter}: {}", error["detail"].as_str().unwrap()),
            "{url}"
        );
    }
    let paths: String = (0..51).map(|i| format!("&path=/{i}")).collect();
    let answer = collector.get(&format!("/api/v1/devices/d/series?{paths}"));
    assert_eq!(
        problem(
            &answer,
            400,
            "invalid-parameter",
            "/api/v1/devices/d/series"
        )["errors"][0]["parameter"],
        "path"
    );
}

#[test]
fn what_is_not_there_is_404() {
    let collector = Collector::start();
    collector.store.put("d", "/a/b", 1, 1.0);
    for (url, says) in [
        ("/api/v1/nothing", "/api/v1/nothing"),
        ("/api/v2/devices", "/api/v2/devices"),
        ("/nothing", "/nothing"),
        ("/api/v1/devices/nobody", "nobody"),
        ("/api/v1/devices/nobody/metrics", "nobody"),
        ("/api/v1/devices/nobody/latest", "nobody"),
        ("/api/v1/devices/nobody/series?path=/a", "nobody"),
        ("/api/v1/devices/d/series?path=/a", "no metric \"/a\""),
        (
            "/api/v1/devices/d/series?path=/a/b&path=/zzz",
            "no metric \"/zzz\"",
        ),
    ] {
        let body = problem(
            &collector.get(url),
            404,
            "not-found",
            url.split('?').next().unwrap(),
        );
        assert!(
            body["detail"].as_str().unwrap().contains(says),
            "{url}: {body}"
        );
        assert!(body.get("errors").is_none());
    }
    problem(
        &collector.call("POST", "/nothing", &[]),
        404,
        "not-found",
        "/nothing",
    );
}

#[test]
fn other_methods_are_405_and_say_which_are_possible() {
    let collector = Collector::start();
    for url in [
        "/api/v1/devices",
        "/api/v1/status",
        "/livez",
        "/",
        "/api/v1/devices/d/series",
    ] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let answer = collector.call(method, url, &[("content-length", "0")]);
            problem(&answer, 405, "method-not-allowed", url);
            assert_eq!(answer.header("allow"), Some("GET, HEAD"));
        }
    }
}

#[test]
fn head_answers_the_headers_of_get() {
    let collector = Collector::start();
    collector.store.put_device("d", |_| {});
    collector.store.put_device("e", |_| {});
    for url in ["/api/v1/devices?limit=1", "/", "/livez", "/api/v1/nothing"] {
        let (get, head) = (collector.get(url), collector.call("HEAD", url, &[]));
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{url}");
        for name in [
            "content-type",
            "content-length",
            "cache-control",
            "link",
            "etag",
        ] {
            assert_eq!(head.header(name), get.header(name), "{url} {name}");
        }
    }
}

/// The status of a call that names `host`.
fn status_for_host(collector: &Collector, path: &str, host: &str) -> u16 {
    let mut stream = TcpStream::connect(collector.addr).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn without_a_token_only_loopback_names_are_answered() {
    let open = Collector::start();
    for host in [
        "localhost",
        "LOCALHOST:8765",
        "127.0.0.1:8765",
        "127.9.9.9",
        "[::1]:8765",
        "devmon.localhost:1",
    ] {
        assert_eq!(
            status_for_host(&open, "/api/v1/devices", host),
            200,
            "{host}"
        );
    }
    for host in [
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "",
    ] {
        assert_eq!(
            status_for_host(&open, "/api/v1/devices", host),
            421,
            "{host}"
        );
    }
    assert_eq!(status_for_host(&open, "/livez", "evil.example"), 200);
    let guarded = Collector::with_token(Some("correct-horse-battery"));
    assert_eq!(
        status_for_host(&guarded, "/api/v1/devices", "evil.example"),
        401
    );
}

#[test]
fn a_token_is_asked_for_everywhere_below_api() {
    let collector = Collector::with_token(Some("correct-horse-battery"));
    for url in [
        "/api/v1/devices",
        "/api/v1/status",
        "/api/v1/nothing",
        "/api/v1/devices/d/series?limit=x",
    ] {
        for headers in [
            &[][..],
            &[("authorization", "Bearer wrong-horse-battery")],
            &[("authorization", "Bearer correct-horse-batter")],
            &[("authorization", "Bearer correct-horse-battery2")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bear")],
            &[("authorization", "Basic correct-horse-battery")],
        ] {
            let answer = collector.call("GET", url, headers);
            problem(&answer, 401, "unauthorized", url.split('?').next().unwrap());
            assert_eq!(
                answer.header("www-authenticate"),
                Some("Bearer realm=\"devmon\"")
            );
        }
        for good in [
            "Bearer correct-horse-battery",
            "bearer correct-horse-battery",
        ] {
            assert_ne!(
                collector
                    .call("GET", url, &[("authorization", good)])
                    .status,
                401,
                "{url}"
            );
        }
    }
    for open in ["/livez", "/readyz", "/"] {
        assert_eq!(collector.get(open).status, 200, "{open}");
    }
}

#[test]
fn a_defect_is_an_answer_and_ends_nothing_else() {
    let collector = Collector::start();
    let body = problem(
        &collector.get("/api/v1/devices/panic"),
        500,
        "internal",
        "/api/v1/devices/panic",
    );
    assert!(
        !body.to_string().contains("asked for"),
        "the cause is for the log"
    );
    collector.store.put("damaged", "/a", 1, 1.0);
    let answer = collector.get("/api/v1/devices/damaged/series?path=/a&from=0&to=now");
    let body = problem(&answer, 500, "internal", "/api/v1/devices/damaged/series");
    assert!(!body.to_string().contains("secret"));
    assert_eq!(collector.get("/livez").status, 200);
}

#[test]
fn a_connection_serves_many_calls() {
    let collector = Collector::start();
    let mut stream = TcpStream::connect(collector.addr).unwrap();
    for _ in 0..3 {
        stream
            .write_all(b"HEAD /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            text.push(byte[0]);
        }
        assert!(text.starts_with(b"HTTP/1.1 200 OK"));
    }
}

#[test]
fn whole_numbers_are_digits() {
    let collector = Collector::start();
    collector.store.put("d", "/a", T, 1.0);
    let path = "/api/v1/devices/d/series";
    for (query, parameter) in [
        ("limit=%2B5", "limit"),
        ("points=%2B50", "points"),
        ("step=%2B1000", "step"),
        ("limit=-1", "limit"),
        ("limit=5.0", "limit"),
        ("limit=", "limit"),
    ] {
        let answer = collector.get(&format!("{path}?path=/a&{query}"));
        let body = problem(&answer, 400, "invalid-parameter", path);
        assert_eq!(body["errors"][0]["parameter"], parameter, "{query}");
    }
}

#[test]
fn a_pattern_that_could_find_nothing_says_what_a_star_is() {
    let collector = Collector::start();
    for path in ["/api/v1/latest", "/api/v1/events"] {
        for pattern in ["/disk/**", "/disk/*/ut*", "/**/a"] {
            let answer = collector.get(&format!("{path}?path={pattern}"));
            let body = problem(&answer, 400, "invalid-parameter", path);
            let detail = body["errors"][0]["detail"].as_str().unwrap();
            assert!(detail.contains("one whole name"), "{detail}");
        }
    }
}

#[test]
fn a_prefix_may_end_like_a_folder() {
    let collector = Collector::start();
    collector.store.put("d", "/disk/a", T, 1.0);
    collector.store.put("d", "/cpu/a", T, 1.0);
    let count = |prefix: &str| {
        let answer = collector.get(&format!("/api/v1/devices/d/metrics?prefix={prefix}"));
        answer.json()["items"].as_array().map(Vec::len)
    };
    assert_eq!(count("/disk/"), count("/disk"));
    assert_eq!((count("/disk"), count("/")), (Some(1), Some(2)));
    let path = "/api/v1/devices/d/metrics";
    let answer = collector.get(&format!("{path}?prefix=/disk//a"));
    let body = problem(&answer, 400, "invalid-parameter", path);
    assert!(body["detail"].as_str().unwrap().contains("~1"), "{body}");
}

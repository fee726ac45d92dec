//! What every call goes through: ids, bounds, conditions, codings, other origins, places.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use devmon_collector::api::Origins;
use serde_json::json;

use crate::errors::problem;
use crate::support::{Answer, Collector, call, read_answer, send};

const T: i64 = 1_795_450_000_000;

fn gunzip(answer: &Answer) -> Vec<u8> {
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&answer.body[..])
        .read_to_end(&mut plain)
        .unwrap();
    plain
}

fn unbrotli(answer: &Answer) -> Vec<u8> {
    assert_eq!(answer.header("content-encoding"), Some("br"));
    let mut plain = Vec::new();
    brotli::BrotliDecompress(&mut &answer.body[..], &mut plain).unwrap();
    plain
}

/// One with answers of all lengths.
fn fleet() -> Collector {
    let collector = Collector::start();
    for i in 0..400 {
        collector.store.put(&format!("edge-{i:03}"), "/a", T, i);
    }
    collector
}

#[test]
fn an_answer_is_compressed_as_the_caller_takes_it() {
    let collector = fleet();
    for url in ["/api/v1/devices?limit=50", "/api/v1/devices?limit=400"] {
        let plain = collector.get(url);
        let get = |accept| collector.call("GET", url, &[("accept-encoding", accept)]);
        assert_eq!(plain.header("vary"), Some("accept, accept-encoding"));
        assert_eq!(plain.header("content-encoding"), None);
        assert_eq!(gunzip(&get("gzip")), plain.body, "{url}");
        assert_eq!(unbrotli(&get("gzip, deflate, br")), plain.body, "{url}");
        assert_eq!(gunzip(&get("br;q=0.1, gzip")), plain.body);
        assert_eq!(unbrotli(&get("*, identity;q=0")), plain.body);
        assert_eq!(get("gzip;q=0, identity").body, plain.body);
        assert_eq!(get("deflate").body, plain.body);
        let coded = get("gzip");
        assert!(coded.body.len() < plain.body.len() / 2);
        assert_eq!(coded.header("vary"), Some("accept, accept-encoding"));
        assert_eq!(coded.header("etag"), plain.header("etag"));
        let head = collector.call("HEAD", url, &[("accept-encoding", "gzip")]);
        assert_eq!(head.body, b"");
        for name in ["content-length", "content-encoding", "vary", "etag"] {
            assert_eq!(head.header(name), coded.header(name), "{name}");
        }
    }
    let short = |accept| {
        let headers = [("accept-encoding", accept)];
        collector.call("GET", "/api/v1/devices?limit=1", &headers)
    };
    assert_eq!(short("gzip").header("content-encoding"), None);
    assert_eq!(
        short("gzip, identity;q=0").header("content-encoding"),
        Some("gzip")
    );
}

#[test]
fn events_are_a_stream_in_no_coding() {
    let collector = Collector::start();
    let headers = [("accept-encoding", "gzip, br, identity;q=0")];
    let head = collector.call("HEAD", "/api/v1/events", &headers);
    assert_eq!(
        (head.status, head.header("content-type")),
        (200, Some("text/event-stream"))
    );
    assert_eq!(head.header("content-encoding"), None);
    assert_eq!(head.header("etag"), None);
    let mut stream = TcpStream::connect(collector.addr).unwrap();
    let ask = "GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\naccept-encoding: gzip, identity;q=0\r\n\r\n";
    stream.write_all(ask.as_bytes()).unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"retry: 2000\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("transfer-encoding: chunked"), "{text}");
    assert!(!text.contains("content-encoding"), "{text}");
}

#[test]
fn who_has_the_answer_is_not_sent_it_again() {
    let collector = fleet();
    let url = "/api/v1/devices?limit=60";
    let first = collector.get(url);
    assert_eq!(first.header("cache-control"), Some("no-cache"));
    let tag = first.header("etag").unwrap().to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");
    let strong = tag.trim_start_matches("W/");
    for known in [&tag, strong, "*", &format!("\"x\", {tag}")] {
        for method in ["GET", "HEAD"] {
            let headers = [("if-none-match", known), ("accept-encoding", "gzip")];
            let again = collector.call(method, url, &headers);
            assert_eq!((again.status, again.body.len()), (304, 0), "{known}");
            assert_eq!(again.header("etag"), Some(&tag[..]));
            assert_eq!(again.header("cache-control"), Some("no-cache"));
            assert_eq!(again.header("vary"), Some("accept, accept-encoding"));
            assert_eq!(again.header("content-type"), None);
        }
    }
    let ask = |tag: &str| collector.call("GET", url, &[("if-none-match", tag)]);
    assert_eq!(ask("W/\"0000000000000000\"").status, 200);
    collector.store.put_device("edge-000", |d| d.series = 9);
    let changed = ask(&tag);
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), Some(&tag[..]));
    // Errors, and what holds for a moment only, have none.
    for url in ["/api/v1/devices/nobody", "/livez", "/readyz"] {
        let answer = collector.call("GET", url, &[("if-none-match", "*")]);
        assert_ne!(answer.status, 304, "{url}");
        assert_eq!(answer.header("etag"), None, "{url}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{url}");
    }
}

#[test]
fn only_a_range_that_is_over_and_fixed_is_kept_without_asking() {
    let collector = Collector::start();
    collector.store.put("d", "/a", T, 1.0);
    let (hour, now) = (3_600_000, devmon_core::wire::TimestampMs::now().0);
    let kept = |times: &str| {
        let url = format!("/api/v1/devices/d/series?path=/a&{times}");
        let answer = collector.get(&url);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.header("cache-control").unwrap().to_owned()
    };
    let closed = "private, max-age=300";
    assert_eq!(kept(&format!("from={T}&to={}", now - 7 * hour)), closed);
    assert_eq!(kept("to=2026-01-01T00:00:00Z"), closed);
    for times in [
        "",
        "from=-9h&to=-7h",
        "to=-7h",
        &format!("from=-9h&to={}", now - 7 * hour),
        &format!("from={T}"),
        &format!("from={T}&to={}", now - 5 * hour),
        &format!("from={T}&to={}", now + hour),
    ] {
        assert_eq!(kept(times), "no-cache", "{times}");
    }
}

#[test]
fn a_call_has_an_id_in_answer_and_problem() {
    let collector = Collector::start();
    let id = |headers: &[(&str, &str)]| {
        let answer = collector.call("GET", "/api/v1/devices", headers);
        answer.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(id(&[("x-request-id", "from-a.proxy_7")]), "from-a.proxy_7");
    for bad in ["", "a b", &"x".repeat(65), "<script>"] {
        let made = id(&[("x-request-id", bad)]);
        assert!(made != bad && made.len() == 26, "{made}");
    }
    assert_ne!(id(&[]), id(&[]));
    let headers = [("x-request-id", "mine")];
    let answer = collector.call("GET", "/api/v1/devices/nobody", &headers);
    let body = problem(&answer, 404, "not-found", "/api/v1/devices/nobody");
    assert_eq!(body["request_id"], "mine");
}

#[test]
fn other_origins_read_nothing_unless_they_are_named() {
    let good = "https://status.example.org";
    let preflight = |collector: &Collector, origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "PATCH"),
            (
                "access-control-request-headers",
                "authorization, content-type",
            ),
        ];
        collector.call("OPTIONS", "/api/v1/devices/d", &headers)
    };
    let closed = Collector::start();
    let answer = closed.call("GET", "/api/v1/devices", &[("origin", good)]);
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!((answer.status, preflight(&closed, good).status), (421, 421));

    let open =
        Collector::with_server(|server| server.with_origins(Origins::parse([good]).unwrap()));
    let answer = open.call("GET", "/api/v1/devices", &[("origin", good)]);
    assert_eq!(answer.header("access-control-allow-origin"), Some(good));
    assert_eq!(
        answer.header("vary"),
        Some("accept, accept-encoding, origin")
    );
    let exposed = answer.header("access-control-expose-headers").unwrap();
    assert!(exposed.contains("Link") && exposed.contains("X-Request-Id"));
    let answer = open.call("GET", "/api/v1/nothing", &[("origin", good)]);
    assert_eq!(answer.header("access-control-allow-origin"), Some(good));
    let answer = preflight(&open, good);
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(answer.header("access-control-allow-origin"), Some(good));
    let allowed = |name: &str| answer.header(name).unwrap().to_owned();
    assert!(allowed("access-control-allow-methods").contains("PATCH"));
    let headers = allowed("access-control-allow-headers");
    assert!(headers.contains("Authorization") && headers.contains("Content-Type"));
    assert_eq!(allowed("access-control-max-age"), "600");
    assert_eq!(answer.header("vary"), Some("origin"));
    for other in ["https://evil.example", "null", "http://status.example.org"] {
        let answer = open.call("GET", "/api/v1/devices", &[("origin", other)]);
        assert_eq!(answer.header("access-control-allow-origin"), None);
        assert!(answer.header("vary").unwrap().contains("origin"));
        assert_eq!(answer.status, 421, "{other}");
        let answer = preflight(&open, other);
        assert_eq!(answer.status, 421, "{other}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}

#[test]
fn a_web_page_of_elsewhere_makes_no_work_where_no_token_is_asked_for() {
    let open = Collector::start();
    let status = |name: &str, value: &str| {
        let path = "/prometheus/api/v1/query?query=1";
        open.call("GET", path, &[(name, value)]).status
    };
    for elsewhere in [
        "https://evil.example",
        "http://127.0.0.1.evil.example",
        "null",
        "",
    ] {
        assert_eq!(status("origin", elsewhere), 421, "{elsewhere:?}");
    }
    for here in [
        "http://127.0.0.1:8765",
        "http://localhost:5173",
        "http://[::1]:1",
    ] {
        assert_eq!(status("origin", here), 200, "{here}");
    }
    assert_eq!(status("sec-fetch-site", "cross-site"), 421);
    for here in ["same-origin", "same-site", "none"] {
        assert_eq!(status("sec-fetch-site", here), 200, "{here}");
    }
    let guarded = Collector::with_token(Some("correct-horse-battery"));
    let headers = [
        ("origin", "https://evil.example"),
        ("authorization", "Bearer correct-horse-battery"),
    ];
    assert_eq!(guarded.call("GET", "/api/v1/devices", &headers).status, 200);
}

#[test]
fn a_form_that_there_is_not_is_406() {
    let collector = fleet();
    let url = "/api/v1/status";
    let ask = |accept| collector.call("GET", url, &[("accept", accept)]);
    for taken in ["*/*", "text/html, */*;q=0.1", "application/*"] {
        assert_eq!(ask(taken).status, 200, "{taken}");
    }
    for not in ["text/html", "application/json;q=0", "image/*"] {
        let body = problem(&ask(not), 406, "not-acceptable", url);
        assert!(
            body["detail"]
                .as_str()
                .unwrap()
                .contains("application/json")
        );
    }
}

#[test]
fn heads_and_bodies_have_bounds_that_are_told() {
    let collector = Collector::start();
    let long = format!("/api/v1/devices?q={}", "x".repeat(17 << 10));
    let answer = collector.get(&long);
    problem(&answer, 414, "uri-too-long", "/api/v1/devices");
    let answer = collector.call("GET", "/", &[("cookie", &"x".repeat(17 << 10))]);
    problem(&answer, 431, "headers-too-large", "/");

    let url = "/prometheus/api/v1/query";
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let post =
        |headers: &[(&str, &str)], body: &str| send(collector.addr, "POST", url, headers, body);
    assert_eq!(post(&form, "query=1%2B1").status, 200);
    let charset = [(
        "content-type",
        "Application/x-www-form-urlencoded; charset=utf-8",
    )];
    assert_eq!(post(&charset, "query=1").status, 200);
    let json = [("content-type", "application/json")];
    let body = problem(&post(&json, "{}"), 415, "unsupported-media-type", url);
    assert!(body["detail"].as_str().unwrap().contains("urlencoded"));
    problem(&post(&[], "query=1"), 415, "unsupported-media-type", url);
    let large = format!("query=1&x={}", "x".repeat(64 << 10));
    problem(&post(&form, &large), 413, "body-too-large", url);
    // In chunks its length is not said beforehand.
    let mut stream = TcpStream::connect(collector.addr).unwrap();
    let head = format!(
        "POST {url} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\ncontent-type: application/x-www-form-urlencoded\r\n\r\n"
    );
    stream
        .write_all(format!("{head}7\r\nquery=1\r\n0\r\n\r\n").as_bytes())
        .unwrap();
    assert_eq!(read_answer("POST", &mut stream).status, 200);
    let mut stream = TcpStream::connect(collector.addr).unwrap();
    let chunk = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let _ = stream.write_all(format!("{head}{chunk}").as_bytes());
    problem(
        &read_answer("POST", &mut stream),
        413,
        "body-too-large",
        url,
    );
    // Nobody sends a body that is read before the token is checked.
    let guarded = Collector::with_token(Some("correct-horse-battery"));
    let answer = send(guarded.addr, "POST", url, &json, "{}");
    assert_eq!(answer.status, 401);
}

/// A connection that has been answered once, and stays.
fn held(collector: &Collector) -> TcpStream {
    let mut stream = TcpStream::connect(collector.addr).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream
        .write_all(b"HEAD /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    stream
}

#[test]
fn one_address_has_a_part_of_the_connections_and_is_told_so() {
    let collector = Collector::with_server(|server| server.with_connections_per_address(2));
    let held = [held(&collector), held(&collector)];
    let url = "/api/v1/devices";
    let answer = collector.get(url);
    let body = problem(&answer, 429, "too-many-connections", url);
    assert!(
        body["detail"]
            .as_str()
            .unwrap()
            .contains("http_max_connections_per_address")
    );
    assert_eq!(answer.header("retry-after"), Some("2"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(collector.get("/livez").status, 200);
    assert_eq!(collector.get("/readyz").status, 200);
    drop(held);
    let begin = Instant::now();
    while collector.get(url).status != 200 {
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn beyond_all_connections_a_call_is_told_so() {
    let collector = Collector::with_server(|server| server.with_connections_per_address(1_000));
    let held: Vec<_> = (0..64).map(|_| held(&collector)).collect();
    let answer = collector.get("/api/v1/status");
    problem(&answer, 503, "busy", "/api/v1/status");
    assert_eq!(answer.header("retry-after"), Some("2"));
    drop(held);
    let begin = Instant::now();
    while collector.get("/api/v1/status").status != 200 {
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn a_connection_that_asks_nothing_is_closed() {
    let idle = Duration::from_millis(200);
    let collector = Collector::with_server(|server| server.with_idle_timeout(idle));
    let mut rest = Vec::new();
    // Answered once, then silent.
    held(&collector).read_to_end(&mut rest).unwrap();
    // Never a whole head.
    for head in ["", "GET /livez HTTP/1.1\r\nhost: loc"] {
        let mut stream = TcpStream::connect(collector.addr).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let begin = Instant::now();
        stream.read_to_end(&mut rest).unwrap();
        assert!(begin.elapsed() >= idle / 2, "{head:?}");
    }
    assert_eq!(rest, b"", "closed without a word");
    assert_eq!(collector.get("/livez").json(), json!({"status": "ok"}));
}

#[test]
fn a_body_that_does_not_come_is_408() {
    let collector = Collector::start();
    let url = "/prometheus/api/v1/query";
    let mut stream = TcpStream::connect(collector.addr).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let head = format!(
        "POST {url} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 9\r\ncontent-type: application/x-www-form-urlencoded\r\n\r\n"
    );
    stream.write_all(format!("{head}query").as_bytes()).unwrap();
    let begin = Instant::now();
    let answer = read_answer("POST", &mut stream);
    let body = problem(&answer, 408, "request-timeout", url);
    assert!(body["detail"].as_str().unwrap().contains("10s"), "{body}");
    assert!(begin.elapsed() >= Duration::from_secs(9));
    assert_eq!(collector.get("/livez").status, 200);
}

#[test]
fn what_is_no_http_is_refused_and_ends_nothing_else() {
    let collector = Collector::start();
    for (bytes, status) in [
        (&b"hello\r\n\r\n"[..], 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ] {
        let mut stream = TcpStream::connect(collector.addr).unwrap();
        stream.write_all(bytes).unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
    }
    assert_eq!(call(collector.addr, "GET", "/livez", &[]).status, 200);
}

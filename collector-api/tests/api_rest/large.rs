//! Long answers: sent in pieces, the same as whole ones, within a bound on memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::errors::problem;
use crate::support::{Answer, Collector, joined};

const T: i64 = 1_795_450_000_000;
const ROWS: i64 = 4_000;

fn url(rest: &str) -> String {
    let to = T + ROWS * 1_000;
    format!("/api/v1/devices/d/series?path=/a/*&from={T}&to={to}{rest}")
}

/// Ten columns of all types with gaps: some 500 KB.
fn fill(collector: &Collector) {
    for row in 0..ROWS {
        let t = T + row * 1_000;
        for column in 0..10 {
            let path = format!("/a/{column}");
            match (row + column) % 7 {
                0 => {}
                1 if column == 3 => collector.store.put("d", &path, t, format!("\"{row}\", é")),
                2 if column == 3 => collector.store.put("d", &path, t, row % 2 == 0),
                3 => collector.store.put("d", &path, t, row),
                _ => collector.store.put("d", &path, t, row as f64 / 7.0),
            }
        }
    }
}

fn in_pieces(answer: &Answer) -> bool {
    answer.header("transfer-encoding") == Some("chunked")
}

#[test]
fn a_long_answer_is_what_its_pages_are() {
    let collector = Collector::start();
    fill(&collector);
    let long = collector.get(&url("&limit=100000"));
    assert!(in_pieces(&long) && long.header("content-length").is_none());
    assert_eq!(long.header("content-type"), Some("application/json"));
    let long = long.json();
    let (mut t, mut v, mut cursor) = (Vec::new(), vec![Vec::new(); 10], String::new());
    loop {
        let page = collector.get(&url(&format!("&limit=700{cursor}")));
        assert!(!in_pieces(&page));
        let page = page.json();
        t.extend(page["t"].as_array().unwrap().clone());
        for (all, column) in v.iter_mut().zip(page["series"].as_array().unwrap()) {
            all.extend(column["v"].as_array().unwrap().clone());
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(long["t"], json!(t));
    for (column, v) in long["series"].as_array().unwrap().iter().zip(v) {
        assert_eq!(column["v"], json!(v), "{}", column["path"]);
    }
    assert_eq!(long["next_cursor"], json!(null));

    let table = collector.call("GET", &url("&limit=100000"), &[("accept", "text/csv")]);
    assert!(in_pieces(&table));
    let mut rows = csv::Reader::from_reader(&table.body[..]);
    let mut count = 0;
    for (row, cells) in rows.records().enumerate() {
        let cells = cells.unwrap();
        assert_eq!(cells[0], long["t"][row].to_string());
        for column in 0..10 {
            let expected = match &long["series"][column]["v"][row] {
                Json::Null => String::new(),
                Json::String(text) => text.clone(),
                other => other.to_string(),
            };
            assert_eq!(cells[column + 1], expected);
        }
        count += 1;
    }
    assert_eq!(count, t.len());
}

#[test]
fn a_long_answer_has_a_tag_a_head_and_a_coding() {
    let collector = Collector::start();
    fill(&collector);
    let url = url("&limit=100000");
    let get = |headers: &[(&str, &str)]| collector.call("GET", &url, headers);
    let plain = get(&[]);
    let tag = plain.header("etag").unwrap().to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");
    assert_eq!(get(&[]).header("etag"), Some(&tag[..]));
    let table = get(&[("accept", "text/csv")]);
    assert_ne!(table.header("etag"), Some(&tag[..]));
    let unchanged = get(&[("if-none-match", &tag)]);
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert_eq!(unchanged.header("etag"), Some(&tag[..]));
    assert_eq!(unchanged.header("content-type"), None);

    let coded = get(&[("accept-encoding", "gzip, br")]);
    assert_eq!(coded.header("content-encoding"), Some("gzip"));
    let mut text = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(&coded.body[..]);
    decoder.read_to_end(&mut text).unwrap();
    assert!(text == plain.body && coded.body.len() < plain.body.len() / 2);
    assert_eq!(
        coded.header("vary"),
        Some("accept, authorization, accept-encoding")
    );

    let head = collector.call("HEAD", &url, &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["etag", "vary", "cache-control", "content-type"] {
        assert_eq!(head.header(name), plain.header(name), "{name}");
    }
    assert_eq!(get(&[("accept", "image/png")]).status, 406);

    // One value of 40 000 is another.
    collector.store.put("d", "/a/9", T + 3_999_000, 0.0);
    let changed = get(&[("if-none-match", &tag)]);
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), Some(&tag[..]));
}

/// A hundred thousand texts: more than what two sockets hold for who does not read.
fn fill_with_texts(collector: &Collector) -> String {
    for row in 0..100_000 {
        let text = format!("{row:0200}");
        collector.store.put("d", "/log", T + row, text);
    }
    let to = T + 100_000;
    format!("/api/v1/devices/d/series?path=/log&from={T}&to={to}&limit=100000")
}

#[test]
fn who_does_not_read_has_no_whole_answer_and_gives_back_the_room() {
    let patience = Duration::from_millis(500);
    // Room for one of them, not for two.
    let collector = Collector::with_room(40 << 20, |server| server.with_patience(patience));
    let url = fill_with_texts(&collector);
    let ask = || {
        let mut stream = TcpStream::connect(collector.addr).unwrap();
        let head = format!("GET {url} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let mut slow = ask();
    let mut begin = [0; 15];
    slow.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200 OK");
    let busy = collector.get(&url);
    problem(&busy, 503, "busy", "/api/v1/devices/d/series");
    assert_eq!(busy.header("retry-after"), Some("2"));
    // Short answers need no room.
    let short = url.replace("limit=100000", "limit=10");
    assert_eq!(collector.get(&short).status, 200);

    let begin = Instant::now();
    let whole = loop {
        let answer = collector.get(&url);
        if answer.status == 200 {
            break answer;
        }
        assert!(begin.elapsed() < Duration::from_secs(30));
    };
    assert_eq!(whole.json()["t"].as_array().unwrap().len(), 100_000);
    let mut rest = Vec::new();
    // Reset or closed, but not as if that were all.
    let _ = slow.read_to_end(&mut rest);
    let body = rest.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert!(rest.len() < whole.body.len());
    assert_eq!(joined(&rest[body..]), None);
}

#[test]
fn texts_have_a_bound_in_bytes() {
    let collector = Collector::start();
    for row in 0..80 {
        let text = "x".repeat(1 << 20);
        collector.store.put("d", "/log", T + row, text);
    }
    let url = format!("/api/v1/devices/d/series?path=/log&from={T}&to={}", T + 100);
    let body = problem(
        &collector.get(&url),
        422,
        "too-many-points",
        "/api/v1/devices/d/series",
    );
    assert!(
        body["detail"].as_str().unwrap().contains("64 MiB"),
        "{body}"
    );
    let page = collector.get(&format!("{url}&limit=2"));
    assert_eq!(page.json()["series"][0]["v"].as_array().unwrap().len(), 2);
}

#[test]
fn what_is_in_memory_as_text_is_sent_in_pieces_too() {
    const METRICS: i64 = 6_000;
    let fill = |collector: &Collector| {
        for metric in 0..METRICS {
            let path = format!("/a/{metric:06}/value_of_a_metric_with_a_long_name");
            collector.store.put("d", &path, T, metric);
        }
    };
    let collector = Collector::start();
    fill(&collector);
    let url = "/api/v1/devices/d/latest";
    let long = collector.get(url);
    assert!(in_pieces(&long));
    assert_eq!(long.json()["items"].as_array().map(Vec::len), Some(6_000));
    let tag = long.header("etag").unwrap();
    let unchanged = collector.call("GET", url, &[("if-none-match", tag)]);
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    let other = collector.call("GET", url, &[("accept", "image/png")]);
    assert_eq!(other.status, 406);
    let names = "/prometheus/api/v1/label/__name__/values";
    let long = collector.get(names);
    assert!(in_pieces(&long));
    assert_eq!(long.json()["data"].as_array().map(Vec::len), Some(6_000));

    let small = Collector::with_room(200 << 10, |server| server);
    fill(&small);
    // No waiting would help.
    for url in [url, names] {
        problem(&small.get(url), 422, "too-many-points", url);
    }
}

//! Lists: what is in them, in which order, and as tables.

use devmon_core::Value;
use devmon_core::wire::about::{Presence, SourceState};
use devmon_core::wire::{Reason, TimestampMs};
use serde_json::{Value as Json, json};

use crate::errors::problem;
use crate::support::{Answer, Collector, about};

const T: i64 = 1_795_450_000_000;

/// All pages of a list, joined, and how many there were.
fn walk(collector: &Collector, url: &str) -> (Vec<Json>, usize) {
    let (mut all, mut pages, mut at) = (Vec::new(), 0, url.to_owned());
    loop {
        let answer = collector.get(&at);
        assert_eq!(answer.status, 200, "{at}: {}", answer.text());
        let body = answer.json();
        all.extend(body["items"].as_array().unwrap().clone());
        pages += 1;
        let Some(link) = answer.header("link") else {
            return (all, pages);
        };
        let target = link.strip_prefix('<').unwrap().split('>').next().unwrap();
        target.clone_into(&mut at);
    }
}

fn names(items: &[Json], field: &str) -> Vec<String> {
    let name = |item: &Json| item[field].as_str().unwrap().to_owned();
    items.iter().map(name).collect()
}

/// Four devices: of each figure, no two and three are alike.
fn fleet() -> Collector {
    let collector = Collector::start();
    let now = TimestampMs::now().0;
    for (id, seen, metrics, status) in [
        ("a", 5, 3, Presence::Online),
        ("B", 9, 1, Presence::Offline),
        ("c", 5, 2, Presence::Online),
        ("d", 7, 2, Presence::Offline),
    ] {
        for i in 0..metrics {
            collector.store.put(id, &format!("/m{i}"), T, 1.0);
        }
        collector.store.put_device(id, |d| {
            d.presence = Some(status);
            d.first_seen = TimestampMs(T - seen);
            d.last_seen = TimestampMs(now - 1_000 * seen);
            let failing = [("x", SourceState::Failing, 1_000); 2];
            d.about = Some(about(id, &failing[..usize::from(id == "c")], &[]));
        });
    }
    collector
}

#[test]
fn devices_come_in_the_order_that_is_asked_for_page_by_page() {
    let collector = fleet();
    for (sort, expected) in [
        ("id", ["B", "a", "c", "d"]),
        ("-id", ["d", "c", "a", "B"]),
        ("last_seen", ["B", "d", "a", "c"]),
        ("-last_seen", ["a", "c", "d", "B"]),
        ("first_seen", ["B", "d", "a", "c"]),
        ("metrics", ["B", "c", "d", "a"]),
        ("-metrics", ["a", "c", "d", "B"]),
        ("status", ["a", "c", "B", "d"]),
        ("-status", ["B", "d", "a", "c"]),
        ("-problems", ["c", "B", "a", "d"]),
        ("-sources", ["c", "B", "a", "d"]),
    ] {
        for limit in 1..5 {
            let url = format!("/api/v1/devices?sort={sort}&limit={limit}");
            let (all, pages) = walk(&collector, &url);
            assert_eq!(names(&all, "id"), expected, "{url}");
            assert_eq!(pages, 4_usize.div_ceil(limit), "{url}");
        }
    }
    // The cursor of another order is none of this one.
    let page = collector.json("/api/v1/devices?sort=-metrics&limit=1");
    let cursor = page["next_cursor"].as_str().unwrap();
    for other in ["", "&sort=metrics", "&sort=-sources", "&sort=-id"] {
        let answer = collector.get(&format!("/api/v1/devices?cursor={cursor}{other}"));
        let body = problem(&answer, 400, "invalid-parameter", "/api/v1/devices");
        assert_eq!(body["errors"][0]["parameter"], "cursor", "{other}");
    }
}

#[test]
fn filters_of_devices_go_with_every_order() {
    let collector = fleet();
    for (query, expected) in [
        ("status=offline&sort=-metrics", &["d", "B"][..]),
        ("status=online,offline&sort=-id", &["d", "c", "a", "B"]),
        ("status=stale", &[]),
        ("q=b&sort=-last_seen", &["B"]),
        ("q=B&status=offline,stale", &["B"]),
        ("q=", &["B", "a", "c", "d"]),
    ] {
        let (all, _) = walk(&collector, &format!("/api/v1/devices?limit=1&{query}"));
        assert_eq!(names(&all, "id"), expected, "{query}");
    }
}

#[test]
fn metrics_are_found_by_kind_unit_and_part_of_the_path() {
    let collector = Collector::start();
    for (i, path) in [
        "/cpu/Utilization",
        "/disk/~1/used_bytes",
        "/disk/~1/utilization",
        "/net/rx_bytes_total",
        "/zzz",
    ]
    .iter()
    .enumerate()
    {
        collector.store.put("d", path, T - i as i64 % 2, 1.0);
        collector.store.put("d", path, T + 10 - i as i64, 2.0);
    }
    for i in 0..1_500 {
        collector.store.put("d", &format!("/many/{i}"), T, 1.0);
    }
    let descriptors = [
        ["/cpu/Utilization", "1", "gauge", ""],
        ["/disk/{mount}/used_bytes", "By", "gauge", ""],
        ["/disk/{mount}/utilization", "1", "gauge", ""],
        ["/net/rx_bytes_total", "By", "counter", ""],
    ];
    collector
        .store
        .put_device("d", |d| d.about = Some(about("d", &[], &descriptors)));
    let url = "/api/v1/devices/d/metrics?";
    for (query, expected) in [
        ("unit=1", &["/cpu/Utilization", "/disk/~1/utilization"][..]),
        ("kind=counter", &["/net/rx_bytes_total"]),
        ("unit=By&kind=gauge", &["/disk/~1/used_bytes"]),
        ("q=UTILI", &["/cpu/Utilization", "/disk/~1/utilization"]),
        ("q=utili&prefix=/disk", &["/disk/~1/utilization"]),
        ("unit=Hz", &[]),
        (
            "unit=1&sort=-path",
            &["/disk/~1/utilization", "/cpu/Utilization"],
        ),
        (
            "unit=By&sort=last_ts",
            &["/net/rx_bytes_total", "/disk/~1/used_bytes"],
        ),
        (
            "unit=By&sort=-last_ts",
            &["/disk/~1/used_bytes", "/net/rx_bytes_total"],
        ),
        (
            "kind=gauge&sort=first_ts",
            &[
                "/disk/~1/used_bytes",
                "/cpu/Utilization",
                "/disk/~1/utilization",
            ],
        ),
    ] {
        for limit in [1, 2, 1_000] {
            let (all, _) = walk(&collector, &format!("{url}{query}&limit={limit}"));
            assert_eq!(names(&all, "path"), expected, "{query} by {limit}");
        }
    }
    for sort in ["path", "-path", "last_ts"] {
        let (all, pages) = walk(&collector, &format!("{url}sort={sort}&limit=400"));
        let mut paths = names(&all, "path");
        paths.sort();
        paths.dedup();
        assert_eq!((paths.len(), pages), (1_505, 4), "{sort}");
    }
}

#[test]
fn dead_letters_are_found_by_reason() {
    let collector = Collector::start();
    for id in 0..600 {
        let reason = if id % 200 == 7 {
            Reason::ALL[1]
        } else {
            Reason::InvalidJson
        };
        collector.store.put_letter_for(id, reason, "x");
    }
    let url = format!("/api/v1/dead-letters?reason={}", Reason::ALL[1].as_str());
    for limit in [1, 2, 3, 100] {
        let (all, _) = walk(&collector, &format!("{url}&limit={limit}"));
        assert_eq!(names(&all, "id"), ["407", "207", "7"], "{limit}");
    }
}

fn table(collector: &Collector, url: &str) -> Answer {
    let answer = collector.call("GET", url, &[("accept", "text/csv, */*;q=0.1")]);
    assert_eq!(answer.status, 200, "{url}: {}", answer.text());
    assert_eq!(
        answer.header("content-type"),
        Some("text/csv; charset=utf-8; header=present")
    );
    assert!(answer.header("vary").unwrap().starts_with("accept, "));
    assert!(answer.header("etag").is_some());
    answer
}

#[test]
fn tables_are_written_by_rfc_4180() {
    let collector = Collector::start();
    for (path, value) in [
        ("/a,\"b\"", Value::Text("line\nend, \"said\"".into())),
        ("/x/y", Value::Float(0.1)),
        ("/x/z", Value::Integer(i64::MAX)),
        ("/x/ok", Value::Boolean(true)),
    ] {
        collector.store.put("d", path, T, value);
    }
    collector.store.put("d", "/x/y", T + 5, 2.0);
    collector.store.put_device("d", |d| {
        (d.first_seen, d.last_seen) = (TimestampMs(T), TimestampMs(T + 1));
        d.presence = Some(Presence::Offline);
        d.about = Some(about("d", &[], &[["/x/{n}", "By", "gauge", "Say \"x\"."]]));
    });
    assert_eq!(
        table(&collector, "/api/v1/devices").text(),
        format!(
            "id,status,first_seen,last_seen,sources,metrics,problems,labels\r\nd,offline,{T},{},0,4,0,\r\n",
            T + 1
        )
    );
    assert_eq!(
        table(&collector, "/api/v1/devices/d/metrics?prefix=/x/z").text(),
        format!(
            "path,unit,kind,help,labels,type,first_ts,last_ts\r\n/x/z,By,gauge,\"Say \"\"x\"\".\",\"{{\"\"n\"\":\"\"z\"\"}}\",integer,{T},{T}\r\n"
        )
    );
    let latest = format!(
        "\"/a,\"\"b\"\"\",\"line\nend, \"\"said\"\"\",{T},,\r\n/x/ok,true,{T},By,gauge\r\n/x/y,2.0,{},By,gauge\r\n/x/z,9223372036854775807,{T},By,gauge\r\n",
        T + 5
    );
    assert_eq!(
        table(&collector, "/api/v1/devices/d/latest").text(),
        format!("path,value,ts,unit,kind\r\n{latest}")
    );
    let fleet = table(&collector, "/api/v1/latest?path=/x/*&limit=1");
    assert_eq!(
        fleet.text(),
        format!("device,status,path,value,ts,unit,kind\r\nd,offline,/x/ok,true,{T},By,gauge\r\n")
    );
    assert!(fleet.header("link").unwrap().ends_with("rel=\"next\""));
    let url = format!(
        "/api/v1/devices/d/series?path=/x/y&path=/a,%22b%22&from={T}&to={}",
        T + 9
    );
    assert_eq!(
        table(&collector, &url).text(),
        format!(
            "t,/x/y,\"/a,\"\"b\"\"\"\r\n{T},0.1,\"line\nend, \"\"said\"\"\"\r\n{},2.0,\r\n",
            T + 5
        )
    );
    assert_eq!(
        table(
            &collector,
            &format!(
                "/api/v1/devices/d/series?path=/x/y&from={T}&to={}&step=10&agg=min,max",
                T + 20
            )
        )
        .text(),
        format!("t,min(/x/y),max(/x/y)\r\n{T},0.1,2.0\r\n{},,\r\n", T + 10)
    );
}

#[test]
fn json_and_tables_of_one_address_are_told_apart() {
    let collector = fleet();
    let url = "/api/v1/devices";
    let json = collector.get(url);
    let table = table(&collector, url);
    assert_ne!(json.header("etag"), table.header("etag"));
    let tag = json.header("etag").unwrap();
    let headers = [("accept", "text/csv"), ("if-none-match", tag)];
    assert_eq!(collector.call("GET", url, &headers).status, 200);
    let answer = collector.call("GET", url, &[("accept", "image/png")]);
    problem(&answer, 406, "not-acceptable", url);
    let tree = collector.call(
        "GET",
        "/api/v1/devices/a/latest?format=tree",
        &[("accept", "text/csv")],
    );
    problem(&tree, 406, "not-acceptable", "/api/v1/devices/a/latest");
    assert_eq!(
        collector.json("/api/v1/devices?limit=1&sort=id")["items"][0]["id"],
        json!("B")
    );
}

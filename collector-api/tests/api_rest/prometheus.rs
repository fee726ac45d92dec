//! Expositions: what promtool and a real Prometheus (Debian's package) say of them.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use devmon_core::Value;
use devmon_core::wire::TimestampMs;
use devmon_core::wire::about::{Presence, SourceState};
use serde_json::Value as Json;

use crate::support::{Collector, about, call};

const DESCRIPTORS: [[&str; 4]; 12] = [
    ["/disk/{mount}/used_bytes", "By", "gauge", "Space in use."],
    [
        "/disk/{mount}/read_bytes_total",
        "By",
        "counter",
        "Bytes read \\ \"since\" it\nappeared.",
    ],
    ["/cpu/core/{core}/utilization", "1", "gauge", "Busy share."],
    ["/gpu/{index}/name", "", "text", "What the driver calls it."],
    ["/disk/{mount}/stuck", "", "state", "It does not answer."],
    ["/system/processes/total", "1", "gauge", "Processes."],
    ["/processes/count", "1", "gauge", "Endings of other types."],
    [
        "/processes/cpu_sum",
        "1",
        "gauge",
        "Endings of other types.",
    ],
    [
        "/processes/in_bucket",
        "1",
        "gauge",
        "Endings of other types.",
    ],
    [
        "/processes/by_info",
        "1",
        "gauge",
        "Endings of other types.",
    ],
    [
        "/processes/seen/count",
        "1",
        "counter",
        "Endings of other types.",
    ],
    [
        "/processes/{le}/{quantile}/up",
        "",
        "state",
        "Labels of other types.",
    ],
];

/// A fleet with everything that is awkward.
fn fill(collector: &Collector, now: i64) {
    let sources = [
        ("disk", SourceState::Ok, 1000),
        ("slow", SourceState::Ok, 600_000),
    ];
    for device in ["a", "b"] {
        let store = &collector.store;
        store.put_device(device, |d| {
            d.about = Some(about(device, &sources, &DESCRIPTORS))
        });
        store.put(
            device,
            "/disk/~1home \"x\\y\"/used_bytes",
            now,
            123_456_789_i64,
        );
        store.put(device, "/disk/~1/used_bytes", now - 250_000, 1.5);
        store.put(device, "/disk/~1/read_bytes_total", now, i64::MAX);
        store.put(device, "/disk/~1/stuck", now, false);
        store.put(device, "/cpu/core/0/utilization", now, 0.25);
        store.put(
            device,
            "/gpu/0/name",
            now,
            Value::Text("RTX \"9\"\n".into()),
        );
        store.put(device, "/system/processes/total", now, 7_i64);
        for path in [
            "/processes/count",
            "/processes/cpu_sum",
            "/processes/in_bucket",
            "/processes/by_info",
            "/processes/seen/count",
            "/processes/1/2/up",
        ] {
            store.put(device, path, now, 3_i64);
        }
        store.put(device, "/greenhouse/Größe", now, 21.5);
        store.put(device, "/old/one", now - 310_000, 1_i64);
        store.put(device, "/slow/one", now - 1_000_000, 1_i64);
    }
    // Alike in name and labels.
    collector.store.put("a", "/x/y_z", now, 1_i64);
    collector.store.put("a", "/x_y/z", now, 2_i64);
    // One family, two kinds.
    collector.store.put("plain", "/disk/used_bytes", now, 1_i64);
    collector
        .store
        .put("plain", "/system/processes", now, 1_i64);
    collector.store.put("gone", "/disk/used_bytes", now, 1_i64);
    collector
        .store
        .put_device("gone", |d| d.presence = Some(Presence::Offline));
}

fn promtool_likes(text: &str) {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("prometheus is installed by cargo xtask test");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let out = child.wait_with_output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    assert!(
        out.status.success() && said.is_empty(),
        "{}\n{text}",
        String::from_utf8_lossy(&said)
    );
}

const OPEN: [(&str, &str); 1] = [("accept", "application/openmetrics-text; version=1.0.0")];

#[test]
fn promtool_finds_nothing_to_mend() {
    let collector = Collector::start();
    fill(&collector, TimestampMs::now().0);
    for url in ["/metrics", "/metrics/devices"] {
        let answer = collector.get(url);
        let kind = answer.header("content-type").unwrap();
        assert_eq!(
            (answer.status, kind),
            (200, "text/plain; version=0.0.4; charset=utf-8")
        );
        promtool_likes(answer.text());
        let open = collector.call("GET", url, &OPEN);
        assert!(
            open.header("content-type")
                .unwrap()
                .starts_with("application/openmetrics-text; version=1.0.0")
        );
        assert!(open.text().ends_with("\n# EOF\n"));
    }
}

#[test]
fn names_labels_and_values_follow_the_documented_rules() {
    let collector = Collector::start();
    fill(&collector, TimestampMs::now().0);
    let answer = collector.get("/metrics/devices");
    let lines: Vec<_> = answer.text().lines().collect();
    for line in [
        "# HELP devmon_disk_read_bytes_total Bytes read \\\\ \"since\" it\\nappeared.",
        "# TYPE devmon_disk_read_bytes_total counter",
        "devmon_disk_read_bytes_total{device=\"a\",mount=\"/\"} 9223372036854775807",
        "devmon_disk_used_bytes{device=\"b\",mount=\"/home \\\"x\\\\y\\\"\"} 123456789",
        "devmon_disk_used_bytes{device=\"a\",mount=\"/\"} 1.5",
        "devmon_disk_stuck{device=\"a\",mount=\"/\"} 0",
        "devmon_cpu_core_utilization{device=\"a\",core=\"0\"} 0.25",
        "devmon_gpu_name_info{device=\"a\",index=\"0\",value=\"RTX \\\"9\\\"\\n\"} 1",
        "devmon_system_processes{device=\"a\"} 7",
        "devmon_processes{device=\"a\"} 3",
        "devmon_processes_cpu{device=\"a\"} 3",
        "devmon_processes_in{device=\"a\"} 3",
        "devmon_processes_by{device=\"a\"} 3",
        "devmon_processes_seen_count_total{device=\"a\"} 3",
        "devmon_processes_up{device=\"a\",exported_le=\"1\",exported_quantile=\"2\"} 3",
        "devmon_greenhouse_Gr__e{device=\"a\"} 21.5",
        "devmon_x_y_z{device=\"a\",path=\"/x/y_z\"} 1",
        "devmon_x_y_z{device=\"a\",path=\"/x_y/z\"} 2",
        "# TYPE devmon_disk_used_bytes untyped",
        "devmon_device_online{device=\"a\"} 1",
        "devmon_device_online{device=\"gone\"} 0",
        "devmon_slow_one{device=\"a\"} 1",
    ] {
        assert!(lines.contains(&line), "{line} in {}", answer.text());
    }
    assert!(
        !answer.text().contains("devmon_old_one"),
        "it is older than 5 minutes"
    );
    assert!(
        !answer
            .text()
            .contains("devmon_disk_used_bytes{device=\"gone\"}"),
        "it is offline"
    );
    let open = collector.call("GET", "/metrics/devices", &OPEN);
    assert!(
        open.text().contains(
            "# TYPE devmon_disk_read_bytes counter\n# UNIT devmon_disk_read_bytes bytes\n"
        )
    );
    assert!(open.text().contains("# TYPE devmon_gpu_name info\n"));

    let some = collector.get("/metrics/devices?device=a*&path=/disk/*/used_bytes&path=/x/y_z");
    let samples: Vec<_> = some
        .text()
        .lines()
        .filter(|l| !l.starts_with('#'))
        .collect();
    assert_eq!(samples.len(), 3, "{samples:?}");
    assert!(samples.iter().all(|l| l.contains("device=\"a\"")));
    let two = collector.get("/metrics/devices?device=a&device=pl*&prefix=/disk");
    let has = |device: &str| two.text().contains(&format!("{{device=\"{device}\""));
    assert_eq!(["a", "plain", "b"].map(has), [true, true, false]);
    assert_eq!(collector.get("/metrics/devices?prefix=cpu").status, 400);
    assert_eq!(
        collector.get("/metrics/devices?device=a&device=**").status,
        400
    );
}

#[test]
fn the_collectors_own_figures_are_counted() {
    let collector = Collector::start();
    collector.get("/api/v1/nothing");
    let devices = collector.get("/api/v1/devices");
    // What only the way out makes of an answer counts as what the caller gets.
    let tag = devices.header("etag").unwrap();
    collector.call("GET", "/api/v1/devices", &[("if-none-match", tag)]);
    collector.call("GET", "/api/v1/devices", &[("accept", "image/png")]);
    let answer = collector.get("/metrics");
    for line in [
        "devmon_collector_intake_samples_total 8",
        "devmon_collector_intake_refused_messages_total{reason=\"invalid_json\"} 1",
        "devmon_collector_journal_bytes 1",
        "devmon_collector_store_archive_bytes 7",
        "devmon_collector_store_ready 1",
        "devmon_collector_http_responses_total{code=\"2xx\"} 1",
        "devmon_collector_http_responses_total{code=\"3xx\"} 1",
        "devmon_collector_http_responses_total{code=\"4xx\"} 2",
        "devmon_collector_http_response_duration_seconds_bucket{le=\"+Inf\"} 4",
        "devmon_collector_http_response_duration_seconds_count 4",
    ] {
        assert!(
            answer.text().lines().any(|l| l == line),
            "{line} in {}",
            answer.text()
        );
    }
}

#[test]
fn the_token_opens_as_bearer_and_as_password() {
    let collector = Collector::with_token(Some("secret"));
    let status = |value: Option<&str>| {
        let headers: Vec<_> = value.iter().map(|v| ("authorization", *v)).collect();
        collector.call("GET", "/metrics", &headers).status
    };
    assert_eq!(status(None), 401);
    assert_eq!(status(Some("Bearer secret")), 200);
    assert_eq!(status(Some("Basic YW55OnNlY3JldA==")), 200); // any:secret
    assert_eq!(status(Some("Basic c2VjcmV0OmFueQ==")), 401); // secret:any
    for bad in ["Basic", "Basic ", "Basic !", "Basic c2VjcmV0", "secret"] {
        assert_eq!(status(Some(bad)), 401, "{bad}");
    }
}

/// Ended, by pid, when it is dropped.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn lists_of_series_heed_a_matcher_of_the_text_that_an_info_has() {
    let collector = Collector::start();
    fill(&collector, TimestampMs::now().0);
    let devices = |matcher: &str| {
        let path = format!(
            "/prometheus/api/v1/label/device/values?match[]=devmon_gpu_name_info%7B{matcher}%7D"
        );
        let answer: Json = serde_json::from_slice(&collector.get(&path).body).unwrap();
        answer["data"].as_array().unwrap().len()
    };
    assert_eq!(devices("value=~%22RTX%5B%5Ez%5D*%22"), 2); // no dot: it has a line break
    assert_eq!(devices("value=%22nope%22"), 0);
    assert_eq!(devices("value!=%22nope%22,device=%22a%22"), 1);
}

#[test]
fn a_real_prometheus_scrapes_it() {
    let collector = Collector::with_token(Some("secret"));
    fill(&collector, TimestampMs::now().0);
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let target = collector.addr;
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n\
         - {{job_name: own, authorization: {{credentials: secret}}, static_configs: [{{targets: ['{target}']}}]}}\n\
         - {{job_name: fleet, metrics_path: /metrics/devices, basic_auth: {{username: any, password: secret}}, static_configs: [{{targets: ['{target}']}}]}}\n"
    );
    let file = dir.path().join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            dir.path().join("data").display()
        ))
        .arg(format!("--web.listen-address={port}"))
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus is installed by cargo xtask test");
    let _prometheus = Prometheus(child);
    let ask = |query: &str| -> Option<Json> {
        std::net::TcpStream::connect(port).ok()?;
        let answer = call(port, "GET", &format!("/api/v1/query?query={query}"), &[]);
        let json: Json = serde_json::from_slice(&answer.body).ok()?;
        Some(json["data"]["result"].clone())
    };
    let wait = |query: &str, count: usize| {
        let start = Instant::now();
        loop {
            let found = ask(query);
            if let Some(Json::Array(found)) = &found
                && found.len() == count
            {
                return found.clone();
            }
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "{query}: {found:?}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait("up==1", 2);
    let used = wait(
        "devmon_disk_used_bytes%7Bdevice=%22a%22,mount=%22/%22%7D",
        1,
    );
    assert_eq!(used[0]["value"][1], "1.5");
    assert_eq!(
        wait("devmon_gpu_name_info", 2)[0]["metric"]["value"],
        "RTX \"9\"\n"
    );
    wait("devmon_collector_intake_samples_total==8", 1);
    // A device that goes leaves no value behind.
    collector
        .store
        .put_device("a", |d| d.presence = Some(Presence::Offline));
    wait("devmon_disk_used_bytes%7Bdevice=%22a%22%7D", 0);
}

#[test]
fn no_time_at_all_is_refused() {
    let collector = Collector::start();
    for (timeout, status) in [("0", 400), ("0s", 400), ("10s", 200)] {
        let call = format!("/prometheus/api/v1/query?query=1&timeout={timeout}");
        assert_eq!(collector.get(&call).status, status, "{timeout:?}");
    }
}

#[test]
fn regular_expressions_of_a_query_are_bounded() {
    let collector = Collector::start();
    let ask = |count: usize| {
        let one = "a%7Bb%3D~%22c%22%7D"; // a{b=~"c"}
        let query = vec![one; count].join("%2B");
        let selectors: Vec<_> = vec![format!("match[]={one}"); count];
        [
            format!("query?query={query}"),
            format!("series?{}", selectors.join("&")),
        ]
        .map(|call| collector.get(&format!("/prometheus/api/v1/{call}")).status)
    };
    assert_eq!(ask(16), [200, 200]);
    assert_eq!(ask(17), [400, 400]);
}

//! PromQL beside a real Prometheus (Debian's package, 2.42) that holds the same samples: every expression has to give the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use devmon_core::wire::about::SourceState;
use serde_json::Value as Json;

use crate::support::{Collector, about, call};

/// First sample, in unix seconds.
const T: i64 = 1_795_400_000;
const EVERY_S: i64 = 15;
const SAMPLES: i64 = 400;

const EXPRESSIONS: &[&str] = &[
    "1+1",
    "-2^2",
    "1 > bool 2",
    "time()",
    "7 % 4",
    "2 ^ 10 / 3",
    "vector(3)",
    "scalar(vector(2))",
    "devmon_memory_used_bytes",
    "devmon_memory_used_bytes{device=\"a\"}",
    "{device=\"a\"}",
    "{__name__=~\"devmon_mem.*\"}",
    "devmon_memory_used_bytes{device!=\"a\"}",
    "devmon_memory_used_bytes{device=~\"a|b\"}",
    "devmon_memory_used_bytes{device!~\"a|b\"}",
    "devmon_memory_used_bytes{core=\"\"}",
    "devmon_nothing",
    "devmon_memory_used_bytes offset 5m",
    "devmon_memory_used_bytes offset -1m",
    "devmon_memory_used_bytes @ 1795402000",
    "rate(devmon_net_sent_bytes_total[5m] @ end())",
    "devmon_memory_used_bytes @ start() offset 1m",
    "rate(devmon_net_sent_bytes_total[5m])",
    "rate(devmon_net_sent_bytes_total[1m])",
    "rate(devmon_net_sent_bytes_total[15s])",
    "increase(devmon_net_sent_bytes_total[10m])",
    "rate(devmon_net_sent_bytes_total[30s])",
    "increase(devmon_net_sent_bytes_total[1h])",
    "irate(devmon_net_sent_bytes_total[5m])",
    "delta(devmon_cpu_core_utilization[5m])",
    "idelta(devmon_cpu_core_utilization[5m])",
    "rate(devmon_net_sent_bytes_total[5m] offset 7m)",
    "avg_over_time(devmon_cpu_core_utilization[5m])",
    "min_over_time(devmon_cpu_core_utilization[5m])",
    "max_over_time(devmon_cpu_core_utilization[5m])",
    "sum_over_time(devmon_cpu_core_utilization[5m])",
    "count_over_time(devmon_cpu_core_utilization[5m])",
    "last_over_time(devmon_cpu_core_utilization[5m])",
    "quantile_over_time(0.9, devmon_cpu_core_utilization[5m])",
    "quantile_over_time(2, devmon_cpu_core_utilization[5m])",
    "stddev_over_time(devmon_cpu_core_utilization[5m])",
    "stdvar_over_time(devmon_cpu_core_utilization[5m])",
    "present_over_time(devmon_cpu_core_utilization[5m])",
    "changes(devmon_net_up[10m])",
    "resets(devmon_net_sent_bytes_total[1h])",
    "sum(devmon_cpu_core_utilization)",
    "sum by (device) (devmon_cpu_core_utilization)",
    "sum without (device) (devmon_cpu_core_utilization)",
    "avg by (core) (devmon_cpu_core_utilization)",
    "min(devmon_cpu_core_utilization)",
    "max by (device) (devmon_cpu_core_utilization)",
    "count by (device) (devmon_cpu_core_utilization)",
    "count(devmon_nothing)",
    "group by (device) (devmon_cpu_core_utilization)",
    "stddev(devmon_cpu_core_utilization)",
    "stdvar by (core) (devmon_cpu_core_utilization)",
    "topk(2, devmon_cpu_core_utilization)",
    "bottomk(2, devmon_cpu_core_utilization)",
    "topk by (device) (1, devmon_cpu_core_utilization)",
    "topk(0, devmon_cpu_core_utilization)",
    "quantile(0.5, devmon_cpu_core_utilization)",
    "quantile by (device) (0.95, devmon_cpu_core_utilization)",
    "sum by (nothing) (devmon_cpu_core_utilization)",
    "sum(rate(devmon_net_sent_bytes_total[5m])) by (device)",
    "devmon_memory_used_bytes / devmon_memory_total_bytes",
    "devmon_memory_used_bytes * 2",
    "2 - devmon_memory_used_bytes",
    "-devmon_memory_used_bytes",
    "devmon_memory_used_bytes % 7",
    "devmon_memory_used_bytes / 0",
    "0 / (devmon_memory_used_bytes * 0)",
    "devmon_memory_used_bytes > 5e8",
    "5e8 > devmon_memory_used_bytes",
    "devmon_memory_used_bytes > bool 5e8",
    "devmon_memory_used_bytes == devmon_memory_used_bytes",
    "devmon_memory_used_bytes != bool devmon_memory_total_bytes",
    "devmon_memory_used_bytes < devmon_memory_total_bytes",
    "devmon_cpu_core_utilization * on (device) group_left () devmon_memory_used_bytes",
    "devmon_memory_used_bytes * on (device) group_right () devmon_cpu_core_utilization",
    "devmon_net_sent_bytes_total * on (device) group_left (core) devmon_cpu_core_utilization{core=\"0\"}",
    "devmon_cpu_core_utilization{core=\"0\"} - ignoring (core) devmon_cpu_core_utilization{core=\"1\"}",
    "devmon_cpu_core_utilization{core=\"0\"} > ignoring (core) devmon_cpu_core_utilization{core=\"1\"}",
    "devmon_cpu_core_utilization - on (device) devmon_memory_used_bytes",
    "devmon_memory_used_bytes - on (device) devmon_cpu_core_utilization",
    "sum by (device) (devmon_cpu_core_utilization) / on (device) devmon_memory_used_bytes",
    "devmon_memory_used_bytes and devmon_memory_used_bytes > 5e8",
    "devmon_memory_used_bytes unless on (device) devmon_cpu_core_utilization > 0.5",
    "devmon_memory_used_bytes > 5e8 or devmon_memory_total_bytes",
    "devmon_memory_used_bytes or vector(1)",
    "abs(devmon_cpu_core_utilization - 0.5)",
    "ceil(devmon_cpu_core_utilization * 10)",
    "floor(devmon_cpu_core_utilization * 10)",
    "round(devmon_cpu_core_utilization * 10)",
    "round(devmon_cpu_core_utilization, 0.05)",
    "round(-devmon_cpu_core_utilization * 5, 2)",
    "clamp(devmon_cpu_core_utilization, 0.2, 0.6)",
    "clamp(devmon_cpu_core_utilization, 0.6, 0.2)",
    "clamp_min(devmon_cpu_core_utilization, 0.3)",
    "clamp_max(devmon_cpu_core_utilization, 0.3)",
    "sqrt(devmon_memory_used_bytes)",
    "ln(devmon_memory_used_bytes)",
    "log2(devmon_memory_used_bytes)",
    "log10(devmon_memory_used_bytes)",
    "exp(devmon_cpu_core_utilization)",
    "sgn(devmon_cpu_core_utilization - 0.5)",
    "scalar(devmon_memory_used_bytes{device=\"a\"})",
    "scalar(devmon_memory_used_bytes)",
    "timestamp(devmon_memory_used_bytes)",
    "timestamp(devmon_memory_used_bytes * 1)",
    "timestamp(devmon_memory_used_bytes offset 1m)",
    "time() - timestamp(devmon_memory_used_bytes)",
    "absent(devmon_nothing)",
    "absent(devmon_nothing{a=\"b\",c=~\"d\"})",
    "absent(devmon_memory_used_bytes{device=\"c\"})",
    "absent(sum(devmon_nothing{a=\"b\"}))",
    "label_replace(devmon_memory_used_bytes, \"x\", \"$1-y\", \"device\", \"(.*)\")",
    "label_replace(devmon_memory_used_bytes, \"x\", \"y\", \"device\", \"nothing\")",
    "label_replace(devmon_memory_used_bytes, \"device\", \"\", \"device\", \"a\")",
    "label_replace(devmon_memory_used_bytes, \"device\", \"z\", \"device\", \".*\")",
    "sort(devmon_memory_used_bytes)",
    "sort_desc(devmon_memory_used_bytes)",
    "avg_over_time(devmon_memory_used_bytes[5m]) > 5e8",
    "rate({__name__=~\"devmon_net_sent.*\"}[5m])",
    "count({__name__=~\"devmon_.*\"}) by (__name__)",
    "sum(devmon_net_up)",
    "max_over_time(devmon_memory_used_bytes[30m]) - min_over_time(devmon_memory_used_bytes[30m])",
    "rate({__name__=~\"devmon_(net_sent|disk_read)_bytes_total\"}[5m])",
    "deriv(devmon_cpu_core_utilization[5m])",
    "deriv(devmon_memory_used_bytes[15s])",
    "deriv(devmon_memory_total_bytes[5m])",
    "deriv(devmon_disk_read_bytes_total[10m] offset 3m)",
    "predict_linear(devmon_memory_used_bytes[10m], 3600)",
    "predict_linear(devmon_memory_used_bytes[10m] offset 3m, -60)",
    "predict_linear(devmon_memory_total_bytes[10m], 60)",
    "absent_over_time(devmon_nothing{a=\"b\"}[5m])",
    "absent_over_time(devmon_memory_used_bytes{device=\"c\"}[5m])",
    "count_values(\"x\", devmon_net_up)",
    "count_values by (device) (\"x\", devmon_net_up)",
    "count_values without (if) (\"x\", devmon_net_up)",
    "count_values without (x) (\"x\", devmon_net_up)",
    "count_values by (device) (\"device\", round(devmon_cpu_core_utilization, 0.5))",
    "count_values(\"x\", devmon_memory_total_bytes * 1e12)",
    "count_values(\"x\", devmon_net_up / 0)",
    "label_join(devmon_cpu_core_utilization, \"x\", \"-\", \"device\", \"core\")",
    "label_join(devmon_cpu_core_utilization, \"x\", \"-\", \"device\", \"nothing\", \"core\")",
    "label_join(devmon_cpu_core_utilization, \"core\", \"\", \"nothing\")",
    "label_join(devmon_memory_used_bytes, \"device\", \"\", \"nothing\")",
    "label_join(devmon_memory_used_bytes, \"x\", \"-\")",
    "minute()",
    "hour()",
    "day_of_week()",
    "day_of_month()",
    "day_of_year()",
    "days_in_month()",
    "month()",
    "year()",
    "year(devmon_memory_used_bytes)",
    "month(devmon_memory_used_bytes * 3)",
    "day_of_year(devmon_memory_used_bytes * -3)",
    "days_in_month(devmon_memory_used_bytes * 7)",
    "day_of_week(devmon_memory_used_bytes)",
    "minute(devmon_memory_used_bytes)",
    "hour(timestamp(devmon_memory_used_bytes))",
    "pi()",
    "sin(devmon_cpu_core_utilization) + cos(devmon_cpu_core_utilization) * tan(devmon_cpu_core_utilization)",
    "asin(devmon_cpu_core_utilization) + acos(devmon_cpu_core_utilization) + atan(devmon_cpu_core_utilization)",
    "sinh(devmon_cpu_core_utilization) + cosh(devmon_cpu_core_utilization) + tanh(devmon_cpu_core_utilization)",
    "asinh(devmon_cpu_core_utilization) + atanh(devmon_cpu_core_utilization)",
    "acosh(devmon_memory_used_bytes)",
    "deg(devmon_cpu_core_utilization) - rad(devmon_cpu_core_utilization)",
    "100 * (1 - avg(devmon_cpu_core_utilization))",
    "sum(rate(devmon_net_sent_bytes_total[5m])) / sum(devmon_memory_total_bytes)",
];

/// What both refuse.
const REFUSED: &[&str] = &[
    "1 +",
    "rate(devmon_memory_used_bytes)",
    "{}",
    "sum(1)",
    "devmon_x > bool",
    "nothing_known(1)",
    "count_values(\"no label\", devmon_net_up)",
    "label_join(devmon_memory_used_bytes, \"no label\", \"\", \"device\")",
    "label_join(devmon_memory_used_bytes, \"x\", \"\", \"no label\")",
    "label_join(devmon_cpu_core_utilization, \"core\", \"\", \"device\")",
];

struct Prometheus(Child, SocketAddr);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Family, path, labels and value of the sample `i` of a device.
type Source = (
    &'static str,
    &'static str,
    &'static str,
    fn(i64, i64) -> Option<f64>,
);

fn sources() -> Vec<Source> {
    fn noise(i: i64) -> f64 {
        ((i * 7_919 + 13) % 1_000) as f64 / 1_000.0
    }
    vec![
        (
            "devmon_memory_used_bytes",
            "/memory/used_bytes",
            "",
            |d, i| {
                // The last device is silent for a while.
                (d != 2 || !(100..180).contains(&i)).then(|| 4e8 + 1e8 * d as f64 + 1e8 * noise(i))
            },
        ),
        (
            "devmon_memory_total_bytes",
            "/memory/total_bytes",
            "",
            |_, _| Some(1e9),
        ),
        (
            "devmon_cpu_core_utilization",
            "/cpu/core/0/utilization",
            ",core=\"0\"",
            |d, i| Some(noise(i * 3 + d)),
        ),
        (
            "devmon_cpu_core_utilization",
            "/cpu/core/1/utilization",
            ",core=\"1\"",
            |d, i| (d != 1).then(|| noise(i * 5 + d)),
        ),
        ("devmon_net_up", "/net/eth0/up", ",if=\"eth0\"", |d, i| {
            Some(f64::from(u8::from((i / 7 + d) % 3 > 0)))
        }),
        // Starts near zero, begins anew every 150 samples.
        (
            "devmon_net_sent_bytes_total",
            "/net/eth0/sent_bytes_total",
            ",if=\"eth0\"",
            |d, i| Some(((i % 150) * (1_000 + d) + i % 7) as f64),
        ),
        (
            "devmon_disk_read_bytes_total",
            "/disk/x/read_bytes_total",
            ",mount=\"x\"",
            |d, i| (i % 3 != d).then_some((1_000_000 + i * i) as f64),
        ),
    ]
}

const DESCRIPTORS: [[&str; 4]; 6] = [
    ["/memory/used_bytes", "By", "gauge", "u"],
    ["/memory/total_bytes", "By", "gauge", "t"],
    ["/cpu/core/{core}/utilization", "1", "gauge", "c"],
    ["/net/{if}/up", "", "state", "n"],
    ["/net/{if}/sent_bytes_total", "By", "counter", "s"],
    ["/disk/{mount}/read_bytes_total", "By", "counter", "r"],
];

fn fill(collector: &Collector) -> String {
    let mut lines: BTreeMap<&str, String> = BTreeMap::new();
    for (d, device) in ["a", "b", "c"].into_iter().enumerate() {
        let about = about(device, &[("cpu", SourceState::Ok, 15_000)], &DESCRIPTORS);
        collector
            .store
            .put_device(device, |r| r.about = Some(about));
        for (family, path, labels, value) in sources() {
            for i in 0..SAMPLES {
                let Some(x) = value(d as i64, i) else {
                    continue;
                };
                let t = T + i * EVERY_S;
                collector.store.put(device, path, t * 1000, x);
                writeln!(
                    lines.entry(family).or_default(),
                    "{family}{{device=\"{device}\"{labels}}} {x} {t}"
                )
                .unwrap();
            }
        }
    }
    let mut text = String::new();
    for (family, lines) in lines {
        let (name, kind) = family
            .strip_suffix("_total")
            .map_or((family, "gauge"), |name| (name, "counter"));
        write!(text, "# TYPE {name} {kind}\n{lines}").unwrap();
    }
    text + "# EOF\n"
}

fn prometheus(dir: &std::path::Path, text: &str) -> Prometheus {
    std::fs::write(dir.join("samples"), text).unwrap();
    std::fs::write(dir.join("prometheus.yml"), "").unwrap();
    let data = dir.join("data");
    let out = Command::new("promtool")
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .args([dir.join("samples"), data.clone()])
        .output()
        .expect("prometheus is installed by cargo xtask test");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let addr = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let child = Command::new("prometheus")
        .arg(format!(
            "--config.file={}",
            dir.join("prometheus.yml").display()
        ))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .arg("--storage.tsdb.retention.time=100y")
        .arg(format!("--web.listen-address={addr}"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let prometheus = Prometheus(child, addr);
    let start = Instant::now();
    loop {
        if std::net::TcpStream::connect(addr).is_ok()
            && call(addr, "GET", "/-/ready", &[]).status == 200
        {
            return prometheus;
        }
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "prometheus is not ready"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What Prometheus answers. HTTP/1.0, so that it comes in one piece.
fn ask(prometheus: &Prometheus, url: &str) -> String {
    let mut stream = std::net::TcpStream::connect(prometheus.1).unwrap();
    write!(stream, "GET {url} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

/// Both the same, numbers up to the last few bits.
fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Array(a), Json::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w)))
        }
        (Json::Number(a), Json::Number(b)) => a.as_f64() == b.as_f64(),
        (Json::String(a), Json::String(b)) if a != b => {
            match (a.parse::<f64>(), b.parse::<f64>()) {
                (Ok(a), Ok(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()) + 1e-12,
                _ => false,
            }
        }
        (a, b) => a == b,
    }
}

/// The data of an answer, in an order of its own unless the expression gives one; of an error nothing but that.
fn data(text: &str, ordered: bool) -> Json {
    let mut json: Json = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    if json["status"] != "success" {
        return Json::from("error");
    }
    let mut data = json["data"].take();
    if let (Some(result), false, true) = (
        data.get_mut("result").and_then(Json::as_array_mut),
        ordered,
        data_is_series(text),
    ) {
        result.sort_by_key(|series| series["metric"].to_string());
    }
    data
}

fn data_is_series(text: &str) -> bool {
    text.contains("\"vector\"") || text.contains("\"matrix\"")
}

#[test]
fn every_expression_gives_what_prometheus_gives() {
    let collector = Collector::start();
    let text = fill(&collector);
    let dir = tempfile::tempdir().unwrap();
    let prometheus = prometheus(dir.path(), &text);
    let last = T + (SAMPLES - 1) * EVERY_S;
    let mut questions = Vec::new();
    for query in EXPRESSIONS.iter().chain(REFUSED) {
        let query = encode(query);
        for at in [
            T,
            T + 7,
            T + 600,
            T + 2_000,
            T + 2_405,
            last,
            last + 299,
            last + 300,
            last + 301,
        ] {
            questions.push(format!("/api/v1/query?query={query}&time={at}"));
        }
        questions.push(format!(
            "/api/v1/query?query={query}&time={}.123",
            T + 3_000
        ));
        for step in ["15", "1m", "97.5", "10m1s"] {
            questions.push(format!(
                "/api/v1/query_range?query={query}&start={}&end={}&step={step}",
                T - 100,
                last + 400
            ));
        }
    }
    questions.push(format!(
        "/api/v1/query?query={}&time={}",
        encode("devmon_memory_used_bytes[1m]"),
        T + 100
    ));
    for (url, refused) in [
        ("query_range", "start=2&end=1&step=1"),
        ("query_range", "start=1&end=2&step=0"),
        ("query_range", "start=0&end=900000&step=1w"),
        ("query_range", "start=0&end=900000&step=1d12h"),
        ("query_range", "start=1&end=2&step=500ms"),
        ("query_range", "start=1&end=2&step=30m1h"),
        ("query_range", "start=1&end=2&step=1.5h"),
        ("query_range", "start=1&end=2&step=-1"),
        ("query", "time=5&timeout=1m30s"),
        ("query", "time=5&timeout=30s1m"),
        ("query_range", "start=0&end=100000&step=1"),
        ("query", "time=x"),
    ] {
        questions.push(format!("/api/v1/{url}?query=1&{refused}"));
    }
    let mut wrong = Vec::new();
    for question in &questions {
        let theirs = ask(&prometheus, question);
        let ours = collector.get(&format!("/prometheus{question}"));
        let ordered = question.contains("sort") && question.contains("query?");
        let (theirs, ours) = (data(&theirs, ordered), data(ours.text(), ordered));
        if !same(&theirs, &ours) {
            let cut = |json: &Json| json.to_string().chars().take(400).collect::<String>();
            wrong.push(format!(
                "{question}\n  theirs {}\n  ours   {}",
                cut(&theirs),
                cut(&ours)
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        questions.len(),
        wrong.join("\n")
    );
    for list in [
        "/api/v1/labels",
        "/api/v1/label/device/values",
        "/api/v1/label/__name__/values",
        "/api/v1/series?match[]=%7Bcore=~%22.%2B%22%7D",
    ] {
        let theirs = data(&ask(&prometheus, list), true);
        let ours = data(collector.get(&format!("/prometheus{list}")).text(), true);
        let sorted = |json: &Json| {
            let mut all: Vec<String> = json
                .as_array()
                .unwrap()
                .iter()
                .map(Json::to_string)
                .collect();
            all.sort();
            all
        };
        assert_eq!(sorted(&theirs), sorted(&ours), "{list}");
    }
}

#[test]
fn forms_infos_and_errors_answer_as_documented() {
    let collector = Collector::start();
    fill(&collector);
    let now = T * 1000;
    collector.store.put(
        "a",
        "/gpu/0/name",
        now,
        devmon_core::Value::Text("one".into()),
    );
    collector.store.put(
        "a",
        "/gpu/0/name",
        now + 60_000,
        devmon_core::Value::Text("two".into()),
    );
    let ask = |query: &str, at: i64| {
        let url = format!("/prometheus/api/v1/query?time={at}&query={}", encode(query));
        collector.get(&url)
    };
    for (at, name) in [(T + 59, "one"), (T + 60, "two")] {
        let answer = ask("devmon_gpu_0_name_info", at).json();
        let result = answer["data"]["result"].as_array().unwrap();
        assert_eq!(result.len(), 1, "{answer}");
        assert_eq!(
            (&result[0]["metric"]["value"], &result[0]["value"][1]),
            (&Json::from(name), &Json::from("1"))
        );
    }
    for (query, status, kind, part) in [
        (
            "max_over_time(devmon_net_up[5m:1m])",
            422,
            "execution",
            "subquery",
        ),
        (
            "histogram_quantile(0.9, devmon_net_up)",
            422,
            "execution",
            "histogram_quantile",
        ),
        ("1 +", 400, "bad_data", ""),
        (&"(".repeat(150), 400, "bad_data", ""),
        (
            &format!("{}1", "1+".repeat(2_000)),
            400,
            "bad_data",
            "nested deeper",
        ),
        (
            &format!("{}x", "-".repeat(4_000)),
            400,
            "bad_data",
            "nested deeper",
        ),
        (&"1".repeat(9_000), 400, "bad_data", "8192"),
    ] {
        let answer = ask(query, T);
        let json = answer.json();
        assert_eq!(
            (answer.status, json["errorType"].as_str()),
            (status, Some(kind)),
            "{json}"
        );
        assert!(json["error"].as_str().unwrap().contains(part), "{json}");
    }
    let posted = post(
        collector.addr,
        "/prometheus/api/v1/query",
        "query=1%2B1&time=5",
    );
    assert!(
        posted.ends_with(r#"{"status":"success","data":{"resultType":"scalar","result":[5,"2"]}}"#),
        "{posted}"
    );
    for (query, begin) in [
        (
            "devmon_net_up",
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":"#,
        ),
        (
            "\"x\"",
            r#"{"status":"success","data":{"resultType":"string","result":["#,
        ),
        (
            "devmon_net_up[1m]",
            r#"{"status":"success","data":{"resultType":"matrix","result":["#,
        ),
    ] {
        let answer = ask(query, T + 60);
        assert!(
            answer.text().starts_with(begin),
            "Grafana before 10.1.2 needs the type first: {}",
            answer.text()
        );
    }
    for (list, data) in [("rules", "groups"), ("alerts", "alerts")] {
        let answer = collector.json(&format!("/prometheus/api/v1/{list}"));
        assert_eq!(answer["data"], serde_json::json!({data: []}));
    }
    assert!(post(collector.addr, "/prometheus/api/v1/metadata", "").contains("405"));
    assert!(
        post(
            collector.addr,
            "/prometheus/api/v1/query",
            &"x".repeat(70_000)
        )
        .contains("413")
    );
    let meta = collector.json("/prometheus/api/v1/metadata?metric=devmon_net_sent_bytes_total");
    assert_eq!(
        meta["data"]["devmon_net_sent_bytes_total"][0]["type"],
        "counter"
    );
    assert_eq!(
        collector.json("/prometheus/api/v1/status/buildinfo")["data"]["version"],
        "2.42.0"
    );
}

fn post(addr: SocketAddr, url: &str, form: &str) -> String {
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    write!(stream, "POST {url} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}", form.len()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer); // a body that is not read may end in a reset
    String::from_utf8(answer).unwrap()
}

#[test]
fn queries_wait_for_each_other_and_nobody_else_waits_for_them() {
    let collector = Collector::start();
    collector.store.put("a", "/a", T * 1000, 1.0);
    collector.store.put("held", "/a", T * 1000, 1.0);
    let query = format!("/prometheus/api/v1/query?query=devmon_a&time={T}");
    std::thread::scope(|scope| {
        let held = collector.store.2.lock().unwrap();
        let asked: Vec<_> = (0..24)
            .map(|_| scope.spawn(|| collector.get(&query)))
            .collect();
        let start = Instant::now();
        let turned_away = loop {
            let metrics = collector.get("/metrics");
            let line = metrics.text().lines().find_map(|line| {
                line.strip_prefix("devmon_collector_promql_turned_away_total ")
                    .map(str::to_owned)
            });
            // Others are answered meanwhile.
            assert_eq!(collector.get("/api/v1/devices/a/latest").status, 200);
            let line = line.unwrap();
            if line == "20" {
                break start.elapsed();
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{line}");
            std::thread::sleep(Duration::from_millis(50));
        };
        assert!(turned_away > Duration::from_secs(5), "they wait first");
        assert_eq!(collector.store.1.load(SeqCst), 4, "at work");
        drop(held);
        let mut by_status: BTreeMap<u16, u32> = BTreeMap::new();
        for one in asked {
            let answer = one.join().unwrap();
            *by_status.entry(answer.status).or_default() += 1;
            if answer.status == 503 {
                assert!(answer.header("retry-after").is_some());
                assert!(answer.json()["type"].as_str().unwrap().ends_with("/busy"));
            }
        }
        assert_eq!(by_status, BTreeMap::from([(200, 4), (503, 20)]));
    });
    assert_eq!(collector.get(&query).status, 200);
}

#[test]
fn a_selector_of_more_series_than_may_be_is_refused_and_says_so() {
    let collector = Collector::start();
    for i in 0..200_001 {
        let path = format!("/a/{i}");
        collector.store.put("a", &path, T * 1000, 1.0);
    }
    let query = encode("count({__name__=~\"devmon_a_.+\"})");
    let answer = collector.get(&format!("/prometheus/api/v1/query?query={query}&time={T}"));
    let json = answer.json();
    assert_eq!(
        (answer.status, &json["errorType"]),
        (422, &Json::from("execution")),
        "{json}"
    );
    let error = json["error"].as_str().unwrap();
    assert!(error.contains("more than 200000 series"), "{error}");
}

#[test]
fn counters_lose_nothing_over_rollups() {
    let collector = Collector::start();
    fill(&collector);
    let last = T + (SAMPLES - 1) * EVERY_S;
    let ask = |query: &str| -> (f64, Json) {
        let url = format!(
            "/prometheus/api/v1/query?time={last}&query={}",
            encode(query)
        );
        let answer = collector.json(&url);
        let value = answer["data"]["result"][0]["value"][1]
            .as_str()
            .unwrap_or_else(|| panic!("{query}: {answer}"));
        (value.parse().unwrap(), answer["warnings"].clone())
    };
    let near = [
        "sum(increase(devmon_net_sent_bytes_total{device=\"a\"}[80m]))", // resets twice
        "sum(rate(devmon_net_sent_bytes_total{device=\"a\"}[80m]))",
        "sum(avg_over_time(devmon_cpu_core_utilization{device=\"a\",core=\"0\"}[80m]))",
        "sum(max_over_time(devmon_memory_used_bytes{device=\"a\"}[80m]))",
        "sum(sum_over_time(devmon_net_up{device=\"a\"}[80m]))",
        "sum(devmon_memory_used_bytes{device=\"a\"})",
    ];
    let raw = near.map(|query| ask(query).0);
    for (raw_from, minute_from, tier) in [(i64::MAX, 0, "1m"), (i64::MAX, i64::MAX, "1h")] {
        collector.store.keep(raw_from, minute_from);
        for (query, raw) in near.iter().zip(raw) {
            let (value, warnings) = ask(query);
            // An hour's rollup may stand out of the range by half.
            let off = if tier == "1m" { 0.03 } else { 0.6 };
            assert!(
                (value - raw).abs() <= raw.abs() * off,
                "{query} at {tier}: {value}, raw {raw}"
            );
            assert!(warnings[0].as_str().unwrap().contains(tier), "{warnings}");
        }
    }
}

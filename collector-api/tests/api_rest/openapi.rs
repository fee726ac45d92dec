//! `/openapi.json` against the API itself: every path, method, parameter, status, form, header and field that is answered is described, and what is described is so.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::TcpStream;

use devmon_core::wire::TimestampMs;
use devmon_core::wire::about::SourceState;
use serde_json::{Value as Json, json};

use crate::support::{Answer, Collector, about, read_answer, send};

/// Headers that HTTP itself needs, or that every answer may have; what they say is told in words.
const EVERYWHERE: [&str; 10] = [
    "date",
    "connection",
    "content-length",
    "content-type",
    "cache-control",
    "vary",
    "x-content-type-options",
    "content-security-policy",
    "referrer-policy",
    "x-accel-buffering",
];
const TOKEN: &str = "correct-horse-battery";

/// The document, and validators of what it describes.
struct Document {
    json: Json,
    /// The same, with no fields but those that are named.
    strict: Json,
    validators: BTreeMap<String, jsonschema::Validator>,
    seen: BTreeSet<(String, String, u16)>,
}

/// A described call.
#[derive(Clone)]
struct Call {
    path: String,
    method: String,
    url: String,
    /// What it brings, unless that is a form: its type and text.
    body: Option<(String, String)>,
}

impl Document {
    fn of(collector: &Collector) -> Self {
        let json = collector.json("/openapi.json");
        let mut strict = json.clone();
        for schema in strict["components"]["schemas"]
            .as_object_mut()
            .unwrap()
            .values_mut()
        {
            tighten(schema);
        }
        tighten_content(&mut strict["paths"]);
        tighten_content(&mut strict["components"]["responses"]);
        Self {
            json,
            strict,
            validators: BTreeMap::new(),
            seen: BTreeSet::new(),
        }
    }

    fn calls(&self) -> Vec<Call> {
        let paths = self.json["paths"].as_object().unwrap();
        let call = |path: &str, method: &str, call: &Json| {
            let curl = call["x-example"].as_str().unwrap();
            let url = curl.split_once("127.0.0.1:8765").unwrap().1;
            let content = call["requestBody"]["content"].as_object();
            let mut bodies = content.into_iter().flatten();
            let body = bodies
                .find_map(|(media, form)| Some((media.clone(), form.get("example")?.to_string())));
            Call {
                body,
                path: path.to_owned(),
                method: method.to_uppercase(),
                url: url.trim_end_matches('\'').to_owned(),
            }
        };
        let calls = |(path, item): (&String, &Json)| {
            let methods = item.as_object().unwrap().iter();
            methods.map(|(m, c)| call(path, m, c)).collect::<Vec<_>>()
        };
        paths.iter().flat_map(calls).collect()
    }

    fn call(&self, id: &str) -> Call {
        let is_it = |call: &Call| self.described(call)["operationId"] == id;
        self.calls().into_iter().find(is_it).unwrap()
    }

    fn described(&self, call: &Call) -> &Json {
        &self.json["paths"][&call.path][call.method.to_lowercase()]
    }

    fn resolve<'a>(root: &'a Json, mut at: &'a Json) -> &'a Json {
        while let Some(reference) = at.get("$ref").and_then(Json::as_str) {
            at = root.pointer(&reference[1..]).expect(reference);
        }
        at
    }

    /// Holds an answer against the description of its call.
    fn check(&mut self, call: &Call, answer: &Answer) {
        let what = format!("{} {} {}", call.method, call.url, answer.status);
        let status = answer.status.to_string();
        let responses = &self.strict["paths"][&call.path][call.method.to_lowercase()]["responses"];
        let response = responses.get(&status);
        let response = response.unwrap_or_else(|| panic!("{what} is not described"));
        let response = Self::resolve(&self.strict, response);

        let described = response["headers"].as_object().unwrap();
        let names: BTreeSet<String> = described.keys().map(|n| n.to_lowercase()).collect();
        for (name, _) in &answer.headers {
            let known = names.contains(name) || EVERYWHERE.contains(&name.as_str());
            assert!(known, "{what}: the header {name} is not described");
        }
        for (name, header) in described {
            let header = Self::resolve(&self.strict, header);
            match answer.header(&name.to_lowercase()) {
                Some(value) => {
                    let number = value.parse::<u64>().map(Json::from);
                    let value = number.unwrap_or_else(|_| value.into());
                    assert!(
                        jsonschema::is_valid(&header["schema"], &value),
                        "{what}: {name}"
                    );
                }
                None => assert_eq!(header["required"], false, "{what}: {name} is missing"),
            }
        }

        match response.get("content") {
            None => assert!(answer.body.is_empty(), "{what}: has a body"),
            Some(content) => {
                let given = answer.header("content-type").unwrap_or_default();
                let media = given.split(';').next().unwrap();
                let form = content.get(media);
                let form = form.unwrap_or_else(|| panic!("{what}: {media} is not described"));
                if let Some(schema) = form.get("schema") {
                    let schema = schema.clone();
                    self.validate(&schema, &answer.json(), &what);
                }
            }
        }
        let id = self.described(call)["operationId"].as_str().unwrap();
        self.seen
            .insert((id.to_owned(), call.path.clone(), answer.status));
    }

    fn validate(&mut self, schema: &Json, value: &Json, what: &str) {
        let components = &self.strict["components"];
        let validator = self.validators.entry(schema.to_string()).or_insert_with(|| {
            // References in it begin at the document.
            let mut whole = json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "components": components});
            whole["allOf"] = json!([schema]);
            jsonschema::validator_for(&whole).unwrap_or_else(|e| panic!("{what}: {e}"))
        });
        let errors: Vec<_> = validator
            .iter_errors(value)
            .map(|e| format!("{}: {e}", e.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{what}: {errors:#?}\n{value}");
    }
}

/// No fields but those that are named.
fn tighten(schema: &mut Json) {
    match schema {
        Json::Object(fields) => {
            let named = fields.get("properties").is_some_and(Json::is_object);
            if named && !fields.contains_key("additionalProperties") {
                fields.insert("unevaluatedProperties".into(), false.into());
            }
            fields.values_mut().for_each(tighten);
        }
        Json::Array(all) => all.iter_mut().for_each(tighten),
        _ => {}
    }
}

fn tighten_content(within: &mut Json) {
    match within {
        Json::Object(fields) => {
            for (name, field) in fields {
                if name == "schema" {
                    tighten(field);
                } else {
                    tighten_content(field);
                }
            }
        }
        Json::Array(all) => all.iter_mut().for_each(tighten_content),
        _ => {}
    }
}

/// A device with all that one can have.
fn fill(collector: &Collector) {
    let store = &collector.store;
    let now = TimestampMs::now().0;
    for (path, value) in [
        ("/cpu/utilization", 0.125),
        ("/disk/~1home/utilization", 0.5),
        ("/memory/free", 1e9),
    ] {
        for ago in 0..5 {
            store.put("edge_device_01", path, now - ago * 1000, value);
        }
    }
    store.put("edge_device_01", "/gpu/0/name", now, "RTX 4090");
    store.put("edge_device_01", "/gpu/0/on", now, true);
    store.put("edge_device_01", "/cpu/ticks_total", now, i64::MAX);
    let descriptors = [
        ["/cpu/utilization", "1", "gauge", "Busy."],
        ["/disk/{mount}/utilization", "1", "gauge", "Used."],
        ["/gpu/{index}/name", "", "text", "Name."],
    ];
    let sources = [
        ("cpu", SourceState::Ok, 1000),
        ("gpu", SourceState::Unavailable, 1000),
    ];
    store.put_device("edge_device_01", |d| {
        let mut about = (*about("edge_device_01", &sources, &descriptors)).clone();
        about.agent.publish_every_ms = 5;
        about.host.boot_ts = Some(TimestampMs(1_795_400_000_000));
        d.about = Some(about.into());
    });
    store.put_device("edge_device_02", |_| {});
    store.put_letter(17, "{not json");
    store.put_letter(18, vec![0xff; 5000]);
}

fn with(token: Option<&str>) -> (Collector, Document) {
    let collector = Collector::with_token(token);
    fill(&collector);
    let document = Document::of(&collector);
    (collector, document)
}

/// A call by its description; a stream is only begun.
fn ask(collector: &Collector, call: &Call, headers: &[(&str, &str)]) -> Answer {
    let (mut url, mut body) = (call.url.clone(), String::new());
    let mut headers = headers.to_vec();
    let method = call.method.as_str();
    // Errors are whole; only the stream has no end.
    if call.path == "/api/v1/events" {
        let begin = send(collector.addr, "HEAD", &url, &headers, "");
        if begin.status == 200 {
            return begin;
        }
    }
    if method == "POST" {
        body = format!("{}&", url.split_once('?').map_or("", |(_, query)| query));
        url.truncate(url.find('?').unwrap_or(url.len()));
        headers.push(("content-type", "application/x-www-form-urlencoded"));
    }
    if let Some((media, sent)) = &call.body {
        body.clone_from(sent);
        headers.push(("content-type", media));
    }
    send(collector.addr, method, &url, &headers, &body)
}

/// The query that a POST sends as a form is that of the GET of the same path.
fn calls(document: &Document) -> Vec<Call> {
    let mut calls = document.calls();
    let urls: BTreeMap<_, _> = calls
        .iter()
        .filter(|c| c.method == "GET")
        .map(|c| (c.path.clone(), c.url.clone()))
        .collect();
    for call in &mut calls {
        if call.method == "POST" {
            call.url.clone_from(&urls[&call.path]);
        }
    }
    // What takes away comes last.
    calls.sort_by_key(|call| call.method == "DELETE");
    calls
}

#[test]
fn every_call_answers_as_it_is_described() {
    let bearer = format!("Bearer {TOKEN}");
    let token = [("authorization", bearer.as_str())];
    let (collector, mut document) = with(Some(TOKEN));
    for call in calls(&document) {
        let good = ask(&collector, &call, &token);
        assert!(
            matches!(good.status, 200 | 204) || call.path == "/assets/{file}",
            "{}: {}",
            call.url,
            good.status
        );
        document.check(&call, &good);

        let described = document.described(&call).clone();
        let is = |status: &str| described["responses"].get(status).is_some();
        let mut try_as = |status: u16, call: &Call, headers: &[(&str, &str)]| {
            if is(&status.to_string()) {
                let answer = ask(&collector, call, headers);
                assert_eq!(answer.status, status, "{} {}", call.method, call.url);
                document.check(call, &answer);
            }
        };
        if call.path != "/assets/{file}" {
            try_as(304, &call, &[token[0], ("if-none-match", "*")]);
        }
        let content = described["responses"]["200"]["content"].as_object();
        for media in content.into_iter().flat_map(|forms| forms.keys()) {
            if call.path.starts_with("/api/") && call.path != "/api/v1/events" {
                try_as(200, &call, &[token[0], ("accept", media)]);
            }
        }
        try_as(401, &call, &[]);
        if call.path != "/api/v1/events" {
            try_as(406, &call, &[token[0], ("accept", "image/png")]);
        }
        let long = "x".repeat(17 << 10);
        let far = Call {
            url: format!("{}?{long}", call.url),
            ..call.clone()
        };
        if call.method != "POST" {
            try_as(414, &far, &token);
        }
        if let Some((media, _)) = &call.body {
            let sent = |media: &str, body: &str| Call {
                body: Some((media.into(), body.into())),
                ..call.clone()
            };
            try_as(415, &sent("text/plain", "{}"), &token);
            try_as(400, &sent(media, "[]"), &token);
            try_as(413, &sent(media, &"x".repeat(65 << 10)), &token);
        }
        try_as(431, &call, &[token[0], ("x-long", &long)]);
    }
}

#[test]
fn without_a_token_other_statuses_are_described_too() {
    let (collector, mut document) = with(None);
    for call in calls(&document) {
        let described = document.described(&call).clone();
        let is = |status: &str| described["responses"].get(status).is_some();
        if is("421") {
            let mut stream = TcpStream::connect(collector.addr).unwrap();
            let head = format!(
                "{} {} HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n",
                call.method, call.url
            );
            stream.write_all(head.as_bytes()).unwrap();
            document.check(&call, &read_answer(&call.method, &mut stream));
        }
        if is("403") {
            document.check(&call, &ask(&collector, &call, &[]));
        }
        if call.method == "POST" {
            let post = |kind: &str, body: &str| {
                let headers = [("content-type", kind)];
                let url = call.url.split('?').next().unwrap();
                send(collector.addr, "POST", url, &headers, body)
            };
            document.check(&call, &post("application/json", "{}"));
            document.check(
                &call,
                &post("application/x-www-form-urlencoded", &"x".repeat(65 << 10)),
            );
        }
    }
    let statuses: BTreeSet<u16> = document.seen.iter().map(|(_, _, status)| *status).collect();
    assert_eq!(statuses, [403, 413, 415, 421].into());
}

#[test]
fn before_the_store_is_open_calls_answer_as_described() {
    let collector = Collector::opening(None);
    let mut document = Document::of(&collector);
    for call in calls(&document) {
        if !["DELETE", "PATCH"].contains(&call.method.as_str()) {
            document.check(&call, &ask(&collector, &call, &[]));
        }
    }
    let unready = document.seen.iter().filter(|(.., status)| *status == 503);
    assert!(unready.count() > 15);
}

#[test]
fn what_goes_wrong_is_described() {
    let (collector, mut document) = with(None);
    collector.store.put("damaged", "/a", 1, 1.0);
    for (id, url, status) in [
        ("listDevices", "/api/v1/devices?limit=1", 200),
        ("listDevices", "/api/v1/devices?limit=0", 400),
        ("listDevices", "/api/v1/devices?cursor=x", 400),
        ("getDevice", "/api/v1/devices/edge_device_02", 200),
        ("getDevice", "/api/v1/devices/nobody", 404),
        ("getDevice", "/api/v1/devices/-", 400),
        ("getDevice", "/api/v1/devices/panic", 500),
        (
            "listMetrics",
            "/api/v1/devices/edge_device_01/metrics?limit=1",
            200,
        ),
        ("listMetrics", "/api/v1/devices/nobody/metrics", 404),
        ("getLatest", "/api/v1/devices/edge_device_01/latest", 200),
        (
            "getLatest",
            "/api/v1/devices/edge_device_01/latest?format=tree",
            200,
        ),
        ("getLatest", "/api/v1/devices/nobody/latest", 404),
        (
            "listMetrics",
            "/api/v1/devices/edge_device_01/metrics?sort=-last_ts&limit=1&kind=gauge",
            200,
        ),
        (
            "listDevices",
            "/api/v1/devices?sort=-metrics&status=online,stale&limit=1",
            200,
        ),
        (
            "getSeries",
            "/api/v1/devices/edge_device_01/series?path=/cpu/utilization&path=/gpu/0/name",
            200,
        ),
        (
            "getSeries",
            "/api/v1/devices/edge_device_01/series?path=/cpu/utilization&limit=1",
            200,
        ),
        (
            "getSeries",
            "/api/v1/devices/edge_device_01/series?path=/cpu/utilization&from=0&to=1",
            200,
        ),
        (
            "getSeries",
            "/api/v1/devices/edge_device_01/series?path=/cpu/utilization&from=-1h&points=2&agg=count,last",
            200,
        ),
        (
            "getSeries",
            "/api/v1/devices/edge_device_01/series?path=/cpu/utilization&path=/memory/free&from=0&step=1ms&limit=100000&agg=avg,min,max,sum,count,last",
            422,
        ),
        (
            "getSeries",
            "/api/v1/devices/edge_device_01/series?path=/x",
            404,
        ),
        (
            "getSeries",
            "/api/v1/devices/damaged/series?path=/a&from=0",
            500,
        ),
        (
            "getFleetLatest",
            "/api/v1/latest?path=/*/utilization&limit=1",
            200,
        ),
        (
            "getFleetSeries",
            "/api/v1/series?path=/*/utilization&path=/gpu/*/*&step=1m&agg=last,count&limit=2",
            200,
        ),
        (
            "getFleetSeries",
            "/api/v1/series?path=/cpu/utilization",
            400,
        ),
        (
            "getFleetSeries",
            "/api/v1/series?path=/cpu/utilization&from=0&step=1s",
            422,
        ),
        (
            "getFleetSeries",
            "/api/v1/series?path=/a&from=0&to=60&step=1s",
            500,
        ),
        ("followEvents", "/api/v1/events?min_interval=1ms", 400),
        ("listDeadLetters", "/api/v1/dead-letters", 200),
        ("getDeadLetter", "/api/v1/dead-letters/99", 404),
        ("getDeadLetter", "/api/v1/dead-letters/x", 400),
        ("getDashboardFile", "/assets/none", 404),
        ("scrapeDevices", "/metrics/devices?device=%5B", 400),
        ("query", "/prometheus/api/v1/query?query=1", 200),
        ("query", "/prometheus/api/v1/query?query=%22a%22", 200),
        (
            "query",
            "/prometheus/api/v1/query?query=devmon_cpu_utilization[5m]",
            200,
        ),
        ("query", "/prometheus/api/v1/query", 400),
        (
            "query",
            "/prometheus/api/v1/query?query=histogram_quantile(1,a)",
            422,
        ),
        (
            "queryRange",
            "/prometheus/api/v1/query_range?query=1&start=1&end=2",
            400,
        ),
        ("listSeries", "/prometheus/api/v1/series", 400),
        ("listLabels", "/prometheus/api/v1/labels?match[]=1", 400),
        ("listMetadata", "/prometheus/api/v1/metadata?limit=1", 200),
    ] {
        let mut call = document.call(id);
        url.clone_into(&mut call.url);
        let answer = collector.get(url);
        assert_eq!(answer.status, status, "{url}");
        document.check(&call, &answer);
    }
    collector.store.set_problem(Some("the disk is full"));
    let call = document.call("readyz");
    document.check(&call, &collector.get("/readyz"));
}

#[test]
fn other_methods_and_paths_are_answered_as_the_document_says() {
    let (collector, document) = with(None);
    let problem = json!({"$ref": "#/components/schemas/Problem"});
    let (_, mut strict) = with(None);
    for (path, item) in document.json["paths"].as_object().unwrap() {
        let methods: BTreeSet<String> = item
            .as_object()
            .unwrap()
            .keys()
            .map(|m| m.to_uppercase())
            .collect();
        let url = path.replace(['{', '}'], "");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            if methods.contains(method) {
                continue;
            }
            let answer = collector.call(method, &url, &[("content-length", "0")]);
            assert_eq!(answer.status, 405, "{method} {url}");
            let allowed: BTreeSet<String> = answer
                .header("allow")
                .unwrap()
                .split(", ")
                .map(str::to_owned)
                .collect();
            let mut expected = methods.clone();
            expected.insert("HEAD".into());
            assert_eq!(allowed, expected, "{url}");
            strict.validate(&problem, &answer.json(), &url);
        }
        let beyond = format!("{}/no/such/thing", url.trim_end_matches('/'));
        let answer = collector.get(&beyond);
        assert_eq!(answer.status, 404, "{beyond}");
        strict.validate(&problem, &answer.json(), &beyond);
    }
}

#[test]
fn the_parameters_that_are_described_are_those_that_are_known() {
    let (collector, document) = with(None);
    let mut asked = 0;
    for call in document
        .calls()
        .into_iter()
        .filter(|call| call.method == "GET")
    {
        let mark = if call.url.contains('?') { '&' } else { '?' };
        let answer = collector.get(&format!("{}{mark}zzz=1", call.url));
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let Some((_, known)) = text.split_once("known here: ") else {
            // What is no call of the API proper does not look at them.
            assert!(!call.path.starts_with("/api/"), "{}: {text}", call.url);
            continue;
        };
        asked += 1;
        let known = known.split(')').next().unwrap();
        let known: BTreeSet<&str> = known.split(", ").filter(|name| *name != "none").collect();
        let params = document.described(&call)["parameters"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let queried = params.iter().filter(|p| p["in"] == "query");
        let described: BTreeSet<&str> = queried.map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(known, described, "{}", call.path);
    }
    assert!(asked >= 12, "{asked}");
}

#[test]
fn examples_are_what_the_schemas_say() {
    let (_, mut document) = with(None);
    let calls = document.calls();
    let mut checked = 0;
    for call in calls {
        let responses =
            document.strict["paths"][&call.path][call.method.to_lowercase()]["responses"].clone();
        if let Some((media, body)) = &call.body {
            let form = document.described(&call)["requestBody"]["content"][media].clone();
            document.validate(
                &form["schema"],
                &serde_json::from_str(body).unwrap(),
                &call.path,
            );
        }
        for (status, response) in responses.as_object().unwrap() {
            let content = response.get("content").and_then(Json::as_object);
            for (media, form) in content.into_iter().flatten() {
                if let Some(example) = form.get("example") {
                    let what = format!("{} {status} {media}", call.path);
                    document.validate(&form["schema"].clone(), example, &what);
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 10, "{checked}");
}

#[test]
fn the_document_needs_no_token_and_can_be_kept() {
    let guarded = Collector::with_token(Some(TOKEN));
    let answer = guarded.get("/openapi.json");
    assert_eq!(answer.status, 200);
    assert!(!answer.text().contains(TOKEN));
    assert_eq!(answer.json()["openapi"], "3.1.0");
    let tag = answer.header("etag").unwrap();
    let again = guarded.call("GET", "/openapi.json", &[("if-none-match", tag)]);
    assert_eq!((again.status, again.body.len()), (304, 0));
}

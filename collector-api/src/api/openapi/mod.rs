//! `GET /openapi.json`: the API's description (OpenAPI 3.1), made of the tables in [`calls`](super::calls) and of the schemas that the types of answers give of themselves; and `GET /docs`,
//! the same as a page ([`page`]).
//!
//! It depends on the release only, not on configuration or data, and is made once, when it is first asked for. Who reads it learns nothing that this repository does not say: it needs no token.

pub(super) mod page;
mod problems;
pub(super) mod schemas;

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value as Json, json};
use warp::http::StatusCode;
use warp::hyper::body::Bytes;

use super::calls::{
    self, Access, Answer, Header, Operation, Param, Place, Route, SchemaOf, Shape, Verb,
};
use super::endpoints::Call;
use super::params::Segment;
use super::problem::{self, Kind, Problem};
use super::reply::{Response, bytes, kept};

const ABOUT: &str = "Times in answers are unix milliseconds; null in a series marks a gap. Every GET can be a HEAD: the same headers, no body. Another method than those that are described is \
    answered with 405 and Allow; a path that is not described with 404. Unknown parameters are refused. Every error is a problem document (RFC 9457), but for a query's own below /prometheus. \
    Answers that have an ETag are answered with 304 to whom has them (If-None-Match). Answers of 1 KiB and more are compressed where Accept-Encoding takes it. Every answer has an X-Request-Id: that of the call, if it is 1 to 64 of A-Z a-z 0-9 . _ -, else a new one. \
    Without a configured token only requests for localhost or a loopback address are answered, and nothing can be changed.";

/// The sections of the document: the begin of their paths, their name, what they are.
const TAGS: [(&str, &str, &str); 4] = [
    (
        "/api/v1/",
        "REST",
        "Devices, their metrics and what they measured.",
    ),
    (
        "/prometheus/",
        "PromQL",
        "The query API of Prometheus, for Grafana.",
    ),
    (
        "/metrics",
        "Scraping",
        "Expositions in Prometheus' text format and OpenMetrics.",
    ),
    ("/", "Collector", "Probes, documents and the dashboard."),
];

/// The document.
static DOCUMENT: LazyLock<Json> = LazyLock::new(build);
static TEXT: LazyLock<Bytes> = LazyLock::new(|| DOCUMENT.to_string().into());

/// `GET /openapi.json`.
pub(super) fn document(_: &Call, _: &Segment) -> Result<Response, Problem> {
    Ok(kept(bytes(
        StatusCode::OK,
        "application/json",
        TEXT.clone(),
    )))
}

/// A description that is being written.
struct Writer {
    schemas: SchemaGenerator,
    responses: Map<String, Json>,
}

fn build() -> Json {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|s| {
        s.definitions_path = "/components/schemas".into();
        s.meta_schema = None;
    });
    let mut writer = Writer {
        schemas: settings.into_generator(),
        responses: Map::new(),
    };
    let mut paths = Map::new();
    for route in calls::routes() {
        let calls = route.calls.iter();
        let calls = calls.map(|call| (call.verb.as_str().to_owned(), writer.call(route, call)));
        paths.insert(route.path.to_owned(), Json::Object(calls.collect()));
    }
    let tags = TAGS.map(|(_, name, about)| json!({"name": name, "description": about}));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "devmon collector",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "State and metrics of a fleet of devices.",
            "description": ABOUT,
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"}
        },
        "servers": [{"url": "/", "description": "This collector."}],
        "tags": tags,
        "security": [{"token": []}, {"password": []}, {}],
        "paths": paths,
        "components": {
            "schemas": writer.schemas.take_definitions(true),
            "responses": writer.responses,
            "headers": headers(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "The token of api_token_file."},
                "password": {"type": "http", "scheme": "basic", "description": "The token as password, with any user."}
            }
        }
    })
}

impl Writer {
    fn call(&mut self, route: &Route, call: &Operation) -> Json {
        let tag = TAGS
            .iter()
            .find(|(begin, ..)| route.path.starts_with(begin));
        let mut written = json!({
            "operationId": call.id,
            "summary": call.summary,
            "tags": [tag.map_or("", |(_, name, _)| name)],
            "responses": self.responses(route, call)
        });
        if !call.about.is_empty() {
            written["description"] = call.about.into();
        }
        let as_form = call.verb == Verb::Post && call.body.is_none();
        let in_url = |p: &&Param| !as_form || p.place != Place::Query;
        let mut params: Vec<Json> = call.params.iter().filter(in_url).map(parameter).collect();
        if is_kept(call) {
            params.push(json!({
                "name": "If-None-Match", "in": "header", "schema": {"type": "string"},
                "description": "ETags of answers that the caller has."
            }));
        }
        if !params.is_empty() {
            written["parameters"] = params.into();
        }
        if as_form {
            written["requestBody"] = form(call);
        }
        if let Some(body) = call.body {
            let schema = (body.schema)(&mut self.schemas);
            let example: Json = serde_json::from_str(body.example).unwrap_or_default();
            let form = |media: &&str| {
                let form = json!({"schema": schema, "example": example});
                ((*media).to_owned(), form)
            };
            let content: Map<_, _> = body.media.iter().map(form).collect();
            written["requestBody"] = json!({"required": true, "content": content});
        }
        match (route.access, call.verb.changes()) {
            (Access::Everybody, _) => written["security"] = json!([]),
            (Access::Token, true) => written["security"] = json!([{"token": []}, {"password": []}]),
            (Access::Token, false) => {}
        }
        written["x-example"] = example(route, call).into();
        written
    }

    fn responses(&mut self, route: &Route, call: &Operation) -> Json {
        let mut all = Map::new();
        let problems = problems::of(route, call);
        for answer in call.answers {
            let status = answer.status.to_string();
            let mut written = self.answer(call, answer);
            let also = problems
                .iter()
                .filter(|kind| kind.row().2.as_u16() == answer.status);
            for kind in also {
                let about = written["description"].as_str().unwrap_or_default();
                written["description"] = format!("{about} {}", problems::when(*kind)).into();
                written["content"]["application/problem+json"] = self.problem();
                if let Some(name) = problems::header(*kind) {
                    // The other kind of answer does not have it.
                    let mut header = headers()[name].clone();
                    header["required"] = false.into();
                    written["headers"][name] = header;
                }
            }
            all.insert(status, written);
        }
        if is_kept(call) {
            all.insert(
                "304".to_owned(),
                json!({"$ref": "#/components/responses/not-modified"}),
            );
            self.responses.entry("not-modified").or_insert_with(|| {
                let headers = header_refs(&["X-Request-Id", "ETag"]);
                json!({"description": "The caller has this answer.", "headers": headers})
            });
        }
        for kinds in problems.chunk_by(|a, b| a.row().2 == b.row().2) {
            let status = kinds[0].row().2;
            if !all.contains_key(status.as_str()) {
                let name = self.response(kinds);
                let reference = json!({"$ref": format!("#/components/responses/{name}")});
                all.insert(status.as_str().to_owned(), reference);
            }
        }
        Json::Object(all)
    }

    fn answer(&mut self, call: &Operation, answer: &Answer) -> Json {
        let mut names = vec!["X-Request-Id"];
        let reads = call.verb == Verb::Get;
        names.extend(
            answer
                .headers
                .iter()
                .filter(|h| reads || **h != Header::ETag)
                .map(header),
        );
        let mut written = json!({"description": answer.about, "headers": header_refs(&names)});
        let mut content = Map::new();
        for (media, schema) in answer.forms {
            content.insert((*media).to_owned(), self.form(*schema));
            let example = serde_json::from_str::<Json>(answer.example);
            if let (Ok(example), Some(_)) = (example, schema) {
                content[*media]["example"] = example;
            }
        }
        if !content.is_empty() {
            written["content"] = content.into();
        }
        written
    }

    fn form(&mut self, schema: Option<SchemaOf>) -> Json {
        match schema {
            Some(schema) => json!({"schema": schema(&mut self.schemas)}),
            // Text, or bytes.
            None => json!({}),
        }
    }

    fn problem(&mut self) -> Json {
        json!({"schema": self.schemas.subschema_for::<problem::Document<'static>>()})
    }

    /// The answer of kinds of one status, by name.
    fn response(&mut self, kinds: &[Kind]) -> String {
        let name: Vec<_> = kinds.iter().map(|kind| kind.row().0).collect();
        let name = name.join("_or_");
        if !self.responses.contains_key(&name) {
            let about: Vec<_> = kinds.iter().map(|kind| problems::when(*kind)).collect();
            let mut names = vec!["X-Request-Id"];
            names.extend(kinds.iter().filter_map(|kind| problems::header(*kind)));
            names.dedup();
            let response = json!({
                "description": about.join(" Or: "),
                "headers": header_refs(&names),
                "content": {"application/problem+json": self.problem()}
            });
            self.responses.insert(name.clone(), response);
        }
        name
    }
}

/// The type of a problem: one of a closed list.
pub(super) fn problem_type(_: &mut SchemaGenerator) -> schemars::Schema {
    let types = problems::ALL.map(|kind| format!("{}{}", problem::TYPES, kind.row().0));
    schemars::json_schema!({"type": "string", "enum": types})
}

/// Whether an answer may be kept, and asked for again.
fn is_kept(call: &Operation) -> bool {
    let mut answers = call.answers.iter();
    call.verb == Verb::Get && answers.any(|answer| answer.headers.contains(&Header::ETag))
}

fn header(header: &Header) -> &'static str {
    match header {
        Header::ContentDisposition => "Content-Disposition",
        Header::ETag => "ETag",
        Header::EventId => "Event-Id",
        Header::Link => "Link",
        Header::Vary => "Vary",
    }
}

fn headers() -> Json {
    let always =
        |about: &str| json!({"description": about, "required": true, "schema": {"type": "string"}});
    let mut link = always("Where the next page is, if there is one (RFC 8288).");
    link["required"] = false.into();
    let mut event_id =
        always("With follow=true: the id from which a stream of events goes on from this answer.");
    event_id["required"] = false.into();
    json!({
        "X-Request-Id": {
            "description": "The call's id, as it stands in the log.", "required": true,
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}
        },
        "ETag": always("Names this answer, for If-None-Match."),
        "Event-Id": event_id,
        "Link": link,
        "Vary": always("Of which headers of the call the answer depends."),
        "Allow": always("The methods that there are."),
        "Content-Disposition": {"description": "For saving, not for showing.", "required": true, "schema": {"const": "attachment"}},
        "Retry-After": {"description": "When to ask again, in seconds.", "required": true, "schema": {"type": "integer", "minimum": 1}},
        "WWW-Authenticate": always("How to say who asks.")
    })
}

fn header_refs(names: &[&str]) -> Json {
    let reference = |name: &&str| {
        let place = format!("#/components/headers/{name}");
        ((*name).to_owned(), json!({"$ref": place}))
    };
    names.iter().map(reference).collect::<Map<_, _>>().into()
}

fn parameter(param: &Param) -> Json {
    let place = match param.place {
        Place::Query => "query",
        Place::Path => "path",
        Place::Header => "header",
    };
    let mut written = json!({
        "name": param.name, "in": place, "required": param.required, "description": param.about,
        "schema": schema(param)
    });
    if param.place == Place::Query && written["schema"]["type"] == "array" {
        written["style"] = "form".into();
        written["explode"] = (param.most > 1).into();
    }
    if !param.example.is_empty() {
        let example = Json::from(param.example);
        let several = written["schema"]["type"] == "array";
        written["example"] = if several { json!([example]) } else { example };
    }
    written
}

fn schema(param: &Param) -> Json {
    let one = match param.shape {
        Shape::Text => json!({"type": "string"}),
        Shape::Whole(from, to, None) => json!({"type": "integer", "minimum": from, "maximum": to}),
        Shape::Whole(from, to, Some(default)) => {
            json!({"type": "integer", "minimum": from, "maximum": to, "default": default})
        }
        Shape::Word(words) => json!({"type": "string", "enum": words()}),
        Shape::Sort(fields) => {
            let fields = fields();
            let both = fields
                .iter()
                .flat_map(|field| [(*field).to_owned(), format!("-{field}")]);
            json!({"type": "string", "enum": both.collect::<Vec<_>>(), "default": fields.first()})
        }
        Shape::Words(words) => {
            let one = json!({"type": "string", "enum": words()});
            json!({"type": "array", "items": one, "minItems": 1})
        }
        Shape::Form(pattern) => json!({"type": "string", "pattern": pattern}),
    };
    let mut several = match param.most {
        1 => one,
        usize::MAX => json!({"type": "array", "items": one, "minItems": 1}),
        most => json!({"type": "array", "items": one, "minItems": 1, "maxItems": most}),
    };
    if param.once_each {
        several["uniqueItems"] = true.into();
    }
    several
}

/// The parameters of a query string as a form.
fn form(call: &Operation) -> Json {
    let params = call.params.iter().filter(|p| p.place == Place::Query);
    let properties = params.clone().map(|param| {
        let mut written = schema(param);
        written["description"] = param.about.into();
        (param.name.to_owned(), written)
    });
    let required: Vec<_> = params
        .clone()
        .filter(|p| p.required)
        .map(|p| p.name)
        .collect();
    let schema = json!({"type": "object", "properties": properties.collect::<Map<_, _>>(), "required": required});
    json!({
        "description": "The parameters of the query string as a form of at most 64 KiB, for those that are too long for an address.",
        "required": !required.is_empty(),
        "content": {"application/x-www-form-urlencoded": {"schema": schema}}
    })
}

/// A command that makes the call.
fn example(route: &Route, call: &Operation) -> String {
    let path = match route.path.split_once('{') {
        None => format!("{}{}", route.path, call.example),
        Some((before, rest)) => {
            let after = rest.split_once('}').map_or("", |(_, after)| after);
            let (segment, query) = call
                .example
                .split_at(call.example.find('?').unwrap_or(call.example.len()));
            format!("{before}{segment}{after}{query}")
        }
    };
    let method = match call.verb {
        Verb::Get => "",
        Verb::Post => " -X POST",
        Verb::Patch => " -X PATCH",
        Verb::Delete => " -X DELETE",
    };
    let body = call.body.map(|body| {
        let media = body.media.first().copied().unwrap_or_default();
        format!(" -H 'Content-Type: {media}' -d '{}'", body.example)
    });
    let body = body.unwrap_or_default();
    format!("curl -s{method}{body} 'http://127.0.0.1:8765{path}'")
}

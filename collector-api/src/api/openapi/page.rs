//! `GET /docs`: the API's description as a page to read: each call with its parameters, its answers and a `curl` command. Written here, from the document, so that it needs no script and loads nothing
//! but its style sheet, which takes colours and sizes from the dashboard's; it is light or dark as the system is.

use std::fmt::Write as _;
use std::sync::LazyLock;

use serde_json::{Map, Value as Json};
use warp::http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use warp::http::{HeaderValue, StatusCode};
use warp::hyper::body::Bytes;

use super::super::endpoints::Call;
use super::super::params::Segment;
use super::super::problem::Problem;
use super::super::reply::{Response, bytes, kept};
use super::DOCUMENT;

/// Stricter than the dashboard's: there is nothing but text and its style.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = concat!(
    include_str!("../../../../web/src/styles/tokens.css"),
    include_str!("reference.css")
);

static PAGE: LazyLock<Bytes> = LazyLock::new(|| write(&DOCUMENT).into());

/// `GET /docs`.
pub(in crate::api) fn page(_: &Call, _: &Segment) -> Result<Response, Problem> {
    Ok(shown("text/html; charset=utf-8", PAGE.clone()))
}

/// `GET /docs/reference.css`.
pub(in crate::api) fn style(_: &Call, _: &Segment) -> Result<Response, Problem> {
    let style = Bytes::from_static(STYLE.as_bytes());
    Ok(shown("text/css; charset=utf-8", style))
}

fn shown(media: &'static str, body: Bytes) -> Response {
    let mut response = kept(bytes(StatusCode::OK, media, body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Text for between tags and in attributes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

fn text<'a>(of: &'a Json, name: &str) -> &'a str {
    of[name].as_str().unwrap_or_default()
}

fn entries(of: &Json) -> impl Iterator<Item = (&String, &Json)> {
    of.as_object().into_iter().flat_map(Map::iter)
}

/// What a reference names, or the thing itself.
fn resolve<'a>(document: &'a Json, at: &'a Json) -> &'a Json {
    let named = at["$ref"]
        .as_str()
        .and_then(|r| document.pointer(r.strip_prefix('#')?));
    named.unwrap_or(at)
}

/// The page; writing to a text does not fail.
fn write(document: &Json) -> String {
    let mut out = String::new();
    let info = &document["info"];
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>devmon API</title><link rel=\"stylesheet\" href=\"/docs/reference.css\"></head><body>\
         <header><h1>devmon API <small>{}</small></h1><nav><a href=\"/\">Dashboard</a> <a href=\"/openapi.json\">openapi.json</a></nav></header><main>",
        escaped(text(info, "version"))
    );
    let _ = write!(out, "<p>{}</p>", escaped(text(info, "description")));
    for tag in document["tags"].as_array().into_iter().flatten() {
        let name = text(tag, "name");
        let _ = write!(out, "<h2>{}</h2><ul class=\"calls\">", escaped(name));
        each_call(document, name, |method, path, call| {
            let _ = write!(
                out,
                "<li><a href=\"#{}\"><b class=\"{method}\">{method}</b> <code>{}</code></a></li>",
                escaped(text(call, "operationId")),
                escaped(path)
            );
        });
        out.push_str("</ul>");
    }
    for tag in document["tags"].as_array().into_iter().flatten() {
        let (name, about) = (text(tag, "name"), text(tag, "description"));
        let _ = write!(out, "<h2>{}</h2><p>{}</p>", escaped(name), escaped(about));
        each_call(document, name, |method, path, call| {
            write_call(&mut out, document, method, path, call);
        });
    }
    out.push_str("<h2>Shapes</h2>");
    for (name, schema) in entries(&document["components"]["schemas"]) {
        let about = escaped(text(schema, "description"));
        let _ = write!(
            out,
            "<article id=\"shape-{0}\"><h3>{0}</h3><p>{about}</p>",
            escaped(name)
        );
        write_fields(&mut out, schema);
        out.push_str("</article>");
    }
    out.push_str("</main></body></html>\n");
    out
}

fn each_call(document: &Json, tag: &str, mut f: impl FnMut(&str, &str, &Json)) {
    for (path, item) in entries(&document["paths"]) {
        for (method, call) in entries(item).filter(|(_, call)| call["tags"][0] == tag) {
            f(method, path, call);
        }
    }
}

fn write_call(out: &mut String, document: &Json, method: &str, path: &str, call: &Json) {
    let _ = write!(
        out,
        "<article id=\"{}\"><h3><b class=\"{method}\">{method}</b> <code>{}</code></h3><p>{}</p>",
        escaped(text(call, "operationId")),
        escaped(path),
        escaped(text(call, "summary"))
    );
    if let Some(about) = call["description"].as_str() {
        let _ = write!(out, "<p>{}</p>", escaped(about));
    }
    if call["security"] == serde_json::json!([]) {
        out.push_str("<p class=\"note\">Needs no token.</p>");
    }
    let form = &call["requestBody"];
    if form.is_object() {
        let _ = write!(
            out,
            "<p class=\"note\">{}</p>",
            escaped(text(form, "description"))
        );
    }
    let form = &form["content"]["application/x-www-form-urlencoded"]["schema"];
    let in_form = entries(&form["properties"]).map(|(name, schema)| {
        let required = form["required"]
            .as_array()
            .is_some_and(|all| all.iter().any(|n| n == name));
        (
            name.as_str(),
            "form",
            required,
            schema,
            text(schema, "description"),
        )
    });
    let params = call["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|param| {
            let required = param["required"] == true;
            (
                text(param, "name"),
                text(param, "in"),
                required,
                &param["schema"],
                text(param, "description"),
            )
        });
    let all: Vec<_> = params.chain(in_form).collect();
    if !all.is_empty() {
        out.push_str("<dl>");
        for (name, place, required, schema, about) in all {
            let needed = if required { ", needed" } else { "" };
            let _ = write!(
                out,
                "<dt><code>{}</code> <small>{place}{needed}: {}</small></dt><dd>{}</dd>",
                escaped(name),
                kind(schema),
                escaped(about)
            );
        }
        out.push_str("</dl>");
    }
    if let Some(example) = call["x-example"].as_str() {
        let _ = write!(out, "<pre>{}</pre>", escaped(example));
    }
    out.push_str("<dl class=\"answers\">");
    for (status, response) in entries(&call["responses"]) {
        let response = resolve(document, response);
        let class = &status[..1];
        let _ = write!(
            out,
            "<dt class=\"s{class}\">{status}</dt><dd>{}",
            escaped(text(response, "description"))
        );
        for (media, form) in entries(&response["content"]) {
            let _ = write!(out, " <small>{}", escaped(media));
            let schema = &form["schema"];
            if schema.is_object() {
                let _ = write!(out, ": {}", kind(schema));
            }
            out.push_str("</small>");
            if form["example"].is_object() {
                let pretty = serde_json::to_string_pretty(&form["example"]).unwrap_or_default();
                let _ = write!(
                    out,
                    "<details><summary>Example</summary><pre>{}</pre></details>",
                    escaped(&pretty)
                );
            }
        }
        out.push_str("</dd>");
    }
    out.push_str("</dl></article>");
}

fn write_fields(out: &mut String, schema: &Json) {
    if !schema["properties"].is_object() {
        let _ = write!(out, "<p><small>{}</small></p>", kind(schema));
        return;
    }
    out.push_str("<dl>");
    for (name, field) in entries(&schema["properties"]) {
        let always = schema["required"]
            .as_array()
            .is_some_and(|all| all.iter().any(|n| n == name));
        let maybe = if always { "" } else { ", may be missing" };
        let _ = write!(
            out,
            "<dt><code>{}</code> <small>{}{maybe}</small></dt><dd>{}</dd>",
            escaped(name),
            kind(field),
            escaped(text(field, "description"))
        );
    }
    out.push_str("</dl>");
}

/// What a schema takes, in a few words of HTML.
fn kind(schema: &Json) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
        let name = escaped(name);
        return format!("<a href=\"#shape-{name}\">{name}</a>");
    }
    for several in ["oneOf", "anyOf"] {
        if let Some(all) = schema[several].as_array() {
            return all.iter().map(kind).collect::<Vec<_>>().join(" or ");
        }
    }
    if let Some(words) = schema["enum"].as_array() {
        let words = words
            .iter()
            .map(|w| w.as_str().map_or("null".into(), escaped));
        return words.collect::<Vec<_>>().join(" | ");
    }
    if let Some(one) = schema.get("const") {
        return escaped(&one.to_string());
    }
    let types = match &schema["type"] {
        Json::Array(all) => all
            .iter()
            .filter_map(Json::as_str)
            .collect::<Vec<_>>()
            .join(" | "),
        one => one.as_str().unwrap_or("any").to_owned(),
    };
    let mut said = types;
    if schema["items"].is_object() {
        let _ = write!(said, " of {}", kind(&schema["items"]));
    }
    if schema["additionalProperties"].is_object() {
        let _ = write!(said, ", each {}", kind(&schema["additionalProperties"]));
    }
    let bound = |name: &str| schema[name].as_u64();
    match (bound("minimum"), bound("maximum")) {
        (Some(from), Some(to)) => _ = write!(said, " {from} to {to}"),
        (Some(from), None) if from > 0 => _ = write!(said, " from {from}"),
        _ => {}
    }
    if let Some(most) = bound("maxItems") {
        let _ = write!(said, ", up to {most}");
    }
    if let Some(default) = schema.get("default") {
        let _ = write!(said, ", default {}", escaped(&default.to_string()));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_and_shape_has_its_place_and_every_link_leads_somewhere() {
        let page = write(&DOCUMENT);
        for (path, item) in entries(&DOCUMENT["paths"]) {
            for (_, call) in entries(item) {
                let id = format!("<article id=\"{}\"", text(call, "operationId"));
                assert!(page.contains(&id), "{path}");
            }
        }
        let links = page.split("href=\"#").skip(1);
        let mut count = 0;
        for link in links.filter_map(|rest| rest.split('"').next()) {
            assert!(page.contains(&format!("id=\"{link}\"")), "{link}");
            count += 1;
        }
        assert!(count > 50, "{count}");
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere_and_runs_nothing() {
        let page = write(&DOCUMENT);
        assert!(
            !page.contains("<script") && !page.contains("style=") && !page.contains("javascript:")
        );
        for attribute in ["src=\"", "href=\"http", "href=\"//"] {
            assert!(!page.contains(attribute), "{attribute}");
        }
        assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
        assert_eq!(
            escaped("<a href=\"&\">"),
            "&lt;a href=&quot;&amp;&quot;&gt;"
        );
    }
}

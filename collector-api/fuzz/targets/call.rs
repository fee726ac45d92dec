//! Any call of the API, on a real server over a small store: routes, every parameter of every call, forms, patches, headers, PromQL from the text to the numbers.
//!
//! An input is a call as `curl -v` shows it: a line `METHOD /path?query`, lines `name: value`, an empty line, a body. Whatever it is, the answer is no defect (500), is of a status
//! that is documented, an error is a problem document (below `/prometheus` Prometheus' own) of that status, and one about a parameter names it.
#![no_main]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use devmon_collector::api::server::Server;
use devmon_collector::api::{Api, Front};
use devmon_collector::events::Events;
use devmon_collector::intake::{Intake, IntakeSettings};
use devmon_collector::store::engine::{Accepted, Content, Store};
use devmon_collector::store::{Engine, Options};
use devmon_core::wire::{FlatMessage, TimestampMs};
use http::{HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What the calls of `docs/rest-api.md` may answer.
const DOCUMENTED: [u16; 20] = [
    200, 204, 304, 400, 401, 403, 404, 405, 406, 408, 413, 414, 415, 421, 422, 429, 431, 503, 206, 416,
];
const TOKEN: &str = "secret";
const NOW_MS: i64 = 1_795_450_000_000;

struct World {
    runtime: Runtime,
    addr: SocketAddr,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("a runtime");
    // One place for all runs: nobody takes it away at the end of a fuzzer.
    let dir = std::env::temp_dir().join("devmon-fuzz-call");
    let _ = std::fs::remove_dir_all(&dir);
    let store = Arc::new(Engine::open(&dir, Options::default()).expect("a store"));
    let batch: Vec<_> = (0..6).map(message).collect();
    store.commit(&batch).expect("samples");
    let (intake, writer) = Intake::new(store.clone(), IntakeSettings::default());
    let (events, maker) = Events::start(intake.feed(), store.clone(), 8);
    // They live as long as the process.
    std::mem::forget((writer, maker));
    let asked = intake.clone();
    let api = Api::new(store, move || asked.status(), "listener", TimestampMs(NOW_MS));
    let front = Arc::new(Front::new(Some(TOKEN.into()), String::new));
    front.open(api.with_events(events));
    let server = Server::bind(([127, 0, 0, 1], 0).into(), 64);
    let server = runtime.block_on(server).expect("a port");
    let addr = server.local_addr().expect("an address");
    let (stop, stops) = watch::channel(false);
    std::mem::forget(stop);
    runtime.spawn(server.run(front, stops));
    World { runtime, addr }
});

fn message(n: i64) -> Accepted {
    let device = if n < 4 { "edge_device_01" } else { "edge_device_02" };
    let ts = NOW_MS + n * 10_000;
    let payload = format!(
        "{{\"v\":1,\"boot\":\"B\",\"seq\":{n},\"frames\":[{{\"ts\":{ts},\"source\":\"cpu\",\"metrics\":{{\"utilization\":0.{n},\"cores\":{{\"0\":{n}}}}}}},\
         {{\"ts\":{ts},\"source\":\"disk\",\"metrics\":{{\"/home\":{{\"used_bytes\":{n},\"name\":\"sda\"}}}}}}]}}"
    );
    let message = FlatMessage::decode(payload.as_bytes()).expect("a message");
    Accepted {
        device: device.parse().expect("an id"),
        received: TimestampMs(ts),
        payload: payload.into(),
        content: Content::Metrics { id: message.id, frames: message.frames },
    }
}

thread_local! {
    static LINE: RefCell<Option<SendRequest<Full<Bytes>>>> = const { RefCell::new(None) };
}

fn request(text: &[u8]) -> Option<Request<Full<Bytes>>> {
    let end = text.windows(2).position(|w| w == b"\n\n");
    let (head, body) = end.map_or((text, &[][..]), |end| (&text[..end], &text[end + 2..]));
    let mut lines = head.split(|b| *b == b'\n');
    let first = std::str::from_utf8(lines.next()?).ok()?;
    let (method, uri) = first.split_once(' ')?;
    if !uri.starts_with('/') || uri.starts_with("//") || method == "CONNECT" {
        return None;
    }
    let mut request = Request::builder().method(method).uri(uri).header("host", "localhost");
    for line in lines {
        let colon = line.iter().position(|b| *b == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        // These are the client's own to say.
        if ["connection", "content-length", "expect", "host", "transfer-encoding", "upgrade", "te"].contains(&name.as_str()) {
            continue;
        }
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        request = request.header(name, value);
    }
    request.body(Full::new(Bytes::copy_from_slice(body))).ok()
}

async fn connect(addr: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(addr).await.expect("the server listens");
    let (line, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    line
}

fuzz_target!(|text: &[u8]| {
    let Some(request) = request(text) else { return };
    let world = &*WORLD;
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let path = uri.path().to_owned();
    let line = LINE.take();
    let (line, status, form, body, coded) = world.runtime.block_on(async {
        let mut line = match line {
            Some(line) if !line.is_closed() => line,
            _ => connect(world.addr).await,
        };
        if line.ready().await.is_err() {
            line = connect(world.addr).await;
            line.ready().await.expect("a new connection is ready");
        }
        let answered = tokio::time::timeout(Duration::from_secs(40), line.send_request(request));
        let answer = match answered.await.expect("an answer within 40 s") {
            Ok(answer) => answer,
            // The server may close a connection that was idle just as we ask.
            Err(error) if error.is_canceled() || error.is_closed() || error.is_incomplete_message() => {
                return (None, 200, String::new(), Bytes::new(), false);
            }
            Err(error) => panic!("{error:?}"),
        };
        let status = answer.status().as_u16();
        let form = answer.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        if form.starts_with("text/event-stream") {
            return (None, status, form, Bytes::new(), false); // it goes on for ever
        }
        let coded = answer.headers().contains_key("content-encoding");
        let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
        (Some(line), status, form, body, coded)
    });
    LINE.set(line);
    assert!(DOCUMENTED.contains(&status), "{method} {uri}: {status}");
    // What is compressed is read by the tests.
    if status < 400 || method == "HEAD" || coded {
        return;
    }
    let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{method} {uri}: {status} {e}"));
    if form == "application/problem+json" {
        assert_eq!(said["status"], status, "{method} {uri}: {said}");
        let kind = said["type"].as_str().expect("a type");
        let detail = said["detail"].as_str().expect("a detail");
        assert!(!detail.is_empty());
        assert!(!kind.ends_with("invalid-parameter") || said["errors"][0]["parameter"].is_string(), "{method} {uri}: {said}");
    } else {
        assert!(path.starts_with("/prometheus/") && said["status"] == "error" && said["error"].is_string(), "{method} {uri}: {said}");
    }
});

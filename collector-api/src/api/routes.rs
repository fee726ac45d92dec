//! What is done with every call: which one it is says the table in [`calls`](super::calls). Methods, the token, blocking threads, panics and the 404 are seen to here, once for all.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warp::filters::BoxedFilter;
use warp::http::Method;
use warp::http::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use warp::hyper::body::Bytes;
use warp::path::FullPath;
use warp::reply::Response;
use warp::{Filter, Reply};

use super::body::{self, Sent};
use super::calls::{Access, Operation, Route, Verb};
use super::endpoints::{Call, Handler};
use super::exchange::cors::Origins;
use super::params::Segment;
use super::patience::Line;
use super::problem::{Kind, Problem};
use super::{Api, Front, large, prometheus};

/// Calls that work at a time; more wait. Each may hold a thread and some 40 MB: a window of a million samples, and an answer
/// of a million points as columns. While an answer is sent, nothing of this is held (`large`).
const CALLS_AT_ONCE: usize = 16;
/// Queries of PromQL at work at a time, beside those calls: a dashboard asks dozens at once, each of which may work for half a minute, and other calls shall not wait behind them.
const QUERIES_AT_ONCE: usize = 4;
/// How long a query waits for others before it is turned away: less than Grafana waits (30 s), more than most queries work.
const QUERY_PATIENCE: Duration = Duration::from_secs(10);
/// Probes that look at the store at a time: they wait for its locks, and one of them is held while the disk is written to.
const PROBES_AT_ONCE: usize = 4;
/// How long the store has to say how it is. A disk may take a second for an fsync; one that takes longer than this hangs.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// Longest body of a call: a form eight times the longest query, a patch five times what all labels take.
const MAX_BODY_BYTES: usize = 64 << 10;

/// The whole HTTP surface as a filter that answers every call. Without a token, web pages of `origins` may ask, and those of this machine.
pub fn routes(front: Arc<Front>, origins: Origins) -> BoxedFilter<(Response,)> {
    let desk = Arc::new(Desk {
        front,
        calls: Arc::new(Semaphore::new(CALLS_AT_ONCE)),
        queries: Arc::new(Semaphore::new(QUERIES_AT_ONCE)),
        probes: Arc::new(Semaphore::new(PROBES_AT_ONCE)),
        origins,
    });
    call()
        .and(warp::body::stream())
        .then(move |call, body| answer(desk.clone(), call, body))
        .boxed()
}

/// What is done with a call of a path.
fn operation(
    route: &'static Route,
    call: &Call,
    front: &Front,
) -> Result<&'static Operation, Problem> {
    // A route that is not there has no methods either.
    if route.calls.is_empty() {
        return Err(nothing(call));
    }
    match route.call(&call.method) {
        Some(operation) if operation.verb.changes() && front.token.is_none() => Err(Problem::new(
            Kind::Forbidden,
            "a device is changed or forgotten only for the holder of a token: set api_token_file, and send the token",
        )),
        Some(operation) => Ok(operation),
        None => {
            let possible = route.allow();
            let detail = format!("{} is not possible here; {possible} are", call.method);
            Err(Problem::new(Kind::MethodNotAllowed(possible), detail))
        }
    }
}

fn nothing(call: &Call) -> Problem {
    let detail = format!("there is nothing at {}", call.path);
    Problem::new(Kind::NotFound, detail)
}

/// What all routes share.
struct Desk {
    front: Arc<Front>,
    calls: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    probes: Arc<Semaphore>,
    /// Whose web pages may ask without a token.
    origins: Origins,
}

fn call() -> impl Filter<Extract = (Call,), Error = Infallible> + Clone {
    let query = warp::filters::query::raw()
        .or(warp::any().map(String::new))
        .unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional())
        .map(
            |method: Method,
             path: FullPath,
             query: String,
             headers: HeaderMap,
             line: Option<Arc<Line>>| Call {
                method,
                path: path.as_str().to_owned(),
                query,
                headers,
                body: Bytes::new(),
                line,
            },
        )
}

async fn answer(desk: Arc<Desk>, call: Call, body: impl Sent) -> Response {
    let path = call.path.clone();
    // For HEAD, hyper sends the headers of this answer, its length included, and leaves the body out.
    match work(&desk, call, body).await {
        Ok(response) => response,
        Err(problem) => problem.response(&path).into_response(),
    }
}

async fn work(desk: &Desk, mut call: Call, body: impl Sent) -> Result<Response, Problem> {
    let (route, segment) = Route::of(&call.path);
    match (route.access, &desk.front.token) {
        (Access::Everybody, _) => {}
        (Access::Token, Some(token)) => authorize(&call.headers, token)?,
        (Access::Token, None) => {
            check_host(&call.headers)?;
            check_page(&call.headers, &desk.origins)?;
        }
    }
    let operation = operation(route, &call, &desk.front)?;
    match operation.body {
        Some(taken) => {
            body::check_type(&call.headers, taken.media)?;
            call.body = body::read(&call.headers, body, MAX_BODY_BYTES).await?;
        }
        None if operation.verb == Verb::Post => {
            let form = body::form(&call.headers, body, MAX_BODY_BYTES).await?;
            call.query = format!("{}&{form}", call.query);
        }
        None => {}
    }
    let whole = match operation.handler {
        Handler::Stream(stream) => return stream(desk.front.api(), &call),
        Handler::Store(endpoint) => {
            let whole = move |api: &Api, call: &Call, segment: &Segment| {
                large::whole(&api.room, endpoint(api, call, segment)?)
            };
            return ask(&desk.front, &desk.calls, whole, segment, call).await;
        }
        Handler::Large(endpoint) => {
            return ask(&desk.front, &desk.calls, endpoint, segment, call).await;
        }
        Handler::Query(endpoint) => {
            let permit = turn(desk.front.api()?, &desk.queries).await?;
            return ask_with(&desk.front, permit, endpoint, segment, call).await;
        }
        Handler::Probe(endpoint) => {
            let asked = ask(&desk.front, &desk.probes, endpoint, segment, call);
            tokio::time::timeout(PROBE_PATIENCE, asked).await.unwrap_or_else(|_| {
                let patience_s = PROBE_PATIENCE.as_secs();
                let detail = format!("the store has not said for {patience_s} s how it is: its disk is busy, or hangs");
                Err(Problem::new(Kind::NotReady, detail))
            })
        }
        Handler::Page(page) => page(&call, &segment),
        Handler::Nothing => Err(nothing(&call)), // a test keeps it out of the tables
    };
    whole.map(Reply::into_response)
}

/// Asks the store on a thread that may block.
async fn ask<T: Send + 'static>(
    front: &Arc<Front>,
    permits: &Arc<Semaphore>,
    endpoint: impl Fn(&Api, &Call, &Segment) -> Result<T, Problem> + Send + 'static,
    segment: Segment,
    call: Call,
) -> Result<T, Problem> {
    front.api()?;
    let permit = permits.clone().acquire_owned().await.ok();
    ask_with(front, permit, endpoint, segment, call).await
}

/// A query's turn, or that it came too late for one. `None` never comes: nobody closes the semaphore.
async fn turn(
    api: &Api,
    queries: &Arc<Semaphore>,
) -> Result<Option<OwnedSemaphorePermit>, Problem> {
    let waited = tokio::time::timeout(QUERY_PATIENCE, queries.clone().acquire_owned()).await;
    waited.map(Result::ok).map_err(|_| {
        api.requests.turn_away();
        let wait_s = QUERY_PATIENCE.as_secs();
        let detail = format!("{QUERIES_AT_ONCE} queries are at work, and no turn came within {wait_s} s; ask again, for less at a time or less often");
        Problem::new(Kind::Busy, detail)
    })
}

/// The same, with the permission at hand.
async fn ask_with<T: Send + 'static>(
    front: &Arc<Front>,
    permit: Option<OwnedSemaphorePermit>,
    endpoint: impl Fn(&Api, &Call, &Segment) -> Result<T, Problem> + Send + 'static,
    segment: Segment,
    call: Call,
) -> Result<T, Problem> {
    let path = call.path.clone();
    let front = front.clone();
    let span = tracing::Span::current();
    let work = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        span.in_scope(|| endpoint(front.api()?, &call, &segment))
    });
    work.await.unwrap_or_else(|error| {
        tracing::error!(path, %error, "an endpoint failed; this is a defect");
        Err(Problem::new(
            Kind::Internal,
            "a defect of the collector; its log has the cause",
        ))
    })
}

fn authorize(headers: &HeaderMap, token: &str) -> Result<(), Problem> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Err(Problem::new(
            Kind::Unauthorized,
            "send the header Authorization: Bearer <token>",
        ));
    };
    let (scheme, given) = value.as_bytes().split_at(value.len().min("Bearer ".len()));
    let bearer =
        scheme.eq_ignore_ascii_case(b"Bearer ") && same(given.trim_ascii(), token.as_bytes());
    let password = prometheus::basic_password(value.as_bytes());
    if bearer || password.is_some_and(|given| same(&given, token.as_bytes())) {
        Ok(())
    } else {
        Err(Problem::new(
            Kind::Unauthorized,
            "the Authorization header holds no valid token",
        ))
    }
}

/// Without a token only this machine may ask. A web page of elsewhere could get a browser here to ask for it by a name that resolves to 127.0.0.1 (DNS
/// rebinding); such a request carries that name as its host.
fn check_host(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(host) = headers.get(HOST) else {
        return Ok(()); // no browser leaves it out
    };
    let text = String::from_utf8_lossy(host.as_bytes()).to_ascii_lowercase();
    if is_here(&text) {
        return Ok(());
    }
    Err(Problem::new(
        Kind::Misdirected,
        format!(
            "without a token the API answers to localhost only, not to {text:?}; set api_token_file to be reached by other names"
        ),
    ))
}

/// Nor may a web page of elsewhere make a browser here ask by this machine's own name: it could not read the answer, but have the collector work for it. Fetch Metadata (W3C) and `Origin`
/// say whose page it is; what is no browser sends neither.
fn check_page(headers: &HeaderMap, origins: &Origins) -> Result<(), Problem> {
    let whose = match headers.get(ORIGIN) {
        Some(_) if origins.has(headers).is_some() => return Ok(()),
        Some(origin) => {
            let text = String::from_utf8_lossy(origin.as_bytes()).to_ascii_lowercase();
            let host = text.split_once("://").map_or("", |(_, host)| host);
            if is_here(host) {
                return Ok(());
            }
            text
        }
        None if headers
            .get("sec-fetch-site")
            .is_some_and(|site| site == "cross-site") =>
        {
            "another site".to_owned()
        }
        None => return Ok(()),
    };
    Err(Problem::new(
        Kind::Misdirected,
        format!(
            "without a token the API does not answer to web pages of {whose:?}; name their origin in http_cors_origins, or set api_token_file"
        ),
    ))
}

/// Whether host and port are this machine by name or address.
fn is_here(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let loopback = address
        .parse()
        .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    loopback || name == "localhost" || name.ends_with(".localhost")
}

/// Compares in a time that depends on the lengths only, so that a token can not be found byte by byte.
fn same(given: &[u8], token: &[u8]) -> bool {
    let difference = given
        .iter()
        .zip(token)
        .fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    given.len() == token.len() && difference == 0
}

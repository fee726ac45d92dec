//! Which call goes where: one line an endpoint. Methods, the token, blocking threads, panics and the 404 are seen to here, once for all.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use warp::filters::BoxedFilter;
use warp::http::Method;
use warp::http::header::{AUTHORIZATION, HOST, HeaderMap};
use warp::hyper::body::Bytes;
use warp::path::FullPath;
use warp::reply::Response;
use warp::{Filter, Rejection, Reply, path};

use super::body::{self, Sent};
use super::endpoints::{self, Call, Endpoint, Handler};
use super::params::Segment;
use super::patience::Line;
use super::problem::{Kind, Problem};
use super::{Front, assets, events, prometheus};

/// Calls that work at a time; more wait. Each may hold a thread and some 60 MB: a window of a million samples, and an answer
/// of a million points as columns and as JSON.
const CALLS_AT_ONCE: usize = 16;
/// Probes that look at the store at a time: they wait for its locks, and one of them is held while the disk is written to.
const PROBES_AT_ONCE: usize = 4;
/// How long the store has to say how it is. A disk may take a second for an fsync; one that takes longer than this hangs.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// Longest body of a call: a form eight times the longest query, a patch five times what all labels take.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Whether a call needs the token, if there is one.
#[derive(Clone, Copy)]
enum Access {
    Token,
    Everybody,
}
use Access::{Everybody, Token};

/// The whole HTTP surface as a filter that answers every call.
pub fn routes(front: Arc<Front>) -> BoxedFilter<(Response,)> {
    let none = || Segment::default();
    let r = Router(Arc::new(Desk {
        front,
        calls: Arc::new(Semaphore::new(CALLS_AT_ONCE)),
        probes: Arc::new(Semaphore::new(PROBES_AT_ONCE)),
    }));
    let all = [
        r.get(
            Token,
            path!("api" / "v1" / "devices").map(none),
            Handler::Store(endpoints::devices),
        ),
        r.get_or_change(
            path!("api" / "v1" / "devices" / Segment),
            Handler::Store(endpoints::device),
            Handler::Store(endpoints::patch),
            Handler::Store(endpoints::forget),
        ),
        r.get(
            Token,
            path!("api" / "v1" / "devices" / Segment / "metrics"),
            Handler::Store(endpoints::metrics),
        ),
        r.get(
            Token,
            path!("api" / "v1" / "devices" / Segment / "latest"),
            Handler::Store(endpoints::latest),
        ),
        r.get(
            Token,
            path!("api" / "v1" / "devices" / Segment / "series"),
            Handler::Store(endpoints::series),
        ),
        r.get(
            Token,
            path!("api" / "v1" / "latest").map(none),
            Handler::Store(endpoints::fleet_latest),
        ),
        r.get(
            Token,
            path!("api" / "v1" / "events").map(none),
            Handler::Stream(events::stream),
        ),
        r.get(
            Token,
            path!("api" / "v1" / "status").map(none),
            Handler::Store(endpoints::status),
        ),
        r.get(
            Token,
            path!("api" / "v1" / "dead-letters").map(none),
            Handler::Store(endpoints::dead_letters),
        ),
        r.get(
            Token,
            path!("api" / "v1" / "dead-letters" / Segment),
            Handler::Store(endpoints::dead_letter),
        ),
        r.get(
            Everybody,
            path!("livez").map(none),
            Handler::Page(endpoints::livez),
        ),
        r.get(
            Everybody,
            path!("readyz").map(none),
            Handler::Probe(endpoints::readyz),
        ),
        r.get(
            Token,
            path!("metrics").map(none),
            Handler::Probe(prometheus::own),
        ),
        r.get(
            Token,
            path!("metrics" / "devices").map(none),
            Handler::Store(prometheus::devices),
        ),
        r.get_or_post(
            path!("prometheus" / "api" / "v1" / "query").map(none),
            Handler::Store(prometheus::query::instant),
        ),
        r.get_or_post(
            path!("prometheus" / "api" / "v1" / "query_range").map(none),
            Handler::Store(prometheus::query::range),
        ),
        r.get_or_post(
            path!("prometheus" / "api" / "v1" / "series").map(none),
            Handler::Store(prometheus::query::series),
        ),
        r.get_or_post(
            path!("prometheus" / "api" / "v1" / "labels").map(none),
            Handler::Store(prometheus::query::labels),
        ),
        r.get(
            Token,
            path!("prometheus" / "api" / "v1" / "label" / Segment / "values"),
            Handler::Store(prometheus::query::label_values),
        ),
        r.get(
            Token,
            path!("prometheus" / "api" / "v1" / "metadata").map(none),
            Handler::Store(prometheus::query::metadata),
        ),
        r.get(
            Token,
            path!("prometheus" / "api" / "v1" / "status" / "buildinfo").map(none),
            Handler::Store(prometheus::query::build_info),
        ),
        r.get(
            Everybody,
            warp::path::end().map(none),
            Handler::Page(assets::index),
        ),
        r.get(
            Everybody,
            path!("assets" / Segment),
            Handler::Page(assets::file),
        ),
        // Below /api nobody learns without the token what is there and what is not.
        r.get(
            Token,
            warp::path("api")
                .and(warp::path::tail())
                .map(|_| Segment::default()),
            Handler::Nothing,
        ),
        r.get(
            Token,
            warp::path("prometheus")
                .and(warp::path::tail())
                .map(|_| Segment::default()),
            Handler::Nothing,
        ),
        r.get(Everybody, warp::any().map(none), Handler::Nothing),
    ];
    let any = all.into_iter().reduce(|a, b| a.or(b).unify().boxed());
    any.unwrap_or_else(|| unreachable!("the list above is not empty"))
}

/// What is done with a call of one path.
#[derive(Clone, Copy)]
struct Route {
    access: Access,
    get: Handler,
    patch: Option<Handler>,
    delete: Option<Handler>,
    /// A POST asks the same as a GET, with a form for the query string.
    post: bool,
}

impl Route {
    /// The function for a call.
    fn handler(&self, call: &Call, front: &Front) -> Result<Handler, Problem> {
        let reads = call.method == Method::GET || call.method == Method::HEAD;
        let reads = reads || self.post && call.method == Method::POST;
        // A route that is not there has no methods either.
        if reads || matches!(self.get, Handler::Nothing) {
            return Ok(self.get);
        }
        let change = match call.method {
            Method::PATCH => self.patch,
            Method::DELETE => self.delete,
            _ => None,
        };
        let Some(change) = change else {
            let possible = if self.patch.is_some() || self.delete.is_some() {
                "GET, HEAD, PATCH, DELETE"
            } else if self.post {
                "GET, HEAD, POST"
            } else {
                "GET, HEAD"
            };
            let detail = format!("{} is not possible here; {possible} are", call.method);
            return Err(Problem::new(Kind::MethodNotAllowed(possible), detail));
        };
        // Whoever may sit at this machine may look; to change or take away, one must have been trusted.
        if front.token.is_none() {
            return Err(Problem::new(
                Kind::Forbidden,
                "a device is changed or forgotten only for the holder of a token: set api_token_file, and send the token",
            ));
        }
        Ok(change)
    }
}

/// What all routes share.
struct Desk {
    front: Arc<Front>,
    calls: Arc<Semaphore>,
    probes: Arc<Semaphore>,
}

struct Router(Arc<Desk>);

impl Router {
    fn get<P>(&self, access: Access, path: P, get: Handler) -> BoxedFilter<(Response,)>
    where
        P: Filter<Extract = (Segment,)> + Clone + Send + Sync + 'static,
        P::Error: Into<Rejection>,
    {
        self.route(
            path,
            Route {
                access,
                get,
                patch: None,
                delete: None,
                post: false,
            },
        )
    }

    /// A question that may be too long for a URL.
    fn get_or_post<P>(&self, path: P, get: Handler) -> BoxedFilter<(Response,)>
    where
        P: Filter<Extract = (Segment,)> + Clone + Send + Sync + 'static,
        P::Error: Into<Rejection>,
    {
        let route = Route {
            access: Token,
            get,
            patch: None,
            delete: None,
            post: true,
        };
        self.route(path, route)
    }

    /// What changes something needs the token, and that there is one.
    fn get_or_change<P>(
        &self,
        path: P,
        get: Handler,
        patch: Handler,
        delete: Handler,
    ) -> BoxedFilter<(Response,)>
    where
        P: Filter<Extract = (Segment,)> + Clone + Send + Sync + 'static,
        P::Error: Into<Rejection>,
    {
        let access = Token;
        self.route(
            path,
            Route {
                access,
                get,
                patch: Some(patch),
                delete: Some(delete),
                post: false,
            },
        )
    }

    fn route<P>(&self, path: P, route: Route) -> BoxedFilter<(Response,)>
    where
        P: Filter<Extract = (Segment,)> + Clone + Send + Sync + 'static,
        P::Error: Into<Rejection>,
    {
        let desk = self.0.clone();
        path.boxed()
            .and(call())
            .and(warp::body::stream())
            .then(move |segment, call, body| answer(desk.clone(), route, segment, call, body))
            .boxed()
    }
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

async fn answer(
    desk: Arc<Desk>,
    route: Route,
    segment: Segment,
    call: Call,
    body: impl Sent,
) -> Response {
    let path = call.path.clone();
    let began = Instant::now();
    // For HEAD, hyper sends the headers of this answer, its length included, and leaves the body out.
    let response = match work(&desk, route, segment, call, body).await {
        Ok(response) => response,
        Err(problem) => problem.response(&path).into_response(),
    };
    if let Ok(api) = desk.front.api() {
        let took = began.elapsed();
        api.requests.count(response.status().as_u16(), took);
    }
    response
}

async fn work(
    desk: &Desk,
    route: Route,
    segment: Segment,
    mut call: Call,
    body: impl Sent,
) -> Result<Response, Problem> {
    match (route.access, &desk.front.token) {
        (Everybody, _) => {}
        (Token, Some(token)) => authorize(&call.headers, token)?,
        (Token, None) => check_host(&call.headers)?,
    }
    let handler = route.handler(&call, &desk.front)?;
    // A route that is not there has no methods either.
    if let Handler::Nothing = handler {
        let detail = format!("there is nothing at {}", call.path);
        return Err(Problem::new(Kind::NotFound, detail));
    }
    if call.method == Method::PATCH {
        body::check_type(
            &call.headers,
            &["application/merge-patch+json", "application/json"],
        )?;
        call.body = body::read(&call.headers, body, MAX_BODY_BYTES).await?;
    } else if route.post && call.method == Method::POST {
        let form = body::form(&call.headers, body, MAX_BODY_BYTES).await?;
        call.query = format!("{}&{form}", call.query);
    }
    let whole = match handler {
        Handler::Stream(stream) => return stream(desk.front.api()?, &call),
        Handler::Store(endpoint) => ask(&desk.front, &desk.calls, endpoint, segment, call).await,
        Handler::Probe(endpoint) => {
            let asked = ask(&desk.front, &desk.probes, endpoint, segment, call);
            tokio::time::timeout(PROBE_PATIENCE, asked).await.unwrap_or_else(|_| {
                let patience_s = PROBE_PATIENCE.as_secs();
                let detail = format!("the store has not said for {patience_s} s how it is: its disk is busy, or hangs");
                Err(Problem::new(Kind::NotReady, detail))
            })
        }
        Handler::Page(page) => page(&call, &segment),
        Handler::Nothing => unreachable!("answered above"),
    };
    whole.map(Reply::into_response)
}

/// Asks the store on a thread that may block.
async fn ask(
    front: &Arc<Front>,
    permits: &Arc<Semaphore>,
    endpoint: Endpoint,
    segment: Segment,
    call: Call,
) -> Result<super::reply::Response, Problem> {
    front.api()?;
    let path = call.path.clone();
    let permit = permits.clone().acquire_owned().await;
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
    let name = match text.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => text.as_str(),
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let loopback = address
        .parse()
        .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    if loopback || name == "localhost" || name.ends_with(".localhost") {
        return Ok(());
    }
    Err(Problem::new(
        Kind::Misdirected,
        format!(
            "without a token the API answers to localhost only, not to {name:?}; set api_token_file to be reached by other names"
        ),
    ))
}

/// Compares in a time that depends on the lengths only, so that a token can not be found byte by byte.
fn same(given: &[u8], token: &[u8]) -> bool {
    let difference = given
        .iter()
        .zip(token)
        .fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    given.len() == token.len() && difference == 0
}

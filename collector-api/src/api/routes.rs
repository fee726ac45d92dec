//! Which call goes where: one line an endpoint. Methods, the token, blocking threads, panics and the 404 are seen to here, once for all.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::Semaphore;
use warp::filters::BoxedFilter;
use warp::http::Method;
use warp::http::header::{AUTHORIZATION, HOST, HeaderMap};
use warp::hyper::body::Bytes;
use warp::path::FullPath;
use warp::{Filter, Rejection, path};

use super::endpoints::{self, Call, Handler};
use super::params::Segment;
use super::problem::{Kind, Problem};
use super::reply::Response;
use super::{Api, assets};

/// Calls that work at a time; more wait. Each may hold a thread and some 60 MB: a window of a million samples, and an answer
/// of a million points as columns and as JSON.
const CALLS_AT_ONCE: usize = 16;

/// Whether a call needs the token, if there is one.
#[derive(Clone, Copy)]
enum Access {
    Token,
    Everybody,
}
use Access::{Everybody, Token};

/// The whole HTTP surface as a filter that answers every call.
pub fn routes(api: Arc<Api>) -> BoxedFilter<(warp::http::Response<Bytes>,)> {
    let none = || Segment::default();
    let r = Router {
        api,
        permits: Arc::new(Semaphore::new(CALLS_AT_ONCE)),
    };
    let all = [
        r.get(
            Token,
            path!("api" / "v1" / "devices").map(none),
            endpoints::devices,
        ),
        r.get_or_delete(
            path!("api" / "v1" / "devices" / Segment),
            endpoints::device,
            endpoints::forget,
        ),
        r.get(
            Token,
            path!("api" / "v1" / "devices" / Segment / "metrics"),
            endpoints::metrics,
        ),
        r.get(
            Token,
            path!("api" / "v1" / "devices" / Segment / "latest"),
            endpoints::latest,
        ),
        r.get(
            Token,
            path!("api" / "v1" / "devices" / Segment / "series"),
            endpoints::series,
        ),
        r.get(
            Token,
            path!("api" / "v1" / "latest").map(none),
            endpoints::fleet_latest,
        ),
        r.get(
            Token,
            path!("api" / "v1" / "status").map(none),
            endpoints::status,
        ),
        r.get(
            Token,
            path!("api" / "v1" / "dead-letters").map(none),
            endpoints::dead_letters,
        ),
        r.get(
            Token,
            path!("api" / "v1" / "dead-letters" / Segment),
            endpoints::dead_letter,
        ),
        r.get(Everybody, path!("livez").map(none), endpoints::livez),
        r.get(Everybody, path!("readyz").map(none), endpoints::readyz),
        r.get(Everybody, warp::path::end().map(none), assets::index),
        r.get(Everybody, path!("assets" / Segment), assets::file),
        // Below /api nobody learns without the token what is there and what is not.
        r.get(
            Token,
            warp::path("api")
                .and(warp::path::tail())
                .map(|_| Segment::default()),
            no_route,
        ),
        r.get(Everybody, warp::any().map(none), no_route),
    ];
    let any = all.into_iter().reduce(|a, b| a.or(b).unify().boxed());
    any.unwrap_or_else(|| unreachable!("the list above is not empty"))
}

/// What is done with a call of one path.
#[derive(Clone, Copy)]
struct Route {
    access: Access,
    get: Handler,
    delete: Option<Handler>,
}

impl Route {
    /// The function for a call.
    fn handler(&self, call: &Call, api: &Api) -> Result<Handler, Problem> {
        let reads = call.method == Method::GET || call.method == Method::HEAD;
        // A route that is not there has no methods either.
        if reads || std::ptr::fn_addr_eq(self.get, no_route as Handler) {
            return Ok(self.get);
        }
        match self.delete {
            Some(delete) if call.method == Method::DELETE => {
                // Whoever may sit at this machine may look; to take away, one must have been trusted.
                if api.token.is_none() {
                    return Err(Problem::new(
                        Kind::Forbidden,
                        "a device is forgotten only for the holder of a token: set api_token_file, and send the token",
                    ));
                }
                Ok(delete)
            }
            delete => {
                let possible = if delete.is_some() {
                    "GET, HEAD, DELETE"
                } else {
                    "GET, HEAD"
                };
                let detail = format!("{} is not possible here; {possible} are", call.method);
                Err(Problem::new(Kind::MethodNotAllowed(possible), detail))
            }
        }
    }
}

struct Router {
    api: Arc<Api>,
    permits: Arc<Semaphore>,
}

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
                delete: None,
            },
        )
    }

    /// What changes something needs the token, and that there is one.
    fn get_or_delete<P>(&self, path: P, get: Handler, delete: Handler) -> BoxedFilter<(Response,)>
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
                delete: Some(delete),
            },
        )
    }

    fn route<P>(&self, path: P, route: Route) -> BoxedFilter<(Response,)>
    where
        P: Filter<Extract = (Segment,)> + Clone + Send + Sync + 'static,
        P::Error: Into<Rejection>,
    {
        let (api, permits) = (self.api.clone(), self.permits.clone());
        path.boxed()
            .and(call())
            .then(move |segment, call| answer(api.clone(), permits.clone(), route, segment, call))
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
        .map(
            |method: Method, path: FullPath, query: String, headers: HeaderMap| Call {
                method,
                path: path.as_str().to_owned(),
                query,
                headers,
            },
        )
}

async fn answer(
    api: Arc<Api>,
    permits: Arc<Semaphore>,
    route: Route,
    segment: Segment,
    call: Call,
) -> Response {
    let path = call.path.clone();
    // For HEAD, hyper sends the headers of this answer, its length included, and leaves the body out.
    match work(api, permits, route, segment, call).await {
        Ok(response) => response,
        Err(problem) => problem.response(&path),
    }
}

async fn work(
    api: Arc<Api>,
    permits: Arc<Semaphore>,
    route: Route,
    segment: Segment,
    call: Call,
) -> Result<Response, Problem> {
    match (route.access, &api.token) {
        (Everybody, _) => {}
        (Token, Some(token)) => authorize(&call.headers, token)?,
        (Token, None) => check_host(&call.headers)?,
    }
    let handler = route.handler(&call, &api)?;
    let path = call.path.clone();
    let permit = permits.acquire_owned().await;
    let work = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        handler(&api, &call, &segment)
    });
    work.await.unwrap_or_else(|error| {
        tracing::error!(path, %error, "an endpoint failed; this is a defect");
        Err(Problem::new(
            Kind::Internal,
            "a defect of the collector; its log has the cause",
        ))
    })
}

fn no_route(_: &Api, call: &Call, _: &Segment) -> Result<Response, Problem> {
    Err(Problem::new(
        Kind::NotFound,
        format!("there is nothing at {}", call.path),
    ))
}

fn authorize(headers: &HeaderMap, token: &str) -> Result<(), Problem> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Err(Problem::new(
            Kind::Unauthorized,
            "send the header Authorization: Bearer <token>",
        ));
    };
    let (scheme, given) = value.as_bytes().split_at(value.len().min("Bearer ".len()));
    if scheme.eq_ignore_ascii_case(b"Bearer ") && same(given.trim_ascii(), token.as_bytes()) {
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

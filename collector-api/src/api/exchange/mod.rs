//! What every call goes through whatever its route is, on its way in and out: one place, so that no endpoint has to think of it.
//!
//! In: an id ([`request_id`]), a word to whom has no place ([`Refusal`]), bounds on the head ([`limits`]), preflights of browsers ([`cors`]). Out: an error always as a problem
//! document, a form that the caller takes, an `ETag` and the answer 304 ([`conditional`]), compression ([`coding`]), what other origins may read. An answer whose length is
//! not known beforehand is a stream: it stays one, has an `ETag` only if its endpoint made one, and is gzip at best.
//!
//! Left to others: methods, the token, bodies and the route (`routes`), connections and their timeouts (`server`).

mod coding;
mod conditional;
pub(super) mod cors;
pub(super) mod limits;
pub(super) mod request_id;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use http_body_util::{BodyExt as _, Either, Full};
use hyper::Request;
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use tokio::sync::Semaphore;
use tracing::Instrument as _;
use warp::http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, VARY};
use warp::http::{HeaderValue, Method, Response, StatusCode};
use warp::hyper::body::Bytes;

use super::Front;
use super::accept;
use super::problem::{Kind, Problem};
use coding::CodedStream;
use cors::Origins;
use request_id::RequestId;

/// Large answers that are compressed at a time; each takes a thread and some MB. More wait.
const CODERS: usize = 4;
/// What is answered on a connection that has no place: who asks these decides whether the collector lives.
const PROBES: [&str; 2] = ["/livez", "/readyz"];

/// A whole body, or a stream.
pub(super) type Sent<B> = Either<Full<Bytes>, Either<B, CodedStream<B>>>;

/// Why a connection gets no answers.
#[derive(Debug, Clone)]
pub(super) struct Refusal(pub(super) Problem);

/// What all calls go through.
pub(super) struct Exchange {
    front: Arc<Front>,
    origins: Origins,
    coders: Arc<Semaphore>,
}

/// What of a call the answer depends on after its route has taken the rest.
struct Asked {
    method: Method,
    path: String,
    headers: HeaderMap,
}

impl Asked {
    /// Asks for something and changes nothing.
    fn reads(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }
}

impl Exchange {
    pub(super) fn new(front: Arc<Front>, origins: Origins) -> Self {
        let coders = Arc::new(Semaphore::new(CODERS));
        Self {
            front,
            origins,
            coders,
        }
    }

    /// Answers a call; `routes` knows what there is. On a connection that is refused, probes only.
    pub(super) async fn answer<S, B>(
        &self,
        mut call: Request<Incoming>,
        refused: Option<&Refusal>,
        routes: &S,
    ) -> Result<Response<Sent<B>>, Infallible>
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        B: Body<Data = Bytes> + Unpin,
    {
        let began = Instant::now();
        let id = RequestId::of(call.headers());
        call.headers_mut().insert(request_id::NAME, id.header());
        let asked = Asked {
            method: call.method().clone(),
            path: call.uri().path().to_owned(),
            headers: call.headers().clone(),
        };
        let span = tracing::info_span!("call", request_id = %id);
        let work = async {
            let mut answer = self.work(&asked, call, refused, routes).await;
            self.origins.allow(&asked.headers, answer.headers_mut());
            let headers = answer.headers_mut();
            headers.insert(request_id::NAME, id.header());
            if refused.is_some() {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            // Here, for here alone is known what the caller gets: 304, 406 and what is refused before its route are made after or before `routes`.
            if let Ok(api) = self.front.api() {
                api.requests
                    .count(answer.status().as_u16(), began.elapsed());
            }
            tracing::debug!(
                method = %asked.method, path = asked.path, status = answer.status().as_u16(), took_us = began.elapsed().as_micros() as u64, "answered"
            );
            answer
        };
        Ok(request_id::during(id.clone(), work).instrument(span).await)
    }

    async fn work<S, B>(
        &self,
        asked: &Asked,
        call: Request<Incoming>,
        refused: Option<&Refusal>,
        routes: &S,
    ) -> Response<Sent<B>>
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        B: Body<Data = Bytes> + Unpin,
    {
        if let Some(preflight) = self.origins.preflight(asked) {
            return preflight.map(whole);
        }
        let problem = match refused {
            Some(Refusal(problem)) if !PROBES.contains(&asked.path.as_str()) => {
                Some(problem.clone())
            }
            _ => limits::check(&call).err(),
        };
        if let Some(problem) = problem {
            return problem.response(&asked.path).map(whole);
        }
        let Ok(mut answer) = routes.call(call).await;
        if let Err(problem) = is_accepted(asked, &answer) {
            return problem.response(&asked.path).map(whole);
        }
        let codes = coding::is_compressible(answer.headers());
        if codes {
            vary(answer.headers_mut(), "accept-encoding");
        }
        if answer.body().size_hint().exact().is_none() {
            if let Some(unchanged) = conditional::unchanged(asked, &answer) {
                return unchanged.map(whole);
            }
            if codes && coding::takes_gzip(&asked.headers) {
                coding::mark(answer.headers_mut(), coding::Coding::Gzip);
                return answer.map(|body| Either::Right(Either::Right(CodedStream::new(body))));
            }
            return answer.map(|body| Either::Right(Either::Left(body)));
        }
        let (parts, body) = answer.into_parts();
        let Ok(body) = body.collect().await.map(|body| body.to_bytes()) else {
            // A body of known length is in memory already.
            let problem = Problem::new(Kind::Internal, "the answer broke off");
            return problem.response(&asked.path).map(whole);
        };
        let answer = as_problem(Response::from_parts(parts, body), &asked.path);
        let answer = conditional::check(asked, answer);
        self.code(asked, answer, codes).await.map(whole)
    }

    /// Compresses an answer for whom that is good.
    async fn code(
        &self,
        asked: &Asked,
        mut answer: Response<Bytes>,
        codes: bool,
    ) -> Response<Bytes> {
        if !codes || answer.status() == StatusCode::NOT_MODIFIED {
            return answer;
        }
        let Some(coding) = coding::choose(&asked.headers, answer.body().len()) else {
            return answer;
        };
        let plain = answer.body().clone();
        let coded = if plain.len() <= coding::AT_ONCE_BYTES {
            Some(coding.encode(&plain))
        } else {
            // Closed never; its permit comes back when the work ends, wanted or not.
            let permit = self.coders.clone().acquire_owned().await;
            let work = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                coding.encode(&plain)
            });
            work.await.ok()
        };
        if let Some(Ok(coded)) = coded {
            *answer.body_mut() = coded.into();
            coding::mark(answer.headers_mut(), coding);
        }
        answer
    }
}

fn whole<B>(body: impl Into<Bytes>) -> Sent<B> {
    Either::Left(Full::new(body.into()))
}

/// What did not come from an endpoint, such as what the framework says to a call that it can not read, in the form of all errors.
fn as_problem(answer: Response<Bytes>, path: &str) -> Response<Bytes> {
    let status = answer.status();
    let failed = status.is_client_error() || status.is_server_error();
    let kind = answer.headers().get(CONTENT_TYPE);
    let plain = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    // Prometheus has errors of its own.
    if !failed || !plain || path.starts_with("/prometheus/") {
        return answer;
    }
    let detail = String::from_utf8_lossy(answer.body()).into_owned();
    let kind = match status {
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::PAYLOAD_TOO_LARGE => Kind::BodyTooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Kind::UnsupportedMediaType,
        _ if status.is_client_error() => Kind::InvalidParameter,
        _ => Kind::Internal,
    };
    Problem::new(kind, detail).response(path)
}

/// 406 for a form that the caller does not take. Below `/api` only: what is for browsers, probes and Prometheus goes out in the form that these know.
fn is_accepted<B>(asked: &Asked, answer: &Response<B>) -> Result<(), Problem> {
    let good = answer.status() == StatusCode::OK && asked.reads();
    let form = answer.headers().get(CONTENT_TYPE);
    let form = form.and_then(|form| form.to_str().ok());
    let form = form.and_then(|form| form.split(';').next());
    match form {
        Some(form @ ("application/json" | "text/csv"))
            if good && asked.path.starts_with("/api/") && !accept::takes(&asked.headers, form) =>
        {
            let detail =
                format!("this is answered as {form}, which the Accept header does not take");
            Err(Problem::new(Kind::NotAcceptable, detail))
        }
        _ => Ok(()),
    }
}

/// Says of what else than the address an answer depends.
pub(super) fn vary(headers: &mut HeaderMap, on: &'static str) {
    add(headers, VARY, on);
}

fn add(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    let old = headers.get(&name).and_then(|old| old.to_str().ok());
    let known = |old: &str| old.split(',').any(|v| v.trim().eq_ignore_ascii_case(value));
    let new = match old {
        Some(old) if known(old) => return,
        Some(old) => HeaderValue::try_from(format!("{old}, {value}")),
        None => Ok(HeaderValue::from_static(value)),
    };
    if let Ok(new) = new {
        headers.insert(name, new);
    }
}

//! Every error as `application/problem+json` (RFC 9457): the list of `docs/rest-api.md`, closed.

use schemars::JsonSchema;
use serde::Serialize;
use warp::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::http::{HeaderValue, StatusCode};

use super::exchange::request_id::RequestId;
use super::reply::{Response, respond};
use crate::query::QueryError;
use crate::store::engine::StoreError;

/// What all types begin with.
pub(super) const TYPES: &str = "https://devmon.invalid/problems/";
/// When to ask again, in seconds: a store opens within seconds, mostly, and connections come free.
const RETRY_AFTER_S: &str = "2";
/// Most parameters that are called wrong in one answer: one that asks so much wrong is no person, and is not helped by more.
pub(super) const MAX_ERRORS: usize = 20;

/// What kind of error: one row of the documented table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    InvalidParameter,
    /// The body is not what it should be.
    Malformed,
    Unauthorized,
    Forbidden,
    NotFound,
    /// With the methods that are.
    MethodNotAllowed(&'static str),
    /// None of the forms that there are is one that is taken.
    NotAcceptable,
    /// The body did not come in time.
    Timeout,
    BodyTooLarge,
    UriTooLong,
    UnsupportedMediaType,
    Misdirected,
    TooManyPoints,
    /// Of one address.
    TooManyConnections,
    HeadersTooLarge,
    /// All connections that there may be are taken, or all memory for long answers is.
    Busy,
    NotReady,
    Internal,
}

impl Kind {
    /// The end of its type, its title, its status.
    pub(super) fn row(self) -> (&'static str, &'static str, StatusCode) {
        match self {
            Self::InvalidParameter => (
                "invalid-parameter",
                "Invalid parameter",
                StatusCode::BAD_REQUEST,
            ),
            Self::Malformed => ("malformed", "Malformed body", StatusCode::BAD_REQUEST),
            Self::Unauthorized => ("unauthorized", "Unauthorized", StatusCode::UNAUTHORIZED),
            Self::Forbidden => ("forbidden", "Forbidden", StatusCode::FORBIDDEN),
            Self::NotFound => ("not-found", "Not found", StatusCode::NOT_FOUND),
            Self::MethodNotAllowed(_) => (
                "method-not-allowed",
                "Method not allowed",
                StatusCode::METHOD_NOT_ALLOWED,
            ),
            Self::NotAcceptable => (
                "not-acceptable",
                "Not acceptable",
                StatusCode::NOT_ACCEPTABLE,
            ),
            Self::Timeout => (
                "request-timeout",
                "Request timeout",
                StatusCode::REQUEST_TIMEOUT,
            ),
            Self::BodyTooLarge => (
                "body-too-large",
                "Body too large",
                StatusCode::PAYLOAD_TOO_LARGE,
            ),
            Self::UriTooLong => ("uri-too-long", "Address too long", StatusCode::URI_TOO_LONG),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                "Unsupported media type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ),
            Self::Misdirected => (
                "misdirected",
                "Misdirected request",
                StatusCode::MISDIRECTED_REQUEST,
            ),
            Self::TooManyPoints => (
                "too-many-points",
                "Too many points",
                StatusCode::UNPROCESSABLE_ENTITY,
            ),
            Self::TooManyConnections => (
                "too-many-connections",
                "Too many connections",
                StatusCode::TOO_MANY_REQUESTS,
            ),
            Self::HeadersTooLarge => (
                "headers-too-large",
                "Headers too large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            ),
            Self::Busy => ("busy", "Busy", StatusCode::SERVICE_UNAVAILABLE),
            Self::NotReady => ("not-ready", "Not ready", StatusCode::SERVICE_UNAVAILABLE),
            Self::Internal => (
                "internal",
                "Internal error",
                StatusCode::INTERNAL_SERVER_ERROR,
            ),
        }
    }
}

/// An error on its way to the caller.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    pub kind: Kind,
    /// For a person.
    pub detail: String,
    /// The parameter at fault and what is wrong with it.
    pub parameter: Option<(String, String)>,
    /// More of them.
    pub more: Vec<(String, String)>,
}

impl Problem {
    /// A problem that no single parameter is to blame for.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            parameter: None,
            more: Vec::new(),
        }
    }

    /// A malformed, unknown or unbounded parameter or path segment.
    pub fn parameter(name: impl Into<String>, detail: impl ToString) -> Self {
        let (name, detail) = (name.into(), detail.to_string());
        Self {
            kind: Kind::InvalidParameter,
            detail: format!("{name}: {detail}"),
            parameter: Some((name, detail)),
            more: Vec::new(),
        }
    }

    /// The parameters at fault, and what is wrong with each.
    pub(super) fn errors(self) -> impl Iterator<Item = (String, String)> {
        self.parameter.into_iter().chain(self.more)
    }

    /// Whether no more parameters are said.
    pub(super) fn is_full(&self) -> bool {
        self.more.len() + 1 >= MAX_ERRORS
    }

    /// Says of the parameters of another one, too, the first [`MAX_ERRORS`] in all.
    pub(super) fn add(&mut self, other: Self) {
        for (name, detail) in other.errors() {
            if self.is_full() {
                return;
            }
            self.detail.push_str(&format!("; {name}: {detail}"));
            self.more.push((name, detail));
        }
    }

    /// Without what it says of some parameters; `None` if that is all.
    pub(super) fn without(self, said: &[String]) -> Option<Self> {
        let others = self.errors().filter(|(name, _)| !said.contains(name));
        let others = others.map(|(name, detail)| Self::parameter(name, detail));
        others.reduce(|mut all, next| {
            all.add(next);
            all
        })
    }

    /// The answer to a call of `instance`, a path.
    #[must_use]
    pub fn response(&self, instance: &str) -> Response {
        let (ending, title, status) = self.kind.row();
        let errors = self
            .parameter
            .iter()
            .chain(&self.more)
            .map(|(parameter, detail)| ParameterError { parameter, detail });
        let id = RequestId::current();
        let document = Document {
            type_: format!("{TYPES}{ending}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            instance,
            request_id: id.as_ref().map(RequestId::as_str),
            errors: errors.collect(),
        };
        let mut response = respond(status, "application/problem+json", &document);
        debug_assert!(response.headers().contains_key(CONTENT_TYPE));
        match self.kind {
            Kind::MethodNotAllowed(possible) => {
                response
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static(possible));
            }
            Kind::Unauthorized => {
                let realm = HeaderValue::from_static("Bearer realm=\"devmon\"");
                response.headers_mut().insert(WWW_AUTHENTICATE, realm);
            }
            Kind::NotReady | Kind::Busy | Kind::TooManyConnections => {
                response
                    .headers_mut()
                    .insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
            }
            _ => {}
        }
        response
    }
}

/// An error (RFC 9457).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct Document<'a> {
    #[serde(rename = "type")]
    #[schemars(schema_with = "super::openapi::problem_type")]
    type_: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ParameterError<'a>>,
}

/// What is wrong with a parameter.
#[derive(Serialize, JsonSchema)]
struct ParameterError<'a> {
    parameter: &'a str,
    detail: &'a str,
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let kind = match &error {
            QueryError::NoDevice(_) | QueryError::NoMetric { .. } | QueryError::NoDeadLetter(_) => {
                Kind::NotFound
            }
            QueryError::TooManyPoints(_) | QueryError::Store(StoreError::TooManySamples { .. }) => {
                Kind::TooManyPoints
            }
            QueryError::TooManyPaths { .. } => return Self::parameter("path", error),
            QueryError::TooManyLabels(_) => return Self::parameter("labels", error),
            QueryError::Store(_) => {
                // Paths and keys of the database are for the log, not for whoever calls.
                tracing::error!(%error, "a question could not be answered");
                return Self::new(
                    Kind::Internal,
                    "the store could not be read; the collector's log has the cause",
                );
            }
        };
        Self::new(kind, error.to_string())
    }
}

//! Every error as `application/problem+json` (RFC 9457): the list of `docs/rest-api.md`, closed.

use serde::Serialize;
use warp::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::http::{HeaderValue, StatusCode};

use super::reply::{Response, respond};
use crate::query::QueryError;
use crate::store::engine::StoreError;

/// When to ask again, in seconds: a store opens within seconds, mostly.
const RETRY_AFTER_S: &str = "2";

/// What kind of error: one row of the documented table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    InvalidParameter,
    Unauthorized,
    Forbidden,
    NotFound,
    /// With the methods that are.
    MethodNotAllowed(&'static str),
    Misdirected,
    TooManyPoints,
    NotReady,
    Internal,
}

impl Kind {
    fn row(self) -> (&'static str, &'static str, StatusCode) {
        match self {
            Self::InvalidParameter => (
                "invalid-parameter",
                "Invalid parameter",
                StatusCode::BAD_REQUEST,
            ),
            Self::Unauthorized => ("unauthorized", "Unauthorized", StatusCode::UNAUTHORIZED),
            Self::Forbidden => ("forbidden", "Forbidden", StatusCode::FORBIDDEN),
            Self::NotFound => ("not-found", "Not found", StatusCode::NOT_FOUND),
            Self::MethodNotAllowed(_) => (
                "method-not-allowed",
                "Method not allowed",
                StatusCode::METHOD_NOT_ALLOWED,
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
}

impl Problem {
    /// A problem that no single parameter is to blame for.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            parameter: None,
        }
    }

    /// A malformed, unknown or unbounded parameter or path segment.
    pub fn parameter(name: impl Into<String>, detail: impl ToString) -> Self {
        let (name, detail) = (name.into(), detail.to_string());
        Self {
            kind: Kind::InvalidParameter,
            detail: format!("{name}: {detail}"),
            parameter: Some((name, detail)),
        }
    }

    /// The answer to a call of `instance`, a path.
    #[must_use]
    pub fn response(&self, instance: &str) -> Response {
        let (ending, title, status) = self.kind.row();
        let errors = self
            .parameter
            .iter()
            .map(|(parameter, detail)| ParameterError { parameter, detail });
        let document = Document {
            type_: format!("https://devmon.invalid/problems/{ending}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            instance,
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
            Kind::NotReady => {
                response
                    .headers_mut()
                    .insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
            }
            _ => {}
        }
        response
    }
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    type_: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ParameterError<'a>>,
}

#[derive(Serialize)]
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

//! Which problems a call may be answered with, and when: what its table says, and what follows from the rest of it.

use super::super::calls::{Access, Form, Operation, Route, Verb};
use super::super::endpoints::Handler;
use super::super::problem::Kind;

/// All kinds, for the schema of a problem.
pub(super) const ALL: [Kind; 18] = [
    Kind::InvalidParameter,
    Kind::Malformed,
    Kind::Unauthorized,
    Kind::Forbidden,
    Kind::NotFound,
    Kind::MethodNotAllowed(""),
    Kind::NotAcceptable,
    Kind::Timeout,
    Kind::BodyTooLarge,
    Kind::UriTooLong,
    Kind::UnsupportedMediaType,
    Kind::Misdirected,
    Kind::TooManyPoints,
    Kind::TooManyConnections,
    Kind::HeadersTooLarge,
    Kind::Busy,
    Kind::NotReady,
    Kind::Internal,
];

/// When it is answered.
pub(super) fn when(kind: Kind) -> &'static str {
    match kind {
        Kind::InvalidParameter => {
            "A parameter or path segment is malformed, unknown, or out of range; errors names all that are, up to 20."
        }
        Kind::Malformed => "The body is not what it should be, or breaks off.",
        Kind::Unauthorized => {
            "A token is configured, and the request carries none, or a wrong one."
        }
        Kind::Forbidden => "The call changes something, and no token is configured.",
        Kind::NotFound => "There is no such thing.",
        Kind::MethodNotAllowed(_) => {
            "The route exists, the method does not; Allow lists what does."
        }
        Kind::NotAcceptable => "The Accept header takes no form of this answer.",
        Kind::Timeout => "The body was not there within 10 s.",
        Kind::BodyTooLarge => "The body is larger than it may be.",
        Kind::UriTooLong => "Path and query have more than 16 KiB.",
        Kind::UnsupportedMediaType => "The body is none of the types that this call takes.",
        Kind::Misdirected => {
            "No token is configured, and the Host is not a loopback name or address, or a web page of elsewhere asks."
        }
        Kind::TooManyPoints => {
            "The answer, or the work for it, would pass a limit; detail says how to narrow it."
        }
        Kind::TooManyConnections => "One address has all connections that it may have.",
        Kind::HeadersTooLarge => "Names and values of the headers have more than 16 KiB.",
        Kind::Busy => {
            "All connections are taken, or all memory for long answers is, or so many queries are at work as may be."
        }
        Kind::NotReady => {
            "The store is being opened (detail says how far it is), messages are not taken in, or there are as many clients of events as there may be."
        }
        Kind::Internal => "A defect; the log has the cause.",
    }
}

/// What header it comes with.
pub(super) fn header(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::MethodNotAllowed(_) => Some("Allow"),
        Kind::Unauthorized => Some("WWW-Authenticate"),
        Kind::NotReady | Kind::Busy | Kind::TooManyConnections => Some("Retry-After"),
        _ => None,
    }
}

/// All that a call may be answered with, by status.
pub(super) fn of(route: &Route, call: &Operation) -> Vec<Kind> {
    let mut kinds = call.problems.to_vec();
    if route.access == Access::Token {
        kinds.extend([Kind::Unauthorized, Kind::Misdirected]);
    }
    if call.verb == Verb::Post || call.body.is_some() {
        kinds.extend([
            Kind::Malformed,
            Kind::Timeout,
            Kind::BodyTooLarge,
            Kind::UnsupportedMediaType,
        ]);
    }
    let forms = || call.answers.iter().flat_map(|answer| answer.forms);
    let negotiable = |(media, _): &Form| *media == "application/json" || *media == "text/csv";
    if call.verb == Verb::Get && route.path.starts_with("/api/") && forms().any(negotiable) {
        kinds.push(Kind::NotAcceptable);
    }
    match call.handler {
        Handler::Store(_) | Handler::Large(_) | Handler::Query(_) | Handler::Probe(_) => {
            kinds.extend([Kind::NotReady, Kind::Internal])
        }
        Handler::Stream(_) => kinds.push(Kind::NotReady),
        Handler::Page(_) | Handler::Nothing => {}
    }
    kinds.extend([Kind::UriTooLong, Kind::HeadersTooLarge]);
    // Whether the collector lives is answered where nothing else is.
    if !["/livez", "/readyz"].contains(&route.path) {
        kinds.extend([Kind::TooManyConnections, Kind::Busy]);
    }
    kinds.sort_by_key(|kind| kind.row().2);
    kinds
}

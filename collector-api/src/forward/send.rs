//! One request to one target over HTTP, and what its answer means. Connections are kept and made anew by hyper's client.

use std::time::Duration;

use bytes::Bytes;
use devmon_core::wire::TimestampMs;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{
    CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper::{Method, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::progress::{Dropped, Failure};
use super::settings::Target;

/// Of an answer that is not 2xx, so much is read.
const MAX_ANSWER_BYTES: usize = 16 << 10;
/// And so much of it is shown.
const SHOWN_CHARS: usize = 400;

/// What came of a request.
#[derive(Debug)]
pub(super) enum Answer {
    Taken,
    /// It must not be sent again.
    Refused(Dropped, String),
    /// It is to be sent again, not before so long if the target said so.
    Failed(Failure, String, Option<Duration>),
}

/// Sends to one target.
#[derive(Debug)]
pub(super) struct Sender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    headers: HeaderMap,
    timeout: Duration,
}

impl Sender {
    pub(super) fn new(target: &Target) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(target.timeout));
        let tls = HttpsConnectorBuilder::new().with_tls_config((*target.tls).clone());
        let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
        let mut headers = target.headers.clone();
        for (name, value) in [
            (CONTENT_TYPE, "application/x-protobuf"),
            (CONTENT_ENCODING, "snappy"),
            (
                USER_AGENT,
                concat!("devmon-collector/", env!("CARGO_PKG_VERSION")),
            ),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let version = HeaderValue::from_static("0.1.0"); // of the protocol, as version 1.0 of its specification has it
        headers.insert("x-prometheus-remote-write-version", version);
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            url: target.url.clone(),
            headers,
            timeout: target.timeout,
        }
    }

    pub(super) async fn send(&self, body: Bytes) -> Answer {
        let exchanged = tokio::time::timeout(self.timeout, self.exchange(body)).await;
        match exchanged {
            Ok(Ok((status, retry_after, text))) => judge(status, retry_after, text),
            Ok(Err(error)) => Answer::Failed(Failure::Connection, error, None),
            Err(_) => {
                let text = format!("no answer within {:?}", self.timeout);
                Answer::Failed(Failure::Timeout, text, None)
            }
        }
    }

    async fn exchange(
        &self,
        body: Bytes,
    ) -> Result<(StatusCode, Option<Duration>, String), String> {
        let mut request = hyper::Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = self.headers.clone();
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| chain(&error))?;
        let status = answer.status();
        let retry_after = answer
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| after(value.to_str().ok()?, TimestampMs::now()));
        // Also of a 2xx, so that the connection can be used again. One that is too long, or breaks off, has said its status.
        let text = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect();
        let text = text.await.map(|text| text.to_bytes()).unwrap_or_default();
        Ok((status, retry_after, shown(&text)))
    }
}

fn judge(status: StatusCode, retry_after: Option<Duration>, text: String) -> Answer {
    let text = format!("{status}: {text}");
    match status {
        _ if status.is_success() => Answer::Taken,
        StatusCode::TOO_MANY_REQUESTS => {
            Answer::Failed(Failure::TooManyRequests, text, retry_after)
        }
        _ if status.is_server_error() => Answer::Failed(Failure::ServerError, text, retry_after),
        StatusCode::BAD_REQUEST => Answer::Refused(Dropped::BadRequest, text),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Answer::Refused(Dropped::NotAuthorized, text)
        }
        StatusCode::PAYLOAD_TOO_LARGE => Answer::Refused(Dropped::TooLarge, text),
        _ if status.is_client_error() => Answer::Refused(Dropped::Refused, text),
        _ => Answer::Failed(Failure::Unexpected, text, retry_after),
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
fn after(text: &str, now: TimestampMs) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = OffsetDateTime::parse(text.trim(), &Rfc2822).ok()?;
    let ms = at.unix_timestamp().checked_mul(1000)?.checked_sub(now.0)?;
    Some(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}

/// What a stranger sent, for a log: one line, no control characters.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let plain: String = plain.take(SHOWN_CHARS).collect();
    plain.trim().to_owned()
}

/// An error with its causes, which hyper's own text says nothing of, and what to do where that is known.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut advice = advice(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        advice = advice.or_else(|| self::advice(error));
        cause = error.source();
    }
    if let Some(advice) = advice {
        text.push_str("; ");
        text.push_str(advice);
    }
    text
}

/// What to do where the two sides do not trust each other.
fn advice(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    use rustls::AlertDescription as Alert;
    use rustls::{CertificateError as Bad, Error};
    // An I/O error hides the one that it was made of from `source`; there may be one in another.
    let mut inner = error;
    while let Some(io) = inner.downcast_ref::<std::io::Error>() {
        inner = io.get_ref()?;
    }
    Some(match inner.downcast_ref::<Error>()? {
        Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "the target's certificate is signed by another authority than those that are trusted: name its authority with ca_file"
        }
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "write the name that the target's certificate is made for into url"
        }
        Error::InvalidCertificate(
            Bad::Expired
            | Bad::ExpiredContext { .. }
            | Bad::NotValidYet
            | Bad::NotValidYetContext { .. },
        ) => "look at the dates of the target's certificate, and at this machine's clock",
        // What a server answers to no certificate depends on the server.
        Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::AccessDenied,
        ) => {
            "the target asks for a certificate of ours that it trusts: name one with cert_file and key_file"
        }
        Error::InvalidMessage(_) => {
            "what answers speaks no TLS; look at the port, or write http://"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_said_in_seconds_or_as_a_date() {
        let now = TimestampMs(1_445_412_420_000); // 07:27:00 of that day
        assert_eq!(after(" 120", now), Some(Duration::from_secs(120)));
        assert_eq!(
            after("Wed, 21 Oct 2015 07:28:00 GMT", now),
            Some(Duration::from_secs(60))
        );
        assert_eq!(
            after("Wed, 21 Oct 2015 07:26:00 GMT", now),
            Some(Duration::ZERO)
        );
        assert_eq!(after("soon", now), None);
    }

    #[test]
    fn only_what_may_help_is_sent_again() {
        let of = |status: u16| match judge(status.try_into().unwrap(), None, String::new()) {
            Answer::Taken => "taken",
            Answer::Refused(why, _) => why.as_str(),
            Answer::Failed(why, _, _) => why.as_str(),
        };
        for (status, expected) in [
            (200, "taken"),
            (204, "taken"),
            (301, "unexpected"),
            (400, "bad_request"),
            (403, "not_authorized"),
            (404, "refused"),
            (413, "too_large"),
            (429, "too_many_requests"),
            (500, "server_error"),
            (503, "server_error"),
        ] {
            assert_eq!(of(status), expected, "{status}");
        }
    }

    #[test]
    fn a_strangers_text_is_one_short_line() {
        assert_eq!(shown(b"out of\n\x1b[31morder\r\n"), "out of  [31morder");
        assert_eq!(shown(&[b'x'; 9_000]).len(), SHOWN_CHARS);
    }
}

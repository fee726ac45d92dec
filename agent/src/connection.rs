//! Where the broker is, and what a failed connection means to whoever has to repair it.
//!
//! An address is `mqtt://host[:port]` or `mqtts://host[:port]`; the latter always verifies the broker and shows the device's certificate, and there is no switch for less.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use devmon_core::tls::{AWS_ALPN, CertFiles, TlsError};

/// Default ports (IANA).
const PORT: u16 = 1883;
const TLS_PORT: u16 = 8883;

/// A broker's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttUrl {
    pub tls: bool,
    pub host: String,
    pub port: u16,
}

/// Why a text is no broker address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a broker address ({problem}); write mqtt://host:port or mqtts://host:port"
)]
pub struct UrlError {
    text: String,
    problem: &'static str,
}

impl FromStr for MqttUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let error = |problem| UrlError {
            text: text.to_owned(),
            problem,
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| error("no scheme"))?;
        let tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            _ => return Err(error("unknown scheme")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err(error(
                "names and passwords are not supported, certificates are",
            ));
        }
        // The colons of an IPv6 address stand in brackets.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| error("bad port"))?)
            }
            _ => (rest, if tls { TLS_PORT } else { PORT }),
        };
        if host.is_empty() || host.contains(['/', '?', '#', ' ']) || port == 0 {
            return Err(error("bad host or port"));
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(error("an IPv6 address stands in brackets"));
        }
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for MqttUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl<'de> serde::Deserialize<'de> for MqttUrl {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A broker that can be connected to.
#[derive(Clone)]
pub struct Broker {
    pub host: String,
    pub port: u16,
    pub tls: Option<Arc<rustls::ClientConfig>>,
    files: Option<CertFiles>,
    device: String,
    url: MqttUrl,
    /// What was in the files, to tell whether it changed.
    credentials: Vec<u8>,
}

/// Two are equal if a connection to one is a connection to the other: the same address and the same certificates.
impl PartialEq for Broker {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url && self.credentials == other.credentials
    }
}

impl Broker {
    /// Reads the certificates if the address asks for TLS.
    ///
    /// # Errors
    /// [`TlsError`] naming the file.
    pub fn new(url: &MqttUrl, files: CertFiles, device: &str) -> Result<Self, TlsError> {
        // On 443 AWS IoT Core tells MQTT from HTTPS by ALPN; elsewhere it must not be sent.
        let alpn: &[&[u8]] = if url.port == 443 { &[AWS_ALPN] } else { &[] };
        let tls = if url.tls {
            Some(files.client_config(alpn)?)
        } else {
            None
        };
        let mut credentials = Vec::new();
        for path in [&files.ca, &files.cert, &files.key] {
            if tls.is_some() {
                credentials.extend(std::fs::read(path).unwrap_or_default()); // they were just read
            }
        }
        Ok(Self {
            credentials,
            host: url.host.clone(),
            port: url.port,
            files: tls.is_some().then_some(files),
            tls,
            device: device.to_owned(),
            url: url.clone(),
        })
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// A failed or lost connection, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub text: String,
    pub hint: String,
}

/// A connection that ends sooner than this was ended on purpose by the broker.
const AT_ONCE: Duration = Duration::from_secs(5);

impl Problem {
    /// What to say about an error; `lived` is the age of the connection, if there was one.
    #[must_use]
    pub fn of(error: &dyn std::error::Error, lived: Option<Duration>, broker: &Broker) -> Self {
        let mut text = error.to_string();
        let mut inner = error.source();
        while let Some(e) = inner {
            let said = e.to_string();
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            inner = e.source();
        }
        let hint = broker.hint(&text, lived);
        Self { text, hint }
    }
}

impl Broker {
    fn hint(&self, text: &str, lived: Option<Duration>) -> String {
        let has = |part: &str| text.contains(part);
        let name = |f: fn(&CertFiles) -> &std::path::PathBuf| {
            let files = self.files.as_ref().map(f);
            files.map_or_else(String::new, |p| p.display().to_string())
        };
        if has("UnknownIssuer") || has("invalid peer certificate") && has("BadSignature") {
            let ca = name(|f| &f.ca);
            format!("the broker's certificate is not signed by {ca}: put its CA certificate there")
        } else if has("NotValidForName") || has("not valid for name") {
            format!(
                "the broker's certificate does not name {}: use a host name that it names",
                self.host
            )
        } else if has("xpired") || has("NotValidYet") || has("not valid yet") {
            "the broker's certificate is not valid now: check this device's clock, then the certificate".into()
        } else if has("received fatal alert") {
            format!(
                "the broker refuses {}: register or renew it (AWS IoT Core: is the certificate active and attached to thing {}?)",
                name(|f| &f.cert),
                self.device
            )
        } else if has("NotAuthorized") || has("BadUserNamePassword") {
            format!(
                "the broker does not let {0} in: allow this client (AWS IoT Core: the policy must allow iot:Connect on client/{0})",
                self.device
            )
        } else if has("BadClientId") {
            format!("the broker takes no client called {}", self.device)
        } else if has("onnection refused") {
            format!(
                "nothing listens at {}:{}: is the broker running?",
                self.host, self.port
            )
        } else if has("lookup") || has("Name or service not known") {
            format!(
                "the name {} is not known: check it and the resolver",
                self.host
            )
        } else if has("timeout") || has("timed out") || has("unreachable") {
            "no answer: check the address, the network and firewalls".into()
        } else if has("InvalidMessage") || has("corrupt message") {
            "the broker does not speak TLS on this port: use mqtt:// or its TLS port".into()
        } else if lived.is_some_and(|lived| lived < AT_ONCE) {
            format!(
                "the broker closes the connection at once: may {0} publish on its topics (AWS IoT Core: iot:Publish and iot:RetainPublish in the policy), \
                 and is no other client called {0}?",
                self.device
            )
        } else if lived.is_none() && self.tls.is_none() {
            "the broker closes the connection before it answers: does this port ask for TLS (mqtts://)?".into()
        } else {
            "it is tried again".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_both_ways() {
        for (text, full) in [
            ("mqtt://h", "mqtt://h:1883"),
            ("mqtts://h", "mqtts://h:8883"),
            (
                "mqtts://x.iot.eu-west-1.amazonaws.com:443/",
                "mqtts://x.iot.eu-west-1.amazonaws.com:443",
            ),
            ("mqtt://[::1]:2883", "mqtt://[::1]:2883"),
            ("mqtt://[::1]", "mqtt://[::1]:1883"),
        ] {
            let url: MqttUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), full);
            assert_eq!(full.parse(), Ok(url));
        }
        for bad in [
            "",
            "h:1883",
            "http://h",
            "mqtt://",
            "mqtt://h:x",
            "mqtt://h:0",
            "mqtt://u:p@h",
            "mqtt://::1",
            "mqtt://h/topic",
        ] {
            assert!(bad.parse::<MqttUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hint_says_what_to_do() {
        let broker = Broker {
            credentials: Vec::new(),
            host: "broker".into(),
            port: 8883,
            tls: None,
            files: Some(CertFiles::named("certs".as_ref(), "d1")),
            device: "d1".into(),
            url: "mqtts://broker".parse().unwrap(),
        };
        for (text, part) in [
            (
                "TLS: I/O: invalid peer certificate: UnknownIssuer",
                "certs/root-CA.crt",
            ),
            (
                "I/O: received fatal alert: CertificateUnknown",
                "certs/d1.cert.pem",
            ),
            (
                "Connection refused, return code: `NotAuthorized`",
                "iot:Connect on client/d1",
            ),
            (
                "I/O: Connection refused (os error 111)",
                "is the broker running",
            ),
        ] {
            let hint = broker.hint(text, None);
            assert!(hint.contains(part), "{text}: {hint}");
        }
        let closed = "Mqtt state: Connection closed by peer abruptly";
        let hint = broker.hint(closed, Some(Duration::from_millis(50)));
        assert!(hint.contains("iot:Publish"), "{hint}");
    }
}

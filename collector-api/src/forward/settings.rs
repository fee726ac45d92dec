//! To whom, how, and what: `[[remote_write]]` of the configuration, checked. Whoever holds a [`Target`] can send: the URL is one, files of secrets and certificates were read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use devmon_core::config::DurationText;
use devmon_core::tls;
use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use crate::store::Pattern;

/// A request of so many samples has some 60 KiB; receivers that count requests are content, those that bound them, too.
const MAX_SAMPLES: usize = 5_000;
/// Of a journal with the wire's 30 bytes a sample: an hour of a hundred devices at 100 samples a second.
const MAX_BEHIND_BYTES: u64 = 1 << 30;
const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_DELAY: Duration = Duration::from_secs(1);
/// Most samples that can be asked for in one request: some 10 MiB before compression, as much as receivers take at all.
const MOST_SAMPLES: usize = 100_000;
/// What the protocol itself says; a configuration can not say otherwise.
const OURS: [&str; 6] = [
    "content-type",
    "content-encoding",
    "content-length",
    "host",
    "user-agent",
    "x-prometheus-remote-write-version",
];

/// One `[[remote_write]]` as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    url: String,
    name: Option<String>,
    from: Option<From>,
    bearer_token_file: Option<PathBuf>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    timeout: Option<DurationText>,
    max_samples: Option<usize>,
    max_delay: Option<DurationText>,
    max_behind_bytes: Option<u64>,
    max_sample_age: Option<DurationText>,
    #[serde(default)]
    include: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    external_labels: BTreeMap<String, String>,
}

/// Where forwarding to a new target begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// With what comes next.
    #[default]
    Now,
    /// With the oldest that the journal holds.
    Start,
}

/// Paths that a target wants.
#[derive(Debug, Clone, Default)]
pub(super) struct Chosen {
    /// None: all.
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl Chosen {
    pub(super) fn wants(&self, path: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(path));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

/// Who takes samples.
#[derive(Debug, Clone)]
pub struct Target {
    pub name: String,
    pub url: Uri,
    pub(super) from: From,
    /// Those with secrets do not show them.
    pub(super) headers: HeaderMap,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) timeout: Duration,
    pub(super) max_samples: usize,
    pub(super) max_delay: Duration,
    pub(super) max_behind_bytes: u64,
    /// `None`: all are sent.
    pub(super) max_sample_age: Option<Duration>,
    pub(super) external_labels: Vec<(String, String)>,
    pub(super) chosen: Chosen,
}

impl Target {
    /// Checks what was written, and reads the files that it names.
    ///
    /// # Errors
    /// What is wrong, where within the table, and what to do.
    pub fn new(keys: Keys) -> Result<Self, String> {
        let url = url(&keys.url)?;
        let name = match &keys.name {
            Some(name) => name.clone(),
            None => url
                .authority()
                .map(|a| a.as_str().replace(':', "_"))
                .unwrap_or_default(),
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(legal)
        {
            return Err(format!(
                "name: {name:?} can not name a file; write one of letters, digits, dots, dashes and underscores"
            ));
        }
        let within = |what: &str, n: usize, most: usize| {
            let good = (1..=most).contains(&n);
            good.then_some(n)
                .ok_or_else(|| format!("{what} = {n} has to lie between 1 and {most}"))
        };
        let max_samples = keys.max_samples.unwrap_or(MAX_SAMPLES);
        let timeout = keys.timeout.map_or(TIMEOUT, |timeout| timeout.0);
        if timeout.is_zero() {
            return Err("timeout has to be longer than nothing".to_owned());
        }
        Ok(Self {
            headers: headers(&keys)?,
            tls: client_config(&keys, url.scheme_str() == Some("https"))?,
            external_labels: external_labels(keys.external_labels)?,
            chosen: Chosen {
                include: patterns("include", &keys.include)?,
                exclude: patterns("exclude", &keys.exclude)?,
            },
            name,
            url,
            from: keys.from.unwrap_or_default(),
            timeout,
            max_samples: within("max_samples", max_samples, MOST_SAMPLES)?,
            max_delay: keys.max_delay.map_or(MAX_DELAY, |delay| delay.0),
            max_sample_age: keys.max_sample_age.map(|age| age.0),
            max_behind_bytes: keys.max_behind_bytes.unwrap_or(MAX_BEHIND_BYTES),
        })
    }
}

/// Names tell targets apart, and their cursors.
///
/// # Errors
/// The name that several have, and what to do.
pub fn check_names(targets: &[Target]) -> Result<(), String> {
    let names: Vec<_> = targets.iter().map(|target| &target.name).collect();
    let double = names
        .iter()
        .enumerate()
        .find(|(i, name)| names[..*i].contains(name));
    double.map_or(Ok(()), |(_, name)| {
        Err(format!(
            "several are called {name:?}; give each a name of its own (name = \"…\")"
        ))
    })
}

fn url(text: &str) -> Result<Uri, String> {
    let wrong = |what: &str| {
        format!(
            "url: {what}; write one like http://127.0.0.1:8428/api/v1/write or https://prometheus.example.org/api/v1/write"
        )
    };
    let url: Uri = text.parse().map_err(|_| wrong("it is no URL"))?;
    let (Some("http" | "https"), Some(authority)) = (url.scheme_str(), url.authority()) else {
        return Err(wrong(
            "it does not begin with http:// or https:// and a host",
        ));
    };
    if authority.as_str().contains('@') {
        return Err("url: it holds a user or password, which would be shown in logs; use username and password_file".to_owned());
    }
    Ok(url)
}

fn secret(what: &str, path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        let path = path.display();
        format!("{what}: cannot read {path}: {e}; check that the file exists and that this user may read it")
    })?;
    Ok(text.trim().to_owned())
}

fn headers(keys: &Keys) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &keys.headers {
        if OURS.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(format!(
                "headers: {name} is the protocol's own and can not be set"
            ));
        }
        let parsed: Option<(HeaderName, HeaderValue)> = name.parse().ok().zip(value.parse().ok());
        let Some((name, mut value)) = parsed else {
            return Err(format!(
                "headers: {name:?} and its value can not be sent as a header"
            ));
        };
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    let authorization = match (&keys.bearer_token_file, &keys.username, &keys.password_file) {
        (None, None, None) => return Ok(headers),
        (Some(file), None, None) => format!("Bearer {}", secret("bearer_token_file", file)?),
        (None, Some(user), password) => {
            let password = password
                .as_deref()
                .map(|file| secret("password_file", file));
            let both = format!("{user}:{}", password.transpose()?.unwrap_or_default());
            let coded = base64::engine::general_purpose::STANDARD.encode(both);
            format!("Basic {coded}")
        }
        _ => {
            return Err(
                "bearer_token_file, or username and password_file: one of the two".to_owned(),
            );
        }
    };
    if headers.contains_key(AUTHORIZATION) {
        return Err("headers: Authorization is said twice; leave one out".to_owned());
    }
    let mut value: HeaderValue = authorization
        .parse()
        .map_err(|_| "the token or password holds characters that a header can not".to_owned())?;
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    Ok(headers)
}

fn client_config(keys: &Keys, https: bool) -> Result<Arc<ClientConfig>, String> {
    let files = [&keys.ca_file, &keys.cert_file, &keys.key_file];
    if !https && files.into_iter().any(Option::is_some) {
        return Err("ca_file, cert_file and key_file are of use with https:// only".to_owned());
    }
    let roots = match &keys.ca_file {
        _ if !https => RootCertStore::empty(),
        Some(file) => tls::roots(file).map_err(|e| e.to_string())?,
        None => system_roots()?,
    };
    let identity = match (&keys.cert_file, &keys.key_file) {
        (Some(cert), Some(key)) => Some((cert.as_path(), key.as_path())),
        (None, None) => None,
        _ => return Err("cert_file and key_file belong together: give both".to_owned()),
    };
    tls::https_config(roots, identity).map_err(|e| e.to_string())
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("this system has no certificate authorities; install ca-certificates, or name the one that signed the target's certificate with ca_file".to_owned());
    }
    Ok(roots)
}

fn external_labels(labels: BTreeMap<String, String>) -> Result<Vec<(String, String)>, String> {
    for name in labels.keys() {
        let legal = |(i, c): (usize, char)| {
            c == '_' || c.is_ascii_alphabetic() || (i > 0 && c.is_ascii_digit())
        };
        if name.is_empty() || name.starts_with("__") || !name.chars().enumerate().all(legal) {
            return Err(format!(
                "external_labels: {name:?} is no name of a label; write letters, digits and underscores, a letter first"
            ));
        }
    }
    Ok(labels.into_iter().collect())
}

fn patterns(key: &str, texts: &[String]) -> Result<Vec<Pattern>, String> {
    let parse = |text: &String| text.parse().map_err(|e| format!("{key}: {e}"));
    texts.iter().map(parse).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn target(text: &str) -> Result<Target, String> {
        let keys: Keys =
            devmon_core::config::parse(text, Path::new("x.toml")).map_err(|e| e.to_string())?;
        Target::new(keys)
    }

    #[test]
    fn what_can_not_be_sent_to_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "s3cret\n").unwrap();
        let token = token.display();
        for (text, said) in [
            ("url = 'ftp://x/y'", "http://"),
            ("url = '/api/v1/write'", "http://"),
            ("url = 'http://u:p@x/y'", "username and password_file"),
            ("url = 'http://x/y'\nname = '../x'", "name"),
            ("url = 'http://x/y'\nmax_samples = 0", "max_samples = 0"),
            ("url = 'http://x/y'\ninclude = ['cpu']", "include"),
            ("url = 'http://x/y'\nca_file = '/x'", "https"),
            ("url = 'https://x/y'\nca_file = '/nowhere'", "/nowhere"),
            (
                "url = 'http://x/y'\nbearer_token_file = '/nowhere'",
                "/nowhere",
            ),
            ("url = 'http://x/y'\nheaders = { Host = 'z' }", "Host"),
            ("url = 'http://x/y'\nexternal_labels = { '1a' = 'z' }", "1a"),
            (
                &format!("url = 'http://x/y'\nusername = 'u'\nbearer_token_file = '{token}'"),
                "one of the two",
            ),
        ] {
            let error = target(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        let good = target(&format!(
            "url = 'http://x:1/y'\nbearer_token_file = '{token}'"
        ))
        .unwrap();
        assert_eq!(good.name, "x_1");
        assert_eq!(good.headers[AUTHORIZATION], "Bearer s3cret");
        assert!(!format!("{good:?}").contains("s3cret"));
        assert!(
            check_names(&[good.clone(), good])
                .unwrap_err()
                .contains("x_1")
        );
    }

    #[test]
    fn paths_are_chosen_by_patterns() {
        let all = target("url = 'http://x/y'").unwrap().chosen;
        assert!(all.wants("/cpu/utilization"));
        let some = target(
            "url = 'http://x/y'\ninclude = ['/cpu/**', '/disk/*/used']\nexclude = ['/cpu/core/**']",
        );
        let some = some.unwrap().chosen;
        let wanted = [
            "/cpu/load/1m",
            "/disk/x/used",
            "/cpu/core/0/utilization",
            "/memory/used",
        ];
        assert_eq!(
            wanted.map(|path| some.wants(path)),
            [true, true, false, false]
        );
    }
}

//! One keep-alive HTTP client for all peers, and the time that its answers take.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ureq::Agent;

/// No answer takes longer: counting ten million samples takes InfluxDB some seconds.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Questions whose time is not counted, before those whose time is.
const WARM_UP: usize = 20;

/// A client with a connection of its own, which it keeps.
pub(super) struct Client {
    agent: Agent,
    base: String,
}

impl Client {
    /// `base`: `http://host:port`.
    pub(super) fn new(base: &str) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .build();
        Self {
            agent: config.into(),
            base: base.to_owned(),
        }
    }

    pub(super) fn get(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let url = format!("{}{path}", self.base);
        let answer = self.agent.get(&url).call();
        read(answer.with_context(|| format!("GET {url}"))?)
            .with_context(|| format!("GET {}", shown(&url)))
    }

    pub(super) fn post(&self, path: &str, body: &[u8]) -> anyhow::Result<Vec<u8>> {
        let url = format!("{}{path}", self.base);
        let answer = self.agent.post(&url).send(body);
        read(answer.with_context(|| format!("POST {url}"))?)
            .with_context(|| format!("POST {}", shown(&url)))
    }

    pub(super) fn json(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let body = self.get(path)?;
        serde_json::from_slice(&body)
            .with_context(|| format!("GET {}: the answer is not JSON", shown(path)))
    }

    /// Asks every question once, one after the other, and says how long the answers took to their last byte.
    pub(super) fn latency(&self, questions: &[String]) -> anyhow::Result<Latency> {
        for question in questions.iter().take(WARM_UP) {
            self.get(question)?;
        }
        let mut took = Vec::new();
        for question in questions.iter().skip(WARM_UP) {
            super::stop::check()?;
            let begin = Instant::now();
            self.get(question)?;
            took.push(begin.elapsed());
        }
        took.sort_unstable();
        let at = |part: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an index into a short list"
            )]
            let i = (part * took.len() as f64) as usize;
            took.get(i.min(took.len().saturating_sub(1)))
                .map_or(0.0, |t| t.as_secs_f64() * 1000.0)
        };
        Ok(Latency {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
        })
    }
}

/// How long answers took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latency {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

fn read(mut answer: ureq::http::Response<ureq::Body>) -> anyhow::Result<Vec<u8>> {
    let body = answer
        .body_mut()
        .with_config()
        .limit(u64::MAX)
        .read_to_vec()?;
    if !answer.status().is_success() {
        let text = String::from_utf8_lossy(&body);
        bail!(
            "{}: {}",
            answer.status(),
            text.chars().take(300).collect::<String>()
        );
    }
    Ok(body)
}

fn shown(url: &str) -> String {
    url.chars().take(160).collect()
}

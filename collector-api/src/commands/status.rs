//! `status`: what a store holds, from its directory while no collector runs, or from a running collector over its API.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::{at, print};
use crate::store::{Figures, TierFigures, figures};

const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is read; a real one has a few KiB.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Prints the figures of the store in `dir`.
///
/// # Errors
/// There is none, a collector runs on it, its database does not open.
pub fn of_directory(dir: &Path) -> anyhow::Result<()> {
    let figures = at(dir, figures(dir))?;
    let hours = figures.hours.map_or_else(
        || "none".to_owned(),
        |(first, last)| {
            let end = |hour: u32| crate::api::time::format(i64::from(hour) * 3_600_000);
            format!("{} to {}", end(first), end(last.saturating_add(1)))
        },
    );
    for (name, value) in [
        ("devices", figures.devices.to_string()),
        ("series", figures.series.to_string()),
        ("blocks from", hours),
        ("archive", archive(&figures)),
        ("  samples", tier(&figures.raw_days)),
        ("  1m", tier(&figures.minute_days)),
        ("  1h", tier(&figures.hour_days)),
        ("blocks", figures.blocks.to_string()),
        ("database", bytes(figures.database_bytes)),
        (
            "journal",
            format!(
                "{} in {} segments",
                bytes(figures.journal_bytes),
                figures.journal_segments
            ),
        ),
        ("dead letters", bytes(figures.dead_letters_bytes)),
        ("state", state(&figures)),
    ] {
        print(format_args!("{name:14}{value}"))?;
    }
    Ok(())
}

fn archive(figures: &Figures) -> String {
    let tiers = [figures.raw_days, figures.minute_days, figures.hour_days];
    let files: u64 = tiers.iter().map(|tier| tier.files).sum();
    let size = tiers.iter().map(|tier| tier.bytes).sum();
    format!("{} in {files} day files", bytes(size))
}

/// The days of which the archive keeps this, and nothing finer.
fn tier(tier: &TierFigures) -> String {
    let Some((first, last)) = tier.days else {
        return "none".to_owned();
    };
    let start = |day: u32| crate::api::time::format(i64::from(day) * 86_400_000);
    format!(
        "{} to {}, {} in {} files",
        start(first),
        start(last.saturating_add(1)),
        bytes(tier.bytes),
        tier.files
    )
}

fn state(figures: &Figures) -> String {
    let why: Vec<&str> = figures
        .degraded
        .iter()
        .chain(&figures.unreadable_days)
        .map(String::as_str)
        .collect();
    if why.is_empty() {
        return "ok".to_owned();
    }
    format!("degraded: {}", why.join("; "))
}

/// Asks the collector at `url` and prints its answer, a figure on each line.
///
/// # Errors
/// It does not answer, or refuses.
pub fn of_collector(url: &str, token_file: Option<&Path>) -> anyhow::Result<()> {
    let token = token_file.map(read_token).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime did not start")?;
    let answer = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, ask(url, token.as_deref()))
            .await
            .map_err(|_| anyhow!("{url} has not answered within {} s", PATIENCE.as_secs()))?
    })?;
    let mut lines = Vec::new();
    flatten("", &answer, &mut lines);
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines
        .iter()
        .try_for_each(|(name, value)| print(format_args!("{name:width$}  {value}")))
}

fn read_token(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file);
    let text = text.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

async fn ask(url: &str, token: Option<&str>) -> anyhow::Result<Value> {
    let Some(rest) = url.strip_prefix("http://") else {
        bail!("{url:?}: the collector speaks http; write http://127.0.0.1:8765");
    };
    let host = rest.split('/').next().unwrap_or_default();
    let addr = if host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let stream = tokio::net::TcpStream::connect(&addr).await;
    let stream = stream.with_context(|| format!("no collector answers at {url}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .with_context(|| format!("{url} does not speak HTTP"))?;
    let connection = tokio::spawn(connection);
    let mut request = Request::get("/api/v1/status")
        .header("host", host)
        .header("accept", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = sender
        .send_request(request.body(Empty::<Bytes>::new())?)
        .await
        .with_context(|| format!("{url} broke off"))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
        .collect()
        .await;
    let body = body
        .map_err(|e| anyhow!("{url} broke off: {e}"))?
        .to_bytes();
    connection.abort();
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    let detail = said
        .get("detail")
        .and_then(Value::as_str)
        .unwrap_or("no reason");
    ensure!(
        status.is_success(),
        "{url} refuses with {status}: {detail}{}",
        if status.as_u16() == 401 {
            " (--api-token-file)"
        } else {
            ""
        }
    );
    ensure!(
        said.is_object(),
        "{url} is no collector: its answer is not what one says"
    );
    Ok(said)
}

/// `{"store":{"blocks":12}}` as `store.blocks` and `12`; what is null is left out, and what was never rejected.
fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let name = if prefix.is_empty() {
                    name.clone()
                } else {
                    format!("{prefix}.{name}")
                };
                flatten(&name, value, out);
            }
        }
        Value::Null => {}
        Value::Number(n) if prefix.starts_with("intake.rejected.") && n.as_u64() == Some(0) => {}
        Value::Number(n) if prefix.ends_with("_bytes") => {
            out.push((
                prefix.to_owned(),
                n.as_u64().map_or_else(|| n.to_string(), bytes),
            ));
        }
        Value::Number(n) if prefix == "started" || prefix.starts_with("store.oldest_day") => {
            let text = n
                .as_i64()
                .map_or_else(|| n.to_string(), crate::api::time::format);
            out.push((prefix.to_owned(), text));
        }
        Value::String(text) => out.push((prefix.to_owned(), text.clone())),
        other => out.push((prefix.to_owned(), other.to_string())),
    }
}

/// `1536` as `1.5 KiB`.
fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        return format!("{n} B");
    }
    format!("{value:.1} {}", UNITS[unit])
}

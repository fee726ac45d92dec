//! The agent's UNIX socket: whoever may read its state directory may ask how it does.
//!
//! One request a connection, one line of JSON: `"status"` or `{"retry":"NAME"}`. One JSON document as answer. The socket lies in the state directory, readable and writable for the agent's
//! user only. An agent without a state directory has none.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

const MAX_REQUEST_BYTES: u64 = 4 * 1024;
/// For a client to say what it wants, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// After nobody could be let in.
const PAUSE: Duration = Duration::from_millis(200);
/// Requests that wait for the daemon.
const WAITING: usize = 8;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Status,
    /// Try this source again now, also if it is quarantined; or look at this file again, if it has no source.
    Retry(String),
}

/// A request with where its answer goes.
pub type Asked = (Request, oneshot::Sender<serde_json::Value>);

/// Where the socket of an agent with this state directory lies.
#[must_use]
pub fn path_in(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Listens; requests come out of the channel. Without a socket nothing ever does. The socket of an agent that was killed is taken over; that of a running one is not.
#[must_use]
pub fn listen(state_dir: Option<&Path>) -> mpsc::Receiver<Asked> {
    let (tell, asked) = mpsc::channel(WAITING);
    let Some(state_dir) = state_dir else {
        return asked;
    };
    let path = path_in(state_dir);
    match bind(&path) {
        Ok(listener) => {
            tokio::spawn(async move {
                let mut refused = false;
                loop {
                    match listener.accept().await {
                        Ok((client, _)) => {
                            refused = false;
                            tokio::spawn(tokio::time::timeout(
                                PATIENCE,
                                serve(client, tell.clone()),
                            ));
                        }
                        // Most often there is no descriptor left, which passes; said once.
                        Err(e) => {
                            if !std::mem::replace(&mut refused, true) {
                                warn!(error = %e, "the control socket takes nobody in for now");
                            }
                            tokio::time::sleep(PAUSE).await;
                        }
                    }
                }
            });
        }
        Err(e) => {
            let path = path.display().to_string();
            warn!(path, error = %e, "no control socket: `devmon-agent status` can not reach this agent");
        }
    }
    asked
}

fn bind(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(std::io::Error::other("another agent answers there"));
    }
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve(client: UnixStream, tell: mpsc::Sender<Asked>) -> std::io::Result<()> {
    let (from, mut to) = client.into_split();
    let mut line = String::new();
    let mut from = tokio::io::BufReader::new(from.take(MAX_REQUEST_BYTES));
    from.read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => {
            let (reply, answer) = oneshot::channel();
            let _ = tell.send((request, reply)).await;
            answer.await.unwrap_or_default()
        }
        Err(e) => serde_json::json!({"error": format!("not a request: {e}")}),
    };
    to.write_all(format!("{answer}\n").as_bytes()).await
}

/// Asks the agent with this state directory.
///
/// # Errors
/// For an operator: what to do when no agent answers, or the agent's own words.
pub fn ask(state_dir: Option<&Path>, request: &Request) -> Result<serde_json::Value, String> {
    let Some(state_dir) = state_dir else {
        return Err("there is no state directory: give --state-dir, as the agent has it".into());
    };
    let path = path_in(state_dir);
    let failed = |e: std::io::Error| {
        format!(
            "no agent answers at {} ({e}): is it running, with this --state-dir, and may you read that directory?",
            path.display()
        )
    };
    let stream = std::os::unix::net::UnixStream::connect(&path).map_err(failed)?;
    let asked = (|| {
        stream.set_read_timeout(Some(PATIENCE))?;
        let request = serde_json::to_string(request).map_err(std::io::Error::other)?;
        (&stream).write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        serde_json::from_str::<serde_json::Value>(&line).map_err(std::io::Error::other)
    })();
    let answer = asked.map_err(failed)?;
    match answer.get("error").and_then(|e| e.as_str()) {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer),
    }
}

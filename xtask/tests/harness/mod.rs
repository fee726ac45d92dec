//! The real programs, started as a user starts them, and what a test asks of them. Everything is ended, by pid, when it is dropped.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "each test binary uses a part of it"
)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

pub const DEADLINE: Duration = Duration::from_secs(30);

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Where `cargo build --workspace` has put the programs: two above this test binary (`target/debug/deps/…`).
pub fn bin_dir() -> PathBuf {
    let dir = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    assert!(
        dir.join("devmon-collector").exists(),
        "build first: cargo build --workspace"
    );
    dir
}

/// Asks again and again until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

pub struct Program {
    child: Child,
    /// The line that began with `ready`.
    pub ready: String,
}

impl Program {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdout = child.stdout.take().unwrap();
        let (say, heard) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("ready") {
                    let _ = say.send(line);
                }
            }
        });
        match heard.recv_timeout(DEADLINE) {
            Ok(ready) => Self { child, ready },
            Err(_) => {
                let _ = child.kill();
                panic!("{command:?} was not ready: {:?}", child.wait());
            }
        }
    }

    /// `http=` of the ready line, and its like.
    pub fn named(&self, key: &str) -> String {
        let found = self
            .ready
            .split_whitespace()
            .find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
        found
            .unwrap_or_else(|| panic!("no {key} in {:?}", self.ready))
            .to_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; returns the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        assert!(
            Command::new("kill")
                .args(["-TERM", &self.pid().to_string()])
                .status()
                .unwrap()
                .success()
        );
        wait_for("end after SIGTERM", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn collector(data: &Path, args: &[&str]) -> Program {
    let mut command = Command::new(bin_dir().join("devmon-collector"));
    command
        .arg("run")
        .arg("--data-dir")
        .arg(data)
        .args(["--http", "127.0.0.1:0"])
        .args(args);
    command
        .env_remove("AWS_IOT_ENDPOINT")
        .env_remove("DEVICE_NAME");
    Program::start(command)
}

/// The plugin directory of a small installation: cpu, memory, disk and gpu.
pub fn plugin_dir(parent: &Path) -> PathBuf {
    let dir = parent.join("plugins");
    std::fs::create_dir_all(&dir).unwrap();
    for name in ["cpu", "memory", "disk", "gpu"] {
        let file = format!("libdevmon_plugin_{name}.so");
        std::fs::copy(bin_dir().join(&file), dir.join(&file))
            .unwrap_or_else(|e| panic!("{file}: {e}"));
    }
    dir
}

pub fn agent(device: &str, plugins: &Path, state: &Path, args: &[&str]) -> Program {
    let mut command = Command::new(bin_dir().join("devmon-agent"));
    command.args(["run", "--device", device, "--interval", "1s"]);
    command
        .arg("--plugin-dir")
        .arg(plugins)
        .arg("--state-dir")
        .arg(state)
        .args(args);
    command
        .env_remove("AWS_IOT_ENDPOINT")
        .env_remove("DEVICE_NAME");
    Program::start(command)
}

/// GET: status, content type, body.
pub fn get(url: &str) -> (u16, String, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(DEADLINE))
        .build()
        .into();
    let mut reply = agent
        .get(url)
        .call()
        .unwrap_or_else(|e| panic!("{url}: {e}"));
    let kind = reply
        .headers()
        .get("content-type")
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let text = reply
        .body_mut()
        .with_config()
        .limit(256 << 20)
        .read_to_string()
        .unwrap();
    (reply.status().as_u16(), kind, text)
}

/// GET of what must be a 200 with JSON.
pub fn get_json(url: &str) -> Json {
    let (status, kind, text) = get(url);
    assert_eq!(status, 200, "{url}: {text}");
    assert!(kind.starts_with("application/json"), "{url}: {kind}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{url}: {e}: {text}"))
}

/// All items of a paged list.
pub fn all_pages(url: &str) -> Vec<Json> {
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let next = cursor.map_or(String::new(), |c| {
            format!(
                "{}cursor={}",
                if url.contains('?') { "&" } else { "?" },
                encode(&c)
            )
        });
        let page = get_json(&format!("{url}{next}"));
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(c) => cursor = Some(c.to_owned()),
            None => return items,
        }
    }
}

/// Percent-encodes everything but letters and digits.
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

/// A real mosquitto with the given configuration lines, ended by pid.
pub struct Mosquitto {
    child: Child,
    pub port: u16,
}

impl Mosquitto {
    pub fn start(dir: &Path, lines: &str) -> Self {
        let port = free_port();
        let config = dir.join("mosquitto.conf");
        std::fs::write(
            &config,
            format!("user root\nlistener {port} 127.0.0.1\n{lines}\n"),
        )
        .unwrap();
        let child = Command::new("/usr/sbin/mosquitto")
            .arg("-c")
            .arg(&config)
            .stderr(Stdio::null())
            .spawn();
        let child = child.expect("mosquitto is installed by cargo xtask test");
        wait_for("mosquitto listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { child, port }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fresh directory, removed when dropped.
pub fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

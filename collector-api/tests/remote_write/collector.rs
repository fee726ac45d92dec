//! The program itself, and messages for it.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value as Json;

/// For what takes as long as other work on the machine lets it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Of the API, where a test configures one.
pub(crate) const TOKEN: &str = "0123456789abcdef";

pub(crate) struct Collector {
    child: Child,
    http: SocketAddr,
    mqtt_port: String,
}

impl Collector {
    /// With this configuration behind the addresses, in `dir`.
    pub(crate) fn start(dir: &Path, config: &str) -> Self {
        let file = dir.join("collector.toml");
        std::fs::write(&file, config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_devmon-collector"))
            .env_clear()
            .args([
                "run",
                "--http",
                "127.0.0.1:0",
                "--mqtt-listen",
                "127.0.0.1:0",
            ])
            .arg("--data-dir")
            .arg(dir.join("data"))
            .arg("--config")
            .arg(&file)
            .env("DEVMON_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut ready).unwrap();
        let word = |key: &str| {
            let words = ready.split_whitespace();
            let found = words.filter_map(|word| word.strip_prefix(key)).next();
            found
                .unwrap_or_else(|| panic!("no {key} in {ready:?}"))
                .to_owned()
        };
        Self {
            child,
            http: word("http=http://").parse().unwrap(),
            mqtt_port: word("mqtt=mqtt://127.0.0.1:"),
        }
    }

    pub(crate) fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as an operator does.
    pub(crate) fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }

    /// Sends messages of a device and waits until all are acknowledged, that is: on disk.
    pub(crate) fn publish(&self, device: &str, kind: &str, messages: &[String]) {
        let mut client = Command::new("mosquitto_pub")
            .args(["-p", &self.mqtt_port, "-q", "1", "-l", "-t"])
            .arg(format!("devmon/v1/0/{device}/{kind}"))
            .stdin(Stdio::piped())
            .spawn()
            .expect("mosquitto-clients is installed by cargo xtask test");
        let mut lines = String::new();
        for message in messages {
            writeln!(lines, "{message}").unwrap();
        }
        client
            .stdin
            .take()
            .unwrap()
            .write_all(lines.as_bytes())
            .unwrap();
        assert!(client.wait().unwrap().success());
    }

    pub(crate) fn get(&self, url: &str) -> String {
        get(self.http, url).1
    }

    pub(crate) fn forget(&self, device: &str) {
        let mut stream = TcpStream::connect(self.http).unwrap();
        let (addr, url) = (self.http, format!("/api/v1/devices/{device}"));
        write!(
            stream,
            "DELETE {url} HTTP/1.0\r\nhost: {addr}\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 204 "), "{answer}");
    }

    /// What it says of its only target.
    pub(crate) fn target(&self) -> Json {
        let status: Json = serde_json::from_str(&self.get("/api/v1/status")).unwrap();
        status["remote_write"][0].clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body. HTTP/1.0, so that it comes in one piece.
pub(crate) fn get(addr: SocketAddr, url: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(
        stream,
        "GET {url} HTTP/1.0\r\nhost: {addr}\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or(0), body.to_owned())
}

/// Asks again and again until it is so.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut asked: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = asked() {
            return found;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// One frame of one source.
pub(crate) fn frame(seq: usize, ts: i64, source: &str, metrics: &str) -> String {
    format!(
        r#"{{"v":1,"boot":"B{source}","seq":{seq},"frames":[{{"ts":{ts},"source":"{source}","metrics":{metrics}}}]}}"#
    )
}

/// `count` frames from `ts` on, 10 ms apart, of ten leaves each: `/s/v0` to `/s/v9`.
pub(crate) fn frames(first: usize, count: usize, ts: i64) -> Vec<String> {
    let leaves = |n: usize| {
        let leaves = (0..10).map(|leaf| format!(r#""v{leaf}":{}"#, n * 10 + leaf));
        format!("{{{}}}", leaves.collect::<Vec<_>>().join(","))
    };
    let at = |n: usize| ts + 10 * i64::try_from(n).unwrap();
    (first..first + count)
        .map(|n| frame(n, at(n), "s", &leaves(n)))
        .collect()
}

//! The program itself in broker mode, and devices that send.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use serde_json::Value as Json;

use crate::broker::{Broker, wait_for};

const TOKEN: &str = "0123456789abcdef";

pub(crate) struct Collector {
    child: Child,
    http: SocketAddr,
}

impl Collector {
    /// With this configuration, its data in `dir`.
    pub(crate) fn start(dir: &Path, broker: &str, config: &str) -> Self {
        let (file, token) = (dir.join("collector.toml"), dir.join("token"));
        std::fs::write(&token, TOKEN).unwrap();
        let text = format!("api_token_file = '{}'\n{config}", token.display());
        std::fs::write(&file, text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_devmon-collector"))
            .env_clear()
            .args(["run", "--http", "127.0.0.1:0", "--broker", broker])
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
        let mut words = ready.split_whitespace();
        let http = words.find_map(|word| word.strip_prefix("http=http://"));
        let http = http.unwrap_or_else(|| panic!("no address in {ready:?}"));
        let this = Self {
            http: http.parse().unwrap(),
            child,
        };
        // Before it has subscribed, what devices send is lost to it.
        wait_for("it is connected to the broker", || {
            let status = this.status();
            (status["intake"]["broker"]["connected"] == true).then_some(())
        });
        this
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

    fn call(&self, method: &str, url: &str) -> String {
        let mut stream = TcpStream::connect(self.http).unwrap();
        let addr = self.http;
        write!(
            stream,
            "{method} {url} HTTP/1.0\r\nhost: {addr}\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn forget(&self, device: &str) {
        let answer = self.call("DELETE", &format!("/api/v1/devices/{device}"));
        assert!(answer.contains(" 204 "), "{answer}");
    }

    pub(crate) fn status(&self) -> Json {
        let answer = self.call("GET", "/api/v1/status");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// One of its figures on `/metrics`.
    pub(crate) fn figure(&self, name: &str) -> Option<f64> {
        let answer = self.call("GET", "/metrics");
        let mut values = answer.lines().filter_map(|line| line.strip_prefix(name));
        values.next()?.trim().parse().ok()
    }

    /// Waits until so many messages of devices are stored, and the broker has taken all that there was to say.
    pub(crate) fn settled(&self, messages: u64) {
        wait_for("all is stored and said", || {
            let status = self.status();
            let (intake, said) = (&status["intake"], &status["home_assistant"]);
            let settled = intake["messages"] == messages
                && said["waiting"] == 0
                && said["state"] == "ok"
                && said["entities"] != 0;
            settled.then_some(())
        });
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn now_ms() -> u128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_millis()
}

/// A device says what it is.
pub(crate) fn introduce(broker: &Broker, device: &str) {
    let about = format!(
        r#"{{"v":1,"device":"{device}","ts":1,"agent":{{"version":"0.1.0"}},"host":{{"os":"Debian GNU/Linux 12 (bookworm)","arch":"aarch64"}},"sources":[{{"name":"cpu","state":"ok","interval_ms":600000}}],"descriptors":[{{"path":"/cpu/utilization","unit":"1","kind":"gauge","help":"h"}},{{"path":"/cpu/{{mount}}/read","unit":"By","kind":"counter","help":"h"}}]}}"#
    );
    broker.publish(&format!("devmon/v1/0/{device}/about"), &about);
}

/// A device sends a message of source `cpu`.
pub(crate) fn send(broker: &Broker, device: &str, seq: u64, metrics: &str) {
    let payload = format!(
        r#"{{"v":1,"boot":"B","seq":{seq},"frames":[{{"ts":{},"source":"cpu","metrics":{metrics}}}]}}"#,
        now_ms()
    );
    broker.publish(&format!("devmon/v1/0/{device}/metrics"), &payload);
}

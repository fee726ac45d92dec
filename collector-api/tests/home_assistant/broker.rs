//! mosquitto, and what it holds.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// For what takes as long as other work on the machine lets it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

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

pub(crate) struct Broker {
    /// `None`: it is another's, and ends with that.
    child: Option<Child>,
    pub(crate) port: u16,
    /// Options of the clients: TLS.
    client: Vec<String>,
}

impl Broker {
    pub(crate) fn start(dir: &Path) -> Self {
        let port = free_port();
        Self::start_with(dir, port, "allow_anonymous true\n", Vec::new())
    }

    /// On a port, with more of a configuration, and what clients need for it.
    pub(crate) fn start_with(dir: &Path, port: u16, more: &str, client: Vec<String>) -> Self {
        let config = dir.join("mosquitto.conf");
        let text = format!("user root\nlistener {port} 127.0.0.1\npersistence false\n{more}");
        std::fs::write(&config, text).unwrap();
        let child = Command::new("/usr/sbin/mosquitto")
            .arg("-c")
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed by cargo xtask test");
        wait_for("mosquitto listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self {
            child: Some(child),
            port,
            client,
        }
    }

    /// The same broker as another client sees it.
    pub(crate) fn as_client(&self, client: Vec<String>) -> Self {
        Self {
            child: None,
            port: self.port,
            client,
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args(["-h", "localhost", "-p", &self.port.to_string()])
            .args(&self.client);
        command
    }

    pub(crate) fn publish(&self, topic: &str, payload: &str) {
        let mut client = self
            .command("mosquitto_pub")
            .args(["-q", "1", "-s", "-t", topic])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = client.stdin.take().unwrap();
        stdin.write_all(payload.as_bytes()).unwrap();
        drop(stdin);
        assert!(client.wait().unwrap().success());
    }

    /// All that is retained, by topic.
    pub(crate) fn retained(&self) -> BTreeMap<String, String> {
        let out = self
            .command("mosquitto_sub")
            .args(["-t", "homeassistant/#", "-t", "devmon/ha/#"])
            .args(["--retained-only", "-W", "1", "-F", "%t %p"])
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.map(|(t, p)| (t.to_owned(), p.to_owned())).collect()
    }

    /// Notes all that is published from now on.
    pub(crate) fn watch(&self) -> Watch {
        let mut child = self
            .command("mosquitto_sub")
            .args([
                "-t",
                "homeassistant/#",
                "-t",
                "devmon/ha/#",
                "-t",
                "test/here",
            ])
            .args(["-R", "-F", "%t %p"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let noted = seen.clone();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let (topic, payload) = line.split_once(' ').unwrap_or((&line, ""));
                noted.lock().unwrap().push((topic.into(), payload.into()));
            }
        });
        let watch = Watch { child, seen };
        // Subscribed once something arrives.
        wait_for("the watch sees", || {
            self.publish("test/here", "x");
            (!watch.of("test/here").is_empty()).then_some(())
        });
        watch
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) struct Watch {
    child: Child,
    seen: Arc<Mutex<Vec<(String, String)>>>,
}

impl Watch {
    /// What was published on topics that begin so.
    pub(crate) fn of(&self, prefix: &str) -> Vec<(String, String)> {
        let seen = self.seen.lock().unwrap();
        let of = seen.iter().filter(|(topic, _)| topic.starts_with(prefix));
        of.cloned().collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

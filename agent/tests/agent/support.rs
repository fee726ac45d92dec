//! Real components for the tests: plugin files, mosquitto, the agent's binary. Every process is ended by its id when its handle is dropped.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use devmon_core::wire::Message;
use tempfile::TempDir;

/// For anything that should happen; generous, for other builds run on the same cores.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);

/// Where the test plugins are, built once.
static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugins/Cargo.toml");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("test-plugins");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target)
        .status()
        .unwrap();
    assert!(status.success(), "the test plugins did not build");
    target.join("debug")
});

/// A plugin directory of this test.
pub(crate) struct Plugins(pub(crate) TempDir);

impl Plugins {
    /// With these test plugins (`abi-1-0`, `hangs`, …) in it.
    pub(crate) fn with(names: &[&str]) -> Self {
        let plugins = Self(tempfile::tempdir().unwrap());
        for name in names {
            let file = format!("libtest_plugin_{}.so", name.replace('-', "_"));
            std::fs::copy(BUILT.join(&file), plugins.path(&file)).unwrap();
        }
        plugins
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// Compiles a C file of tests/plugins/c to `lib<stem>.so`.
    pub(crate) fn c(&self, stem: &str) {
        self.c_as(stem, &format!("lib{stem}.so"), &[]);
    }

    /// The same with another name and defines (`ROUND=2`); the file appears at once, whole.
    pub(crate) fn c_as(&self, stem: &str, file: &str, defines: &[&str]) {
        let unfinished = self.path(&format!("{file}.new"));
        compile(stem, &unfinished, defines);
        std::fs::rename(unfinished, self.path(file)).unwrap();
    }

    /// Writes a shell script that may be executed.
    pub(crate) fn script(&self, file: &str, text: &str) {
        let path = self.path(&format!("{file}.new"));
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(path, self.path(file)).unwrap();
    }

    /// Writes an agent's configuration and gives its path.
    pub(crate) fn config(&self, text: &str) -> String {
        let path = self.path("agent.toml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// Compiles a C file of tests/plugins/c to a library.
pub(crate) fn compile(stem: &str, out: &Path, defines: &[&str]) {
    cc(&["-shared", "-fPIC"], stem, out, defines);
}

/// Compiles a C file of tests/plugins/c to a program.
pub(crate) fn program(stem: &str, out: &Path, defines: &[&str]) {
    cc(&[], stem, out, defines);
}

fn cc(flags: &[&str], stem: &str, out: &Path, defines: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/plugins/c/{stem}.c"));
    let mut cc = Command::new("cc");
    cc.args(flags)
        .args(defines.iter().map(|d| format!("-D{d}")));
    cc.arg("-o").arg(out).arg(source);
    assert!(cc.status().unwrap().success());
}

/// The agent's binary, without the environment of whoever runs the tests.
pub(crate) fn agent() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_devmon-agent"));
    for name in [
        "DEVICE_NAME",
        "AWS_IOT_ENDPOINT",
        "DEVMON_CONFIG",
        "DEVMON_DEVICE",
        "DEVMON_MQTT",
    ] {
        command.env_remove(name);
    }
    command.env_remove("RUST_BACKTRACE");
    command
}

/// Runs a command of the agent to its end.
pub(crate) fn run(args: &[&str], plugins: &Plugins) -> Output {
    agent()
        .args(args)
        .arg("--plugin-dir")
        .arg(plugins.0.path())
        .arg("--state-dir")
        .arg(plugins.path("state"))
        .output()
        .unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A child whose lines on one stream can be waited for.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    /// All lines of the stream so far, for messages of failed tests.
    seen: Arc<Mutex<Vec<String>>>,
    /// Waited for on another occasion.
    pending: Vec<String>,
}

impl Process {
    fn listen(mut child: Child, stream: impl Read + Send + 'static) -> Self {
        let (tell, lines) = channel();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines() {
                let Ok(line) = line else { return };
                log.lock().unwrap().push(line.clone());
                let _ = tell.send(line);
            }
        });
        child.stdin.take();
        Self {
            child,
            lines,
            seen,
            pending: Vec::new(),
        }
    }

    /// Starts a command and listens to its standard error.
    pub(crate) fn errors_of(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stream = child.stderr.take().unwrap();
        Self::listen(child, stream)
    }

    /// Starts a command and listens to its standard output.
    pub(crate) fn output_of(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let stream = child.stdout.take().unwrap();
        Self::listen(child, stream)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line for which `f` gives something; lines in between are passed over.
    pub(crate) fn wait_for<T>(&mut self, what: &str, mut f: impl FnMut(&str) -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        loop {
            let line = if self.pending.is_empty() {
                let left = until.saturating_duration_since(Instant::now());
                match self.lines.recv_timeout(left) {
                    Ok(line) => line,
                    Err(e) => {
                        let ended = e == RecvTimeoutError::Disconnected;
                        let seen = self.seen.lock().unwrap().join("\n");
                        panic!("{what}: not seen (stream ended: {ended}) in:\n{seen}");
                    }
                }
            } else {
                self.pending.remove(0)
            };
            if let Some(found) = f(&line) {
                return found;
            }
        }
    }

    pub(crate) fn wait_for_line(&mut self, part: &str) -> String {
        self.wait_for(part, |line| line.contains(part).then(|| line.to_owned()))
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for the end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < until,
                "process {} does not end",
                self.pid()
            );
            std::thread::sleep(Duration::from_millis(10)); // polls; there is no wait with a deadline
        }
    }

    /// All lines so far.
    pub(crate) fn seen(&self) -> String {
        self.seen.lock().unwrap().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(pid: u32, name: &str) {
    let kill = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
    assert!(kill.unwrap().success());
}

/// A mosquitto of this test.
pub(crate) struct Broker {
    process: Option<Child>,
    dir: TempDir,
    pub(crate) port: u16,
}

impl Broker {
    /// On a free loopback port, everyone let in, nothing kept on disk.
    pub(crate) fn start() -> Self {
        Self::with("allow_anonymous true\n")
    }

    pub(crate) fn with(config: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let dir = tempfile::tempdir().unwrap();
        // The first line must be the first: each listener has its own idea of who is let in.
        let config = format!(
            "per_listener_settings true\npersistence false\nlistener {port} 127.0.0.1\n{config}"
        );
        std::fs::write(dir.path().join("mosquitto.conf"), config).unwrap();
        let mut broker = Self {
            process: None,
            dir,
            port,
        };
        broker.restart();
        broker
    }

    /// Starts it (again) and waits until it accepts connections.
    pub(crate) fn restart(&mut self) {
        let mut command = Command::new("/usr/sbin/mosquitto");
        command
            .arg("-c")
            .arg(self.dir.path().join("mosquitto.conf"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().unwrap());
        let until = Instant::now() + DEADLINE;
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "mosquitto does not start");
            std::thread::sleep(Duration::from_millis(10)); // polls; there is nothing to wait on
        }
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// A subscriber whose subscription is known to stand. Its lines are `topic payload`.
    pub(crate) fn subscribe(&self, filter: &str) -> Process {
        let mut command = Command::new("stdbuf"); // into a pipe, mosquitto_sub would keep its lines
        command.args(["-oL", "mosquitto_sub"]);
        // %j would escape; topics of these tests have no spaces. -d writes to standard output: it says when the SUBACK came.
        command.args([
            "-d", "-q", "1", "-F", "%t %p", "-t", filter, "-t", "marker", "-p",
        ]);
        let mut process = Process::output_of(command.arg(self.port.to_string()));
        process.wait_for_line("Subscribed");
        process
    }

    /// Everything that the broker took before this has reached the subscriber after it.
    pub(crate) fn marker(&self) {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-q", "1", "-t", "marker", "-m", "m", "-p"]);
        assert!(
            command
                .arg(self.port.to_string())
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The metrics message in a subscriber's line, if it is one.
pub(crate) fn metrics(line: &str) -> Option<Message> {
    let (topic, payload) = line.split_once(' ')?;
    topic
        .ends_with("/metrics")
        .then(|| Message::decode(payload.as_bytes()).unwrap())
}

/// The JSON payload in a subscriber's line of this kind.
pub(crate) fn json(line: &str, kind: &str) -> Option<serde_json::Value> {
    let (topic, payload) = line.split_once(' ')?;
    topic
        .ends_with(kind)
        .then(|| serde_json::from_str(payload).unwrap())
}

/// The agent, publishing to a broker.
pub(crate) fn publish(device: &str, broker: &Broker, plugins: &Plugins, more: &[&str]) -> Process {
    let mut command = agent();
    command.args([
        "run",
        "--device",
        device,
        "--mqtt",
        &broker.url(),
        "--plugin-dir",
    ]);
    command.arg(plugins.0.path()).args(more);
    if !more.contains(&"--state-dir") {
        command
            .arg("--state-dir")
            .arg(plugins.0.path().join("state"));
    }
    Process::errors_of(&mut command)
}

/// The most that a process has had in memory.
pub(crate) fn peak_kb(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let mut lines = status.lines();
    let peak = lines.find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

//! The program from outside: its command line, its refusals, how it starts and ends.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const EX_CONFIG: i32 = 78;

fn collector(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_devmon-collector"));
    command.env_clear().args(args).stdin(Stdio::null());
    command
}

/// Runs a command that has to end by itself.
fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// Runs a command that has to be refused; what it said.
#[track_caller]
fn refused(command: &mut Command, code: i32) -> String {
    let output = output(command);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "one paragraph: {said}");
    said
}

#[track_caller]
fn checked(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A running collector; dropped, it is killed.
struct Running {
    child: Child,
    ready: String,
}

impl Running {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let data = dir.join("data");
        let mut command = collector(&[
            "run",
            "--http",
            "127.0.0.1:0",
            "--mqtt-listen",
            "127.0.0.1:0",
            "--data-dir",
            data.to_str().unwrap(),
        ]);
        let mut child = command
            .args(args)
            .env("DEVMON_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap(); // ends at the line's end, or when the program does
        Self {
            child,
            ready: ready.trim_end().to_owned(),
        }
    }

    fn named(&self, key: &str) -> &str {
        let found = self
            .ready
            .split(' ')
            .find_map(|word| word.strip_prefix(key));
        found.unwrap_or_else(|| panic!("no {key} in {:?}", self.ready))
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_misspelt_key_is_refused_with_its_place_and_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(
        dir.path(),
        "collector.toml",
        "# ours\nhttp = \"127.0.0.1:0\"\n  mqtt_lisen = \"off\"\n",
    );
    let said = refused(&mut collector(&["run", "--config", &file]), EX_CONFIG);
    assert!(
        said.contains(
            "collector.toml:3:3: unknown key \"mqtt_lisen\"; did you mean \"mqtt_listen\"?"
        ),
        "{said}"
    );
    let said = refused(
        &mut collector(&["check", "--config", "/nonexistent.toml"]),
        EX_CONFIG,
    );
    assert!(said.contains("/nonexistent.toml"), "{said}");
}

#[test]
fn what_can_not_be_used_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let short = write(dir.path(), "short", "secret\n");
    let garbage = dir.path().join("garbage");
    std::fs::create_dir(&garbage).unwrap();
    for name in ["root-CA.crt", "collector.cert.pem", "collector.private.key"] {
        write(&garbage, name, "no certificate");
    }
    let garbage = garbage.to_str().unwrap();
    for (args, says) in [
        (
            &["--http", "localhost"][..],
            &["--http", "\"localhost\" is no address", "127.0.0.1:8765"][..],
        ),
        (
            &["--mqtt-listen", "1883"],
            &["--mqtt-listen", "is no address"],
        ),
        (&["--http", "0.0.0.0:0"], &["0.0.0.0:0", "--api-token-file"]),
        (
            &["--http", "[::]:0", "--api-token-file", "/nonexistent"],
            &["/nonexistent", "cannot read"],
        ),
        (
            &["--api-token-file", &short],
            &["at least 16", "openssl rand"],
        ),
        (
            &["--mqtt-listen", "0.0.0.0:0"],
            &["0.0.0.0:0", "--certs", "--mqtt-plain"],
        ),
        (
            &["--mqtt-listen", "off"],
            &["--mqtt-listen 127.0.0.1:1883", "--broker mqtt://"],
        ),
        (
            &["--certs", "/nonexistent"],
            &["/nonexistent/", "certs init"],
        ),
        (&["--certs", garbage], &["garbage/", "not usable"]),
        (
            &["--broker", "http://example.com"],
            &["--broker", "mqtt://host:1883"],
        ),
        (&["--broker", "mqtt://:1883"], &["names no host"]),
        (&["--broker", "mqtt://host:0"], &["no valid port"]),
        (
            &["--broker", "mqtt://user:password@host"],
            &["user name or password"],
        ),
        (
            &["--broker", "mqtts://host", "--certs", "/nonexistent"],
            &["/nonexistent/root-CA.crt"],
        ),
        (&["--log-format", "xml"], &["plain or json"]),
    ] {
        let said = refused(collector(&["check"]).args(args), EX_CONFIG);
        for part in says {
            assert!(said.contains(part), "{args:?} lacks {part}: {said}");
        }
    }
    let said = refused(collector(&["run"]).env("RUST_LOG", "a=b=c"), EX_CONFIG);
    assert!(said.contains("RUST_LOG"), "{said}");
    let output = output(&mut collector(&["run", "--htpp", "x"]));
    assert_eq!(output.status.code(), Some(EX_CONFIG));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("--http"),
        "the nearest flag is named"
    );
}

#[test]
fn the_command_line_counts_more_than_the_environment_and_that_more_than_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(
        dir.path(),
        "c.toml",
        "http = \"127.0.0.1:1001\"\nmqtt_listen = \"127.0.0.1:1002\"\ndata_dir = \"from-file\"\nretention = \"7d\"\n",
    );
    let check = || collector(&["check"]);
    let said = checked(&mut check());
    for part in [
        "in data for 30 days",
        "http://127.0.0.1:8765 to everybody on this machine",
        "127.0.0.1:1883 without TLS",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let said = checked(check().args(["--config", &file]));
    for part in [
        "in from-file for 7 days",
        "127.0.0.1:1001",
        "127.0.0.1:1002",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let said = checked(
        check()
            .env("DEVMON_CONFIG", &file)
            .env("DEVMON_HTTP", "127.0.0.1:2001")
            .env("DEVMON_MQTT_LISTEN", ""),
    );
    assert!(
        said.contains("127.0.0.1:2001") && said.contains("127.0.0.1:1002"),
        "an empty variable says nothing: {said}"
    );
    let said = checked(
        check()
            .args(["--config", &file, "--http", "localhost:3001"])
            .env("DEVMON_HTTP", "127.0.0.1:2001"),
    );
    assert!(said.contains("127.0.0.1:3001"), "{said}");
    let said = refused(check().env("DEVMON_HTTP", "x"), EX_CONFIG);
    assert!(said.contains("DEVMON_HTTP:"), "{said}");
    let bad = write(dir.path(), "bad.toml", "http = \"x\"\n");
    let said = refused(check().args(["--config", &bad]), EX_CONFIG);
    assert!(
        said.contains("http in ") && said.contains("bad.toml"),
        "{said}"
    );
}

#[test]
fn a_broker_takes_the_place_of_the_listener_unless_both_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("certs");
    let certs = certs.to_str().unwrap();
    checked(&mut collector(&["certs", "init", "--dir", certs]));
    let said = checked(&mut collector(&["check", "--broker", "mqtt://[::1]"]));
    assert!(
        said.contains("broker ::1:1883 without TLS") && !said.contains("devices connect"),
        "{said}"
    );
    let said = checked(&mut collector(&[
        "check",
        "--broker",
        "mqtt://b:2000",
        "--mqtt-listen",
        "127.0.0.1:0",
    ]));
    assert!(
        said.contains("broker b:2000") && said.contains("devices connect"),
        "{said}"
    );
    let aws = |endpoint: &str| {
        checked(collector(&["check", "--certs", certs]).env("AWS_IOT_ENDPOINT", endpoint))
    };
    assert!(aws("x-ats.iot.eu-central-1.amazonaws.com").contains("amazonaws.com:8883 with TLS"));
    assert!(aws("x-ats.iot.eu-central-1.amazonaws.com:443").contains("amazonaws.com:443 with TLS"));
    let said =
        checked(collector(&["check", "--broker", "mqtt://b"]).env("AWS_IOT_ENDPOINT", "aws"));
    assert!(said.contains("broker b:1883"), "{said}");
}

#[test]
fn certificates_are_made_once_and_fit_together() {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("certs");
    let dir = certs.to_str().unwrap();
    checked(&mut collector(&[
        "certs",
        "init",
        "--dir",
        dir,
        "--host",
        "collector.local",
        "192.0.2.1",
    ]));
    checked(&mut collector(&[
        "certs",
        "device",
        "edge_device_01",
        "--dir",
        dir,
    ]));
    for (name, mode) in [
        ("root-CA.crt", 0o644),
        ("root-CA.private.key", 0o600),
        ("collector.cert.pem", 0o644),
        ("collector.private.key", 0o600),
        ("edge_device_01.cert.pem", 0o644),
        ("edge_device_01.private.key", 0o600),
    ] {
        let found = std::fs::metadata(certs.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(found & !0o022, mode & !0o022, "{name}: {found:o}");
    }
    handshake(&certs, "edge_device_01", "collector.local");
    handshake(&certs, "edge_device_01", "192.0.2.1");
    assert!(
        checked(&mut collector(&[
            "check",
            "--certs",
            dir,
            "--mqtt-listen",
            "0.0.0.0:0"
        ]))
        .contains("with TLS")
    );

    let before = std::fs::read(certs.join("root-CA.crt")).unwrap();
    for args in [
        &["certs", "init", "--dir", dir][..],
        &["certs", "device", "edge_device_01", "--dir", dir],
    ] {
        assert!(refused(&mut collector(args), 1).contains("not overwritten"));
    }
    assert_eq!(std::fs::read(certs.join("root-CA.crt")).unwrap(), before);
    assert!(
        refused(
            &mut collector(&["certs", "device", "../x", "--dir", dir]),
            EX_CONFIG
        )
        .contains("not legal")
    );
    assert!(
        refused(
            &mut collector(&["certs", "device", "d", "--dir", "/nonexistent"]),
            1
        )
        .contains("certs init")
    );
}

/// Lets a device and the collector shake hands in memory; both verify each other.
fn handshake(certs: &Path, device: &str, host: &str) {
    use devmon_core::tls::CertFiles;
    let server = CertFiles::named(certs, "collector")
        .server_config()
        .unwrap();
    let client = CertFiles::named(certs, device)
        .client_config(&[b"mqtt"])
        .unwrap();
    let mut server = rustls::ServerConnection::new(server).unwrap();
    let mut client =
        rustls::ClientConnection::new(client, host.to_owned().try_into().unwrap()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets().unwrap();
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        client.read_tls(&mut &bytes[..]).unwrap();
        client.process_new_packets().unwrap();
    }
}

#[test]
fn a_taken_port_is_named_with_how_to_choose_another() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let said = refused(
        &mut collector(&[
            "run",
            "--data-dir",
            data,
            "--http",
            &addr,
            "--mqtt-listen",
            "127.0.0.1:0",
        ]),
        1,
    );
    assert!(
        said.contains(&addr) && said.contains("--http ADDR:PORT"),
        "{said}"
    );
    let said = refused(
        &mut collector(&[
            "run",
            "--data-dir",
            data,
            "--http",
            "127.0.0.1:0",
            "--mqtt-listen",
            &addr,
        ]),
        1,
    );
    assert!(
        said.contains(&addr) && said.contains("--mqtt-listen ADDR:PORT"),
        "{said}"
    );
    assert!(!Path::new(data).exists(), "nothing was touched");
}

#[test]
fn ready_names_the_ports_and_sigterm_ends_with_0() {
    for signal in ["-TERM", "-INT"] {
        let dir = tempfile::tempdir().unwrap();
        let mut running = Running::start(dir.path(), &[]);
        assert!(
            running.ready.starts_with("ready http=http://127.0.0.1:"),
            "{}",
            running.ready
        );
        let mqtt = running.named("mqtt=mqtt://").to_owned();
        TcpStream::connect(&mqtt).unwrap();
        let mut stream = TcpStream::connect(running.named("http=http://")).unwrap();
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nhost: d\r\n\r\n")
            .unwrap();
        let mut start = [0; 15];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200 OK");
        running.signal(signal); // with an idle connection open: it must not hold the end up
        assert_eq!(running.child.wait().unwrap().code(), Some(0));
        assert!(TcpStream::connect(&mqtt).is_err());
    }
}

/// A collector whose store can not finish opening: what it wants to read is a pipe that nobody writes to, until `release`.
struct Opening {
    child: Child,
    pipe: std::path::PathBuf,
    http: String,
    _dir: tempfile::TempDir,
}

impl Opening {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("archive");
        std::fs::create_dir(&archive).unwrap();
        let pipe = archive.join("names");
        assert!(
            Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        let data = dir.path().to_str().unwrap();
        let ports = ["--http", "127.0.0.1:0", "--mqtt-listen", "127.0.0.1:0"];
        let mut child = collector(
            &[
                &["run", "--data-dir", data, "--log-format", "json"],
                &ports[..],
            ]
            .concat(),
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let http = said.find_map(|line| {
            Some(
                line.unwrap()
                    .split_once("\"http\":\"")?
                    .1
                    .split_once('"')?
                    .0
                    .to_owned(),
            )
        });
        std::thread::spawn(move || said.for_each(drop));
        Self {
            child,
            pipe,
            http: http.unwrap(),
            _dir: dir,
        }
    }

    fn ask(&self, url: &str) -> String {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        write!(
            stream,
            "GET {url} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_port_says_how_far_opening_is_and_then_all_else() {
    let mut opening = Opening::start();
    let answer = opening.ask("/readyz");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\"detail\":\"opening: "), "{answer}");
    assert!(opening.ask("/livez").starts_with("HTTP/1.1 200 "));
    assert!(opening.ask("/api/v1/devices").starts_with("HTTP/1.1 503 "));
    std::fs::write(&opening.pipe, "").unwrap();
    let mut ready = String::new();
    let stdout = opening.child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut ready).unwrap();
    assert!(ready.contains(&opening.http), "{ready}");
    assert!(opening.ask("/readyz").starts_with("HTTP/1.1 200 "));
}

#[test]
fn sigterm_ends_a_collector_that_is_opening() {
    let mut opening = Opening::start();
    let id = opening.child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(opening.child.wait().unwrap().code(), Some(0));
}

#[test]
fn run_is_the_default_and_help_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let data = dir.path().to_str().unwrap();
    assert!(refused(&mut collector(&["--data-dir", data, "--http", &addr]), 1).contains(&addr));
    for args in [["--help"], ["--version"]] {
        checked(&mut collector(&args));
    }
}

#[test]
fn bounds_and_origins_of_http_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    for (text, says) in [
        ("http_cors_origins = [\"*\"]", "https://status.example.org"),
        (
            "http_cors_origins = [\"https://a.example/\"]",
            "without a path",
        ),
        ("http_idle_timeout = \"100ms\"", "http_idle_timeout"),
        ("http_idle_timeout = \"1h\"", "http_idle_timeout"),
    ] {
        let file = write(dir.path(), "c.toml", text);
        let said = refused(&mut collector(&["check", "--config", &file]), EX_CONFIG);
        assert!(said.contains(says) && said.contains("c.toml"), "{said}");
    }
    let good = "http_cors_origins = [\"http://localhost:5173\"]\nhttp_idle_timeout = \"75s\"\nhttp_max_connections_per_address = 9\n";
    let file = write(dir.path(), "c.toml", good);
    checked(&mut collector(&["check", "--config", &file]));
}

#[test]
fn the_printed_configuration_is_the_default_and_names_every_key() {
    let dir = tempfile::tempdir().unwrap();
    let printed = checked(&mut collector(&["config"]));
    let file = write(dir.path(), "printed.toml", &printed);
    assert_eq!(
        checked(collector(&["check", "--config", &file]).current_dir(dir.path())),
        checked(collector(&["check"]).current_dir(dir.path())),
        "what is printed changes something"
    );
    let wrong = write(dir.path(), "wrong.toml", "zzz = 1\n");
    let said = refused(&mut collector(&["check", "--config", &wrong]), EX_CONFIG);
    let (_, keys) = said.split_once("valid here: ").unwrap();
    for key in keys.trim_end().trim_end_matches(')').split(", ") {
        let named = |line: &str| {
            line.trim_start_matches('#')
                .starts_with(&format!("{key} = "))
                || [format!("[{key}]"), format!("#[[{key}]]")]
                    .iter()
                    .any(|table| line == table)
        };
        assert!(printed.lines().any(named), "{key} is not printed");
    }
}

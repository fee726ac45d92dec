//! Mutual TLS with certificates by the seed's names.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::support::{Broker, Plugins, Process, agent, text};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// Writes root-CA.crt, <name>.cert.pem and <name>.private.key.
    fn issue(&self, dir: &Path, name: &str, host: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(dir.join("root-CA.crt"), &self.pem).unwrap();
        std::fs::write(dir.join(format!("{name}.cert.pem")), cert.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.private.key")), key.serialize_pem()).unwrap();
    }
}

/// A broker that asks for certificates of this authority and logs in by their name, with one listener more for the test's own subscriber.
fn broker(authority: &Authority, dir: &Path) -> (Broker, u16) {
    authority.issue(dir, "broker", "localhost");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let d = dir.display();
    let config = format!(
        "allow_anonymous true\nlistener {port} 127.0.0.1\nallow_anonymous false\ncafile {d}/root-CA.crt\ncertfile {d}/broker.cert.pem\n\
         keyfile {d}/broker.private.key\nrequire_certificate true\nuse_identity_as_username true\n"
    );
    (Broker::with(&config), port)
}

fn agent_with(dir: &Path, port: u16, plugins: &Plugins, host: &str) -> Process {
    let mut command = agent();
    command.args(["run", "--device", "edge_device_01", "--interval", "200ms"]);
    command.args(["--mqtt", &format!("mqtts://{host}:{port}"), "--certs"]);
    command.arg(dir).arg("--plugin-dir").arg(plugins.0.path());
    Process::errors_of(&mut command)
}

fn place() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    // mosquitto gives up root before it reads its certificates.
    let mut chmod = std::process::Command::new("chmod");
    assert!(chmod.arg("755").arg(dir.path()).status().unwrap().success());
    dir
}

#[test]
fn metrics_travel_over_mutual_tls() {
    let (authority, dir, plugins) = (Authority::new("ours"), place(), Plugins::with(&["two-a"]));
    let (broker, port) = broker(&authority, dir.path());
    authority.issue(dir.path(), "edge_device_01", "edge_device_01");
    let mut sub = broker.subscribe("devmon/v1/0/edge_device_01/metrics");
    let _running = agent_with(dir.path(), port, &plugins, "localhost");
    sub.wait_for("metrics", crate::support::metrics);
}

#[test]
fn a_broker_of_another_authority_is_not_trusted_and_the_file_is_named() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (dir, broker_dir, plugins) = (place(), place(), Plugins::with(&["two-a"]));
    let (_broker, port) = broker(&theirs, broker_dir.path());
    ours.issue(dir.path(), "edge_device_01", "edge_device_01");
    let mut running = agent_with(dir.path(), port, &plugins, "localhost");
    let said = running.wait_for_line("not connected");
    let file = dir.path().join("root-CA.crt").display().to_string();
    assert!(
        said.contains("UnknownIssuer") && said.contains(&file),
        "{said}"
    );
}

#[test]
fn a_device_that_the_broker_does_not_know_is_told_which_certificate() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (dir, broker_dir, plugins) = (place(), place(), Plugins::with(&["two-a"]));
    let (_broker, port) = broker(&theirs, broker_dir.path());
    ours.issue(dir.path(), "edge_device_01", "edge_device_01");
    std::fs::write(dir.path().join("root-CA.crt"), &theirs.pem).unwrap();
    let mut running = agent_with(dir.path(), port, &plugins, "localhost");
    let said = running.wait_for_line("not connected");
    assert!(said.contains("edge_device_01.cert.pem"), "{said}");
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let (authority, dir, plugins) = (Authority::new("ours"), place(), Plugins::with(&["two-a"]));
    let (_broker, port) = broker(&authority, dir.path());
    authority.issue(dir.path(), "edge_device_01", "edge_device_01");
    let mut running = agent_with(dir.path(), port, &plugins, "127.0.0.1");
    let said = running.wait_for_line("not connected");
    assert!(said.contains("does not name 127.0.0.1"), "{said}");
}

#[test]
fn a_missing_or_broken_file_ends_with_78_and_is_named() {
    let (authority, dir) = (Authority::new("ours"), place());
    authority.issue(dir.path(), "d", "d");
    let check = || {
        let mut command = agent();
        command.args([
            "check",
            "--device",
            "d",
            "--mqtt",
            "mqtts://localhost",
            "--certs",
        ]);
        command.arg(dir.path()).output().unwrap()
    };
    assert!(check().status.success(), "{:?}", check());
    let key = dir.path().join("d.private.key");
    std::fs::write(&key, "not a key").unwrap();
    let out = check();
    assert_eq!(out.status.code(), Some(78));
    assert!(
        text(&out.stderr).contains(&key.display().to_string()),
        "{out:?}"
    );
    std::fs::remove_file(&key).unwrap();
    let out = check();
    assert_eq!(out.status.code(), Some(78));
    let said = text(&out.stderr);
    assert!(
        said.contains("d.private.key") && said.contains("check that the file exists"),
        "{said}"
    );
}

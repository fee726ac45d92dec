//! With certificates: who may connect, and for which device.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use devmon_collector::intake::Limits;
use devmon_collector::store::engine::Store;
use devmon_core::tls::CertFiles;
use devmon_core::wire::Reason;

use crate::client::{Client, DEADLINE, Hello};
use crate::collector::{Collector, wait_for};

type TlsStream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// MQTT 3.1.1, clean session, client id "".
const CONNECT: &[u8] = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00";

/// A CA that writes identities as files, as `devmon-collector certs` does.
struct Ca {
    params: rcgen::CertificateParams,
    key: rcgen::KeyPair,
    pem: String,
}

impl Ca {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    fn identity(&self, dir: &Path, file: &str, common_names: &[&str]) -> CertFiles {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in common_names {
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, *name);
        }
        let issuer = rcgen::Issuer::from_params(&self.params, &self.key);
        let cert = params.signed_by(&key, &issuer).unwrap();
        let files = CertFiles::named(dir, file);
        std::fs::write(&files.ca, &self.pem).unwrap();
        std::fs::write(&files.cert, cert.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

fn stream(collector: &Collector, files: &CertFiles) -> TlsStream {
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let config = files.client_config(&[]).unwrap();
    let connection = rustls::ClientConnection::new(config, name).unwrap();
    let socket = TcpStream::connect(collector.addr).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    rustls::StreamOwned::new(connection, socket)
}

fn collector(dir: &Path, ca: &Ca) -> Collector {
    let server = ca.identity(dir, "collector", &["collector"]);
    Collector::with(Limits::default(), Some(server.server_config().unwrap()))
}

#[test]
fn a_device_publishes_for_itself_and_for_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let collector = collector(dir.path(), &ca);
    let files = ca.identity(dir.path(), "device_a", &["device_a"]);
    for version in [4, 5] {
        let hello = Hello::new(version, "whatever")
            .will("devmon/v1/0/device_b/status", r#"{"status":"offline"}"#);
        let (mut client, _) = Client::over(stream(&collector, &files), &hello);
        for (device, id) in [("device_a", 1), ("device_b", 2)] {
            let topic = format!("devmon/v1/0/{device}/metrics");
            client.publish(&topic, r#"{"metrics":{"a":1}}"#, id);
            assert_eq!(client.puback(), id, "refused for ever: acknowledged");
        }
        let letter = collector.store.dead_letters(None, 1).unwrap().remove(0);
        assert_eq!(letter.reason, Reason::NotAuthorized);
        assert_eq!(letter.topic, "devmon/v1/0/device_b/metrics");
        let refused = || collector.intake.status().refused["not_authorized"];
        let before = refused();
        drop(client);
        wait_for("its will is checked as well", || refused() == before + 1);
    }
    assert!(collector.store.device("device_a").is_some());
    assert!(collector.store.device("device_b").is_none());
}

#[test]
fn one_device_can_not_take_over_anothers_session() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let collector = collector(dir.path(), &ca);
    let a = ca.identity(dir.path(), "a", &["a"]);
    let b = ca.identity(dir.path(), "b", &["b"]);
    let (mut victim, _) = Client::over(stream(&collector, &a), &Hello::new(4, "a"));
    let (_thief, _) = Client::over(stream(&collector, &b), &Hello::new(4, "a"));
    victim.ping();
    assert!(victim.read().is_some());
}

#[test]
fn without_a_certificate_of_our_ca_that_names_a_device_there_is_no_way_in() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let collector = collector(dir.path(), &ca);
    let other = tempfile::tempdir().unwrap();
    let foreign = Ca::new().identity(other.path(), "device_a", &["device_a"]);
    std::fs::write(&foreign.ca, &ca.pem).unwrap(); // it trusts the server; the server does not trust it
    let nameless = ca.identity(dir.path(), "nameless", &[]);
    for files in [foreign, nameless] {
        let mut stream = stream(&collector, &files);
        let mut answer = Vec::new();
        // Where it fails, and how, is TLS' business: in 1.3 a client learns of it when it reads.
        let written = stream.write_all(CONNECT);
        let read = stream.read_to_end(&mut answer);
        drop((written, read));
        assert!(answer.is_empty(), "a CONNACK came");
    }
    // Plain TCP to the TLS port.
    let mut plain = TcpStream::connect(collector.addr).unwrap();
    plain.set_read_timeout(Some(DEADLINE)).unwrap();
    plain.write_all(CONNECT).unwrap();
    let mut answer = Vec::new();
    let end = plain.read_to_end(&mut answer);
    drop(end);
    assert!(!answer.starts_with(&[0x20]), "CONNACK in plain");
}

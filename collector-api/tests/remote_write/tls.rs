//! Receivers behind HTTPS: a private authority, and a certificate of ours where they ask for one. The certificates are those of `devmon-collector certs`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use devmon_core::tls::CertFiles;
use serde_json::Value as Json;

use crate::collector::{Collector, frames, now_ms, wait_for};
use crate::receivers::{Kind, command, free_addr};

/// An authority with a certificate for this machine, and one for the collector as client of others.
fn authority(dir: &Path) -> PathBuf {
    devmon_collector::certs::init(dir, &["127.0.0.1".into()]).unwrap();
    devmon_collector::certs::device(dir, &"plant-7".parse().unwrap()).unwrap();
    dir.to_owned()
}

/// A receiver that speaks TLS, and asks for a client's certificate if it can.
struct Guarded {
    child: Child,
    addr: SocketAddr,
    certs: PathBuf,
}

impl Guarded {
    fn start(kind: Kind, dir: &Path, certs: &Path) -> Self {
        let addr = free_addr();
        let own = CertFiles::named(certs, "collector");
        let (cert, key, ca) = (own.cert.display(), own.key.display(), own.ca.display());
        let mut command = command(kind, addr, &dir.join("receiver"));
        match kind {
            Kind::VictoriaMetrics => {
                command.args([
                    "-tls".to_owned(),
                    format!("-tlsCertFile={cert}"),
                    format!("-tlsKeyFile={key}"),
                ]);
            }
            Kind::Prometheus | Kind::PatientPrometheus => {
                let file = dir.join("web.yml");
                let text = format!(
                    "tls_server_config: {{ cert_file: {cert}, key_file: {key}, client_ca_file: {ca}, client_auth_type: RequireAndVerifyClientCert }}\n"
                );
                std::fs::write(&file, text).unwrap();
                command.arg(format!("--web.config.file={}", file.display()));
            }
        }
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("victoria-metrics and prometheus are installed by cargo xtask test");
        let receiver = Self {
            child,
            addr,
            certs: certs.to_owned(),
        };
        wait_for("the receiver is ready", || {
            receiver.get("/api/v1/query?query=1").map(drop)
        });
        receiver
    }

    fn url(&self) -> String {
        format!("https://{}/api/v1/write", self.addr)
    }

    /// `None`: it does not answer.
    fn get(&self, url: &str) -> Option<Json> {
        let client = CertFiles::named(&self.certs, "plant-7");
        let out = Command::new("curl")
            .args(["--silent", "--globoff", "--cacert"])
            .arg(client.ca)
            .arg("--cert")
            .arg(client.cert)
            .arg("--key")
            .arg(client.key)
            .arg(format!("https://{}{url}", self.addr))
            .output()
            .expect("curl is installed by cargo xtask test");
        serde_json::from_slice(&out.stdout).ok()
    }

    /// How many samples it holds of the first series of [`frames`].
    fn samples(&self) -> usize {
        let url = "/api/v1/query?query=count_over_time(devmon_s_v0[1h])";
        let answer = self.get(url).unwrap();
        let count = answer["data"]["result"][0]["value"][1].as_str();
        count.map_or(0, |count| count.parse().unwrap())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(url: &str, more: &str) -> String {
    format!("[[remote_write]]\nurl = '{url}'\nname = 'x'\nmax_delay = '10ms'\n{more}")
}

fn ca_file(certs: &Path) -> String {
    format!("ca_file = '{}'\n", CertFiles::named(certs, "").ca.display())
}

fn identity(certs: &Path) -> String {
    let own = CertFiles::named(certs, "plant-7");
    let (cert, key) = (own.cert.display(), own.key.display());
    format!("cert_file = '{cert}'\nkey_file = '{key}'\n")
}

/// Waits until it says that requests fail, and this of why.
#[track_caller]
fn fails(collector: &Collector, why: [&str; 2]) {
    wait_for(&format!("a reason with {why:?}"), || {
        let target = collector.target();
        let reason = target["reason"].as_str()?;
        let said = target["state"] == "failing" && why.iter().all(|part| reason.contains(part));
        said.then_some(())
    });
}

#[test]
fn a_receiver_that_trusts_only_its_own_authority_gets_all_once_both_sides_are_right() {
    let dir = tempfile::tempdir().unwrap();
    let certs = authority(&dir.path().join("certs"));
    let others = authority(&dir.path().join("others"));
    let receiver = Guarded::start(Kind::PatientPrometheus, dir.path(), &certs);
    let url = receiver.url();
    let good = format!("{}{}", ca_file(&certs), identity(&certs));

    // Signed by nobody whom we were told of.
    let wrong = config(&url, &format!("{}{}", ca_file(&others), identity(&certs)));
    let collector = Collector::start(dir.path(), &wrong);
    collector.publish("d", "metrics", &frames(0, 10, now_ms() - 1_000));
    fails(
        &collector,
        ["invalid peer certificate", "authority with ca_file"],
    );
    collector.stop();

    // Without a certificate of ours.
    let collector = Collector::start(dir.path(), &config(&url, &ca_file(&certs)));
    fails(&collector, ["fatal alert", "with cert_file and key_file"]);
    collector.stop();

    // With one that the receiver's authority did not sign.
    let stranger = config(&url, &format!("{}{}", ca_file(&certs), identity(&others)));
    let collector = Collector::start(dir.path(), &stranger);
    fails(&collector, ["fatal alert", "with cert_file and key_file"]);
    collector.stop();
    assert_eq!(receiver.samples(), 0);

    // What could not be sent meanwhile was kept.
    let collector = Collector::start(dir.path(), &config(&url, &good));
    wait_for("all are there", || (receiver.samples() == 10).then_some(()));
    let target = collector.target();
    assert_eq!(
        (&target["state"], &target["reason"]),
        (&"ok".into(), &Json::Null)
    );
}

#[test]
fn a_receiver_with_a_private_authority_needs_ca_file_only() {
    let dir = tempfile::tempdir().unwrap();
    let certs = authority(&dir.path().join("certs"));
    let receiver = Guarded::start(Kind::VictoriaMetrics, dir.path(), &certs);
    let collector = Collector::start(dir.path(), &config(&receiver.url(), &ca_file(&certs)));
    collector.publish("d", "metrics", &frames(0, 10, now_ms() - 60_000));
    wait_for("all are there", || (receiver.samples() == 10).then_some(()));
    collector.stop();

    // The certificate is for 127.0.0.1.
    let elsewhere = receiver.url().replace("127.0.0.1", "localhost");
    let collector = Collector::start(dir.path(), &config(&elsewhere, &ca_file(&certs)));
    collector.publish("d", "metrics", &frames(10, 1, now_ms()));
    fails(&collector, ["not valid for name", "into url"]);
}

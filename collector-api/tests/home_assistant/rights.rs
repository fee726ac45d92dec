//! What the broker has to allow: the rights of `examples/mosquitto/acl.conf` are enough, and fewer are noticed.

use std::path::{Path, PathBuf};

use devmon_core::tls::CertFiles;

use crate::broker::{Broker, free_port, wait_for};
use crate::collector::{Collector, send};

const ALL: &str = "[home_assistant]\nenabled = true\npaths = ['/cpu/**']\ninterval = '1s'\n";

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/mosquitto/acl.conf")
}

/// mosquitto as in the example: each client is who its certificate says, and its rights are in `acl`. The tests' own client is Home Assistant.
fn guarded(dir: &Path, acl: &Path) -> Broker {
    let certs = dir.join("certs");
    devmon_collector::certs::init(&certs, &["127.0.0.1".into(), "localhost".into()]).unwrap();
    for device in ["home-assistant", "d"] {
        devmon_collector::certs::device(&certs, &device.parse().unwrap()).unwrap();
    }
    let own = CertFiles::named(&certs, "collector");
    let more = format!(
        "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\nuse_identity_as_username true\nallow_anonymous false\nacl_file {}\n",
        own.ca.display(),
        own.cert.display(),
        own.key.display(),
        acl.display()
    );
    Broker::start_with(dir, free_port(), &more, client(&certs, "home-assistant"))
}

fn client(certs: &Path, name: &str) -> Vec<String> {
    let files = CertFiles::named(certs, name);
    let options = [
        ("--cafile", files.ca),
        ("--cert", files.cert),
        ("--key", files.key),
    ];
    let text = options.map(|(option, path)| [option.to_owned(), path.display().to_string()]);
    text.into_iter().flatten().collect()
}

#[test]
fn the_rights_of_the_example_are_enough() {
    let dir = tempfile::tempdir().unwrap();
    let home_assistant = guarded(dir.path(), &example());
    let port = home_assistant.port;
    let config = format!("certs = '{}'\n{ALL}", dir.path().join("certs").display());
    let collector = Collector::start(dir.path(), &format!("mqtts://localhost:{port}"), &config);
    let device = home_assistant.as_client(client(&dir.path().join("certs"), "d"));
    send(&device, "d", 1, r#"{"utilization":0.5}"#);
    wait_for("Home Assistant can read it", || {
        let retained = home_assistant.retained();
        let config = retained.keys().any(|topic| topic.ends_with("/config"));
        let state = retained.keys().any(|topic| topic.ends_with("/d/state"));
        (config && state).then_some(())
    });
    home_assistant.publish("homeassistant/status", "online");
    wait_for("the birth message is heard", || {
        (collector.status()["home_assistant"]["births"] == 1).then_some(())
    });
    collector.settled(1);
}

#[test]
fn a_broker_that_lets_nothing_through_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("acl.conf");
    let reading = "user collector\ntopic read devmon/#\ntopic read homeassistant/#\n";
    std::fs::write(&acl, reading).unwrap();
    let broker = guarded(dir.path(), &acl);
    let config = format!("certs = '{}'\n{ALL}", dir.path().join("certs").display());
    let url = format!("mqtts://localhost:{}", broker.port);
    let collector = Collector::start(dir.path(), &url, &config);
    let said = wait_for("it says so", || {
        let said = collector.status()["home_assistant"].clone();
        let reason = said["reason"].as_str().unwrap_or_default();
        reason.contains("may write and read there").then_some(said)
    });
    assert_eq!(said["state"], "failing");
}

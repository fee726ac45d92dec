//! The main job, as a user runs it: this host's real metrics, from the plugins to the API; straight to the collector, and through a real mosquitto
//! with mutual TLS and the certificate names of AWS IoT Core's set-up.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

mod harness;

use std::path::Path;

use harness::{
    Mosquitto, Program, agent, all_pages, collector, encode, free_port, get, get_json, plugin_dir,
    wait_for,
};
use serde_json::{Value as Json, json};

const DEVICE: &str = "edge_device_01";

/// Waits until the device has samples of cpu utilization: by then every source has run.
fn first_samples(http: &str) -> Json {
    let url = format!("{http}/api/v1/devices/{DEVICE}/latest");
    wait_for("cpu utilization arrives", || {
        let (status, _, text) = get(&url);
        let reply: Json = serde_json::from_str(&text).unwrap();
        let there = status == 200
            && items(&reply)
                .iter()
                .any(|i| i["path"] == "/cpu/utilization");
        there.then_some(reply)
    })
}

fn items(reply: &Json) -> Vec<Json> {
    reply["items"].as_array().cloned().unwrap_or_default()
}

fn value(latest: &Json, path: &str) -> Json {
    let found = items(latest).into_iter().find(|i| i["path"] == path);
    found.unwrap_or_else(|| panic!("no {path} in {latest}"))["value"].clone()
}

/// The value that the kernel itself gives, to hold the API's against.
fn mem_total_bytes() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let kib = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .unwrap();
    kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Everything that must hold however the samples came.
fn check_host(http: &str) {
    let latest = first_samples(http);
    let ratio = |path: &str| {
        let x = value(&latest, path).as_f64().unwrap();
        assert!((0.0..=1.0).contains(&x), "{path} = {x}");
        x
    };
    ratio("/cpu/utilization");
    ratio("/cpu/core/0/utilization");
    assert!(ratio("/memory/utilization") > 0.0);
    ratio("/disk/~1/utilization");
    assert_eq!(value(&latest, "/memory/total_bytes"), mem_total_bytes());
    let statvfs = std::process::Command::new("stat")
        .args(["-f", "-c", "%S %b", "/"])
        .output()
        .unwrap();
    let total: u64 = String::from_utf8(statvfs.stdout)
        .unwrap()
        .split_whitespace()
        .map(|n| n.parse::<u64>().unwrap())
        .product();
    assert_eq!(value(&latest, "/disk/~1/total_bytes"), total);

    let tree = get_json(&format!(
        "{http}/api/v1/devices/{DEVICE}/latest?format=tree&prefix=/memory"
    ));
    assert_eq!(tree["metrics"]["memory"]["total_bytes"], mem_total_bytes());
    assert!(
        tree["metrics"]["cpu"].is_null(),
        "the prefix did not hold: {tree}"
    );

    // About: host facts, and each source with its state. No GPU is no error.
    let measures = |card: std::fs::DirEntry| {
        let driver = std::fs::read_link(card.path().join("device/driver"));
        driver.is_ok_and(|d| {
            ["amdgpu", "radeon", "i915", "xe"]
                .iter()
                .any(|name| d.ends_with(name))
        })
    };
    let cards = std::fs::read_dir("/sys/class/drm").into_iter().flatten();
    let no_driver = !Path::new("/dev/nvidiactl").exists() && !cards.flatten().any(measures);
    let device = wait_for(
        "about arrives, with the state of each source after its first round",
        || {
            let device = get_json(&format!("{http}/api/v1/devices/{DEVICE}"));
            let sources = device["sources"].as_array()?;
            let gpu = sources.iter().find(|s| s["name"] == "gpu")?;
            // The four plugins, and the agent itself.
            (sources.len() == 5 && (gpu["state"] == "unavailable") == no_driver).then_some(device)
        },
    );
    assert_eq!(device["status"], "online");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(device["host"]["kernel"], kernel.trim());
    for source in device["sources"].as_array().unwrap() {
        let gpu = source["name"] == "gpu" && no_driver;
        assert_eq!(
            source["state"],
            if gpu { "unavailable" } else { "ok" },
            "{source}"
        );
        assert_eq!(source["reason"].is_string(), gpu, "{source}");
    }

    let metrics = all_pages(&format!(
        "{http}/api/v1/devices/{DEVICE}/metrics?prefix=/disk&limit=2"
    ));
    let used = metrics
        .iter()
        .find(|m| m["path"] == "/disk/~1/used_bytes")
        .unwrap();
    assert_eq!(
        (&used["unit"], &used["kind"], &used["labels"]),
        (&json!("By"), &json!("gauge"), &json!({"mount": "/"}))
    );
    assert!(
        metrics
            .iter()
            .all(|m| m["path"].as_str().unwrap().starts_with("/disk/"))
    );

    // The series grows, and never begins with a utilization of a first round that measured nothing.
    let url = format!(
        "{http}/api/v1/devices/{DEVICE}/series?path={}&from=-5m",
        encode("/cpu/utilization")
    );
    let series = wait_for("three samples", || {
        let series = get_json(&url);
        (series["t"].as_array()?.len() >= 3).then_some(series)
    });
    let times: Vec<i64> = series["t"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_i64().unwrap())
        .collect();
    assert!(times.is_sorted_by(|a, b| a < b));
    assert!(
        times.iter().all(|t| t % 1000 == 0),
        "ticks are multiples of the interval: {times:?}"
    );
    let stepped = get_json(&format!("{url}&step=1m&agg=count"));
    let counted: u64 = stepped["series"][0]["v"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Json::as_u64)
        .sum();
    assert!(counted >= times.len() as u64, "{stepped}");
}

fn wait_for_status(http: &str, status: &str) {
    wait_for(status, || {
        (get_json(&format!("{http}/api/v1/devices/{DEVICE}"))["status"] == status).then_some(())
    });
}

#[test]
fn this_hosts_metrics_arrive_straight_at_the_collector() {
    let dir = harness::tempdir();
    let plugins = plugin_dir(dir.path());
    let collector = collector(&dir.path().join("data"), &["--mqtt-listen", "127.0.0.1:0"]);
    let (http, mqtt) = (collector.named("http"), collector.named("mqtt"));
    let agent = agent(
        DEVICE,
        &plugins,
        &dir.path().join("state"),
        &["--mqtt", &mqtt],
    );
    check_host(&http);

    // An orderly end is a good-bye; a kill is found out by the last will. Both are offline, neither stops the other's data from being served.
    assert_eq!(agent.terminate(), Some(0));
    wait_for_status(&http, "offline");
    let agent = harness::agent(
        DEVICE,
        &plugins,
        &dir.path().join("state"),
        &["--mqtt", &mqtt],
    );
    wait_for_status(&http, "online");
    agent.kill_9();
    wait_for_status(&http, "offline");
    assert_eq!(get(&format!("{http}/livez")).0, 200);
    assert_eq!(collector.terminate(), Some(0));
}

/// A CA and identities signed by it, under the names that AWS IoT Core's set-up uses.
fn make_certificates(dir: &Path, names: &[&str]) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(
        dir.join("root-CA.crt"),
        ca.self_signed(&ca_key).unwrap().pem(),
    )
    .unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    for name in names {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params =
            rcgen::CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, *name);
        std::fs::write(
            dir.join(format!("{name}.cert.pem")),
            params.signed_by(&key, &issuer).unwrap().pem(),
        )
        .unwrap();
        std::fs::write(dir.join(format!("{name}.private.key")), key.serialize_pem()).unwrap();
    }
}

#[test]
fn the_same_through_mosquitto_with_mutual_tls() {
    let dir = harness::tempdir();
    let certs = dir.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    make_certificates(&certs, &["broker", "collector", DEVICE, "edge_device_02"]);
    // The policy of the README: a device writes below its own name only, the collector only reads.
    let acl = dir.path().join("acl");
    std::fs::write(
        &acl,
        "pattern write devmon/v1/+/%u/#\n\nuser collector\ntopic read devmon/v1/#\n",
    )
    .unwrap();
    let c = certs.display();
    let broker = Mosquitto::start(
        dir.path(),
        &format!(
            "cafile {c}/root-CA.crt\ncertfile {c}/broker.cert.pem\nkeyfile {c}/broker.private.key\n\
             require_certificate true\nuse_identity_as_username true\nacl_file {}\nallow_anonymous false",
            acl.display()
        ),
    );
    let url = format!("mqtts://localhost:{}", broker.port);
    let certs_arg = certs.to_str().unwrap();
    let collector = collector(
        &dir.path().join("data"),
        &[
            "--mqtt-listen",
            "off",
            "--broker",
            &url,
            "--certs",
            certs_arg,
        ],
    );
    let plugins = plugin_dir(dir.path());
    let state = dir.path().join("state");
    let http = collector.named("http");
    let agent = agent(
        DEVICE,
        &plugins,
        &state,
        &["--mqtt", &url, "--certs", certs_arg],
    );
    check_host(&http);
    agent.kill_9();
    wait_for_status(&http, "offline");
    assert_eq!(collector.terminate(), Some(0));
}

#[test]
fn a_device_of_its_own_listener_can_not_speak_for_another() {
    let dir = harness::tempdir();
    let certs = dir.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    make_certificates(&certs, &["collector", DEVICE]);
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let collector = collector(
        &dir.path().join("data"),
        &["--mqtt-listen", &listen, "--certs", certs.to_str().unwrap()],
    );
    let http = collector.named("http");
    let publish = |device: &str| {
        let c = certs.display();
        let status = std::process::Command::new("mosquitto_pub")
            .args([
                "-h",
                "localhost",
                "-p",
                &port.to_string(),
                "-q",
                "1",
                "-i",
                DEVICE,
            ])
            .args([
                "--cafile",
                &format!("{c}/root-CA.crt"),
                "--cert",
                &format!("{c}/{DEVICE}.cert.pem"),
            ])
            .args(["--key", &format!("{c}/{DEVICE}.private.key")])
            .args([
                "-t",
                &format!("devmon/v1/0/{device}/metrics"),
                "-m",
                r#"{"metrics":{"a":1}}"#,
            ])
            .status()
            .unwrap();
        assert!(status.success(), "mosquitto_pub: {status}");
    };
    publish(DEVICE);
    publish("somebody_else");
    let letters = get_json(&format!("{http}/api/v1/dead-letters"));
    assert_eq!(items(&letters).len(), 1, "{letters}");
    assert_eq!(letters["items"][0]["reason"], "not_authorized");
    let devices = get_json(&format!("{http}/api/v1/devices"));
    assert_eq!(
        items(&devices)
            .iter()
            .map(|d| d["id"].clone())
            .collect::<Vec<_>>(),
        [json!(DEVICE)]
    );

    // Without a certificate there is no connection at all.
    let refused = std::process::Command::new("mosquitto_pub")
        .args([
            "-h",
            "localhost",
            "-p",
            &port.to_string(),
            "-q",
            "1",
            "-t",
            "x",
            "-m",
            "x",
        ])
        .args(["--cafile", &format!("{}/root-CA.crt", certs.display())])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    drop::<Program>(collector);
}

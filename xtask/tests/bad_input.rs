//! Bad input from outside: each has its own clear answer, is counted by its reason and kept whole, and hurts nothing else.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

mod harness;

use std::io::Write;
use std::process::{Command, Stdio};

use harness::{all_pages, bin_dir, collector, free_port, get, get_json};

/// Publishes with mosquitto_pub at QoS 1, which returns once the PUBACK has come.
fn publish(port: &str, topic: &str, payload: &[u8]) {
    let mut child = Command::new("mosquitto_pub")
        .args(["-p", port, "-q", "1", "-t", topic, "-s"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(payload).unwrap();
    let status = child.wait().unwrap();
    assert!(
        status.success(),
        "bad input must be acknowledged, or it comes back for ever: {status}"
    );
}

fn agent_form(metrics: &str, ts: i64) -> Vec<u8> {
    format!(r#"{{"v":1,"device":"d","boot":"B","seq":1,"frames":[{{"ts":{ts},"source":"s","metrics":{metrics}}}]}}"#)
        .into_bytes()
}

#[test]
fn every_bad_message_is_acknowledged_counted_and_kept_whole() {
    let dir = harness::tempdir();
    let collector = collector(dir.path(), &["--mqtt-listen", "127.0.0.1:0"]);
    let http = collector.named("http");
    let mqtt = collector.named("mqtt");
    let port = mqtt.rsplit(':').next().unwrap();
    let now = 1_790_000_000_000;
    let year_ahead = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis() as i64
        + 365 * 86_400_000;
    let nested = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    let wide: Vec<String> = (0..10_001).map(|i| format!("\"{i}\":1")).collect();
    // 64 MiB of spaces in a few KB.
    let bomb = zstd_bomb();
    let metrics = "devmon/v1/0/d/metrics";
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        (metrics, b"{not json".to_vec(), "invalid_json"),
        (
            metrics,
            b"{\"metrics\":{\"a\xff\":1}}".to_vec(),
            "invalid_utf8",
        ),
        (metrics, vec![b'x'; 1_000_000], "payload_too_large"),
        (metrics, agent_form(&nested(17), now), "too_deep"),
        (
            metrics,
            agent_form(&format!("{{{}}}", wide.join(",")), now),
            "too_many_leaves",
        ),
        (metrics, agent_form(r#"{"":1}"#, now), "invalid_name"),
        (metrics, agent_form(r#"{"a":NaN}"#, now), "invalid_json"),
        (metrics, agent_form(r#"{"a":[1]}"#, now), "invalid_value"),
        (
            metrics,
            agent_form(r#"{"a":1}"#, year_ahead),
            "timestamp_out_of_range",
        ),
        (
            metrics,
            agent_form(r#"{"a":1}"#, 0),
            "timestamp_out_of_range",
        ),
        (metrics, br#"{"hello":"world"}"#.to_vec(), "invalid_message"),
        (
            metrics,
            br#"{"v":9,"boot":"B","seq":1,"frames":[]}"#.to_vec(),
            "unsupported_version",
        ),
        (metrics, bomb, "payload_too_large"),
        (
            metrics,
            vec![0x28, 0xb5, 0x2f, 0xfd, 9, 9, 9],
            "invalid_compression",
        ),
        (
            "devmon/v1/0/other/metrics",
            agent_form("{}", now),
            "device_mismatch",
        ),
        (
            "devmon/v1/0/_no/metrics",
            br#"{"metrics":{"a":1}}"#.to_vec(),
            "invalid_topic",
        ),
        ("something/else", b"hello".to_vec(), "invalid_topic"),
        (
            "devmon/v1/0/d/status",
            br#"{"status":"asleep"}"#.to_vec(),
            "invalid_message",
        ),
        ("devmon/v1/0/d/about", b"nonsense".to_vec(), "invalid_json"),
    ];
    for (topic, payload, _) in &rows {
        publish(port, topic, payload);
    }
    // Between and after them, good input is stored as ever.
    publish(
        port,
        "devmon/v1/0/well/metrics",
        br#"{"metrics":{"temperature_celsius":21.5}}"#,
    );
    let latest = get_json(&format!("{http}/api/v1/devices/well/latest"));
    assert_eq!(latest["items"][0]["value"], 21.5);
    assert_eq!(
        get(&format!("{http}/api/v1/devices/d/latest")).0,
        404,
        "a bad message made a device"
    );

    let mut letters = all_pages(&format!("{http}/api/v1/dead-letters?limit=7"));
    letters.reverse();
    assert_eq!(letters.len(), rows.len());
    for ((topic, payload, reason), letter) in rows.iter().zip(&letters) {
        assert_eq!(
            (&letter["reason"], &letter["topic"]),
            (&(*reason).into(), &(*topic).into()),
            "{letter}"
        );
        assert!(!letter["detail"].as_str().unwrap().is_empty(), "{letter}");
        assert_eq!(letter["size"], payload.len());
        let url = format!(
            "{http}/api/v1/dead-letters/{}",
            letter["id"].as_str().unwrap()
        );
        assert_eq!(get_bytes(&url), *payload, "{reason} was not kept whole");
    }
    let status = get_json(&format!("{http}/api/v1/status"));
    assert_eq!(status["intake"]["dead_letters"], rows.len());
    for reason in [
        "invalid_json",
        "timestamp_out_of_range",
        "payload_too_large",
        "invalid_message",
    ] {
        let expected = rows.iter().filter(|(_, _, r)| *r == reason).count();
        assert_eq!(
            status["intake"]["rejected"][reason], expected,
            "{reason}: {status}"
        );
    }
}

fn zstd_bomb() -> Vec<u8> {
    let mut child = Command::new("zstd")
        .args(["-19", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feed = std::thread::spawn(move || stdin.write_all(&vec![b' '; 64 << 20]).unwrap());
    let out = child.wait_with_output().unwrap();
    feed.join().unwrap();
    assert!(out.stdout.len() < 64 << 10);
    out.stdout
}

fn get_bytes(url: &str) -> Vec<u8> {
    let out = Command::new("curl").args(["-sf", url]).output().unwrap();
    assert!(out.status.success(), "{url}");
    out.stdout
}

/// Runs a program that must end with a message on standard error.
fn fails(program: &str, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(bin_dir().join(program));
    command
        .args(args)
        .env_remove("AWS_IOT_ENDPOINT")
        .env_remove("DEVICE_NAME");
    let out = command.output().unwrap();
    (
        out.status.code(),
        String::from_utf8_lossy(&out.stderr).into_owned(),
    )
}

#[test]
fn bad_configuration_says_what_where_and_what_to_do() {
    let dir = harness::tempdir();
    let config = dir.path().join("devmon.toml");
    std::fs::write(&config, "# first line\nintervall = \"10s\"\n").unwrap();
    let config = config.to_str().unwrap();
    let (code, text) = fails("devmon-agent", &["check", "--config", config]);
    assert_eq!(code, Some(78), "{text}");
    assert!(
        text.contains("devmon.toml:2:1") && text.contains("did you mean \"interval\""),
        "{text}"
    );
    let (code, text) = fails("devmon-collector", &["check", "--config", config]);
    assert_eq!(code, Some(78), "{text}");
    assert!(
        text.contains("devmon.toml:2:1") && text.contains("\"intervall\""),
        "{text}"
    );

    // A key file that is no key; the file is named.
    let certs = dir.path();
    for name in ["root-CA.crt", "d.cert.pem", "d.private.key"] {
        std::fs::write(certs.join(name), "nonsense").unwrap();
    }
    let args = [
        "run",
        "--device",
        "d",
        "--mqtt",
        "mqtts://127.0.0.1:1",
        "--certs",
        certs.to_str().unwrap(),
    ];
    let (code, text) = fails("devmon-agent", &args);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("root-CA.crt"), "{text}");

    // A port in use: which one, and what to do.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let data = dir.path().join("data");
    let args = [
        "run",
        "--data-dir",
        data.to_str().unwrap(),
        "--http",
        &addr,
        "--mqtt-listen",
        "127.0.0.1:0",
    ];
    let (code, text) = fails("devmon-collector", &args);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&addr) && text.contains("--http"), "{text}");

    // Two collectors on one data directory.
    let port = free_port();
    let first = collector(&data, &["--mqtt-listen", &format!("127.0.0.1:{port}")]);
    let args = [
        "run",
        "--data-dir",
        data.to_str().unwrap(),
        "--http",
        "127.0.0.1:0",
        "--mqtt-listen",
        "127.0.0.1:0",
    ];
    let (code, text) = fails("devmon-collector", &args);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("in use"), "{text}");
    drop(first);
}

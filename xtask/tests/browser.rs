//! The dashboard in a real Chromium over the real collector and agent: this host is listed, its tree shown, its chart moves.

mod harness;

use std::process::Command;

use harness::{agent, collector, plugin_dir, root};

#[test]
fn the_page_shows_this_host_and_its_chart_moves() {
    let dir = harness::tempdir();
    let collector = collector(&dir.path().join("data"), &["--mqtt-listen", "127.0.0.1:0"]);
    let mqtt = collector.named("mqtt");
    let _agent = agent(
        "edge_device_01",
        &plugin_dir(dir.path()),
        &dir.path().join("state"),
        &["--mqtt", &mqtt],
    );
    let out = Command::new("node")
        .args(["e2e/live.mjs", &collector.named("http"), "edge_device_01"])
        .current_dir(root().join("web"))
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(out.status.success(), "{text}");
    assert!(text.contains("moved from"), "{text}");
}

//! `cargo xtask chaos` in short: everything fails in random order, and nothing that was acknowledged is missing, doubled or other than it was sent. And that the check finds a hole
//! where one has to be.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

use std::sync::atomic::AtomicBool;

use tempfile::TempDir;
use xtask::chaos::{Chaos, Event, Summary};

mod harness;

const ALL: [Event; 6] = [
    Event::Broker,
    Event::Network,
    Event::Backbone,
    Event::Agent,
    Event::Clock,
    Event::Collector,
];

/// The run, and its folder, which a failure keeps.
fn chaos(seed: u64, events: &[Event], agent_config: Option<&str>) -> (Summary, TempDir) {
    let dir = harness::tempdir();
    let config = agent_config.map(|text| {
        let file = dir.path().join("agent.toml");
        std::fs::write(&file, text).unwrap();
        file
    });
    let chaos = Chaos {
        minutes: 1.0,
        seed: Some(seed),
        short: true,
        agents: 3,
        events: events.to_vec(),
        agent_config: config,
        may_lose_ms: 0,
        bin: None,
        dir: Some(dir.path().join("chaos")),
    };
    match chaos.chaos(&harness::bin_dir(), &AtomicBool::new(false)) {
        Ok(summary) => {
            println!("{summary}");
            (summary, dir)
        }
        Err(error) => panic!("{error:#}; {}", dir.keep().display()),
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_no_series_has_a_hole_but_where_its_device_was_dead() {
    let (summary, dir) = chaos(3, &ALL, None);
    if !summary.kinds.is_empty() {
        panic!("{:#?}\n{}", summary.faults, dir.keep().display());
    }
    assert_eq!(summary.events.len(), 6, "not all has happened: {summary}");
    assert!(
        // What mosquitto acknowledged and had not written when it was killed is nobody's to keep.
        summary.due > 2000 && summary.due == summary.found + summary.lost_by_broker,
        "{summary}"
    );
    assert!(summary.ticks_due > 500, "{summary}");
    assert!(
        summary.again > 0 && summary.backlog > 0,
        "no outage did anything: {summary}"
    );
    // A mosquitto that never writes would excuse everything.
    assert!(summary.lost_by_broker * 10 < summary.due, "{summary}");
}

#[test]
fn a_kill_that_costs_an_agent_what_it_had_in_memory_is_found_as_a_hole() {
    // Within 5 s of an outage this agent has written nothing down, and is killed in some.
    let events = [Event::Broker, Event::Network, Event::Agent];
    let relaxed = "[spool]\ndurability = \"relaxed\"\n";
    let (summary, _dir) = chaos(3, &events, Some(relaxed));
    let never = |kind: &&str| kind.starts_with("hole, never ");
    assert!(summary.kinds.keys().any(never), "{summary}");
}

//! A short `cargo xtask soak`: the collector killed with -9 at random moments, at start, under load, while it seals, archives, makes days coarser and removes them; nothing
//! acknowledged is missing or doubled.

mod harness;

use xtask::soak::Soak;

#[test]
fn nothing_acknowledged_is_missing_or_doubled_after_many_kills() {
    let dir = harness::tempdir();
    let data = dir.path().join("data");
    let soak = Soak {
        loops: 40,
        minutes: None,
        seed: 20,
        collector: Some(harness::bin_dir().join("devmon-collector")),
        dev: true,
        data: Some(data.clone()),
        check_every: 10,
        messages: 1500,
        config: String::new(),
        retention_cycles: None,
    };
    let summary = match soak.soak(true) {
        Ok(summary) => summary,
        Err(error) => {
            let kept = dir.keep(); // for whoever looks into it
            panic!("{error:#}; {}", kept.display());
        }
    };
    println!("{summary}");
    assert_eq!((summary.loops, summary.checks), (40, 5));
    assert!(summary.acknowledged > 500, "{summary}");
    assert!(
        summary.samples_due > 10_000,
        "little had to be there: {summary}"
    );
    assert!(summary.cut_off > 0, "no kill came under load: {summary}");
    assert!(summary.repeats > 0 && summary.late > 0, "{summary}");
    assert!(
        summary.kills.get("at start").is_some_and(|n| *n > 0),
        "{summary}"
    );
    for work in ["sealed", "a day was archived", "making a day coarser"] {
        assert!(summary.logged(work) > 0, "{work}: {summary}");
    }
    assert!(
        summary.minutes > 1000 && summary.hours > 100,
        "few rollups were compared: {summary}"
    );
    assert!(!summary.interrupted.is_empty(), "{summary}");
    assert_eq!(summary.verified, summary.checks);
    assert!(!data.exists(), "a good end cleans up");
}

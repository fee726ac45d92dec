//! The one way in: what is good is stored, what is not is kept with its reason, and nothing is acknowledged that is not on disk.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

use std::collections::BTreeSet;
use std::sync::Arc;

use devmon_collector::intake::{Intake, IntakeSettings, Outcome, Publish, WriterGuard};
use devmon_collector::query::devices::patience_ms;
use devmon_collector::store::engine::Store;
use devmon_collector::store::{Engine, Gaps, Options};
use devmon_core::wire::about::{About, Presence};
use devmon_core::wire::{Reason, TimestampMs};

const TOPIC: &str = "devmon/v1/0/d/metrics";

struct Setup {
    store: Arc<Engine>,
    intake: Intake,
    _writer: WriterGuard,
    _dir: tempfile::TempDir,
}

fn setup() -> Setup {
    with_options(Options::default())
}

fn with_options(options: Options) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Engine::open(dir.path(), options).unwrap());
    let (intake, writer) = Intake::new(store.clone(), IntakeSettings::default());
    Setup {
        store,
        intake,
        _writer: writer,
        _dir: dir,
    }
}

fn full(frames: &str) -> String {
    format!(r#"{{"v":1,"device":"d","boot":"B","seq":1,"frames":[{frames}]}}"#)
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, 3).unwrap()
}

/// Every reason, with the messages that must meet it.
fn refused() -> Vec<(Reason, &'static str, Vec<u8>)> {
    let year_ahead = TimestampMs::now().0 + 365 * 86_400_000;
    let deep = |levels: usize| {
        let (open, close) = (r#"{"d":"#.repeat(levels), "}".repeat(levels));
        format!(r#"{{"metrics":{open}1{close}}}"#)
    };
    let wide: Vec<String> = (0..10_001).map(|i| format!(r#""m{i}":1"#)).collect();
    let about = |device: &str, v: u8| {
        format!(
            r#"{{"v":{v},"device":"{device}","ts":1,"agent":{{"version":"1"}},"host":{{}},"sources":[],"descriptors":[]}}"#
        )
    };
    let (metrics, status, about_topic) = (TOPIC, "devmon/v1/0/d/status", "devmon/v1/0/d/about");
    let text = |reason, topic, payload: String| (reason, topic, payload.into_bytes());
    vec![
        text(Reason::InvalidTopic, "devmon/v1/0/d/other", "{}".into()),
        text(Reason::InvalidTopic, "elsewhere", "{}".into()),
        text(Reason::InvalidTopic, "devmon/v1/0/_d/metrics", "{}".into()),
        (Reason::PayloadTooLarge, metrics, vec![b' '; 1_000_000]),
        // A bomb: 64 MiB of zeros in a few KiB.
        (Reason::PayloadTooLarge, metrics, zstd(&vec![0; 64 << 20])),
        (Reason::PayloadTooLarge, about_topic, vec![b' '; 600_000]),
        (
            Reason::InvalidCompression,
            metrics,
            b"\x28\xb5\x2f\xfd not zstd".to_vec(),
        ),
        (
            Reason::InvalidCompression,
            metrics,
            zstd(b"{\"metrics\":{\"a\":1}}")[..12].to_vec(),
        ),
        (
            Reason::InvalidUtf8,
            metrics,
            b"{\"metrics\":{\"a\xff\":1}}".to_vec(),
        ),
        (Reason::InvalidUtf8, status, b"\xff".to_vec()),
        text(Reason::InvalidJson, metrics, "hello".into()),
        text(Reason::InvalidJson, metrics, String::new()),
        text(
            Reason::InvalidJson,
            metrics,
            r#"{"metrics":{"a":NaN}}"#.into(),
        ),
        text(
            Reason::InvalidJson,
            metrics,
            r#"{"metrics":{"a":Infinity}}"#.into(),
        ),
        text(
            Reason::InvalidJson,
            metrics,
            r#"{"metrics":{"a":1}} tail"#.into(),
        ),
        text(Reason::InvalidJson, status, "online".into()),
        text(Reason::InvalidMessage, metrics, "[]".into()),
        text(
            Reason::InvalidMessage,
            metrics,
            r#"{"v":1,"frames":[]}"#.into(),
        ),
        text(
            Reason::InvalidMessage,
            metrics,
            full(r#"{"source":"s","metrics":{}}"#),
        ),
        text(
            Reason::InvalidMessage,
            status,
            r#"{"status":"sleeping"}"#.into(),
        ),
        text(
            Reason::InvalidMessage,
            about_topic,
            r#"{"device":"d"}"#.into(),
        ),
        text(
            Reason::UnsupportedVersion,
            metrics,
            r#"{"v":2,"metrics":{}}"#.into(),
        ),
        text(Reason::UnsupportedVersion, about_topic, about("d", 2)),
        text(
            Reason::DeviceMismatch,
            metrics,
            r#"{"device":"e","metrics":{"a":1}}"#.into(),
        ),
        text(Reason::DeviceMismatch, about_topic, about("e", 1)),
        text(Reason::InvalidName, metrics, r#"{"metrics":{"":1}}"#.into()),
        text(
            Reason::InvalidName,
            metrics,
            r#"{"metrics":{"a":1,"a":2}}"#.into(),
        ),
        text(
            Reason::InvalidName,
            metrics,
            full(r#"{"ts":1795450000000,"source":"","metrics":{}}"#),
        ),
        text(Reason::TooDeep, metrics, deep(17)),
        text(
            Reason::TooManyLeaves,
            metrics,
            format!(r#"{{"metrics":{{{}}}}}"#, wide.join(",")),
        ),
        text(
            Reason::InvalidValue,
            metrics,
            r#"{"metrics":{"a":[1,2]}}"#.into(),
        ),
        text(
            Reason::InvalidValue,
            metrics,
            r#"{"metrics":{"a":9223372036854775808}}"#.into(),
        ),
        text(
            Reason::InvalidValue,
            metrics,
            format!(r#"{{"metrics":{{"a":"{}"}}}}"#, "x".repeat(1025)),
        ),
        text(
            Reason::TimestampOutOfRange,
            metrics,
            format!(r#"{{"ts":{year_ahead},"metrics":{{"a":1}}}}"#),
        ),
        text(
            Reason::TimestampOutOfRange,
            metrics,
            full(r#"{"ts":1000,"source":"s","metrics":{"a":1}}"#),
        ),
    ]
}

#[tokio::test]
async fn every_reason_is_met_counted_and_kept_whole() {
    let setup = setup();
    let rows = refused();
    let met: BTreeSet<Reason> = rows.iter().map(|(reason, ..)| *reason).collect();
    let unmet: Vec<_> = Reason::ALL.iter().filter(|r| !met.contains(r)).collect();
    let of_their_own = [
        &Reason::NotAuthorized,
        &Reason::TooManyDevices,
        &Reason::TooManySeries,
    ];
    assert_eq!(unmet, of_their_own, "which have a test of their own");
    for (reason, topic, payload) in rows {
        let before = setup.intake.status().refused[reason.as_str()];
        let publish = Publish::new(topic, payload.clone());
        assert_eq!(
            setup.intake.accept(publish).await,
            Outcome::Acknowledge,
            "{reason}: or it would come again for ever"
        );
        let letter = setup.store.dead_letters(None, 1).unwrap().remove(0);
        let shown = String::from_utf8_lossy(&payload[..payload.len().min(60)]).into_owned();
        assert_eq!(letter.reason, reason, "{shown}: {}", letter.detail);
        assert_eq!(letter.topic, topic);
        assert_eq!(letter.payload, payload);
        assert!(!letter.detail.is_empty());
        let counted = setup.intake.status().refused[reason.as_str()];
        assert_eq!(counted, before + 1, "{reason}");
    }
    assert!(setup.store.devices(None, 10, &|_| true).is_empty());
    assert_eq!(setup.intake.status().messages, 0);
}

#[tokio::test]
async fn the_smallest_about_is_taken_also_when_it_is_read_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Engine::open(dir.path(), Options::default()).unwrap());
    let (intake, writer) = Intake::new(store.clone(), IntakeSettings::default());
    let abouts = [
        ("a", r#"{"v":1}"#),
        ("b", r#"{"v":1,"agent":{"publish_every_ms":60000}}"#),
        (
            "c",
            r#"{"v":1,"sources":[{"name":"greenhouse","interval_ms":60000}]}"#,
        ),
    ];
    for (device, about) in abouts {
        let publish = Publish::new(format!("devmon/v1/0/{device}/about"), about);
        assert_eq!(intake.accept(publish).await, Outcome::Acknowledge);
    }
    let said = |store: &Engine| {
        let devices = store.devices(None, 10, &|_| true);
        let said = |about: &About| {
            (
                about.device.clone(),
                patience_ms(Some(about), &Gaps::default()),
            )
        };
        let all = devices.iter().map(|d| said(d.about.as_ref().unwrap()));
        all.map(|(device, ms)| (device.unwrap().to_string(), ms))
            .collect::<Vec<_>>()
    };
    let expected = [("a", 15_000), ("b", 180_000), ("c", 180_000)];
    let expected = expected.map(|(device, ms)| (device.to_owned(), ms));
    assert_eq!(said(&store), expected);
    drop((intake, writer, store));
    let store = Engine::open(dir.path(), Options::default()).unwrap();
    assert_eq!(said(&store), expected);
}

#[tokio::test]
async fn a_certificate_speaks_for_its_own_device_only() {
    let setup = setup();
    let from = |identity: &str| Publish {
        identity: Some(identity.into()),
        ..Publish::new(TOPIC, r#"{"metrics":{"a":1}}"#)
    };
    assert_eq!(setup.intake.accept(from("e")).await, Outcome::Acknowledge);
    let letter = setup.store.dead_letters(None, 1).unwrap().remove(0);
    assert_eq!(letter.reason, Reason::NotAuthorized);
    assert!(setup.store.device("d").is_none());
    assert_eq!(setup.intake.accept(from("d")).await, Outcome::Acknowledge);
    assert_eq!(setup.store.series("d", "", None, 10).len(), 1);
}

#[tokio::test]
async fn beyond_the_bounds_of_the_store_a_message_is_kept_whole_and_what_is_known_goes_on() {
    let setup = with_options(Options {
        max_devices: 1,
        max_device_series: 2,
        ..Options::default()
    });
    let known = r#"{"metrics":{"a":1,"b":2}}"#;
    let good = || Publish::new(TOPIC, known);
    assert_eq!(setup.intake.accept(good()).await, Outcome::Acknowledge);
    for (topic, payload, reason, named) in [
        (
            "devmon/v1/0/e/metrics",
            known,
            Reason::TooManyDevices,
            "max_devices",
        ),
        (
            TOPIC,
            r#"{"metrics":{"a":1,"c":2}}"#,
            Reason::TooManySeries,
            "max_device_series",
        ),
    ] {
        let accepted = setup.intake.accept(Publish::new(topic, payload)).await;
        assert_eq!(accepted, Outcome::Acknowledge);
        let letter = setup.store.dead_letters(None, 1).unwrap().remove(0);
        assert_eq!((letter.topic.as_str(), letter.reason), (topic, reason));
        assert_eq!(&letter.payload[..], payload.as_bytes());
        assert!(letter.detail.contains(named), "{}", letter.detail);
        assert_eq!(setup.intake.status().refused[reason.as_str()], 1);
    }
    assert_eq!(setup.intake.accept(good()).await, Outcome::Acknowledge);
    assert_eq!(setup.intake.status().messages, 2);
}

#[tokio::test]
async fn what_is_acknowledged_is_stored_and_a_repeat_counts_once() {
    let setup = setup();
    let payload = full(r#"{"ts":1795450000000,"source":"s","metrics":{"a":1,"b":{"c":2.5}}}"#);
    for _ in 0..3 {
        let outcome = setup.intake.accept(Publish::new(TOPIC, payload.clone()));
        assert_eq!(outcome.await, Outcome::Acknowledge);
    }
    let packed = zstd(full(r#"{"ts":1795450001000,"source":"s","metrics":{"a":2}}"#).as_bytes());
    let packed_is_a_repeat = setup.intake.accept(Publish::new(TOPIC, packed)).await; // the same boot and seq
    assert_eq!(packed_is_a_repeat, Outcome::Acknowledge);
    let status = setup.intake.status();
    assert_eq!(
        (status.messages, status.samples, status.duplicates),
        (1, 2, 3)
    );
    assert!(status.last_commit.is_some());
    let paths: Vec<_> = setup.store.series("d", "", None, 10);
    assert_eq!(paths[0].path.as_str(), "/s/a");
    assert_eq!(paths[1].path.as_str(), "/s/b/c");
}

#[tokio::test]
async fn the_short_form_without_a_time_gets_that_of_its_arrival() {
    let setup = setup();
    let before = TimestampMs::now();
    let publish = Publish::new(TOPIC, r#"{"metrics":{"temperature":20.5}}"#);
    assert_eq!(setup.intake.accept(publish).await, Outcome::Acknowledge);
    let series = setup.store.series("d", "", None, 10).remove(0);
    assert_eq!(series.path.as_str(), "/temperature");
    assert!(series.last_ts >= before && series.last_ts <= TimestampMs::now());
}

#[tokio::test]
async fn a_retained_copy_does_not_make_a_dead_device_look_alive() {
    let setup = setup();
    let status = |retained| Publish {
        retained,
        ..Publish::new("devmon/v1/0/d/status", r#"{"status":"online"}"#)
    };
    assert_eq!(
        setup.intake.accept(status(false)).await,
        Outcome::Acknowledge
    );
    let seen = setup.store.device("d").unwrap().last_seen;
    while TimestampMs::now() == seen {
        std::thread::yield_now();
    }
    assert_eq!(
        setup.intake.accept(status(true)).await,
        Outcome::Acknowledge
    );
    let metrics = Publish {
        retained: true,
        ..Publish::new(TOPIC, r#"{"metrics":{"a":1}}"#)
    };
    assert_eq!(setup.intake.accept(metrics).await, Outcome::Acknowledge);
    let device = setup.store.device("d").unwrap();
    assert_eq!(device.last_seen, seen);
    assert_eq!(device.series, 0, "nobody knows when that sample was taken");
    // A copy that says something new is news, as old as it says.
    let offline = Publish {
        retained: true,
        ..Publish::new(
            "devmon/v1/0/d/status",
            r#"{"status":"offline","ts":1795450000000}"#,
        )
    };
    assert_eq!(setup.intake.accept(offline).await, Outcome::Acknowledge);
    let device = setup.store.device("d").unwrap();
    assert_eq!(device.presence, Some(Presence::Offline));
}

#[tokio::test]
async fn a_payload_beyond_what_a_journal_holds_is_cut_not_refused_for_ever() {
    let setup = setup();
    let publish = Publish::new(TOPIC, vec![b'x'; 20 << 20]);
    assert_eq!(setup.intake.accept(publish).await, Outcome::Acknowledge);
    let letter = setup.store.dead_letters(None, 1).unwrap().remove(0);
    assert_eq!(letter.reason, Reason::PayloadTooLarge);
    assert_eq!(letter.payload.len(), 2 << 20);
    assert!(letter.detail.contains("20971520"), "{}", letter.detail);
}

#[tokio::test]
async fn after_the_stop_nothing_is_acknowledged_and_all_before_is() {
    let Setup {
        store,
        intake,
        _writer: writer,
        _dir,
    } = setup();
    let mut tickets = Vec::new();
    for seq in 0..100 {
        let payload = format!(
            r#"{{"v":1,"boot":"B","seq":{seq},"frames":[{{"ts":1795450000000,"source":"s","metrics":{{"n{seq}":1}}}}]}}"#
        );
        tickets.push(intake.submit(Publish::new(TOPIC, payload)).await);
    }
    tokio::task::spawn_blocking(|| writer.stop()).await.unwrap();
    for ticket in tickets {
        assert_eq!(ticket.await, Outcome::Acknowledge);
    }
    assert_eq!(store.device("d").unwrap().series, 100);
    let late = intake
        .accept(Publish::new(TOPIC, r#"{"metrics":{}}"#))
        .await;
    assert!(matches!(late, Outcome::Refuse(_)));
}

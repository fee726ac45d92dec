//! What has to be said, over a real store and a clock of the test's own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use devmon_core::wire::about::Presence;
use devmon_core::wire::{FlatMessage, TimestampMs};
use serde_json::{Value as Json, json};

use super::desk::{Desk, Message};
use super::progress::Progress;
use super::settings::tests::settings;
use crate::store::engine::{Accepted, Content, Store};
use crate::store::{Engine, Options};

const BASE_MS: i64 = 1_795_450_000_000;
const NODE: &str = "devmon-collector-home-assistant";
const ALL: &str = "enabled = true\npaths = ['/**']\ninterval = '1s'";

struct Bench {
    store: Engine,
    desk: Desk,
    progress: Arc<Progress>,
    begin: Instant,
    seq: u64,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let progress = Arc::new(Progress::default());
        let settings = settings(config).unwrap().unwrap();
        let begin = Instant::now();
        let mut desk = Desk::new(settings, progress.clone());
        desk.begin(begin);
        Self {
            store: Engine::open(dir.path(), Options::default()).unwrap(),
            desk,
            progress,
            begin,
            seq: 0,
            _dir: dir,
        }
    }

    /// The device sends these metrics of source `s`, so many seconds after the beginning.
    fn sends(&mut self, device: &str, at_s: i64, metrics: &str) {
        self.seq += 1;
        let ts = BASE_MS + 1000 * at_s;
        let text = format!(
            r#"{{"v":1,"boot":"B","seq":{},"frames":[{{"ts":{ts},"source":"s","metrics":{metrics}}}]}}"#,
            self.seq
        );
        let device = device.parse().unwrap();
        let message = FlatMessage::decode(text.as_bytes()).unwrap();
        self.commit(Accepted {
            device,
            received: TimestampMs(ts),
            payload: text.clone().into(),
            content: Content::Metrics {
                id: message.id,
                frames: message.frames,
            },
        });
    }

    fn says(&mut self, device: &str, presence: Presence) {
        self.commit(Accepted {
            device: device.parse().unwrap(),
            received: TimestampMs(BASE_MS),
            payload: r#"{"status":"offline"}"#.into(),
            content: Content::Status(presence),
        });
    }

    fn commit(&self, item: Accepted) {
        self.store.commit(&[item]).unwrap();
    }

    /// What is said so many seconds after the beginning, by topic.
    fn said(&mut self, at_s: u64) -> BTreeMap<String, String> {
        let unix = TimestampMs(BASE_MS + 1000 * i64::try_from(at_s).unwrap());
        let now = self.begin + Duration::from_secs(at_s);
        self.desk.look(&self.store, unix, now);
        let said = self.desk.take(usize::MAX);
        let text = |m: Message| (m.topic, String::from_utf8(m.payload).unwrap());
        said.into_iter().map(text).collect()
    }
}

fn state(device: &str) -> String {
    format!("devmon/ha/{NODE}/{device}/state")
}

fn status(device: &str) -> String {
    format!("devmon/ha/{NODE}/{device}/status")
}

fn config(component: &str, entity: &str) -> String {
    format!("homeassistant/{component}/{NODE}/{entity}/config")
}

fn parsed(text: &str) -> Json {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_series_that_comes_is_announced_with_its_value_and_said_when_it_changes() {
    let mut bench = Bench::new(ALL);
    bench.sends("d.1", 0, r#"{"used_bytes":5,"up":true,"model":"x"}"#);
    let said = bench.said(0);
    let entity = |name: &str| format!("d_x2e1_x2fs_x2f{name}");
    let topics: BTreeSet<_> = said.keys().cloned().collect();
    let expected = [
        config("binary_sensor", &entity("up")),
        config("sensor", &entity("model")),
        config("sensor", &entity("used_bytes")),
        state("d.1"),
        status("d.1"),
    ];
    assert_eq!(topics, expected.clone().into());
    assert_eq!(
        parsed(&said[&state("d.1")]),
        json!({"/s/model": "x", "/s/up": "ON", "/s/used_bytes": 5})
    );
    assert_eq!(said[&status("d.1")], "online");
    assert_eq!(
        parsed(&said[&expected[2]]),
        json!({
            "name": "s used", "unique_id": "devmon/d.1/s/used_bytes",
            "device": {"identifiers": ["devmon/d.1"], "name": "d.1"},
            "origin": {"name": "devmon-collector", "sw_version": env!("CARGO_PKG_VERSION")},
            "state_topic": state("d.1"), "value_template": "{{ value_json['/s/used_bytes'] }}",
            "unit_of_measurement": "B", "device_class": "data_size", "state_class": "measurement",
            "availability_mode": "all",
            "availability": [
                {"topic": format!("devmon/ha/{NODE}/status")}, {"topic": status("d.1")},
                {"topic": state("d.1"), "value_template": "{{ 'online' if value_json.get('/s/used_bytes') is not none else 'offline' }}"},
            ],
        })
    );
    bench.sends("d.1", 1, r#"{"used_bytes":5,"up":true,"model":"x"}"#);
    assert_eq!(bench.said(1), BTreeMap::new(), "nothing has changed");
    bench.sends("d.1", 2, r#"{"used_bytes":6,"up":true,"model":"x"}"#);
    let said = bench.said(2);
    assert_eq!(said.keys().collect::<Vec<_>>(), [&state("d.1")]);
}

#[test]
fn what_does_not_come_is_null_and_comes_back() {
    let mut bench = Bench::new(ALL);
    bench.sends("d", 0, r#"{"a":1,"b":2}"#);
    bench.said(0);
    for at in 1..20 {
        bench.sends("d", at, r#"{"a":1}"#);
    }
    assert_eq!(
        parsed(&bench.said(19)[&state("d")]),
        json!({"/s/a": 1, "/s/b": null})
    );
    bench.sends("d", 20, r#"{"a":1,"b":2}"#);
    assert_eq!(
        parsed(&bench.said(20)[&state("d")]),
        json!({"/s/a": 1, "/s/b": 2})
    );
    let said = bench.said(60);
    assert_eq!(said[&status("d")], "offline", "stale is not available");
    assert_eq!(
        parsed(&said[&state("d")]),
        json!({"/s/a": null, "/s/b": null})
    );
}

#[test]
fn a_series_whose_device_has_a_wrong_clock_comes_nevertheless() {
    let mut bench = Bench::new(ALL);
    let device: devmon_core::wire::DeviceId = "d".parse().unwrap();
    let send = |bench: &mut Bench, at_s: i64| {
        let text = format!(
            r#"{{"ts":{},"metrics":{{"a":1}}}}"#,
            1_000_000_000_000 + at_s * 1000
        );
        let message = FlatMessage::decode(text.as_bytes()).unwrap();
        bench.commit(Accepted {
            device: device.clone(),
            received: TimestampMs(BASE_MS + at_s * 1000),
            payload: text.clone().into(),
            content: Content::Metrics {
                id: None,
                frames: message.frames,
            },
        });
    };
    send(&mut bench, 0);
    assert_eq!(
        parsed(&bench.said(0)[&state("d")]),
        json!({"/a": null}),
        "nobody knows yet"
    );
    send(&mut bench, 1);
    assert_eq!(parsed(&bench.said(1)[&state("d")]), json!({"/a": 1}));
    assert_eq!(parsed(&bench.said(30)[&state("d")]), json!({"/a": null}));
}

#[test]
fn goodbye_and_return_are_said_at_once() {
    let mut bench = Bench::new("enabled = true\npaths = ['/**']\ninterval = '1h'");
    bench.sends("d", 0, r#"{"a":1}"#);
    bench.said(0);
    bench.says("d", Presence::Offline);
    assert_eq!(bench.said(1)[&status("d")], "offline");
    bench.says("d", Presence::Online);
    assert_eq!(bench.said(2)[&status("d")], "online");
}

#[test]
fn what_is_forgotten_or_becomes_another_kind_is_taken_back() {
    let mut bench = Bench::new(ALL);
    bench.sends("d", 0, r#"{"a":1}"#);
    bench.said(0);
    bench.sends("d", 1, r#"{"a":true}"#);
    let said = bench.said(1);
    assert_eq!(said[&config("sensor", "d_x2fs_x2fa")], "");
    assert_ne!(said[&config("binary_sensor", "d_x2fs_x2fa")], "");
    bench.store.purge("d").unwrap();
    let expected = [
        config("binary_sensor", "d_x2fs_x2fa"),
        state("d"),
        status("d"),
    ];
    let taken = expected.map(|topic| (topic, String::new()));
    assert_eq!(bench.said(2), taken.into());
    assert_eq!(bench.progress.figures().entities, 0);
}

#[test]
fn what_the_broker_holds_is_compared_with_what_is_wanted() {
    let mut bench = Bench::new("enabled = true\npaths = ['/s/a']\ninterval = '1s'");
    for device in ["d", "e"] {
        bench.sends(device, 0, r#"{"a":1,"b":2}"#);
    }
    let first = bench.said(0);
    bench.desk.begin(bench.begin);
    let same = config("sensor", "d_x2fs_x2fa");
    bench.desk.held(same.clone(), first[&same].as_bytes());
    let other = config("sensor", "e_x2fs_x2fa");
    bench.desk.held(other.clone(), b"{}");
    // Chosen once; of a device that nobody knows; of one whose state is there.
    let of = |device: &str| format!(r#"{{"device":{{"identifiers":["devmon/{device}"]}}}}"#);
    bench
        .desk
        .held(config("sensor", "d_x2fs_x2fb"), of("d").as_bytes());
    bench
        .desk
        .held(config("sensor", "gone_x2fs_x2fb"), of("gone").as_bytes());
    bench.desk.held(state("gone"), b"{}");
    bench
        .desk
        .held(format!("devmon/ha/{NODE}/status"), b"offline");
    let said = bench.said(1);
    assert!(!said.contains_key(&same), "it is as it should be");
    assert!(said.contains_key(&other) && !said[&other].is_empty());
    let taken = |said: &BTreeMap<String, String>| -> Vec<String> {
        let empty = said.iter().filter(|(_, payload)| payload.is_empty());
        empty.map(|(topic, _)| topic.clone()).collect()
    };
    assert_eq!(taken(&said), [config("sensor", "d_x2fs_x2fb")]);
    assert_eq!(taken(&bench.said(59)), Vec::<String>::new());
    assert!(
        !bench
            .desk
            .knows_the_broker(bench.begin + Duration::from_secs(59))
    );
    let said = bench.said(60);
    assert_eq!(
        taken(&said),
        [state("gone"), config("sensor", "gone_x2fs_x2fb")]
    );
    assert!(
        bench
            .desk
            .knows_the_broker(bench.begin + Duration::from_secs(60))
    );
}

#[test]
fn there_are_no_more_entities_than_the_bound_and_the_rest_is_counted() {
    let mut bench = Bench::new(ALL);
    let leaves: Vec<String> = (0..510).map(|n| format!("\"v{n:03}\":{n}")).collect();
    bench.sends("d", 0, &format!("{{{}}}", leaves.join(",")));
    let said = bench.said(0);
    assert_eq!(said.len(), 500 + 2);
    let figures = bench.progress.figures();
    assert_eq!(
        (figures.entities, figures.left_out, figures.devices),
        (500, 10, 1)
    );
}

#[test]
fn a_topic_waits_once_however_often_it_changes() {
    let mut bench = Bench::new(ALL);
    bench.sends("d", 0, r#"{"a":1}"#);
    bench.said(0);
    for at in 1..=3 {
        bench.sends("d", at, &format!(r#"{{"a":{at}}}"#));
        let unix = TimestampMs(BASE_MS + 1000 * at);
        let now = bench.begin + Duration::from_secs(at.unsigned_abs());
        bench.desk.look(&bench.store, unix, now);
    }
    let said = bench.desk.take(10);
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].payload, br#"{"/s/a":3}"#);
}

#[test]
fn short_connections_do_not_make_the_queue_longer() {
    let mut bench = Bench::new(ALL);
    bench.sends("d", 0, r#"{"a":1,"b":2}"#);
    let first = bench.said(0);
    let held = config("sensor", "d_x2fs_x2fa");
    let mut queued = Vec::new();
    for _ in 0..10 {
        bench.desk.begin(bench.begin);
        queued.push(bench.desk.queued());
        bench.desk.held(held.clone(), first[&held].as_bytes()); // and the connection ends
    }
    assert_eq!(queued, [4; 10], "state, status, and two entities");
}

#[test]
fn short_connections_lose_nothing_that_has_to_be_said_and_keep_its_order() {
    let mut bench = Bench::new(ALL);
    for device in ["d", "gone"] {
        bench.sends(device, 0, r#"{"a":1,"b":2}"#);
    }
    let first = bench.said(0);
    bench.store.purge("gone").unwrap();
    bench
        .desk
        .look(&bench.store, TimestampMs(BASE_MS), bench.begin);
    let held = config("sensor", "d_x2fs_x2fa");
    let mut said = Vec::new();
    for most in 0..4 {
        bench.desk.begin(bench.begin);
        bench.desk.held(held.clone(), first[&held].as_bytes());
        said.extend(bench.desk.take(most)); // and the connection ends
    }
    bench.desk.begin(bench.begin);
    let last = bench.desk.take(usize::MAX);
    let topics = |said: &[Message]| -> Vec<_> { said.iter().map(|m| m.topic.clone()).collect() };
    said.retain(|message| message.payload.is_empty());
    let taken_back = [
        config("sensor", "gone_x2fs_x2fa"),
        config("sensor", "gone_x2fs_x2fb"),
        state("gone"),
        status("gone"),
    ];
    assert_eq!(topics(&said), taken_back, "each once");
    let other = config("sensor", "d_x2fs_x2fb");
    assert_eq!(topics(&last), [state("d"), status("d"), held, other]);
}

#[test]
fn nothing_is_said_of_a_device_for_which_there_are_too_many_others() {
    let mut bench = Bench::new(ALL);
    bench.desk.most = 2;
    bench.sends("a", 0, r#"{"a":1,"b":2}"#);
    bench.sends("b", 0, r#"{"a":1}"#);
    let said = bench.said(0);
    assert_eq!(said.len(), 4, "state, status and two entities: {said:?}");
    assert_eq!(bench.progress.figures().left_out, 1);
    bench.desk.begin(bench.begin);
    assert_eq!(bench.desk.queued(), 4);
    bench.store.purge("a").unwrap();
    let said = bench.said(60);
    for topic in [state("b"), status("b"), config("sensor", "b_x2fs_x2fa")] {
        assert!(said.contains_key(&topic), "{topic} in {said:?}");
    }
}

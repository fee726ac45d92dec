//! A collector without MQTT: messages go straight into its intake.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devmon_collector::api::server::Server;
use devmon_collector::api::{Api, Front};
use devmon_collector::events::{Events, EventsGuard};
use devmon_collector::intake::{Intake, IntakeSettings, Outcome, Publish, WriterGuard};
use devmon_collector::store::engine::Store;
use devmon_collector::store::{Engine, Options};
use devmon_core::wire::TimestampMs;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::client::{Client, DEADLINE};

/// A time at which all that is sent here was measured.
pub(crate) const T: i64 = 1_795_450_000_000;

pub(crate) struct Collector {
    pub(crate) addr: SocketAddr,
    pub(crate) events: Events,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) server: Option<tokio::task::JoinHandle<()>>,
    intake: Intake,
    pub(crate) runtime: Runtime,
    _guards: (EventsGuard, WriterGuard),
    _dir: tempfile::TempDir,
}

impl Collector {
    pub(crate) fn start() -> Self {
        Self::with(Duration::from_secs(30), 400)
    }

    /// With so much patience, for so many clients.
    pub(crate) fn with(patience: Duration, clients: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let store = Engine::open(dir.path(), Options::default()).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let settings = IntakeSettings {
            max_ahead_ms: i64::MAX / 2,
            ..IntakeSettings::default()
        };
        let (intake, writer) = Intake::new(store.clone(), settings);
        let (events, maker) = Events::start(intake.feed(), store.clone(), clients);
        let status = {
            let intake = intake.clone();
            move || intake.status()
        };
        let api = Api::new(store.clone(), status, "listener", TimestampMs::now());
        let front = Arc::new(Front::new(None, String::new));
        front.open(api.with_events(events.clone()));
        let server = Server::bind(([127, 0, 0, 1], 0).into(), 512);
        let server = runtime.block_on(server).unwrap().with_patience(patience);
        let addr = server.local_addr().unwrap();
        let (stop, stops) = watch::channel(false);
        let server = runtime.spawn(server.run(front, stops));
        Self {
            addr,
            events,
            store,
            stop,
            server: Some(server),
            intake,
            runtime,
            _guards: (maker, writer),
            _dir: dir,
        }
    }

    pub(crate) fn client(&self, query: &str) -> Client {
        Client::connect(self.addr, query, None)
    }

    pub(crate) fn publish(&self, device: &str, kind: &str, payload: impl Into<bytes::Bytes>) {
        let publish = Publish::new(format!("devmon/v1/0/{device}/{kind}"), payload);
        let outcome = self.runtime.block_on(self.intake.accept(publish));
        assert_eq!(outcome, Outcome::Acknowledge);
    }

    /// One frame of one source, measured `ms` after [`T`].
    pub(crate) fn sample(&self, device: &str, source: &str, ms: i64, metrics: &str) {
        let ts = T + ms;
        let text = format!(
            r#"{{"v":1,"boot":"B{source}","seq":{ms},"frames":[{{"ts":{ts},"source":"{source}","metrics":{metrics}}}]}}"#
        );
        self.publish(device, "metrics", text);
    }

    /// A frame that takes half a megabyte of the log.
    pub(crate) fn large(&self, device: &str, ms: i64) {
        let leaves: Vec<_> = (0..9_000).map(|n| format!("\"m{n}\":{ms}")).collect();
        let metrics = format!("{{{}}}", leaves.join(","));
        self.sample(device, "large", ms, &metrics);
    }
}

/// Asks again and again until it is so.
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

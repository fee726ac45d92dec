//! When it is connected, and what it says of a broker that refuses.

use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::fake::{Broker, wait_for};
use super::*;
use crate::intake::IntakeSettings;
use crate::store::{Engine, Options};

/// Reads from the broker until it is dropped.
struct Collector {
    intake: Intake,
    _stop: watch::Sender<bool>,
    _runtime: Runtime,
    _dir: tempfile::TempDir,
}

impl Collector {
    fn start(broker: &Broker) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Engine::open(dir.path(), Options::default()).unwrap());
        let (intake, _) = Intake::new(store, IntakeSettings::default());
        let (stop, stops) = watch::channel(false);
        let runtime = Runtime::new().unwrap();
        let settings = BrokerSettings::new("127.0.0.1", broker.port());
        runtime.spawn(run(settings, intake.clone(), stops));
        Self {
            intake,
            _stop: stop,
            _runtime: runtime,
            _dir: dir,
        }
    }

    fn status(&self) -> BrokerStatus {
        self.intake.status().broker.unwrap_or_default()
    }
}

#[test]
fn connected_is_who_is_subscribed() {
    let broker = Broker::new();
    let collector = Collector::start(&broker);
    let mut client = broker.accept(false);
    let asked = client.subscribes();
    assert!(!collector.status().connected, "nothing is granted yet");
    client.answer(asked, [1, 1, 1]);
    wait_for("it is connected", || collector.status().connected);
    drop(client);
    wait_for("the loss is noticed", || !collector.status().connected);
    let client = broker.accept(true);
    wait_for("connected again", || collector.status().connected);
    drop(client);
    wait_for("the loss is noticed", || !collector.status().connected);
    let mut client = broker.accept(false);
    client.subscribes();
    assert!(!collector.status().connected, "the broker has forgotten");
    drop(client); // without an answer
    let mut client = broker.accept(true);
    client.subscribes(); // again: a session need not mean that it was granted
}

#[test]
fn a_refused_subscription_is_named() {
    let broker = Broker::new();
    let collector = Collector::start(&broker);
    let mut client = broker.accept(false);
    let asked = client.subscribes();
    client.answer(asked, [1, 0x80, 1]);
    wait_for("it is said", || collector.status().last_error.is_some());
    let status = collector.status();
    assert!(!status.connected);
    let refused = TopicScheme::default().filter(None, TopicKind::ALL[1]);
    assert_eq!(
        status.last_error.unwrap(),
        format!(
            "the broker refuses the subscription of {refused}; give this client the right to read there"
        )
    );
}

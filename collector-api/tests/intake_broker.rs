//! Broker mode against a real mosquitto: what was not acknowledged comes again, whatever was away meanwhile.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use devmon_collector::intake::{Intake, IntakeSettings, subscribe};
use devmon_collector::store::engine::{
    Accepted, Committed, DeadLetter, DeviceRecord, SeriesRange, SeriesRecord, Store, StoreError,
    StoreStatus,
};
use devmon_collector::store::{Engine, Options};
use devmon_core::MetricPath;
use devmon_core::wire::TimestampMs;
use tokio::sync::watch;

const DEADLINE: Duration = Duration::from_secs(30);

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

struct Mosquitto {
    child: Child,
    port: u16,
}

impl Mosquitto {
    fn start(dir: &Path, port: u16) -> Self {
        let config = dir.join("mosquitto.conf");
        let text = format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n"
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("/usr/sbin/mosquitto")
            .arg("-c")
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed by cargo xtask test");
        wait_for("mosquitto listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { child, port }
    }

    fn publish(&self, device: &str, seq: u64) {
        let payload = format!(
            r#"{{"v":1,"boot":"B","seq":{seq},"frames":[{{"ts":{},"source":"s","metrics":{{"n":{seq}}}}}]}}"#,
            1_790_000_000_000 + seq
        );
        let topic = format!("devmon/v1/0/{device}/metrics");
        let port = self.port.to_string();
        let status = Command::new("mosquitto_pub")
            .args(["-p", &port, "-q", "1", "-t", &topic, "-m", &payload])
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// A store that can be made to refuse, as a full disk does.
struct Moody {
    engine: Engine,
    refuses: AtomicBool,
}

impl Store for Moody {
    fn commit(&self, batch: &[Accepted]) -> Result<Vec<Committed>, StoreError> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(StoreError::TooManySamples { limit: 0 });
        }
        self.engine.commit(batch)
    }
    fn bury(&self, letters: Vec<DeadLetter>) -> Result<(), StoreError> {
        self.engine.bury(letters)
    }
    fn devices(
        &self,
        after: Option<&str>,
        limit: usize,
        keep: &dyn Fn(&DeviceRecord) -> bool,
    ) -> Vec<DeviceRecord> {
        self.engine.devices(after, limit, keep)
    }
    fn device(&self, id: &str) -> Option<DeviceRecord> {
        self.engine.device(id)
    }
    fn series(
        &self,
        device: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<SeriesRecord> {
        self.engine.series(device, prefix, after, limit)
    }
    fn range(
        &self,
        device: &str,
        paths: &[MetricPath],
        from: TimestampMs,
        to: TimestampMs,
        limit: usize,
    ) -> Result<Vec<SeriesRange>, StoreError> {
        self.engine.range(device, paths, from, to, limit)
    }
    fn dead_letters(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.engine.dead_letters(before, limit)
    }
    fn status(&self) -> StoreStatus {
        self.engine.status()
    }
}

/// A collector in broker mode, but for its API.
struct Collector {
    runtime: Option<tokio::runtime::Runtime>,
    store: Arc<Moody>,
    intake: Intake,
    stop: watch::Sender<bool>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Collector {
    fn start(data: &Path, port: u16) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let engine = Engine::open(data, Options::default()).unwrap();
        let store = Arc::new(Moody {
            engine,
            refuses: AtomicBool::new(false),
        });
        let (intake, writer) = Intake::new(store.clone(), IntakeSettings::default());
        let (stop, stops) = watch::channel(false);
        let settings = subscribe::BrokerSettings::new("127.0.0.1", port);
        let subscriber = intake.clone();
        let task = runtime.spawn(async move {
            subscribe::run(settings, subscriber, stops).await.unwrap();
            tokio::task::spawn_blocking(|| writer.stop()).await.unwrap();
        });
        Self {
            runtime: Some(runtime),
            store,
            intake,
            stop,
            task: Some(task),
        }
    }

    fn connected(&self) -> bool {
        self.intake.status().broker.is_some_and(|b| b.connected)
    }

    /// The values that are stored of a device's one series.
    fn stored(&self, device: &str) -> Vec<String> {
        let path = "/s/n".parse().unwrap();
        let (from, to) = (TimestampMs(0), TimestampMs(i64::MAX));
        let ranges = self.store.range(device, &[path], from, to, 10_000).unwrap();
        ranges[0].iter().map(|(_, v)| v.to_string()).collect()
    }

    fn stop(mut self) {
        self.stop.send(true).unwrap();
        let runtime = self.runtime.take().unwrap();
        runtime.block_on(self.task.take().unwrap()).unwrap();
    }
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[test]
fn what_came_while_the_collector_was_down_is_there_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let (port, data) = (free_port(), dir.path().join("data"));
    let broker = Mosquitto::start(dir.path(), port);
    let collector = Collector::start(&data, port);
    wait_for("connected", || collector.connected());
    // Subscribed once something arrives: only then does the session exist for good.
    let mut sent = 0;
    wait_for("the first message arrives", || {
        broker.publish("d", sent);
        sent += 1;
        !collector.stored("d").is_empty()
    });
    collector.stop();
    let down_from = sent;
    for seq in down_from..down_from + 20 {
        broker.publish("d", seq);
    }
    let collector = Collector::start(&data, port);
    let last = numbers(down_from..down_from + 20);
    wait_for("what was sent meanwhile", || {
        collector.stored("d").ends_with(&last)
    });
    collector.stop();
}

#[test]
fn a_broker_that_lost_its_state_is_subscribed_to_again() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let broker = Mosquitto::start(dir.path(), port);
    let collector = Collector::start(&dir.path().join("data"), port);
    wait_for("connected", || collector.connected());
    broker.kill_9();
    wait_for("the loss is noticed", || !collector.connected());
    assert!(
        collector
            .intake
            .status()
            .broker
            .unwrap()
            .last_error
            .is_some()
    );
    let broker = Mosquitto::start(dir.path(), port);
    wait_for("connected again", || collector.connected());
    let mut seq = 0;
    wait_for("a message arrives", || {
        broker.publish("d", seq);
        seq += 1;
        !collector.stored("d").is_empty()
    });
    collector.stop();
}

#[test]
fn what_can_not_be_stored_is_not_acknowledged_and_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let broker = Mosquitto::start(dir.path(), port);
    let collector = Collector::start(&dir.path().join("data"), port);
    wait_for("connected", || collector.connected());
    let mut seq = 0;
    wait_for("a message arrives", || {
        broker.publish("d", seq);
        seq += 1;
        !collector.stored("d").is_empty()
    });
    collector.store.refuses.store(true, Ordering::SeqCst);
    for n in 0..5 {
        broker.publish("later", n);
    }
    wait_for("they were put off", || {
        collector.intake.status().put_off > 0
    });
    assert!(collector.stored("later").is_empty());
    collector.store.refuses.store(false, Ordering::SeqCst);
    wait_for("they come again", || {
        collector.stored("later") == numbers(0..5)
    });
    collector.stop();
}

//! A listener over a real store, with a gate before it: closed, commits wait; broken, they fail.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use devmon_collector::intake::{Intake, IntakeSettings, Limits, Listener, Receiving, WriterGuard};
use devmon_collector::store::engine::{
    Accepted, Committed, DeadLetter, DeviceRecord, SeriesRange, SeriesRecord, Store, StoreError,
    StoreStatus,
};
use devmon_collector::store::{Engine, Options};
use devmon_core::MetricPath;
use devmon_core::wire::TimestampMs;
use tokio::sync::watch;

use crate::client::DEADLINE;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Gate {
    Open,
    Closed,
    Broken,
}

pub(crate) struct Gated {
    pub(crate) engine: Engine,
    gate: Mutex<Gate>,
    changed: Condvar,
    /// Commits that have come to the gate.
    arrived: Mutex<u64>,
}

impl Gated {
    pub(crate) fn set(&self, gate: Gate) {
        *self.gate.lock().unwrap() = gate;
        self.changed.notify_all();
    }

    pub(crate) fn arrived(&self) -> u64 {
        *self.arrived.lock().unwrap()
    }

    fn pass(&self) -> Result<(), StoreError> {
        *self.arrived.lock().unwrap() += 1;
        let mut gate = self.gate.lock().unwrap();
        while *gate == Gate::Closed {
            gate = self.changed.wait(gate).unwrap();
        }
        match *gate {
            Gate::Broken => Err(StoreError::TooManySamples { limit: 0 }),
            _ => Ok(()),
        }
    }
}

impl Store for Gated {
    fn commit(&self, batch: &[Accepted]) -> Result<Vec<Committed>, StoreError> {
        self.pass()?;
        self.engine.commit(batch)
    }
    fn bury(&self, letters: Vec<DeadLetter>) -> Result<(), StoreError> {
        self.pass()?;
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

pub(crate) struct Collector {
    pub(crate) addr: SocketAddr,
    pub(crate) store: Arc<Gated>,
    pub(crate) intake: Intake,
    pub(crate) receiving: Box<dyn Fn() -> Receiving>,
    /// Closes the connections of a device.
    pub(crate) close: Box<dyn Fn(&str)>,
    pub(crate) stop: watch::Sender<bool>,
    _writer: WriterGuard,
    pub(crate) runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

impl Collector {
    pub(crate) fn start() -> Self {
        Self::with(Limits::default(), None)
    }

    pub(crate) fn with(limits: Limits, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = Arc::new(Gated {
            engine: Engine::open(dir.path(), Options::default()).unwrap(),
            gate: Mutex::new(Gate::Open),
            changed: Condvar::new(),
            arrived: Mutex::new(0),
        });
        let (intake, writer) = Intake::new(store.clone(), IntakeSettings::default());
        let listener = runtime
            .block_on(Listener::bind(([127, 0, 0, 1], 0).into(), tls, limits))
            .unwrap();
        let addr = listener.local_addr().unwrap();
        let receiving = Box::new(listener.receiving());
        let close = Box::new(listener.closer());
        let (stop, stops) = watch::channel(false);
        runtime.spawn(listener.run(intake.clone(), stops));
        Self {
            addr,
            store,
            intake,
            receiving,
            close,
            stop,
            _writer: writer,
            runtime,
            _dir: dir,
        }
    }

    pub(crate) fn presence(&self, device: &str) -> Option<String> {
        let presence = self.store.device(device)?.presence?;
        Some(format!("{presence:?}").to_lowercase())
    }

    pub(crate) fn samples(&self) -> u64 {
        self.intake.status().samples
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.store.set(Gate::Open); // or the writer would never end
    }
}

pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

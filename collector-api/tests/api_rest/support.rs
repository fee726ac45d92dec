//! A store in memory, a server over it, and the smallest HTTP client.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use devmon_collector::api::server::Server;
use devmon_collector::api::{Api, Front};
use devmon_collector::intake::{BrokerStatus, IntakeStatus};
use devmon_collector::store::engine::*;
use devmon_collector::store::rollup::{Fold, Tier};
use devmon_collector::store::{Cells, Gaps};
use devmon_core::descriptor::DescriptorText;
use devmon_core::path::is_within;
use devmon_core::wire::about::{About, AgentFacts, HostFacts, Presence, SourceAbout, SourceState};
use devmon_core::wire::{Labels, Reason, TimestampMs};
use devmon_core::{MetricPath, Value};
use serde_json::Value as Json;
use tokio::runtime::Runtime;
use tokio::sync::watch;

#[derive(Default)]
struct Content {
    devices: BTreeMap<String, DeviceRecord>,
    samples: BTreeMap<(String, String), BTreeMap<i64, Value>>,
    letters: Vec<DeadLetter>,
    problem: Option<String>,
    degraded: Option<String>,
    /// Since when raw samples and rollups of a minute are kept.
    raw_from: i64,
    minute_from: i64,
}

/// A store that keeps the contract in the simplest way. Asking for device `panic` panics, asking for device `held` or its series waits for the third, and is counted by the
/// second; reading samples of device `damaged` fails.
#[derive(Default)]
pub(crate) struct MemoryStore(Mutex<Content>, pub(crate) AtomicUsize, pub(crate) Mutex<()>);

impl MemoryStore {
    pub(crate) fn put_device(&self, id: &str, change: impl FnOnce(&mut DeviceRecord)) {
        let mut content = self.0.lock().unwrap();
        let now = TimestampMs::now();
        let record = content
            .devices
            .entry(id.to_owned())
            .or_insert_with(|| DeviceRecord {
                id: id.parse().unwrap(),
                first_seen: now,
                last_seen: now,
                last_metrics: Some(now),
                gaps: Gaps::default(),
                presence: Some(Presence::Online),
                about: None,
                labels: None,
                series: 0,
            });
        change(record);
    }

    pub(crate) fn put(&self, device: &str, path: &str, ts: i64, value: impl Into<Value>) {
        self.put_device(device, |_| {});
        let mut content = self.0.lock().unwrap();
        let path = path.parse::<MetricPath>().unwrap().to_string();
        let new = content
            .samples
            .entry((device.to_owned(), path))
            .or_default();
        let is_first = new.is_empty();
        new.insert(ts, value.into());
        content.devices.get_mut(device).unwrap().series += u64::from(is_first);
    }

    pub(crate) fn put_letter(&self, id: u64, payload: impl Into<bytes::Bytes>) {
        self.put_letter_for(id, Reason::InvalidJson, payload);
    }

    pub(crate) fn put_letter_for(&self, id: u64, reason: Reason, payload: impl Into<bytes::Bytes>) {
        self.0.lock().unwrap().letters.push(DeadLetter {
            id,
            ts: TimestampMs(1_795_450_060_000),
            topic: "devmon/v1/0/d/metrics".into(),
            reason,
            detail: "key must be a string at line 1 column 2".into(),
            payload: payload.into(),
        });
    }

    /// Takes from the tiers what retention would.
    pub(crate) fn keep(&self, raw_from: i64, minute_from: i64) {
        let mut content = self.0.lock().unwrap();
        (content.raw_from, content.minute_from) = (raw_from, minute_from);
    }

    pub(crate) fn set_degraded(&self, degraded: Option<&str>) {
        self.0.lock().unwrap().degraded = degraded.map(str::to_owned);
    }

    /// While this is held, the store answers nothing, as if its disk hung.
    pub(crate) fn hang(&self) -> impl Drop + use<'_> {
        self.0.lock().unwrap()
    }

    pub(crate) fn set_problem(&self, problem: Option<&str>) {
        self.0.lock().unwrap().problem = problem.map(str::to_owned);
    }
}

/// An about message with sources `(name, state, interval)` and descriptors `(path, unit, kind, help)`.
pub(crate) fn about(
    device: &str,
    sources: &[(&str, SourceState, u64)],
    descriptors: &[[&str; 4]],
) -> Arc<About> {
    let source = |(name, state, interval_ms): &(&str, SourceState, u64)| SourceAbout {
        name: (*name).to_owned(),
        state: *state,
        reason: (*state != SourceState::Ok).then(|| "no driver".to_owned()),
        interval_ms: *interval_ms,
        version: Some("0.1.0".into()),
        file: None,
        facts: serde_json::Map::new(),
    };
    Arc::new(About {
        v: 1,
        device: Some(device.parse().unwrap()),
        ts: Some(TimestampMs(0)),
        agent: AgentFacts {
            version: Some("0.1.0".into()),
            publish_every_ms: 0,
        },
        host: HostFacts {
            hostname: Some("edge-01".into()),
            cpus: Some(2),
            ..HostFacts::default()
        },
        labels: Labels::new(),
        sources: sources.iter().map(source).collect(),
        descriptors: descriptors
            .iter()
            .map(|[path, unit, kind, help]| DescriptorText {
                path: (*path).to_owned(),
                unit: (*unit).to_owned(),
                kind: serde_json::from_value(Json::from(*kind)).unwrap(),
                help: (*help).to_owned(),
            })
            .collect(),
    })
}

impl Store for MemoryStore {
    fn commit(&self, _: &[Accepted]) -> Result<Vec<Committed>, StoreError> {
        unreachable!("the API only reads")
    }

    fn bury(&self, _: Vec<DeadLetter>) -> Result<(), StoreError> {
        unreachable!("the API only reads")
    }

    fn devices(
        &self,
        after: Option<&str>,
        limit: usize,
        keep: &dyn Fn(&DeviceRecord) -> bool,
    ) -> Vec<DeviceRecord> {
        let content = self.0.lock().unwrap();
        let follows = |id: &str| after.is_none_or(|after| id > after);
        let all = content
            .devices
            .iter()
            .filter(|(id, record)| follows(id) && keep(record));
        all.take(limit).map(|(_, record)| record.clone()).collect()
    }

    fn device(&self, id: &str) -> Option<DeviceRecord> {
        assert_ne!(id, "panic", "asked for");
        if id == "held" {
            self.1.fetch_add(1, SeqCst);
            drop(self.2.lock().unwrap());
        }
        self.0.lock().unwrap().devices.get(id).cloned()
    }

    fn series(
        &self,
        device: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<SeriesRecord> {
        if device == "held" {
            self.1.fetch_add(1, SeqCst);
            drop(self.2.lock().unwrap());
        }
        let content = self.0.lock().unwrap();
        let wanted = content.samples.iter().filter(|((d, path), _)| {
            d == device
                && is_within(path, prefix)
                && after.is_none_or(|after| path.as_str() > after)
        });
        let record = |((_, path), samples): (&(String, String), &BTreeMap<i64, Value>)| {
            let (first_ts, _) = samples.first_key_value().unwrap();
            let (last_ts, last_value) = samples.last_key_value().unwrap();
            SeriesRecord {
                path: path.parse().unwrap(),
                first_ts: TimestampMs(*first_ts),
                last_ts: TimestampMs(*last_ts),
                last_value: last_value.clone(),
            }
        };
        wanted.take(limit).map(record).collect()
    }

    fn range(
        &self,
        device: &str,
        paths: &[MetricPath],
        from: TimestampMs,
        to: TimestampMs,
        limit: usize,
    ) -> Result<Vec<SeriesRange>, StoreError> {
        if device == "damaged" {
            return Err(StoreError::DamagedBlock {
                key: "secret".into(),
                detail: "checksum".into(),
            });
        }
        let content = self.0.lock().unwrap();
        let range = |path: &MetricPath| {
            let samples = content.samples.get(&(device.to_owned(), path.to_string()));
            let from = from.0.max(content.raw_from);
            let inside = samples
                .into_iter()
                .filter(|_| from < to.0)
                .flat_map(|s| s.range(from..to.0));
            SeriesRange::new(
                path.clone(),
                inside.map(|(t, v)| (TimestampMs(*t), v.clone())),
            )
        };
        let ranges: Vec<_> = paths.iter().map(range).collect();
        if ranges.iter().map(|r| r.len()).sum::<usize>() > limit {
            return Err(StoreError::TooManySamples { limit });
        }
        Ok(ranges)
    }

    fn rollups(
        &self,
        device: &str,
        paths: &[MetricPath],
        tier: Tier,
        from: TimestampMs,
        to: TimestampMs,
        limit: usize,
    ) -> Result<Vec<SeriesRollups>, StoreError> {
        let bucket = tier.bucket_ms().unwrap();
        assert!(from.0 % bucket == 0 && to.0 % bucket == 0, "whole buckets");
        let from = from.max(self.kept_from(tier));
        let content = self.0.lock().unwrap();
        let mut all = Vec::new();
        for path in paths {
            let samples = &content.samples[&(device.to_owned(), path.to_string())];
            let (mut fold, mut rollups) = (Fold::new(bucket), Vec::new());
            for (t, v) in samples.range(from.0..to.0.max(from.0)) {
                fold.samples(&[*t], &Cells::of(v), 0..1, &mut |r| rollups.push(r));
            }
            fold.finish(&mut |r| rollups.push(r));
            let path = path.clone();
            all.push(SeriesRollups { path, rollups });
        }
        if all.iter().map(|r| r.rollups.len()).sum::<usize>() > limit {
            return Err(StoreError::TooManySamples { limit });
        }
        Ok(all)
    }

    fn kept_from(&self, tier: Tier) -> TimestampMs {
        let content = self.0.lock().unwrap();
        TimestampMs(match tier {
            Tier::Raw => content.raw_from,
            Tier::Minute => content.minute_from,
            Tier::Hour => 0,
        })
    }

    fn purge(&self, device: &str) -> Result<bool, StoreError> {
        let mut content = self.0.lock().unwrap();
        content.samples.retain(|(d, _), _| d != device);
        Ok(content.devices.remove(device).is_some())
    }

    fn label(
        &self,
        device: &str,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<bool, StoreError> {
        let mut content = self.0.lock().unwrap();
        let Some(record) = content.devices.get_mut(device) else {
            return Ok(false);
        };
        let mut labels = record.labels.as_deref().cloned().unwrap_or_default();
        for (name, value) in changes {
            match value {
                Some(value) => labels.insert(name.clone(), value.clone()),
                None => labels.remove(name),
            };
        }
        if labels.len() > 32 {
            return Err(StoreError::TooManyLabels { limit: 32 });
        }
        record.labels = Some(Arc::new(labels));
        Ok(true)
    }

    fn dead_letters(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let content = self.0.lock().unwrap();
        let mut letters: Vec<_> = content
            .letters
            .iter()
            .filter(|l| before.is_none_or(|b| l.id < b))
            .cloned()
            .collect();
        letters.sort_by_key(|l| std::cmp::Reverse(l.id));
        letters.truncate(limit);
        Ok(letters)
    }

    fn status(&self) -> StoreStatus {
        let content = self.0.lock().unwrap();
        StoreStatus {
            problem: content.problem.clone(),
            devices: content.devices.len() as u64,
            series: content.samples.len() as u64,
            journal_bytes: 1,
            blocks: 2,
            database_bytes: 3,
            head_samples: 4,
            dead_letters_bytes: 5,
            archive_files: 6,
            archive_bytes: 7,
            oldest_day: Some(TimestampMs(1_795_392_000_000)),
            last_commit_us: 2_100,
            degraded: content.degraded.clone(),
            ..StoreStatus::default()
        }
    }
}

/// A server over a store in memory.
pub(crate) struct Collector {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) addr: SocketAddr,
    /// How the connection to it is; none at first.
    pub(crate) broker: Arc<Mutex<Option<BrokerStatus>>>,
    front: Arc<Front>,
    /// Until the store is open.
    api: Option<Api>,
    stop: watch::Sender<bool>,
    runtime: Option<Runtime>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        Self::with_token(None)
    }

    pub(crate) fn with_token(token: Option<&str>) -> Self {
        let mut collector = Self::opening(token);
        collector.open();
        collector
    }

    /// With a server that is set up otherwise.
    pub(crate) fn with_server(set_up: impl FnOnce(Server) -> Server) -> Self {
        let mut collector = Self::build(None, set_up);
        collector.open();
        collector
    }

    /// With another bound on the memory for long answers, too.
    pub(crate) fn with_room(bytes: usize, set_up: impl FnOnce(Server) -> Server) -> Self {
        let mut collector = Self::build(None, set_up);
        collector.api = collector.api.take().map(|api| api.with_room(bytes));
        collector.open();
        collector
    }

    /// With somebody who is told which devices are forgotten.
    pub(crate) fn with_forgotten(token: &str, forgotten: std::sync::mpsc::Sender<String>) -> Self {
        let mut collector = Self::opening(Some(token));
        let tell = move |device: &str| forgotten.send(device.to_owned()).unwrap();
        collector.api = collector.api.take().map(|api| api.with_forgotten(tell));
        collector.open();
        collector
    }

    /// One whose store is being opened.
    pub(crate) fn opening(token: Option<&str>) -> Self {
        Self::build(token, |server| server)
    }

    fn build(token: Option<&str>, set_up: impl FnOnce(Server) -> Server) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let store = Arc::new(MemoryStore::default());
        let front = Arc::new(Front::new(token.map(str::to_owned), || {
            "half way".to_owned()
        }));
        let broker: Arc<Mutex<Option<BrokerStatus>>> = Arc::default();
        let told = broker.clone();
        let status = move || IntakeStatus {
            broker: told.lock().unwrap().clone(),
            messages: 7,
            samples: 8,
            duplicates: 9,
            refused: Reason::ALL
                .iter()
                .map(|r| (r.as_str(), u64::from(*r == Reason::InvalidJson)))
                .collect(),
            ..IntakeStatus::default()
        };
        let api = Api::new(store.clone(), status, "listener", TimestampMs::now());
        let (stop, stops) = watch::channel(false);
        let server = runtime
            .block_on(Server::bind(([127, 0, 0, 1], 0).into(), 64))
            .unwrap();
        let addr = server.local_addr().unwrap();
        runtime.spawn(set_up(server).run(front.clone(), stops));
        Self {
            store,
            front,
            api: Some(api),
            addr,
            broker,
            stop,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn open(&mut self) {
        self.front.open(self.api.take().unwrap());
    }

    pub(crate) fn call(&self, method: &str, url: &str, headers: &[(&str, &str)]) -> Answer {
        call(self.addr, method, url, headers)
    }

    pub(crate) fn get(&self, url: &str) -> Answer {
        self.call("GET", url, &[])
    }

    /// The document of a good answer.
    pub(crate) fn json(&self, url: &str) -> Json {
        let answer = self.get(url);
        assert_eq!(answer.status, 200, "{url}: {}", answer.text());
        assert_eq!(
            answer.header("content-type"),
            Some("application/json"),
            "{url}"
        );
        let kept = answer.header("cache-control").unwrap();
        let probe = ["/livez", "/readyz"].contains(&url);
        let closed = kept == "private, max-age=300" && url.contains("/series?");
        let expected = if probe { "no-store" } else { "no-cache" };
        assert!(kept == expected || closed, "{url} {kept}");
        answer.json()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

pub(crate) fn call(addr: SocketAddr, method: &str, url: &str, headers: &[(&str, &str)]) -> Answer {
    send(addr, method, url, headers, "")
}

/// A call with a body.
pub(crate) fn send(
    addr: SocketAddr,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut request =
        format!("{method} {url} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    // A server that answers before it has read all may end the connection.
    let _ = stream.write_all(format!("{request}\r\n{body}").as_bytes());
    read_answer(method, &mut stream)
}

/// What comes until the connection ends.
pub(crate) fn read_answer(method: &str, stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("headers end");
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let header = |line: &str| {
        line.split_once(": ")
            .map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned()))
    };
    let mut answer = Answer {
        status,
        headers: lines.filter_map(header).collect(),
        body: bytes[end + 4..].to_vec(),
    };
    if answer.header("transfer-encoding") == Some("chunked") {
        if method != "HEAD" {
            answer.body = joined(&answer.body).expect("the last chunk");
        }
        return answer;
    }
    if method != "HEAD" && ![204, 304].contains(&status) {
        let length = answer
            .header("content-length")
            .expect("a length")
            .parse::<usize>()
            .unwrap();
        assert_eq!(length, answer.body.len());
    }
    answer
}

/// What came in chunks; `None` if it broke off.
pub(crate) fn joined(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = chunks.windows(2).position(|w| w == b"\r\n")?;
        let length = std::str::from_utf8(&chunks[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        chunks = &chunks[end + 2..];
        if length == 0 {
            assert_eq!(chunks, b"\r\n");
            return Some(whole);
        }
        whole.extend_from_slice(chunks.get(..length)?);
        chunks = chunks[length..].strip_prefix(b"\r\n")?;
    }
}

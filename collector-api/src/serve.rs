//! Wires the rooms together, says when they are ready, and takes them down in order.
//!
//! Up: sockets first (a port that is taken should not cost a replay of the journal), then the API, which says how far the store is, then the store, then intake. Down, on SIGTERM or SIGINT: intake
//! stops taking messages and commits what it has, forwarding writes down how far it is, the API finishes what it is answering, the store is closed. A second signal ends the process
//! at once; what was acknowledged is on disk at any time. A signal while the store opens ends the process as well: opening may be broken off anywhere.
//!
//! The API has threads of its own. All others are [courteous](courtesy): a person waits for an answer, a message waits for an fsync anyway.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use devmon_core::wire::TimestampMs;
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::server::Server;
use crate::api::{Api, Front};
use crate::commands;
use crate::config::{Listen, Settings};
use crate::courtesy;
use crate::events::Events;
use crate::forward;
use crate::home_assistant;
use crate::intake::{Intake, Listener, subscribe};
use crate::store::engine::Store;
use crate::store::{Engine, HowFar};

/// How long transports have to close their connections, and how long store threads have at the very end.
const DEADLINE: Duration = Duration::from_secs(5);

/// Runs the collector until a signal ends it.
///
/// # Errors
/// A port that is taken, a store that can not be opened, a part that failed.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    let api = runtime("api", || ())?;
    let rest = runtime("rest", courtesy::of_this_thread)?;
    let ended = rest.block_on(serve(settings, api.handle()));
    for runtime in [api, rest] {
        match ended {
            Ok(Ended::Opening) => runtime.shutdown_background(),
            _ => runtime.shutdown_timeout(DEADLINE),
        }
    }
    ended.map(drop)
}

fn runtime(name: &str, on_start: fn()) -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .thread_name(name)
        .on_thread_start(on_start)
        .enable_all()
        .build()
        .context("the async runtime did not start")
}

/// What a signal found.
enum Ended {
    /// The store was being opened, and there is nothing to wait for.
    Opening,
    /// All was running, and has come to rest.
    Running,
}

async fn serve(settings: Settings, api_threads: &Handle) -> anyhow::Result<Ended> {
    let started = TimestampMs::now();
    let mut stop = Signals::new()?; // before anything is open, so that no signal finds the default handler
    let mode = settings.mode();
    // Those who follow events keep their connections; the rest is for calls.
    let most_clients = settings.http_max_connections - settings.http_max_connections / 4;
    let bound = api_threads.spawn(Server::bind(settings.http, settings.http_max_connections));
    let server = bound
        .await?
        .map_err(|e| bind_error(&e, settings.http, "the API", "--http"))?
        .with_connections_per_address(settings.http_max_connections_per_address)
        .with_idle_timeout(settings.http_idle_timeout)
        .with_origins(settings.http_origins);
    let http_addr = server.local_addr()?;
    let listener = match settings.listen {
        Some(Listen { addr, tls, limits }) => {
            let scheme = if tls.is_some() { "mqtts" } else { "mqtt" };
            let bound = Listener::bind(addr, tls, limits).await;
            Some((
                scheme,
                bound.map_err(|e| bind_error(&e, addr, "devices", "--mqtt-listen"))?,
            ))
        }
        None => None,
    };

    let mut ready = format!("ready http=http://{http_addr}");
    if let Some((scheme, listener)) = &listener {
        ready.push_str(&format!(" mqtt={scheme}://{}", listener.local_addr()?));
    }
    if let Some(broker) = &settings.broker {
        let scheme = if broker.tls.is_some() {
            "mqtts"
        } else {
            "mqtt"
        };
        ready.push_str(&format!(
            " broker={scheme}://{}:{}",
            broker.host, broker.port
        ));
    }

    let (stop_intake, intake_stops) = watch::channel(false);
    let (stop_http, http_stops) = watch::channel(false);
    let how_far = Arc::new(HowFar::default());
    let asked = how_far.clone();
    let front = Arc::new(Front::new(settings.token, move || asked.to_string()));
    let mut http = api_threads.spawn(server.run(front.clone(), http_stops));
    tracing::info!(data_dir = %settings.data_dir.display(), http = %http_addr, "opening the store");
    let (dir, options) = (settings.data_dir.clone(), settings.store);
    // Before the store is open: its first seal has to know what is needed still.
    let prepared =
        forward::Prepared::new(&settings.data_dir, settings.remote_write, &options.pins)?;
    let opening = move || Engine::open_watched(&dir, options, &how_far);
    let store = tokio::select! {
        store = tokio::task::spawn_blocking(opening) => store?,
        name = stop.next() => {
            tracing::info!(signal = name, "collector ends before its store was open");
            return Ok(Ended::Opening);
        }
    };
    let store: Arc<dyn Store> = Arc::new(commands::at(&settings.data_dir, store)?);
    let (intake, writer) = Intake::new(store.clone(), settings.intake);

    let mut transports = JoinSet::new();
    let closer = listener.as_ref().map(|(_, listener)| listener.closer());
    if let Some((_, listener)) = listener {
        let (intake, stops) = (intake.clone(), intake_stops.clone());
        transports.spawn(async move {
            listener.run(intake, stops).await;
            Ok(())
        });
    }
    if let Some(broker) = settings.broker {
        let (intake, stops) = (intake.clone(), intake_stops);
        transports.spawn(async move {
            subscribe::run(broker, intake, stops)
                .await
                .context("broker")
        });
    }
    let (stop_forwarding, forwarding_stops) = watch::channel(false);
    let (mut forwarding, progress) =
        prepared.start(&store, &intake.commits(), &forwarding_stops)?;
    let announced = settings.home_assistant.map(|settings| {
        let progress = Arc::new(home_assistant::Progress::default());
        let (store, stops) = (store.clone(), forwarding_stops.clone());
        forwarding.spawn(home_assistant::run(
            settings,
            store,
            progress.clone(),
            stops,
        ));
        progress
    });
    let asked = intake.clone();
    let status = move || asked.status();
    let (events, event_maker) = Events::start(intake.feed(), store.clone(), most_clients as u64);
    let api = Api::new(store.clone(), status, mode, started).with_events(events);
    let api = api.with_forwarding(progress).with_forgotten(move |device| {
        if let Some(close) = &closer {
            close(device);
        }
    });
    front.open(api.with_home_assistant(announced));

    say(&ready)?;
    tracing::info!(data_dir = %settings.data_dir.display(), mode, "collector runs");

    let failed = tokio::select! {
        name = stop.next() => {
            tracing::info!(signal = name, "collector ends");
            None
        }
        Some(ended) = transports.join_next() => Some(match ended {
            Ok(Ok(())) => anyhow!("intake ended by itself; this is a defect"),
            Ok(Err(error)) => error,
            Err(error) => anyhow!("intake failed, this is a defect: {error}"),
        }),
        ended = &mut http => Some(anyhow!("the API ended by itself, this is a defect: {ended:?}")),
    };
    tokio::spawn(async move {
        let name = stop.next().await;
        tracing::warn!(signal = name, "collector ends now");
        std::process::exit(1);
    });

    let _ = stop_intake.send(true);
    let closed = tokio::time::timeout(DEADLINE, async {
        while transports.join_next().await.is_some() {}
    })
    .await;
    if closed.is_err() {
        tracing::warn!("some connections of devices were cut off");
        transports.shutdown().await;
    }
    drop(intake);
    let _ = stop_forwarding.send(true);
    let ended = async { while forwarding.join_next().await.is_some() {} };
    if tokio::time::timeout(DEADLINE, ended).await.is_err() {
        forwarding.abort_all(); // what they had no answer to is sent at the next start
    }
    let _ = stop_http.send(true);
    if !http.is_finished() {
        let _ = http.await;
    }
    drop(front); // it holds the store
    // Commits what waits, ends the writer; the store's own threads end with its last owner. Not sealed: the next start replays the journal in a moment,
    // and a block for each restart would be a small one.
    let close = tokio::task::spawn_blocking(move || {
        writer.stop();
        drop(event_maker);
        drop(store);
    });
    if tokio::time::timeout(DEADLINE, close).await.is_err() {
        tracing::warn!(
            "the store was busy and was not waited for; what was acknowledged is in its journal"
        );
    }
    tracing::info!("collector ended");
    failed.map_or(Ok(Ended::Running), Err)
}

/// The one line on standard output.
fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("standard output is closed")
}

fn bind_error(error: &std::io::Error, addr: SocketAddr, whom: &str, flag: &str) -> anyhow::Error {
    let hint = match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another program has this port (perhaps another collector); end it, or choose another port with"
        }
        std::io::ErrorKind::PermissionDenied => {
            "this user may not take this port; choose one above 1023 with"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; choose another with"
        }
        _ => "choose another address with",
    };
    anyhow!("cannot listen for {whom} on {addr}: {error}; {hint} {flag} ADDR:PORT")
}

/// SIGTERM and SIGINT.
struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals can not be received");
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

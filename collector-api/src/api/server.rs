//! The HTTP server: accepts connections, bounds them, and ends them in order.
//!
//! An accept loop of our own, for warp's sets no timeout on headers and ends without a deadline. HTTP/1.1 only: telling HTTP/2 from it means
//! waiting for a first byte without a timeout, and browsers do not speak HTTP/2 without TLS.
//!
//! Who may have a connection says [`places`](super::places). A call on one that has no place is answered with a problem, 503 or 429, and the connection is closed. One whose
//! headers do not come in time is closed without a word.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::exchange::cors::Origins;
use super::exchange::{Exchange, Refusal, limits};
use super::patience::{Line, PATIENCE, Patient};
use super::places::{NoPlace, Place, Places};
use super::problem::{Kind, Problem};
use super::{Front, routes};

/// From connection to complete headers, and between two calls of a connection. A client that takes longer is broken or an attack.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection without a place has to ask, and to be told so.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long calls that are being answered have when the collector ends.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);
/// Pause after a failed accept: without file descriptors the next one would fail at once, over and over.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket that answers calls.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    connections: usize,
    connections_per_address: usize,
    patience: Duration,
    idle: Duration,
    origins: Origins,
}

/// What all connections share.
struct Shared<S> {
    exchange: Exchange,
    routes: S,
    patience: Duration,
    places: Arc<Places>,
}

impl Server {
    /// Binds the address, for so many connections at once, three quarters of them of one address.
    ///
    /// # Errors
    /// The address is in use, or not ours.
    pub async fn bind(addr: SocketAddr, connections: usize) -> std::io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        Ok(Self {
            listener,
            connections,
            connections_per_address: per_address(connections),
            patience: PATIENCE,
            idle: IDLE_TIMEOUT,
            origins: Origins::default(),
        })
    }

    /// With another number of connections that one address may have.
    #[must_use]
    pub fn with_connections_per_address(mut self, connections: usize) -> Self {
        self.connections_per_address = connections;
        self
    }

    /// With another time than 10 s in which the headers of a call have to come, and the next call on a connection.
    #[must_use]
    pub fn with_idle_timeout(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// With origins whose web pages may read the answers.
    #[must_use]
    pub fn with_origins(mut self, origins: Origins) -> Self {
        self.origins = origins;
        self
    }

    /// With another time than half a minute that a client may take nothing of what is sent to it.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// The operating system's.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers calls until `shutdown` becomes true, then finishes those that are being answered, for 5 s at most.
    pub async fn run(self, front: Arc<Front>, mut shutdown: watch::Receiver<bool>) {
        let shared = Arc::new(Shared {
            routes: TowerToHyperService::new(warp::service(routes::routes(
                front.clone(),
                self.origins.clone(),
            ))),
            exchange: Exchange::new(front.clone(), self.origins),
            patience: self.patience,
            places: Places::new(self.connections, self.connections_per_address),
        });
        let mut builder = Builder::new(TokioExecutor::new()).http1_only();
        builder
            .http1()
            .timer(TokioTimer::new())
            .max_buf_size(limits::MAX_HEAD_BYTES)
            .header_read_timeout(self.idle);
        let graceful = GracefulShutdown::new();

        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = shutdown.wait_for(|down| *down) => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = shared.places.take(peer.ip()) else {
                tracing::debug!(%peer, "a connection was closed at once: too many that have no place");
                continue;
            };
            serve(&builder, &graceful, shared.clone(), stream, place);
        }
        drop(self.listener);
        front.end_streams();
        if tokio::time::timeout(SHUTDOWN_DEADLINE, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!(
                "some calls were cut off: they took longer than the {SHUTDOWN_DEADLINE:?} given"
            );
        }
    }
}

/// Of all connections, how many one address may have, unless it is said otherwise: who follows events takes as many, and others still get answers.
#[must_use]
pub fn per_address(connections: usize) -> usize {
    (connections - connections / 4).max(1)
}

fn serve<S, B>(
    builder: &Builder<TokioExecutor>,
    graceful: &GracefulShutdown,
    shared: Arc<Shared<S>>,
    stream: TcpStream,
    place: Place,
) where
    S: hyper::service::Service<
            Request<Incoming>,
            Response = warp::http::Response<B>,
            Error = Infallible,
            Future: Send,
        > + Send
        + Sync
        + 'static,
    B: hyper::body::Body<Data = hyper::body::Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let line = Arc::new(Line::default());
    let stream = Patient::new(stream, line.clone(), shared.patience);
    let refusal = place.refused.map(refusal);
    let refused = refusal.is_some();
    let service = service_fn(move |mut call: Request<Incoming>| {
        call.extensions_mut().insert(line.clone());
        let (shared, refusal) = (shared.clone(), refusal.clone());
        async move {
            let refusal = refusal.as_ref();
            shared.exchange.answer(call, refusal, &shared.routes).await
        }
    });
    let connection = builder
        .serve_connection(TokioIo::new(stream), service)
        .into_owned();
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        let _place = place;
        let ended = if refused {
            let ended = tokio::time::timeout(REFUSAL_TIMEOUT, connection).await;
            ended.unwrap_or(Ok(()))
        } else {
            connection.await
        };
        if let Err(error) = ended {
            tracing::debug!(error, "a connection ended early");
        }
    });
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn refusal(why: NoPlace) -> Refusal {
    Refusal(match why {
        NoPlace::All => Problem::new(
            Kind::Busy,
            "all connections that there may be are taken (http_max_connections)",
        ),
        NoPlace::OfAddress => Problem::new(
            Kind::TooManyConnections,
            "your address has all connections that one may have (http_max_connections_per_address); use those again that you have",
        ),
    })
}

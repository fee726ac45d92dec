//! The HTTP server: accepts connections, bounds them, and ends them in order.
//!
//! An accept loop of our own, for warp's sets no timeout on headers and ends without a deadline. HTTP/1.1 only: telling HTTP/2 from it means
//! waiting for a first byte without a timeout, and browsers do not speak HTTP/2 without TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::patience::{Line, PATIENCE, Patient};
use super::{Front, routes};

/// From connection to complete headers, and between two calls of a connection. A client that takes longer is broken or an attack.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long calls that are being answered have when the collector ends.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);
/// Pause after a failed accept: without file descriptors the next one would fail at once, over and over.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket that answers calls.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    /// Connections at once; more wait to be accepted.
    connections: usize,
    patience: Duration,
}

impl Server {
    /// Binds the address.
    ///
    /// # Errors
    /// The address is in use, or not ours.
    pub async fn bind(addr: SocketAddr, connections: usize) -> std::io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        Ok(Self {
            listener,
            connections,
            patience: PATIENCE,
        })
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
        let service = warp::service(routes::routes(front.clone()));
        let mut builder = Builder::new(TokioExecutor::new()).http1_only();
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT);
        let graceful = GracefulShutdown::new();
        let permits = Arc::new(Semaphore::new(self.connections));

        loop {
            let next = async {
                let permit = permits.clone().acquire_owned().await;
                (self.listener.accept().await, permit)
            };
            let (accepted, permit) = tokio::select! {
                next = next => next,
                _ = shutdown.wait_for(|down| *down) => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "no TCP_NODELAY");
            }
            let line = Arc::new(Line::default());
            let stream = Patient::new(stream, line.clone(), self.patience);
            let service = service.clone();
            let service = service_fn(move |mut call: Request<Incoming>| {
                call.extensions_mut().insert(line.clone());
                TowerToHyperService::new(service.clone()).call(call)
            });
            let connection = builder
                .serve_connection(TokioIo::new(stream), service)
                .into_owned();
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                let _permit = permit;
                if let Err(error) = connection.await {
                    tracing::debug!(error, "a connection ended early");
                }
            });
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

//! The collector as the MQTT endpoint of its devices: no broker needed.
//!
//! It takes connections in, within [`Limits`], over TCP or TLS, and gives each to a task of its own (`connection`). It is no broker: nobody can
//! subscribe, nothing is relayed or retained. PUBACK means fsynced.
//!
//! With TLS, client certificates are required (`devmon_core::tls`); the common name is the one device that the client may publish for. A certificate
//! without one, or several, is turned away.

mod connection;
mod input;
mod protocol;
mod room;
mod sessions;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::Intake;
use connection::Context;
use room::Room;
use sessions::Sessions;

/// How many connections the system holds ready: a fleet comes back at once after a power cut.
const BACKLOG: u32 = 4096;
/// How long open connections are given to end at shutdown.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

/// Bounds on what clients may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; more are closed at once.
    pub connections: usize,
    /// From TCP connection to CONNECT, TLS handshake included.
    pub connect_timeout: Duration,
    /// Publishes of one connection that may wait for their acknowledgement.
    pub in_flight: u16,
    /// Largest MQTT packet in bytes; a larger one ends the connection. Payloads above the message limit and below this become dead letters.
    pub packet_bytes: u32,
    /// Memory for packets above 16 KiB that are on their way in, of all connections together; beyond it, connections with such packets are not read.
    pub receiving_bytes: usize,
    /// How long such a packet may take to arrive while others wait for its memory.
    pub packet_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connect_timeout: Duration::from_secs(10),
            in_flight: 1000,
            packet_bytes: 2 << 20,
            receiving_bytes: 64 << 20,
            packet_timeout: Duration::from_secs(60),
        }
    }
}

/// A bound socket that takes devices in.
pub struct Listener {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    room: Arc<Room>,
    sessions: Arc<Sessions>,
}

/// Packets above 16 KiB on their way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receiving {
    /// Memory that is set apart for them.
    pub bytes: usize,
    /// Connections that wait for some.
    pub waiting: usize,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl Listener {
    /// Binds the address. With `tls`, client certificates decide who may publish as which device.
    ///
    /// # Errors
    /// The address is in use, or not ours.
    pub async fn bind(
        addr: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        limits: Limits,
    ) -> std::io::Result<Self> {
        let socket = if addr.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?; // a restart must not wait for old connections to be forgotten
        socket.set_keepalive(true)?; // for clients that promise no MQTT keep-alive
        socket.bind(addr)?;
        Ok(Self {
            socket: socket.listen(BACKLOG)?,
            tls: tls.map(TlsAcceptor::from),
            room: Arc::new(Room::new(limits.receiving_bytes)),
            limits,
            sessions: Arc::default(),
        })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// The operating system's.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Looks at what is being received, also while the listener runs.
    pub fn receiving(&self) -> impl Fn() -> Receiving + Send + Sync + use<> {
        let room = self.room.clone();
        move || room.receiving()
    }

    /// Closes the connections of a device, also while the listener runs: it comes again, and says anew what it is.
    pub fn closer(&self) -> impl Fn(&str) + Send + Sync + use<> {
        let sessions = self.sessions.clone();
        move |device| sessions.close(device)
    }

    /// Serves until `shutdown` becomes true, then closes all connections and returns. What was not acknowledged comes again.
    pub async fn run(self, intake: Intake, mut shutdown: watch::Receiver<bool>) {
        let context = Context {
            intake,
            room: self.room,
            limits: Arc::new(self.limits),
            sessions: self.sessions,
            shutdown: shutdown.clone(),
        };
        let places = Arc::new(Semaphore::new(context.limits.connections));
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => break,
                Some(ended) = tasks.join_next() => {
                    if ended.is_err() {
                        tracing::error!("a connection's task panicked; only that connection was closed");
                    }
                    continue;
                }
                accepted = self.socket.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, mostly: those who are connected go on.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::warn!(%peer, limit = context.limits.connections, "too many connections; closing the newest");
                continue;
            };
            let (context, tls) = (context.clone(), self.tls.clone());
            tasks.spawn(async move {
                let _counted = context.intake.count_connection();
                start(stream, peer, tls, context).await;
                drop(place);
            });
        }
        drop(self.socket);
        let ended = tokio::time::timeout(SHUTDOWN_PATIENCE, async {
            while tasks.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            tracing::warn!(
                connections = tasks.len(),
                "connections that do not end are cut"
            );
        }
    }
}

async fn start(stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>, context: Context) {
    let deadline = Instant::now() + context.limits.connect_timeout;
    // PUBACKs are small and awaited; a socket that refuses the option still works.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
    let Some(tls) = tls else {
        return connection::serve(stream, context, None, deadline, peer).await;
    };
    let mut shutdown = context.shutdown.clone();
    let handshake = tokio::select! {
        handshake = tokio::time::timeout_at(deadline, tls.accept(stream)) => handshake,
        _ = shutdown.wait_for(|stop| *stop) => return,
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::info!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::info!(%peer, "TLS handshake took too long"),
    };
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first());
    match certificate.and_then(|der| common_name(der)) {
        Some(name) => connection::serve(stream, context, Some(name.into()), deadline, peer).await,
        None => {
            tracing::warn!(%peer, "the client's certificate has no common name, or several; closing")
        }
    }
}

/// The one common name of a certificate's subject.
fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?.to_owned();
    names.next().is_none().then_some(name)
}

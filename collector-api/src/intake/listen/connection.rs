//! One client's connection, from its first byte to its end: reads while there is room, submits, acknowledges in order what is durable.
//!
//! One task, no lock on the way of a message. Publishes wait in a window for their outcome; while it is full, or the intake has no room, nothing is read, so that TCP
//! holds the client back; large packets need a place in the listener's [`room`](super::room), too. PUBACKs go out in the order of the publishes, as many together as are due. When the store takes nothing, no PUBACK is sent and the
//! connection is closed, so that the client sends again.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::Limits;
use super::input::{Input, MOST_INPUT_BYTES};
use super::protocol::{Broken, Connect, Goodbye, Incoming, Protocol, Publish, Will};
use super::room::{Framing, Piece, Room, SMALL_PACKET_BYTES};
use super::sessions::{Session, Sessions};
use crate::intake::accept::{self, Intake, Outcome, Ticket};

/// Room for input while a large packet comes in.
const LARGE_INPUT_BYTES: usize = 64 * 1024;
/// How long a client may take to accept bytes; after it, it is gone.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before a client that the store could not serve is let go: it comes back at once, and may find the same.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// How often and after which pause a will is tried when the store takes nothing.
const WILL_TRIES: u32 = 5;
const WILL_PAUSE: Duration = Duration::from_secs(2);

/// What a connection needs to know of the listener.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) intake: Intake,
    pub(super) limits: Arc<Limits>,
    pub(super) room: Arc<Room>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) shutdown: watch::Receiver<bool>,
}

/// Why a connection ended.
#[derive(Debug)]
enum End {
    /// DISCONNECT.
    Graceful,
    /// The client is gone, silent, or broke the protocol: its will is published.
    Lost(String),
    /// We close it, and the device is not to blame: no will.
    Closed(Goodbye, String),
    /// Another connection has its client id: the will is published, as MQTT asks, before the other is welcomed.
    TakenOver,
}

/// Serves a client until its end. `deadline` is for its CONNECT; `identity` whom its certificate names.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    context: Context,
    identity: Option<Arc<str>>,
    deadline: Instant,
    peer: std::net::SocketAddr,
) {
    let mut client = Client {
        stream,
        protocol: Protocol::new(context.limits.in_flight, context.limits.packet_bytes),
        input: Input::default(),
        framing: Framing::default(),
        waiting: None,
        large: None,
        window: VecDeque::new(),
        will: None,
        session: None,
        identity,
        deadline: Some(deadline),
        stalled: false,
        context,
    };
    let end = client.run().await;
    client.finish(end, peer).await;
}

struct Client<S> {
    stream: S,
    protocol: Protocol,
    input: Input,
    framing: Framing,
    /// The front of a large packet, in the input, until there is a place for it. Nothing is read meanwhile.
    waiting: Option<Waiting>,
    /// The large packet that is coming in.
    large: Option<Large>,
    /// Publishes whose outcome is not known yet, in order; QoS 0 does not wait here.
    window: VecDeque<(u16, Ticket)>,
    will: Option<Will>,
    /// After CONNECT.
    session: Option<Session>,
    identity: Option<Arc<str>>,
    /// When the client must have been heard of.
    deadline: Option<Instant>,
    /// We have not been reading since the deadline was set: silence is not the client's.
    stalled: bool,
    context: Context,
}

/// A packet that has no place in the room yet.
struct Waiting {
    piece: Piece,
    bytes: usize,
    place: Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>,
}

/// A packet that has a place in the room.
struct Large {
    bytes: usize,
    /// When it should be here, if others wait.
    due: Instant,
    _place: OwnedSemaphorePermit,
}

/// What woke the connection up.
enum Woken {
    Shutdown,
    TakenOver,
    Forgotten,
    Outcomes,
    Place(Option<OwnedSemaphorePermit>),
    Read(std::io::Result<usize>),
    Deadline,
    /// The large packet is not here.
    Overdue,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn run(&mut self) -> End {
        loop {
            if let Err(end) = self.work().await {
                return end;
            }
            if let Err(error) = self.flush().await {
                return End::Lost(error);
            }
            match self.wait().await {
                Woken::Shutdown => {
                    return End::Closed(Goodbye::ShuttingDown, "the collector stops".to_owned());
                }
                Woken::TakenOver => return End::TakenOver,
                Woken::Forgotten => {
                    return End::Closed(Goodbye::Forgotten, "the device was forgotten".to_owned());
                }
                Woken::Outcomes => {}
                Woken::Overdue => {
                    if let Err(end) = self.check_due() {
                        return end;
                    }
                }
                Woken::Read(Ok(0)) => return End::Lost("closed without DISCONNECT".to_owned()),
                Woken::Place(Some(place)) => self.enter(place),
                Woken::Place(None) => {
                    return End::Closed(Goodbye::ShuttingDown, "the listener is closed".to_owned());
                }
                Woken::Read(Ok(count)) => self.input.came(count),
                Woken::Read(Err(error)) => return End::Lost(error.to_string()),
                Woken::Deadline if self.session.is_none() => {
                    return End::Lost("no CONNECT in time".to_owned());
                }
                Woken::Deadline if std::mem::take(&mut self.stalled) => self.renew_deadline(),
                Woken::Deadline => {
                    self.protocol.silent_too_long();
                    return End::Lost("silent for longer than it promised".to_owned());
                }
            }
        }
    }

    /// Understands input while the window has room, and acknowledges what is due.
    async fn work(&mut self) -> Result<(), End> {
        loop {
            self.acknowledge()?;
            if !self.may_read() {
                self.stalled = true;
                break;
            }
            let rest = self.input.rest();
            if rest.is_empty() {
                break;
            }
            let piece = match self.waiting.take() {
                Some(waiting) => waiting.piece,
                None => self.framing.next(rest),
            };
            // Before the protocol sees the header: it makes room for the packet at once.
            if self.large.is_none()
                && let Some(bytes) = piece.packet_bytes.filter(|n| *n > SMALL_PACKET_BYTES)
                && bytes <= self.context.limits.packet_bytes as usize
            {
                self.want_place(piece, bytes)?;
                continue;
            }
            let mut packet = self.input.take(piece.bytes);
            let incoming = self.protocol.read(&mut packet);
            let incoming = incoming.map_err(|Broken(why)| End::Lost(why))?;
            if self.protocol.was_heard() {
                self.renew_deadline();
            }
            match incoming {
                None => {}
                Some(Incoming::Connect(connect)) => self.connect(connect).await?,
                Some(Incoming::Publish(publish)) => self.publish(publish).await?,
                Some(Incoming::Disconnect { with_will: true }) => {
                    return Err(End::Lost("asked for its will".to_owned()));
                }
                Some(Incoming::Disconnect { with_will: false }) => return Err(End::Graceful),
            }
            if self.framing.is_between() {
                self.large = None;
            }
        }
        Ok(())
    }

    /// Gets in line for a place for a large packet.
    fn want_place(&mut self, piece: Piece, bytes: usize) -> Result<(), End> {
        if self.session.is_none() {
            return Err(End::Lost(format!(
                "a first packet of {bytes} bytes; no CONNECT needs more than {SMALL_PACKET_BYTES}"
            )));
        }
        let room = self.context.room.clone();
        self.waiting = Some(Waiting {
            piece,
            bytes,
            place: Box::pin(async move { room.place(bytes + LARGE_INPUT_BYTES).await }),
        });
        Ok(())
    }

    /// Has the place; the packet may come in.
    fn enter(&mut self, place: OwnedSemaphorePermit) {
        self.large = Some(Large {
            bytes: self.waiting.as_ref().map_or(0, |waiting| waiting.bytes),
            due: Instant::now() + self.context.limits.packet_timeout,
            _place: place,
        });
    }

    /// The packet is not here in time: no matter, unless others wait for its memory.
    fn check_due(&mut self) -> Result<(), End> {
        let Some(large) = &mut self.large else {
            return Ok(());
        };
        if self.context.room.is_wanted() {
            return Err(End::Lost(format!(
                "a packet of {} bytes took too long, and others wait for its memory",
                large.bytes
            )));
        }
        large.due = Instant::now() + self.context.limits.packet_timeout;
        Ok(())
    }

    fn may_read(&self) -> bool {
        let waits = self.waiting.is_some() && self.large.is_none();
        !self.is_full() && !waits
    }

    fn is_full(&self) -> bool {
        self.window.len() >= usize::from(self.context.limits.in_flight.max(1))
    }

    fn renew_deadline(&mut self) {
        self.deadline = self
            .protocol
            .silence()
            .map(|silence| Instant::now() + silence);
    }

    async fn connect(&mut self, connect: Connect) -> Result<(), End> {
        let assigned = connect
            .client_id
            .is_empty()
            .then(|| self.context.sessions.new_id());
        let client_id = assigned.clone().unwrap_or(connect.client_id);
        // With certificates a client can only take over sessions of its own device.
        let session = self
            .context
            .sessions
            .open((self.identity.clone(), client_id))
            .await;
        self.session = Some(session);
        self.will = connect.will;
        self.renew_deadline();
        let welcomed = self.protocol.welcome(assigned.as_deref());
        welcomed.map_err(|Broken(why)| End::Lost(why))
    }

    async fn publish(&mut self, publish: Publish) -> Result<(), End> {
        let submit = self.context.intake.submit(accept::Publish {
            topic: publish.topic,
            payload: publish.payload,
            identity: self.identity.clone(),
            retained: false, // a client's retain flag is for brokers
        });
        let mut submit = std::pin::pin!(submit);
        let ready = poll_fn(|cx| Poll::Ready(submit.as_mut().poll(cx))).await;
        let ticket = match ready {
            Poll::Ready(ticket) => ticket,
            Poll::Pending => {
                self.stalled = true;
                tokio::select! {
                    ticket = submit => ticket,
                    () = stopped(&mut self.context.shutdown) => {
                        return Err(End::Closed(Goodbye::ShuttingDown, "the collector stops".to_owned()));
                    }
                }
            }
        };
        if let Some(packet_id) = publish.packet_id {
            self.window.push_back((packet_id, ticket));
        }
        Ok(())
    }

    /// Acknowledges the front of the window as far as its outcomes are known.
    fn acknowledge(&mut self) -> Result<(), End> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        while let Some((packet_id, ticket)) = self.window.front_mut() {
            let Poll::Ready(outcome) = Pin::new(ticket).poll(&mut cx) else {
                break;
            };
            match outcome {
                Outcome::Acknowledge => {
                    let acknowledged = self.protocol.acknowledge(*packet_id);
                    acknowledged.map_err(|Broken(why)| End::Lost(why))?;
                    self.window.pop_front();
                }
                Outcome::Refuse(why) => return Err(End::Closed(Goodbye::Busy, why)),
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), String> {
        let output = self.protocol.output();
        if output.is_empty() {
            return Ok(());
        }
        let sent = async {
            self.stream.write_all(output).await?;
            self.stream.flush().await
        };
        let sent = tokio::time::timeout(WRITE_PATIENCE, sent).await;
        output.clear();
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("does not read what it is sent".to_owned()),
        }
    }

    async fn wait(&mut self) -> Woken {
        let may_read = self.may_read();
        let most_input = if self.large.is_some() {
            LARGE_INPUT_BYTES
        } else {
            MOST_INPUT_BYTES
        };
        let Self {
            stream,
            input,
            window,
            session,
            deadline,
            large,
            waiting,
            context,
            ..
        } = self;
        let front = poll_fn(|cx| match window.front_mut() {
            // Polled, not taken: `acknowledge` takes it, and all that are ready behind it.
            Some((_, ticket)) => ticket.poll_ready(cx),
            None => Poll::Pending,
        });
        let deadline = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(*deadline).await,
                None => std::future::pending().await,
            }
        };
        let has_place = large.is_some();
        let place = async {
            match waiting {
                Some(waiting) if !has_place => waiting.place.as_mut().await,
                _ => std::future::pending().await,
            }
        };
        let overdue = async {
            match large {
                Some(large) => tokio::time::sleep_until(large.due).await,
                None => std::future::pending().await,
            }
        };
        let sent_away = async {
            let Some(session) = session else {
                return std::future::pending().await;
            };
            tokio::select! {
                () = session.taken_over() => Woken::TakenOver,
                () = session.closed() => Woken::Forgotten,
            }
        };
        tokio::select! {
            biased;
            () = stopped(&mut context.shutdown) => Woken::Shutdown,
            woken = sent_away => woken,
            () = front => Woken::Outcomes,
            place = place => Woken::Place(place),
            read = input.read_from(stream, most_input), if may_read => Woken::Read(read),
            () = deadline => Woken::Deadline,
            () = overdue, if may_read => Woken::Overdue,
        }
    }

    /// Says goodbye, publishes the will where it is due, lets go of the session.
    async fn finish(mut self, end: End, peer: std::net::SocketAddr) {
        let client_id = self
            .session
            .as_ref()
            .map_or("", |session| session.client_id())
            .to_owned();
        let will_is_due = match &end {
            End::Graceful => {
                tracing::debug!(%peer, client_id, "client disconnected");
                false
            }
            End::Lost(why) => {
                tracing::info!(%peer, client_id, why, "connection lost");
                true
            }
            End::TakenOver => {
                tracing::info!(%peer, client_id, "another connection has this client id now; closing the older");
                self.protocol.goodbye(Goodbye::TakenOver);
                true
            }
            End::Closed(goodbye, why) => {
                tracing::info!(%peer, client_id, why, "closing the connection");
                if *goodbye == Goodbye::Busy {
                    tokio::select! {
                        () = tokio::time::sleep(REFUSED_PAUSE) => {}
                        () = stopped(&mut self.context.shutdown) => {}
                    }
                }
                self.protocol.goodbye(*goodbye);
                false
            }
        };
        // What is still due, as far as the client takes it; it is gone, or will be.
        let sent = self.flush().await;
        let shut = tokio::time::timeout(Duration::from_secs(1), self.stream.shutdown()).await;
        drop((sent, shut));
        if let Some(will) = self.will.take().filter(|_| will_is_due) {
            self.publish_will(will, &client_id).await;
        }
    }

    async fn publish_will(&mut self, will: Will, client_id: &str) {
        for attempt in 1..=WILL_TRIES {
            let publish = accept::Publish {
                topic: will.topic.clone(),
                payload: will.payload.clone(),
                identity: self.identity.clone(),
                retained: false,
            };
            match self.context.intake.accept(publish).await {
                Outcome::Acknowledge => return,
                Outcome::Refuse(why)
                    if attempt == WILL_TRIES || *self.context.shutdown.borrow() =>
                {
                    tracing::warn!(
                        client_id,
                        why,
                        "a last will could not be stored; the device will show as stale"
                    );
                    return;
                }
                Outcome::Refuse(_) => tokio::time::sleep(WILL_PAUSE).await,
            }
        }
    }
}

/// Resolves when the collector stops.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that nobody can say it any more: then it is time as well.
    let said = shutdown.wait_for(|stop| *stop).await;
    drop(said);
}

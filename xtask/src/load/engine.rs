//! Many MQTT connections in one thread: sends what a [`Script`] says, takes PUBACKs, measures.
//!
//! Each connection has a window of messages that are not acknowledged. Latency counts from the moment at which a message was due, not from that at which it found room:
//! a collector that falls behind is not flattered. Little is done for each message: it is made in place, and what is ready goes out with one call.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::message::{Message, Shape, connect};

/// Written into one connection's buffer before it is sent.
const OUT_BYTES: usize = 64 << 10;
/// Connections from one address.
const PORTS: u32 = 20_000;
/// The pause before a lost connection is made again.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// Where to, and how.
#[derive(Debug, Clone)]
pub struct Link {
    pub to: SocketAddr,
    pub connections: u32,
    /// Client ids are this and a number.
    pub client: String,
    /// Messages of a connection that may wait for their PUBACK: 1 to 65 535.
    pub window: u16,
    /// Lost connections are made again and what was not acknowledged is sent again; without it the engine ends when all are lost.
    pub reconnect: bool,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Go on; ask again after this time at the latest.
    Go(Duration),
    /// Send no more, and end when all is acknowledged.
    Drain,
    /// End now.
    Stop,
}

/// Says what is sent.
pub trait Script {
    /// Called before each wait for the network. Connections that were out of messages and are not any more are put into `woken`.
    fn turn(&mut self, now: Instant, tally: &mut Tally, woken: &mut Vec<u32>) -> Turn;
    /// The next message of a connection that has room, and when it was due.
    fn next(&mut self, connection: u32, now: Instant) -> Option<(Message, Instant)>;
    /// The collector has it on disk.
    fn acked(&mut self, _message: &Message) {}
    /// The connection ended before the PUBACK came, and it is not sent again.
    fn lost(&mut self, _message: &Message) {}
}

/// What happened so far.
#[derive(Debug)]
pub struct Tally {
    pub sent: u64,
    /// Of them, sent again after a connection was lost.
    pub again: u64,
    pub acked: u64,
    pub bytes: u64,
    pub connections_lost: u64,
    /// From due to PUBACK, in microseconds.
    pub latency_us: Histogram<u64>,
}

impl Tally {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            sent: 0,
            again: 0,
            acked: 0,
            bytes: 0,
            connections_lost: 0,
            latency_us: Histogram::new_with_bounds(1, 600_000_000, 2)?,
        })
    }
}

#[derive(Clone, Copy)]
struct Slot {
    message: Message,
    due: Instant,
}

struct Connection {
    stream: Option<TcpStream>,
    welcomed: bool,
    /// Wants to be told when it can write on.
    blocked: bool,
    out: Vec<u8>,
    written: usize,
    /// The packet that has not come whole.
    partial: [u8; 4],
    partial_len: usize,
    /// The message with packet id i + 1.
    slots: Vec<Option<Slot>>,
    cursor: usize,
    in_flight: u32,
    reconnect_at: Option<Instant>,
}

struct Engine<'a, S> {
    link: &'a Link,
    shape: &'a Shape,
    script: &'a mut S,
    epoll: rustix::fd::OwnedFd,
    connections: Vec<Connection>,
    open: u32,
    down: u32,
    in_flight: u64,
    draining: bool,
    tally: Tally,
}

/// Runs the script to its end.
///
/// # Errors
/// No connection can be made, or the other side does not speak MQTT 3.1.1.
pub fn drive<S: Script>(link: &Link, shape: &Shape, script: &mut S) -> anyhow::Result<Tally> {
    let mut engine = Engine {
        link,
        shape,
        script,
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        connections: Vec::new(),
        open: 0,
        down: 0,
        in_flight: 0,
        draining: false,
        tally: Tally::new()?,
    };
    engine.run()?;
    engine.goodbye();
    Ok(engine.tally)
}

/// A connection; on loopback from an address of its own for each [`PORTS`], since one has not more than some 28 000 ports.
fn open(to: SocketAddr, number: u32) -> std::io::Result<TcpStream> {
    let from = match to {
        SocketAddr::V4(to) if to.ip().is_loopback() && number >= PORTS => number / PORTS,
        _ => return TcpStream::connect(to),
    };
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let from = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + from);
    rustix::net::bind(&socket, &SocketAddrV4::new(from, 0))?;
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

impl<S: Script> Engine<'_, S> {
    fn run(&mut self) -> anyhow::Result<()> {
        for number in 0..self.link.connections.max(1) {
            self.connections.push(Connection {
                stream: None,
                welcomed: false,
                blocked: false,
                out: Vec::new(),
                written: 0,
                partial: [0; 4],
                partial_len: 0,
                slots: vec![None; usize::from(self.link.window.max(1))],
                cursor: 0,
                in_flight: 0,
                reconnect_at: None,
            });
            if let Err(error) = self.connect(number) {
                if !self.link.reconnect && self.open == 0 {
                    return Err(error);
                }
                self.lose(number);
            }
        }
        let mut events = Vec::with_capacity(1024);
        let mut woken = Vec::new();
        let mut input = vec![0; 64 << 10];
        loop {
            let now = Instant::now();
            let patience = match self.script.turn(now, &mut self.tally, &mut woken) {
                Turn::Stop => return Ok(()),
                Turn::Drain if self.in_flight == 0 => return Ok(()),
                Turn::Drain => {
                    self.draining = true;
                    Duration::from_millis(20)
                }
                Turn::Go(patience) => patience,
            };
            if self.open == 0 && !self.link.reconnect {
                return Ok(());
            }
            for number in woken.drain(..) {
                self.pump(number, now);
            }
            if self.down > 0 {
                self.reconnect(now);
            }
            let timeout = rustix::event::Timespec {
                tv_sec: patience.as_secs() as i64,
                tv_nsec: i64::from(patience.subsec_nanos()),
            };
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&timeout),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("epoll_wait"),
            }
            let now = Instant::now();
            for event in &events {
                let number = event.data.u64() as u32;
                self.read(number, &mut input, now)?;
                self.pump(number, now);
            }
        }
    }

    /// DISCONNECT, where a connection is still there to take it.
    fn goodbye(&mut self) {
        let streams = self.connections.iter_mut().filter(|c| c.out.is_empty());
        for stream in streams.filter_map(|c| c.stream.as_mut()) {
            // It is closed next in any case.
            let _ = stream.write(&[0xe0, 0]);
        }
    }

    fn connect(&mut self, number: u32) -> anyhow::Result<()> {
        let mut stream = open(self.link.to, number)
            .with_context(|| format!("cannot connect to {}", self.link.to))?;
        stream.set_nodelay(true)?;
        let mut hello = Vec::new();
        connect(&format!("{}-{number}", self.link.client), &mut hello);
        stream.write_all(&hello)?;
        stream.set_nonblocking(true)?;
        epoll::add(
            &self.epoll,
            &stream,
            epoll::EventData::new_u64(u64::from(number)),
            epoll::EventFlags::IN,
        )?;
        let connection = &mut self.connections[number as usize];
        connection.stream = Some(stream);
        connection.welcomed = false;
        connection.blocked = false;
        self.open += 1;
        Ok(())
    }

    fn reconnect(&mut self, now: Instant) {
        for number in 0..self.connections.len() as u32 {
            let due = self.connections[number as usize].reconnect_at;
            if due.is_some_and(|due| due <= now) {
                self.down -= 1;
                self.connections[number as usize].reconnect_at = None;
                if self.connect(number).is_err() {
                    self.lose(number);
                }
            }
        }
    }

    fn lose(&mut self, number: u32) {
        let connection = &mut self.connections[number as usize];
        if connection.stream.take().is_some() {
            self.open -= 1;
            self.tally.connections_lost += 1;
        }
        connection.out.clear();
        (connection.written, connection.partial_len) = (0, 0);
        if self.link.reconnect {
            connection.reconnect_at = Some(Instant::now() + RECONNECT_AFTER);
            self.down += 1;
            return;
        }
        for slot in connection.slots.iter_mut().filter_map(Option::take) {
            self.in_flight -= 1;
            self.script.lost(&slot.message);
        }
        connection.in_flight = 0;
    }

    fn read(&mut self, number: u32, input: &mut [u8], now: Instant) -> anyhow::Result<()> {
        loop {
            let connection = &mut self.connections[number as usize];
            let Some(stream) = &mut connection.stream else {
                return Ok(());
            };
            let count = match stream.read(input) {
                Ok(0) => {
                    self.lose(number);
                    return Ok(());
                }
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => {
                    self.lose(number);
                    return Ok(());
                }
            };
            self.packets(number, &input[..count], now)?;
            if count < input.len() {
                return Ok(());
            }
        }
    }

    /// All that may come is four bytes long: CONNACK and PUBACK.
    fn packets(&mut self, number: u32, mut bytes: &[u8], now: Instant) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            let connection = &mut self.connections[number as usize];
            let wanted = (4 - connection.partial_len).min(bytes.len());
            let at = connection.partial_len;
            connection.partial[at..at + wanted].copy_from_slice(&bytes[..wanted]);
            connection.partial_len += wanted;
            bytes = &bytes[wanted..];
            if connection.partial_len < 4 {
                return Ok(());
            }
            connection.partial_len = 0;
            match connection.partial {
                [0x40, 2, high, low] => {
                    let id = usize::from(u16::from_be_bytes([high, low]));
                    let slot = connection.slots.get_mut(id.wrapping_sub(1));
                    let Some(slot) = slot.and_then(Option::take) else {
                        bail!("a PUBACK for packet {id}, which does not wait for one");
                    };
                    connection.in_flight -= 1;
                    self.in_flight -= 1;
                    self.tally.acked += 1;
                    let took = now.saturating_duration_since(slot.due).as_micros();
                    self.tally.latency_us.saturating_record(took as u64);
                    self.script.acked(&slot.message);
                }
                [0x20, 2, _, 0] => {
                    connection.welcomed = true;
                    self.send_again(number);
                }
                other => bail!("neither CONNACK nor PUBACK: {other:02x?}"),
            }
        }
        Ok(())
    }

    /// On a new connection: what the last one left without PUBACK, oldest first.
    fn send_again(&mut self, number: u32) {
        let connection = &mut self.connections[number as usize];
        let window = connection.slots.len();
        for i in 0..window {
            let at = (connection.cursor + i) % window;
            if let Some(slot) = connection.slots[at] {
                self.shape
                    .publish(&slot.message, at as u16 + 1, true, &mut connection.out);
                self.tally.sent += 1;
                self.tally.again += 1;
            }
        }
    }

    /// Fills the window and sends.
    fn pump(&mut self, number: u32, now: Instant) {
        loop {
            let connection = &mut self.connections[number as usize];
            if connection.stream.is_none() || !connection.welcomed {
                return;
            }
            while !self.draining
                && connection.out.len() < OUT_BYTES
                && connection.slots[connection.cursor].is_none()
            {
                let Some((message, due)) = self.script.next(number, now) else {
                    break;
                };
                let id = connection.cursor as u16 + 1;
                self.shape.publish(&message, id, false, &mut connection.out);
                connection.slots[connection.cursor] = Some(Slot { message, due });
                connection.cursor = (connection.cursor + 1) % connection.slots.len();
                connection.in_flight += 1;
                self.in_flight += 1;
                self.tally.sent += 1;
            }
            if connection.out.is_empty() || !self.flush(number) {
                return;
            }
        }
    }

    /// True if all went out.
    fn flush(&mut self, number: u32) -> bool {
        let connection = &mut self.connections[number as usize];
        let Some(stream) = &mut connection.stream else {
            return false;
        };
        let all = loop {
            if connection.written == connection.out.len() {
                connection.out.clear();
                connection.written = 0;
                break true;
            }
            match stream.write(&connection.out[connection.written..]) {
                Ok(count) => {
                    connection.written += count;
                    self.tally.bytes += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.lose(number);
                    return false;
                }
            }
        };
        if connection.blocked == all {
            connection.blocked = !all;
            let flags = if all {
                epoll::EventFlags::IN
            } else {
                epoll::EventFlags::IN | epoll::EventFlags::OUT
            };
            let data = epoll::EventData::new_u64(u64::from(number));
            if epoll::modify(&self.epoll, &*stream, data, flags).is_err() {
                self.lose(number);
                return false;
            }
        }
        all
    }
}

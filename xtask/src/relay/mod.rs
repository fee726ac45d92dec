//! A TCP relay on loopback between two programs: sees every byte before it is passed on, and can hold, cut and refuse.
//!
//! It stands where a network stands. **Promises** that a [`Tap`] is shown bytes before the other side can have them, and in their order; that bytes which are held when a
//! connection is cut are shown to nobody and reach nobody, as with a cable pulled out. **Leaves** to the tap what they mean ([`packets`] reads MQTT).
//!
//! Two threads a connection, which sleep unless something comes.

pub mod packets;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Read at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// For the connection to the far side: it is on this machine.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From who connected (agent, collector) to who listens (broker).
    Up,
    /// Back.
    Down,
}

/// Looks at what passes. Called by several threads, for one connection and way by one at a time.
pub trait Tap: Send + Sync {
    /// Bytes that are passed on next.
    fn pass(&self, connection: u64, way: Way, bytes: &[u8]);
    /// Nothing passes any more.
    fn closed(&self, _connection: u64) {}
}

/// What the line does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Line {
    /// Passes all on.
    #[default]
    Open,
    /// Passes nothing on and tells nobody: both sides wait, as behind a network that drops every packet.
    Stalled,
    /// Passes up and holds what comes back: what was received is not known to be.
    Deaf,
    /// Ends all connections and refuses new ones.
    Cut,
}

/// A running relay. Dropping it ends its connections.
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: SocketAddr,
    tap: Arc<dyn Tap>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    line: Line,
    next: u64,
    /// Both sockets of each.
    open: BTreeMap<u64, [TcpStream; 2]>,
    ended: bool,
}

impl Relay {
    /// Listens on a free port of loopback and passes to `to`, which need not listen yet.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(to: SocketAddr, tap: Arc<dyn Tap>) -> anyhow::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST, to, tap)
    }

    /// As [`start`](Self::start), on another address of this machine.
    ///
    /// # Errors
    /// It is no address of ours, or has no free port.
    pub fn start_at(at: Ipv4Addr, to: SocketAddr, tap: Arc<dyn Tap>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((at, 0))?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            to,
            tap,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.state().ended {
                    return;
                }
                if let Ok(client) = client {
                    // A far side that does not answer is no fault: the client sees its connection end.
                    let _ = accepting.welcome(client);
                }
            }
        });
        Ok(Self { addr, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// As it is now.
    #[must_use]
    pub fn line(&self) -> Line {
        self.shared.state().line
    }

    /// From now on.
    pub fn set(&self, line: Line) {
        let mut state = self.shared.state();
        state.line = line;
        if line == Line::Cut {
            end_all(&mut state);
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.ended = true;
        end_all(&mut state);
        self.shared.changed.notify_all();
        drop(state);
        // Wakes the thread that accepts; it looks at `ended` then.
        let _ = TcpStream::connect(self.addr);
    }
}

fn end_all(state: &mut State) {
    for socket in std::mem::take(&mut state.open).values().flatten() {
        // It may have ended already.
        let _ = socket.shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn welcome(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        if self.state().line == Line::Cut {
            return Ok(());
        }
        let server = TcpStream::connect_timeout(&self.to, CONNECT_PATIENCE)?;
        for socket in [&client, &server] {
            socket.set_nodelay(true)?;
        }
        let sockets = [client.try_clone()?, server.try_clone()?];
        let number = {
            let mut state = self.state();
            if state.line == Line::Cut || state.ended {
                return Ok(());
            }
            state.next += 1;
            let number = state.next;
            state.open.insert(number, sockets);
            number
        };
        let (up, down) = ([client.try_clone()?, server.try_clone()?], [server, client]);
        for (way, [from, to]) in [(Way::Up, up), (Way::Down, down)] {
            let shared = self.clone();
            std::thread::spawn(move || shared.copy(number, way, from, to));
        }
        Ok(())
    }

    fn copy(&self, number: u64, way: Way, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default();
            if !self.may_pass(number, way) {
                break;
            }
            self.tap.pass(number, way, bytes);
            if to.write_all(bytes).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
        if self.state().open.remove(&number).is_some() {
            self.changed.notify_all();
        }
        if way == Way::Up {
            self.tap.closed(number);
        }
    }

    /// Waits while the line holds this way; false if the connection is gone.
    fn may_pass(&self, number: u64, way: Way) -> bool {
        let mut state = self.state();
        loop {
            if !state.open.contains_key(&number) {
                return false;
            }
            let held = match state.line {
                Line::Open | Line::Cut => false,
                Line::Stalled => true,
                Line::Deaf => way == Way::Down,
            };
            if !held {
                return true;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<(Way, Vec<u8>)>>);

    impl Tap for Seen {
        fn pass(&self, _: u64, way: Way, bytes: &[u8]) {
            self.0.lock().unwrap().push((way, bytes.to_vec()));
        }
    }

    fn read(from: &mut TcpStream, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        from.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_held_at_a_cut_reaches_nobody_and_is_shown_to_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let seen = Arc::new(Seen::default());
        let relay = Relay::start(listener.local_addr().unwrap(), seen.clone()).unwrap();
        let mut client = TcpStream::connect(relay.addr()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"up").unwrap();
        assert_eq!(read(&mut server, 2), b"up");

        relay.set(Line::Deaf);
        client.write_all(b"more").unwrap();
        assert_eq!(read(&mut server, 4), b"more");
        server.write_all(b"answer").unwrap();
        relay.set(Line::Cut);
        let mut rest = Vec::new();
        // A reset is as good an end.
        let _ = client.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
        let ways: Vec<_> = seen.0.lock().unwrap().clone();
        assert!(ways.iter().all(|(way, _)| *way == Way::Up), "{ways:?}");

        let mut refused = TcpStream::connect(relay.addr()).unwrap();
        assert!(!matches!(refused.read(&mut [0]), Ok(1..)));
        relay.set(Line::Open);
        let mut again = TcpStream::connect(relay.addr()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        relay.set(Line::Stalled);
        again.write_all(b"late").unwrap();
        relay.set(Line::Open);
        assert_eq!(read(&mut server, 4), b"late");
    }
}

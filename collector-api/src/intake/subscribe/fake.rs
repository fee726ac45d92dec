//! A broker that a test speaks for, packet by packet: for what a real one does too quickly, or does not do.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// For what takes as long as other work on the machine lets it.
const DEADLINE: Duration = Duration::from_secs(60);

const CONNECT: u8 = 0x10;
const SUBSCRIBE: u8 = 0x82;

pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) struct Broker(TcpListener);

impl Broker {
    pub(crate) fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Lets the next one connect; `session`: that it has one is what the broker says.
    pub(crate) fn accept(&self, session: bool) -> Client {
        let (stream, _) = self.0.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut client = Client(stream);
        client.read(CONNECT);
        client.write(&[0x20, 2, u8::from(session), 0]);
        client
    }
}

/// A connection; dropped, it is cut.
pub(crate) struct Client(TcpStream);

impl Client {
    /// Waits until it subscribes; returns the packet's id.
    pub(crate) fn subscribes(&mut self) -> [u8; 2] {
        let body = self.read(SUBSCRIBE);
        [body[0], body[1]]
    }

    /// Answers a SUBSCRIBE: a code for each topic.
    pub(crate) fn answer(&mut self, id: [u8; 2], codes: [u8; 3]) {
        self.write(&[[0x90, 5].as_slice(), &id, &codes].concat());
    }

    /// The body of the next packet, which is of this kind.
    fn read(&mut self, kind: u8) -> Vec<u8> {
        assert_eq!(self.byte(), kind);
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte();
            length |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        body
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.0.read_exact(&mut byte).unwrap();
        byte[0]
    }

    fn write(&mut self, packet: &[u8]) {
        self.0.write_all(packet).unwrap();
    }
}

//! A client that says exactly what a test wants said: packets are put together by hand, from the MQTT specifications.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const CONNACK: u8 = 0x20;
pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const SUBACK: u8 = 0x90;
pub(crate) const UNSUBACK: u8 = 0xb0;
pub(crate) const PINGRESP: u8 = 0xd0;
pub(crate) const DISCONNECT: u8 = 0xe0;

/// What a CONNECT says.
#[derive(Clone)]
pub(crate) struct Hello {
    pub(crate) version: u8,
    pub(crate) client_id: String,
    pub(crate) clean: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) will: Option<(String, String)>,
}

impl Hello {
    /// 4: MQTT 3.1.1; 5: MQTT 5.
    pub(crate) fn new(version: u8, client_id: &str) -> Self {
        Self {
            version,
            client_id: client_id.into(),
            clean: true,
            keep_alive_s: 60,
            will: None,
        }
    }

    pub(crate) fn will(mut self, topic: &str, payload: &str) -> Self {
        self.will = Some((topic.into(), payload.into()));
        self
    }

    fn packet(&self) -> Vec<u8> {
        let mut body = string("MQTT");
        let will = if self.will.is_some() { 0b0010_1100 } else { 0 }; // retained, QoS 1
        body.extend([self.version, will | u8::from(self.clean) << 1]);
        body.extend(self.keep_alive_s.to_be_bytes());
        let properties: &[u8] = if self.version == 5 { &[0] } else { &[] };
        body.extend(properties);
        body.extend(string(&self.client_id));
        if let Some((topic, payload)) = &self.will {
            body.extend(properties);
            body.extend(string(topic));
            body.extend(string(payload));
        }
        packet(0x10, &body)
    }
}

pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    version: u8,
}

impl Client {
    /// Connects and reads CONNACK, which must say yes.
    pub(crate) fn connect(addr: SocketAddr, hello: &Hello) -> Self {
        let (client, connack) = Self::connect_raw(addr, hello);
        assert_eq!(connack[..2], [0, 0], "accepted, no session");
        client
    }

    /// Connects and returns CONNACK's body.
    pub(crate) fn connect_raw(addr: SocketAddr, hello: &Hello) -> (Self, Vec<u8>) {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Client::over(stream, hello)
    }
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn over(stream: S, hello: &Hello) -> (Self, Vec<u8>) {
        let mut client = Self {
            stream,
            version: hello.version,
        };
        client.send(&hello.packet());
        let (kind, body) = client.read().expect("CONNACK");
        assert_eq!(kind, CONNACK);
        (client, body)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, packet_id: u16) {
        let packet = self.publish_packet(topic, payload.as_ref(), 1, packet_id);
        self.send(&packet);
    }

    pub(crate) fn publish_packet(
        &self,
        topic: &str,
        payload: &[u8],
        qos: u8,
        packet_id: u16,
    ) -> Vec<u8> {
        let mut body = string(topic);
        if qos > 0 {
            body.extend(packet_id.to_be_bytes());
        }
        if self.version == 5 {
            body.push(0);
        }
        body.extend(payload);
        packet(0x30 | qos << 1, &body)
    }

    pub(crate) fn ping(&mut self) {
        self.send(&[0xc0, 0]);
    }

    /// The next packet: its first byte and its body. `None`: the connection is closed.
    pub(crate) fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut first = [0];
        match self.stream.read(&mut first) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(e) if is_end(&e) => return None,
            Err(e) => panic!("nothing came: {e}"),
        }
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            length |= usize::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        Some((first[0], body))
    }

    /// Reads a PUBACK and returns its packet id.
    pub(crate) fn puback(&mut self) -> u16 {
        let (kind, body) = self.read().expect("PUBACK, not the end");
        assert_eq!(kind, PUBACK, "{body:?}");
        u16::from_be_bytes([body[0], body[1]])
    }

    /// Reads to the end and returns the reason of a DISCONNECT before it, if there was one.
    pub(crate) fn end(&mut self) -> Option<u8> {
        let mut reason = None;
        while let Some((kind, body)) = self.read() {
            if kind == DISCONNECT {
                reason = body.first().copied();
            }
        }
        reason
    }
}

fn is_end(error: &std::io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap();
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut length = body.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(body);
    out
}

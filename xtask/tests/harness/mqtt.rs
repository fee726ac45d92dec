//! An MQTT 3.1.1 publisher of its own, from the specification, so that what is tested is not tested with itself. Knows for each packet id whether
//! its PUBACK has come.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "each test binary uses a part of it"
)]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

pub struct Publisher {
    stream: TcpStream,
    acked: Arc<Mutex<BTreeSet<u16>>>,
}

impl Publisher {
    /// Connects; PUBACKs are gathered into `acked` by a thread of its own until the connection ends.
    pub fn connect(
        port: u16,
        client_id: &str,
        acked: Arc<Mutex<BTreeSet<u16>>>,
    ) -> std::io::Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 0b10, 0, 0];
        text(&mut body, client_id);
        stream.write_all(&packet(0x10, &body))?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack)?;
        assert_eq!((connack[0], connack[3]), (0x20, 0), "CONNACK {connack:?}");
        let mut reader = stream.try_clone()?;
        let gathered = acked.clone();
        std::thread::spawn(move || {
            let mut puback = [0; 4];
            while reader.read_exact(&mut puback).is_ok() {
                assert_eq!(
                    (puback[0], puback[1]),
                    (0x40, 2),
                    "not a PUBACK: {puback:?}"
                );
                gathered
                    .lock()
                    .unwrap()
                    .insert(u16::from_be_bytes([puback[2], puback[3]]));
            }
        });
        Ok(Self { stream, acked })
    }

    /// Sends one QoS 1 PUBLISH; false if the connection is gone.
    pub fn publish(&mut self, topic: &str, id: u16, payload: &[u8]) -> bool {
        let mut body = Vec::new();
        text(&mut body, topic);
        body.extend(id.to_be_bytes());
        body.extend(payload);
        match self.stream.write_all(&packet(0x32, &body)) {
            Ok(()) => true,
            Err(e) => {
                assert!(
                    matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
                    "{e}"
                );
                false
            }
        }
    }

    pub fn acked(&self) -> BTreeSet<u16> {
        self.acked.lock().unwrap().clone()
    }
}

fn text(out: &mut Vec<u8>, s: &str) {
    out.extend(u16::try_from(s.len()).unwrap().to_be_bytes());
    out.extend(s.as_bytes());
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut len = body.len();
    loop {
        let byte = (len % 128) as u8;
        len /= 128;
        out.push(if len > 0 { byte | 0x80 } else { byte });
        if len == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

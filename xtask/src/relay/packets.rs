//! MQTT 3.1.1 packets out of a stream of bytes, from the specification alone: what watches the programs must not share their reading of it.
//!
//! Only what a ledger needs is taken apart: PUBLISH and PUBACK.

/// MQTT's own bound of a remaining length, four bytes of seven bits.
const MAX_LENGTH_BYTES: usize = 4;

/// The type of a packet that answers SUBSCRIBE.
pub const SUBACK: u8 = 9;

/// One packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    Publish {
        topic: &'a [u8],
        /// 0 with QoS 0.
        id: u16,
        retain: bool,
        payload: &'a [u8],
    },
    PubAck(u16),
    /// Its type, 1 to 15.
    Other(u8),
}

/// One way of one connection.
#[derive(Debug, Default)]
pub struct Stream {
    /// The packet that has not come whole.
    partial: Vec<u8>,
}

impl Stream {
    /// Takes bytes and gives what is whole to `each`.
    ///
    /// # Errors
    /// This is not MQTT.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(Packet<'_>),
    ) -> Result<(), &'static str> {
        self.partial.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((packet, end)) = split(self.partial.get(at..).unwrap_or_default())? {
            each(packet);
            at += end;
        }
        self.partial.drain(..at);
        Ok(())
    }
}

/// The first packet and where it ends, if it is whole.
fn split(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, &'static str> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let mut length = 0;
    for (i, byte) in rest.iter().enumerate() {
        if i == MAX_LENGTH_BYTES {
            return Err("a remaining length of more than four bytes");
        }
        length |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            let begin = 2 + i;
            let Some(body) = bytes.get(begin..begin + length) else {
                return Ok(None);
            };
            return Ok(Some((packet(first, body)?, begin + length)));
        }
    }
    Ok(None)
}

fn packet(first: u8, body: &[u8]) -> Result<Packet<'_>, &'static str> {
    const SHORT: &str = "a packet shorter than its fields";
    let two = |bytes: &[u8]| {
        let bytes = bytes.first_chunk::<2>()?;
        Some(u16::from_be_bytes(*bytes))
    };
    match first >> 4 {
        3 => {
            let name = usize::from(two(body).ok_or(SHORT)?);
            let topic = body.get(2..2 + name).ok_or(SHORT)?;
            let rest = body.get(2 + name..).ok_or(SHORT)?;
            let (id, payload) = match (first >> 1) & 3 {
                0 => (0, rest),
                _ => (two(rest).ok_or(SHORT)?, rest.get(2..).ok_or(SHORT)?),
            };
            Ok(Packet::Publish {
                topic,
                id,
                retain: first & 1 == 1,
                payload,
            })
        }
        4 => Ok(Packet::PubAck(two(body).ok_or(SHORT)?)),
        0 => Err("packet type 0"),
        other => Ok(Packet::Other(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_found_however_the_bytes_come() {
        let mut bytes = vec![0x10, 2, 0, 0];
        let payload = vec![b'x'; 300];
        let length = 2 + 3 + 2 + payload.len();
        bytes.extend([0x33, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
        bytes.extend([0, 3, b'a', b'/', b'b', 0x12, 0x34]);
        bytes.extend(&payload);
        bytes.extend([0x40, 2, 0x12, 0x34, 0xc0, 0]);
        for step in [1, 7, 1000] {
            let mut found = Vec::new();
            let mut stream = Stream::default();
            for part in bytes.chunks(step) {
                stream
                    .feed(part, &mut |packet| {
                        found.push(match packet {
                            Packet::Publish {
                                topic,
                                id,
                                retain,
                                payload,
                            } => format!("{topic:?} {id} {retain} {}", payload.len()),
                            other => format!("{other:?}"),
                        });
                    })
                    .unwrap();
            }
            let publish = format!("{:?} {} true 300", b"a/b", 0x1234);
            let puback = format!("PubAck({})", 0x1234);
            assert_eq!(found, ["Other(1)", publish.as_str(), &puback, "Other(12)"]);
            assert!(stream.partial.is_empty());
        }
        let mut nothing = |_: Packet<'_>| ();
        assert!(Stream::default().feed(&[0x30, 1, 0], &mut nothing).is_err());
        assert!(
            Stream::default()
                .feed(&[0x30, 255, 255, 255, 255, 1], &mut nothing)
                .is_err()
        );
    }
}

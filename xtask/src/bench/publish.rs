//! The load generator of the listener's measurement: publishes the messages of files over MQTT 3.1.1 at QoS 1, one connection and thread for each file.
//!
//! It prints `ready wall_s=…` when the last PUBACK is there and stays until standard input ends, so that its CPU time can be read. A file is what
//! `collector-api/examples/intake.rs` reads: rows of topic and payload, each behind its length.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;

/// Messages of a connection that may wait for their PUBACK; packet ids go round in twice as many.
const WINDOW: u16 = 1000;
const WRITE_BYTES: usize = 64 << 10;

#[derive(Args)]
pub(crate) struct Publish {
    #[arg(long, value_name = "ADDR:PORT")]
    to: SocketAddr,
    files: Vec<PathBuf>,
}

impl Publish {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let begin = Instant::now();
        let to = self.to;
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .files
                .iter()
                .enumerate()
                .map(|(i, file)| scope.spawn(move || publish(to, i, file)))
                .collect();
            threads.into_iter().try_for_each(|t| {
                t.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        println!("ready wall_s={}", begin.elapsed().as_secs_f64());
        std::io::stdin().read_to_end(&mut Vec::new())?;
        Ok(())
    }
}

fn publish(to: SocketAddr, number: usize, file: &Path) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(to).with_context(|| to.to_string())?;
    stream.set_nodelay(true)?;
    let client = format!("bench-{number}");
    let mut out = vec![0x10];
    // Protocol name and level, clean session, no keep-alive, client id.
    remaining_length(&mut out, 12 + client.len());
    out.extend_from_slice(b"\x00\x04MQTT\x04\x02\x00\x00");
    out.extend_from_slice(&u16::try_from(client.len())?.to_be_bytes());
    out.extend_from_slice(client.as_bytes());
    stream.write_all(&out)?;
    let mut welcome = [0; 4];
    stream.read_exact(&mut welcome)?;
    if welcome[0] != 0x20 || welcome[3] != 0 {
        bail!("{to} refuses the connection: {welcome:02x?}");
    }
    out.clear();

    let file = File::open(file).with_context(|| file.display().to_string())?;
    let mut rows = BufReader::with_capacity(1 << 20, file);
    let (mut sent, mut acked) = (0u64, 0u64);
    let mut acks = Acks::default();
    loop {
        let more = row(&mut rows, sent, &mut out)?;
        sent += u64::from(more);
        let full = sent - acked >= u64::from(WINDOW);
        if out.len() >= WRITE_BYTES || full || !more {
            stream.write_all(&out)?;
            out.clear();
        }
        if full || (!more && acked < sent) {
            acked += acks.read(&mut stream, acked)?;
        }
        if !more && acked == sent {
            break;
        }
    }
    stream.write_all(&[0xe0, 0])?;
    Ok(())
}

/// The next row as PUBLISH; false at the end.
fn row(rows: &mut impl Read, number: u64, out: &mut Vec<u8>) -> anyhow::Result<bool> {
    let mut length = [0; 2];
    match rows.read_exact(&mut length) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
        result => result?,
    }
    let mut topic = vec![0; u16::from_le_bytes(length).into()];
    rows.read_exact(&mut topic)?;
    let mut bytes = [0; 4];
    rows.read_exact(&mut bytes)?;
    let payload = u32::from_le_bytes(bytes) as usize;
    out.push(0x32);
    remaining_length(out, 2 + topic.len() + 2 + payload);
    out.extend_from_slice(&u16::from_le_bytes(length).to_be_bytes());
    out.extend_from_slice(&topic);
    out.extend_from_slice(&packet_id(number).to_be_bytes());
    let at = out.len();
    out.resize(at + payload, 0);
    rows.read_exact(out.get_mut(at..).unwrap_or_default())?;
    Ok(true)
}

fn packet_id(number: u64) -> u16 {
    (number % (2 * u64::from(WINDOW))) as u16 + 1
}

/// PUBACKs, which come in the order of the messages; one may come in halves.
#[derive(Default)]
struct Acks {
    rest: Vec<u8>,
}

impl Acks {
    /// Waits for some and returns how many.
    fn read(&mut self, stream: &mut TcpStream, acked: u64) -> anyhow::Result<u64> {
        let mut input = [0; 16 << 10];
        let n = stream.read(&mut input)?;
        if n == 0 {
            bail!("the collector has closed the connection");
        }
        self.rest
            .extend_from_slice(input.get(..n).unwrap_or_default());
        let mut new = 0;
        for ack in self.rest.chunks_exact(4) {
            let [high, low] = packet_id(acked + new).to_be_bytes();
            if ack != [0x40, 2, high, low] {
                bail!(
                    "not the PUBACK of packet {}: {ack:02x?}",
                    packet_id(acked + new)
                );
            }
            new += 1;
        }
        self.rest.drain(..new as usize * 4);
        Ok(new)
    }
}

fn remaining_length(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

//! The smallest client of server-sent events, with nothing between it and the socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value as Json;

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// `None`: it had none of its own.
    pub(crate) id: Option<String>,
    pub(crate) kind: String,
    pub(crate) data: Json,
}

pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    pub(crate) head: String,
    /// What is read of the body and not yet of an event.
    text: Vec<u8>,
    /// The id that counts for coming again.
    pub(crate) place: Option<String>,
}

impl Client {
    /// Asks, and waits until the stream has begun.
    pub(crate) fn connect(addr: SocketAddr, query: &str, last: Option<&str>) -> Self {
        let mut client = Self::ask(addr, query, last);
        assert!(client.head.starts_with("HTTP/1.1 200"), "{}", client.head);
        while client.place.is_none() {
            assert!(client.fill(), "it ended before it began");
            let event = client.parse();
            assert_eq!(event, None, "before the place was told");
        }
        client
    }

    pub(crate) fn ask(addr: SocketAddr, query: &str, last: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let last = last.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let call = format!("GET /api/v1/events?{query} HTTP/1.1\r\nhost: localhost\r\n{last}\r\n");
        stream.write_all(call.as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(stream.read_line(&mut head).unwrap(), 0, "{head}");
        }
        let (text, place) = (Vec::new(), None);
        Self {
            stream,
            head,
            text,
            place,
        }
    }

    /// The head of an answer to another call.
    pub(crate) fn head_of(addr: SocketAddr, url: &str) -> String {
        let mut stream = TcpStream::connect(addr).unwrap();
        let call = format!("GET {url} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(call.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, _) = answer.split_once("\r\n\r\n").unwrap();
        head.to_owned()
    }

    /// The next event; `None`: the stream has ended.
    pub(crate) fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.parse() {
                return Some(event);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads the next chunk; false: that was the last one.
    fn fill(&mut self) -> bool {
        let mut line = String::new();
        if self.stream.read_line(&mut line).unwrap_or(0) == 0 {
            return false; // the connection is gone, without an end
        }
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        if self.stream.read_exact(&mut chunk).is_err() {
            return false;
        }
        self.text.extend_from_slice(&chunk[..length]);
        length > 0
    }

    /// Takes an event off what was read; blocks that are none move the place only.
    fn parse(&mut self) -> Option<Event> {
        loop {
            let end = self.text.windows(2).position(|w| w == b"\n\n")?;
            let block: Vec<u8> = self.text.drain(..end + 2).collect();
            let (mut id, mut kind, mut data) = (None, String::new(), None);
            for line in std::str::from_utf8(&block).unwrap().lines() {
                match line.split_once(": ") {
                    Some(("id", text)) => id = Some(text.to_owned()),
                    Some(("event", text)) => text.clone_into(&mut kind),
                    Some(("data", text)) => data = Some(serde_json::from_str(text).unwrap()),
                    Some(("retry" | "", _)) => {}
                    None if line.is_empty() => {}
                    other => panic!("{other:?}"),
                }
            }
            self.place = id.clone().or(self.place.take());
            if let Some(data) = data {
                return Some(Event { id, kind, data });
            }
        }
    }

    pub(crate) fn cut_at(&self, after: Duration) {
        self.stream.get_ref().set_read_timeout(Some(after)).unwrap();
    }
}

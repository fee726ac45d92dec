//! Between collector and receiver: passes requests on, or answers for itself, as a test says. It also counts what went through.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the receiver.
    Through,
    /// Answered with this status line and these headers.
    Answer(&'static str),
    /// Never answered, as long as the gate says so.
    Hang,
}

pub(crate) struct Gate {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    receiver: Option<SocketAddr>,
    ways: Mutex<Vec<Way>>,
    seen: AtomicUsize,
    ended: AtomicBool,
    /// Heads of the requests.
    heads: Mutex<Vec<String>>,
}

impl Gate {
    /// The request number n goes the n-th way, those behind the last go the last.
    pub(crate) fn open(receiver: Option<SocketAddr>, ways: &[Way]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            receiver,
            ways: Mutex::new(ways.to_vec()),
            seen: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            heads: Mutex::default(),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.ended.load(SeqCst) {
                    return;
                }
                let shared = accepting.clone();
                let stream = stream.unwrap();
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { addr, shared }
    }

    /// From now on all go this way.
    pub(crate) fn all(&self, way: Way) {
        *self.shared.ways.lock().unwrap() = vec![way];
    }

    /// Requests that have come.
    pub(crate) fn seen(&self) -> usize {
        self.shared.seen.load(SeqCst)
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.ended.store(true, SeqCst);
        let _ = TcpStream::connect(self.addr); // wakes the one that accepts
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some((head, body)) = read(&mut reader) {
            let number = self.seen.fetch_add(1, SeqCst);
            self.heads.lock().unwrap().push(head.clone());
            let way = {
                let ways = self.ways.lock().unwrap();
                ways.get(number).or(ways.last()).unwrap().clone()
            };
            let answer = match way {
                Way::Through => self.through(&head, &body),
                Way::Answer(head) => {
                    let text = "because the test says so\n";
                    format!(
                        "HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{text}",
                        text.len()
                    )
                }
                Way::Hang => {
                    while !self.ended.load(SeqCst)
                        && *self.ways.lock().unwrap().last().unwrap() == Way::Hang
                    {
                        std::thread::sleep(std::time::Duration::from_millis(5));
                    }
                    return;
                }
            };
            if (&stream).write_all(answer.as_bytes()).is_err() {
                return; // the collector was killed
            }
        }
    }

    fn through(&self, head: &str, body: &[u8]) -> String {
        let mut receiver = TcpStream::connect(self.receiver.unwrap()).unwrap();
        receiver.write_all(head.as_bytes()).unwrap();
        receiver.write_all(body).unwrap();
        let mut answer = BufReader::new(receiver);
        let mut status = String::new();
        answer.read_line(&mut status).unwrap();
        assert!(status.contains(" 2"), "the receiver says {status}");
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned()
    }
}

/// The next request: head and body.
fn read(from: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    from.read_exact(&mut body).ok()?;
    Some((head, body))
}

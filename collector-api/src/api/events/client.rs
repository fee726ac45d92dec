//! One client of events: reads the log from its place, sends what is wanted, waits for the client to take it.
//!
//! Nothing queues here: one chunk is on its way, the next is made when it was taken. A client that is slow finds more in the log the next time, or, if it was too slow for
//! the log, a gap and the newest of each thing. One that takes nothing at all is cut off by [`patience`](super::super::patience).

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use warp::hyper::body::Bytes;

use super::text;
use crate::events::event::Event;
use crate::events::filter::Wanted;
use crate::events::{Filter, Follower, Pace};

/// A chunk is sent when it has so many bytes; hyper takes some 16 before it waits for the client.
const CHUNK_BYTES: usize = 16 << 10;
/// A client hears so often at least, so that it knows that nothing happens, and where it is.
const HEARTBEAT: Duration = Duration::from_secs(15);

struct Client {
    follower: Follower,
    filter: Filter,
    text: Vec<u8>,
    /// Events in `text`.
    events: u64,
    send: mpsc::Sender<Bytes>,
    sent: Instant,
}

/// The client went, or the collector ends.
struct Over;

/// Serves a client until it goes or the collector ends.
pub(super) async fn run(
    follower: Follower,
    filter: Filter,
    min_interval: Option<Duration>,
    send: mpsc::Sender<Bytes>,
) {
    let mut text = Vec::new();
    text::hello(&mut text, follower.place());
    let client = Client {
        follower,
        filter,
        text,
        events: 0,
        send,
        sent: Instant::now(),
    };
    let Over = client.serve(min_interval).await;
}

impl Client {
    async fn serve(mut self, min_interval: Option<Duration>) -> Over {
        loop {
            if self.flush().await.is_err() || !self.wait(None).await {
                return Over;
            }
            let begin = Instant::now();
            let pace = match min_interval {
                Some(_) => Pace::NewestBefore(self.follower.end()),
                None => Pace::Every,
            };
            loop {
                let (gap, batch) = self.follower.read(pace);
                if let Some(gap) = gap {
                    text::gap(&mut self.text, &gap);
                    self.events += 1;
                }
                let is_all = batch.events.is_empty();
                for event in &batch.events {
                    self.take(event);
                    if self.text.len() >= CHUNK_BYTES && self.flush().await.is_err() {
                        return Over;
                    }
                }
                if is_all {
                    break;
                }
                // Many events may go by of which this client wants none.
                tokio::task::yield_now().await;
            }
            if let Some(interval) = min_interval
                && (self.flush().await.is_err() || !self.wait(Some(begin + interval)).await)
            {
                return Over;
            }
        }
    }

    fn take(&mut self, event: &Event) {
        let id = self.follower.id_of(event);
        match self.filter.wanted(event) {
            Wanted::Nothing => return,
            Wanted::All => text::all(&mut self.text, id, event),
            Wanted::Some(places) => text::some(&mut self.text, id, event, &places),
        }
        self.events += 1;
    }

    /// Waits for news, or until a time, and says now and then that it is there; false: it is over.
    async fn wait(&mut self, until: Option<Instant>) -> bool {
        loop {
            let heartbeat = self.sent + HEARTBEAT;
            let news = async {
                match until {
                    None => self.follower.more().await,
                    Some(_) => {
                        self.follower.closed().await;
                        false
                    }
                }
            };
            tokio::select! {
                there_is_more = news => return there_is_more,
                () = sleep_until(until.unwrap_or(heartbeat)), if until.is_some() => return true,
                () = sleep_until(heartbeat) => {}
                () = self.send.closed() => return false,
            }
            let place = self.follower.place();
            text::heartbeat(&mut self.text, place);
            if self.flush().await.is_err() {
                return false;
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Over> {
        if self.text.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.text));
        let events = std::mem::take(&mut self.events);
        tokio::select! {
            sent = self.send.send(chunk) => sent.map_err(|_| Over)?,
            // It would wait for a client that does not read.
            () = self.follower.closed() => return Err(Over),
        }
        self.sent = Instant::now();
        self.follower.counters().sent.fetch_add(events, Relaxed);
        Ok(())
    }
}

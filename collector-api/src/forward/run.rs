//! Forwarding to one target: gather, send until it is answered, move on. Ends at the shutdown, wherever it is; what was not answered is sent at the next start.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::batch::Request;
use super::cursor::Cursor;
use super::lock;
use super::progress::{Dropped, Progress};
use super::reader::{Gathered, Reader};
use super::send::{Answer, Sender};
use super::settings::Target;
use crate::store::Pin;
use crate::store::engine::Store;

/// Pauses between tries: doubled from the first to the longest, each jittered.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The longest that a target may ask us to wait.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// How often the bound on what is kept is looked at while a target does not answer.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often refusals are logged.
const LOG_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Forwarder {
    target: Target,
    reader: Arc<Mutex<Reader>>,
    sender: Sender,
    progress: Arc<Progress>,
    jitter: RandomState,
    refusals: Losses,
    skips: Losses,
}

/// Samples that are lost, said once a while.
#[derive(Default)]
struct Losses {
    logged: Option<Instant>,
    since: u64,
}

impl Losses {
    /// How many to speak of now; `None`: it is too early.
    fn add(&mut self, samples: u64) -> Option<u64> {
        self.since += samples;
        let early = self.logged.is_some_and(|at| at.elapsed() < LOG_EVERY);
        if early {
            return None;
        }
        self.logged = Some(Instant::now());
        Some(std::mem::take(&mut self.since))
    }
}

/// What became of a request.
enum Delivered {
    /// It was taken, or refused.
    Done,
    /// The target is too far behind to go on with it.
    TooFarBehind,
}

impl Forwarder {
    pub(super) fn new(
        target: Target,
        store: Arc<dyn Store>,
        cursor: Cursor,
        pin: Pin,
        progress: Arc<Progress>,
    ) -> Self {
        let reader = Reader::new(&target, store, cursor, pin);
        Self {
            sender: Sender::new(&target),
            reader: Arc::new(Mutex::new(reader)),
            target,
            progress,
            jitter: RandomState::new(),
            refusals: Losses::default(),
            skips: Losses::default(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut commits: watch::Receiver<u64>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        tokio::select! {
            () = self.forward(&mut commits) => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
        self.note(self.reading(Reader::sync).await);
    }

    /// Runs a step of the reader on a blocking thread.
    async fn reading<T: Send + 'static>(
        &self,
        step: impl FnOnce(&mut Reader) -> T + Send + 'static,
    ) -> Option<T> {
        let reader = self.reader.clone();
        let done = tokio::task::spawn_blocking(move || step(&mut lock(&reader))).await;
        done.inspect_err(|error| {
            if error.is_panic() {
                tracing::error!(
                    to = self.target.name,
                    "forwarding ends, this is a defect; the journal is no longer kept for it"
                );
                lock(&self.reader).give_up();
            }
        })
        .ok()
    }

    fn note(&self, result: Option<std::io::Result<()>>) {
        if let Some(Err(error)) = result {
            tracing::warn!(
                to = self.target.name, %error,
                "how far forwarding is can not be written down; a restart sends more again"
            );
        }
    }

    async fn forward(&mut self, commits: &mut watch::Receiver<u64>) {
        loop {
            commits.borrow_and_update();
            let gathered = match self.reading(Reader::gather).await {
                Some(Ok(gathered)) => gathered,
                Some(Err(error)) => {
                    tracing::error!(to = self.target.name, %error, "the journal can not be forwarded; trying again");
                    self.progress.set_problem(Some(error.to_string()));
                    tokio::time::sleep(LONGEST_PAUSE).await;
                    continue;
                }
                None => return,
            };
            let full = gathered.full;
            self.progress.set_waiting(gathered.oldest);
            self.progress.set_behind(gathered.behind_bytes);
            let left = gathered.left_out;
            self.progress
                .dropped(Dropped::DeviceForgotten, left.forgotten);
            self.progress.dropped(Dropped::TooOld, left.too_old);
            self.progress
                .dropped(Dropped::Unreadable, gathered.unreadable);
            self.deliver_all(gathered).await;
            if !full {
                self.progress.set_waiting(None);
                self.progress.set_behind(0);
                if commits.changed().await.is_err() {
                    return; // the intake has ended
                }
                tokio::time::sleep(self.target.max_delay).await;
            }
        }
    }

    /// Sends what was gathered and moves the cursor behind it.
    async fn deliver_all(&mut self, mut gathered: Gathered) {
        let mut too_far = gathered.behind_bytes > self.target.max_behind_bytes;
        while let Some(request) = gathered.requests.front().cloned()
            && !too_far
        {
            match self.deliver(request).await {
                Delivered::Done => {
                    gathered.requests.pop_front();
                }
                Delivered::TooFarBehind => too_far = true,
            }
        }
        if let Some(end) = gathered.end {
            self.note(self.reading(move |reader| reader.advance(end)).await);
        }
        if too_far {
            self.skip(gathered.samples()).await;
        }
    }

    /// Leaves out the oldest, beginning with so many samples that were gathered.
    async fn skip(&mut self, gathered: u64) {
        let most = self.target.max_behind_bytes;
        let keep = most - most / 8; // some room, so that it is not done for each message
        let skipped = self.reading(move |reader| reader.skip(keep)).await;
        let mut samples = gathered;
        match skipped {
            Some(Ok(skipped)) => samples += skipped,
            Some(Err(error)) => {
                tracing::error!(to = self.target.name, %error, "the journal can not be skipped")
            }
            None => {}
        }
        self.progress.dropped(Dropped::TooFarBehind, samples);
        if let Some(samples) = self.skips.add(samples) {
            tracing::error!(
                to = self.target.name,
                samples,
                "not forwarded: the target is further behind than max_behind_bytes"
            );
        }
        self.note(self.reading(Reader::sync).await);
    }

    /// Sends one request until it is answered for good.
    async fn deliver(&mut self, request: Request) -> Delivered {
        let mut pause = FIRST_PAUSE;
        for attempt in 0u64.. {
            match self.sender.send(request.body.clone()).await {
                Answer::Taken => {
                    self.works();
                    self.progress.sent(request.samples);
                    break;
                }
                Answer::Refused(why, text) => {
                    self.works();
                    self.progress.dropped(why, request.samples);
                    self.refused(request.samples, &text);
                    break;
                }
                Answer::Failed(why, text, retry_after) => {
                    self.progress.failed(why);
                    if self.progress.set_problem(Some(text.clone())).is_none() {
                        tracing::warn!(
                            to = self.target.name,
                            error = text,
                            "forwarding waits; the journal is kept, and it is tried again"
                        );
                    }
                    let spread = self.jitter.hash_one(attempt) % 500;
                    let jittered = pause + pause.mul_f64(spread as f64 / 1000.0);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
                    if self.wait(jittered.max(asked)).await {
                        return Delivered::TooFarBehind;
                    }
                }
            }
        }
        Delivered::Done
    }

    /// Waits; true if meanwhile too much is kept for the target.
    async fn wait(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            if let Some(Ok(behind)) = self.reading(|reader| reader.behind()).await {
                self.progress.set_behind(behind);
                if behind > self.target.max_behind_bytes {
                    return true;
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
        }
    }

    fn works(&self) {
        if self.progress.set_problem(None).is_some() {
            tracing::info!(to = self.target.name, "forwarding works again");
        }
    }

    fn refused(&mut self, samples: u64, text: &str) {
        self.progress.refused(text);
        if let Some(samples) = self.refusals.add(samples) {
            tracing::error!(
                to = self.target.name,
                samples,
                answer = text,
                "the target refuses samples; they are dropped"
            );
        }
    }
}

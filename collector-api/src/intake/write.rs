//! The writer's thread: all that has gathered while the disk was busy becomes one commit.
//!
//! It resolves each message's outcome after the store has answered. When the store fails, everything of the batch is refused (nothing of it is kept)
//! and the failure is logged once, until it ends. It leaves to others: checking (`accept`), durability (the store).

use std::sync::atomic::Ordering::Relaxed;

use devmon_core::wire::TimestampMs;
use tokio::sync::mpsc::Receiver;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::accept::{Item, Job, Outcome, Shared, lock};
use crate::store::engine::{Accepted, Committed, Content, DeadLetter, Store};

/// Most messages of one commit: bounds how long the first of them waits, and how long readers wait for the batch to become visible.
const BATCH_MESSAGES: usize = 4096;
/// Most payload bytes of one commit.
const BATCH_BYTES: usize = 8 << 20;

type Done = (oneshot::Sender<Outcome>, OwnedSemaphorePermit);

/// What one round has gathered.
#[derive(Default)]
struct Batch {
    items: Vec<Accepted>,
    items_done: Vec<Done>,
    letters: Vec<DeadLetter>,
    letters_done: Vec<Done>,
    bytes: usize,
    /// Copies that say nothing new.
    known: Vec<Done>,
    stop: bool,
}

impl Batch {
    fn add(&mut self, store: &dyn Store, job: Job) {
        let (what, done) = match job {
            Job::Item { what, done, _room } => (what, (done, _room)),
            Job::Stop => {
                self.stop = true;
                return;
            }
        };
        match what {
            Item::Store { accepted, retained }
                if retained && says_nothing_new(store, &accepted) =>
            {
                self.known.push(done);
            }
            Item::Store { accepted, .. } => {
                self.bytes += accepted.payload.len();
                self.items.push(accepted);
                self.items_done.push(done);
            }
            Item::Bury(letter) => {
                self.bytes += letter.payload.len();
                self.letters.push(letter);
                self.letters_done.push(done);
            }
        }
    }

    fn is_full(&self) -> bool {
        self.items.len() + self.letters.len() >= BATCH_MESSAGES || self.bytes >= BATCH_BYTES
    }
}

/// A broker repeats retained messages at each new subscription. What is known already must not make a dead device look alive, and samples without a
/// time of their own can not be placed.
fn says_nothing_new(store: &dyn Store, accepted: &Accepted) -> bool {
    let known = || store.device(accepted.device.as_str());
    match &accepted.content {
        Content::Metrics { frames, .. } => frames.iter().any(|frame| frame.ts.is_none()),
        Content::Status(presence) => known().is_some_and(|d| d.presence == Some(*presence)),
        Content::About(about) => known().is_some_and(|d| d.about.as_ref() == Some(about)),
    }
}

/// Runs until [`Job::Stop`], or until all handles are gone.
pub(super) fn run(shared: &Shared, mut queue: Receiver<Job>) {
    let mut stopping = false;
    while let Some(first) = queue.blocking_recv() {
        let mut batch = Batch::default();
        batch.add(&*shared.store, first);
        while !batch.is_full() {
            let Ok(job) = queue.try_recv() else { break };
            batch.add(&*shared.store, job);
        }
        if batch.stop && !stopping {
            // Nothing more comes in, what is queued is still taken: then recv returns None.
            stopping = true;
            queue.close();
        }
        commit(shared, batch);
    }
}

fn commit(shared: &Shared, mut batch: Batch) {
    let counters = &shared.counters;
    let count = batch.items.len() + batch.letters.len() + batch.known.len();
    counters
        .duplicates
        .fetch_add(batch.known.len() as u64, Relaxed);

    let bytes = batch.bytes;
    let mut problem = None;
    let mut stored = Vec::new();
    let mut items_outcome = Outcome::Acknowledge;
    if !batch.items.is_empty() {
        match shared.store.commit(&batch.items) {
            Ok(committed) => {
                count_committed(shared, &committed);
                bury_refused(shared, &mut batch, &committed);
                if shared.feed.is_wanted() {
                    stored = just_stored(std::mem::take(&mut batch.items), &committed);
                }
            }
            Err(error) => {
                counters
                    .put_off
                    .fetch_add(batch.items.len() as u64, Relaxed);
                items_outcome = Outcome::Refuse(error.to_string());
                problem = Some(error.to_string());
            }
        }
    }
    let mut letters_outcome = Outcome::Acknowledge;
    if !batch.letters.is_empty() {
        let reasons: Vec<_> = batch.letters.iter().map(|letter| letter.reason).collect();
        match shared.store.bury(batch.letters) {
            Ok(()) => {
                let mut refused = lock(&counters.refused);
                for reason in reasons {
                    *refused.entry(reason).or_default() += 1;
                }
            }
            Err(error) => {
                counters.put_off.fetch_add(reasons.len() as u64, Relaxed);
                letters_outcome = Outcome::Refuse(error.to_string());
                problem.get_or_insert(error.to_string());
            }
        }
    }
    counters.queued.fetch_sub(count as u64, Relaxed);
    report(shared, problem);
    // Last, so that whoever has its answer finds the figures as they are after it.
    answer(batch.known, &Outcome::Acknowledge);
    answer(batch.items_done, &items_outcome);
    answer(batch.letters_done, &letters_outcome);
    shared.feed.tell(stored, bytes);
}

/// The items without those that had been stored before; those that were refused are gone already.
fn just_stored(mut items: Vec<Accepted>, committed: &[Committed]) -> Vec<Accepted> {
    let is_kept = |c: &&Committed| !matches!(c, Committed::Refused { .. });
    let mut committed = committed.iter().filter(is_kept);
    if committed.clone().any(|c| *c == Committed::Duplicate) {
        items.retain(|_| committed.next() != Some(&Committed::Duplicate));
    }
    items
}

/// Makes dead letters of what the store does not take for good.
fn bury_refused(shared: &Shared, batch: &mut Batch, committed: &[Committed]) {
    let is_refused = |c: &Committed| matches!(c, Committed::Refused { .. });
    if !committed.iter().any(is_refused) {
        return;
    }
    let items = std::mem::take(&mut batch.items);
    let mut taken = Vec::with_capacity(items.len());
    let dones = std::mem::take(&mut batch.items_done);
    for ((item, done), committed) in items.into_iter().zip(dones).zip(committed) {
        let &Committed::Refused { reason, limit } = committed else {
            batch.items_done.push(done);
            taken.push(item);
            continue;
        };
        let letter = shared.refused_by_store(item, reason, limit);
        batch.letters.push(letter);
        batch.letters_done.push(done);
    }
    batch.items = taken;
}

fn count_committed(shared: &Shared, committed: &[Committed]) {
    let counters = &shared.counters;
    let (mut messages, mut samples, mut duplicates) = (0, 0, 0);
    for committed in committed {
        match committed {
            Committed::Stored { samples: n } => {
                messages += 1;
                samples += n;
            }
            Committed::Duplicate => duplicates += 1,
            Committed::Refused { .. } => {} // counted when they are buried
        }
    }
    counters.messages.fetch_add(messages, Relaxed);
    counters.samples.fetch_add(samples, Relaxed);
    counters.duplicates.fetch_add(duplicates, Relaxed);
    counters.last_commit.store(TimestampMs::now().0, Relaxed);
    if messages > 0 {
        shared.commits.send_modify(|n| *n += 1);
    }
}

fn answer(waiting: Vec<Done>, outcome: &Outcome) {
    for (done, room) in waiting {
        drop(room);
        // Whoever asked may be gone: the connection was closed meanwhile. Then the message comes again and is a duplicate.
        let gone = done.send(outcome.clone());
        drop(gone);
    }
}

/// One line when it begins, one when it ends; a full disk would fill the rest of it with log otherwise.
fn report(shared: &Shared, problem: Option<String>) {
    let mut known = lock(&shared.counters.problem);
    match (&*known, &problem) {
        (None, Some(error)) => {
            tracing::error!(%error, "the store takes nothing; messages are not acknowledged until it does");
        }
        (Some(_), None) => tracing::info!("the store takes messages again"),
        _ => {}
    }
    *known = problem;
}

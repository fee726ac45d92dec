//! Who is connected under which client id: a second connection of one id ends the first, as MQTT asks.
//!
//! The newer waits until the older has ended, its will included, so that what the device says next comes behind it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::intake::accept::lock;

/// How long the newer connection waits for the older's end; it may hang in a write, or wait for a full disk with its will.
const PATIENCE: Duration = Duration::from_secs(5);

/// With certificates, sessions of different devices never meet.
pub(super) type Key = (Option<Arc<str>>, String);

/// All sessions of a listener.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: Mutex<HashMap<Key, Held>>,
    next: AtomicU64,
    random: RandomState,
}

#[derive(Debug)]
struct Held {
    number: u64,
    take_over: Arc<Notify>,
    close: Arc<Notify>,
    /// Resolves when the session is dropped.
    ended: oneshot::Receiver<()>,
}

/// A connection's hold on its client id; dropping it lets go.
#[derive(Debug)]
pub(super) struct Session {
    sessions: Arc<Sessions>,
    key: Key,
    number: u64,
    take_over: Arc<Notify>,
    close: Arc<Notify>,
    _ended: oneshot::Sender<()>,
}

impl Sessions {
    /// A client id for one who has none: not to be guessed, so that nobody takes it over by chance.
    pub(super) fn new_id(&self) -> String {
        let number = self.next.fetch_add(1, Relaxed);
        format!("assigned-{number}-{:016x}", self.random.hash_one(number))
    }

    /// Takes the client id, from an older connection if there is one.
    pub(super) async fn open(self: &Arc<Self>, key: Key) -> Session {
        let (end, ended) = oneshot::channel();
        let (take_over, close) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let number = self.next.fetch_add(1, Relaxed);
        let held = Held {
            number,
            take_over: take_over.clone(),
            close: close.clone(),
            ended,
        };
        let older = lock(&self.open).insert(key.clone(), held);
        let session = Session {
            sessions: self.clone(),
            key,
            number,
            take_over,
            close,
            _ended: end,
        };
        if let Some(older) = older {
            older.take_over.notify_one();
            let ended = tokio::time::timeout(PATIENCE, older.ended).await;
            drop(ended); // late or not: the newer connection is the one that counts
        }
        session
    }

    /// Closes the connections of a device: those with its certificate; without certificates, the one whose client id is its name.
    pub(super) fn close(&self, device: &str) {
        for ((identity, client_id), held) in lock(&self.open).iter() {
            if identity.as_deref().unwrap_or(client_id) == device {
                held.close.notify_one();
            }
        }
    }
}

impl Session {
    pub(super) fn client_id(&self) -> &str {
        &self.key.1
    }

    /// Resolves when another connection takes the client id.
    pub(super) async fn taken_over(&self) {
        self.take_over.notified().await;
    }

    /// Resolves when the connection has to be closed.
    pub(super) async fn closed(&self) {
        self.close.notified().await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut open = lock(&self.sessions.open);
        if open
            .get(&self.key)
            .is_some_and(|held| held.number == self.number)
        {
            open.remove(&self.key);
        }
    }
}

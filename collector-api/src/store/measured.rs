//! A journal behind its lock, and how large it is without that: the lock is held during an fsync, which takes seconds on a slow disk, and who asks for figures does not wait so long.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

use super::local::lock;

/// Its size is as it was when the lock was last given back.
pub(super) struct Measured<T> {
    inner: Mutex<T>,
    measure: fn(&T) -> u64,
    size_bytes: AtomicU64,
}

impl<T> Measured<T> {
    pub(super) fn new(inner: T, measure: fn(&T) -> u64) -> Self {
        Self {
            size_bytes: AtomicU64::new(measure(&inner)),
            inner: Mutex::new(inner),
            measure,
        }
    }

    pub(super) fn lock(&self) -> Guard<'_, T> {
        Guard {
            inner: lock(&self.inner),
            of: self,
        }
    }

    /// Waits for nobody.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Relaxed)
    }
}

/// Measures what it guarded when it goes.
pub(super) struct Guard<'a, T> {
    inner: MutexGuard<'a, T>,
    of: &'a Measured<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        let size_bytes = (self.of.measure)(&self.inner);
        self.of.size_bytes.store(size_bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;
    use std::time::Duration;

    use devmon_core::wire::{Reason, TimestampMs};

    use crate::store::Engine;
    use crate::store::engine::{DeadLetter, Store, StoreStatus};
    use crate::store::seal_tests::{metrics, options};

    /// For what takes as long as other work on the machine lets it.
    const DEADLINE: Duration = Duration::from_secs(60);

    fn letter() -> DeadLetter {
        DeadLetter {
            id: 0,
            ts: TimestampMs(0),
            topic: "t".into(),
            reason: Reason::ALL[0],
            detail: "because".into(),
            payload: vec![1; 100].into(),
        }
    }

    /// Bytes of the segments of a journal.
    fn on_disk(dir: &Path) -> u64 {
        let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap());
        let segments = files.filter(|file| file.path().extension().is_some_and(|e| e == "dmj"));
        segments.map(|file| file.metadata().unwrap().len()).sum()
    }

    fn assert_true(status: &StoreStatus, dir: &Path) {
        let figures = (status.journal_bytes, status.dead_letters_bytes);
        let files = (
            on_disk(&dir.join("journal")),
            on_disk(&dir.join("dead-letters")),
        );
        assert_eq!(figures, files);
    }

    #[test]
    fn figures_are_there_while_somebody_writes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Engine::open(dir.path(), options()).unwrap();
        let before = store.status();
        std::thread::scope(|scope| {
            // As a commit and a burial hold them during their fsyncs.
            let journal = store.shared().journal.lock();
            let letters = store.shared().letters.lock();
            let (answer, answered) = mpsc::channel();
            let store = &store;
            scope.spawn(move || answer.send(store.status()).unwrap());
            let status = answered.recv_timeout(DEADLINE);
            drop((journal, letters)); // or a status that waits would wait for ever
            assert_eq!(status.expect("it waits"), before);
        });
    }

    #[test]
    fn sizes_are_those_of_the_files_after_whatever_changes_them() {
        let dir = tempfile::tempdir().unwrap();
        for start in 0..2 {
            let store = Engine::open(dir.path(), options()).unwrap();
            assert_true(&store.status(), dir.path());
            store
                .commit(&[metrics("d", start, &[(0, "s", "\"a\":1".into())])])
                .unwrap();
            store.bury(vec![letter()]).unwrap();
            assert_true(&store.status(), dir.path());
            store.seal_now().unwrap();
            store.compact_now().unwrap();
            assert_true(&store.status(), dir.path());
            store.purge("d").unwrap();
            store.seal_now().unwrap(); // or it would do so meanwhile
            assert_true(&store.status(), dir.path());
            assert!(store.status().dead_letters_bytes > 0);
        }
    }
}

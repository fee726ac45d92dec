//! Whether writing works, for who asks how the store is: what failed last, and what has not come back for long. Waits for no write.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::engine::StoreError;
use super::local::lock;

/// A disk may take a second for an fsync; one that takes longer than this hangs.
const HANGS: Duration = Duration::from_secs(5);

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    Messages,
    DeadLetters,
    /// Of a device: labels, or that it is forgotten. May wait for a seal, so that it is not known to hang.
    Change,
}

impl Write {
    const ALL: [Self; 3] = [Self::Messages, Self::DeadLetters, Self::Change];
}

#[derive(Debug, Default)]
pub(super) struct Writing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Why it failed last; by `Write`.
    problems: [Option<String>; Write::ALL.len()],
    /// What is at work, and since when.
    at_work: Vec<(Write, Instant)>,
}

impl Writing {
    /// Does it, and notes how it went.
    pub(super) fn during<T>(
        &self,
        what: Write,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _at_work = AtWork::begin(self, what);
        let result = work();
        lock(&self.0).note(what, result.as_ref().err());
        result
    }

    /// What keeps messages from being taken in, if anything.
    pub(super) fn problem(&self) -> Option<String> {
        lock(&self.0).problem(Instant::now())
    }
}

impl State {
    /// That messages are written says that all can be; of dead letters it says nothing about these.
    fn note(&mut self, what: Write, error: Option<&StoreError>) {
        if what == Write::Messages && error.is_none() {
            self.problems = Default::default();
        }
        self.problems[what as usize] = error.map(|error| match error {
            StoreError::Journal(journal) if journal.is_disk_full() => {
                format!("the disk is full: free some space and intake goes on by itself ({error})")
            }
            error => error.to_string(),
        });
    }

    fn problem(&self, now: Instant) -> Option<String> {
        if let Some(problem) = self.problems.iter().flatten().next() {
            return Some(problem.clone());
        }
        let watched = self
            .at_work
            .iter()
            .filter(|(what, _)| *what != Write::Change);
        let longest = watched
            .map(|(_, begun)| now.saturating_duration_since(*begun))
            .max()?;
        (longest > HANGS).then(|| {
            let seconds = longest.as_secs();
            format!("a write to the journal has not come back for {seconds} s: the disk is busy, or hangs")
        })
    }
}

/// At work as long as it lives.
struct AtWork<'a> {
    of: &'a Writing,
    entry: (Write, Instant),
}

impl<'a> AtWork<'a> {
    fn begin(of: &'a Writing, what: Write) -> Self {
        let entry = (what, Instant::now());
        lock(&of.0).at_work.push(entry);
        Self { of, entry }
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.of.0);
        if let Some(at) = state.at_work.iter().position(|entry| *entry == self.entry) {
            state.at_work.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Engine;
    use crate::store::engine::Store as _;
    use crate::store::seal_tests::{metrics, options};

    fn full<T>() -> Result<T, StoreError> {
        Err(StoreError::DiskFull {
            path: "reserve".into(),
            detail: "no space left".into(),
        })
    }

    #[test]
    fn dead_letters_that_are_written_say_nothing_about_messages() {
        let writing = Writing::default();
        let _ = writing.during::<()>(Write::Messages, full);
        writing.during(Write::DeadLetters, || Ok(())).unwrap();
        assert!(writing.problem().is_some());
        let _ = writing.during::<()>(Write::DeadLetters, full);
        writing.during(Write::Messages, || Ok(())).unwrap();
        assert_eq!(writing.problem(), None);
    }

    #[test]
    fn what_does_not_come_back_is_a_problem_as_long_as_it_does_not() {
        let writing = Writing::default();
        let later = |seconds| {
            let now = Instant::now() + Duration::from_secs(seconds);
            lock(&writing.0).problem(now)
        };
        writing
            .during(Write::Messages, || {
                assert_eq!(later(3), None);
                assert!(later(7).unwrap().contains("hangs"));
                Ok(())
            })
            .unwrap();
        assert_eq!(later(7), None);
        writing
            .during(Write::Change, || {
                assert_eq!(later(7), None);
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn a_store_whose_fsync_hangs_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let store = Engine::open(dir.path(), options()).unwrap();
        let message = metrics("d", 0, &[(0, "s", "\"a\":1".into())]);
        std::thread::scope(|scope| {
            let journal = store.shared().journal.lock(); // as one that fsyncs holds it
            let commit = scope.spawn(|| store.commit(std::slice::from_ref(&message)));
            let begin = Instant::now();
            let said = loop {
                let problem = store.status().problem;
                if problem.is_some() || begin.elapsed() > Duration::from_secs(60) {
                    break problem;
                }
                std::thread::sleep(Duration::from_millis(50));
            };
            drop(journal);
            commit.join().unwrap().unwrap();
            assert!(said.unwrap().contains("hangs"));
        });
        assert_eq!(store.status().problem, None);
    }
}

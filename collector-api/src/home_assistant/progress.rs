//! How it goes, for `/status`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Figures since the start.
#[derive(Debug, Default)]
pub struct Progress {
    devices: AtomicU64,
    entities: AtomicU64,
    left_out: AtomicU64,
    waiting: AtomicU64,
    published: AtomicU64,
    births: AtomicU64,
    /// Why nothing is said now, or why what is said may not arrive.
    problem: Mutex<Option<String>>,
}

/// The same at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// Devices with an entity.
    pub devices: u64,
    pub entities: u64,
    /// Series that are chosen and no entity: there are too many.
    pub left_out: u64,
    /// Messages that have to be said still.
    pub waiting: u64,
    /// Messages that the broker has acknowledged.
    pub published: u64,
    /// Birth messages of Home Assistant.
    pub births: u64,
    pub problem: Option<String>,
}

impl Progress {
    pub(super) fn looked(&self, devices: usize, entities: usize, left_out: u64) {
        self.devices.store(devices as u64, Relaxed);
        self.entities.store(entities as u64, Relaxed);
        self.left_out.store(left_out, Relaxed);
    }

    pub(super) fn waiting(&self, messages: usize) {
        self.waiting.store(messages as u64, Relaxed);
    }

    pub(super) fn taken(&self) {
        self.published.fetch_add(1, Relaxed);
    }

    pub(super) fn born(&self) {
        self.births.fetch_add(1, Relaxed);
    }

    pub(super) fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// The figures now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let problem = self.problem.lock();
        Figures {
            devices: self.devices.load(Relaxed),
            entities: self.entities.load(Relaxed),
            left_out: self.left_out.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            published: self.published.load(Relaxed),
            births: self.births.load(Relaxed),
            problem: problem.unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

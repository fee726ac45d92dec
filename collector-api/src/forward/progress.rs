//! How forwarding to one target goes: counted where it happens, shown by `GET /api/v1/status` and `/metrics`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use devmon_core::wire::TimestampMs;

use super::lock;
use super::settings::Target;

/// Why samples were not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// 400: the target does not take such samples (too old, out of order, …); its log or ours says which.
    BadRequest,
    /// 401 or 403: token, password or certificate are not the right ones.
    NotAuthorized,
    /// 413: lower `max_samples`.
    TooLarge,
    /// Another 4xx, such as 404 for a wrong path.
    Refused,
    /// The target was behind by more than `max_behind_bytes`.
    TooFarBehind,
    /// Older than `max_sample_age` when they were to be sent.
    TooOld,
    /// The device was forgotten before its samples were forwarded.
    DeviceForgotten,
    /// Another release wrote it, and this one can not read it. Counts messages: nothing says how many samples are in them.
    Unreadable,
}

impl Dropped {
    pub const ALL: [Self; 8] = [
        Self::BadRequest,
        Self::NotAuthorized,
        Self::TooLarge,
        Self::Refused,
        Self::TooFarBehind,
        Self::TooOld,
        Self::DeviceForgotten,
        Self::Unreadable,
    ];

    /// As the API says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::NotAuthorized => "not_authorized",
            Self::TooLarge => "too_large",
            Self::Refused => "refused",
            Self::TooFarBehind => "too_far_behind",
            Self::TooOld => "too_old",
            Self::DeviceForgotten => "device_forgotten",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Why a request has to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or it broke.
    Connection,
    /// No answer in time.
    Timeout,
    /// 5xx.
    ServerError,
    /// 429.
    TooManyRequests,
    /// An answer that is none to this question, such as a redirection.
    Unexpected,
}

impl Failure {
    pub const ALL: [Self; 5] = [
        Self::Connection,
        Self::Timeout,
        Self::ServerError,
        Self::TooManyRequests,
        Self::Unexpected,
    ];

    /// As the API says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::ServerError => "server_error",
            Self::TooManyRequests => "too_many_requests",
            Self::Unexpected => "unexpected",
        }
    }
}

/// Figures of one target since the start.
#[derive(Debug)]
pub struct Progress {
    name: String,
    url: String,
    sent: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
    failures: [AtomicU64; Failure::ALL.len()],
    /// Arrival of the oldest message that is not dealt with, unix ms; 0: there is none.
    oldest_waiting: AtomicI64,
    behind_bytes: AtomicU64,
    /// Unix ms; 0: never.
    last_sent: AtomicI64,
    /// Why requests fail now.
    problem: Mutex<Option<String>>,
    /// What the target said of the last request that it refused.
    last_refusal: Mutex<Option<String>>,
}

/// The same at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    pub name: String,
    pub url: String,
    pub sent: u64,
    pub dropped: Vec<(&'static str, u64)>,
    pub failures: Vec<(&'static str, u64)>,
    pub behind_seconds: f64,
    pub behind_bytes: u64,
    pub last_sent: Option<TimestampMs>,
    pub problem: Option<String>,
    pub last_refusal: Option<String>,
}

impl Progress {
    pub(super) fn new(target: &Target) -> Self {
        Self {
            name: target.name.clone(),
            url: target.url.to_string(),
            sent: AtomicU64::new(0),
            dropped: Default::default(),
            failures: Default::default(),
            oldest_waiting: AtomicI64::new(0),
            behind_bytes: AtomicU64::new(0),
            last_sent: AtomicI64::new(0),
            problem: Mutex::new(None),
            last_refusal: Mutex::new(None),
        }
    }

    pub(super) fn sent(&self, samples: u64) {
        self.sent.fetch_add(samples, Relaxed);
        self.last_sent.store(TimestampMs::now().0, Relaxed);
    }

    pub(super) fn dropped(&self, why: Dropped, samples: u64) {
        self.dropped[why as usize].fetch_add(samples, Relaxed);
    }

    pub(super) fn refused(&self, text: &str) {
        *lock(&self.last_refusal) = Some(text.to_owned());
    }

    pub(super) fn failed(&self, why: Failure) {
        self.failures[why as usize].fetch_add(1, Relaxed);
    }

    /// Notes why requests fail now, or that they do not; returns what was noted before.
    pub(super) fn set_problem(&self, problem: Option<String>) -> Option<String> {
        std::mem::replace(&mut *lock(&self.problem), problem)
    }

    pub(super) fn set_waiting(&self, oldest: Option<TimestampMs>) {
        self.oldest_waiting
            .store(oldest.map_or(0, |ts| ts.0), Relaxed);
    }

    pub(super) fn set_behind(&self, bytes: u64) {
        self.behind_bytes.store(bytes, Relaxed);
    }

    /// Figures now.
    #[must_use]
    pub fn figures(&self, now: TimestampMs) -> Figures {
        let named = |names: &[&'static str], counts: &[AtomicU64]| {
            let counts = counts.iter().map(|count| count.load(Relaxed));
            names.iter().copied().zip(counts).collect()
        };
        let waiting = self.oldest_waiting.load(Relaxed);
        let behind_ms = if waiting == 0 { 0 } else { now.0 - waiting };
        let last_sent = self.last_sent.load(Relaxed);
        Figures {
            name: self.name.clone(),
            url: self.url.clone(),
            sent: self.sent.load(Relaxed),
            dropped: named(&Dropped::ALL.map(Dropped::as_str), &self.dropped),
            failures: named(&Failure::ALL.map(Failure::as_str), &self.failures),
            behind_seconds: behind_ms.max(0) as f64 / 1000.0,
            behind_bytes: self.behind_bytes.load(Relaxed),
            last_sent: (last_sent != 0).then_some(TimestampMs(last_sent)),
            problem: lock(&self.problem).clone(),
            last_refusal: lock(&self.last_refusal).clone(),
        }
    }
}

//! Keeps NVML open between rounds, and opens it anew when a GPU or the driver was lost.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;

use crate::nvml::{self, Facts, Round};

/// A GPU that was reset, or a driver that was reloaded, is often back within seconds.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// A lost GPU may wait for a technician for days, and opening NVML can take the driver a second.
pub const RETRY_MOST: Duration = Duration::from_secs(300);

/// What a round found.
pub enum Seen {
    /// At least one.
    Gpus(Round),
    /// No driver or no GPU: a reason for an operator, with what to do.
    Absent(String),
    /// NVML broke and will be opened anew.
    Failed(String),
}

/// NVIDIA's part of the source.
pub struct Nvidia {
    library: OsString,
    nvml: Option<Nvml>,
    facts: Facts,
    /// Set while a GPU gives nothing or NVML broke.
    retry: Option<Retry>,
    /// Set while there is no driver or no GPU.
    absent: Option<Retry>,
}

/// When NVML is to be opened anew, and why.
struct Retry {
    at: Instant,
    delay: Duration,
    reason: String,
}

impl Retry {
    /// The next attempt, unless one is set already; each takes twice as long as the one before.
    fn after(before: Option<Self>, now: Instant, reason: &str) -> Self {
        let delay = match before {
            Some(retry) if now < retry.at => return retry,
            Some(retry) => (retry.delay * 2).min(RETRY_MOST),
            None => RETRY_FIRST,
        };
        Self {
            at: now + delay,
            delay,
            reason: reason.to_owned(),
        }
    }
}

impl Nvidia {
    /// Opens NVML for the facts; a failure is reported by the first round, which tries again.
    #[must_use]
    pub fn new(library: OsString) -> Self {
        let mut nvidia = Self {
            library,
            nvml: None,
            facts: Facts::default(),
            retry: None,
            absent: None,
        };
        let _ = nvidia.open();
        nvidia
    }

    /// As of when NVML was last opened.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// How many GPUs NVML gave when it was last opened.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.facts.gpus.len()).unwrap_or(u32::MAX)
    }

    /// Reads a round. Where there is nothing to read, each round looks again: an unavailable source is asked more slowly by the agent itself.
    /// With `others` the source is available without NVIDIA's GPUs, so that this slows down by itself.
    pub fn read(&mut self, now: Instant, others: bool) -> Seen {
        match &self.absent {
            Some(absent) if others && now < absent.at => {
                return Seen::Absent(absent.reason.clone());
            }
            _ => {}
        }
        if let Some(retry) = &self.retry {
            if now >= retry.at {
                self.nvml = None;
            } else if self.nvml.is_none() {
                let wait = (retry.at - now).as_secs() + 1;
                return Seen::Failed(format!("{}; opening NVML anew in {wait} s", retry.reason));
            }
        }
        let round = match self.open().map(nvml::read) {
            Err(reason) => return self.nothing(now, reason),
            Ok(Err(broken)) => {
                self.nvml = None;
                self.retry_later(now, &broken.0);
                return Seen::Failed(broken.0);
            }
            Ok(Ok(round)) => round,
        };
        match round.iter().find_map(|gpu| gpu.as_ref().err()) {
            Some(error) => self.retry_later(now, &error.reason),
            None => self.retry = None,
        }
        if round.is_empty() {
            self.nvml = None; // a GPU that is plugged in later is seen by a new NVML only
            let reason = "the NVIDIA driver is loaded but sees no GPU. See `nvidia-smi -L`, or switch this source off";
            return self.nothing(now, reason.into());
        }
        self.absent = None;
        Seen::Gpus(round)
    }

    fn nothing(&mut self, now: Instant, reason: String) -> Seen {
        self.absent = Some(Retry::after(self.absent.take(), now, &reason));
        Seen::Absent(reason)
    }

    /// NVML, opened if it is not.
    fn open(&mut self) -> Result<&Nvml, String> {
        match self.nvml {
            Some(ref nvml) => Ok(nvml),
            None => {
                let nvml = nvml::open(&self.library)?;
                self.facts = nvml::facts(&nvml);
                Ok(self.nvml.insert(nvml))
            }
        }
    }

    fn retry_later(&mut self, now: Instant, reason: &str) {
        self.retry = Some(Retry::after(self.retry.take(), now, reason));
    }
}

//! The time that a query may take, and looking at it within long loops.

use std::time::{Duration, Instant};

use super::Error;

/// How long somebody waits.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub deadline: Instant,
    /// All of it.
    pub whole: Duration,
}

/// Numbers that are worked on between two looks at the clock: below a ms, or some ms where they are sorted.
const NUMBERS_BETWEEN_LOOKS: usize = 100_000;

/// Looks at the clock now and then, in loops over many numbers.
#[derive(Debug)]
pub struct Watch {
    patience: Patience,
    since: usize,
}

impl Watch {
    #[must_use]
    pub fn new(patience: Patience) -> Self {
        Self { patience, since: 0 }
    }

    /// So many numbers more were worked on.
    ///
    /// # Errors
    /// [`Error::Timeout`] when the time is over.
    pub fn worked(&mut self, numbers: usize) -> Result<(), Error> {
        self.since = self.since.saturating_add(numbers).saturating_add(1);
        if self.since >= NUMBERS_BETWEEN_LOOKS {
            self.since = 0;
            self.patience.check()?;
        }
        Ok(())
    }
}

impl Patience {
    /// # Errors
    /// [`Error::Timeout`] when the time is over.
    pub fn check(&self) -> Result<(), Error> {
        if Instant::now() > self.deadline {
            return Err(Error::Timeout(self.whole));
        }
        Ok(())
    }
}

//! Reads `/proc/meminfo` through sysinfo, which keeps its old numbers without a word when it cannot open the file; so it is opened here first.

use std::fs;
use std::path::PathBuf;

use devmon_core::CollectError;
use sysinfo::System;

/// One round, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pub total_bytes: u64,
    pub available_bytes: u64,
    pub swap_total_bytes: u64,
    pub swap_free_bytes: u64,
}

/// Keeps sysinfo's state between rounds.
pub struct Reader {
    system: System,
    meminfo: PathBuf,
}

impl Reader {
    /// `proc` is only looked at to see that it is there: sysinfo has `/proc` built in.
    ///
    /// # Errors
    /// A platform that sysinfo does not know.
    pub fn new(proc: PathBuf) -> Result<Self, sysinfo::Error> {
        Ok(Self {
            system: System::new()?,
            meminfo: proc.join("meminfo"),
        })
    }

    /// Reads memory and swap.
    ///
    /// # Errors
    /// [`CollectError::Failed`] when `/proc/meminfo` cannot be opened.
    pub fn read(&mut self) -> Result<Reading, CollectError> {
        fs::File::open(&self.meminfo).map_err(|e| {
            CollectError::Failed(format!("cannot open {}: {e}", self.meminfo.display()))
        })?;
        self.system.refresh_memory();
        Ok(Reading {
            total_bytes: self.system.total_memory(),
            available_bytes: self.system.available_memory(),
            swap_total_bytes: self.system.total_swap(),
            swap_free_bytes: self.system.free_swap(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_meminfo_is_a_failure_and_not_an_old_value() {
        let mut reader = Reader::new("/proc".into()).unwrap();
        let reading = reader.read().unwrap();
        assert!(reading.total_bytes > 0);
        assert!(reading.available_bytes <= reading.total_bytes);
        reader.meminfo = "/nonexistent/meminfo".into();
        let error = reader.read().unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/meminfo"),
            "{error}"
        );
    }
}

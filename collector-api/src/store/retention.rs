//! Dropping what is older than the retention: whole hours, in small batches, in the sealing thread.
//!
//! A crash in between is harmless: the hour still stands in the checkpoint and is removed again. A series whose last sample went is no longer listed.

use std::ops::ControlFlow;
use std::time::Duration;

use devmon_core::wire::TimestampMs;

use super::engine::StoreError;
use super::head::{HOUR_MS, hour_of};
use super::kv::Table;
use super::local::Shared;

/// Deletes at once, and the pause behind them: sled frees a page for each page it writes, and commits share the disk.
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(2);

/// Removes the hours that ended before `now` less the retention.
pub(super) fn run(shared: &Shared, now: TimestampMs) -> Result<(), StoreError> {
    let kept_ms = i64::try_from(shared.options.retention.as_millis()).unwrap_or(i64::MAX);
    let first_kept = hour_of(TimestampMs(now.0.saturating_sub(kept_ms)));
    let old: Vec<u32> = shared
        .read()
        .hours
        .range(..first_kept)
        .map(|(hour, _)| *hour)
        .collect();
    if old.is_empty() {
        return Ok(());
    }
    for hour in &old {
        // Not listed any more before its blocks go: no reader finds half an hour.
        let removed = shared.write().hours.remove(hour);
        if let Err(error) = remove(shared, *hour) {
            shared
                .write()
                .hours
                .extend(removed.map(|figures| (*hour, figures)));
            return Err(error);
        }
    }
    shared
        .write()
        .catalogue
        .retain_from(TimestampMs(i64::from(first_kept) * HOUR_MS));
    tracing::info!(
        hours = old.len(),
        "samples older than the retention were removed"
    );
    Ok(())
}

fn remove(shared: &Shared, hour: u32) -> Result<(), StoreError> {
    let from = hour.to_be_bytes();
    let to = (u64::from(hour) + 1).to_be_bytes();
    loop {
        let mut keys = Vec::new();
        shared
            .kv
            .scan(Table::Blocks, &from, &to[4..], &mut |key, _| {
                keys.push(key.to_vec());
                if keys.len() < BATCH {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
        if keys.is_empty() {
            return Ok(());
        }
        keys.iter()
            .try_for_each(|key| shared.kv.delete(Table::Blocks, key))?;
        std::thread::sleep(PAUSE);
    }
}

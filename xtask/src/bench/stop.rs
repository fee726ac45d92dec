//! Ctrl-C and SIGTERM end a benchmark as an error does: everything it started is ended by pid, everything it wrote is removed.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::bail;

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on, signals are only noted.
pub(super) fn listen() -> anyhow::Result<()> {
    let stop = STOP.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(())
}

/// # Errors
/// A signal came. Asked in every loop that may last longer than a second.
pub(super) fn check() -> anyhow::Result<()> {
    if STOP.get().is_some_and(|stop| stop.load(Ordering::Relaxed)) {
        bail!("ended by a signal; what it had started is ended, what it had written is removed");
    }
    Ok(())
}

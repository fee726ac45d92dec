//! What the service manager is told (sd_notify(3)): ready, reloading, stopping, alive. Without systemd, nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

fn tell(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(false, state) {
        debug!(error = %e, "the service manager can not be told");
    }
}

/// It runs, or has read its configuration again.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It reads its configuration again.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// It ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The daemon's loop turns.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] must be said, with room; `None`: nobody waits for it.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    let mut usec = 0;
    sd_notify::watchdog_enabled(false, &mut usec).then(|| Duration::from_micros(usec / 3))
}

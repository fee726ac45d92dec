//! Threads that let others go first: what waits for a disk or works ahead steps back for who answers a person.
//!
//! Linux gives each thread a niceness of its own, and a new thread that of the one which starts it: the store's threads are courteous because the one that opens the
//! store is. On other systems niceness is the whole process's, and this does nothing.

/// A third of the time of a thread that is not nice, when both want the same core; all of it when nobody else does.
const NICENESS: i32 = 5;

/// Makes this thread courteous, and those that it starts. Never less than it is.
pub(crate) fn of_this_thread() {
    if cfg!(target_os = "linux") {
        // `None` is who calls: on Linux the thread.
        let now = rustix::process::getpriority_process(None).unwrap_or(0);
        if now < NICENESS
            && let Err(error) = rustix::process::setpriority_process(None, NICENESS)
        {
            tracing::debug!(%error, "a thread could not be made courteous; the API may answer later under load");
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn niceness() -> i32 {
        rustix::process::getpriority_process(None).expect("own niceness")
    }

    #[test]
    fn a_thread_becomes_courteous_with_those_it_starts_and_nobody_else() {
        let before = niceness();
        let inner = std::thread::spawn(|| {
            of_this_thread();
            (niceness(), std::thread::spawn(niceness).join().unwrap())
        });
        let least = before.max(NICENESS);
        assert_eq!(inner.join().unwrap(), (least, least));
        assert_eq!(niceness(), before);
    }
}

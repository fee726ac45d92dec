//! New, changed and removed files of the plugin directory, while the agent runs.
//!
//! **Promises** that a change takes effect within five seconds, that a file is looked at only when it has stayed the same for [`SETTLE`] (a copy under way is not), and that content that
//! did not change changes nothing. inotify says when to look, never what happened: its order is not dependable, its limits are low, and network file systems say nothing. So each
//! event means "look soon", and the directory is looked at every [`RESCAN`] in any case.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use tokio::sync::mpsc;
use tracing::warn;

use super::directory::{Candidate, Found, candidates, verdict};
use super::source::{Kind, Loaded};
use crate::config::Settings;

/// A file that is being written changes more often than this.
pub const SETTLE: Duration = Duration::from_secs(1);
/// For whatever says nothing: network file systems, a directory that is made later.
pub const RESCAN: Duration = Duration::from_secs(30);
/// The same while there is no directory to watch.
const RESCAN_MISSING: Duration = Duration::from_secs(3);
/// Events within this are one change.
const DEBOUNCE: Duration = Duration::from_millis(300);
const STACK_BYTES: usize = 256 * 1024;

/// What happened to a file.
pub enum Change {
    /// It is new or has changed.
    Found(Found),
    Removed {
        file: String,
    },
}

enum Command {
    /// Look at this file again although it has not changed.
    Again(String),
    Settings(Arc<Settings>),
}

/// The daemon's end of the watching thread. Dropping it ends the thread.
pub struct Watch {
    commands: Sender<Command>,
    waker: UnixStream,
}

impl Watch {
    /// Starts to watch; `seen` are the candidates that were looked at already.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub fn start(
        settings: Arc<Settings>,
        seen: Vec<Candidate>,
        changes: mpsc::Sender<Change>,
    ) -> std::io::Result<Self> {
        let (waker, woken) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let (commands, inbox) = channel(); // a few words of the daemon's
        let thread = std::thread::Builder::new()
            .name("plugins".into())
            .stack_size(STACK_BYTES);
        let mut directory = Directory {
            settings,
            seen: seen.into_iter().map(|c| (c.file(), Some(c))).collect(),
            changing: BTreeMap::new(),
            loaded: BTreeMap::new(),
            again: BTreeSet::new(),
        };
        thread.spawn(move || directory.run(&woken, &inbox, &changes))?;
        Ok(Self { commands, waker })
    }

    /// Looks at a file again although it has not changed.
    pub fn again(&self, file: &str) {
        self.send(Command::Again(file.to_owned()));
    }

    /// From now on, these settings count; files are not looked at again for that.
    pub fn settings(&self, settings: Arc<Settings>) {
        self.send(Command::Settings(settings));
    }

    fn send(&self, command: Command) {
        let _ = self.commands.send(command);
        let _ = (&self.waker).write(&[1]); // full: it is awake
    }
}

struct Directory {
    settings: Arc<Settings>,
    /// As they were when they were looked at; `None`: known to be gone.
    seen: BTreeMap<String, Option<Candidate>>,
    /// Different from that at the last look, and not known to have settled.
    changing: BTreeMap<String, Option<Candidate>>,
    /// Which copy was loaded last.
    loaded: BTreeMap<String, PathBuf>,
    again: BTreeSet<String>,
}

impl Directory {
    fn run(
        &mut self,
        woken: &UnixStream,
        commands: &Receiver<Command>,
        changes: &mpsc::Sender<Change>,
    ) {
        let mut watched = None;
        loop {
            if watched.is_none() {
                watched = watch(&self.settings.plugin_dir);
            }
            let sleep = match (&watched, self.changing.is_empty()) {
                (_, false) => SETTLE,
                (Some(_), true) => RESCAN,
                (None, true) => RESCAN_MISSING,
            };
            wait(watched.as_ref(), woken, sleep);
            loop {
                match commands.try_recv() {
                    Ok(Command::Again(file)) => {
                        self.again.insert(file);
                    }
                    Ok(Command::Settings(settings)) => {
                        if settings.plugin_dir != self.settings.plugin_dir {
                            watched = None;
                        }
                        self.settings = settings;
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            for change in self.look() {
                if changes.blocking_send(change).is_err() {
                    return; // the daemon is gone
                }
            }
            if !self.settings.plugin_dir.is_dir() {
                watched = None;
            }
        }
    }

    /// One look: what has settled since the last one.
    fn look(&mut self) -> Vec<Change> {
        let now = match candidates(&self.settings.plugin_dir) {
            Ok(now) => now,
            Err(e) => {
                warn!(error = %e, "the plugin directory can not be listed");
                return Vec::new();
            }
        };
        let mut now: BTreeMap<String, Option<Candidate>> =
            now.into_iter().map(|c| (c.file(), Some(c))).collect();
        for file in self.seen.keys() {
            now.entry(file.clone()).or_insert(None);
        }
        let mut changes = Vec::new();
        for (file, candidate) in now {
            let again = self.again.remove(&file);
            let settled = self.changing.get(&file) == Some(&candidate);
            let known = self.seen.get(&file).unwrap_or(&None) == &candidate;
            if known && !again {
                self.changing.remove(&file);
                continue;
            }
            if !settled && !again {
                self.changing.insert(file, candidate);
                continue;
            }
            self.changing.remove(&file);
            self.seen.insert(file.clone(), candidate.clone());
            changes.extend(self.change(file, candidate, again));
        }
        changes
    }

    fn change(
        &mut self,
        file: String,
        candidate: Option<Candidate>,
        again: bool,
    ) -> Option<Change> {
        let Some(candidate) = candidate else {
            self.seen.remove(&file);
            self.loaded.remove(&file);
            return Some(Change::Removed { file });
        };
        let verdict = verdict(&candidate, &self.settings);
        let copy = verdict.as_ref().ok().and_then(copy_of);
        if let Some(copy) = copy {
            let before = self.loaded.insert(file, copy.clone());
            if before == Some(copy) && !again {
                return None; // touched, or written anew with the same content
            }
        }
        let path = candidate.path;
        Some(Change::Found(Found { path, verdict }))
    }
}

/// The private copy behind a library, whose name says what is in it.
#[must_use]
pub fn copy_of(loaded: &Loaded) -> Option<PathBuf> {
    match &loaded.kind {
        Kind::Inline(plugin) => Some(plugin.path.clone()),
        Kind::Process(hosted, _) => Some(hosted.path.clone()),
        Kind::Exec(_) => None,
    }
}

fn watch(dir: &Path) -> Option<OwnedFd> {
    let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).ok()?;
    let what = inotify::WatchFlags::CLOSE_WRITE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::MOVED_FROM
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::DELETE
        | inotify::WatchFlags::ATTRIB
        | inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::DELETE_SELF
        | inotify::WatchFlags::MOVE_SELF;
    inotify::add_watch(&fd, dir, what).ok()?;
    Some(fd)
}

/// Until something happens, or the time is over; then a moment more, and whatever was said is taken off.
fn wait(watched: Option<&OwnedFd>, woken: &UnixStream, limit: Duration) {
    let mut waits = vec![PollFd::new(woken, PollFlags::IN)];
    waits.extend(watched.map(|fd| PollFd::new(fd, PollFlags::IN)));
    let happened = poll(&mut waits, Timespec::try_from(limit).ok().as_ref()).unwrap_or(0) > 0;
    if !happened {
        return;
    }
    if waits.get(1).is_some_and(|w| !w.revents().is_empty()) {
        std::thread::sleep(DEBOUNCE);
    }
    let mut buffer = [0; 4096];
    if let Some(fd) = watched {
        while rustix::io::read(fd, &mut buffer).is_ok_and(|n| n > 0) {}
    }
    while rustix::io::read(woken, &mut buffer).is_ok_and(|n| n > 0) {}
}

//! New, changed and removed files of the plugin directory, while the agent runs; and the first look at them all, when it starts.
//!
//! **Promises** that a change takes effect within five seconds, whatever other files do ([`looks`](super::looks)), also when another directory is put in the place of this one. inotify
//! says when to look, never what happened: its order is not dependable, its limits are low, and network file systems say nothing. So each event means "look soon", and the
//! directory is looked at every [`RESCAN`] in any case. One thing only it can say: that a file was written to and not closed yet ([`open`](super::open)), so that half a script is not run while its writer pauses. Each file is looked at on a thread of its own, and its verdict goes to the daemon as it comes.

use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::directory::{Candidate, Found, candidates, verdict};
use super::load::Refusal;
use super::looks::Looks;
use super::open::Open;
use super::{copy, source};
use crate::config::Settings;

/// For whatever says nothing: network file systems, limits of inotify.
pub const RESCAN: Duration = Duration::from_secs(30);
/// The same while there is no directory to watch, or where links lead to it: what becomes of a link is not said.
const RESCAN_BLIND: Duration = Duration::from_secs(2);
/// Events within this are one change.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// Between two listings of the directory, whatever is due.
const PAUSE: Duration = Duration::from_millis(50);
/// For a child to load a file, to make a source, and for its first round; each. Nobody waits for one that is slow, so it may be slow: a machine that starts is busy.
const TRIAL: Duration = Duration::from_secs(10);
const STACK_BYTES: usize = 256 * 1024;

/// What happened to a file.
pub enum Change {
    /// It is new, has changed, or was to be looked at again.
    Found(Box<Found>),
    Removed {
        file: String,
    },
    /// All files that were there at the start have been looked at.
    Looked,
}

enum Command {
    /// Look at this file again although it has not changed.
    Again(String),
    Settings(Arc<Settings>),
    /// This many changes were followed; these copies are in use now.
    Followed(usize, Vec<PathBuf>),
    Judged(Box<Found>),
    End,
}

/// Reaches the watching thread, and wakes it.
#[derive(Clone)]
struct Bell {
    commands: Sender<Command>, // a few words of the daemon's, and a verdict for each look that is under way
    waker: Arc<UnixStream>,
}

impl Bell {
    fn send(&self, command: Command) {
        let _ = self.commands.send(command);
        let _ = (&*self.waker).write(&[1]); // full: it is awake
    }
}

/// The daemon's end of the watching thread. Dropping it ends the thread.
pub struct Watch(Bell);

impl Watch {
    /// Looks at these candidates at once, and watches from then on.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub fn start(
        settings: Arc<Settings>,
        first: Vec<Candidate>,
        changes: mpsc::Sender<Change>,
    ) -> std::io::Result<Self> {
        let (waker, woken) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let (commands, inbox) = channel();
        let waker = Arc::new(waker);
        let bell = Bell { commands, waker };
        let thread = std::thread::Builder::new()
            .name("plugins".into())
            .stack_size(STACK_BYTES);
        let mut directory = Directory {
            settings,
            looks: Looks::new(first),
            bell: bell.clone(),
            starting: true,
            followed: 0,
            in_use: None,
        };
        thread.spawn(move || directory.run(&woken, &inbox, &changes))?;
        Ok(Self(bell))
    }

    /// Looks at a file again although it has not changed.
    pub fn again(&self, file: &str) {
        self.0.send(Command::Again(file.to_owned()));
    }

    /// From now on, these settings count; files are not looked at again for that.
    pub fn settings(&self, settings: Arc<Settings>) {
        self.0.send(Command::Settings(settings));
    }

    /// So many changes ([`Change::Looked`] is none) were followed, and these private copies are what runs now: others may go.
    pub fn followed(&self, changes: usize, in_use: Vec<PathBuf>) {
        self.0.send(Command::Followed(changes, in_use));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.send(Command::End);
    }
}

struct Directory {
    settings: Arc<Settings>,
    looks: Looks,
    bell: Bell,
    /// Not everything that was there at the start has been looked at.
    starting: bool,
    /// Changes that the daemon has been told of and has not followed yet.
    followed: usize,
    /// Copies that are in use, until the others are removed.
    in_use: Option<Vec<PathBuf>>,
}

impl Directory {
    fn run(
        &mut self,
        woken: &UnixStream,
        commands: &Receiver<Command>,
        changes: &mpsc::Sender<Change>,
    ) {
        let mut watched = Watched::new(&self.settings.plugin_dir);
        let mut pause = PAUSE;
        let mut is_there = self.settings.plugin_dir.is_dir();
        loop {
            while let Some(candidate) = self.looks.next(Instant::now()) {
                self.look_at(candidate);
            }
            if self.looks.idle() {
                if std::mem::take(&mut self.starting)
                    && changes.blocking_send(Change::Looked).is_err()
                {
                    return;
                }
                if self.followed == 0 {
                    self.clean();
                }
            }
            let now = Instant::now();
            let due = self.looks.due(now);
            let due = due.map_or(RESCAN, |at| at.saturating_duration_since(now).max(pause));
            let due = due.min(watched.rescan());
            wait(&mut watched, woken, due);
            pause = PAUSE;
            let mut told = Vec::new();
            loop {
                match commands.try_recv() {
                    Ok(Command::Again(file)) => self.looks.again(file),
                    Ok(Command::Settings(settings)) => self.settings = settings,
                    Ok(Command::Followed(changes, in_use)) => {
                        self.followed = self.followed.saturating_sub(changes);
                        self.in_use = Some(in_use);
                    }
                    Ok(Command::Judged(found)) => {
                        let may_pass = found.verdict.as_ref().err().is_some_and(Refusal::may_pass);
                        if self.looks.ended(Instant::now(), &found.file(), may_pass) {
                            told.push(Change::Found(found));
                        }
                    }
                    Err(TryRecvError::Empty) => break,
                    Ok(Command::End) | Err(TryRecvError::Disconnected) => return,
                }
            }
            // Before the listing: what changes after it is said.
            if watched.is_of_yesterday(&self.settings.plugin_dir) {
                watched = Watched::new(&self.settings.plugin_dir);
            }
            let dir = self.settings.plugin_dir.display();
            if is_there != self.settings.plugin_dir.is_dir() {
                is_there = !is_there;
                if is_there {
                    info!(%dir, "the plugin directory is there");
                } else {
                    warn!(%dir, "the plugin directory is gone: its sources end; what is put in its place is followed");
                }
            }
            match candidates(&self.settings.plugin_dir) {
                Ok(listed) => {
                    self.looks.open(watched.open.files.clone());
                    let gone = self.looks.listed(Instant::now(), listed);
                    told.extend(gone.into_iter().map(|file| Change::Removed { file }));
                    for file in self.looks.held_up(Instant::now()) {
                        warn!(
                            file,
                            "somebody has this open for writing: it is looked at once it is closed"
                        );
                    }
                }
                Err(e) => {
                    warn!(error = %e, "the plugin directory can not be listed");
                    pause = RESCAN_BLIND;
                }
            }
            self.followed += told.len();
            for change in told {
                if changes.blocking_send(change).is_err() {
                    return; // the daemon is gone
                }
            }
        }
    }

    fn look_at(&self, candidate: Candidate) {
        let (bell, settings) = (self.bell.clone(), self.settings.clone());
        let of = candidate.clone();
        let thread = std::thread::Builder::new()
            .name("look".into())
            .stack_size(source::STACK_BYTES);
        let spawned = thread.spawn(move || {
            let judged = catch_unwind(AssertUnwindSafe(|| verdict(&candidate, &settings, TRIAL)));
            let verdict =
                judged.unwrap_or_else(|_| Err(Refusal::Crashed("looking at it failed".into())));
            bell.send(Command::Judged(Box::new(Found::new(candidate, verdict))));
        });
        if let Err(e) = spawned {
            let refusal = Refusal::Crashed(format!("no thread could be started for it: {e}"));
            let found = Found::new(of, Err(refusal));
            self.bell.send(Command::Judged(Box::new(found)));
        }
    }

    /// Removes copies that nothing runs from. What is mapped stays mapped without its file. In the state directory of another agent they are that one's, who runs executables from them.
    fn clean(&mut self) {
        let holder = self.settings.spool_limits().and_then(|l| l.holder());
        if holder.is_some_and(|pid| pid != std::process::id()) {
            return;
        }
        if let (Some(in_use), Some(dir)) = (self.in_use.take(), self.settings.private_plugins()) {
            let later: Vec<&str> = self.looks.later().collect();
            copy::clean(&dir, |copy| {
                in_use.iter().any(|used| used == copy)
                    || later.iter().any(|file| copy::may_be_of(copy, file))
            });
        }
    }
}

/// A directory that inotify tells of, known by device and inode: its path may lead to another one tomorrow.
struct Watched {
    fd: Option<OwnedFd>,
    identity: Option<(u64, u64)>,
    linked: bool,
    open: Open,
}

impl Watched {
    fn new(dir: &Path) -> Self {
        let identity = identity(dir);
        let absolute = std::path::absolute(dir).ok();
        Self {
            fd: inotify_of(dir),
            identity,
            linked: std::fs::canonicalize(dir).ok() != absolute,
            open: Open::default(),
        }
    }

    fn is_of_yesterday(&self, dir: &Path) -> bool {
        self.fd.is_none() || self.identity != identity(dir)
    }

    fn rescan(&self) -> Duration {
        match (&self.fd, self.linked) {
            (Some(_), false) => RESCAN,
            _ => RESCAN_BLIND,
        }
    }
}

fn identity(dir: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(dir).ok()?;
    metadata.is_dir().then(|| (metadata.dev(), metadata.ino()))
}

fn inotify_of(dir: &Path) -> Option<OwnedFd> {
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
fn wait(watched: &mut Watched, woken: &UnixStream, limit: Duration) {
    let mut waits = vec![PollFd::new(woken, PollFlags::IN)];
    waits.extend(watched.fd.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
    let happened = poll(&mut waits, Timespec::try_from(limit).ok().as_ref()).unwrap_or(0) > 0;
    if !happened {
        return;
    }
    if waits.get(1).is_some_and(|w| !w.revents().is_empty()) {
        std::thread::sleep(DEBOUNCE);
    }
    if let Some(fd) = &watched.fd {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let (mut events, now) = (inotify::Reader::new(fd, &mut buffer), Instant::now());
        while let Ok(event) = events.next() {
            let name = event.file_name().unwrap_or_default().to_string_lossy();
            watched
                .open
                .heard(now, event.events(), event.cookie(), &name);
        }
    }
    let mut buffer = [0; 256];
    while rustix::io::read(woken, &mut buffer).is_ok_and(|n| n > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_file_is_open_from_its_first_byte_until_it_is_closed_whatever_it_is_called_then() {
        let dir = tempfile::tempdir().unwrap();
        let mut watched = Watched::new(dir.path());
        let (_waker, woken) = UnixStream::pair().unwrap();
        woken.set_nonblocking(true).unwrap();
        let mut open = || {
            wait(&mut watched, &woken, Duration::from_secs(10));
            let files = watched.open.files.keys();
            files.cloned().collect::<Vec<_>>()
        };
        let mut file = File::create(dir.path().join("a.tmp")).unwrap();
        file.write_all(b"#!/bin/sh\n").unwrap();
        assert_eq!(open(), ["a.tmp"]);
        std::fs::rename(dir.path().join("a.tmp"), dir.path().join("a")).unwrap();
        assert_eq!(open(), ["a"]);
        drop(file);
        assert!(open().is_empty());
        let _file = File::create(dir.path().join("b")).unwrap();
        std::fs::write(dir.path().join("a"), "whole").unwrap();
        assert!(open().is_empty());
    }

    #[test]
    fn a_directory_put_in_the_place_of_another_is_watched_in_its_place() {
        let place = tempfile::tempdir().unwrap();
        let (dir, other) = (place.path().join("plugins"), place.path().join("other"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::create_dir(&other).unwrap();
        let watched = Watched::new(&dir);
        assert!(!watched.is_of_yesterday(&dir));
        std::fs::rename(&dir, place.path().join("old")).unwrap();
        assert!(watched.is_of_yesterday(&dir), "there is none");
        std::fs::rename(&other, &dir).unwrap();
        assert!(watched.is_of_yesterday(&dir), "it is another");
        assert!(!Watched::new(&dir).is_of_yesterday(&dir));
        assert!(Watched::new(&place.path().join("none")).is_of_yesterday(&dir));
    }

    #[test]
    fn what_becomes_of_a_link_is_found_out_by_looking() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let (dir, link) = (place.join("plugins"), place.join("link"));
        std::fs::create_dir(&dir).unwrap();
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        assert_eq!(Watched::new(&dir).rescan(), RESCAN);
        assert_eq!(Watched::new(&link).rescan(), RESCAN_BLIND);
        assert_eq!(Watched::new(&place.join("none")).rescan(), RESCAN_BLIND);
    }
}

//! Where an export goes: standard output, or a file that takes its name only once it is whole.
//!
//! A signal (Ctrl-C, SIGTERM) ends the export between two windows, and the unfinished file goes with it; a second one ends the process at once. Whoever reads
//! standard output may stop reading: that ends it quietly, as `head` expects.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

/// Of a process that a signal ended, as shells say it: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;

/// Whether somebody wants an end.
#[derive(Debug, Clone, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches for signals from now on, in a thread of its own.
    pub(super) fn watch() -> anyhow::Result<Self> {
        let interrupt = Self::default();
        let said = interrupt.0.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("the async runtime did not start")?;
        let (mut int, mut term) = {
            let _in_runtime = runtime.enter();
            let listen = |kind| signal(kind).context("signals can not be received");
            (
                listen(SignalKind::interrupt())?,
                listen(SignalKind::terminate())?,
            )
        };
        let wait = async move {
            loop {
                tokio::select! {
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                }
                if said.swap(true, Relaxed) {
                    std::process::exit(INTERRUPTED);
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".into());
        thread.spawn(move || runtime.block_on(wait))?; // ends with the process
        Ok(interrupt)
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.0.load(Relaxed), "interrupted before the end");
        Ok(())
    }
}

/// Standard output, and whether its reader has gone.
#[derive(Debug)]
pub(super) struct Standard {
    pub(super) closed: Arc<AtomicBool>,
}

impl Write for Standard {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = std::io::stdout().write(bytes);
        if written
            .as_ref()
            .is_err_and(|e| e.kind() == ErrorKind::BrokenPipe)
        {
            self.closed.store(true, Relaxed);
        }
        written
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let flushed = std::io::stdout().flush();
        if flushed
            .as_ref()
            .is_err_and(|e| e.kind() == ErrorKind::BrokenPipe)
        {
            self.closed.store(true, Relaxed);
        }
        flushed
    }
}

/// A file that takes its name only once it is whole.
pub(super) struct Replacing {
    pub(super) file: File,
    fresh: PathBuf,
    path: PathBuf,
    done: bool,
}

impl Replacing {
    pub(super) fn new(path: &Path) -> anyhow::Result<Self> {
        let mut name = path
            .file_name()
            .context("--output names no file")?
            .to_owned();
        anyhow::ensure!(
            !path.is_dir(),
            "--output: {} is a folder; name a file in it",
            path.display()
        );
        name.push(format!(".{}.part", std::process::id()));
        let fresh = path.with_file_name(name);
        let file = File::create(&fresh);
        let file = file.with_context(|| format!("cannot write {}", fresh.display()))?;
        Ok(Self {
            file,
            fresh,
            path: path.to_owned(),
            done: false,
        })
    }

    /// All of it is written: makes it durable and gives it its name.
    pub(super) fn done(mut self) -> anyhow::Result<()> {
        let renamed = self
            .file
            .sync_all()
            .and_then(|()| std::fs::rename(&self.fresh, &self.path));
        renamed.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Replacing {
    fn drop(&mut self) {
        if !self.done {
            let removed = std::fs::remove_file(&self.fresh);
            drop(removed);
        }
    }
}

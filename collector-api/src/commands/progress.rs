//! How far a long command is, on standard error: a bar on a terminal, a plain line now and then otherwise.

use std::io::IsTerminal as _;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often plain lines come.
const EVERY: Duration = Duration::from_secs(10);
/// How often it is looked how far something is that works by itself.
const LOOK: Duration = Duration::from_millis(100);

/// One part of a command at a time, counted in steps.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    part: &'static str,
    done: u64,
    total: u64,
    said: Instant,
}

impl Progress {
    /// Begins a part of about `total` steps.
    pub fn new(part: &'static str, total: u64) -> Self {
        let mut progress = Self {
            bar: None,
            part,
            done: 0,
            total,
            said: Instant::now(),
        };
        progress.begin(part, total);
        progress
    }

    /// Ends the part and begins another.
    pub fn begin(&mut self, part: &'static str, total: u64) {
        self.end();
        (self.part, self.done, self.total) = (part, 0, total);
        self.said = Instant::now();
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) =
                ProgressStyle::with_template("{msg:14} [{bar:40}] {percent:>3} % {eta:>6}")
            {
                bar.set_style(style);
            }
            bar.set_message(part);
            self.bar = Some(bar);
        } else {
            eprintln!("{part}");
        }
    }

    /// So many steps more are done.
    pub fn add(&mut self, steps: u64) {
        self.done += steps;
        match &self.bar {
            Some(bar) => {
                if self.done > self.total {
                    bar.set_length(self.done);
                }
                bar.set_position(self.done);
            }
            None if self.said.elapsed() >= EVERY => {
                self.said = Instant::now();
                let percent = self.done.saturating_mul(100) / self.total.max(self.done).max(1);
                match self.total {
                    0 => eprintln!("{} …", self.part),
                    _ => eprintln!("{}: {percent} %", self.part),
                }
            }
            None => {}
        }
    }

    /// So many steps of so many are done; of 0, if nobody knows how many there are.
    pub fn set(&mut self, done: u64, total: u64) {
        self.total = total;
        self.done = 0;
        if let Some(bar) = &self.bar {
            bar.set_length(total.max(1));
        }
        self.add(done.min(total));
    }

    /// Prints a line to standard error without disturbing the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Takes the bar away.
    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Does something in another thread and says meanwhile how far it is: steps done, of so many.
pub(super) fn while_it_works<T: Send>(
    part: &'static str,
    how_far: impl Fn() -> (u64, u64),
    work: impl FnOnce() -> T + Send,
) -> T {
    std::thread::scope(|scope| {
        let (ends, ended) = std::sync::mpsc::channel::<()>();
        let worker = scope.spawn(move || {
            let _ends = ends;
            work()
        });
        let mut progress = Progress::new(part, 0);
        while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            let (done, total) = how_far();
            progress.set(done, total);
        }
        drop(progress);
        let done = worker.join();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

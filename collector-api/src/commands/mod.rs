//! What the program does besides running: looking after a data directory, and moving samples in and out of it.
//!
//! All but [`status`] with `--url` need the directory for themselves: while a collector runs on it they end with an error that says so. Answers go to
//! standard output, how far they are ([`progress`]) and what is wrong to standard error. None of them drops samples for their age.

pub mod compact;
pub mod export;
pub mod import;
pub mod progress;
pub mod salvage;
pub mod status;
pub mod verify;

mod output;
#[cfg(feature = "parquet")]
mod parquet;
mod rollup_rows;
mod rows;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use devmon_core::journal::JournalError;

use crate::forward;
use crate::store::engine::StoreError;
use crate::store::{Engine, HowFar, Options};
use progress::while_it_works;

#[cfg(not(feature = "parquet"))]
const WITHOUT_PARQUET: &str = "this program was built without Parquet: build it with cargo build --release -p devmon-collector --features parquet";

const A_CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Opens the store in `dir` as a collector would, but with a retention that takes nothing: what is kept how long is the configuration's business, and is
/// seen to by the next `run`. So is archiving, unless it is asked for.
fn open(dir: &Path) -> anyhow::Result<Engine> {
    let options = Options {
        retention: A_CENTURY,
        archive_after: A_CENTURY,
        seal_age: A_CENTURY, // samples that are imported came long ago; full heads are sealed all the same
        ..Options::default()
    };
    // What waits to be forwarded is not trimmed meanwhile.
    forward::pin_all(dir, &options.pins);
    let how_far = HowFar::default();
    let opened = while_it_works(
        "opening",
        || {
            let (_, done, total) = how_far.now();
            (done, total)
        },
        || Engine::open_watched(dir, options, &how_far),
    );
    at(dir, opened)
}

/// Says what to do when the store in `dir` is not to be had.
pub(crate) fn at<T>(dir: &Path, result: Result<T, StoreError>) -> anyhow::Result<T> {
    let dir = dir.display();
    result.map_err(|error| {
        let advice = match &error {
            StoreError::Journal(JournalError::Locked(_)) => format!(
                "a collector runs on {dir}: end it first, or ask it (devmon-collector status --url http://127.0.0.1:8765)"
            ),
            StoreError::Journal(JournalError::Damaged { .. }) => format!(
                "the journal in {dir} is damaged; devmon-collector salvage --data-dir {dir} says what is lost and keeps the rest"
            ),
            _ => return anyhow::Error::new(error).context(format!("the store in {dir}")),
        };
        anyhow::Error::new(error).context(advice)
    })
}

/// An existing store only: opening makes one, and a name that was mistyped should not.
fn open_existing(dir: &Path) -> anyhow::Result<Engine> {
    anyhow::ensure!(
        dir.join("journal").is_dir(),
        "no collector has stored anything in {}; name its directory with --data-dir",
        dir.display()
    );
    open(dir)
}

fn print(text: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout().lock(), "{text}").context("standard output is closed")
}

//! `verify`: looks at every checksum and every reference of a store at rest, says each fault with its place, changes nothing.

use std::path::Path;

use super::{at, print, progress::Progress};
use crate::store::verify::{Verified, Watch, verify};

/// Faults go to standard output, the rest to standard error.
struct Teller(Progress);

impl Watch for Teller {
    fn part(&mut self, name: &'static str, total: u64) {
        self.0.begin(name, total);
    }

    fn done(&mut self, steps: u64) {
        self.0.add(steps);
    }

    fn fault(&mut self, place: &str, what: &str) {
        self.0.say(&format!("fault: {place}: {what}"));
    }

    fn note(&mut self, text: &str) {
        self.0.say(&format!("note: {text}"));
    }
}

/// Verifies the store in `dir`.
///
/// # Errors
/// There are faults, or it can not be looked at.
pub fn run(dir: &Path) -> anyhow::Result<()> {
    let mut teller = Teller(Progress::new("opening", 0));
    let verified = at(dir, verify(dir, &mut teller))?;
    drop(teller);
    let Verified {
        journal_segments,
        journal_records,
        devices,
        series,
        blocks,
        samples,
        day_files,
        archived_samples,
        dead_letters,
        faults,
    } = verified;
    print(format_args!(
        "journal       {journal_records} messages in {journal_segments} segments\n\
         database      {samples} samples in {blocks} blocks; {devices} devices, {series} series\n\
         archive       {archived_samples} samples in {day_files} day files\n\
         dead letters  {dead_letters}\n\
         faults        {faults}"
    ))?;
    anyhow::ensure!(
        faults == 0,
        "{faults} faults in {}; what each is and where stands above",
        dir.display()
    );
    Ok(())
}

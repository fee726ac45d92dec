//! Single files of sysfs: one number or word each.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The kernel gives an attribute at most a page.
const PAGE_BYTES: u64 = 4096;

/// The text of an attribute, without the newline.
pub(super) fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(PAGE_BYTES)
        .read_to_string(&mut text)?;
    text.truncate(text.trim_end().len());
    Ok(text)
}

/// What is named `prefix` and a number in a directory, by number; nothing if it cannot be listed.
pub(super) fn numbered(dir: &Path, prefix: &str) -> Vec<(u32, PathBuf)> {
    let number = |name: &str| name.strip_prefix(prefix).and_then(plain_number);
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((number(entry.file_name().to_str()?)?, entry.path())))
        .collect();
    found.sort();
    found
}

/// Digits only: `from_str` would take `+1` as well.
fn plain_number(text: &str) -> Option<u32> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// Reads numbers, and keeps the first error of a round.
#[derive(Default)]
pub(super) struct Attributes(Option<String>);

impl Attributes {
    /// The number in a file. That there is no file is no error: the driver or the GPU does not measure that.
    pub(super) fn number<T: FromStr>(&mut self, path: &Path) -> Option<T> {
        let error = match text(path) {
            Ok(text) => match text.trim().parse() {
                Ok(number) => return Some(number),
                Err(_) => format!("it has {text:?} in it"),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => error.to_string(),
        };
        self.0
            .get_or_insert_with(|| format!("cannot read {}: {error}", path.display()));
        None
    }

    /// The first error.
    pub(super) fn error(self) -> Option<String> {
        self.0
    }
}

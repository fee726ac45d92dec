//! Reads `/proc/pressure/{cpu,memory,io}`.
//!
//! ```text
//! some avg10=0.25 avg60=0.35 avg300=0.58 total=855342749
//! full avg10=0.00 avg60=0.00 avg300=0.10 total=473110989
//! ```

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use devmon_core::CollectError;

const NAMES: [&str; 3] = ["cpu", "memory", "io"];

/// One file.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    pub name: &'static str,
    pub some: Option<Stall>,
    /// Kernels before 5.13 have none for cpu.
    pub full: Option<Stall>,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Stall {
    /// Of the last 10, 60 and 300 s.
    pub percent: [f64; 3],
    /// Since the machine started.
    pub total_us: u64,
}

/// Knows the files.
pub struct Reader {
    files: [(&'static str, PathBuf); 3],
}

impl Reader {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(proc: &Path) -> Self {
        Self {
            files: NAMES.map(|name| (name, proc.join("pressure").join(name))),
        }
    }

    /// Reads what can be read.
    ///
    /// # Errors
    /// Nothing could be: [`CollectError::Unavailable`] for a kernel without PSI or a sandbox that hides it, [`CollectError::Failed`] else.
    pub fn read(&self) -> Result<Vec<Resource>, CollectError> {
        let mut found = Vec::new();
        let mut failure = None;
        for (name, file) in &self.files {
            match fs::read_to_string(file) {
                Ok(text) => found.extend(parse(name, &text)),
                Err(e) => failure = Some((file, e)),
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
        Err(match failure {
            Some((file, e)) => reason(file, &e),
            None => CollectError::Failed("the files in /proc/pressure have another form than this version knows; please report it".into()),
        })
    }
}

fn reason(file: &Path, error: &io::Error) -> CollectError {
    let file = file.display();
    match error.kind() {
        ErrorKind::NotFound => CollectError::Unavailable(format!(
            "this kernel has no pressure stall information ({file} is missing): it needs Linux 4.20 with CONFIG_PSI. Switch this source off"
        )),
        // Compiled in, and off by default (CONFIG_PSI_DEFAULT_DISABLED): opening gives EOPNOTSUPP.
        ErrorKind::Unsupported => CollectError::Unavailable(format!(
            "pressure stall information is switched off ({file}: {error}). Start the kernel with psi=1, or switch this source off"
        )),
        ErrorKind::PermissionDenied => CollectError::Unavailable(format!(
            "no permission to read {file}: a container or sandbox hides it. Run the agent on the host, or switch this source off"
        )),
        _ => CollectError::Failed(format!("cannot read {file}: {error}")),
    }
}

/// Reads one file; `None` if it has neither line.
#[must_use]
pub fn parse(name: &'static str, text: &str) -> Option<Resource> {
    let line = |extent: &str| {
        let rest = |line: &str| Some(line.strip_prefix(extent)?.to_owned());
        text.lines()
            .find_map(rest)
            .and_then(|rest| parse_line(&rest))
    };
    let resource = Resource {
        name,
        some: line("some "),
        full: line("full "),
    };
    (resource.some.is_some() || resource.full.is_some()).then_some(resource)
}

fn parse_line(line: &str) -> Option<Stall> {
    let field = |key: &str| {
        line.split_ascii_whitespace()
            .find_map(|field| field.strip_prefix(key)?.strip_prefix('='))
    };
    let percent = |key: &str| {
        let percent: f64 = field(key)?.parse().ok()?;
        (0.0..=100.0).contains(&percent).then_some(percent)
    };
    Some(Stall {
        percent: [percent("avg10")?, percent("avg60")?, percent("avg300")?],
        total_us: field("total")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switched_off_kernel_is_unavailable() {
        let off = io::Error::from_raw_os_error(95); // EOPNOTSUPP
        let error = reason(Path::new("/proc/pressure/cpu"), &off);
        assert!(
            matches!(&error, CollectError::Unavailable(e) if e.contains("psi=1")),
            "{error}"
        );
        let no_descriptor = io::Error::from_raw_os_error(24); // EMFILE
        let error = reason(Path::new("/proc/pressure/cpu"), &no_descriptor);
        assert!(matches!(error, CollectError::Failed(_)), "{error}");
    }

    #[test]
    fn a_broken_line_is_left_out_and_the_other_stays() {
        let text = "some avg10=x avg60=0 avg300=0 total=1\nfull avg10=1.5 avg60=0.00 avg300=100.00 total=7\n";
        let io = parse("io", text).unwrap();
        assert_eq!(io.some, None);
        let full = Stall {
            percent: [1.5, 0.0, 100.0],
            total_us: 7,
        };
        assert_eq!(io.full, Some(full));
        assert_eq!(parse("io", "some avg10=NaN avg60=0 avg300=0 total=1"), None);
        assert_eq!(parse("io", ""), None);
    }
}

//! The first line of a script, `#!/bin/sh`: whether a file is meant as one, and what is wrong with it when it can not be run.
//!
//! The system says "No such file or directory" of a script that lies right there and whose interpreter is missing; and a script that was written on Windows asks for an interpreter
//! whose name ends in a carriage return. An operator reads what is said here instead.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// The kernel reads no more of a first line (BINPRM_BUF_SIZE).
const LINE_BYTES: u64 = 256;

/// What is after `#!` in the first line; `None`: it is no script.
fn line_of(mut file: impl Read) -> Option<String> {
    let mut start = Vec::new();
    file.by_ref()
        .take(LINE_BYTES)
        .read_to_end(&mut start)
        .ok()?;
    let line = start.split(|byte| *byte == b'\n').next()?;
    let line = line.strip_prefix(b"#!")?;
    Some(String::from_utf8_lossy(line).into_owned())
}

/// True if the file begins as a script does. It must be a regular file.
pub(super) fn is_script(path: &Path) -> bool {
    // It may have become a FIFO since it was looked at, and that would block.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path);
    file.is_ok_and(|file| line_of(file).is_some())
}

/// What is to be done about a script whose first line no system can follow, for it ends as lines do on Windows.
pub(super) fn carriage_return(path: &Path) -> Option<&'static str> {
    let line = line_of(File::open(path).ok()?)?;
    line.ends_with('\r')
        .then_some("its first line ends in a carriage return, as on Windows: remove them all (sed -i 's/\\r$//' FILE)")
}

/// Why a file could not be run, for an operator: the system's own words, or better ones.
pub(super) fn why_not_run(path: &Path, error: &std::io::Error) -> String {
    if let Some(why) = carriage_return(path) {
        return why.to_owned();
    }
    let Ok(file) = File::open(path) else {
        return error.to_string();
    };
    let line = line_of(file);
    let interpreter = line.as_deref().and_then(|l| l.split_whitespace().next());
    match (error.kind(), interpreter) {
        (ErrorKind::NotFound, Some(interpreter)) => format!(
            "its interpreter {interpreter} does not exist: install it, or correct the first line"
        ),
        (ErrorKind::PermissionDenied, Some(interpreter)) => {
            format!("its interpreter {interpreter} may not be run ({error})")
        }
        // The file is there, so it is its loader that is not.
        (ErrorKind::NotFound, None) => {
            "the loader that it was linked for does not exist: it was built for another system"
                .into()
        }
        // ENOEXEC
        _ if error.raw_os_error() == Some(8) && interpreter.is_none() => {
            "it has no first line that names its interpreter (#!/bin/sh), and is no program for this machine".into()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;

    fn why(text: &str, errno: i32) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("well.sh");
        std::fs::write(&path, text).unwrap();
        why_not_run(&path, &Error::from_raw_os_error(errno))
    }

    #[test]
    fn what_is_missing_is_named_and_not_the_file_that_is_there() {
        let (enoent, eacces, enoexec) = (2, 13, 8);
        for (text, errno, says) in [
            (
                "#!/opt/perl -w\n",
                enoent,
                "its interpreter /opt/perl does not exist",
            ),
            (
                "#! /opt/perl",
                enoent,
                "its interpreter /opt/perl does not exist",
            ),
            (
                "#!/opt/perl\r\necho\r\n",
                enoent,
                "ends in a carriage return",
            ),
            (
                "#!/etc/passwd\n",
                eacces,
                "its interpreter /etc/passwd may not be run",
            ),
            ("\x7fELF", enoent, "built for another system"),
            (
                "echo level 1\n",
                enoexec,
                "no first line that names its interpreter",
            ),
            ("#!/bin/sh\n", eacces, "may not be run (Permission denied"),
        ] {
            let why = why(text, errno);
            assert!(why.contains(says), "{text:?}: {why}");
        }
    }

    #[test]
    fn a_script_is_known_by_its_first_two_bytes() {
        assert!(line_of(&b"#!/bin/sh\n"[..]).is_some());
        for no in [&b""[..], b"#", b" #!/bin/sh", b"level 1"] {
            assert!(line_of(no).is_none());
        }
        assert_eq!(line_of(&b"#!/bin/sh\r\nx"[..]).unwrap(), "/bin/sh\r");
    }
}

//! The plugin directory: which files are candidates, and what becomes of each.
//!
//! Every `lib*.so` is a candidate, and every other executable file ([`exec`](super::exec)), libraries first, then in the order of file names. A script that nobody may run is refused, for whoever put it there waits for its metrics; other files are no business of the agent's. What others than root and the agent's user may write to is
//! refused ([`trust`](super::trust)): whoever writes it runs as the agent. Of two files with one source name the one of the better [`Rank`] has it, in whatever order they came; the other is refused,
//! for two writers of one path would make nonsense of it. A missing or empty directory is no error: an agent without plugins runs and says so.
//!
//! A file is copied ([`copy`](super::copy)) and runs from its copy; where there can be none, from where it lies. A library is then loaded in a child process first ([`host`](super::host)): what crashes or hangs there does so alone. One that is to run inline is also
//! started and asked once in the child; if it does not survive that, it runs in a process of its own, where its state shows why.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use devmon_core::path::check_name;
use tracing::{debug, warn};

use super::exec::{self, ExecFile};
use super::host::{Host, HostedPlugin, Limits};
use super::load::{Abi, Refusal, load_as, name_from_file};
use super::source::{Kind, Loaded};
use super::{copy, interpreter, trust};
use crate::config::{Isolation, Settings};

/// For a child to load a file, to make a source, and for its first round; each. For commands that somebody waits for.
const TRIAL: Duration = Duration::from_secs(5);
/// Files looked at side by side: a hanging one holds up no other.
const SIDE_BY_SIDE: usize = 4;
/// Our own plugins: built and tested with the agent, they run inline unless the configuration says otherwise.
const BUNDLED: [&str; 9] = [
    "cpu",
    "disk",
    "gpu",
    "memory",
    "network",
    "pressure",
    "processes",
    "sensors",
    "system",
];
/// Ends of names that are no finished executables: editors, package managers, backups, companions.
const NO_EXECUTABLE: [&str; 12] = [
    "~",
    ".so",
    ".bak",
    ".tmp",
    ".new",
    ".swp",
    ".orig",
    ".toml",
    ".md",
    ".dpkg-new",
    ".dpkg-old",
    ".rpmnew",
];

/// A file and the verdict on it.
pub struct Found {
    pub path: PathBuf,
    pub verdict: Result<Loaded, Refusal>,
    /// Stamp of the file beside it that describes it.
    pub companion: Vec<i128>,
}

impl Found {
    #[must_use]
    pub fn new(candidate: Candidate, verdict: Result<Loaded, Refusal>) -> Self {
        Self {
            path: candidate.path,
            verdict,
            companion: candidate.companion,
        }
    }

    /// The file's name without its directory.
    #[must_use]
    pub fn file(&self) -> String {
        file_name(&self.path)
    }
}

/// A file that may be a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub path: PathBuf,
    /// What changes when the file does: device, inode, size, times; and who may write to its directory.
    pub stamp: Vec<i128>,
    /// The same of the file beside it that describes it.
    companion: Vec<i128>,
    kind: File,
}

/// What a candidate is by its name, its mode and its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    Library,
    Executable,
    /// A script without the right to be executed.
    Script,
}

impl Candidate {
    /// A file that is nowhere, in its so many-th version.
    #[cfg(test)]
    pub(super) fn of(file: &str, version: i128) -> Self {
        Self {
            path: PathBuf::from(file),
            stamp: vec![version],
            companion: Vec::new(),
            kind: File::Library,
        }
    }

    #[must_use]
    pub fn file(&self) -> String {
        file_name(&self.path)
    }
}

/// Who has a source name that two files want, the smaller one first: a plugin of ours, then any library, then an executable; of two alike the first by file name. It is the same at the
/// start and later: what runs after a restart is what ran before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(u8, String);

impl Rank {
    #[must_use]
    pub fn of(loaded: &Loaded, file: &str) -> Self {
        let class = match &loaded.kind {
            Kind::Inline(plugin) if is_bundled(plugin.abi, &loaded.name, file) => 0,
            Kind::Process(_, abi) if is_bundled(*abi, &loaded.name, file) => 0,
            Kind::Inline(_) | Kind::Process(..) => 1,
            Kind::Exec(_) => 2,
        };
        Self(class, file.to_owned())
    }
}

/// Ours are in Rust, and call themselves what their file is called: somebody else's file of that name gets a process.
fn is_bundled(abi: Abi, name: &str, file: &str) -> bool {
    matches!(abi, Abi::Rust { .. })
        && BUNDLED.contains(&name)
        && file == format!("libdevmon_plugin_{name}.so")
}

/// Looks at all candidates.
///
/// # Errors
/// When the directory exists but can not be listed.
pub fn scan(settings: &Settings) -> std::io::Result<Vec<Found>> {
    Ok(verdicts(&candidates(&settings.plugin_dir)?, settings))
}

/// Looks at these candidates; of those that want one name, all but one are refused.
#[must_use]
pub fn verdicts(candidates: &[Candidate], settings: &Settings) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    for some in candidates.chunks(SIDE_BY_SIDE) {
        let verdicts: Vec<_> = std::thread::scope(|scope| {
            let each = some
                .iter()
                .map(|c| scope.spawn(|| verdict(c, settings, TRIAL)));
            let threads: Vec<_> = each.collect();
            let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            joined
                .map(|j| j.unwrap_or_else(|_| Err(Refusal::Crashed("looking at it failed".into()))))
                .collect()
        });
        for (candidate, mut verdict) in some.iter().zip(verdicts) {
            if let Ok(loaded) = &verdict {
                let (name, file) = (loaded.name.clone(), candidate.file());
                let rank = Rank::of(loaded, &file);
                let rival = found.iter_mut().find_map(|other| {
                    let ranked = other.verdict.as_ref().ok().filter(|o| o.name == name)?;
                    let by = other.file();
                    Some((Rank::of(ranked, &by) < rank, by, other))
                });
                match rival {
                    Some((true, by, _)) => verdict = Err(Refusal::Duplicate { name, by }),
                    Some((false, _, other)) => {
                        other.verdict = Err(Refusal::Duplicate { name, by: file });
                    }
                    None => {}
                }
            }
            found.push(Found::new(candidate.clone(), verdict));
        }
    }
    found
}

/// What is to become of a file. `trial` is for a child to load it, to make a source, and for its first round; each.
///
/// # Errors
/// [`Refusal`].
pub fn verdict(
    candidate: &Candidate,
    settings: &Settings,
    trial: Duration,
) -> Result<Loaded, Refusal> {
    let path = &candidate.path;
    let file = file_name(path);
    if let Some(dir) = path.parent() {
        trust::directory(dir)?;
    }
    if candidate.kind == File::Script {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        return Err(Refusal::NotExecutable(path.display().to_string()));
    }
    let mut opened = trust::open(path)?;
    let copied = match settings.private_plugins() {
        Some(dir) => match copy::keep(&mut opened, &file, &dir) {
            Err(e) if e.kind() == std::io::ErrorKind::FileTooLarge => {
                return Err(Refusal::TooLarge(copy::MAX_BYTES));
            }
            kept => kept.map_err(|e| e.to_string()),
        },
        None => Err("there is no state directory".to_owned()),
    };
    drop(opened);
    if let Err(problem) = &copied {
        debug!(file, problem, "no private copy: it runs from where it lies");
    }
    if candidate.kind == File::Executable {
        let name = exec_name(path);
        check_name(&name).map_err(|e| Refusal::Name(e.to_string()))?;
        return Ok(Loaded {
            kind: Kind::Exec(ExecFile {
                copy: copied.clone().ok(),
                path: std::path::absolute(path).unwrap_or_else(|_| path.clone()),
                limits: settings.limits_of(&name),
            }),
            name,
            version: None,
            preferred_interval: None,
            copy: copied.ok(),
        });
    }
    let by_file = name_by_file(&file);
    let mut hosted = HostedPlugin {
        path: copied.clone().unwrap_or_else(|_| path.clone()),
        file: file.clone(),
        limits: settings.trial_limits_of(&by_file),
    };
    let (mut host, hello) = Host::start(&hosted, trial)
        .map_err(|refusal| with_limits(refusal, &by_file, hosted.limits))?;
    hosted.limits = settings.limits_of(&hello.name);
    let bundled = is_bundled(hello.abi, &hello.name, &file);
    let mut inline = settings.isolation_of(&hello.name, bundled) == Isolation::Inline;
    // Nothing but the original could be mapped, and that may be written over: not in this process.
    inline &= copied.is_ok();
    // What is switched off is neither started nor mapped.
    inline &= settings.source(&hello.name).enabled;
    if inline {
        let config = settings.config_of(&hello.name);
        let made = host.make(&hello.name, &config, trial);
        let survived = made.and_then(|made| match made {
            Ok(_) => host.collect(trial).map(drop),
            Err(_) => Ok(()), // it says politely that it can not start: it may say so inline
        });
        if let Err(ended) = survived {
            let reason = ended.0;
            warn!(
                file,
                reason, "it did not survive its trial: it runs in a process of its own"
            );
            inline = false;
        }
    }
    drop(host);
    let kind = if inline {
        Kind::Inline(load_as(&hosted.path, Some(&file))?)
    } else {
        Kind::Process(hosted, hello.abi)
    };
    Ok(Loaded {
        name: hello.name,
        version: hello.version,
        preferred_interval: hello.preferred_interval_ms.map(Duration::from_millis),
        kind,
        copy: copied.ok(),
    })
}

/// A refusal that may come of a limit names it, and the keys that change it. What lacks memory seldom says so: C writes through the null pointer.
fn with_limits(refusal: Refusal, by_file: &str, limits: Limits) -> Refusal {
    const MAY_BE: [&str; 9] = [
        "signal 6 ",
        "signal 7 ",
        "signal 11 ",
        "ended by itself",
        "emory",
        "bad_alloc",
        "zero-fill",
        "failed to map",
        "open files",
    ];
    let (Refusal::Crashed(reason) | Refusal::Dlopen(reason)) = &refusal else {
        return refusal;
    };
    if !MAY_BE.iter().any(|part| reason.contains(part)) {
        return refusal;
    }
    let (mib, files) = (limits.memory_bytes >> 20, limits.open_files);
    let reason = format!(
        "{reason}; it had {mib} MiB of memory and {files} open files for that: memory_bytes and open_files in [sources.{by_file}] change it"
    );
    match refusal {
        Refusal::Dlopen(_) => Refusal::Dlopen(reason),
        _ => Refusal::Crashed(reason),
    }
}

/// The candidates of a directory: libraries first, for they need longest, then in the order of their names.
///
/// # Errors
/// When it exists but can not be listed.
pub fn candidates(dir: &Path) -> std::io::Result<Vec<Candidate>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let of_dir = std::fs::metadata(dir)
        .map(|m| [m.uid(), m.gid(), m.mode()].map(i128::from))
        .unwrap_or_default();
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = file_name(&path);
        if let Some(kind) = kind_of(&path, &name) {
            let mut stamp = stamp(&path);
            stamp.extend(of_dir);
            let companion = match kind {
                File::Executable => self::stamp(&exec::sidecar(&path)),
                File::Library | File::Script => Vec::new(),
            };
            found.push(Candidate {
                path,
                stamp,
                companion,
                kind,
            });
        }
    }
    let by_kind = |c: &Candidate| c.kind != File::Library;
    found.sort_by(|a, b| (by_kind(a), &a.path).cmp(&(by_kind(b), &b.path)));
    Ok(found)
}

fn kind_of(path: &Path, name: &str) -> Option<File> {
    if name.starts_with("lib") && name.ends_with(".so") {
        return Some(File::Library);
    }
    if name.starts_with('.') || NO_EXECUTABLE.iter().any(|end| name.ends_with(end)) {
        return None;
    }
    let metadata = std::fs::metadata(path).ok().filter(Metadata::is_file)?;
    if metadata.mode() & 0o111 != 0 {
        return Some(File::Executable);
    }
    interpreter::is_script(path).then_some(File::Script)
}

fn stamp(path: &Path) -> Vec<i128> {
    let Ok(m) = std::fs::metadata(path) else {
        return Vec::new();
    };
    let nanos = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
    vec![
        i128::from(m.dev()),
        i128::from(m.ino()),
        i128::from(m.size()),
        i128::from(m.mode()),
        i128::from(m.uid()),
        i128::from(m.gid()),
        nanos(m.mtime(), m.mtime_nsec()),
        nanos(m.ctime(), m.ctime_nsec()),
    ]
}

/// What a file's source is called, as far as its own name tells: a plugin in Rust may call itself otherwise.
#[must_use]
pub fn name_by_file(file: &str) -> String {
    if file.starts_with("lib") && file.ends_with(".so") {
        return name_from_file(Path::new(file));
    }
    exec_name(Path::new(file))
}

/// `backup-age.sh` gives `backup-age`.
pub(super) fn exec_name(path: &Path) -> String {
    let name = file_name(path);
    name.split('.').next().unwrap_or_default().to_owned()
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn put(dir: &Path, name: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn libraries_and_executables_are_candidates_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [
            ("libb.so", 0o644),
            ("liba.so", 0o755),
            ("c.so", 0o755),
            ("libd.so.tmp", 0o755),
            (".libe.so", 0o755),
            ("README", 0o644),
            ("backup.sh", 0o755),
            ("backup.sh~", 0o755),
            ("backup.metrics.toml", 0o755),
        ] {
            put(dir.path(), name, mode);
        }
        let names: Vec<_> = candidates(dir.path())
            .unwrap()
            .iter()
            .map(Candidate::file)
            .collect();
        assert_eq!(names, ["liba.so", "libb.so", "backup.sh"]);
        assert_eq!(exec_name(Path::new("/x/backup.sh")), "backup");
    }

    #[test]
    fn a_script_that_nobody_may_run_is_refused_and_other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("well.sh", "#!/bin/sh\necho level 7\n"),
            ("well.sh.bak", "#!/bin/sh\necho level 7\n"),
            ("functions", "level() { echo level 7; }\n"),
            ("README", "How to use it.\n"),
        ] {
            std::fs::write(put(dir.path(), name, 0o644), text).unwrap();
        }
        let flags = crate::config::Flags {
            device: Some("d".parse().unwrap()),
            plugin_dir: Some(dir.path().to_owned()),
            ..Default::default()
        };
        let settings = Settings::resolve(&flags, |_| None).unwrap();
        let found = scan(&settings).unwrap();
        let files: Vec<_> = found.iter().map(Found::file).collect();
        assert_eq!(files, ["well.sh"]);
        let refusal = found[0].verdict.as_ref().err().unwrap().to_string();
        let path = dir.path().join("well.sh");
        assert_eq!(
            refusal,
            format!("not executable: chmod +x {}", path.display())
        );
        let before = candidates(dir.path()).unwrap();
        put(dir.path(), "well.sh", 0o755);
        assert_ne!(before, candidates(dir.path()).unwrap(), "it is looked at");
    }

    #[test]
    fn a_missing_directory_has_no_plugins() {
        assert_eq!(candidates(Path::new("/nonexistent/devmon")).unwrap(), []);
    }
}

//! Any executable as a source: it is run at each tick, and what it prints is the tree.
//!
//! **Standard output** is a JSON object (a tree), or lines `path value`: `queue/length 17`, `tank/level 0.5`, `state running`. A value that is no number and not `true` or `false` is a text; numbers that are not finite (`nan`, `inf`, `1e400`) are left out and named; lines that
//! are empty or start with `#` are skipped. **Exit code** 0: what it printed counts, nothing printed means no data; 69 (`EX_UNAVAILABLE`): nothing to measure on this machine; any other: the
//! round failed, and the last line of its standard error says why. **Environment**: `DEVMON_SOURCE` (its name), `DEVMON_CONFIG_JSON` (its `config` from the agent's file) and `DEVMON_FILE` (where it lies: what runs
//! is the agent's private copy, so `$0` says nothing about files beside it).
//! `NAME.metrics.toml` beside it describes its metrics, in the form of every plugin's `metrics.toml`.
//!
//! It runs with the limits of a plugin host ([`host`](super::host)) and ends with its agent, under the eyes of a [`warden`](super::warden). Over its time it is killed, with all processes of its group; and so it is when these have more memory than it may, which is looked at while it runs for longer than [`LOOK`].

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use devmon_core::descriptor::{self, Descriptor};
use devmon_core::path::MAX_DEPTH;
use devmon_core::tree::MAX_LEAVES;
use devmon_core::wire::json::tree_from_json;
use devmon_core::{MetricTree, Node, Value};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::host::{self, Limits, Log};
use super::load::{Refusal, Round};
use super::source::{Answer, Made, judge};
use super::supervise::cut;
use super::{interpreter, memory, trust};

/// As for a tree of a plugin: 10 000 leaves with long names.
const MAX_OUTPUT_BYTES: usize = 4 * 1024 * 1024;
/// Of the file that describes it: as many descriptors as it may have values, of 100 bytes each.
const MAX_SIDECAR_BYTES: u64 = 1024 * 1024;
/// `EX_UNAVAILABLE` of sysexits.h.
const UNAVAILABLE: i32 = 69;
/// How often the memory of its process group is looked at. Most end within it.
const LOOK: Duration = Duration::from_millis(500);

/// An executable file and how it is run.
#[derive(Debug, Clone)]
pub struct ExecFile {
    /// The operator's file.
    pub path: PathBuf,
    /// The agent's private copy of it, which is run in its place; `None`: there can be none.
    pub copy: Option<PathBuf>,
    pub limits: Limits,
}

impl ExecFile {
    /// Its description, from the file beside it.
    #[must_use]
    pub fn made(&self, name: &str) -> Made {
        let path = sidecar(&self.path);
        match std::fs::symlink_metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Made::default(),
            _ => {}
        }
        // Others than those who may change the executable have no say in what its values are called.
        let file = match trust::open(&path) {
            Ok(file) => file,
            Err(refusal) => return problem(&path, &refusal),
        };
        let mut text = String::new();
        match file.take(MAX_SIDECAR_BYTES + 1).read_to_string(&mut text) {
            Ok(n) if n as u64 > MAX_SIDECAR_BYTES => {
                let most = format!("longer than {MAX_SIDECAR_BYTES} bytes");
                return problem(&path, &most);
            }
            Ok(_) => {}
            Err(e) => return problem(&path, &e),
        }
        let below = |d: Descriptor| d.below(name).map_err(|e| e.to_string());
        let read = descriptor::parse_toml(&text).map_err(|e| e.to_string());
        match read.and_then(|all| all.into_iter().map(below).collect()) {
            Ok(descriptors) => Made {
                descriptors,
                ..Made::default()
            },
            Err(e) => problem(&path, &e),
        }
    }

    fn file(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// For what it says on standard error, in all its runs.
    #[must_use]
    pub(super) fn log(&self) -> Log {
        Log::new(&self.file())
    }

    /// Runs it once.
    pub(super) fn collect(
        &self,
        name: &str,
        config: &str,
        limit: Duration,
        log: &mut Log,
    ) -> Answer {
        let answer = self.run(name, config, limit, log);
        let noise = log.round_ends();
        match answer {
            Ok(Answer::Tree { tree, left_out }) => Answer::Tree {
                tree,
                left_out: left_out.or(noise),
            },
            Ok(answer) => answer,
            Err(e) => Answer::Failed(format!("cannot be run: {e}")),
        }
    }

    /// A file that is run where it lies is judged each time: it may have changed since the last look at the directory.
    fn trusted(&self) -> Result<(), Refusal> {
        if let Some(dir) = self.path.parent() {
            trust::directory(dir)?;
        }
        trust::open(&self.path).map(drop)
    }

    fn run(
        &self,
        name: &str,
        config: &str,
        limit: Duration,
        log: &mut Log,
    ) -> std::io::Result<Answer> {
        log.last.clear();
        if self.copy.is_none()
            && let Err(refusal) = self.trusted()
        {
            return Ok(Answer::Failed(refusal.to_string()));
        }
        let program = self.copy.as_ref().unwrap_or(&self.path);
        let mut child = host::confined(program, &self.file(), self.limits)?
            .env("DEVMON_SOURCE", name)
            .env("DEVMON_FILE", &self.path)
            .env("DEVMON_CONFIG_JSON", config)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut watched = Watched::new(&child, limit, self.limits.memory_bytes);
        let ended = read(&mut child, log, &mut watched)
            .and_then(|output| wait(&mut child, &mut watched).map(|()| output));
        // Whatever it left running goes as well; then it can be waited for.
        if let Ok(id) = i32::try_from(child.id())
            && let Some(group) = rustix::process::Pid::from_raw(id)
        {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let status = child.wait()?;
        log.flush();
        let (output, status) = match ended {
            Ok(output) => (output, status),
            Err(Problem::Slow) => return Ok(too_slow(limit)),
            Err(Problem::Held) => return Ok(held(limit)),
            Err(Problem::Large(beyond)) => {
                return Ok(Answer::Crashed(format!("{beyond} and was killed")));
            }
            Err(Problem::Talkative) => {
                let reason = format!("printed more than {MAX_OUTPUT_BYTES} bytes");
                return Ok(Answer::Failed(reason));
            }
        };
        let said = |usual: &str| match log.last.as_str() {
            "" => usual.to_owned(),
            last => last.to_owned(),
        };
        Ok(match status.code() {
            Some(0) => parse(&output),
            Some(UNAVAILABLE) => Answer::Unavailable(said("it has nothing to measure here")),
            Some(code)
                if code == i32::from(host::NOT_RUN)
                    && log.last.starts_with(host::CANNOT_BE_RUN) =>
            {
                Answer::Failed(log.last.clone())
            }
            _ => {
                let how = host::how_it_ended(status);
                let said = said("it said nothing");
                // What `env` makes of it is hard to understand.
                let hint = interpreter::carriage_return(program).map(|why| format!("; {why}"));
                let hint = hint.unwrap_or_default();
                Answer::Failed(format!("{how}: {said}{hint}"))
            }
        })
    }
}

fn problem(path: &Path, e: &dyn std::fmt::Display) -> Made {
    Made {
        problem: Some(format!("{}: {e}", path.display())),
        ..Made::default()
    }
}

/// The file that describes an executable's metrics.
#[must_use]
pub fn sidecar(path: &Path) -> PathBuf {
    let name = super::directory::exec_name(path);
    path.with_file_name(format!("{name}.metrics.toml"))
}

fn too_slow(limit: Duration) -> Answer {
    let seconds = limit.as_secs_f64();
    Answer::TooSlow(format!("did not end within {seconds:.1} s and was killed"))
}

fn held(limit: Duration) -> Answer {
    let seconds = limit.as_secs_f64();
    Answer::TooSlow(format!(
        "ended, but a process that it started still held its output after {seconds:.1} s, and was killed: start such a process with >/dev/null 2>&1"
    ))
}

enum Problem {
    Slow,
    /// It has ended, and somebody else has its streams.
    Held,
    /// It printed more than it may.
    Talkative,
    /// It has more memory than it may, in words.
    Large(String),
}

/// A run's time and memory.
struct Watched {
    group: u32,
    until: Instant,
    look: Instant,
    memory_bytes: u64,
}

impl Watched {
    fn new(child: &Child, limit: Duration, memory_bytes: u64) -> Self {
        let now = Instant::now();
        Self {
            group: child.id(),
            until: now + limit,
            look: now + LOOK,
            memory_bytes,
        }
    }

    /// For how long it may be waited for now.
    fn left(&mut self) -> Result<Duration, Problem> {
        let now = Instant::now();
        if now >= self.until {
            return Err(Problem::Slow);
        }
        if now >= self.look {
            let resident = memory::of_group(self.group, self.memory_bytes);
            if let Some(beyond) = memory::beyond(resident, self.memory_bytes) {
                return Err(Problem::Large(beyond));
            }
            self.look = Instant::now() + LOOK;
        }
        Ok(self.until.min(self.look).saturating_duration_since(now))
    }
}

/// Reads both streams to their end.
fn read(child: &mut Child, log: &mut Log, watched: &mut Watched) -> Result<Vec<u8>, Problem> {
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let mut output = Vec::new();
    let mut buffer = [0; 8192];
    while stdout.is_some() || stderr.is_some() {
        let left = match watched.left() {
            Err(Problem::Slow) if matches!(child.try_wait(), Ok(Some(_))) => {
                return Err(Problem::Held);
            }
            left => left?,
        };
        let (mut out, mut err) = (false, false);
        {
            let mut waits = Vec::new();
            waits.extend(stdout.as_ref().map(|s| PollFd::new(s, PollFlags::IN)));
            waits.extend(stderr.as_ref().map(|s| PollFd::new(s, PollFlags::IN)));
            let _ = poll(&mut waits, Timespec::try_from(left).ok().as_ref());
            let mut ready = waits.iter().map(|w| !w.revents().is_empty());
            if stdout.is_some() {
                out = ready.next().unwrap_or(false);
            }
            if stderr.is_some() {
                err = ready.next().unwrap_or(false);
            }
        }
        if out {
            match stdout.as_mut().map(|s| s.read(&mut buffer)) {
                Some(Ok(n @ 1..)) => output.extend_from_slice(&buffer[..n]),
                _ => stdout = None,
            }
            if output.len() > MAX_OUTPUT_BYTES {
                return Err(Problem::Talkative);
            }
        }
        if err {
            match stderr.as_mut().map(|s| s.read(&mut buffer)) {
                Some(Ok(n @ 1..)) => log.take(&buffer[..n]),
                _ => stderr = None,
            }
        }
    }
    Ok(output)
}

/// A process that closed its streams may still run.
fn wait(child: &mut Child, watched: &mut Watched) -> Result<(), Problem> {
    while let Ok(None) = child.try_wait() {
        watched.left()?;
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// What it printed, as an answer.
#[must_use]
pub fn parse(output: &[u8]) -> Answer {
    let Ok(text) = std::str::from_utf8(output) else {
        return Answer::Failed("what it printed is not UTF-8".into());
    };
    // Editors on Windows begin a file with a byte order mark, and `cat` passes it on.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
    if text.is_empty() {
        return Answer::NoData;
    }
    let tree = if text.starts_with('{') {
        tree_from_json(text).map_err(|e| e.to_string())
    } else {
        lines(text)
    };
    match tree {
        Ok(tree) => judge(Round::Tree(tree, 0)),
        Err(problem) => Answer::Failed(format!("what it printed is no tree: {problem}")),
    }
}

fn lines(text: &str) -> Result<MetricTree, String> {
    let (mut tree, mut leaves) = (MetricTree::new(), 0);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = number + 1;
        let Some((path, value)) = line.split_once(char::is_whitespace) else {
            let line = cut(line);
            return Err(format!("line {at}: {line:?} has no value after its path"));
        };
        let names: Vec<&str> = path.trim_matches('/').split('/').collect();
        let Some((leaf, branches)) = names.split_last() else {
            continue;
        };
        // Here and not only in `judge`: what looks at a tree, and what drops it, goes down with it.
        if names.len() > MAX_DEPTH {
            return Err(format!("line {at}: deeper than {MAX_DEPTH} levels"));
        }
        leaves += 1;
        if leaves > MAX_LEAVES {
            return Err(format!("line {at}: more than {MAX_LEAVES} values"));
        }
        let mut branch = &mut tree;
        for name in branches {
            if matches!(branch.get(name), Some(Node::Leaf(_))) {
                return Err(format!("line {at}: {} lies below a value", cut(path)));
            }
            branch = branch.branch(*name);
        }
        if branch.get(leaf).is_some() {
            return Err(format!(
                "line {at}: {} stands twice, or has values below it",
                cut(path)
            ));
        }
        branch.insert(*leaf, Node::Leaf(value_of(value.trim())));
    }
    Ok(tree)
}

fn value_of(text: &str) -> Value {
    if let Ok(integer) = text.parse::<i64>() {
        return Value::Integer(integer);
    }
    match (text, text.parse::<f64>()) {
        ("true", _) => Value::Boolean(true),
        ("false", _) => Value::Boolean(false),
        // `nan` and `-Infinity` as well: what divides by zero prints them, and `judge` leaves them out and names them.
        (_, Ok(float)) => Value::Float(float),
        _ => Value::Text(text.trim_matches('"').into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_run_where_it_lies_is_judged_each_time() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("well.sh");
        std::fs::write(&path, "#!/bin/sh\necho level 666\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let file = ExecFile {
            path,
            copy: None,
            limits: Limits::default(),
        };
        match file.collect("well", "{}", Duration::from_secs(5), &mut file.log()) {
            Answer::Failed(reason) => assert!(reason.contains("everyone may write"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_description_that_others_may_write_or_that_has_no_end_is_not_read() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = ExecFile {
            path: dir.path().join("well.sh"),
            copy: None,
            limits: Limits::default(),
        };
        let problem = || file.made("well").problem.unwrap_or_default();
        assert_eq!(problem(), "", "there is none");
        let path = sidecar(&file.path);
        let text = "[[metric]]\npath = \"/level\"\nunit = \"1\"\nkind = \"gauge\"\nhelp = \"X.\"\n";
        std::fs::write(&path, text).unwrap();
        assert_eq!(file.made("well").descriptors.len(), 1, "{}", problem());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(problem().contains("everyone may write"), "{}", problem());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(&path, format!("{text}#{}", "x".repeat(1024 * 1024))).unwrap();
        assert!(problem().contains("longer than"), "{}", problem());
    }

    fn leaves(output: &str) -> Vec<String> {
        match parse(output.as_bytes()) {
            Answer::Tree { tree, .. } => tree.leaves().map(|(p, v)| format!("{p} {v}")).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn refused(output: &str) -> String {
        match parse(output.as_bytes()) {
            Answer::Failed(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_and_json_say_the_same() {
        let lines = leaves(
            "# a comment\n\nqueue/length 17\ntank/level\t0.5\nstate running well\nok true\n",
        );
        let json = leaves(
            r#"{"queue":{"length":17},"tank":{"level":0.5},"state":"running well","ok":true}"#,
        );
        assert_eq!(lines, json);
        assert_eq!(
            leaves("a -1e3\nb not\nc \"1 x\"\nd \"nan\""),
            ["/a -1000.0", "/b not", "/c 1 x", "/d nan"]
        );
    }

    #[test]
    fn what_is_no_finite_number_is_left_out_and_named_however_it_is_written() {
        for value in ["1e400", "nan", "NaN", "inf", "-Infinity"] {
            match parse(format!("good 1\nbad {value}\n").as_bytes()) {
                Answer::Tree { tree, left_out } => {
                    assert_eq!(tree.leaves().count(), 1, "{value}");
                    let said = left_out.unwrap_or_default();
                    assert!(said.contains("/bad is not a finite number"), "{said}");
                }
                other => panic!("{value}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_what_it_printed() {
        for text in ["\u{feff}level 7\n", "\u{feff}{\"level\":7}"] {
            assert_eq!(leaves(text), ["/level 7"]);
        }
    }

    #[test]
    fn what_is_too_deep_or_too_much_is_refused_before_it_is_a_tree() {
        let deep = |levels: usize| format!("{}x 1", "a/".repeat(levels));
        assert_eq!(leaves(&deep(MAX_DEPTH - 1)).len(), 1);
        // Deep enough to overflow a stack, if it became a tree.
        for levels in [MAX_DEPTH, 1_000_000] {
            assert!(refused(&deep(levels)).contains("line 1: deeper than 16 levels"));
        }
        let many: String = (0..=MAX_LEAVES).map(|i| format!("v{i} 1\n")).collect();
        assert!(refused(&many).contains("line 10001: more than 10000 values"));
        let long = refused(&format!("{}\n", "a".repeat(1_000_000)));
        assert!(long.len() < 1000, "{}", long.len());
    }

    #[test]
    fn nothing_is_no_data() {
        assert!(matches!(parse(b" \n"), Answer::NoData));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        assert!(refused("a 1\nb\n").contains("line 2: \"b\" has no value"));
        assert!(refused("a 1\na 2").contains("line 2: a stands twice"));
        assert!(refused("a 1\na/b 2").contains("line 2: a/b lies below a value"));
        assert!(refused("a/b 1\na 2").contains("line 2"));
        assert!(refused("{\"a\":").contains("no tree"));
        assert!(
            refused("a//b 1").contains("refused"),
            "{}",
            refused("a//b 1")
        );
        let Answer::Failed(reason) = parse(b"a \xff") else {
            panic!()
        };
        assert!(reason.contains("UTF-8"));
    }
}

//! The host's own program: what this binary does as a child that runs one plugin, or an executable.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use devmon_core::MetricTree;
use devmon_core::descriptor::DescriptorText;
use devmon_core::wire::json::TreeJson;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use serde_json::value::RawValue;

use super::protocol::{Hello, Order, Reply, write_message};
use crate::plugins::directory::name_by_file;
use crate::plugins::interpreter;
use crate::plugins::load::{self, LoadedSource};
use crate::plugins::source::{Answer, judge};
use crate::plugins::warden::{self, Warden};

/// What a host says, and ends with, if it can not become the executable that it should: as shells do.
pub(in crate::plugins) const CANNOT_BE_RUN: &str = "cannot be run: ";
pub(in crate::plugins) const NOT_RUN: u8 = 126;
/// `oom_score_adj` of a host: as if it used half of the machine's (or the service's) memory more than it does.
const OOM_SCORE_ADJ: i32 = 500;

/// How this binary is called as host.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[arg(long)]
    parent: u32,
    #[arg(long)]
    memory_bytes: u64,
    #[arg(long)]
    open_files: u64,
    /// The plugin's own file name, from which a C plugin or an executable has its source name
    #[arg(long, default_value = "")]
    name_from: String,
    /// Run this program in the place of a host, with the same limits
    #[arg(long)]
    exec: bool,
    #[arg(last = true, required = true)]
    path: PathBuf,
}

/// The host's own program. Ends with 0 when the agent closes the socket.
#[must_use]
pub fn main(args: &Args) -> ExitCode {
    call_oneself(&name_by_file(&args.name_from));
    if args.exec {
        return run(args);
    }
    if let Err(problem) = end_with_the_agent(args).and_then(|()| confine(args)) {
        eprintln!("{problem}");
        return ExitCode::FAILURE;
    }
    let Ok(socket) = std::io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    match serve(UnixStream::from(socket), args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// In the place of a host, an executable.
fn run(args: &Args) -> ExitCode {
    let confined = Warden::of(args.parent).and_then(|warden| {
        if warden.is_none() {
            end_with_the_agent(args)?;
        }
        confine(args)?;
        Ok(warden)
    });
    let error = match confined {
        Ok(Some(warden)) => match warden.run(&args.path) {
            Ok(status) => return warden::end_as(status),
            Err(e) => e,
        },
        Ok(None) => Command::new(&args.path).exec(),
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    let why = interpreter::why_not_run(&args.path, &error);
    eprintln!("{CANNOT_BE_RUN}{why}");
    ExitCode::from(NOT_RUN)
}

/// For lists of processes, where it would be called `exe`. The kernel keeps 15 bytes.
fn call_oneself(source: &str) {
    let name = format!("devmon:{source}");
    let end = name.floor_char_boundary(15);
    let _ = std::fs::write("/proc/self/comm", &name[..end]);
}

fn end_with_the_agent(args: &Args) -> Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| format!("prctl: {e}"))?;
    // The agent may have gone before that was set.
    let parent = rustix::process::getppid().map(Pid::as_raw_nonzero);
    if parent.map(|p| p.get().cast_unsigned()) != Some(args.parent) {
        return Err("the agent is gone".into());
    }
    Ok(())
}

fn confine(args: &Args) -> Result<(), String> {
    prefer_to_the_agent();
    for (resource, limit) in [
        (Resource::Data, args.memory_bytes),
        (Resource::Nofile, args.open_files),
        (Resource::Core, 0),
    ] {
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        rustix::process::setrlimit(resource, limit).map_err(|e| format!("setrlimit: {e}"))?;
    }
    Ok(())
}

/// When memory runs out, the kernel shall take this process before its agent. To raise the score needs no privilege; a system without it has its own order.
fn prefer_to_the_agent() {
    let path = "/proc/self/oom_score_adj";
    let present = std::fs::read_to_string(path).unwrap_or_default();
    if present
        .trim()
        .parse()
        .is_ok_and(|score: i32| score < OOM_SCORE_ADJ)
    {
        let _ = std::fs::write(path, OOM_SCORE_ADJ.to_string());
    }
}

fn serve(mut socket: UnixStream, args: &Args) -> std::io::Result<()> {
    let name_from = (!args.name_from.is_empty()).then_some(args.name_from.as_str());
    let plugin = match load::load_as(&args.path, name_from) {
        Ok(plugin) => plugin,
        Err(refusal) => return write_message(&mut socket, &Reply::Refused(refusal)),
    };
    call_oneself(&plugin.name);
    let hello = Hello {
        name: plugin.name.clone(),
        version: plugin.version.clone(),
        abi: plugin.abi,
        preferred_interval_ms: plugin
            .preferred_interval
            .and_then(|i| u64::try_from(i.as_millis()).ok()),
    };
    write_message(&mut socket, &Reply::Hello(hello))?;
    let mut source: Option<LoadedSource> = None;
    loop {
        let mut length = [0; 4];
        match socket.read_exact(&mut length) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let mut order = vec![0; usize::try_from(u32::from_le_bytes(length)).unwrap_or(0)];
        socket.read_exact(&mut order)?;
        let order = serde_json::from_slice(&order).map_err(std::io::Error::other)?;
        let reply = match (order, &mut source) {
            (Order::Start { config }, _) => match plugin.start(&config) {
                Ok(started) => {
                    let reply = started_reply(&started);
                    source = Some(started);
                    reply
                }
                Err(reason) => Reply::NotStarted(reason),
            },
            (Order::Collect, None) => Reply::Failed("it is not started".into()),
            (Order::Collect, Some(running)) => {
                let answer = judge(running.collect());
                if matches!(answer, Answer::Crashed(_)) {
                    source = None;
                }
                answer_reply(answer)?
            }
        };
        write_message(&mut socket, &reply)?;
    }
}

fn started_reply(source: &LoadedSource) -> Reply {
    let (descriptors, problem) = match source.descriptors() {
        Ok(all) => (all.iter().map(DescriptorText::from).collect(), None),
        Err(e) => (Vec::new(), Some(e)),
    };
    Reply::Started {
        descriptors,
        facts: source.facts(),
        problem,
    }
}

fn answer_reply(answer: Answer) -> std::io::Result<Reply> {
    Ok(match answer {
        Answer::Tree { tree, left_out } => Reply::Tree {
            metrics: raw(&tree)?,
            left_out,
        },
        Answer::NoData => Reply::NoData,
        Answer::Unavailable(reason) => Reply::Unavailable(reason),
        Answer::Failed(reason) | Answer::NotStarted(reason) | Answer::TooSlow(reason) => {
            Reply::Failed(reason)
        }
        Answer::Crashed(reason) => {
            let text = reason.strip_prefix("panicked: ").unwrap_or(&reason);
            Reply::Panicked(text.to_owned())
        }
    })
}

fn raw(tree: &MetricTree) -> std::io::Result<Box<RawValue>> {
    let json = serde_json::to_string(&TreeJson(tree)).map_err(std::io::Error::other)?;
    RawValue::from_string(json).map_err(std::io::Error::other)
}

//! The process between the agent and an executable: it starts it, waits for it, and ends as it ended.
//!
//! **Promises** that what the executable has started in its process group does not outlive the agent, even one that is killed with -9: the kernel's parent-death signal reaches the one process
//! that asked for it and not its children, so somebody has to stay and watch. What left the group is out of reach. Needs pidfd_open(2), of Linux 5.3.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, kill_process, kill_process_group, pidfd_open,
};

/// Watches over an executable for one agent.
pub(super) struct Warden {
    /// Readable when the agent has ended.
    agent: OwnedFd,
}

impl Warden {
    /// For the agent with this number, which must be the parent of this process. `Ok(None)`: an older kernel.
    ///
    /// # Errors
    /// For the log: the agent is gone.
    pub(super) fn of(agent: u32) -> Result<Option<Self>, String> {
        let Some(pid) = i32::try_from(agent).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let opened = pidfd_open(pid, PidfdFlags::empty());
        // Asked after it: the number could have become another's before.
        if getppid() != Some(pid) {
            return Err("the agent is gone".into());
        }
        Ok(opened.ok().map(|agent| Self { agent }))
    }

    /// Runs the program to its end, with the streams and limits of this process; gives how it ended. It does not return once the agent is gone.
    ///
    /// # Errors
    /// It could not be started.
    pub(super) fn run(&self, program: &Path) -> std::io::Result<ExitStatus> {
        let mut child = Command::new(program).spawn()?;
        let ended = pidfd_of(&child)?;
        loop {
            let mut waits = [
                PollFd::new(&self.agent, PollFlags::IN),
                PollFd::new(&ended, PollFlags::IN),
            ];
            if poll(&mut waits, None).is_err() {
                continue; // a signal
            }
            let [agent, ended] = waits.map(|w| !w.revents().is_empty());
            if agent {
                // This process is the first of its group.
                let _ = kill_process_group(getpid(), Signal::KILL);
            }
            if ended {
                return child.wait();
            }
        }
    }
}

fn pidfd_of(child: &Child) -> std::io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(std::io::ErrorKind::InvalidData)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Ends this process as another ended.
pub(super) fn end_as(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal().and_then(Signal::from_named_raw) {
        let _ = kill_process(getpid(), signal);
    }
    // A signal that this process can not be ended by: what shells make of it.
    let code = status.code().or(status.signal().map(|s| 128 + s));
    let code = code.and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(u8::MAX))
}

//! Programs that a command starts: waited for until they say `ready`, and ended, by pid and in order, when the command ends, however it ends.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long a program may take from SIGTERM to its end before it is killed.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// A running program of ours. Dropping it ends it.
pub struct Running {
    name: String,
    child: Child,
}

impl Running {
    /// Starts `command` and waits for a line on standard output that starts with `ready`; returns it too. Other output passes through.
    ///
    /// # Errors
    /// The program can not be started, ends, or is not ready within `deadline`.
    pub fn ready(
        name: &str,
        command: Command,
        deadline: Duration,
    ) -> anyhow::Result<(Self, String)> {
        Self::ready_unless(name, command, deadline, &|| Ok(()))
    }

    /// As [`ready`](Self::ready), but gives up, and ends the program, as soon as `stop` is an error. It is asked ten times a second.
    pub fn ready_unless(
        name: &str,
        mut command: Command,
        deadline: Duration,
        stop: &dyn Fn() -> anyhow::Result<()>,
    ) -> anyhow::Result<(Self, String)> {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        let stdout = child.stdout.take().context("standard output was piped")?;
        let mut running = Self {
            name: name.to_owned(),
            child,
        };
        let (say, heard) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("ready") {
                    // Nobody listens any more once the deadline has passed; the line is then of no use.
                    let _ = say.send(line);
                } else {
                    println!("{line}");
                }
            }
        });
        let start = Instant::now();
        loop {
            match heard.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => return Ok((running, line)),
                Err(_) if start.elapsed() > deadline => {
                    bail!("{name} was not ready within {deadline:?}")
                }
                Err(_) => {}
            }
            if let Some(status) = running.ended()? {
                bail!("{name} ended at start ({status}); its message is above");
            }
            stop()?;
        }
    }

    /// Starts a program that does not announce itself.
    pub fn start(name: &str, mut command: Command) -> anyhow::Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
        })
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot wait for {}", self.name))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Closes its standard input, if that was piped, and waits until it has ended by itself.
    pub fn close(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        drop(self.child.stdin.take());
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if start.elapsed() > deadline {
                bail!("{} did not end within {deadline:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// It did not within `deadline`.
    pub fn terminate(&mut self, deadline: Duration) -> anyhow::Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        let status = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .context("cannot start kill")?;
        let start = Instant::now();
        while status.success() && start.elapsed() < deadline {
            if self.ended()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{} did not end within {deadline:?}", self.name)
    }

    /// SIGKILL, and waits.
    ///
    /// # Errors
    /// It had ended by itself.
    pub fn kill_9(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} had ended by itself ({status})", self.name);
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if let Err(error) = self.terminate(END_DEADLINE) {
            println!("{error:#}; killing it");
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{}: {error:#}", self.name);
        }
    }
}

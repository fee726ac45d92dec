//! Sizes of filesystems, asked so that one that hangs holds up nothing else.
//!
//! statvfs(2) on a mount whose server or device is gone may not return for hours, and nothing can interrupt it. So it is called on a helper
//! thread. While all mounts answer at once, which is nearly always, one helper serves them in turn. A mount that lets it wait keeps that helper to
//! itself and another one goes on with the rest; what has not answered by the deadline is *stuck*, and is not asked again before its helper
//! returns. There are never more threads than stuck mounts plus one between rounds.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A helper that waits this long gets a colleague: some hundred times what a healthy mount takes.
const PATIENCE: Duration = Duration::from_millis(10);
/// A helper makes one system call; the default of 2 MiB of address space would be for nothing.
const STACK_BYTES: usize = 128 * 1024;

/// Size and use of a filesystem, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub total: u64,
    /// Everything not free, blocks reserved for root counted as free.
    pub used: u64,
    /// What an ordinary user can still write.
    pub available: u64,
}

/// What a mount said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Capacity(Capacity),
    /// It refused, with the system's reason.
    Failed(String),
    /// It did not answer before the deadline, in this round or an earlier one.
    Stuck,
}

impl Answer {
    /// The call panicked; there is nothing to tell but that.
    fn helper_ended() -> Self {
        Self::Failed("the helper thread ended".into())
    }
}

impl From<io::Result<Capacity>> for Answer {
    fn from(result: io::Result<Capacity>) -> Self {
        match result {
            Ok(capacity) => Self::Capacity(capacity),
            Err(e) => Self::Failed(e.to_string()),
        }
    }
}

/// How a filesystem is asked; a parameter so that tests can hang.
pub type Statvfs = Arc<dyn Fn(&Path) -> io::Result<Capacity> + Send + Sync>;

/// Asks the kernel.
///
/// # Errors
/// What statvfs(2) gives.
pub fn statvfs(path: &Path) -> io::Result<Capacity> {
    let s = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(s.f_frsize);
    let free = s.f_bfree.min(s.f_blocks);
    Ok(Capacity {
        total: bytes(s.f_blocks),
        used: bytes(s.f_blocks - free),
        available: bytes(s.f_bavail.min(free)), // some network filesystems report more
    })
}

/// A mount to ask, told apart from a later one on the same path by its id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    pub mount_id: u32,
    pub path: PathBuf,
}

/// Mounts for a helper to ask in turn.
struct Job {
    paths: Vec<PathBuf>,
    share: Arc<Mutex<Share>>,
}

/// How much of a job is the helper's, so that no mount is asked by two.
struct Share {
    /// Begun by the helper.
    begun: usize,
    /// The rest has gone to another helper.
    limit: usize,
}

impl Share {
    /// True if the helper may ask mount `i`, which is then its own.
    fn begin(share: &Mutex<Self>, i: usize) -> bool {
        let mut share = share.lock().unwrap_or_else(PoisonError::into_inner);
        let own = i < share.limit;
        if own {
            share.begun = i + 1;
        }
        own
    }

    /// Takes away what has not begun, from mount `least` on; returns where.
    fn end(share: &Mutex<Self>, least: usize) -> usize {
        let mut share = share.lock().unwrap_or_else(PoisonError::into_inner);
        share.limit = share.begun.max(least);
        share.limit
    }
}

struct Helper {
    jobs: Sender<Job>,
    /// In the order of the job's paths.
    answers: Receiver<io::Result<Capacity>>,
}

impl Helper {
    fn start(statvfs: Statvfs) -> io::Result<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (done, answers) = mpsc::channel();
        thread::Builder::new()
            .name("devmon-statvfs".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // Ends when the other side drops its ends: at once if idle, else when the call returns.
                for job in todo {
                    for (i, path) in job.paths.into_iter().enumerate() {
                        if !Share::begin(&job.share, i) || done.send(statvfs(&path)).is_err() {
                            return;
                        }
                    }
                }
            })?;
        Ok(Self { jobs, answers })
    }
}

/// Asks mounts, round by round.
pub struct Prober {
    statvfs: Statvfs,
    timeout: Duration,
    idle: Option<Helper>,
    /// The helpers that wait, each for the next answer.
    stuck: HashMap<Target, Helper>,
}

impl Prober {
    /// `timeout`: how long a round may take in all.
    #[must_use]
    pub fn new(statvfs: Statvfs, timeout: Duration) -> Self {
        Self {
            statvfs,
            timeout,
            idle: None,
            stuck: HashMap::new(),
        }
    }

    /// Asks each target; the answers come in the same order, by the deadline.
    pub fn ask(&mut self, targets: &[Target]) -> Vec<Answer> {
        let start = Instant::now();
        // Let go of mounts that are gone, and of helpers whose mount has answered meanwhile: they end by themselves. The old answer goes unused.
        self.stuck.retain(|target, helper| {
            targets.contains(target)
                && matches!(helper.answers.try_recv(), Err(TryRecvError::Empty))
        });
        let mut answers = vec![Answer::Stuck; targets.len()];
        let mut slow = Vec::new();
        let asked = (0..targets.len()).filter(|i| !self.stuck.contains_key(&targets[*i]));
        let mut asked: Vec<usize> = asked.collect();
        while !asked.is_empty() {
            let helper = match self
                .idle
                .take()
                .map_or_else(|| Helper::start(Arc::clone(&self.statvfs)), Ok)
            {
                Ok(helper) => helper,
                Err(e) => {
                    for i in asked {
                        answers[i] = Answer::Failed(format!("cannot start a thread: {e}"));
                    }
                    break;
                }
            };
            let share = Arc::new(Mutex::new(Share {
                begun: 0,
                limit: asked.len(),
            }));
            let paths = asked.iter().map(|i| targets[*i].path.clone()).collect();
            let job = Job {
                paths,
                share: Arc::clone(&share),
            };
            if helper.jobs.send(job).is_err() {
                continue; // it has died since; the next one is fresh
            }
            // Answers in turn, up to the first that lets itself be waited for.
            let mut done = 0;
            let failed = loop {
                // All may be slow at once: each gets its share of half the time, so that the last is asked well before the deadline.
                let left = (self.timeout / 2).saturating_sub(start.elapsed());
                let patience = left / u32::try_from(asked.len() - done).unwrap_or(u32::MAX);
                match helper.answers.recv_timeout(PATIENCE.min(patience)) {
                    Ok(answer) => answers[asked[done]] = Answer::from(answer),
                    Err(e) => break Some(e),
                }
                done += 1;
                if done == asked.len() {
                    break None;
                }
            };
            match failed {
                None => self.idle = Some(helper),
                Some(RecvTimeoutError::Timeout) => {
                    let end = Share::end(&share, done + 1);
                    slow.push((asked[done..end].to_vec(), helper));
                    done = end;
                }
                Some(RecvTimeoutError::Disconnected) => {
                    answers[asked[done]] = Answer::helper_ended();
                    done += 1;
                }
            }
            asked.drain(..done);
        }
        for (own, helper) in slow {
            for i in own {
                let left = self.timeout.saturating_sub(start.elapsed());
                match helper.answers.recv_timeout(left) {
                    Ok(answer) => answers[i] = Answer::from(answer),
                    Err(RecvTimeoutError::Timeout) => {
                        self.stuck.insert(targets[i].clone(), helper);
                        break;
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        answers[i] = Answer::helper_ended();
                        break;
                    }
                }
            }
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Condvar;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const FINE: Capacity = Capacity {
        total: 100,
        used: 40,
        available: 50,
    };
    const TIMEOUT: Duration = Duration::from_millis(200);

    /// A gate that paths with `hung` in them wait at.
    #[derive(Default)]
    struct Gate {
        open: Mutex<bool>,
        opened: Condvar,
        asked: AtomicUsize,
        through: AtomicUsize,
    }

    impl Gate {
        fn statvfs(self: &Arc<Self>) -> Statvfs {
            let gate = Arc::clone(self);
            Arc::new(move |path| {
                let name = path.to_string_lossy();
                if name.contains("hung") {
                    gate.asked.fetch_add(1, Ordering::SeqCst);
                    let open = gate.open.lock().unwrap();
                    drop(gate.opened.wait_while(open, |open| !*open).unwrap());
                    gate.through.fetch_add(1, Ordering::SeqCst);
                } else if name.contains("slow") {
                    thread::sleep(PATIENCE * 3); // what is tested: slower than the patience, faster than the deadline
                } else if name.contains("gone") {
                    return Err(io::Error::from_raw_os_error(5));
                } else if name.contains("panic") {
                    panic!("as asked");
                }
                Ok(FINE)
            })
        }

        fn open(&self) {
            *self.open.lock().unwrap() = true;
            self.opened.notify_all();
        }
    }

    fn targets(paths: &[&str]) -> Vec<Target> {
        let target = |(i, path): (usize, &&str)| Target {
            mount_id: i as u32,
            path: path.into(),
        };
        paths.iter().enumerate().map(target).collect()
    }

    #[test]
    fn a_hung_mount_holds_up_no_other_and_is_asked_once() {
        let gate = Arc::new(Gate::default());
        let mut prober = Prober::new(gate.statvfs(), TIMEOUT);
        let all = targets(&["/a", "/hung1", "/b", "/hung2", "/gone"]);
        let fine = Answer::Capacity(FINE);
        for _ in 0..5 {
            let answers = prober.ask(&all);
            assert_eq!(answers[0], fine);
            assert_eq!(answers[1], Answer::Stuck);
            assert_eq!(answers[2], fine);
            assert_eq!(answers[3], Answer::Stuck);
            assert!(matches!(&answers[4], Answer::Failed(e) if e.contains("os error 5")));
        }
        assert_eq!(
            gate.asked.load(Ordering::SeqCst),
            2,
            "asked again while stuck"
        );
        gate.open();
        let deadline = Instant::now() + Duration::from_secs(10);
        while prober.ask(&all)[1] != fine || prober.ask(&all)[3] != fine {
            assert!(Instant::now() < deadline, "never recovered");
        }
    }

    #[test]
    fn only_the_first_round_waits_for_a_hung_mount() {
        let gate = Arc::new(Gate::default());
        let timeout = Duration::from_secs(2);
        let mut prober = Prober::new(gate.statvfs(), timeout);
        let all = targets(&["/hung", "/a"]);
        let start = Instant::now();
        prober.ask(&all);
        assert!(start.elapsed() >= timeout);
        let start = Instant::now();
        for _ in 0..20 {
            prober.ask(&all);
        }
        assert!(
            start.elapsed() < timeout,
            "20 rounds took {:?}",
            start.elapsed()
        );
        gate.open();
    }

    #[test]
    fn slow_is_not_stuck() {
        let gate = Arc::new(Gate::default());
        let mut prober = Prober::new(gate.statvfs(), Duration::from_secs(10));
        let answers = prober.ask(&targets(&["/slow1", "/slow2", "/a"]));
        assert_eq!(answers, vec![Answer::Capacity(FINE); 3]);
        assert!(prober.stuck.is_empty());
    }

    #[test]
    fn healthy_mounts_behind_many_hung_ones_are_all_measured() {
        let gate = Arc::new(Gate::default());
        let mut prober = Prober::new(gate.statvfs(), Duration::from_secs(2));
        let mut paths = vec!["/hung"; 200];
        paths.extend(["/a"; 20]);
        let answers = prober.ask(&targets(&paths));
        assert!(answers[..200].iter().all(|a| *a == Answer::Stuck));
        assert!(answers[200..].iter().all(|a| *a == Answer::Capacity(FINE)));
        gate.open();
    }

    #[test]
    fn a_mount_that_is_replaced_is_asked_anew_and_the_old_helper_ends() {
        let gate = Arc::new(Gate::default());
        let mut prober = Prober::new(gate.statvfs(), TIMEOUT);
        let target = |mount_id, path: &str| {
            [Target {
                mount_id,
                path: path.into(),
            }]
        };
        assert_eq!(prober.ask(&target(1, "/hung")), [Answer::Stuck]);
        assert_eq!(prober.ask(&target(2, "/hung")), [Answer::Stuck]);
        assert_eq!(gate.asked.load(Ordering::SeqCst), 2);
        assert_eq!(prober.stuck.len(), 1);
        assert_eq!(prober.ask(&[]), []);
        assert!(prober.stuck.is_empty());
        gate.open();
        let deadline = Instant::now() + Duration::from_secs(10);
        while gate.through.load(Ordering::SeqCst) < 2 {
            assert!(Instant::now() < deadline, "helpers did not end");
            thread::yield_now();
        }
    }

    #[test]
    fn a_helper_that_dies_is_replaced() {
        let gate = Arc::new(Gate::default());
        let mut prober = Prober::new(gate.statvfs(), Duration::from_secs(10));
        let answers = prober.ask(&targets(&["/panic", "/a"]));
        assert!(matches!(&answers[0], Answer::Failed(_)));
        assert_eq!(answers[1], Answer::Capacity(FINE));
    }

    #[test]
    fn the_kernel_answers_for_root() {
        let root = statvfs(Path::new("/")).unwrap();
        assert!(root.total > 0 && root.used + root.available <= root.total);
        assert!(statvfs(Path::new("/nonexistent")).is_err());
    }
}

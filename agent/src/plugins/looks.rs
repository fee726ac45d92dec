//! Which files of the plugin directory are to be looked at, and when. Pure: listings and time come in.
//!
//! **Promises** that a file is looked at once it has stayed the same for [`SETTLE`] and whoever wrote to it has closed it, as far as that is known, each by its own clock; that one file is looked at by one thread at a time; that files which hang
//! while they are looked at hold up others for [`SLOT`] at most, up to [`MOST`] of them; and that one which was refused for something that may pass is looked at again,
//! ever more seldom. What a look is, and what follows from it, is left to [`watch`](super::watch).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::directory::Candidate;
use super::supervise::MAX_BACKOFF;

/// A file that is being written changes more often than this.
pub const SETTLE: Duration = Duration::from_secs(1);
/// A writer that has not closed its file for so long after it last wrote has forgotten it, or its closing went unseen.
pub const FORGOTTEN: Duration = Duration::from_secs(600);
/// A file that a writer holds up for longer is worth a line in the log.
const HELD_UP: Duration = Duration::from_secs(5);
/// Looks that begin side by side: each loads a file in a process of its own, and a small device has one core.
const SIDE_BY_SIDE: usize = 4;
/// A look takes milliseconds. One that takes longer than this only waits for its file, and the next one may begin.
const SLOT: Duration = Duration::from_secs(1);
/// Looks at all, with those that only wait: some 3 MB each.
const MOST: usize = 12;
/// Second and later looks leave room for files that nobody has looked at yet.
const MOST_FOR_LATER: usize = 6;

#[derive(Debug, Default)]
pub struct Looks {
    /// As they were when they were looked at, or are to be.
    seen: BTreeMap<String, Candidate>,
    /// Different from that, since when; `None`: gone.
    changing: BTreeMap<String, (Option<Candidate>, Instant)>,
    /// Written to and not closed since; when last.
    open: BTreeMap<String, Instant>,
    /// Of these, those that the log knows of.
    told: BTreeSet<String>,
    waiting: VecDeque<String>,
    /// Since when.
    under_way: BTreeMap<String, Instant>,
    /// Under way, and to be looked at once more: what comes of it counts no more.
    once_more: BTreeSet<String>,
    /// Refused for something that may pass: times in a row, and when they are due.
    later: BTreeMap<String, (u32, Option<Instant>)>,
}

impl Looks {
    /// These are looked at without waiting: nobody copies files while the agent starts, and if somebody does, they change once more.
    #[must_use]
    pub fn new(first: Vec<Candidate>) -> Self {
        Self {
            waiting: first.iter().map(Candidate::file).collect(),
            seen: first.into_iter().map(|c| (c.file(), c)).collect(),
            ..Self::default()
        }
    }

    /// Which files are written to and not closed yet, since when; counts for the next listing.
    pub fn open(&mut self, open: BTreeMap<String, Instant>) {
        self.open = open;
    }

    /// Files that are not looked at since a writer has not closed them for long; each is said once.
    pub fn held_up(&mut self, now: Instant) -> Vec<String> {
        self.told.retain(|file| self.open.contains_key(file));
        let is_held_up = |(file, (_, since)): &(&String, &(Option<Candidate>, Instant))| {
            now.saturating_duration_since(*since) >= HELD_UP
                && self.open.contains_key(*file)
                && !self.told.contains(*file)
        };
        let held_up = self.changing.iter().filter(is_held_up);
        let held_up: Vec<String> = held_up.map(|(file, _)| file.clone()).collect();
        self.told.extend(held_up.iter().cloned());
        held_up
    }

    fn is_open(&self, file: &str, now: Instant) -> bool {
        let forgotten = self.open.get(file).map(|at| *at + FORGOTTEN);
        forgotten.is_some_and(|at| now < at)
    }

    /// When a file that is different since then may be looked at, as far as its writer is known.
    fn settled(&self, file: &str, since: Instant) -> Instant {
        let forgotten = self.open.get(file).map(|at| *at + FORGOTTEN);
        forgotten.map_or(since + SETTLE, |at| at.max(since + SETTLE))
    }

    /// Takes a listing of the directory; gives the files that are gone for good.
    pub fn listed(&mut self, now: Instant, candidates: Vec<Candidate>) -> Vec<String> {
        let mut listed: BTreeMap<String, Option<Candidate>> = candidates
            .into_iter()
            .map(|c| (c.file(), Some(c)))
            .collect();
        for file in self.seen.keys().chain(self.changing.keys()) {
            listed.entry(file.clone()).or_insert(None);
        }
        let mut gone = Vec::new();
        for (file, candidate) in listed {
            if self.under_way.contains_key(&file) || self.waiting.contains(&file) {
                continue; // the next listing says whether it has changed since
            }
            if self.seen.get(&file) == candidate.as_ref() {
                self.changing.remove(&file);
                continue;
            }
            match self.changing.get(&file) {
                Some((last, since)) if *last == candidate => {
                    if now < self.settled(&file, *since) {
                        continue;
                    }
                }
                _ => {
                    self.changing.insert(file, (candidate, now));
                    continue;
                }
            }
            self.changing.remove(&file);
            self.later.remove(&file);
            match candidate {
                Some(candidate) => {
                    self.seen.insert(file.clone(), candidate);
                    self.waiting.push_back(file);
                }
                None => {
                    self.seen.remove(&file);
                    gone.push(file);
                }
            }
        }
        gone
    }

    /// Has a file looked at although it has not changed.
    pub fn again(&mut self, file: String) {
        self.later.remove(&file);
        if self.under_way.contains_key(&file) {
            self.once_more.insert(file);
        } else if self.seen.contains_key(&file) && !self.waiting.contains(&file) {
            self.waiting.push_back(file);
        }
    }

    /// The next file to be looked at, if there is one and room for it.
    pub fn next(&mut self, now: Instant) -> Option<Candidate> {
        let busy = |since: &&Instant| now.saturating_duration_since(**since) < SLOT;
        if self.under_way.len() >= MOST
            || self.under_way.values().filter(busy).count() >= SIDE_BY_SIDE
        {
            return None;
        }
        let file = self.waiting.pop_front().or_else(|| {
            let due = |(file, (_, at)): &(&String, &(u32, Option<Instant>))| {
                at.is_some_and(|at| now >= at) && !self.is_open(file, now)
            };
            let room = self.under_way.len() < MOST_FOR_LATER;
            let (file, _) = self.later.iter().filter(|_| room).find(due)?;
            Some(file.clone())
        })?;
        if let Some((_, at)) = self.later.get_mut(&file) {
            *at = None;
        }
        let candidate = self.seen.get(&file)?.clone();
        self.under_way.insert(file, now);
        Some(candidate)
    }

    /// Takes the end of a look: whether what came of it may pass by itself. False if it counts no more.
    pub fn ended(&mut self, now: Instant, file: &str, may_pass: bool) -> bool {
        self.under_way.remove(file);
        if self.once_more.remove(file) {
            self.waiting.push_back(file.to_owned());
            return false;
        }
        if may_pass {
            let (times, at) = self.later.entry(file.to_owned()).or_insert((0, None));
            let wait = Duration::from_secs(1 << (*times).min(16)).min(MAX_BACKOFF);
            *times += 1;
            *at = Some(now + wait);
        } else {
            self.later.remove(file);
        }
        true
    }

    /// When there is something to do at the latest, if nothing happens before; may be over already.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let free = |file: &String| !self.under_way.contains_key(file);
        let changing = self.changing.iter().filter(|(file, _)| free(file));
        let settled = changing.map(|(file, (_, since))| self.settled(file, *since));
        let room = self.under_way.len() < MOST_FOR_LATER;
        // What is open is changing as well.
        let later = self.later.iter();
        let later = later.filter(|(file, _)| !self.is_open(file, now));
        let later = later.filter_map(|(_, (_, at))| *at);
        let wanted = !self.waiting.is_empty() && self.under_way.len() < MOST;
        let slots = self.under_way.values().map(|since| *since + SLOT);
        settled
            .chain(later.filter(|_| room))
            .chain(slots.filter(|at| wanted && *at > now))
            .min()
    }

    /// True if no file is being looked at, nor waits for it.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty()
    }

    /// Files that will be looked at again by themselves.
    pub fn later(&self) -> impl Iterator<Item = &str> {
        self.later.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, version: i128) -> Candidate {
        Candidate::of(name, version)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn next(looks: &mut Looks, now: Instant) -> Option<String> {
        looks.next(now).map(|c| c.file())
    }

    #[test]
    fn a_file_counts_once_it_has_stayed_the_same_for_a_second_whatever_others_do() {
        let (start, mut looks) = (Instant::now(), Looks::default());
        assert_eq!(looks.due(start), None);
        looks.listed(start, vec![file("a", 1)]);
        // Something else happens all the time, so that the directory is listed often.
        for i in 1..=6 {
            let now = start + ms(150) * i;
            looks.listed(now, vec![file("a", 1), file("b", i.into())]);
            assert_eq!(next(&mut looks, now), None, "{i}");
        }
        assert_eq!(looks.due(start), Some(start + SETTLE));
        let now = start + SETTLE;
        looks.listed(now, vec![file("a", 1), file("b", 7)]);
        assert_eq!(next(&mut looks, now).as_deref(), Some("a"));
        assert_eq!(next(&mut looks, now), None, "b still changes");
        assert!(looks.ended(now, "a", false));
        looks.listed(now + SETTLE, vec![file("a", 1), file("b", 7)]);
        assert_eq!(next(&mut looks, now + SETTLE).as_deref(), Some("b"));
        assert!(looks.ended(now + SETTLE, "b", false));
        assert!(looks.idle());
    }

    #[test]
    fn a_file_that_is_written_to_counts_once_it_is_closed() {
        let (start, mut looks) = (Instant::now(), Looks::default());
        let open = |at| BTreeMap::from([("a".to_owned(), at)]);
        looks.open(open(start));
        looks.listed(start, vec![file("a", 1)]);
        assert_eq!(looks.due(start), Some(start + FORGOTTEN));
        let now = start + ms(4_000);
        looks.listed(now, vec![file("a", 1)]);
        assert_eq!(next(&mut looks, now), None, "its writer paused");
        assert!(looks.held_up(now).is_empty());
        let now = start + ms(6_000);
        assert_eq!(looks.held_up(now), ["a"]);
        assert!(looks.held_up(now).is_empty(), "once");
        looks.open(BTreeMap::new());
        looks.listed(now, vec![file("a", 1)]);
        assert_eq!(next(&mut looks, now).as_deref(), Some("a"), "at once");
        assert!(looks.ended(now, "a", false));
        looks.open(open(now));
        looks.listed(now, vec![file("a", 2)]);
        let now = now + FORGOTTEN;
        looks.listed(now, vec![file("a", 2)]);
        assert_eq!(next(&mut looks, now).as_deref(), Some("a"), "forgotten");
    }

    #[test]
    fn what_was_refused_is_not_looked_at_again_while_it_is_written_to() {
        let (start, mut looks) = (Instant::now(), Looks::new(vec![file("a", 1)]));
        assert!(looks.next(start).is_some());
        assert!(looks.ended(start, "a", true));
        looks.open(BTreeMap::from([("a".to_owned(), start)]));
        let now = start + ms(2_000);
        assert_eq!(next(&mut looks, now), None);
        assert_eq!(looks.due(now), None);
        let now = start + FORGOTTEN;
        assert_eq!(next(&mut looks, now).as_deref(), Some("a"));
    }

    #[test]
    fn a_file_that_goes_and_comes_back_within_a_second_was_never_gone() {
        let (start, mut looks) = (Instant::now(), Looks::new(vec![file("a", 1)]));
        assert!(looks.next(start).is_some());
        looks.ended(start, "a", false);
        assert!(looks.listed(start, vec![]).is_empty());
        assert!(looks.listed(start + ms(900), vec![file("a", 1)]).is_empty());
        assert!(looks.listed(start + ms(1_100), vec![]).is_empty());
        assert_eq!(looks.listed(start + ms(2_100), vec![]), ["a"]);
        assert!(looks.listed(start + ms(9_999), vec![]).is_empty(), "once");
        assert_eq!(looks.due(start), None);
    }

    #[test]
    fn files_that_hang_hold_up_others_for_a_second_at_most() {
        let names = ["a", "b", "c", "d", "good"];
        let all = names.map(|n| file(n, 1)).to_vec();
        let (start, mut looks) = (Instant::now(), Looks::new(all));
        for name in &names[..4] {
            assert_eq!(next(&mut looks, start).as_deref(), Some(*name));
        }
        assert_eq!(next(&mut looks, start), None, "four at once");
        assert_eq!(looks.due(start), Some(start + SLOT));
        assert_eq!(next(&mut looks, start + SLOT).as_deref(), Some("good"));
        let many = (0..20).map(|i| file(&format!("x{i:02}"), 1)).collect();
        let (mut now, mut looks, mut begun) = (start, Looks::new(many), 0);
        for _ in 0..20 {
            while looks.next(now).is_some() {
                begun += 1;
            }
            now += SLOT;
        }
        assert_eq!(begun, MOST);
        assert_eq!(looks.due(now), None, "only the end of one makes room");
    }

    #[test]
    fn what_may_pass_is_looked_at_again_ever_more_seldom_and_at_once_if_it_changes() {
        let (mut now, mut looks) = (Instant::now(), Looks::new(vec![file("a", 1)]));
        for wait in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            assert!(looks.next(now).is_some());
            assert!(looks.ended(now, "a", true));
            let wait = Duration::from_secs(wait);
            assert_eq!(looks.due(now), Some(now + wait));
            assert_eq!(next(&mut looks, now + wait - ms(1)), None);
            now += wait;
        }
        assert!(looks.next(now).is_some());
        looks.ended(now, "a", true);
        looks.again("a".into());
        assert!(looks.next(now).is_some(), "an operator says so");
        looks.ended(now, "a", true);
        looks.listed(now, vec![file("a", 2)]);
        looks.listed(now + SETTLE, vec![file("a", 2)]);
        assert!(looks.next(now + SETTLE).is_some());
        looks.ended(now + SETTLE, "a", false);
        assert_eq!((looks.due(now), looks.later().count()), (None, 0));
    }

    #[test]
    fn a_look_with_settings_of_yesterday_counts_no_more() {
        let (now, mut looks) = (Instant::now(), Looks::new(vec![file("a", 1)]));
        assert!(looks.next(now).is_some());
        looks.again("a".into());
        assert_eq!(next(&mut looks, now), None, "one at a time");
        assert!(!looks.ended(now, "a", false));
        assert!(looks.next(now).is_some());
        assert!(looks.ended(now, "a", false));
        looks.again("unknown".into());
        assert!(looks.idle());
    }
}

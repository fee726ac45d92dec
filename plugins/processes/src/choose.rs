//! Which commands are shown. Pure.
//!
//! A command comes when it is among the first `top` by smoothed use of the processor, or by resident memory. It goes when it has been beyond the first
//! 2 × `top` of both for [`STAYS`]: two that take turns at the edge are both shown, instead of each half the time. Every command that was ever shown is a name
//! in the store, so there are at most `max_names` over the life of the source; one of those may come back at any time.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::groups::{Group, Groups, Shown, is_idle};

/// How long a command is shown after it was last near the top.
pub const STAYS: Duration = Duration::from_secs(300);

/// What a round's choice came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Clock ticks of this round that count as those of commands not shown.
    pub other_ticks: u64,
    /// Commands at the top that are not shown, for `max_names` have been.
    pub names_left_out: u64,
}

/// Decides, round by round.
pub struct Choice {
    top: usize,
    max_names: usize,
    only_names: bool,
    /// Commands that are or were shown.
    names: usize,
}

type Ranked<'a> = Vec<(&'a str, &'a mut Group, Option<usize>)>;

impl Choice {
    /// `config.names` are shown already.
    #[must_use]
    pub fn new(config: &Config, groups: &Groups) -> Self {
        Self {
            top: config.top,
            max_names: config.max_names,
            only_names: config.only_names,
            names: groups.iter().count(),
        }
    }

    /// Decides who is shown, and where the processor time of this round counts: with the command if it is shown now and was in the round before, else as
    /// other. Thus a series gets no time that began before it, and none is lost when it ends: the increases of all add up to what was used.
    pub fn choose(&mut self, groups: &mut Groups, now: Instant) -> Chosen {
        let mut chosen = Chosen::default();
        let mut ranked: Ranked<'_> = groups
            .iter_mut()
            .map(|(name, group)| (name, group, None))
            .collect();
        if !self.only_names {
            self.rank(&mut ranked, is_idle, |group| group.cores);
            let pages = |group: &Group| group.resident_pages as f64;
            self.rank(&mut ranked, |group| group.resident_pages == 0, pages);
            // The best come first, for they get what is left of max_names.
            ranked.sort_unstable_by_key(|(name, _, place)| (place.unwrap_or(usize::MAX), *name));
        }
        for (_, group, place) in ranked {
            let was_shown = group.shown.is_now();
            group.shown = self.decide(group.shown, place, now, &mut chosen);
            if was_shown && group.shown.is_now() {
                group.total_ticks = group.total_ticks.saturating_add(group.ticks);
            } else {
                chosen.other_ticks = chosen.other_ticks.saturating_add(group.ticks);
            }
        }
        chosen
    }

    fn decide(
        &mut self,
        shown: Shown,
        place: Option<usize>,
        now: Instant,
        chosen: &mut Chosen,
    ) -> Shown {
        let is_at_top = place.is_some_and(|place| place < self.top);
        match shown {
            Shown::Always => Shown::Always,
            Shown::Since(_) if place.is_some() => Shown::Since(now),
            Shown::Since(near) if now.saturating_duration_since(near) < STAYS => Shown::Since(near),
            Shown::Since(_) => Shown::Before,
            Shown::Before if is_at_top => Shown::Since(now),
            Shown::Never if is_at_top && self.names < self.max_names => {
                self.names += 1;
                Shown::Since(now)
            }
            Shown::Never if is_at_top => {
                chosen.names_left_out += 1;
                Shown::Never
            }
            Shown::Before | Shown::Never => shown,
        }
    }

    /// Gives each command its place in this ranking, from 0, if it is among the first 2 × `top` and better than the one it has.
    fn rank(
        &self,
        ranked: &mut Ranked<'_>,
        is_none: impl Fn(&Group) -> bool,
        measure: impl Fn(&Group) -> f64,
    ) {
        ranked.sort_unstable_by(|(a_name, a, _), (b_name, b, _)| {
            let by_measure = measure(b).total_cmp(&measure(a));
            by_measure.then_with(|| -> Ordering { a_name.cmp(b_name) })
        });
        let counting = ranked.iter_mut().filter(|(_, group, _)| !is_none(group));
        for (i, (_, _, place)) in counting.take(2 * self.top).enumerate() {
            *place = Some(place.map_or(i, |place| place.min(i)));
        }
    }
}

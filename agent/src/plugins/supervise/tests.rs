//! Promises of the supervision: what answers mean over time.

use super::*;

#[test]
fn a_daily_source_that_hangs_is_found_out_today() {
    let daily = Duration::from_secs(86_400);
    assert_eq!(deadline(daily), MAX_DEADLINE);
    assert_eq!(deadline(Duration::from_secs(10)), Duration::from_secs(10));
}
use devmon_core::MetricTree;

fn tree() -> Answer {
    Answer::Tree {
        tree: MetricTree::new(),
        left_out: None,
    }
}

fn after(s: u64) -> Duration {
    Duration::from_secs(s)
}

#[test]
fn a_hang_is_failing_and_its_ticks_are_skipped_until_it_returns() {
    let (start, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
    assert!(s.may_ask(start));
    s.asked(start);
    assert!(!s.may_ask(start + after(1)));
    assert!(!s.check(start + Duration::from_millis(1_999)));
    assert!(s.check(start + after(2)), "the deadline is at least 2 s");
    assert_eq!(s.reason(), Some("collect has not returned for 2 s"));
    assert!(!s.check(start + after(3)), "published once, not each tick");
    assert!(s.check(start + after(4)));
    assert!(!s.may_ask(start + after(100)));
    let (changed, in_time) = s.answered(start + after(101), &tree());
    assert!(changed && !in_time);
    assert_eq!(s.state(), SourceState::Failing);
    assert!(s.may_ask(start + after(101)));
    s.asked(start + after(102));
    assert_eq!(s.answered(start + after(102), &tree()), (true, true));
    assert_eq!((s.state(), s.reason()), (SourceState::Ok, None));
}

#[test]
fn a_source_that_panics_is_made_anew_ever_more_slowly() {
    let (mut now, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
    for wait in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        s.asked(now);
        s.answered(now, &Answer::NotStarted("no database yet".into()));
        assert_eq!(s.state(), SourceState::Failing);
        assert!(!s.may_ask(now + after(wait) - Duration::from_millis(1)));
        now += after(wait);
        assert!(s.may_ask(now), "{wait}");
    }
    s.asked(now);
    s.answered(now, &tree());
    s.asked(now);
    s.answered(now, &Answer::Crashed("again".into()));
    assert!(s.may_ask(now + after(1)), "a good round ends the back-off");
}

#[test]
fn a_source_that_only_crashes_is_left_alone_until_somebody_says_so() {
    let (mut now, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
    let crash = Answer::Crashed("panicked: boom".into());
    for _ in 1..MAX_CRASHES {
        s.asked(now);
        s.answered(now, &crash);
        assert_eq!(s.state(), SourceState::Failing);
        now += MAX_BACKOFF;
    }
    s.asked(now);
    s.answered(now, &crash);
    assert_eq!(s.state(), SourceState::Quarantined);
    let reason = s.reason().unwrap();
    assert!(
        reason.contains("crashed 8 times") && reason.contains("retry x"),
        "{reason}"
    );
    assert!(!s.may_ask(now + after(1_000_000)));
    assert!(s.readmit(now));
    assert!(s.may_ask(now));
    s.asked(now);
    s.answered(now, &tree());
    assert_eq!(s.state(), SourceState::Ok);
}

#[test]
fn an_executable_that_only_hangs_is_run_again_for_ever() {
    let (mut now, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
    for _ in 0..100 {
        s.asked(now);
        s.answered(now, &Answer::TooSlow("did not end within 1.8 s".into()));
        assert_eq!(s.state(), SourceState::Failing);
        assert_eq!(s.reason(), Some("did not end within 1.8 s"));
        now += MAX_BACKOFF;
        assert!(s.may_ask(now));
    }
    assert!(!s.may_ask(now - after(1)), "but ever more seldom");
    assert_eq!(s.crashes(), 0);
    // A crash after a long outage is the first of its kind.
    s.asked(now);
    s.answered(now, &Answer::Crashed("boom".into()));
    assert_eq!(s.state(), SourceState::Failing);
}

#[test]
fn reasons_are_short_and_a_new_one_each_round_is_told_of_once_a_minute() {
    let (start, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
    let mut told = 0;
    for round in 0..120 {
        s.asked(start + after(round));
        let reason = format!("{round} {}", "é".repeat(100_000));
        let (changed, _) = s.answered(start + after(round), &Answer::Failed(reason));
        told += u32::from(changed);
        let reason = s.reason().unwrap();
        assert!(reason.starts_with(&format!("{round} é")) && reason.len() <= MAX_REASON_BYTES);
    }
    assert_eq!(told, 2);
    s.asked(start + after(120));
    assert_eq!(s.answered(start + after(120), &tree()), (true, true));
}

#[test]
fn a_source_that_goes_to_and_fro_is_spoken_of_now_and_then_and_the_last_word_is_true() {
    let (start, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
    let ok = tree();
    let round = |s: &mut Supervised, second: u64, fails: bool| {
        let now = start + after(second);
        s.check(now);
        s.asked(now);
        let failed = Answer::Failed("no such pump".into());
        s.answered(now, if fails { &failed } else { &ok });
    };
    for second in 0..600 {
        round(&mut s, second, second % 2 == 0);
    }
    let (failing, is_ok) = ("Failing no such pump", "Ok ");
    // As it was at the end of the first five minutes, and what came then.
    assert_eq!(s.said, [failing, is_ok, is_ok, failing], "in ten minutes");
    // It stays as it is: the log must not end with something else.
    round(&mut s, 600, true);
    for second in 601..1_000 {
        s.check(start + after(second));
    }
    assert!(s.said.len() <= 6, "{:?}", s.said);
    assert_eq!(s.said.last().unwrap(), failing);
}

#[test]
fn a_source_that_crashes_now_and_then_is_left_alone_too() {
    let (mut now, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
    for i in 0..MAX_CRASHES_IN_WINDOW {
        assert_ne!(s.state(), SourceState::Quarantined, "{i}");
        s.asked(now);
        s.answered(now, &tree());
        s.asked(now);
        s.answered(now, &Answer::Crashed("boom".into()));
        now += after(60);
        if i == 2 {
            let reason = "crashed 3 times within an hour, the last time: boom";
            assert_eq!(s.reason(), Some(reason));
        }
    }
    assert_eq!(s.state(), SourceState::Quarantined);
    assert_eq!(s.crashes(), MAX_CRASHES_IN_WINDOW as u64);
}

#[test]
fn what_is_unavailable_is_asked_once_a_minute_and_failures_at_each_tick() {
    let (now, mut s) = (Instant::now(), Supervised::new("gpu", deadline(after(1))));
    s.asked(now);
    s.answered(now, &Answer::Unavailable("no driver".into()));
    assert_eq!(s.state(), SourceState::Unavailable);
    assert!(!s.may_ask(now + after(59)));
    assert!(s.may_ask(now + after(60)));
    s.asked(now + after(60));
    s.answered(now + after(60), &Answer::Failed("read error".into()));
    assert!(s.may_ask(now + after(60)));
    assert_eq!(s.reason(), Some("read error"));
}

#[test]
fn a_round_without_data_is_ok() {
    let (now, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
    s.asked(now);
    assert_eq!(s.answered(now, &Answer::NoData), (false, true));
    assert_eq!(s.state(), SourceState::Ok);
}

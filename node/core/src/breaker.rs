//! When a peer whose model fails is left alone, and how far its errors make it less attractive before that.
//!
//! For `peers`, and for `node` about itself. The parameters carry the names that Hystrix gave them: request volume,
//! error percent, sleep window.
//! Errors are those for which the peer is to blame: the same job worked elsewhere.
//! Invariants: a pause knows its end; what is remembered is ten seconds, in a fixed space; a pause in a row is longer.
//! Not here: broken connections and silence (`gate`).

use serde::{Deserialize, Serialize};

use crate::time::{Micros, MonoTime};

/// Seconds that are remembered.
const SECONDS: usize = 10;
/// While no outcome of either kind comes, errors count for less and less, and for nothing after this time. Whoever
/// fails everything gets nothing, and so would have no way to show that it is well again.
const FADE: Micros = Micros::from_ms(5000);

/// When a peer's errors pause it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerRules {
    /// Fewer outcomes within ten seconds say nothing.
    pub request_volume: u32,
    /// So many percent of errors pause the peer. 1 to 100.
    pub error_percent: u32,
    /// The first pause; each further one in a row is twice as long.
    pub sleep_window: Micros,
    /// The longest pause.
    pub sleep_window_max: Micros,
}

impl Default for BreakerRules {
    fn default() -> Self {
        Self {
            request_volume: 20,
            error_percent: 50,
            sleep_window: Micros::from_ms(5000),
            sleep_window_max: Micros::from_ms(30_000),
        }
    }
}

/// Outcomes of one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Second {
    /// Which second since the start of this process.
    number: u64,
    answers: u32,
    errors: u32,
}

/// What one peer's answers were, and until when it is left alone for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    seconds: [Second; SECONDS],
    /// The newest outcomes, one bit each, an error is 1: a node that was well for long and fails now shows at once.
    newest: u8,
    /// When the last of them came.
    newest_at: MonoTime,
    paused_until: Option<MonoTime>,
    pauses: u8,
}

impl Breaker {
    /// Whether the peer gets requests.
    #[must_use]
    pub fn passes(&self, now: MonoTime) -> bool {
        self.paused_until.is_none_or(|until| until <= now)
    }

    /// When a pause that lasts at `now` ends.
    #[must_use]
    pub fn paused_until(&self, now: MonoTime) -> Option<MonoTime> {
        self.paused_until.filter(|&until| now < until)
    }

    /// The peer gave an answer that counts for it, or (`error`) against it. Returns whether that paused it.
    pub fn on_outcome(&mut self, now: MonoTime, rules: Option<&BreakerRules>, error: bool) -> bool {
        let number = now.as_micros() / 1_000_000;
        let index = usize::try_from(number % SECONDS as u64).unwrap_or(0);
        let second = &mut self.seconds[index];
        if second.number != number {
            *second = Second { number, ..Second::default() };
        }
        (self.newest, self.newest_at) = (self.newest << 1 | u8::from(error), now);
        second.answers = second.answers.saturating_add(1);
        second.errors = second.errors.saturating_add(u32::from(error));
        let Some(rules) = rules.filter(|_| error && self.passes(now)) else { return false };
        let (answers, errors) = self.counts(now);
        let volume = u64::from(rules.request_volume) <= answers;
        if !volume || errors * 100 < answers * u64::from(rules.error_percent) {
            return false;
        }
        // A peer that was well for as long as the longest pause begins anew.
        let recovered = self.paused_until.is_none_or(|until| until + rules.sleep_window_max < now);
        self.pauses = if recovered { 1 } else { self.pauses.saturating_add(1) };
        let doubled = rules.sleep_window.times(1 << u32::from(self.pauses - 1).min(16));
        self.paused_until = Some(now + doubled.min(rules.sleep_window_max));
        (self.seconds, self.newest) = ([Second::default(); SECONDS], 0);
        true
    }

    /// Part of the last answers that were errors, as thousandths: of those of ten seconds or of the newest, whichever
    /// is worse. One error alone is a half. Fades while no outcome comes.
    #[must_use]
    pub fn error_permille(&self, now: MonoTime) -> u64 {
        let (answers, errors) = self.counts(now);
        let newest = u64::from(self.newest.count_ones()) * 1000 / u64::from(u8::BITS);
        let told = if errors == 0 { 0 } else { (errors * 1000 / (answers + 1)).max(newest) };
        let left = FADE - now.since(self.newest_at);
        told * left.get() / FADE.get()
    }

    /// What its errors add to the completion of a job there, when doing the job again takes `redo`.
    ///
    /// An error costs the way there and then all of `redo`; twice that, so that a node which fails every second job is
    /// never chosen for being fast.
    #[must_use]
    pub fn cost_of_errors(&self, now: MonoTime, redo: Micros) -> Micros {
        redo.permille(2 * self.error_permille(now))
    }

    fn counts(&self, now: MonoTime) -> (u64, u64) {
        let number = now.as_micros() / 1_000_000;
        let recent = self.seconds.iter().filter(|second| number < second.number + SECONDS as u64);
        recent.fold((0, 0), |(answers, errors), second| {
            (answers + u64::from(second.answers), errors + u64::from(second.errors))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> MonoTime {
        MonoTime::START + Micros::from_ms(ms)
    }

    /// Feeds `errors` of `answers` at each moment. Returns the moments at which the peer was paused.
    fn run(moments: &[(u64, u32, u32)]) -> (Breaker, Vec<u64>) {
        let (rules, mut breaker, mut paused) = (BreakerRules::default(), Breaker::default(), Vec::new());
        for &(at, answers, errors) in moments {
            for number in 0..answers {
                if breaker.on_outcome(ms(at), Some(&rules), answers - errors <= number) {
                    paused.push(at);
                }
            }
        }
        (breaker, paused)
    }

    #[test]
    fn half_of_enough_answers_must_be_errors() {
        assert_eq!(run(&[(0, 19, 19)]).1, [0u64; 0]);
        assert_eq!(run(&[(0, 20, 9)]).1, [0u64; 0]);
        assert_eq!(run(&[(0, 20, 10)]).1, [0]);
    }

    #[test]
    fn what_is_older_than_ten_seconds_is_forgotten() {
        assert_eq!(run(&[(0, 19, 19), (10_000, 1, 1)]).1, [0u64; 0]);
        assert_eq!(run(&[(0, 19, 19), (9999, 1, 1)]).1, [9999]);
    }

    #[test]
    fn a_pause_ends_and_the_next_one_in_a_row_is_longer() {
        let (breaker, paused) = run(&[(0, 20, 20), (5000, 20, 20)]);
        assert_eq!(paused, [0, 5000]);
        assert!(!breaker.passes(ms(14_999)) && breaker.passes(ms(15_000)));
        let (breaker, _) = run(&[(0, 20, 20), (5000, 20, 20), (15_000, 20, 20), (35_000, 20, 20), (65_000, 20, 20)]);
        assert_eq!(breaker.paused_until(ms(65_000)), Some(ms(95_000)), "never longer than the longest");
        let (breaker, _) = run(&[(0, 20, 20), (60_000, 20, 20)]);
        assert_eq!(breaker.paused_until(ms(60_000)), Some(ms(65_000)), "a peer that was well begins anew");
    }

    #[test]
    fn errors_show_before_they_pause() {
        assert_eq!(run(&[(0, 4, 4)]).0.error_permille(ms(0)), 800);
        let error = |well_after| run(&[(0, 99, 0), (1, 1, 1), (2, well_after, 0)]).0.error_permille(ms(2));
        assert_eq!([1, 7, 8, 98].map(error), [125, 125, 9, 5], "one error among many counts while it is new");
        assert_eq!(run(&[(0, 99, 0), (1, 4, 4)]).0.error_permille(ms(1)), 500, "failing now, well before");
    }

    #[test]
    fn errors_fade_while_nothing_new_comes_so_that_whoever_is_well_again_is_tried() {
        let (breaker, _) = run(&[(0, 4, 4)]);
        let left = [0, 1000, 2500, 4999, 5000, 60_000].map(|at| breaker.error_permille(ms(at)));
        assert_eq!(left, [800, 640, 400, 0, 0, 0]);
        let (breaker, _) = run(&[(0, 4, 4), (4000, 1, 1)]);
        assert_eq!(breaker.error_permille(ms(4000)), 833, "another error, and all of them count again");
    }
}

//! Stops trying for a while when UserHub does not answer.
//!
//! Lambda runs a limited number of environments at the same time, and refuses sign-ins beyond that. While UserHub hangs,
//! each sign-in would hold its environment for 2 s, so a pool with ten environments would refuse all but five sign-ins a
//! second. An environment with an open circuit costs its sign-ins nothing. `make outage` simulates this, and every number
//! below was chosen with it.
//!
//! No crate fits: those that exist (recloser, failsafe, tower-resilience) count time with a monotonic clock, which may
//! stand still while Lambda keeps the function frozen, and none limits how many environments probe at the same time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Tries in a row that must have waited in vain before the circuit opens. One slow answer does not open it.
const UNANSWERED_MAX: u32 = 2;

/// An unanswered try that took less cost the pool little, such as a refused connection, so it does not count. Finding a kept
/// connection dead takes about 0.5 s, and does not count either.
const COSTLY: Duration = Duration::from_millis(700);

/// Time for the first try after an answer, and for a probe: long enough for a UserHub that is merely slow.
pub const TRY_LIMIT: Duration = Duration::from_secs(2);

/// Time for a try after one that waited in vain. It is more than the 0.6 s that a distant UserHub takes to answer on a new
/// connection, and little enough that the circuit opens within 3 s.
const SECOND_TRY_LIMIT: Duration = Duration::from_millis(750);

/// How long the circuit stays open before a probe, and how much longer it stays open at random, so that environments do not
/// probe at the same time.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_SPREAD: Duration = Duration::from_secs(5);

/// An environment that has not been used for this long since its pause ended is a spare one. It is used only while another
/// one waits, probably in a probe.
const SPARE_AFTER: Duration = Duration::from_secs(1);

/// How long a spare environment leaves probing to others: longer than a probe.
const SPARE_PAUSE: Duration = Duration::from_millis(2500);

/// A circuit breaker for the reports of one environment.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<State>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Closed {
        unanswered: u32,
    },
    /// No try until then, on the wall clock.
    Open {
        until: SystemTime,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { unanswered: 0 }
    }
}

/// How a try changed the circuit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// UserHub does not answer any more.
    Opened,
    /// UserHub answers again.
    Closed,
}

impl Change {
    /// The name for logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed => "closed",
        }
    }
}

impl Breaker {
    /// The time for a try, or `None` if none should be made now.
    pub fn admit(&self) -> Option<Duration> {
        self.update(|state| state.admit(SystemTime::now, fastrand::f32))
    }

    /// Learns from a try whether UserHub answered, and how long that took.
    pub fn record(&self, answered: bool, elapsed: Duration) -> Option<Change> {
        self.update(|state| state.record(answered, elapsed, SystemTime::now, fastrand::f32))
    }

    /// Whether UserHub has not answered the last tries.
    pub fn is_open(&self) -> bool {
        self.update(|state| matches!(state, State::Open { .. }))
    }

    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)) // a panic leaves the state as it was
    }
}

/// `random` returns at least 0 and less than 1. While UserHub answers, it is not called, and neither is `now`.
impl State {
    fn admit(&mut self, now: impl Fn() -> SystemTime, random: impl Fn() -> f32) -> Option<Duration> {
        match *self {
            Self::Closed { unanswered: 0 } => Some(TRY_LIMIT),
            Self::Closed { .. } => Some(SECOND_TRY_LIMIT),
            Self::Open { until } => match now().duration_since(until) {
                Ok(since) if since > SPARE_AFTER && random() < 0.5 => {
                    *self = Self::Open { until: now() + SPARE_PAUSE };
                    None
                }
                Ok(_) => Some(TRY_LIMIT),
                // The clock has jumped back: no pause is that long.
                Err(early) if early.duration() > PAUSE + PAUSE_SPREAD => Some(TRY_LIMIT),
                Err(_) => None,
            },
        }
    }

    fn record(
        &mut self,
        answered: bool,
        elapsed: Duration,
        now: impl Fn() -> SystemTime,
        random: impl Fn() -> f32,
    ) -> Option<Change> {
        let was_open = matches!(self, Self::Open { .. });
        if answered {
            *self = Self::default();
            return was_open.then_some(Change::Closed);
        }
        let unanswered = match *self {
            Self::Closed { unanswered } => unanswered + u32::from(elapsed >= COSTLY),
            Self::Open { .. } => UNANSWERED_MAX,
        };
        if unanswered < UNANSWERED_MAX {
            *self = Self::Closed { unanswered };
            return None;
        }
        *self = Self::Open { until: now() + PAUSE + PAUSE_SPREAD.mul_f32(random()) };
        (!was_open).then_some(Change::Opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    /// The state machine at a time, with a number that is not random.
    trait At {
        fn admit_at(&mut self, now: SystemTime, random: f32) -> Option<Duration>;
        fn record_at(&mut self, answered: bool, elapsed: Duration, now: SystemTime, random: f32) -> Option<Change>;
    }

    impl At for State {
        fn admit_at(&mut self, now: SystemTime, random: f32) -> Option<Duration> {
            self.admit(|| now, || random)
        }

        fn record_at(&mut self, answered: bool, elapsed: Duration, now: SystemTime, random: f32) -> Option<Change> {
            self.record(answered, elapsed, || now, || random)
        }
    }

    /// A circuit that two unanswered tries have opened, for 5 s.
    fn open() -> State {
        let mut state = State::default();
        assert_eq!(state.record_at(false, TRY_LIMIT, NOW, 0.0), None);
        assert_eq!(state.record_at(false, SECOND_TRY_LIMIT, NOW, 0.0), Some(Change::Opened));
        state
    }

    fn after(seconds: f32) -> SystemTime {
        NOW + Duration::from_secs_f32(seconds)
    }

    #[test]
    fn opens_after_two_tries_that_waited_in_vain() {
        let mut state = State::default();
        assert_eq!(state.admit_at(NOW, 0.0), Some(TRY_LIMIT));
        assert_eq!(state.record_at(false, TRY_LIMIT, NOW, 0.0), None);
        assert_eq!(state.admit_at(NOW, 0.0), Some(SECOND_TRY_LIMIT));
        assert_eq!(state.record_at(false, COSTLY, NOW, 0.0), Some(Change::Opened));
        assert_eq!(state.admit_at(NOW, 0.9), None);
    }

    #[test]
    fn an_answer_in_between_keeps_it_closed() {
        let mut state = State::default();
        for _ in 0..9 {
            assert_eq!(state.record_at(false, TRY_LIMIT, NOW, 0.0), None);
            assert_eq!(state.record_at(true, TRY_LIMIT, NOW, 0.0), None);
            assert_eq!(state, State::default());
        }
    }

    #[test]
    fn quick_failures_do_not_open_it() {
        let mut state = State::default();
        for _ in 0..9 {
            assert_eq!(state.record_at(false, COSTLY / 2, NOW, 0.0), None);
        }
        assert_eq!(state.admit_at(NOW, 0.0), Some(TRY_LIMIT));
        state.record_at(false, TRY_LIMIT, NOW, 0.0);
        assert_eq!(state.record_at(false, Duration::ZERO, NOW, 0.0), None);
        assert_eq!(state.admit_at(NOW, 0.0), Some(SECOND_TRY_LIMIT), "nor do they count as answers");
    }

    #[test]
    fn stays_open_for_5_to_10_seconds() {
        for (random, seconds) in [(0.0, 5.0), (0.5, 7.5), (0.999, 9.99)] {
            let mut state = State::default();
            state.record_at(false, TRY_LIMIT, NOW, random);
            state.record_at(false, TRY_LIMIT, NOW, random);
            assert_eq!(state.admit_at(after(seconds - 0.1), 0.9), None);
            assert_eq!(state.admit_at(after(seconds + 0.1), 0.0), Some(TRY_LIMIT));
        }
    }

    #[test]
    fn closes_with_the_first_answer() {
        let mut state = open();
        assert_eq!(state.record_at(true, TRY_LIMIT, after(6.0), 0.0), Some(Change::Closed));
        assert_eq!(state, State::default());
    }

    #[test]
    fn stays_open_when_a_probe_fails_however_quickly() {
        for elapsed in [Duration::ZERO, TRY_LIMIT] {
            let mut state = open();
            assert_eq!(state.record_at(false, elapsed, after(6.0), 0.0), None);
            assert_eq!(state.admit_at(after(10.9), 0.9), None);
            assert_eq!(state.admit_at(after(11.1), 0.9), Some(TRY_LIMIT));
        }
    }

    /// The environment in use is called within a second. The others find their pauses long over, all at the same time.
    #[test]
    fn every_second_spare_environment_waits_for_the_probe_of_another() {
        assert_eq!(open().admit_at(after(5.9), 0.0), Some(TRY_LIMIT), "in use");
        assert_eq!(open().admit_at(after(60.0), 0.5), Some(TRY_LIMIT), "spare, and probes");
        let mut waits = open();
        assert_eq!(waits.admit_at(after(60.0), 0.49), None);
        assert_eq!(waits.admit_at(after(62.4), 0.9), None, "for longer than a probe takes");
        assert_eq!(waits.admit_at(after(62.6), 0.0), Some(TRY_LIMIT));
    }

    #[test]
    fn survives_a_clock_that_jumps() {
        let late = SystemTime::UNIX_EPOCH + Duration::from_hours(24);
        let mut state = State::Open { until: late };
        assert_eq!(state.admit_at(late - Duration::from_hours(1), 0.0), Some(TRY_LIMIT), "back");
        assert_eq!(state.admit_at(late + Duration::from_hours(1), 0.5), Some(TRY_LIMIT), "forward");
    }
}

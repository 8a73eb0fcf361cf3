//! Stops trying for a while when UserHub does not answer.
//!
//! Lambda runs a limited number of environments at the same time, and refuses sign-ins beyond that. While UserHub hangs,
//! each sign-in would hold its environment for 2 s, so a pool with ten environments would refuse all but five sign-ins a
//! second. An environment with an open circuit costs its sign-ins nothing. The simulation in the tests below, and
//! `make outage` with real processes, show what a pool gets; every number below was chosen with them.
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

/// Time for a try after one that waited in vain, and for most probes of spare environments. It is more than the 0.6 s that a
/// distant UserHub takes to answer on a new connection, and little enough that the circuit opens within 3 s.
const SHORT_TRY_LIMIT: Duration = Duration::from_millis(750);

/// How long the circuit stays open before a probe, and how much longer it stays open at random, so that environments do not
/// probe at the same time.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_SPREAD: Duration = Duration::from_secs(5);

/// An environment that has not been used for this long since its pause ended is a spare one. Lambda uses it only while others
/// are busy, probably with probes. All spare environments are past their pauses, so they would probe one after the other
/// until none was left.
const SPARE_AFTER: Duration = Duration::from_millis(500);

/// A spare environment leaves probing to others for a random part of this time.
const SPARE_PAUSE: Duration = Duration::from_secs(1);

/// The share of a spare environment's probes that are short. The others find a UserHub that has become slow.
const SHORT_PROBES: f32 = 0.75;

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
        /// The environment was a spare one when its pause ended.
        spare: bool,
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

    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)) // a panic leaves the state as it was
    }
}

/// `random` returns at least 0 and less than 1. While UserHub answers, it is not called, and neither is `now`.
impl State {
    fn admit(&mut self, now: impl Fn() -> SystemTime, random: impl Fn() -> f32) -> Option<Duration> {
        match *self {
            Self::Closed { unanswered: 0 } => Some(TRY_LIMIT),
            Self::Closed { .. } => Some(SHORT_TRY_LIMIT),
            Self::Open { until, spare } => match now().duration_since(until) {
                Ok(since) if since > SPARE_AFTER && !spare => {
                    *self = Self::Open { until: now() + SPARE_PAUSE.mul_f32(random()), spare: true };
                    None
                }
                Ok(_) if spare && random() < SHORT_PROBES => Some(SHORT_TRY_LIMIT),
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
        *self = Self::Open { until: now() + PAUSE + PAUSE_SPREAD.mul_f32(random()), spare: false };
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
        assert_eq!(state.record_at(false, SHORT_TRY_LIMIT, NOW, 0.0), Some(Change::Opened));
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
        assert_eq!(state.admit_at(NOW, 0.0), Some(SHORT_TRY_LIMIT));
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
        assert_eq!(state.admit_at(NOW, 0.0), Some(SHORT_TRY_LIMIT), "nor do they count as answers");
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

    #[test]
    fn a_spare_environment_waits_for_the_probes_of_others_once() {
        assert_eq!(open().admit_at(after(5.5), 0.9), Some(TRY_LIMIT), "in use, so not spare");
        let mut spare = open();
        assert_eq!(spare.admit_at(after(60.0), 0.5), None);
        assert_eq!(spare.admit_at(after(60.4), 0.0), None, "half of the time at most");
        assert_eq!(spare.admit_at(after(90.0), 0.74), Some(SHORT_TRY_LIMIT), "however much later it is used again");
        assert_eq!(spare.admit_at(after(90.0), 0.75), Some(TRY_LIMIT));
        spare.record_at(false, SHORT_TRY_LIMIT, after(91.0), 0.0);
        assert_eq!(spare.admit_at(after(96.1), 0.0), Some(TRY_LIMIT), "no longer spare");
    }

    #[test]
    fn an_outage_costs_a_pool_no_sign_in_once_circuits_are_open_nor_reports_long_after() {
        // A new account's environments, with little and with much to do; larger pools, with a slower UserHub.
        for (environments, rate, latency_ms, seeds) in
            [(10, 20, 50, 200), (10, 100, 50, 100), (20, 100, 100, 50), (100, 200, 100, 5)]
        {
            let mut unreported = 0.0;
            for seed in 0..seeds {
                let pool = simulate(environments, rate, Duration::from_millis(latency_ms), seed);
                assert_eq!(pool.refused, 0, "{environments} environments, {rate} sign-ins a second, seed {seed}");
                unreported += pool.unreported / f64::from(u32::try_from(seeds).unwrap());
            }
            assert!(unreported < 0.02, "{environments} environments, {rate} sign-ins a second: {unreported}");
        }
    }

    struct Pool {
        /// Sign-ins for which there was no environment, from 10 s after the outage began until it ended.
        refused: u32,
        /// The share of sign-ins that were not reported, from 20 s after the outage ended.
        unreported: f64,
    }

    /// A pool whose UserHub answers for 5 s, hangs for 25 s, and then answers for 40 s. Each sign-in takes the environment that
    /// was used last, as Lambda does it.
    fn simulate(environments: usize, sign_ins_per_second: u32, latency: Duration, seed: u64) -> Pool {
        fastrand::seed(seed);
        let outage = after(5.0)..after(30.0);
        let mut pool: Vec<(SystemTime, State)> = Vec::new(); // until when each is busy
        let (mut refused, mut late, mut unreported) = (0, 0, 0);
        for number in 0..70 * sign_ins_per_second {
            let at = NOW + Duration::from_secs(1) * number / sign_ins_per_second;
            if pool.len() < environments && pool.iter().all(|(busy_until, _)| *busy_until > at) {
                pool.push((NOW, State::default()));
            }
            let idle = pool.iter_mut().filter(|(busy_until, _)| *busy_until <= at);
            let Some((busy_until, state)) = idle.max_by_key(|(busy_until, _)| *busy_until) else {
                refused += u32::from((after(15.0)..after(30.0)).contains(&at));
                continue;
            };
            let limit = state.admit(|| at, fastrand::f32);
            let answered = limit.is_some() && !outage.contains(&at);
            let elapsed = if answered { latency } else { limit.unwrap_or(Duration::from_millis(3)) };
            *busy_until = at + elapsed;
            if limit.is_some() {
                state.record(answered, elapsed, || at + elapsed, fastrand::f32);
            }
            if at >= after(50.0) {
                late += 1;
                unreported += u32::from(!answered);
            }
        }
        Pool { refused, unreported: f64::from(unreported) / f64::from(late) }
    }

    #[test]
    fn survives_a_clock_that_jumps() {
        let late = SystemTime::UNIX_EPOCH + Duration::from_hours(24);
        let mut state = State::Open { until: late, spare: false };
        assert_eq!(state.admit_at(late - Duration::from_hours(1), 0.0), Some(TRY_LIMIT), "back");
        assert_eq!(state.admit_at(late + Duration::from_hours(1), 0.0), None, "forward, so it seems spare");
        assert_eq!(state.admit_at(late + Duration::from_hours(1), 0.9), Some(TRY_LIMIT));
    }
}

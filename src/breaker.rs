//! Stops asking a server for a while when it does not answer.
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

/// So many of the last attempts are looked at. A server among several that hangs shows in every second or third.
const WINDOW: u32 = 5;

/// With so many of them unanswered, the circuit opens. One slow answer does not open it.
const UNANSWERED_MAX: u32 = 2;

/// An unanswered attempt that took less cost the pool little, such as a refused connection, so it does not count. Finding a
/// kept connection dead takes about 0.5 s, and does not count either.
const COSTLY: Duration = Duration::from_millis(700);

/// Timeout of an attempt after one that was answered, and of a probe: long enough for a server that is merely slow.
pub const ATTEMPT_LIMIT: Duration = Duration::from_secs(2);

/// Timeout of an attempt after one that was not answered. It is more than the 0.6 s that a distant UserHub takes to
/// answer on a new connection, and little enough that the circuit opens within 3 s.
const SHORT_ATTEMPT_LIMIT: Duration = Duration::from_millis(750);

/// How long the circuit stays open before a probe, and how much longer it stays open at random, so that environments do not
/// probe at the same time.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_SPREAD: Duration = Duration::from_secs(5);

/// An environment that has not been used for this long since its pause ended is a spare one. Lambda uses it only while others
/// are busy, probably with probes. All spare environments are past their pauses, so they would probe one after the other
/// until none was left. So a spare one leaves probing to others once, for a random part of a second.
const SPARE_AFTER: Duration = Duration::from_millis(500);
const SPARE_PAUSE: Duration = Duration::from_secs(1);

/// A pause that ended so long ago says nothing about now.
const SPARE_UNTIL: Duration = Duration::from_mins(1);

/// The share of a spare environment's probes that are short. The others find a server that has become slow.
const SHORT_PROBES: f32 = 0.75;

/// A circuit breaker for what one environment asks of one server.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<State>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// One bit for each of the last attempts, the newest first: whether it was costly and unanswered.
    Closed { recent: u32 },
    /// No attempt until then, on the wall clock. Spare: the environment was a spare one when its pause ended.
    Open { until: SystemTime, spare: bool },
}

/// The bit of the newest attempt.
const NEWEST: u32 = 1;

impl Default for State {
    fn default() -> Self {
        Self::Closed { recent: 0 }
    }
}

/// How an attempt changed the circuit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// The server does not answer any more.
    Opened,
    /// The server answers again.
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
    /// The timeout of an attempt, or `None` if none should be made now.
    pub fn admit(&self) -> Option<Duration> {
        self.update(|state| state.admit(SystemTime::now, fastrand::f32))
    }

    /// Learns from an attempt whether the server answered, and how long that took.
    pub fn record(&self, answered: bool, elapsed: Duration) -> Option<Change> {
        self.update(|state| state.record(answered, elapsed, SystemTime::now, fastrand::f32))
    }

    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)) // a panic leaves the state as it was
    }
}

/// `random` returns at least 0 and less than 1. While the server answers, it is not called, and neither is `now`.
impl State {
    fn admit(&mut self, now: impl Fn() -> SystemTime, random: impl Fn() -> f32) -> Option<Duration> {
        match *self {
            Self::Closed { recent } if recent & NEWEST == 0 => Some(ATTEMPT_LIMIT),
            Self::Closed { .. } => Some(SHORT_ATTEMPT_LIMIT),
            Self::Open { until, spare } => match now().duration_since(until) {
                Ok(since) if !spare && since > SPARE_AFTER && since < SPARE_UNTIL => {
                    *self = Self::Open { until: now() + SPARE_PAUSE.mul_f32(random()), spare: true };
                    None
                }
                Ok(_) if spare && random() < SHORT_PROBES => Some(SHORT_ATTEMPT_LIMIT),
                Ok(_) => Some(ATTEMPT_LIMIT),
                // The clock has jumped back: no pause is that long.
                Err(early) if early.duration() > PAUSE + PAUSE_SPREAD => Some(ATTEMPT_LIMIT),
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
        let recent = match *self {
            Self::Closed { recent } if answered => recent << 1,
            Self::Closed { recent } if elapsed < COSTLY => recent,
            Self::Closed { recent } => recent << 1 | NEWEST,
            Self::Open { .. } if answered => NEWEST << 1, // one more unanswered attempt opens it again
            Self::Open { .. } => u32::MAX,
        } & ((1 << WINDOW) - 1);
        *self = if recent.count_ones() < UNANSWERED_MAX {
            Self::Closed { recent }
        } else {
            Self::Open { until: now() + PAUSE + PAUSE_SPREAD.mul_f32(random()), spare: false }
        };
        match (was_open, matches!(self, Self::Open { .. })) {
            (false, true) => Some(Change::Opened),
            (true, false) => Some(Change::Closed),
            _ => None,
        }
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

    /// A circuit that two unanswered attempts have opened, for 5 s.
    fn open() -> State {
        let mut state = State::default();
        assert_eq!(state.record_at(false, ATTEMPT_LIMIT, NOW, 0.0), None);
        assert_eq!(state.record_at(false, SHORT_ATTEMPT_LIMIT, NOW, 0.0), Some(Change::Opened));
        state
    }

    fn after(seconds: f32) -> SystemTime {
        NOW + Duration::from_secs_f32(seconds)
    }

    #[test]
    fn opens_after_two_unanswered_attempts() {
        let mut state = State::default();
        assert_eq!(state.admit_at(NOW, 0.0), Some(ATTEMPT_LIMIT));
        assert_eq!(state.record_at(false, ATTEMPT_LIMIT, NOW, 0.0), None);
        assert_eq!(state.admit_at(NOW, 0.0), Some(SHORT_ATTEMPT_LIMIT));
        assert_eq!(state.record_at(false, COSTLY, NOW, 0.0), Some(Change::Opened));
        assert_eq!(state.admit_at(NOW, 0.9), None);
    }

    #[test]
    fn opens_when_two_of_the_last_five_attempts_are_unanswered() {
        for (answers_between, opens) in [(0, true), (1, true), (3, true), (4, false)] {
            let mut state = State::default();
            state.record_at(false, ATTEMPT_LIMIT, NOW, 0.0);
            for _ in 0..answers_between {
                assert_eq!(state.record_at(true, ATTEMPT_LIMIT, NOW, 0.0), None);
                assert_eq!(state.admit_at(NOW, 0.0), Some(ATTEMPT_LIMIT), "after an answer");
            }
            let change = state.record_at(false, ATTEMPT_LIMIT, NOW, 0.0);
            assert_eq!(change == Some(Change::Opened), opens, "{answers_between} answers between");
        }
    }

    /// Such as a kept connection that is found dead.
    #[test]
    fn quick_failures_do_not_open_it() {
        let mut state = State::default();
        for _ in 0..9 {
            assert_eq!(state.record_at(false, Duration::from_millis(600), NOW, 0.0), None);
        }
        assert_eq!(state.admit_at(NOW, 0.0), Some(ATTEMPT_LIMIT));
        state.record_at(false, ATTEMPT_LIMIT, NOW, 0.0);
        assert_eq!(state.record_at(false, Duration::ZERO, NOW, 0.0), None);
        assert_eq!(state.admit_at(NOW, 0.0), Some(SHORT_ATTEMPT_LIMIT), "nor do they count as answers");
    }

    #[test]
    fn stays_open_for_5_to_10_seconds() {
        for (random, seconds) in [(0.0, 5.0), (0.5, 7.5), (0.999, 9.99)] {
            let mut state = State::default();
            state.record_at(false, ATTEMPT_LIMIT, NOW, random);
            state.record_at(false, ATTEMPT_LIMIT, NOW, random);
            assert_eq!(state.admit_at(after(seconds - 0.1), 0.9), None);
            assert_eq!(state.admit_at(after(seconds + 0.1), 0.0), Some(ATTEMPT_LIMIT));
        }
    }

    #[test]
    fn closes_with_the_first_answer_and_opens_with_the_next_unanswered_attempt() {
        let mut state = open();
        assert_eq!(state.record_at(true, ATTEMPT_LIMIT, after(6.0), 0.0), Some(Change::Closed));
        assert_eq!(state.admit_at(after(6.0), 0.0), Some(ATTEMPT_LIMIT));
        assert_eq!(state.record_at(true, ATTEMPT_LIMIT, after(6.0), 0.0), None);
        assert_eq!(state.record_at(false, ATTEMPT_LIMIT, after(6.0), 0.0), Some(Change::Opened));
    }

    #[test]
    fn stays_open_when_a_probe_fails_however_quickly() {
        for elapsed in [Duration::ZERO, ATTEMPT_LIMIT] {
            let mut state = open();
            assert_eq!(state.record_at(false, elapsed, after(6.0), 0.0), None);
            assert_eq!(state.admit_at(after(10.9), 0.9), None);
            assert_eq!(state.admit_at(after(11.1), 0.9), Some(ATTEMPT_LIMIT));
        }
    }

    #[test]
    fn a_spare_environment_waits_for_the_probes_of_others_once() {
        assert_eq!(open().admit_at(after(5.5), 0.9), Some(ATTEMPT_LIMIT), "in use, so not spare");
        let mut spare = open();
        assert_eq!(spare.admit_at(after(60.0), 0.5), None);
        assert_eq!(spare.admit_at(after(60.4), 0.0), None, "half of the time at most");
        assert_eq!(spare.admit_at(after(90.0), 0.74), Some(SHORT_ATTEMPT_LIMIT), "however much later it is used again");
        assert_eq!(spare.admit_at(after(90.0), 0.75), Some(ATTEMPT_LIMIT));
        spare.record_at(false, SHORT_ATTEMPT_LIMIT, after(91.0), 0.0);
        assert_eq!(spare.admit_at(after(96.1), 0.0), Some(ATTEMPT_LIMIT), "no longer spare");
    }

    /// An environment that was idle since an outage must not refuse a report hours later.
    #[test]
    fn a_pause_long_over_is_over() {
        assert_eq!(open().admit_at(after(64.9), 0.9), None);
        assert_eq!(open().admit_at(after(65.0), 0.9), Some(ATTEMPT_LIMIT));
        assert_eq!(open().admit_at(after(36_000.0), 0.0), Some(ATTEMPT_LIMIT));
    }

    #[test]
    fn survives_a_clock_that_jumps() {
        let late = SystemTime::UNIX_EPOCH + Duration::from_hours(24);
        let mut state = State::Open { until: late, spare: false };
        assert_eq!(state.admit_at(late - (PAUSE + PAUSE_SPREAD), 0.0), None, "the longest pause");
        assert_eq!(state.admit_at(late - Duration::from_hours(1), 0.0), Some(ATTEMPT_LIMIT), "back");
        assert_eq!(state.admit_at(late + Duration::from_hours(1), 0.0), Some(ATTEMPT_LIMIT), "forward");
    }

    /// What a pool's UserHub does for 30 s. The numbers count requests.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fault {
        Hangs,
        EveryNthHangs(u32),
    }

    /// Shares of the sign-ins for which there was no environment, and of the reports that UserHub did not take.
    #[derive(Default)]
    struct Shares {
        refused_first: f64,
        refused_later: f64,
        not_taken_after: f64,
    }

    /// The goals of `make outage`, for pools of several sizes. With a queue, it takes what UserHub does not, so the environments
    /// of the queue's function are missing, and UserHub gets 1.5 s.
    #[test]
    fn an_outage_costs_a_pool_few_sign_ins_and_no_report_long_after() {
        for (environments, rate, queue, fault, first, later) in [
            (10, 20, false, Fault::Hangs, 0.2, 0.001),
            (8, 20, true, Fault::Hangs, 0.18, 0.001),
            (10, 20, false, Fault::EveryNthHangs(2), 0.25, 0.01),
            (8, 20, true, Fault::EveryNthHangs(2), 0.25, 0.01),
            (8, 20, true, Fault::EveryNthHangs(3), 0.25, 0.01),
            (8, 20, true, Fault::EveryNthHangs(5), 0.25, 0.01),
            (10, 100, true, Fault::Hangs, 0.25, 0.001),
            (100, 200, true, Fault::Hangs, 0.25, 0.001),
        ] {
            let mut mean = Shares::default();
            let seeds = 20;
            for seed in 0..seeds {
                let pool = simulate(environments, rate, queue, fault, seed);
                mean.refused_first += pool.refused_first / 20.0;
                mean.refused_later += pool.refused_later / 20.0;
                mean.not_taken_after += pool.not_taken_after / 20.0;
            }
            let row = format!("{environments} environments, {rate} sign-ins a second, queue: {queue}, {fault:?}");
            assert!(mean.refused_first <= first, "{row}: {} refused in the first 10 s", mean.refused_first);
            assert!(mean.refused_later <= later, "{row}: {} refused later", mean.refused_later);
            assert!(mean.not_taken_after <= 0.02, "{row}: {} not taken afterwards", mean.not_taken_after);
        }
    }

    /// A pool whose UserHub answers for 5 s, has a fault for 30 s, and then answers for 40 s. Each sign-in takes the environment
    /// that was used last, as Lambda does it.
    fn simulate(environments: usize, sign_ins_per_second: u32, queue: bool, fault: Fault, seed: u64) -> Shares {
        fastrand::seed(seed);
        let latency = Duration::from_millis(50);
        let (time, queue_time) = if queue { (1500, 15) } else { (2000, 0) };
        let mut pool: Vec<(SystemTime, State)> = Vec::new(); // until when each is busy
        let mut counts = [(0, 0); 3]; // in the first 10 s of the fault, after that, from 20 s after it: all, and those that failed
        let mut requests = 0;
        for number in 0..75 * sign_ins_per_second {
            let at = NOW + Duration::from_secs(1) * number / sign_ins_per_second;
            let second = number / sign_ins_per_second;
            let period = match second {
                5..15 => Some(0),
                15..35 => Some(1),
                55.. => Some(2),
                _ => None,
            };
            if pool.len() < environments && pool.iter().all(|(busy_until, _)| *busy_until > at) {
                pool.push((NOW, State::default()));
            }
            let idle = pool.iter_mut().filter(|(busy_until, _)| *busy_until <= at);
            let environment = idle.max_by_key(|(busy_until, _)| *busy_until);
            let refused = environment.is_none();
            let mut taken = false;
            if let Some((busy_until, state)) = environment {
                let mut elapsed = Duration::from_millis(3);
                if let Some(limit) = state.admit(|| at, fastrand::f32) {
                    requests += 1;
                    taken = match fault {
                        _ if !(5..35).contains(&second) => true,
                        Fault::Hangs => false,
                        Fault::EveryNthHangs(n) => requests % n != 0,
                    };
                    elapsed = if taken { latency } else { limit.min(Duration::from_millis(time)) };
                    state.record(taken, elapsed, || at + elapsed, fastrand::f32);
                }
                *busy_until = at + elapsed + Duration::from_millis(if taken { 0 } else { queue_time });
            }
            if let Some(period) = period {
                counts[period].0 += 1;
                counts[period].1 += u32::from(if period == 2 { !taken } else { refused });
            }
        }
        let [refused_first, refused_later, not_taken_after] =
            counts.map(|(all, failed)| f64::from(failed) / f64::from(all));
        Shares { refused_first, refused_later, not_taken_after }
    }
}

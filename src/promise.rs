//! The promise: whatever a report runs into, it is over in time, and a panic goes no further.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout_at};

use crate::error::Error;

/// Time for all that happens to a report. Cognito waits 5 s for the whole function. That leaves 3 s for a cold start (well
/// under 1 s) and for Lambda's own work, so that Cognito never has to call a second time.
pub const LIMIT: Duration = Duration::from_secs(2);

/// How long before Lambda's deadline a report is over. This leaves time to log the outcome and to return the event with the
/// 7 % of a core that 128 MB get.
const ANSWER_TIME: Duration = Duration::from_millis(200);

/// When a report has to be over, in an invocation that Lambda ends at `lambdas_deadline`.
#[must_use]
pub fn deadline(lambdas_deadline: SystemTime) -> Instant {
    Instant::now() + LIMIT.min(time_left(lambdas_deadline))
}

/// Does a part of the work of a report: an attempt to send it.
///
/// # Errors
/// What the work returns. [`Error::TimedOut`] if it is not over by the deadline, [`Error::Panic`] if it panicked.
pub async fn keep<T>(deadline: Instant, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match timeout_at(deadline, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(Error::Panic),
        Err(_) => Err(Error::TimedOut),
    }
}

/// How long a report may take before Lambda's deadline. A deadline in the past is ignored: the clock must be wrong, because
/// Lambda would have ended this process.
fn time_left(lambdas_deadline: SystemTime) -> Duration {
    lambdas_deadline.duration_since(SystemTime::now()).map_or(Duration::MAX, |left| left.saturating_sub(ANSWER_TIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_ends_before_lambdas_deadline() {
        let now = SystemTime::now();
        assert_eq!(time_left(now + Duration::from_millis(200)), Duration::ZERO);
        let left = time_left(now + Duration::from_millis(3200));
        assert!(left <= Duration::from_secs(3) && left > Duration::from_millis(2900), "{left:?}");
        assert_eq!(time_left(now - Duration::from_millis(1)), Duration::MAX, "the clock is wrong");
    }

    #[tokio::test(start_paused = true)]
    async fn work_ends_by_the_deadline_and_with_its_panic() {
        let deadline = Instant::now() + LIMIT;
        assert_eq!(keep(deadline, async { Ok(1) }).await, Ok(1));
        assert_eq!(keep(deadline, async { Err::<(), _>(Error::CircuitOpen) }).await, Err(Error::CircuitOpen));
        assert_eq!(keep(deadline, async { panic!("on purpose") }).await, Err::<(), _>(Error::Panic));
        assert_eq!(keep(deadline, std::future::pending::<Result<(), _>>()).await, Err(Error::TimedOut));
        assert!(Instant::now().duration_since(deadline) <= Duration::from_millis(1), "tokio's precision");
    }
}

//! Reports sign-ins: sends the request, tries again if that may help, and logs the outcome.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use lambda_runtime::Context;
use reqwest::StatusCode;
use serde_json::value::RawValue;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::breaker::{Breaker, Change};
use crate::config::{Config, ReportTiming};
use crate::error::Error;
use crate::event::{self, Event};
use crate::trigger::{Meaning, Trigger};
use crate::userhub::{Client, EventType};

/// Time limit for a report while the sign-in waits. Cognito waits 5 s for the whole function. That leaves 3 s for a cold
/// start (well under 1 s) and for Lambda's own work, so that Cognito never has to call a second time.
const LIMIT_BEFORE_RESPONSE: Duration = Duration::from_secs(2);

/// Time limit for a report after the response. During that time Lambda needs another environment for another sign-in.
const LIMIT_AFTER_RESPONSE: Duration = Duration::from_secs(4);

/// How long before Lambda's deadline a report ends. This leaves time to log the outcome and to return the event with the
/// 7 % of a core that 128 MB get.
const ANSWER_TIME: Duration = Duration::from_millis(200);

/// How often a report is tried.
const TRIES_MAX: u32 = 3;

/// The first pause between two tries. The second one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// What a report needs of an invocation.
#[derive(Debug)]
pub struct Report {
    event: Event,
    request_id: String,
    deadline: SystemTime,
}

impl Report {
    /// Reads Cognito's event. Whatever is wrong with it becomes the outcome of the report.
    #[must_use]
    pub fn new(event: &RawValue, context: &Context) -> Self {
        Self {
            event: catch_unwind(|| event::read(event))
                .unwrap_or_else(|_| Event { trigger: Trigger::new(None), user_name: Err(Error::Panic) }),
            request_id: context.request_id.clone(),
            deadline: context.deadline(),
        }
    }

    /// Lambda's id of the invocation.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }
}

/// Reports sign-ins to UserHub.
#[derive(Debug)]
pub struct Reporter {
    /// A wrong setting must not stop the function, because then every sign-in would fail. Its error becomes the outcome of
    /// every report.
    client: Result<Client, Error>,
    breaker: Breaker,
    last_report_failed: AtomicBool,
    warned_of_wrong_trigger: AtomicBool,
}

/// What happened during a report. A panic leaves it as it was until then.
#[derive(Default)]
struct Progress {
    tries: u32,
    circuit: Option<Change>,
}

impl Reporter {
    /// Creates a reporter, which may have wrong settings.
    #[must_use]
    pub fn new(config: Result<Config, Error>) -> Self {
        Self {
            client: config.and_then(Client::new),
            breaker: Breaker::default(),
            last_report_failed: AtomicBool::new(false),
            warned_of_wrong_trigger: AtomicBool::new(false),
        }
    }

    /// Reports a sign-in and logs one line with the outcome. Ends within 2 s if the sign-in waits for it
    /// ([`ReportTiming::BeforeResponse`]), otherwise within 4 s, and 0.2 s before Lambda's deadline if that is sooner.
    ///
    /// An event that is not a sign-in, such as a token refresh, is not reported.
    pub async fn report(&self, report: &Report, timing: ReportTiming) {
        let Meaning::Report(event_type) = report.event.trigger.meaning else { return self.ignore(report) };
        let (start, mut progress) = (Instant::now(), Progress::default());
        let sending = AssertUnwindSafe(self.send(report, event_type, timing, &mut progress));
        let outcome = sending.catch_unwind().await.unwrap_or(Err(Error::Panic));
        self.last_report_failed.store(outcome.as_ref().is_err_and(Error::is_transient), Ordering::Relaxed);
        log(&outcome, event_type, &progress, start.elapsed(), report);
    }

    /// Such events are frequent and no failure, so the line about each is for debugging only.
    fn ignore(&self, report: &Report) {
        let Report { event: Event { trigger, .. }, request_id, .. } = report;
        if trigger.meaning == Meaning::WrongTrigger && !self.warned_of_wrong_trigger.swap(true, Ordering::Relaxed) {
            warn!(
                trigger_source = trigger.source,
                "the user pool calls this function for a trigger that is not a sign-in: remove it from that trigger"
            );
        }
        debug!(
            outcome = "ignored",
            trigger_source = trigger.source,
            requestId = request_id,
            "not a sign-in, so nothing is reported to UserHub"
        );
    }

    async fn send(
        &self,
        report: &Report,
        event_type: EventType,
        timing: ReportTiming,
        progress: &mut Progress,
    ) -> Result<StatusCode, Error> {
        let client = self.client.as_ref().map_err(Clone::clone)?;
        let user_name = report.event.user_name.as_ref().map_err(Clone::clone)?;
        // A pause holds the environment, so none is made while a sign-in waits, nor for every sign-in while UserHub fails.
        let may_pause = timing == ReportTiming::AfterResponse && !self.last_report_failed.load(Ordering::Relaxed);
        let limit = match timing {
            ReportTiming::BeforeResponse => LIMIT_BEFORE_RESPONSE,
            ReportTiming::AfterResponse => LIMIT_AFTER_RESPONSE,
        };
        let deadline = Instant::now() + limit.min(time_left(report.deadline));
        let remaining = || deadline.saturating_duration_since(Instant::now());

        let mut outcome = Err(Error::CircuitOpen);
        while let Some(try_limit) = self.breaker.admit() {
            progress.tries += 1;
            let start = Instant::now();
            outcome = client.report(event_type, user_name, try_limit.min(remaining())).await;
            let answered = outcome.as_ref().map_or_else(Error::is_answer, |_| true);
            progress.circuit = self.breaker.record(answered, start.elapsed()).or(progress.circuit);
            let pause = outcome.as_ref().err().and_then(|error| pause_before_next_try(error, progress.tries));
            match pause.filter(|pause| pause.is_zero() || may_pause) {
                Some(pause) if pause < remaining() => sleep(pause).await,
                _ => break,
            }
        }
        outcome
    }
}

/// How long to wait before the next try, or `None` if it would not help. A connection that broke, and an answer that did not
/// come, are tried again at once, on a new connection. An answer is waited for longer each time, and at least as long as
/// UserHub asks.
fn pause_before_next_try(error: &Error, tries: u32) -> Option<Duration> {
    if !error.is_transient() || tries >= TRIES_MAX {
        return None;
    }
    if error.is_answer() {
        let pause = FIRST_PAUSE * 2_u32.pow(tries - 1);
        Some(pause.max(error.retry_after().unwrap_or_default()))
    } else {
        Some(FIRST_PAUSE * (tries - 1))
    }
}

/// How long a report may take before `deadline`. A deadline in the past is ignored: the clock must be wrong, because Lambda
/// would have ended this process.
fn time_left(deadline: SystemTime) -> Duration {
    deadline.duration_since(SystemTime::now()).map_or(Duration::MAX, |left| left.saturating_sub(ANSWER_TIME))
}

/// Logs one line for each report. docs/operate.md lists the fields.
fn log(
    outcome: &Result<StatusCode, Error>,
    event_type: EventType,
    progress: &Progress,
    elapsed: Duration,
    report: &Report,
) {
    let Report { event: Event { trigger, .. }, request_id, .. } = report;
    let (event_type, trigger_source) = (event_type.name(), trigger.source);
    let tries = (progress.tries != 1).then_some(progress.tries);
    let circuit = progress.circuit.map(Change::name);
    let duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Ok(status) => info!(
            outcome = "reported",
            status = status.as_u16(),
            circuit,
            tries,
            duration_ms,
            event_type,
            trigger_source,
            requestId = request_id,
            "sign-in reported to UserHub"
        ),
        Err(error) => error!(
            outcome = "not_reported",
            error_kind = error.kind(),
            error = error.to_string(),
            status = error.status().map(|status| status.as_u16()),
            circuit,
            tries,
            duration_ms,
            event_type,
            trigger_source,
            requestId = request_id,
            "sign-in not reported to UserHub; the user is signed in anyway"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Details;

    #[test]
    fn a_report_ends_before_lambdas_deadline() {
        let now = SystemTime::now();
        assert_eq!(time_left(now + Duration::from_millis(200)), Duration::ZERO);
        let left = time_left(now + Duration::from_millis(3200));
        assert!(left <= Duration::from_secs(3) && left > Duration::from_millis(2900), "{left:?}");
        assert_eq!(time_left(now - Duration::from_millis(1)), Duration::MAX, "the clock is wrong");
    }

    #[test]
    fn waits_longer_before_each_try() {
        let milliseconds =
            |error: &Error| [1, 2, 3].map(|tries| Some(pause_before_next_try(error, tries)?.as_millis()));
        let unavailable = |retry_after| Error::Unavailable(StatusCode::BAD_GATEWAY, Details::default(), retry_after);
        for unanswered in [Error::connect("reset"), Error::TimedOut] {
            assert_eq!(milliseconds(&unanswered), [Some(0), Some(200), None]);
        }
        for answer in [unavailable(None), Error::RateLimited(Details::default(), Some(Duration::ZERO))] {
            assert_eq!(milliseconds(&answer), [Some(200), Some(400), None]);
        }
        assert_eq!(milliseconds(&unavailable(Some(Duration::from_millis(300)))), [Some(300), Some(400), None]);
        for final_error in [Error::tls("certificate"), Error::malformed(""), Error::CircuitOpen, Error::Panic] {
            assert_eq!(milliseconds(&final_error), [None; 3]);
        }
    }
}

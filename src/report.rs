//! Reports one invocation: reads its event, sends the request, tries again if that may help, and logs the outcome.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use lambda_runtime::LambdaEvent;
use reqwest::StatusCode;
use serde_json::value::RawValue;
use tracing::{error, info};

use crate::error::Error;
use crate::event::{self, SignIn};
use crate::userhub::{Client, EventType};

/// Cognito's event as it came, and Lambda's context: the request id and the deadline.
pub type Invocation = LambdaEvent<Box<RawValue>>;

/// How long before Lambda's deadline a report ends. This leaves time to log the outcome and to return the event with the
/// 7 % of a core that 128 MB get.
const ANSWER_TIME: Duration = Duration::from_millis(200);

/// Time for all tries of one report, if Lambda's deadline leaves that much: three tries of 2 s, and 4 s of pauses. During
/// that time Lambda needs another environment for another sign-in.
const TRIES_LIMIT: Duration = Duration::from_secs(10);

/// The pause after the first try. It doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Reports an invocation with at most `most_tries` tries, and logs the outcome.
pub async fn report(client: &Result<Client, Error>, invocation: &Invocation, most_tries: u32) {
    let (start, mut tries) = (Instant::now(), 0);
    let outcome = AssertUnwindSafe(send(client, invocation, most_tries, &mut tries))
        .catch_unwind()
        .await
        .unwrap_or(Err(Error::Panic));
    let tries = (most_tries > 1).then_some(tries); // not logged if there can be only one
    log(&outcome, tries, start, &invocation.context.request_id);
}

/// Counts in `tries`, so that the count survives a panic.
async fn send(
    client: &Result<Client, Error>,
    invocation: &Invocation,
    most_tries: u32,
    tries: &mut u32,
) -> Result<StatusCode, Error> {
    let client = client.as_ref().map_err(Clone::clone)?;
    let SignIn { user_name, trigger_source } = event::read(&invocation.payload)?;
    let event_type = event_type(trigger_source.as_deref());
    let deadline = Instant::now() + TRIES_LIMIT.min(time_left(invocation.context.deadline()));
    let remaining = || deadline.saturating_duration_since(Instant::now());
    loop {
        *tries += 1;
        let outcome = client.report(event_type, &user_name, remaining()).await;
        let pause = outcome.as_ref().err().and_then(|error| pause_after(error, *tries));
        match pause {
            Some(pause) if *tries < most_tries && pause < remaining() => tokio::time::sleep(pause).await,
            _ => return outcome,
        }
    }
}

/// What Cognito's trigger means to UserHub. A federated user's first sign-in fires only the trigger of a sign-up.
fn event_type(trigger_source: Option<&str>) -> EventType {
    match trigger_source {
        Some("PostConfirmation_ConfirmSignUp") => EventType::SignUp,
        Some("PostConfirmation_ConfirmForgotPassword") => EventType::Changed, // nobody signs in
        _ => EventType::SignIn,
    }
}

/// How long a report may take before `deadline`. A deadline in the past is ignored: the clock must be wrong, because Lambda
/// would have ended this process.
fn time_left(deadline: SystemTime) -> Duration {
    deadline.duration_since(SystemTime::now()).map_or(Duration::MAX, |left| left.saturating_sub(ANSWER_TIME))
}

/// How long to wait before the next try: at least as long as UserHub asks for, and longer each time. `None` if UserHub
/// would answer the same again.
fn pause_after(error: &Error, tries: u32) -> Option<Duration> {
    let pause = FIRST_PAUSE * 2_u32.pow(tries - 1);
    match error {
        Error::RateLimited(retry_after) | Error::Unavailable(_, retry_after) => {
            Some(pause.max(retry_after.unwrap_or_default()))
        }
        Error::Connect(_) | Error::TimedOut => Some(pause),
        _ => None,
    }
}

/// Logs one line for each invocation. docs/operate.md lists the fields.
fn log(outcome: &Result<StatusCode, Error>, tries: Option<u32>, start: Instant, request_id: &str) {
    let duration_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Ok(status) => info!(
            outcome = "reported",
            status = status.as_u16(),
            tries,
            duration_ms,
            requestId = request_id,
            "sign-in reported to UserHub"
        ),
        Err(error) => error!(
            outcome = "not_reported",
            error_kind = error.kind(),
            error = error.to_string(),
            status = error.status().map(|status| status.as_u16()),
            tries,
            duration_ms,
            requestId = request_id,
            "sign-in not reported to UserHub; the user is signed in anyway"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_ends_before_lambdas_deadline() {
        let now = SystemTime::now();
        assert_eq!(time_left(now + ANSWER_TIME), Duration::ZERO);
        let left = time_left(now + ANSWER_TIME + Duration::from_secs(3));
        assert!(left <= Duration::from_secs(3) && left > Duration::from_secs(2), "{left:?}");
        assert_eq!(time_left(now - Duration::from_millis(1)), Duration::MAX, "the clock is wrong");
    }
}

//! The report of one event: read, sent, sent again where that may help, and logged.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use lambda_runtime::LambdaEvent;
use reqwest::StatusCode;
use serde_json::value::RawValue;
use tracing::{error, info};

use crate::error::Error;
use crate::event;
use crate::userhub::{Client, EventType};

/// Cognito's event as it came, and what Lambda says of the invocation.
pub type Event = LambdaEvent<Box<RawValue>>;

/// How long before Lambda's deadline a report is given up: time to log that and to hand the event back, with the 7 % of a
/// core that 128 MB get.
const ANSWER_TIME: Duration = Duration::from_millis(200);

/// Time for all tries of one report, where Lambda's deadline leaves as much: three of 2 s, and 4 s for the pauses between
/// them. Until then Lambda needs another environment for another sign-in.
const TRIES_LIMIT: Duration = Duration::from_secs(10);

/// The pause after the first try. It doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Reports an event, with so many tries at most, and logs how that went.
pub async fn report(client: &Result<Client, Error>, event: &Event, most_tries: u32) {
    let (start, mut tries) = (Instant::now(), 0);
    let outcome =
        AssertUnwindSafe(send(client, event, most_tries, &mut tries)).catch_unwind().await.unwrap_or(Err(Error::Panic));
    let tries = (most_tries > 1).then_some(tries); // one that is tried once is not told how often
    log(&outcome, tries, start, &event.context.request_id);
}

/// Counts in `tries`, for a panic as well.
async fn send(
    client: &Result<Client, Error>,
    event: &Event,
    most_tries: u32,
    tries: &mut u32,
) -> Result<StatusCode, Error> {
    let client = client.as_ref().map_err(Clone::clone)?;
    let event::Event { user_name, trigger_source } = event::read(&event.payload)?;
    let event_type = event_type(trigger_source.as_deref());
    let deadline = Instant::now() + TRIES_LIMIT.min(time_left(event.context.deadline()));
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

/// What Cognito's trigger means to UserHub. A federated user's first sign-in confirms a sign-up, and nothing else.
fn event_type(trigger_source: Option<&str>) -> EventType {
    match trigger_source {
        Some("PostConfirmation_ConfirmSignUp") => EventType::SignUp,
        Some("PostConfirmation_ConfirmForgotPassword") => EventType::Changed, // nobody is signed in by that
        _ => EventType::SignIn,
    }
}

/// How long a report may take before `deadline`. A deadline that has passed already speaks of a wrong clock, for Lambda
/// would have ended this process: it does not count.
fn time_left(deadline: SystemTime) -> Duration {
    deadline.duration_since(SystemTime::now()).map_or(Duration::MAX, |left| left.saturating_sub(ANSWER_TIME))
}

/// How long to wait for the next try: as long as UserHub asks for, and longer each time. `None` where UserHub would say
/// the same again.
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

/// One line for each event; the README lists the fields.
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
            "sign-in not reported to UserHub; the user is signed in all the same"
        ),
    }
}

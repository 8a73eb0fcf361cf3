//! The promise: whatever happens to the report, Cognito gets its event back.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use lambda_runtime::LambdaEvent;
use reqwest::StatusCode;
use serde_json::value::RawValue;
use tracing::{error, info};

use crate::error::Error;
use crate::event;
use crate::userhub::Client;

/// How long before Lambda's deadline a report is given up: time to log that and to hand the event back, with the 7 % of a
/// core that 128 MB get. The deadline is that near only where the function's own time limit is under 2.2 s.
const ANSWER_TIME: Duration = Duration::from_millis(200);

/// Reports one sign-in, logs how that went, and gives the event back as it came: the bytes of its JSON value. White
/// space around the value, which Cognito does not send, is gone before it gets here.
///
/// # Errors
/// None: an error answer, like a panic, would fail the user's sign-in.
pub async fn handle(
    client: &Result<Client, Error>,
    event: LambdaEvent<Box<RawValue>>,
) -> Result<Box<RawValue>, Infallible> {
    let LambdaEvent { payload, context } = event;
    let start = Instant::now();
    let outcome = AssertUnwindSafe(report(client, &payload, context.deadline()))
        .catch_unwind()
        .await
        .unwrap_or(Err(Error::Panic));
    log(&outcome, start, &context.request_id);
    Ok(payload)
}

async fn report(client: &Result<Client, Error>, event: &RawValue, deadline: SystemTime) -> Result<StatusCode, Error> {
    let client = client.as_ref().map_err(Clone::clone)?;
    client.report_sign_in(&event::user_name(event)?, time_left(deadline)).await
}

/// How long a report may take before `deadline`. A deadline that has passed already speaks of a wrong clock, for Lambda
/// would have ended this process: it does not count.
fn time_left(deadline: SystemTime) -> Duration {
    deadline.duration_since(SystemTime::now()).map_or(Duration::MAX, |left| left.saturating_sub(ANSWER_TIME))
}

/// One line for each sign-in; the README lists the fields.
fn log(outcome: &Result<StatusCode, Error>, start: Instant, request_id: &str) {
    let duration_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Ok(status) => info!(
            outcome = "reported",
            status = status.as_u16(),
            duration_ms,
            requestId = request_id,
            "sign-in reported to UserHub"
        ),
        Err(error) => error!(
            outcome = "not_reported",
            error_kind = error.kind(),
            error = error.to_string(),
            status = error.status().map(|status| status.as_u16()),
            duration_ms,
            requestId = request_id,
            "sign-in not reported to UserHub; the user is signed in all the same"
        ),
    }
}

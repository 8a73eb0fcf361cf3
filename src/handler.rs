//! The promise: whatever happens to the report, Cognito gets its event back.

use std::convert::Infallible;

use serde_json::value::RawValue;

use crate::error::Error;
use crate::extension::ReportQueue;
use crate::report::{Invocation, report};
use crate::userhub::Client;

/// Returns the event as it came: the bytes of its JSON value. lambda_runtime drops white space around the value, which
/// Cognito does not send. The report is queued if there is a queue; otherwise it has finished.
///
/// # Errors
/// None: an error response, like a panic, would fail the user's sign-in.
pub async fn handle(
    client: &Result<Client, Error>,
    queue: Option<&ReportQueue>,
    invocation: Invocation,
) -> Result<Box<RawValue>, Infallible> {
    let is_queued = queue.is_some_and(|queue| queue.send(invocation.clone()).is_ok());
    if !is_queued {
        report(client, &invocation, 1).await;
    }
    Ok(invocation.payload)
}

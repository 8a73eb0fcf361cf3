//! The promise: whatever happens to the report, Cognito gets its event back.

use std::convert::Infallible;

use lambda_runtime::LambdaEvent;
use serde_json::value::RawValue;

use crate::config::ReportTiming;
use crate::extension::ReportQueue;
use crate::report::{Report, Reporter};

/// Returns the event as it came: the bytes of its JSON value. lambda_runtime drops white space around the value, which
/// Cognito does not send. The report is queued if there is a queue; otherwise it has finished.
///
/// # Errors
/// None: an error response, like a panic, would fail the user's sign-in.
pub async fn handle(
    reporter: &Reporter,
    queue: Option<&ReportQueue>,
    event: LambdaEvent<Box<RawValue>>,
) -> Result<Box<RawValue>, Infallible> {
    let report = Report::new(&event.payload, &event.context);
    let not_queued = match queue {
        Some(queue) => queue.send(report).err().map(|unsent| unsent.0),
        None => Some(report),
    };
    if let Some(report) = not_queued {
        reporter.report(&report, ReportTiming::BeforeResponse).await;
    }
    Ok(event.payload)
}

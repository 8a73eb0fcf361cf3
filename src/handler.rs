//! The promise: whatever happens to the report, Cognito gets its event back.

use std::convert::Infallible;

use serde_json::value::RawValue;

use crate::error::Error;
use crate::extension::Queue;
use crate::report::{Event, report};
use crate::userhub::Client;

/// Gives the event back as it came: the bytes of its JSON value. White space around the value, which Cognito does not
/// send, is gone before it gets here. The event's report is `later`'s, if there is one, or else over by then.
///
/// # Errors
/// None: an error answer, like a panic, would fail the user's sign-in.
pub async fn handle(
    client: &Result<Client, Error>,
    later: Option<&Queue>,
    event: Event,
) -> Result<Box<RawValue>, Infallible> {
    let is_queued = later.is_some_and(|later| later.send(event.clone()).is_ok());
    if !is_queued {
        report(client, &event, 1).await;
    }
    Ok(event.payload)
}

//! An invocation: a sign-in, whose event goes back to Cognito as it came, or messages from the queue.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use lambda_runtime::{Context, LambdaEvent};
use serde_json::value::RawValue;
use tracing::{debug, warn};

use crate::delivery::{Delivery, Progress};
use crate::event::{self, Event, Trigger};
use crate::line::Line;
use crate::report::Report;
use crate::trigger::Meaning;
use crate::{batch, delivery, promise};

/// Handles any invocation. Cognito's event comes back as it was: the bytes of its JSON value. lambda_runtime drops white space
/// around the value, which Cognito does not send.
///
/// # Errors
/// None: an error response would fail the user's sign-in.
pub async fn handle(delivery: &Delivery, event: LambdaEvent<Box<RawValue>>) -> Result<Box<RawValue>, Infallible> {
    let LambdaEvent { payload, context } = event;
    match event::read(&payload) {
        Event::Trigger(trigger) => {
            sign_in(delivery, trigger, &context).await;
            Ok(payload)
        }
        Event::Messages(messages) => {
            let failures = batch::report(delivery, messages, &context).await;
            Ok(serde_json::value::to_raw_value(&failures).unwrap_or(payload)) // all stay in the queue then
        }
    }
}

/// Reports a sign-in and logs one line with the outcome. An event that is not a sign-in, such as a token refresh, is not
/// reported.
async fn sign_in(delivery: &Delivery, trigger: Trigger, context: &Context) {
    let Meaning::Report(event_type) = trigger.meaning else { return ignore(&trigger, context) };
    let (start, mut progress) = (Instant::now(), Progress::default());
    let outcome = match trigger.user_name {
        Ok(user_name) => {
            let report = Report { user_name, event_type };
            delivery.deliver(&report, promise::deadline(context.deadline()), &mut progress).await
        }
        Err(error) => delivery::Outcome::Lost(error),
    };
    Line {
        event_type,
        trigger_source: trigger.source.as_deref(),
        request_id: &context.request_id,
        waited: None,
        progress: &progress,
        elapsed: start.elapsed(),
    }
    .log(&outcome);
}

/// Such events are frequent and no failure, so the line about each is for debugging only.
fn ignore(trigger: &Trigger, context: &Context) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if trigger.meaning == Meaning::WrongTrigger && !WARNED.swap(true, Ordering::Relaxed) {
        warn!(
            trigger_source = trigger.source,
            "the user pool calls this function for a trigger that is not a sign-in: remove it from that trigger"
        );
    }
    debug!(
        outcome = "ignored",
        trigger_source = trigger.source,
        requestId = context.request_id,
        "not a sign-in, so nothing is reported to UserHub"
    );
}

//! The log line about each report. docs/operate.md lists the fields.

use std::time::Duration;

use tracing::{error, info};

use crate::breaker::Change;
use crate::delivery::{Outcome, Progress};
use crate::error::Error;
use crate::trigger::EventType;

/// What a line says beside the outcome.
#[derive(Debug)]
pub struct Line<'a> {
    /// What UserHub is told, if that could be read.
    pub event_type: Option<EventType>,
    /// Cognito's name for the reason of its call.
    pub trigger_source: Option<&'a str>,
    /// Lambda's id of the invocation.
    pub request_id: &'a str,
    /// How long the report has waited in the queue, if it comes out of it.
    pub waited: Option<Duration>,
    /// What happened on the way to UserHub.
    pub progress: &'a Progress,
    /// How long the report took.
    pub elapsed: Duration,
}

impl Line<'_> {
    /// Logs the line.
    pub fn log(&self, outcome: &Outcome) {
        let Self { trigger_source, request_id, progress, .. } = self;
        let event_type = self.event_type.map(EventType::name);
        let waited_ms = self.waited.map(milliseconds);
        let tries = (!matches!(progress.attempts, 1)).then_some(progress.attempts);
        let circuit = progress.circuit.map(Change::name);
        let duration_ms = milliseconds(self.elapsed);
        let kind = |error: Option<&Error>| error.map(Error::kind);
        let text = |error: Option<&Error>| error.map(ToString::to_string);
        let status = |error: Option<&Error>| error.and_then(Error::status).map(|status| status.as_u16());
        match outcome {
            Outcome::Reported(status) => info!(
                outcome = "reported",
                status = status.as_u16(),
                circuit,
                tries,
                duration_ms,
                waited_ms,
                event_type,
                trigger_source,
                requestId = request_id,
                "sign-in reported to UserHub"
            ),
            Outcome::Queued(error) => info!(
                outcome = "queued",
                error_kind = kind(error.as_ref()),
                error = text(error.as_ref()),
                status = status(error.as_ref()),
                circuit,
                tries,
                duration_ms,
                waited_ms,
                event_type,
                trigger_source,
                requestId = request_id,
                "sign-in waits in the queue; it is reported to UserHub later"
            ),
            Outcome::Lost(error) => error!(
                outcome = "not_reported",
                error_kind = error.kind(),
                error = error.to_string(),
                status = status(Some(error)),
                circuit,
                tries,
                duration_ms,
                waited_ms,
                event_type,
                trigger_source,
                requestId = request_id,
                "sign-in not reported to UserHub; the user is signed in anyway"
            ),
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

//! The log line about each report. docs/operate.md lists the fields.

use std::time::Duration;

use reqwest::StatusCode;
use tracing::{error, info};

use crate::breaker::Change;
use crate::delivery::{Outcome, Progress};
use crate::error::Error;
use crate::trigger::EventType;

/// What a line says beside the outcome.
#[derive(Debug)]
pub struct Line<'a> {
    /// What UserHub is told.
    pub event_type: EventType,
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

/// All fields of a line. Those that are `None` are left out.
macro_rules! log {
    ($level:ident, $line:ident, $outcome:literal, $status:expr, $error:expr, $message:literal) => {{
        let (status, error): (Option<StatusCode>, Option<&Error>) = ($status, $error);
        $level!(
            outcome = $outcome,
            error_kind = error.map(Error::kind),
            error = error.map(ToString::to_string),
            status = status.map(|status| status.as_u16()),
            circuit = $line.progress.circuit.map(Change::name),
            tries = Some($line.progress.attempts).filter(|attempts| *attempts != 1),
            duration_ms = milliseconds($line.elapsed),
            waited_ms = $line.waited.map(milliseconds),
            event_type = $line.event_type.name(),
            trigger_source = $line.trigger_source,
            requestId = $line.request_id,
            $message
        )
    }};
}

impl Line<'_> {
    /// Logs the line.
    pub fn log(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Reported(status) => {
                log!(info, self, "reported", Some(*status), None, "sign-in reported to UserHub");
            }
            Outcome::Queued(error) => {
                let status = error.as_ref().and_then(Error::status);
                log!(
                    info,
                    self,
                    "queued",
                    status,
                    error.as_ref(),
                    "sign-in waits in the queue; it is reported to UserHub later"
                );
            }
            Outcome::Lost(error) => {
                log!(
                    error,
                    self,
                    "not_reported",
                    error.status(),
                    Some(error),
                    "sign-in not reported to UserHub; the user is signed in anyway"
                );
            }
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

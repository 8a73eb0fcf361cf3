//! Messages from the queue: reports that UserHub gets later.

use std::time::{Duration, SystemTime};

use aws_lambda_events::sqs::{SqsBatchResponse, SqsMessage};
use futures_util::future::join_all;
use lambda_runtime::Context;
use tokio::time::{Instant, sleep_until};
use tracing::error;

use crate::delivery::{Delivery, Outcome, Progress};
use crate::line::Line;
use crate::promise;
use crate::report::Report;

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// It leaves the queue: UserHub took the report, or will never take it.
    Done,
    /// It stays in the queue, because UserHub did not take the report.
    Waits,
    /// It stays in the queue until that gives it up, because it is no report.
    Unreadable,
}

/// Reports all messages at the same time. Returns those that stay in the queue, which gives each to this function again after
/// its visibility timeout.
///
/// If UserHub took none, this waits until the time for a report is over. Lambda asks for the next batch when this one is
/// done, and would ask in a tight loop while UserHub is down. Two environments that wait for an hour cost $0.02. Two that do
/// not would log, at 100 sign-ins a second, some 3 GB. A failed invocation would make Lambda ask less often too, but it says
/// nowhere how much less, nor how soon after an outage it asks as often as before.
pub async fn report(delivery: &Delivery, messages: Vec<SqsMessage>, context: &Context) -> SqsBatchResponse {
    let deadline = promise::deadline(context.deadline());
    let fates = join_all(messages.iter().map(|message| report_one(delivery, message, context, deadline))).await;
    if fates.contains(&Fate::Waits) && !fates.contains(&Fate::Done) {
        sleep_until(deadline).await;
    }
    let mut response = SqsBatchResponse::default();
    for (message, fate) in messages.into_iter().zip(fates) {
        if fate != Fate::Done {
            response.add_failure(message.message_id.unwrap_or_default()); // without an id all stay in the queue
        }
    }
    response
}

async fn report_one(delivery: &Delivery, message: &SqsMessage, context: &Context, deadline: Instant) -> Fate {
    let report = match Report::from_message(message.body.as_deref().unwrap_or_default()) {
        Ok(report) => report,
        Err(error) => {
            error!(
                error_kind = error.kind(),
                error = error.to_string(),
                messageId = message.message_id,
                requestId = context.request_id,
                "a message in the queue is no report; it ends in the dead-letter queue"
            );
            return Fate::Unreadable;
        }
    };
    let (start, mut progress) = (Instant::now(), Progress::default());
    let outcome = match delivery.ask_userhub(&report, deadline, &mut progress).await {
        Ok(status) => Outcome::Reported(status),
        Err(error) if error.is_kept() => Outcome::Queued(Some(error)),
        Err(error) => Outcome::Lost(error),
    };
    Line {
        event_type: report.event_type,
        trigger_source: None,
        request_id: &context.request_id,
        waited: waited(message),
        progress: &progress,
        elapsed: start.elapsed(),
    }
    .log(&outcome);
    if matches!(outcome, Outcome::Queued(_)) { Fate::Waits } else { Fate::Done }
}

/// How long a message has been in the queue. It counts anew when it is sent back from the dead-letter queue.
fn waited(message: &SqsMessage) -> Option<Duration> {
    let sent = message.attributes.get("SentTimestamp")?.parse().ok()?;
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + Duration::from_millis(sent)).ok()
}

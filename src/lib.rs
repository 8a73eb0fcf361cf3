//! An AWS Lambda function that Amazon Cognito calls after a user has signed in. It reports the sign-in to UserHub, waits
//! at most 2 s for the answer, and returns the event unchanged, whatever happens. What UserHub does not take waits in a
//! queue, from which the same program reports it later.
//!
//! ```text
//! main ──> logging       where log lines go
//!   │────> config        the settings
//!   │────> delivery      the ways of a report: to UserHub, into the queue
//!   │         │───> breaker    stops asking for a while when a server does not answer
//!   │         │───> promise    ends in time, and stops a panic
//!   │         │───> userhub    the request to UserHub ──┐
//!   │         └───> queue      the request to SQS ──────┴──> http   TLS, connections, what an error means
//!   └────> handler       an invocation: event in ──> the same event out
//!             │───> event      reads the event ──> trigger   what Cognito's trigger means
//!             │───> batch      messages in ──> those that stay out
//!             └───> line       the log line about each report
//!                   report     what UserHub should be told, and the message that says so ┐ used by all of
//!                   error      why a report did not arrive, and whether it is kept       ┘ these
//! ```

pub mod batch;
pub mod breaker;
pub mod config;
pub mod delivery;
pub mod error;
pub mod event;
pub mod handler;
pub mod http;
pub mod line;
pub mod logging;
pub mod promise;
pub mod queue;
pub mod report;
pub mod trigger;
pub mod userhub;

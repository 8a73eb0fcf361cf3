//! An AWS Lambda function that Amazon Cognito calls after a user has signed in. It reports the sign-in to UserHub, waits
//! at most 2 s for the answer, and returns the event byte for byte, whatever happens. Optionally, it returns the event
//! first and reports afterwards.
//!
//! ```text
//! main ──> logging     where log lines go
//!   │────> config      the settings
//!   │────> handler     event in ──> report, now or queued ──> the same event out
//!   │          └─┐
//!   └────> extension   makes queued reports after the response
//!                └───> report    event ──> request, retries ──> one log line
//!                         │───> event     reads the user name and the trigger
//!                         │      └─> trigger   what the trigger means
//!                         │───> breaker   stops trying for a while when UserHub does not answer
//!                         └───> userhub   the request to UserHub
//!                               error     why a sign-in was not reported; used by every module
//! ```

pub mod breaker;
pub mod config;
pub mod error;
pub mod event;
pub mod extension;
pub mod handler;
pub mod logging;
pub mod report;
pub mod trigger;
pub mod userhub;

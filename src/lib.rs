//! An AWS Lambda function that Amazon Cognito calls after a user has signed in. It tells UserHub, waits at most 2 s for
//! that, and gives Cognito its event back byte for byte, whatever happened. If asked to, it gives the event back first.
//!
//! ```text
//! main ──> logging     where log lines go
//!   │────> config      the settings ──> userhub::Client
//!   │────> handler     event in ──> report, now or later ──> the same event out
//!   │          └─┐
//!   └────> extension   reports after the response
//!                └───> report    event ──> request, again if need be ──> outcome logged
//!                         │───> event     the user name and the trigger in the event
//!                         └───> userhub   the request to UserHub
//!                               error     why a sign-in was not reported; known to all, knows none
//! ```

pub mod config;
pub mod error;
pub mod event;
pub mod extension;
pub mod handler;
pub mod logging;
pub mod report;
pub mod userhub;

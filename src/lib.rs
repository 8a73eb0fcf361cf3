//! An AWS Lambda function that Amazon Cognito calls after a user has signed in. It tells UserHub, waits at most 2 s for
//! that, and gives Cognito its event back byte for byte, whatever happened.
//!
//! ```text
//! main ──> logging   where log lines go
//!   │────> config    the settings ──> userhub::Client
//!   └────> handler   event in ──> report ──> outcome logged ──> the same event out
//!              │───> event     the user name in the event
//!              └───> userhub   the request to UserHub
//!                    error     why a sign-in was not reported; known to all, knows none
//! ```

pub mod config;
pub mod error;
pub mod event;
pub mod handler;
pub mod logging;
pub mod userhub;

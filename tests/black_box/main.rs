//! Tests the binary from outside, between a local Lambda Runtime API and a strict stand-in for UserHub.
//! [`harness::Function::sign_in`] checks the promise at every sign-in: the same bytes come back in time, with one log line.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod batches;
mod documentation;
mod events;
#[cfg(target_os = "linux")]
mod hostile_userhub;
mod logs;
mod network;
mod outage;
mod platform;
mod process;
mod properties;
mod queue;
mod settings;
mod tls;

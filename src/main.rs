//! Start: logging, settings, run.

use std::env;
use std::os::unix::process::CommandExt;
use std::panic::AssertUnwindSafe;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;
use lambda_runtime::tower::util::MapResultLayer;
use lambda_runtime::{Error as BoxError, Runtime, service_fn};
use tracing::{error, warn};
use userhub_signin::config::Config;
use userhub_signin::delivery::Delivery;
use userhub_signin::{handler, logging};

/// After so many invocations the process starts anew, between two of them. lambda_runtime puts the trace id of each into an
/// environment variable, and glibc keeps every value that such a variable ever had: 160 bytes for each invocation. Without
/// this, the 128 MB would be full after 800,000 invocations. A start takes 2 ms of a processor.
const INVOCATIONS_MAX: u32 = 10_000;

fn main() -> ExitCode {
    // lambda_runtime panics without these variables. Lambda sets all of them.
    let expected = ["RUNTIME_API", "FUNCTION_NAME", "FUNCTION_MEMORY_SIZE", "FUNCTION_VERSION"];
    let is_set = |name| env::var_os(format!("AWS_LAMBDA_{name}")).is_some_and(|value| !value.is_empty());
    if !expected.into_iter().all(is_set) {
        eprintln!(
            "userhub-signin is an AWS Lambda function that reports Amazon Cognito sign-ins to UserHub. It runs only in \
             Lambda. To see it work on this machine, run `make run` in its repository."
        );
        return ExitCode::from(2);
    }
    logging::init();
    let config = Config::from_env();
    for problem in &config.problems {
        error!(variable = problem.variable, "{problem}");
    }
    if config.unusable_ca_certs > 0 {
        warn!(
            variable = "USERHUB_EXTRA_CA_CERTS",
            "USERHUB_EXTRA_CA_CERTS names a file in which {} certificates cannot be used; the others are trusted",
            config.unusable_ca_certs
        );
    }
    // One sign-in at a time: Lambda starts another process for a second one.
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(tokio) => {
            let result = tokio.block_on(AssertUnwindSafe(run(Delivery::new(config))).catch_unwind());
            log_failure(
                result.unwrap_or_else(|_| Err("lambda_runtime cannot use its address, or what it sent".into())),
            );
            tokio.shutdown_background(); // a DNS look-up may hang
        }
        Err(error) => error!("the function cannot start: {error}"),
    }
    ExitCode::FAILURE // Lambda starts another process
}

/// Runs until the Runtime API fails.
async fn run(delivery: Delivery) -> Result<(), BoxError> {
    let invocations = AtomicU32::new(0);
    let runtime = Runtime::new(service_fn(|event| handler::handle(&delivery, event)));
    let after_each = |result| {
        if invocations.fetch_add(1, Ordering::Relaxed) == INVOCATIONS_MAX - 1 {
            let error = env::current_exe().map(|program| Command::new(program).exec()); // returns only if it fails
            warn!("the process cannot start anew, so its memory keeps growing: {error:?}");
        }
        result
    };
    runtime.layer(MapResultLayer::new(after_each)).run().await
}

fn log_failure(result: Result<(), BoxError>) {
    match result {
        // lambda_runtime reads JSON in two headers of an event. Cognito sends neither of them; other callers can.
        Err(error) if error.is::<serde_json::Error>() => {
            error!(
                "an invocation got no response because lambda_runtime cannot read its client context or Cognito identity"
            );
        }
        Err(error) => error!("the Lambda Runtime API failed: {error}"),
        Ok(()) => {} // never: it runs until it fails
    }
}

//! Start: logging, settings, extension, run.

use std::env;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lambda_runtime::{Error as BoxError, Runtime, service_fn};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;
use userhub_signin::config::{Config, Problem, ReportTiming};
use userhub_signin::error::Error;
use userhub_signin::extension::Extension;
use userhub_signin::report::Reporter;
use userhub_signin::{handler, logging};

/// Time for the reports that are under way when the Runtime API fails.
const LAST_REPORTS_LIMIT: Duration = Duration::from_secs(4);

#[tokio::main(flavor = "current_thread")] // one sign-in at a time: Lambda starts another process for a second one
async fn main() -> ExitCode {
    // lambda_runtime panics without these variables. Lambda sets all of them.
    let expected = ["RUNTIME_API", "FUNCTION_NAME", "FUNCTION_MEMORY_SIZE", "FUNCTION_VERSION"];
    if expected.iter().any(|name| env::var_os(format!("AWS_LAMBDA_{name}")).is_none()) {
        eprintln!(
            "userhub-signin is an AWS Lambda function that reports Amazon Cognito sign-ins to UserHub. It runs only in \
             Lambda. To see it work on this machine, run `make run` in its repository."
        );
        return ExitCode::from(2);
    }
    logging::init();
    let config = Config::from_env().map_err(|problems| settings_error(&problems));
    let extension = match &config {
        Ok(config) if config.report == ReportTiming::AfterResponse => Extension::register().await,
        _ => None,
    };
    let reporter = Reporter::new(config);
    if let Some(extension) = extension {
        report_after_responses(extension, reporter).await;
    } else {
        let runtime = Runtime::new(service_fn(|event| handler::handle(&reporter, None, event)));
        log_failure(runtime.run().await);
    }
    ExitCode::FAILURE // Lambda starts another process
}

/// Runs until one of Lambda's APIs fails.
async fn report_after_responses(extension: Extension, reporter: Reporter) {
    let (queue, queued) = unbounded_channel();
    let reporter = Arc::new(reporter);
    let mut extension = tokio::spawn(extension.run(Arc::clone(&reporter), queued));
    let runtime = Runtime::new(service_fn(|event| handler::handle(&reporter, Some(&queue), event)));
    tokio::select! {
        result = runtime.run() => log_failure(result),
        _ = &mut extension => return,
    }
    drop(queue); // when it has reported what is in the queue, the extension ends
    timeout(LAST_REPORTS_LIMIT, extension).await.ok();
}

fn log_failure(result: Result<(), BoxError>) {
    match result {
        // The only JSON that lambda_runtime reads outside of the event. Cognito sends no client context; other callers can.
        Err(error) if error.is::<serde_json::Error>() => {
            tracing::error!("an invocation got no response because lambda_runtime cannot read its client context");
        }
        Err(error) => tracing::error!("the Lambda Runtime API failed: {error}"),
        Ok(()) => {} // never: it runs until it fails
    }
}

/// Logs one line for each wrong setting. Returns them as the error that every sign-in's line will repeat.
fn settings_error(problems: &[Problem]) -> Error {
    for problem in problems {
        tracing::error!(variable = problem.variable, "{problem}");
    }
    Error::Settings(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

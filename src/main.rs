//! Start: logging, settings, client, run.

use std::env;
use std::process::ExitCode;
use std::sync::Arc;

use lambda_runtime::{Runtime, service_fn};
use userhub_signin::config::{Config, Problem};
use userhub_signin::error::Error;
use userhub_signin::extension::Extension;
use userhub_signin::userhub::Client;
use userhub_signin::{handler, logging};

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
    let extension = Extension::register_if_wanted(&config).await;
    let client = Arc::new(config.and_then(|config| Client::new(config, extension.is_none())));
    let queue = extension.map(|extension| extension.start(Arc::clone(&client)));
    match Runtime::new(service_fn(|event| handler::handle(&client, queue.as_ref(), event))).run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("the Lambda Runtime API failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Logs one line for each wrong setting. Returns them as the error that every sign-in's line will repeat.
fn settings_error(problems: &[Problem]) -> Error {
    for problem in problems {
        tracing::error!(variable = problem.variable, "{problem}");
    }
    Error::Settings(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

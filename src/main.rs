//! The start-up story: logging, settings, client, run.

use std::env;
use std::process::ExitCode;
use std::sync::Arc;

use lambda_runtime::{Runtime, service_fn};
use userhub_signin::config::{Config, Problem};
use userhub_signin::error::Error;
use userhub_signin::extension::Extension;
use userhub_signin::userhub::Client;
use userhub_signin::{handler, logging};

#[tokio::main(flavor = "current_thread")] // one sign-in at a time: for a second one Lambda starts another process
async fn main() -> ExitCode {
    // What lambda_runtime panics without; Lambda sets all of them.
    let expected = ["RUNTIME_API", "FUNCTION_NAME", "FUNCTION_MEMORY_SIZE", "FUNCTION_VERSION"];
    if expected.iter().any(|name| env::var_os(format!("AWS_LAMBDA_{name}")).is_none()) {
        eprintln!(
            "userhub-signin is an AWS Lambda function that reports Amazon Cognito sign-ins to UserHub, and runs only \
             inside Lambda: to see it at work on this machine, type `make run` in its repository."
        );
        return ExitCode::from(2);
    }
    logging::init();
    let config = Config::from_env().map_err(|problems| settings_error(&problems));
    let extension = Extension::wanted_by(&config).await;
    let client = Arc::new(config.and_then(|config| Client::new(config, extension.is_none())));
    let later = extension.map(|extension| extension.start(Arc::clone(&client)));
    match Runtime::new(service_fn(|event| handler::handle(&client, later.as_ref(), event))).run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("the Lambda Runtime API failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says what is wrong, one line for each setting, and makes of it what every sign-in's line will repeat.
fn settings_error(problems: &[Problem]) -> Error {
    for problem in problems {
        tracing::error!(variable = problem.variable, "{problem}");
    }
    Error::Settings(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

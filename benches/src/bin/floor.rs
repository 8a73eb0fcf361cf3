//! The smallest function on this runtime: it returns its event. Its cost is the runtime's part of a sign-in.

use std::convert::Infallible;

use lambda_runtime::{LambdaEvent, Runtime, service_fn};
use serde_json::value::RawValue;

async fn echo(event: LambdaEvent<Box<RawValue>>) -> Result<Box<RawValue>, Infallible> {
    Ok(event.payload)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    Runtime::new(service_fn(echo)).run().await
}

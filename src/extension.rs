//! Reports after the response, as an internal Lambda extension. Lambda passes the runtime's response on at once, and keeps
//! the environment running until the extension asks for the next invocation
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>).
//!
//! The lambda-extension crate is not used: its servers for logs and telemetry make the zip 11 % larger.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use lambda_runtime_api_client::body::Body;
use lambda_runtime_api_client::{BoxError, PooledClient, build_request};
use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::timeout;
use tracing::{error, warn};

use crate::config::ReportTiming;
use crate::report::{Report, Reporter};

/// Time for the registration, which Lambda answers at once. Sign-ins wait for it.
const REGISTRATION_LIMIT: Duration = Duration::from_secs(1);

/// How long the extension waits for the report of an invocation. It arrives at once, or never if lambda_runtime rejects the
/// event.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);

/// How long the process goes on without an event after Lambda's API has failed. An event may be on its way to the runtime, or
/// its response on its way back.
const LAST_EVENT_LIMIT: Duration = Duration::from_millis(500);

/// Reports whose sign-ins have been answered.
pub type ReportQueue = UnboundedSender<Report>;

/// A registered extension.
pub struct Extension {
    api: PooledClient,
    id: HeaderValue,
}

impl Extension {
    /// Registers the extension. Logs a warning and returns `None` if Lambda refuses or does not answer within 1 s. Must run
    /// before the runtime asks for its first event.
    pub async fn register() -> Option<Self> {
        let registered = timeout(REGISTRATION_LIMIT, Self::try_register()).await;
        registered
            .unwrap_or_else(|_| Err("it did not answer in time".into()))
            .map_err(|error| warn!("Lambda takes no extension, so reports go out before the response: {error}"))
            .ok()
    }

    async fn try_register() -> Result<Self, BoxError> {
        let api = PooledClient::builder().build();
        let request = build_request()
            .method("POST")
            .uri("/2020-01-01/extension/register")
            .header("Lambda-Extension-Name", env!("CARGO_PKG_NAME"))
            .body(Body::from(r#"{"events":["INVOKE"]}"#))?;
        let response = api.call(request).await?;
        match response.headers().get("Lambda-Extension-Identifier").cloned() {
            Some(id) if response.status().is_success() => Ok(Self { api, id }),
            _ => Err(format!("its answer was {}", response.status()).into()),
        }
    }

    /// Reports what is sent to the queue, until its other end is dropped or Lambda's API fails.
    ///
    /// After a failure the process must end: AWS's page says "Extension should exit promptly". It also says "The Invoke phase
    /// ends after the runtime and all extensions signal that they are done by sending a Next API request". This extension
    /// does not send one any more, so no further sign-in comes to this process.
    pub async fn run(self, reporter: Arc<Reporter>, mut queue: UnboundedReceiver<Report>) {
        while !(queue.is_closed() && queue.is_empty()) {
            match self.next().await {
                Ok(request_id) => report_until(&request_id, &reporter, &mut queue).await,
                Err(error) => {
                    error!("the Lambda Extensions API failed: {error}");
                    while let Ok(Some(report)) = timeout(LAST_EVENT_LIMIT, queue.recv()).await {
                        reporter.report(&report, ReportTiming::AfterResponse).await;
                    }
                    break;
                }
            }
        }
    }

    /// Tells Lambda that the last invocation is over, and waits for the next one. Returns its request id, which the runtime
    /// uses as well.
    async fn next(&self) -> Result<String, BoxError> {
        let request = build_request()
            .uri("/2020-01-01/extension/event/next")
            .header("Lambda-Extension-Identifier", &self.id)
            .body(Body::empty())?;
        let response = self.api.call(request).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("its answer was {}", response.status()).into());
        }
        let body = response.into_body().collect().await?.to_bytes();
        let invocation: Value = serde_json::from_slice(&body)?;
        Ok(invocation["requestId"].as_str().ok_or("its answer was not an invocation")?.to_owned())
    }
}

/// Reports everything in the queue up to the invocation with this request id.
async fn report_until(request_id: &str, reporter: &Reporter, queue: &mut UnboundedReceiver<Report>) {
    while let Ok(Some(report)) = timeout(HAND_OVER_LIMIT, queue.recv()).await {
        reporter.report(&report, ReportTiming::AfterResponse).await;
        if report.request_id() == request_id {
            break;
        }
    }
}

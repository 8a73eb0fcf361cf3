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
use reqwest::header::HeaderValue;
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use tracing::{error, warn};

use crate::config::{Config, ReportTiming};
use crate::error::Error;
use crate::report::{Invocation, report};
use crate::userhub::Client;

/// How often a report is tried if no sign-in waits for it.
const MOST_TRIES: u32 = 3;

/// How long the extension waits for the event of an invocation. The event arrives at once, or never if lambda_runtime
/// rejects it.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);

/// Invocations that have been answered and are still to be reported.
pub type ReportQueue = UnboundedSender<Invocation>;

/// A registered extension.
pub struct Extension {
    api: PooledClient,
    id: HeaderValue,
}

impl Extension {
    /// Registers the extension if the settings ask for it. Logs a warning and returns `None` if Lambda refuses.
    pub async fn register_if_wanted(config: &Result<Config, Error>) -> Option<Self> {
        if !matches!(config, Ok(config) if config.report == ReportTiming::AfterResponse) {
            return None;
        }
        Self::register()
            .await
            .map_err(|error| warn!("Lambda takes no extension, so reports go out before the response: {error}"))
            .ok()
    }

    /// Must run before the runtime asks for its first event.
    async fn register() -> Result<Self, BoxError> {
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

    /// Starts to report what is sent to the queue.
    pub fn start(self, client: Arc<Result<Client, Error>>) -> ReportQueue {
        let (queue, queued) = unbounded_channel();
        tokio::spawn(self.run(client, queued));
        queue
    }

    /// If Lambda's API fails, the queue is closed, and later events are reported before the response.
    async fn run(self, client: Arc<Result<Client, Error>>, mut queued: UnboundedReceiver<Invocation>) {
        let error = loop {
            match self.next().await {
                Ok(request_id) => report_until(&request_id, &client, &mut queued).await,
                Err(error) => break error,
            }
        };
        error!("the Lambda Extensions API failed: {error}");
        queued.close();
        while let Some(invocation) = queued.recv().await {
            report(&client, &invocation, MOST_TRIES).await;
        }
    }

    /// Tells Lambda that the last invocation is over, and waits for the next one. Returns its request id, which the runtime
    /// uses as well.
    async fn next(&self) -> Result<String, BoxError> {
        let request = build_request()
            .uri("/2020-01-01/extension/event/next")
            .header("Lambda-Extension-Identifier", &self.id)
            .body(Body::empty())?;
        let body = self.api.call(request).await?.into_body().collect().await?.to_bytes();
        let invocation: Value = serde_json::from_slice(&body)?;
        Ok(invocation["requestId"].as_str().ok_or("its answer was not an invocation")?.to_owned())
    }
}

/// Reports all queued invocations up to the one with this request id.
async fn report_until(request_id: &str, client: &Result<Client, Error>, queued: &mut UnboundedReceiver<Invocation>) {
    while let Ok(Some(invocation)) = timeout(HAND_OVER_LIMIT, queued.recv()).await {
        report(client, &invocation, MOST_TRIES).await;
        if invocation.context.request_id == request_id {
            break;
        }
    }
}

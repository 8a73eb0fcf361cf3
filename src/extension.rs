//! Reports after Cognito has its event back, as an internal Lambda extension: Lambda hands the runtime's answer on at once,
//! and keeps the environment running until the extension asks for the next invocation
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>).
//!
//! In place of the lambda-extension crate, whose servers for logs and telemetry would make the zip 11 % larger.

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

use crate::config::{Config, Report};
use crate::error::Error;
use crate::report::{Event, report};
use crate::userhub::Client;

/// How often a report is tried when nobody waits for it.
const MOST_TRIES: u32 = 3;

/// How long the event of an invocation is waited for. It comes at once, or not at all if the runtime refuses it.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);

/// Events that Cognito has back, on their way to their report.
pub type Queue = UnboundedSender<Event>;

/// A registered extension.
pub struct Extension {
    api: PooledClient,
    id: HeaderValue,
}

impl Extension {
    /// Registers the extension if the settings ask for it. `None`, and a line in the log, where Lambda refuses.
    pub async fn wanted_by(config: &Result<Config, Error>) -> Option<Self> {
        if !matches!(config, Ok(config) if config.report == Report::AfterResponse) {
            return None;
        }
        Self::register()
            .await
            .map_err(|error| warn!("Lambda takes no extension, so reports go out before the response: {error}"))
            .ok()
    }

    /// Has to come before the runtime asks for its first event.
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

    /// Starts to report what comes through the queue.
    pub fn start(self, client: Arc<Result<Client, Error>>) -> Queue {
        let (queue, events) = unbounded_channel();
        tokio::spawn(self.run(client, events));
        queue
    }

    /// When Lambda's API fails, events go back to being reported before the response: the queue is closed.
    async fn run(self, client: Arc<Result<Client, Error>>, mut events: UnboundedReceiver<Event>) {
        let error = loop {
            match self.next().await {
                Ok(request_id) => report_until(&request_id, &client, &mut events).await,
                Err(error) => break error,
            }
        };
        error!("the Lambda Extensions API failed: {error}");
        events.close();
        while let Some(event) = events.recv().await {
            report(&client, &event, MOST_TRIES).await;
        }
    }

    /// Says that the last invocation is over, and waits for the next: its request id, by which the runtime knows it too.
    async fn next(&self) -> Result<String, BoxError> {
        let request = build_request()
            .uri("/2020-01-01/extension/event/next")
            .header("Lambda-Extension-Identifier", &self.id)
            .body(Body::empty())?;
        let body = self.api.call(request).await?.into_body().collect().await?.to_bytes();
        let invocation: Value = serde_json::from_slice(&body)?;
        Ok(invocation["requestId"].as_str().ok_or("it sent something else than an invocation")?.to_owned())
    }
}

/// Reports all events in the queue up to that of this invocation.
async fn report_until(request_id: &str, client: &Result<Client, Error>, events: &mut UnboundedReceiver<Event>) {
    while let Ok(Some(event)) = timeout(HAND_OVER_LIMIT, events.recv()).await {
        report(client, &event, MOST_TRIES).await;
        if event.context.request_id == request_id {
            break;
        }
    }
}

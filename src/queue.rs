//! SQS: the one call that puts a report into the queue.

use std::fmt::Display;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{StatusCode, Url};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::config;
use crate::error::Error;
use crate::http;
use crate::report::Report;

/// The protocol and the call, from the model of SQS's API that AWS's SDKs use.
const HEADERS: [(&str, &str); 2] =
    [("content-type", "application/x-amz-json-1.0"), ("x-amz-target", "AmazonSQS.SendMessage")];

/// Longest name of an error that is kept, in bytes.
const ERROR_NAME_MAX: usize = 64;

/// A client of SQS for one queue.
#[derive(Debug)]
pub struct Client {
    http: http::Client,
    url: Url,
    endpoint: Url,
    region: String,
    credentials: Credentials,
}

impl Client {
    /// Creates a client without a connection. The first report opens one.
    #[must_use]
    pub fn new(settings: config::Queue, http: http::Client) -> Self {
        let mut endpoint = settings.url.clone();
        endpoint.set_path("/");
        let credentials = Credentials::new(
            settings.access_key_id,
            settings.secret_access_key.expose_secret(),
            settings.session_token.map(|token| token.expose_secret().to_owned()),
            None, // Lambda ends the environment before they expire
            "Lambda",
        );
        Self { http, url: settings.url, endpoint, region: settings.region, credentials }
    }

    /// Puts a report into the queue. Waits for the body of the answer for 0.3 s at most, and not beyond the deadline.
    ///
    /// # Errors
    /// Every variant of [`Error`] about the network or an answer.
    pub async fn send(&self, report: &Report, deadline: Instant) -> Result<(), Error> {
        let message = report.to_message().map_err(|_| Error::Panic)?;
        let body = json!({ "QueueUrl": self.url.as_str(), "MessageBody": message }).to_string();
        let headers = self.signed_headers(&body)?;
        let response = self.http.post(self.endpoint.clone(), headers, body).await?;
        let status = response.status();
        let answer: Value = serde_json::from_slice(&http::read_body(response, deadline).await).unwrap_or_default();
        Err(match status {
            StatusCode::OK if answer.get("MessageId").is_some() => return Ok(()),
            StatusCode::OK => Error::Malformed("200 OK without a MessageId, so it is not from SQS".into()),
            _ if status.is_client_error() => Error::Rejected(status, error_name(&answer)),
            _ if status.is_server_error() => Error::Unavailable(status, error_name(&answer)),
            _ => Error::UnexpectedStatus(status),
        })
    }

    /// The headers of a request, with its signature (AWS Signature Version 4).
    fn signed_headers(&self, body: &str) -> Result<HeaderMap, Error> {
        let unusable = |error: &dyn Display| Error::Settings(format!("a request to SQS cannot be signed: {error}"));
        let identity = self.credentials.clone().into();
        let settings = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("sqs")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| unusable(&error))?;
        let body = SignableBody::Bytes(body.as_bytes());
        let request = SignableRequest::new("POST", self.endpoint.as_str(), HEADERS.into_iter(), body)
            .map_err(|error| unusable(&error))?;
        let (signature, _) = sign(request, &settings.into()).map_err(|error| unusable(&error))?.into_parts();
        let mut headers = HeaderMap::new();
        for (name, value) in HEADERS.into_iter().chain(signature.headers()) {
            let mut value = HeaderValue::try_from(value).map_err(|error| unusable(&error))?;
            value.set_sensitive(true);
            headers.insert(HeaderName::try_from(name).map_err(|error| unusable(&error))?, value);
        }
        Ok(headers)
    }
}

/// The name of SQS's error, such as `QueueDoesNotExist`, after a comma. Its message is not read.
fn error_name(error: &Value) -> String {
    let name = error.get("__type").and_then(Value::as_str).and_then(|name| name.rsplit('#').next());
    let is_name = |name: &&str| {
        (1..=ERROR_NAME_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
    };
    name.filter(is_name).map(|name| format!(", {name}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_an_error_only_if_it_is_a_name() {
        let (longest, too_long) = ("a".repeat(64), "a".repeat(65));
        for (kind, expected) in [
            ("com.amazonaws.sqs#QueueDoesNotExist", ", QueueDoesNotExist"),
            ("AWS.SimpleQueueService.NonExistentQueue", ", AWS.SimpleQueueService.NonExistentQueue"),
            (&longest, &format!(", {longest}")),
            (&too_long, ""),
            ("sample user", ""),
            ("sample#", ""),
        ] {
            assert_eq!(error_name(&json!({ "__type": kind })), expected);
        }
        assert_eq!(error_name(&Value::Null), "");
    }
}

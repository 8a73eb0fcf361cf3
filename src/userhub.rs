//! UserHub's Admin API: the one call that this function makes.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, redirect, retry};
use rustls::RootCertStore;
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout_at};

use crate::config::Config;
use crate::error::Error;

/// Time limit for one report, from its start to the head of UserHub's answer. It includes the name look-up, connecting, TLS
/// and a second try. Cognito waits 5 s for the whole function. That leaves 3 s for a cold start (well under 1 s) and for
/// Lambda's own work, so that Cognito never has to call a second time.
const REPORT_LIMIT: Duration = Duration::from_secs(2);

/// How long sent bytes may stay unacknowledged before the connection counts as dead. While Lambda keeps the function
/// frozen, a NAT gateway or load balancer may silently forget a kept connection. Without this limit the next report would
/// wait on it until its 2 s are over. Linux checks the limit only after it has sent the bytes again, so a slow connection
/// does not count as dead. Measured (`make networks`): a dead connection is found after about 0.5 s, and the report
/// arrives on a new one if a round trip takes up to 0.25 s. With 500 ms it took 0.4 s longer, and failed from 0.2 s
/// on. The limit does not change what gets lost at 5 and 10 % packet loss.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_millis(100);

/// How long an unused connection is kept. AWS's NAT gateways and network load balancers forget a connection after 350 s.
/// After 300 s, a new connection costs less than the 0.5 s that it may take to find the old one dead.
const IDLE_LIMIT: Duration = Duration::from_mins(5);

/// How many bytes of an answer's body are read. This is enough for any error object, and to read a success to its end so
/// that the connection can be used again.
const BODY_MAX: usize = 16 * 1024;

/// What JavaScript's `encodeURIComponent` encodes: everything except `A-Z a-z 0-9 - _ . ! ~ * ' ( )`.
const URI_COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// What happened to a user, in UserHub's words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EventType {
    /// `SIGNIN`.
    SignIn,
    /// `SIGNUP`.
    SignUp,
    /// `CHANGED`. UserHub takes a request without a body for this too.
    Changed,
}

impl EventType {
    fn body(self) -> &'static str {
        match self {
            Self::SignIn => r#"{"type":"SIGNIN"}"#,
            Self::SignUp => r#"{"type":"SIGNUP"}"#,
            Self::Changed => r#"{"type":"CHANGED"}"#,
        }
    }
}

/// Version of the Admin API, as in UserHub's SDKs 0.8.2.
const API_VERSION: &str = "2025-05-01";

/// The product token of the function in UserHub's guide, by which UserHub recognises the source, and then ours.
const USER_AGENT: &str = concat!("UserHub-AmazonCognito/1.0 userhub-signin/", env!("CARGO_PKG_VERSION"));

/// A client of UserHub's Admin API, which keeps its connections.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    users_url: String,
    connection_id: String,
}

impl Client {
    /// Creates a client without a connection. The first report opens one. `second_try`: whether a report whose connection
    /// broke is sent once more, on a new connection.
    ///
    /// # Errors
    /// [`Error::Settings`] if the key cannot be a header's value or the TLS settings contradict each other. Neither happens
    /// with a [`Config`] that was read from the environment.
    pub fn new(config: Config, second_try: bool) -> Result<Self, Error> {
        let unusable =
            |cause: &dyn std::fmt::Display| Error::Settings(format!("the HTTP client cannot be built: {cause}"));

        let mut authorization = HeaderValue::try_from(format!("Bearer {}", config.admin_key.expose_secret()))
            .map_err(|error| unusable(&error))?;
        authorization.set_sensitive(true);
        let headers = HeaderMap::from_iter([
            (AUTHORIZATION, authorization),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (ACCEPT, HeaderValue::from_static("application/json")),
            (HeaderName::from_static("userhub-api-version"), HeaderValue::from_static(API_VERSION)),
        ]);

        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions() // TLS 1.2 and 1.3
            .map_err(|error| unusable(&error))?
            .with_root_certificates(trusted(config.extra_ca_certs))
            .with_no_client_auth();

        // A sign-in causes at most one extra request, on a new connection that replaces a broken one. UserHub accepts the
        // same event twice. No budget: it counts in seconds that a frozen function does not notice.
        let retry = retry::for_host(config.base_url.host_str().unwrap_or_default().to_owned())
            .max_retries_per_request(second_try.into())
            .no_budget()
            .classify_fn(|attempt| match attempt.error() {
                Some(error) if is_connection_failure(error) => attempt.retryable(),
                _ => attempt.success(),
            });

        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .default_headers(headers)
            .user_agent(USER_AGENT)
            .redirect(redirect::Policy::none()) // the key must not be sent to another server
            .no_proxy() // nor through a proxy that was set for other programs
            .retry(retry)
            .pool_idle_timeout(IDLE_LIMIT);
        #[cfg(target_os = "linux")]
        let http = http.tcp_user_timeout(UNACKNOWLEDGED_LIMIT);

        Ok(Self {
            http: http.build().map_err(|error| unusable(&error))?,
            users_url: format!("{}/admin/v1/users/", config.base_url.as_str().trim_end_matches('/')),
            connection_id: config.connection_id,
        })
    }

    /// Tells UserHub what happened to a user. Returns the status with which UserHub accepted the report. Ends within 2 s, or
    /// within `time_left` if that is shorter.
    ///
    /// # Errors
    /// Every variant of [`Error`] about the network or UserHub's answer.
    pub async fn report(&self, event: EventType, user_name: &str, time_left: Duration) -> Result<StatusCode, Error> {
        let deadline = Instant::now() + REPORT_LIMIT.min(time_left);
        let request = self.http.post(self.event_url(user_name)).body(event.body());
        let response = timeout_at(deadline, request.send())
            .await
            .map_err(|_| Error::TimedOut)?
            .map_err(|error| classify(&error))?;
        match response.status() {
            status if status.is_success() => {
                // Read in the background: a connection with an unread answer cannot be used again.
                tokio::spawn(read_body(response, deadline));
                Ok(status)
            }
            StatusCode::TOO_MANY_REQUESTS => Err(Error::RateLimited(retry_after(&response))),
            status if status.is_client_error() => {
                Err(Error::Rejected { status, code: error_code(&read_body(response, deadline).await) })
            }
            status if status.is_server_error() => Err(Error::Unavailable(status, retry_after(&response))),
            status => Err(Error::UnexpectedStatus(status)),
        }
    }

    /// The URL for a user's events. The name is encoded as by JavaScript's `encodeURIComponent`, so it stays in its segment
    /// of the path.
    #[must_use]
    pub fn event_url(&self, user_name: &str) -> String {
        let user = utf8_percent_encode(user_name, URI_COMPONENT);
        format!("{}{user}@{}:event", self.users_url, self.connection_id)
    }
}

/// Reads the start of an answer's body, until the deadline or `BODY_MAX` bytes.
async fn read_body(mut response: Response, deadline: Instant) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < BODY_MAX
        && let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await
    {
        body.extend_from_slice(&chunk);
    }
    body
}

/// How long the answer asks to wait. `Retry-After` is in seconds or a date (RFC 9110, section 10.2.3).
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok(),
    }
}

/// The `code` of UserHub's error object. It is one of gRPC's code names, so anything else is left out. The `message` is
/// never read, because it may contain the user name.
fn error_code(body: &[u8]) -> Option<String> {
    let error: serde_json::Value = serde_json::from_slice(body).ok()?;
    let code = error.get("code")?.as_str()?;
    let is_code = code.len() <= 32 && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    is_code.then(|| code.to_owned())
}

/// Turns the reason why there is no answer into an [`Error`].
fn classify(error: &reqwest::Error) -> Error {
    // The root cause is the most specific. The outermost error would print the URL with the user name.
    let cause = causes(error).skip(1).last().map(ToString::to_string).unwrap_or_default();
    if error.is_connect() || is_connection_failure(error) { Error::connect(cause) } else { Error::malformed(cause) }
}

/// Whether a new connection may help: this one could not be opened, or it broke before the answer. It does not help if the
/// certificate does not verify or the answer is not HTTP.
fn is_connection_failure(error: &Cause) -> bool {
    causes(error).any(|cause| {
        cause.is::<io::Error>() || cause.downcast_ref::<hyper::Error>().is_some_and(|error| !error.is_parse())
    }) && !causes(error).any(<Cause>::is::<rustls::Error>)
}

type Cause = dyn std::error::Error + 'static;

/// The error and its causes, outermost first. `source` skips the error that an I/O error wraps, so it is added here.
fn causes(error: &Cause) -> impl Iterator<Item = &Cause> {
    std::iter::successors(Some(error), |error| match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    })
}

/// Mozilla's roots, which are compiled in, and the operator's own.
fn trusted(extra_ca_certs: RootCertStore) -> RootCertStore {
    let mut roots = extra_ca_certs;
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    roots
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::io::{BufRead, BufReader, Write as _};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use reqwest::Url;

    use super::*;
    use crate::config::ReportTiming;

    fn client(base_url: &str) -> Client {
        let config = Config {
            admin_key: "userhub_admin_test".into(),
            connection_id: "conn_test".into(),
            base_url: base_url.parse().unwrap(),
            extra_ca_certs: RootCertStore::empty(),
            report: ReportTiming::BeforeResponse,
        };
        Client::new(config, true).unwrap()
    }

    /// encodeURIComponent as ECMAScript defines it, byte by byte.
    fn encode_uri_component(text: &str) -> String {
        text.bytes().fold(String::new(), |mut encoded, byte| {
            if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                write!(encoded, "%{byte:02X}").unwrap();
            }
            encoded
        })
    }

    #[test]
    fn encodes_every_character_as_encode_uri_component_does() {
        let client = client("https://userhub.example");
        for character in '\0'..=char::MAX {
            let name = format!("a{character}b");
            let expected =
                format!("https://userhub.example/admin/v1/users/{}@conn_test:event", encode_uri_component(&name));
            assert_eq!(client.event_url(&name), expected);
        }
    }

    #[test]
    fn no_user_name_leaves_its_path_segment() {
        let client = client("https://userhub.example");
        for name in [".", "..", "/", "../..", "%2e%2e", "?", "#", "\\", "@", ":event", ";", "\r\n", "//evil.example/"] {
            let url: Url = client.event_url(name).parse().unwrap();
            let segments: Vec<_> = url.path_segments().unwrap().collect();
            let last = format!("{}@conn_test:event", encode_uri_component(name));
            assert_eq!(segments, ["admin", "v1", "users", &last]);
            assert_eq!((url.host_str(), url.query(), url.fragment()), (Some("userhub.example"), None, None));
        }
    }

    #[test]
    fn keeps_the_path_of_the_base_url() {
        for base_url in ["https://proxy.example:8443/userhub", "https://proxy.example:8443/userhub/"] {
            let expected = "https://proxy.example:8443/userhub/admin/v1/users/a@conn_test:event";
            assert_eq!(client(base_url).event_url("a"), expected);
        }
    }

    #[test]
    fn trusts_mozillas_roots() {
        assert_eq!(trusted(RootCertStore::empty()).roots, webpki_roots::TLS_SERVER_ROOTS);
    }

    #[test]
    fn debug_output_does_not_show_the_key() {
        let debug = format!("{:?}", client("https://userhub.example"));
        assert!(debug.contains("conn_test") && !debug.contains("userhub_admin_test"), "{debug}");
    }

    #[tokio::test]
    async fn a_connection_is_kept_for_the_idle_limit_and_no_longer() {
        static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = client(&format!("http://{}", listener.local_addr().unwrap()));
        thread::spawn(move || {
            for stream in listener.incoming() {
                CONNECTIONS.fetch_add(1, Ordering::Relaxed);
                thread::spawn(|| {
                    let mut stream = BufReader::new(stream.unwrap());
                    while stream.skip_until(b'}').unwrap() > 0 {
                        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
                    }
                });
            }
        });

        for (idle, connections) in [(Duration::ZERO, 1), (IDLE_LIMIT * 9 / 10, 1), (IDLE_LIMIT * 11 / 10, 2)] {
            tokio::time::pause();
            tokio::time::advance(idle).await;
            tokio::time::resume();
            client.report(EventType::SignIn, "a", Duration::MAX).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await; // until the answer's body is read
            assert_eq!(CONNECTIONS.load(Ordering::Relaxed), connections, "after {idle:?}");
        }
    }
}

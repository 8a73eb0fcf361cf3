//! UserHub's Admin API: the one call that this function makes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, redirect, retry};
use rustls::RootCertStore;
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::config::Config;
use crate::error::{Details, Error};

/// How long sent bytes may stay unacknowledged before the connection counts as dead. While Lambda keeps the function
/// frozen, a NAT gateway or load balancer may silently forget a kept connection. Without this limit the next report would
/// wait on it until its 2 s are over. Linux checks the limit only after it has sent the bytes again, so a slow connection
/// does not count as dead. Measured (`make networks`): a dead connection is found after about 0.5 s, and the report
/// arrives on a new one if a round trip takes up to 0.25 s. With 500 ms it took 0.4 s longer, and failed from 0.2 s
/// on. The limit does not change what gets lost at 5 and 10 % packet loss.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_millis(100);

/// How long an unused connection is kept. AWS's NAT gateways and network load balancers forget a connection after 350 s.
/// After 300 s, a new connection costs less than the 0.5 s that it may take to find the old one dead. If the clock stands
/// still while Lambda keeps the function frozen, the connection is kept for longer, and may have to be found dead.
const IDLE_LIMIT: Duration = Duration::from_mins(5);

/// How much of an answer's body is read, in bytes and in time after its head. This is enough for any error object. A body
/// that was read to its end leaves a connection that can be used again.
const BODY_MAX: usize = 16 * 1024;
const BODY_LIMIT: Duration = Duration::from_millis(300);

/// Longest name that UserHub gives an error, in bytes: twice that of the longest in its SDKs.
const ERROR_NAME_MAX: usize = 64;

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
    /// The name in UserHub's API and in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SignIn => "SIGNIN",
            Self::SignUp => "SIGNUP",
            Self::Changed => "CHANGED",
        }
    }

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
    /// Creates a client without a connection. The first report opens one.
    ///
    /// # Errors
    /// [`Error::Settings`] if the key cannot be a header's value or the TLS settings contradict each other. Neither happens
    /// with a [`Config`] that was read from the environment.
    pub fn new(config: Config) -> Result<Self, Error> {
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

        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .default_headers(headers)
            .user_agent(USER_AGENT)
            .redirect(redirect::Policy::none()) // the key must not be sent to another server
            .no_proxy() // nor through a proxy that was set for other programs
            .retry(retry::never()) // the reporter decides what is worth another try
            .pool_idle_timeout(IDLE_LIMIT);
        #[cfg(target_os = "linux")]
        let http = http.tcp_user_timeout(UNACKNOWLEDGED_LIMIT);

        Ok(Self {
            http: http.build().map_err(|error| unusable(&error))?,
            users_url: format!("{}/admin/v1/users/", config.base_url.as_str().trim_end_matches('/')),
            connection_id: config.connection_id,
        })
    }

    /// Tells UserHub what happened to a user. Returns the status with which UserHub accepted the report. Waits for the head of
    /// the answer within `limit`, which includes the name look-up, connecting and TLS, and then 0.3 s for the body of an
    /// error.
    ///
    /// # Errors
    /// Every variant of [`Error`] about the network or UserHub's answer.
    pub async fn report(&self, event: EventType, user_name: &str, limit: Duration) -> Result<StatusCode, Error> {
        let deadline = Instant::now() + limit;
        let request = self.http.post(self.event_url(user_name)).body(event.body());
        let response = timeout_at(deadline, request.send())
            .await
            .map_err(|_| Error::TimedOut)?
            .map_err(|error| classify(&error))?;
        let status = response.status();
        let body_deadline = deadline.min(Instant::now() + BODY_LIMIT);
        if status.is_success() {
            tokio::spawn(read_body(response, body_deadline)); // a sign-in does not wait for it
            return Ok(status);
        }
        let retry_after = retry_after(&response);
        let details = details(&read_body(response, body_deadline).await);
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS => Error::RateLimited(details, retry_after),
            _ if status.is_client_error() => Error::Rejected(status, details),
            _ if status.is_server_error() => Error::Unavailable(status, details, retry_after),
            _ => Error::UnexpectedStatus(status),
        })
    }

    /// The URL for a user's events. The name is encoded as by JavaScript's `encodeURIComponent`, so it stays in its segment
    /// of the path.
    #[must_use]
    pub fn event_url(&self, user_name: &str) -> String {
        let user = utf8_percent_encode(user_name, URI_COMPONENT);
        format!("{}{user}@{}:event", self.users_url, self.connection_id)
    }
}

/// Reads the start of an answer's body, until the deadline or [`BODY_MAX`] bytes.
async fn read_body(mut response: Response, deadline: Instant) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < BODY_MAX
        && let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await
    {
        body.extend_from_slice(&chunk);
    }
    body.truncate(BODY_MAX);
    body
}

/// How long the answer asks to wait, in seconds. A date (RFC 9110, section 10.2.3) has a precision of seconds too, and all
/// tries of a report end within 4 s, so it is ignored.
fn retry_after(response: &Response) -> Option<Duration> {
    response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// The names in UserHub's error object, if they are made of capitals and underscores. Its `message` is never read, because
/// it may contain the user name.
fn details(body: &[u8]) -> Details {
    let error: Value = serde_json::from_slice(body).unwrap_or_default();
    let is_name = |text: &&str| {
        (1..=ERROR_NAME_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    };
    let name = |field| error.get(field).and_then(Value::as_str).filter(is_name).map(ToOwned::to_owned);
    Details { code: name("code"), reason: name("reason") }
}

/// Turns the reason why there is no answer into an [`Error`].
fn classify(error: &reqwest::Error) -> Error {
    // The root cause is the most specific. The outermost error would print the URL with the user name.
    let cause = causes(error).skip(1).last().map(ToString::to_string).unwrap_or_default();
    match (causes(error).any(<Cause>::is::<rustls::Error>), error.is_connect()) {
        (true, true) => Error::tls(cause),
        (false, true) => Error::connect(cause),
        (false, false) if causes(error).any(is_lost_connection) => Error::connect(cause),
        _ => Error::malformed(cause),
    }
}

/// Whether the connection broke, as opposed to an answer that is not HTTP.
fn is_lost_connection(cause: &Cause) -> bool {
    cause.is::<io::Error>() || cause.downcast_ref::<hyper::Error>().is_some_and(|error| !error.is_parse())
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
        Client::new(config).unwrap()
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
    fn trusts_mozillas_roots_and_the_operators() {
        assert_eq!(trusted(RootCertStore::empty()).roots, webpki_roots::TLS_SERVER_ROOTS);
        let mut extra = RootCertStore::empty();
        let own = rcgen::generate_simple_self_signed(["own.example".to_owned()]).unwrap().cert;
        extra.add(own.der().clone()).unwrap();
        assert_eq!(trusted(extra).len(), 1 + webpki_roots::TLS_SERVER_ROOTS.len());
    }

    #[test]
    fn debug_output_does_not_show_the_key() {
        let debug = format!("{:?}", client("https://userhub.example"));
        assert!(debug.contains("conn_test") && !debug.contains("userhub_admin_test"), "{debug}");
    }

    #[tokio::test]
    async fn a_connection_is_kept_for_five_minutes() {
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

        for (idle, connections) in [(Duration::ZERO, 1), (Duration::from_secs(290), 1), (Duration::from_secs(310), 2)] {
            tokio::time::pause();
            tokio::time::advance(idle).await;
            tokio::time::resume();
            client.report(EventType::SignIn, "a", Duration::from_secs(2)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await; // until the answer's body is read
            assert_eq!(CONNECTIONS.load(Ordering::Relaxed), connections, "after {idle:?}");
        }
    }
}

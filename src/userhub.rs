//! UserHub's Admin API: the one call that this function makes.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Response, StatusCode, Url};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::time::Instant;

use crate::config;
use crate::error::{Error, printable};
use crate::http;
use crate::report::Report;

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

/// Version of the Admin API, as in UserHub's SDKs 0.8.2.
const API_VERSION: &str = "2025-05-01";

/// The product token of the function in UserHub's guide, by which UserHub recognises the source, and then ours.
const PRODUCT: &str = concat!("UserHub-AmazonCognito/1.0 userhub-signin/", env!("CARGO_PKG_VERSION"));

/// A client of UserHub's Admin API.
#[derive(Debug)]
pub struct Client {
    http: http::Client,
    headers: HeaderMap,
    users_url: String,
    connection_id: String,
}

impl Client {
    /// Creates a client without a connection. The first report opens one.
    ///
    /// # Errors
    /// [`Error::Settings`] if the key cannot be a header's value, which [`config`] has checked.
    pub fn new(settings: config::UserHub, http: http::Client) -> Result<Self, Error> {
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", settings.admin_key.expose_secret()))
            .map_err(|error| Error::Settings(format!("USERHUB_ADMIN_KEY cannot be sent: {error}")))?;
        authorization.set_sensitive(true);
        let headers = HeaderMap::from_iter([
            (AUTHORIZATION, authorization),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (ACCEPT, HeaderValue::from_static("application/json")),
            (USER_AGENT, HeaderValue::from_static(PRODUCT)),
            (HeaderName::from_static("userhub-api-version"), HeaderValue::from_static(API_VERSION)),
        ]);
        Ok(Self {
            http,
            headers,
            users_url: format!("{}/admin/v1/users/", settings.base_url.as_str().trim_end_matches('/')),
            connection_id: settings.connection_id,
        })
    }

    /// Tells UserHub what happened to a user. Returns the status with which UserHub accepted the report. Waits for the body of an
    /// error for 0.3 s at most, and not beyond the deadline.
    ///
    /// # Errors
    /// Every variant of [`Error`] about the network or an answer.
    pub async fn send(&self, report: &Report, new_connection: bool, deadline: Instant) -> Result<StatusCode, Error> {
        let url = Url::parse(&self.event_url(&report.user_name)).map_err(|_| Error::Panic)?; // config has parsed the base
        let http = if new_connection { &self.http.with_new_connections()? } else { &self.http };
        let body = format!(r#"{{"type":"{}"}}"#, report.event_type.name());
        let response = http.post(url, self.headers.clone(), body).await?;
        let status = response.status();
        let web_page = web_page(&response);
        if status.is_success() && web_page.is_none() {
            tokio::spawn(http::read_body(response, deadline)); // a sign-in does not wait for it
            return Ok(status);
        }
        let names = error_names(&http::read_body(response, deadline).await);
        Err(match (status, web_page) {
            (StatusCode::TOO_MANY_REQUESTS, _) => Error::RateLimited(names),
            _ if status.is_server_error() => Error::Unavailable(status, names), // load balancers send pages with these
            (_, Some(content_type)) => Error::WebPage(status, printable(&content_type)),
            _ if status.is_client_error() => Error::Rejected(status, names),
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

/// The content type of a page for people. UserHub's API has none: it is another server, or a maintenance page.
fn web_page(response: &Response) -> Option<String> {
    let content_type = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let is_page = ["text/html", "application/xhtml+xml"].iter().any(|page| media_type.eq_ignore_ascii_case(page));
    is_page.then(|| media_type.to_owned())
}

/// The names in UserHub's error object, if they are made of capitals and underscores, each after a comma. Its `message` is never
/// read, because it may contain the user name.
fn error_names(body: &[u8]) -> String {
    let error: Value = serde_json::from_slice(body).unwrap_or_default();
    let is_name = |text: &&str| {
        (1..=ERROR_NAME_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    };
    let names = ["code", "reason"].into_iter().filter_map(|field| error.get(field)?.as_str().filter(is_name));
    names.flat_map(|name| [", ", name]).collect()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::io::{BufRead, BufReader, Write as _};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use rustls::RootCertStore;

    use super::*;
    use crate::trigger::EventType;

    fn client(base_url: &str) -> Client {
        let settings = config::UserHub {
            admin_key: "userhub_admin_test".into(),
            connection_id: "conn_test".into(),
            base_url: base_url.parse().unwrap(),
        };
        Client::new(settings, http::Client::new(RootCertStore::empty()).unwrap()).unwrap()
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
            let report = Report { user_name: "a".into(), event_type: EventType::SignIn };
            client.send(&report, false, Instant::now() + Duration::from_secs(2)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await; // until the answer's body is read
            assert_eq!(CONNECTIONS.load(Ordering::Relaxed), connections, "after {idle:?}");
        }
    }
}

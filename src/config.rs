//! The settings: read from the environment and parsed once, at start.

use std::ffi::OsString;
use std::io::Read;
use std::net::IpAddr;
use std::{fmt, fs};

use reqwest::Url;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::SecretString;

use crate::error::Error;

/// UserHub's production API, from its Admin API reference.
const DEFAULT_BASE_URL: &str = "https://api.userhub.com";

/// The environment variables that an operator sets. README.md and template.yaml list the same ones.
pub const VARIABLES: [&str; 6] = [
    "USERHUB_REPORT_VIA",
    "USERHUB_QUEUE_URL",
    "USERHUB_ADMIN_KEY",
    "AMAZON_COGNITO_CONNECTION_ID",
    "USERHUB_BASE_URL",
    "USERHUB_EXTRA_CA_CERTS",
];

/// Longest value, in bytes. Lambda allows as much for all environment variables of a function together
/// (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>). It keeps every request and URL small.
const VALUE_MAX: usize = 4096;

/// Largest certificate file, in bytes. All of Mozilla's roots take 0.2 MiB.
const CA_CERTS_MAX: u64 = 1024 * 1024;

/// The settings, parsed. White space around a value is ignored. An empty value counts as unset. A wrong setting disables what
/// needs it, and nothing else.
#[derive(Debug)]
pub struct Config {
    /// How to reach UserHub, or what is wrong with it. `None` if `USERHUB_REPORT_VIA` is `queue`.
    pub userhub: Option<Result<UserHub, Error>>,
    /// How to reach the queue, or what is wrong with it. `None` if there is none.
    pub queue: Option<Result<Queue, Error>>,
    /// Certificate authorities to trust in addition to Mozilla's. Read from the file whose path is in the
    /// `USERHUB_EXTRA_CA_CERTS` environment variable.
    pub extra_ca_certs: RootCertStore,
    /// How many certificates of that file cannot be used.
    pub unusable_ca_certs: usize,
    /// Each setting that is missing or wrong.
    pub problems: Vec<Problem>,
}

/// How to reach UserHub.
#[derive(Debug)]
pub struct UserHub {
    /// Admin API key. Read from the `USERHUB_ADMIN_KEY` environment variable.
    pub admin_key: SecretString,
    /// UserHub's id of its connection to the user pool. Read from the `AMAZON_COGNITO_CONNECTION_ID` environment
    /// variable.
    pub connection_id: String,
    /// Base URL of UserHub's API. Read from the `USERHUB_BASE_URL` environment variable.
    pub base_url: Url,
}

/// How to reach the queue. Lambda sets all variables but the first, and never changes them while the process lives.
#[derive(Debug)]
pub struct Queue {
    /// URL of the queue. Read from the `USERHUB_QUEUE_URL` environment variable.
    pub url: Url,
    /// Region of the queue. Read from the `AWS_REGION` environment variable.
    pub region: String,
    /// Read from the `AWS_ACCESS_KEY_ID` environment variable.
    pub access_key_id: String,
    /// Read from the `AWS_SECRET_ACCESS_KEY` environment variable.
    pub secret_access_key: SecretString,
    /// Read from the `AWS_SESSION_TOKEN` environment variable, which credentials without an end do not have.
    pub session_token: Option<SecretString>,
}

/// What is wrong with one setting and how to fix it. It never contains the value.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The environment variable.
    pub variable: &'static str,
    what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.variable, self.what)
    }
}

/// How sign-ins are reported.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Via {
    /// The sign-in waits for UserHub, 2 s at most.
    Direct,
    /// The sign-in waits until the report is in the queue.
    Queue,
}

impl Config {
    /// Reads the environment of this process.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_variables(|variable| std::env::var_os(variable))
    }

    fn from_variables(value_of: impl Fn(&str) -> Option<OsString>) -> Self {
        let mut variables = Variables { value_of, problems: Vec::new() };
        // With a wrong word, what is there is used: UserHub, and the queue for what UserHub does not take.
        let via = variables.parse("USERHUB_REPORT_VIA", via).unwrap_or(Via::Direct);
        let has_queue = via == Via::Queue || variables.is_set("USERHUB_QUEUE_URL");
        let queue = has_queue.then(|| variables.group(Variables::queue));
        let mut ca_certs = None;
        let userhub = variables.group(|variables| {
            ca_certs = variables.parse("USERHUB_EXTRA_CA_CERTS", ca_certs_in);
            let userhub = if via == Via::Direct { variables.userhub() } else { None };
            ca_certs.as_ref().and(userhub)
        });
        let (extra_ca_certs, unusable_ca_certs) = ca_certs.unwrap_or_else(|| (RootCertStore::empty(), 0));
        Self {
            userhub: (via == Via::Direct).then_some(userhub),
            queue,
            extra_ca_certs,
            unusable_ca_certs,
            problems: variables.problems,
        }
    }
}

/// A source of values, and the problems found so far.
struct Variables<F> {
    value_of: F,
    problems: Vec<Problem>,
}

impl<F: Fn(&str) -> Option<OsString>> Variables<F> {
    fn userhub(&mut self) -> Option<UserHub> {
        let admin_key = self.parse("USERHUB_ADMIN_KEY", admin_key);
        let connection_id = self.parse("AMAZON_COGNITO_CONNECTION_ID", connection_id);
        let base_url = self.parse("USERHUB_BASE_URL", base_url);
        Some(UserHub { admin_key: admin_key?, connection_id: connection_id?, base_url: base_url? })
    }

    fn queue(&mut self) -> Option<Queue> {
        let url = self.parse("USERHUB_QUEUE_URL", queue_url);
        let text =
            |value: Option<&str>| value.map(ToOwned::to_owned).ok_or_else(|| "is not set: Lambda sets it".to_owned());
        let region = self.parse("AWS_REGION", text);
        let access_key_id = self.parse("AWS_ACCESS_KEY_ID", text);
        let secret_access_key = self.parse("AWS_SECRET_ACCESS_KEY", text);
        let session_token = self.parse("AWS_SESSION_TOKEN", |value| Ok(value.map(SecretString::from)));
        Some(Queue {
            url: url?,
            region: region?,
            access_key_id: access_key_id?,
            secret_access_key: secret_access_key?.into(),
            session_token: session_token?,
        })
    }

    /// Parses several settings. If one is wrong, returns the sentences about all that are.
    fn group<T>(&mut self, parse: impl FnOnce(&mut Self) -> Option<T>) -> Result<T, Error> {
        let before = self.problems.len();
        parse(self).ok_or_else(|| {
            let sentences: Vec<_> = self.problems[before..].iter().map(ToString::to_string).collect();
            Error::Settings(sentences.join("; "))
        })
    }

    fn is_set(&self, variable: &str) -> bool {
        (self.value_of)(variable).is_some_and(|value| !value.to_string_lossy().trim().is_empty())
    }

    /// Returns the parsed setting, or adds a problem and returns `None`. `parse` gets `None` for an unset variable.
    fn parse<T>(&mut self, variable: &'static str, parse: impl FnOnce(Option<&str>) -> Result<T, String>) -> Option<T> {
        let value = (self.value_of)(variable).unwrap_or_default();
        value
            .to_str()
            .ok_or_else(|| "is not UTF-8 text".to_owned())
            .map(str::trim)
            .and_then(|value| match value.len() {
                0 => parse(None),
                1..=VALUE_MAX => parse(Some(value)),
                _ => Err("is longer than the 4 KB that Lambda allows for all variables".to_owned()),
            })
            .map_err(|what| self.problems.push(Problem { variable, what }))
            .ok()
    }
}

fn via(value: Option<&str>) -> Result<Via, String> {
    match value {
        None | Some("direct") => Ok(Via::Direct),
        Some("queue") => Ok(Via::Queue),
        Some(_) => Err("must be direct or queue; direct is used".into()),
    }
}

fn admin_key(value: Option<&str>) -> Result<SecretString, String> {
    let key = value.ok_or("is not set: create an Admin API key in UserHub and put it there")?;
    // A bearer token (RFC 6750, section 2.1): these characters, and then any number of '='.
    let token = key.trim_end_matches('=');
    let is_token_character = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    if !token.is_empty() && token.bytes().all(is_token_character) {
        Ok(key.into())
    } else {
        Err("is not an Admin API key: it may contain only letters, digits and -._~+/= \
             (common causes are quotes around it, and a secret that contains JSON instead of the key alone)"
            .into())
    }
}

fn connection_id(value: Option<&str>) -> Result<String, String> {
    let id = value.ok_or("is not set: put the id of UserHub's Amazon Cognito connection there (conn_...)")?;
    if id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
        Ok(id.to_owned())
    } else {
        Err("may contain only letters, digits, '_' and '-': copy the connection's id from UserHub again".into())
    }
}

fn base_url(value: Option<&str>) -> Result<Url, String> {
    url(value.unwrap_or(DEFAULT_BASE_URL))
}

fn queue_url(value: Option<&str>) -> Result<Url, String> {
    let url = url(value.ok_or("is not set: put the URL of the SQS queue there, or set USERHUB_REPORT_VIA to direct")?)?;
    if url.path() == "/" {
        return Err(
            "must be the URL of an SQS queue such as https://sqs.eu-west-1.amazonaws.com/123456789012/name".into()
        );
    }
    Ok(url)
}

/// A URL to which a secret may be sent.
fn url(text: &str) -> Result<Url, String> {
    if text.contains(char::is_control) {
        return Err("contains control characters".into()); // the URL parser would drop some of them silently
    }
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        "http" => {
            return Err(
                "must start with https:// (http is for a loopback host only: the key would travel unencrypted)".into(),
            );
        }
        _ => return Err("must start with https://".into()),
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err("may contain a host, a port and a path, but no user, query or fragment".into());
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The certificates in a file that can be used, and how many cannot. Collections of a company's certificates often hold some
/// that are old or broken.
fn ca_certs_in(path: Option<&str>) -> Result<(RootCertStore, usize), String> {
    let mut certs = RootCertStore::empty();
    let Some(path) = path else { return Ok((certs, 0)) };
    let unreadable = |error| format!("names a file that cannot be read: {error}");
    // Checked first: opening a pipe waits for its other end. The length of some files is 0 although they never end.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("must name a regular file of at most 1 MiB".into());
    }
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(CA_CERTS_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > CA_CERTS_MAX {
        return Err("must name a regular file of at most 1 MiB".into());
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text); // a byte order mark would hide the first line
    let mut unusable = 0;
    // The parser's errors are not kept because they may quote the file.
    for certificate in CertificateDer::pem_slice_iter(text) {
        let added = certificate.is_ok_and(|certificate| certs.add(certificate).is_ok());
        unusable += usize::from(!added);
    }
    match (certs.len(), unusable) {
        (0, 0) => Err("names a file without a certificate: it must contain PEM blocks 'BEGIN CERTIFICATE'".into()),
        (0, _) => Err("names a file with no certificate that can be used".into()),
        _ => Ok((certs, unusable)),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn config(variables: &[(&str, &str)]) -> Config {
        Config::from_variables(|name| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into()))
    }

    fn base_url(value: &str) -> Result<String, String> {
        super::base_url(Some(value)).map(|url| url.to_string())
    }

    fn variables(problems: &[Problem]) -> Vec<&'static str> {
        problems.iter().map(|problem| problem.variable).collect()
    }

    #[track_caller]
    fn assert_settings_error<T: fmt::Debug>(setting: Option<Result<T, Error>>, names: &[&str]) {
        let Some(Err(Error::Settings(text))) = setting else { panic!("{setting:?}") };
        let found: Vec<_> = text.split("; ").map(|sentence| sentence.split(' ').next().unwrap()).collect();
        assert_eq!(found, names, "{text}");
    }

    const REQUIRED: [(&str, &str); 2] =
        [("USERHUB_ADMIN_KEY", "userhub_admin_test"), ("AMAZON_COGNITO_CONNECTION_ID", "conn_Test-1")];
    const QUEUE: [(&str, &str); 4] = [
        ("USERHUB_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/userhub-signin"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "test-id"),
        ("AWS_SECRET_ACCESS_KEY", "test-secret"),
    ];

    #[test]
    fn two_settings_are_enough() {
        let config = config(&REQUIRED);
        assert_eq!(config.problems, []);
        let userhub = config.userhub.unwrap().unwrap();
        assert_eq!(userhub.connection_id, "conn_Test-1");
        assert_eq!(userhub.base_url.as_str(), "https://api.userhub.com/");
        assert!(config.queue.is_none() && config.extra_ca_certs.is_empty());
    }

    #[test]
    fn a_queue_needs_no_key() {
        let via_queue = [&QUEUE[..], &[("USERHUB_REPORT_VIA", "queue")]].concat();
        let config = config(&via_queue);
        assert_eq!(config.problems, []);
        assert!(config.userhub.is_none());
        let queue = config.queue.unwrap().unwrap();
        assert_eq!((queue.url.as_str(), &*queue.region, &*queue.access_key_id), (QUEUE[0].1, "eu-west-1", "test-id"));
        assert!(queue.session_token.is_none());
    }

    #[test]
    fn every_problem_is_named() {
        let config = config(&[("USERHUB_BASE_URL", "http://userhub.example"), QUEUE[0]]);
        let userhub = ["USERHUB_ADMIN_KEY", "AMAZON_COGNITO_CONNECTION_ID", "USERHUB_BASE_URL"];
        let queue = ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        assert_eq!(variables(&config.problems), [queue, userhub].concat());
        assert_settings_error(config.userhub, &userhub);
        assert_settings_error(config.queue, &queue);
    }

    #[test]
    fn a_wrong_setting_disables_only_what_needs_it() {
        let no_path = ("USERHUB_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/");
        let wrong_queue = config(&[&[no_path], &QUEUE[1..], &REQUIRED].concat());
        assert_settings_error(wrong_queue.queue, &["USERHUB_QUEUE_URL"]);
        assert!(wrong_queue.userhub.unwrap().is_ok());

        let wrong_key = config(&[&QUEUE[..], &[("USERHUB_ADMIN_KEY", "a b"), REQUIRED[1]]].concat());
        assert_settings_error(wrong_key.userhub, &["USERHUB_ADMIN_KEY"]);
        assert!(wrong_key.queue.unwrap().is_ok());

        let wrong_way = config(&[&QUEUE[..], &REQUIRED, &[("USERHUB_REPORT_VIA", "QUEUE")]].concat());
        assert_eq!(variables(&wrong_way.problems), ["USERHUB_REPORT_VIA"]);
        assert!(wrong_way.userhub.unwrap().is_ok() && wrong_way.queue.unwrap().is_ok());

        let no_queue = config(&[&[("USERHUB_REPORT_VIA", "queue")], &QUEUE[1..]].concat());
        assert_settings_error(no_queue.queue, &["USERHUB_QUEUE_URL"]);
    }

    #[test]
    fn debug_output_does_not_show_secrets() {
        let debug = format!("{:?}", config(&[&QUEUE[..], &REQUIRED, &[("AWS_SESSION_TOKEN", "test-token")]].concat()));
        assert!(debug.contains("conn_Test-1") && debug.contains("test-id"), "{debug}");
        for secret in ["userhub_admin_test", "test-secret", "test-token"] {
            assert!(!debug.contains(secret), "{debug}");
        }
    }

    /// RFC 6750, section 2.1.
    #[test]
    fn a_key_is_a_bearer_token() {
        for key in ["userhub_admin_Az09", "a-._~+/Z", "abc=", "abc=="] {
            assert_eq!(admin_key(Some(key)).unwrap().expose_secret(), key);
        }
        for key in ["\"a\"", "'a'", "{\"key\":\"a\"}", "a b", "a\tb", "a\u{7f}", "\u{e9}", "=", "a=b", "a,b", "a:b"] {
            assert!(admin_key(Some(key)).is_err(), "{key}");
        }
    }

    #[test]
    fn a_value_has_at_most_4_kb() {
        let with_id = |length| config(&[REQUIRED[0], ("AMAZON_COGNITO_CONNECTION_ID", &"a".repeat(length))]).problems;
        assert_eq!(with_id(4096), []);
        assert_eq!(
            with_id(4097)[0].to_string(),
            "AMAZON_COGNITO_CONNECTION_ID is longer than the 4 KB that Lambda allows for all variables"
        );
    }

    #[test]
    fn accepts_https_for_any_host_and_http_for_loopback_hosts() {
        for url in [
            "https://api.userhub.example/",
            "https://10.0.0.1:8443/prefix",
            "https://[2001:db8::1]/",
            "http://localhost:9000/",
            "http://127.0.0.1/",
            "http://127.8.9.10:1/",
            "http://[::1]:9000/",
            "https://xn--bcher-kva.example/",
        ] {
            assert_eq!(base_url(url).as_deref(), Ok(url));
        }
        for url in [
            "http://api.userhub.example/",
            "http://10.0.0.1/",
            "http://[2001:db8::1]/",
            "http://localhost.example/",
            "http://evillocalhost/",
            "http://127.0.0.1.example/",
            "http://127.0.0.1@userhub.example/",
            "ftp://localhost/",
            "localhost:9000",
            "https://b\u{fc}cher.example/", // needs idna_adapter's Unicode tables, which are left out
        ] {
            assert!(base_url(url).is_err(), "{url}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_text_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let problems = Config::from_variables(|_| Some(OsString::from_vec(vec![b'a', 0xff]))).problems;
        assert_eq!(problems[0].to_string(), "USERHUB_REPORT_VIA is not UTF-8 text");
        let mut named = variables(&problems);
        named.retain(|variable| !variable.starts_with("AWS_"));
        named.sort_unstable();
        let mut all = VARIABLES.to_vec();
        all.sort_unstable();
        assert_eq!(named, all);
    }
}

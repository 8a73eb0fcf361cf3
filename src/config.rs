//! The settings: read from the environment and parsed once, at start.

use std::ffi::OsString;
use std::net::IpAddr;
use std::{fmt, fs};

use reqwest::Url;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::SecretString;

/// UserHub's production API, from its Admin API reference.
const DEFAULT_BASE_URL: &str = "https://api.userhub.com";

/// The environment variables that [`Config`] is read from. README.md and template.yaml list the same ones.
pub const VARIABLES: [&str; 5] = [
    "USERHUB_ADMIN_KEY",
    "AMAZON_COGNITO_CONNECTION_ID",
    "USERHUB_BASE_URL",
    "USERHUB_EXTRA_CA_CERTS",
    "USERHUB_REPORT",
];

/// Longest value, in bytes. Lambda allows as much for all environment variables of a function together
/// (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>). It keeps every request and URL small.
const VALUE_MAX: usize = 4096;

/// Largest certificate file, in bytes. All of Mozilla's roots take 0.2 MiB.
const CA_CERTS_MAX: u64 = 1024 * 1024;

/// The settings, parsed. White space around a value is dropped. An empty value counts as unset.
#[derive(Debug)]
pub struct Config {
    /// Admin API key. Read from the `USERHUB_ADMIN_KEY` environment variable.
    pub admin_key: SecretString,
    /// UserHub's id of its connection to the user pool. Read from the `AMAZON_COGNITO_CONNECTION_ID` environment
    /// variable.
    pub connection_id: String,
    /// Base URL of UserHub's API. Read from the `USERHUB_BASE_URL` environment variable.
    pub base_url: Url,
    /// Certificate authorities to trust in addition to Mozilla's. Read from the file whose path is in the
    /// `USERHUB_EXTRA_CA_CERTS` environment variable.
    pub extra_ca_certs: RootCertStore,
    /// When a sign-in is reported. Read from the `USERHUB_REPORT` environment variable.
    pub report: ReportTiming,
}

/// Whether a sign-in waits for its report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReportTiming {
    /// The function reports first: Cognito waits, up to 2 s.
    BeforeResponse,
    /// The function returns the event first: Cognito does not wait.
    AfterResponse,
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

impl Config {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// One [`Problem`] for each setting that is missing or wrong.
    pub fn from_env() -> Result<Self, Vec<Problem>> {
        Self::from_variables(|variable| std::env::var_os(variable))
    }

    fn from_variables(value_of: impl Fn(&str) -> Option<OsString>) -> Result<Self, Vec<Problem>> {
        let mut variables = Variables { value_of, problems: Vec::new() };
        let admin_key = variables.parse("USERHUB_ADMIN_KEY", admin_key);
        let connection_id = variables.parse("AMAZON_COGNITO_CONNECTION_ID", connection_id);
        let base_url = variables.parse("USERHUB_BASE_URL", base_url);
        let extra_ca_certs = variables.parse("USERHUB_EXTRA_CA_CERTS", extra_ca_certs);
        let report = variables.parse("USERHUB_REPORT", report_timing);
        match (admin_key, connection_id, base_url, extra_ca_certs, report) {
            (Some(admin_key), Some(connection_id), Some(base_url), Some(extra_ca_certs), Some(report)) => {
                Ok(Self { admin_key, connection_id, base_url, extra_ca_certs, report })
            }
            _ => Err(variables.problems),
        }
    }
}

/// A source of values, and the problems found so far.
struct Variables<F> {
    value_of: F,
    problems: Vec<Problem>,
}

impl<F: Fn(&str) -> Option<OsString>> Variables<F> {
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
    let text = value.unwrap_or(DEFAULT_BASE_URL);
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

fn extra_ca_certs(path: Option<&str>) -> Result<RootCertStore, String> {
    let mut extra = RootCertStore::empty();
    if let Some(path) = path {
        let unreadable = |error| format!("names a file that cannot be read: {error}");
        let file = fs::metadata(path).map_err(unreadable)?; // checked first: opening a pipe waits for its other end
        if !file.is_file() || file.len() > CA_CERTS_MAX {
            return Err("must name a regular file of at most 1 MiB".into());
        }
        // The parser's error is left out because it may quote the file.
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&fs::read(path).map_err(unreadable)?)
            .collect::<Result<_, _>>()
            .map_err(|_| "names a file that is not PEM")?;
        if certificates.is_empty() {
            return Err("names a file without a certificate: it must contain PEM blocks 'BEGIN CERTIFICATE'".into());
        }
        for certificate in certificates {
            extra.add(certificate).map_err(|error| format!("names a file with an unusable certificate: {error}"))?;
        }
    }
    Ok(extra)
}

fn report_timing(value: Option<&str>) -> Result<ReportTiming, String> {
    match value {
        None | Some("before-response") => Ok(ReportTiming::BeforeResponse),
        Some("after-response") => Ok(ReportTiming::AfterResponse),
        Some(_) => Err("must be before-response or after-response".into()),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
        Config::from_variables(|name| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into()))
    }

    fn base_url(value: &str) -> Result<String, String> {
        super::base_url(Some(value)).map(|url| url.to_string())
    }

    const REQUIRED: [(&str, &str); 2] =
        [("USERHUB_ADMIN_KEY", "userhub_admin_test"), ("AMAZON_COGNITO_CONNECTION_ID", "conn_Test-1")];

    #[test]
    fn two_settings_are_enough() {
        let config = config(&REQUIRED).unwrap();
        assert_eq!(config.connection_id, "conn_Test-1");
        assert_eq!(config.base_url.as_str(), "https://api.userhub.com/");
        assert!(config.extra_ca_certs.is_empty());
        assert_eq!(config.report, ReportTiming::BeforeResponse);
    }

    #[test]
    fn every_problem_is_named() {
        let problems = config(&[("USERHUB_BASE_URL", "http://userhub.example")]).unwrap_err();
        let variables: Vec<_> = problems.iter().map(|problem| problem.variable).collect();
        assert_eq!(variables, ["USERHUB_ADMIN_KEY", "AMAZON_COGNITO_CONNECTION_ID", "USERHUB_BASE_URL"]);
    }

    #[test]
    fn debug_output_does_not_show_the_key() {
        let debug = format!("{:?}", config(&REQUIRED).unwrap());
        assert!(debug.contains("conn_Test-1") && !debug.contains("userhub_admin_test"), "{debug}");
    }

    /// `USERHUB_ADMIN_KEY` is `admin_key`.
    #[test]
    fn a_field_is_named_like_its_variable() {
        let debug = format!("{:?}", config(&REQUIRED).unwrap());
        for variable in VARIABLES {
            let name = variable.strip_prefix("USERHUB_").or_else(|| variable.strip_prefix("AMAZON_COGNITO_")).unwrap();
            assert!(debug.contains(&format!(" {}: ", name.to_lowercase())), "{variable}: {debug}");
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
        let with_id = |length| config(&[REQUIRED[0], ("AMAZON_COGNITO_CONNECTION_ID", &"a".repeat(length))]);
        assert!(with_id(4096).is_ok());
        let problem = with_id(4097).unwrap_err().remove(0).to_string();
        assert_eq!(
            problem,
            "AMAZON_COGNITO_CONNECTION_ID is longer than the 4 KB that Lambda allows for all variables"
        );
    }

    #[test]
    fn reports_before_or_after_the_response() {
        assert_eq!(report_timing(Some("before-response")), Ok(ReportTiming::BeforeResponse));
        assert_eq!(report_timing(Some("after-response")), Ok(ReportTiming::AfterResponse));
        for value in ["after", "AFTER-RESPONSE", "true"] {
            assert_eq!(report_timing(Some(value)), Err("must be before-response or after-response".to_owned()));
        }
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
        let problems = Config::from_variables(|_| Some(OsString::from_vec(vec![b'a', 0xff]))).unwrap_err();
        assert_eq!(problems[0].to_string(), "USERHUB_ADMIN_KEY is not UTF-8 text");
        let variables: Vec<_> = problems.iter().map(|problem| problem.variable).collect();
        assert_eq!(variables, VARIABLES);
    }
}

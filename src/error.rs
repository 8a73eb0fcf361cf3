//! Why a sign-in was not reported.

use std::fmt::{self, Display};
use std::time::Duration;

use reqwest::StatusCode;

/// Longest text from outside (network, TLS or HTTP errors) that is kept, in characters.
const FOREIGN_TEXT_MAX: usize = 200;

/// One variant for each cause that needs a different reaction. No variant contains a user name, a URL or the admin key.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Settings are missing or wrong, so nothing can be sent. Contains what is wrong with each.
    #[error("{0}")]
    Settings(String),
    /// The event has no user name that can be reported. Contains what is wrong with the event.
    #[error("the event {0}")]
    Event(&'static str),
    /// UserHub did not answer the last reports, so this one was not tried.
    #[error("UserHub has not been answering, so it is not asked for some seconds")]
    CircuitOpen,
    /// The connection failed, or it broke before UserHub answered. Contains the system's error text.
    #[error("could not reach UserHub: {0}")]
    Connect(String),
    /// TLS failed, for example because the certificate does not verify. Contains rustls's error text.
    #[error("could not reach UserHub: {0}")]
    Tls(String),
    /// UserHub did not answer before the time limit.
    #[error("UserHub did not answer in time")]
    TimedOut,
    /// UserHub rejected the report (any 4xx except 429): the admin key, the connection id or the user is wrong.
    #[error("UserHub rejected the report: {0}{1}")]
    Rejected(StatusCode, Details),
    /// UserHub asked for fewer requests (429). Contains its `Retry-After`.
    #[error("UserHub is limiting the rate of requests: 429 Too Many Requests{0}")]
    RateLimited(Details, Option<Duration>),
    /// UserHub failed (5xx). Contains its `Retry-After`.
    #[error("UserHub is unavailable: {0}{1}")]
    Unavailable(StatusCode, Details, Option<Duration>),
    /// A status that the Admin API does not use, such as a redirect.
    #[error("unexpected answer: {0}")]
    UnexpectedStatus(StatusCode),
    /// The answer was not HTTP. Contains the parser's error text.
    #[error("unexpected answer: {0}")]
    Malformed(String),
    /// This function has a bug. The panic hook logs its location.
    #[error("the report panicked")]
    Panic,
}

/// What UserHub's error object says, without its `message`, which may contain the user name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// UserHub's name for the error, such as `PERMISSION_DENIED`.
    pub code: Option<String>,
    /// A more specific name that some errors have, such as `USER_PENDING_DELETION`.
    pub reason: Option<String>,
}

/// Each part after a comma.
impl Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.code.iter().chain(&self.reason).try_for_each(|part| write!(f, ", {part}"))
    }
}

impl Error {
    /// Every value of [`kind`](Self::kind). docs/operate.md describes each.
    pub const KINDS: [&str; 10] = [
        "settings",
        "event",
        "circuit_open",
        "connect",
        "timed_out",
        "rejected",
        "rate_limited",
        "unavailable",
        "unexpected_answer",
        "panic",
    ];

    /// Creates a `Connect` whose text is safe to log.
    pub fn connect(cause: impl Display) -> Self {
        Self::Connect(printable(cause))
    }

    /// Creates a `Tls` whose text is safe to log.
    pub fn tls(cause: impl Display) -> Self {
        Self::Tls(printable(cause))
    }

    /// Creates a `Malformed` whose text is safe to log.
    pub fn malformed(cause: impl Display) -> Self {
        Self::Malformed(printable(cause))
    }

    /// The short name for logs and alarms. It never changes.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Settings(_) => "settings",
            Self::Event(_) => "event",
            Self::CircuitOpen => "circuit_open",
            Self::Connect(_) | Self::Tls(_) => "connect",
            Self::TimedOut => "timed_out",
            Self::Rejected(..) => "rejected",
            Self::RateLimited(..) => "rate_limited",
            Self::Unavailable(..) => "unavailable",
            Self::UnexpectedStatus(_) | Self::Malformed(_) => "unexpected_answer",
            Self::Panic => "panic",
        }
    }

    /// Whether UserHub, or a server in its place, has answered.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        self.status().is_some() || matches!(self, Self::Malformed(_))
    }

    /// Whether another try may succeed. It does not help if UserHub would answer the same again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::TimedOut | Self::RateLimited(..) | Self::Unavailable(..))
    }

    /// The HTTP status of UserHub's answer, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Rejected(status, _) | Self::Unavailable(status, ..) | Self::UnexpectedStatus(status) => Some(*status),
            Self::RateLimited(..) => Some(StatusCode::TOO_MANY_REQUESTS),
            Self::Settings(_)
            | Self::Event(_)
            | Self::CircuitOpen
            | Self::Connect(_)
            | Self::Tls(_)
            | Self::TimedOut
            | Self::Malformed(_)
            | Self::Panic => None,
        }
    }

    /// How long UserHub asks to wait before the next try.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(_, retry_after) | Self::Unavailable(.., retry_after) => *retry_after,
            _ => None,
        }
    }
}

/// Text from outside on one line and of limited length, so that it cannot forge or flood log lines.
fn printable(text: impl Display) -> String {
    text.to_string().chars().filter(|character| !character.is_control()).take(FOREIGN_TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_error(error: &Error, kind: &str, status: Option<u16>, is_transient: bool, text: &str) {
        assert_eq!(error.kind(), kind);
        assert!(Error::KINDS.contains(&kind));
        assert_eq!(error.status().map(|status| status.as_u16()), status);
        assert_eq!(error.is_transient(), is_transient);
        assert_eq!(error.to_string(), text);
    }

    fn details(code: Option<&str>, reason: Option<&str>) -> Details {
        Details { code: code.map(ToOwned::to_owned), reason: reason.map(ToOwned::to_owned) }
    }

    #[test]
    fn has_a_kind_a_status_and_a_text() {
        assert_error(&Error::Settings("A is not set".into()), "settings", None, false, "A is not set");
        assert_error(&Error::Event("has no userName"), "event", None, false, "the event has no userName");
        let text = "UserHub has not been answering, so it is not asked for some seconds";
        assert_error(&Error::CircuitOpen, "circuit_open", None, false, text);
        assert_error(&Error::connect("no route"), "connect", None, true, "could not reach UserHub: no route");
        assert_error(&Error::tls("unknown issuer"), "connect", None, false, "could not reach UserHub: unknown issuer");
        assert_error(&Error::TimedOut, "timed_out", None, true, "UserHub did not answer in time");
        let rejected = |details| Error::Rejected(StatusCode::FORBIDDEN, details);
        let text = "UserHub rejected the report: 403 Forbidden, PERMISSION_DENIED, USER_PENDING_DELETION";
        let both = details(Some("PERMISSION_DENIED"), Some("USER_PENDING_DELETION"));
        assert_error(&rejected(both), "rejected", Some(403), false, text);
        let text = "UserHub rejected the report: 403 Forbidden";
        assert_error(&rejected(Details::default()), "rejected", Some(403), false, text);
        let text = "UserHub is limiting the rate of requests: 429 Too Many Requests, RESOURCE_EXHAUSTED";
        let limited = Error::RateLimited(details(Some("RESOURCE_EXHAUSTED"), None), None);
        assert_error(&limited, "rate_limited", Some(429), true, text);
        let text = "UserHub is unavailable: 502 Bad Gateway, INTERNAL";
        let unavailable = Error::Unavailable(StatusCode::BAD_GATEWAY, details(Some("INTERNAL"), None), None);
        assert_error(&unavailable, "unavailable", Some(502), true, text);
        let text = "unexpected answer: 302 Found";
        assert_error(&Error::UnexpectedStatus(StatusCode::FOUND), "unexpected_answer", Some(302), false, text);
        let malformed = Error::malformed("not HTTP");
        assert_error(&malformed, "unexpected_answer", None, false, "unexpected answer: not HTTP");
        assert_error(&Error::Panic, "panic", None, false, "the report panicked");
    }

    #[test]
    fn an_answer_is_a_status_or_something_that_is_not_http() {
        assert!(Error::UnexpectedStatus(StatusCode::FOUND).is_answer() && Error::malformed("").is_answer());
        for error in [Error::TimedOut, Error::connect(""), Error::tls(""), Error::CircuitOpen, Error::Panic] {
            assert!(!error.is_answer(), "{error:?}");
        }
    }

    #[test]
    fn text_from_outside_is_one_short_line() {
        let foreign = format!("one\r\ntwo\u{1b}[31m\0\u{85}{}", "é".repeat(1000));
        let text = format!("could not reach UserHub: onetwo[31m{}", "é".repeat(190));
        assert_eq!(Error::connect(&foreign).to_string(), text);
        assert_eq!(Error::tls(&foreign).to_string(), text);
        assert!(Error::malformed(&foreign).to_string().starts_with("unexpected answer: onetwo[31mé"));
    }
}

//! Why a sign-in was not reported.

use std::fmt::Display;
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
    /// The connection failed, or it broke before UserHub answered. Contains the system's error text.
    #[error("could not reach UserHub: {0}")]
    Connect(String),
    /// UserHub did not answer before the time limit.
    #[error("UserHub did not answer in time")]
    TimedOut,
    /// UserHub rejected the report (4xx): the admin key, the connection id or the user is wrong.
    #[error("UserHub rejected the report: {status}{}", code.as_ref().map(|code| format!(", {code}")).unwrap_or_default())]
    Rejected {
        /// Any 4xx except 429.
        status: StatusCode,
        /// UserHub's own name for the error, such as `PERMISSION_DENIED`.
        code: Option<String>,
    },
    /// UserHub asked for fewer requests (429). Contains its `Retry-After`.
    #[error("UserHub is limiting the rate of requests: 429 Too Many Requests")]
    RateLimited(Option<Duration>),
    /// UserHub failed (5xx). Contains its `Retry-After`.
    #[error("UserHub is unavailable: {0}")]
    Unavailable(StatusCode, Option<Duration>),
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

impl Error {
    /// Every value of [`kind`](Self::kind). docs/operate.md describes each.
    pub const KINDS: [&str; 9] = [
        "settings",
        "event",
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
            Self::Connect(_) => "connect",
            Self::TimedOut => "timed_out",
            Self::Rejected { .. } => "rejected",
            Self::RateLimited(_) => "rate_limited",
            Self::Unavailable(..) => "unavailable",
            Self::UnexpectedStatus(_) | Self::Malformed(_) => "unexpected_answer",
            Self::Panic => "panic",
        }
    }

    /// The HTTP status of UserHub's answer, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Rejected { status, .. } | Self::Unavailable(status, _) | Self::UnexpectedStatus(status) => {
                Some(*status)
            }
            Self::RateLimited(_) => Some(StatusCode::TOO_MANY_REQUESTS),
            Self::Settings(_)
            | Self::Event(_)
            | Self::Connect(_)
            | Self::TimedOut
            | Self::Malformed(_)
            | Self::Panic => None,
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
    fn assert_error(error: &Error, kind: &str, status: Option<u16>, text: &str) {
        assert_eq!(error.kind(), kind);
        assert!(Error::KINDS.contains(&kind));
        assert_eq!(error.status().map(|status| status.as_u16()), status);
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn has_a_kind_a_status_and_a_text() {
        let rejected =
            |code: Option<&str>| Error::Rejected { status: StatusCode::FORBIDDEN, code: code.map(ToOwned::to_owned) };
        assert_error(&Error::Settings("A is not set".into()), "settings", None, "A is not set");
        assert_error(&Error::Event("has no userName"), "event", None, "the event has no userName");
        assert_error(&Error::connect("no route"), "connect", None, "could not reach UserHub: no route");
        assert_error(&Error::TimedOut, "timed_out", None, "UserHub did not answer in time");
        let text = "UserHub rejected the report: 403 Forbidden, PERMISSION_DENIED";
        assert_error(&rejected(Some("PERMISSION_DENIED")), "rejected", Some(403), text);
        assert_error(&rejected(None), "rejected", Some(403), "UserHub rejected the report: 403 Forbidden");
        let text = "UserHub is limiting the rate of requests: 429 Too Many Requests";
        assert_error(&Error::RateLimited(None), "rate_limited", Some(429), text);
        let text = "UserHub is unavailable: 502 Bad Gateway";
        let unavailable = Error::Unavailable(StatusCode::BAD_GATEWAY, None);
        assert_error(&unavailable, "unavailable", Some(502), text);
        let text = "unexpected answer: 302 Found";
        assert_error(&Error::UnexpectedStatus(StatusCode::FOUND), "unexpected_answer", Some(302), text);
        assert_error(&Error::malformed("not HTTP"), "unexpected_answer", None, "unexpected answer: not HTTP");
        assert_error(&Error::Panic, "panic", None, "the report panicked");
    }

    #[test]
    fn text_from_outside_is_one_short_line() {
        let foreign = format!("one\r\ntwo\u{1b}[31m\0\u{85}{}", "é".repeat(1000));
        let text = format!("could not reach UserHub: onetwo[31m{}", "é".repeat(190));
        assert_eq!(Error::connect(foreign).to_string(), text);
    }
}

//! Why a report did not arrive, and whether it may arrive later.

use reqwest::StatusCode;

/// Longest text from outside (network, TLS or HTTP errors) that is kept, in bytes.
const FOREIGN_TEXT_MAX: usize = 200;

/// One variant for each cause that needs a different reaction. No variant contains a user name, a URL or the admin key. Text from
/// outside is [`printable`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Settings are missing or wrong, so nothing can be sent. Contains what is wrong with each.
    #[error("{0}")]
    Settings(String),
    /// The event has no user name that can be reported. Contains what is wrong with the event.
    #[error("the event {0}")]
    Event(&'static str),
    /// A message from the queue is none that this function has sent. Contains what is wrong with it.
    #[error("the message {0}")]
    Message(&'static str),
    /// The last requests got no answer, so none was sent.
    #[error("the last requests got no answer, so none is sent for some seconds")]
    CircuitOpen,
    /// The connection failed, or it broke before the answer. Contains the system's error text.
    #[error("could not connect: {0}")]
    Connect(String),
    /// TLS failed, for example because the certificate does not verify. Contains rustls's error text.
    #[error("could not connect: {0}{hint}", hint = tls_hint(.0))]
    Tls(String),
    /// No answer before the time limit.
    #[error("no answer in time")]
    TimedOut,
    /// The request was rejected (any 4xx except 429): the admin key, the connection id or the user is wrong. Contains the names in
    /// the error object, each after a comma, and not its message, which may contain the user name.
    #[error("rejected: {0}{1}")]
    Rejected(StatusCode, String),
    /// The server asked for fewer requests (429). Contains names as above.
    #[error("too many requests: {status}{0}", status = StatusCode::TOO_MANY_REQUESTS)]
    RateLimited(String),
    /// The server failed (5xx). Contains names as above.
    #[error("unavailable: {0}{1}")]
    Unavailable(StatusCode, String),
    /// A status that the API does not use, such as a redirect.
    #[error("unexpected answer: {0}")]
    UnexpectedStatus(StatusCode),
    /// The answer is a web page, so it does not come from the API. Contains its content type.
    #[error("unexpected answer: {0} with a web page ({1})")]
    WebPage(StatusCode, String),
    /// The answer was not HTTP. Contains the parser's error text.
    #[error("unexpected answer: {0}")]
    Malformed(String),
    /// The queue did not take the report, and why UserHub had not taken it before, if it was asked.
    #[error("the queue did not take the report: {queue}{before}", before = .userhub.as_ref().map(|error| format!("; UserHub: {error}")).unwrap_or_default())]
    Queue {
        /// Why the queue did not take it.
        queue: Box<Error>,
        /// Why UserHub did not.
        userhub: Option<Box<Error>>,
    },
    /// This function has a bug. The panic hook logs its location.
    #[error("the report panicked")]
    Panic,
}

impl Error {
    /// Every value of [`kind`](Self::kind). docs/operate.md describes each.
    pub const KINDS: [&str; 13] = [
        "settings",
        "event",
        "message",
        "circuit_open",
        "connect",
        "tls",
        "timed_out",
        "rejected",
        "rate_limited",
        "unavailable",
        "unexpected_answer",
        "queue",
        "panic",
    ];

    /// The short name for logs and alarms. It never changes.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Settings(_) => "settings",
            Self::Event(_) => "event",
            Self::Message(_) => "message",
            Self::CircuitOpen => "circuit_open",
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::TimedOut => "timed_out",
            Self::Rejected(..) => "rejected",
            Self::RateLimited(_) => "rate_limited",
            Self::Unavailable(..) => "unavailable",
            Self::UnexpectedStatus(_) | Self::WebPage(..) | Self::Malformed(_) => "unexpected_answer",
            Self::Queue { .. } => "queue",
            Self::Panic => "panic",
        }
    }

    /// Whether the report is kept, because UserHub may take it later. docs/operate.md has the same table.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        match self {
            // A key (401, 403), a bill (402), a connection id (404), a proxy (407) can be put right, and the server asks to send the
            // request again (408, 421, 425). Every other 4xx is about this request, and would be the same for ever.
            Self::Rejected(status, _) => matches!(status.as_u16(), 401..=404 | 407 | 408 | 421 | 425),
            // There is nobody to report, or nothing else that could keep the report.
            Self::Event(_) | Self::Queue { .. } => false,
            // Nothing is wrong with the report: it waits until somebody or time has helped. A message that is no report waits until
            // the queue gives it up, for somebody to look at.
            _ => true,
        }
    }

    /// Whether a server has answered.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        self.status().is_some() || matches!(self, Self::Malformed(_))
    }

    /// Whether a second attempt on another connection may succeed at once: the connection broke, or the server did not act on
    /// the request (RFC 9110, sections 15.5.9 and 15.5.20; RFC 8470, section 5.2).
    #[must_use]
    pub fn needs_another_connection(&self) -> bool {
        match self {
            Self::Connect(_) | Self::TimedOut => true,
            Self::Rejected(status, _) => matches!(status.as_u16(), 408 | 421 | 425),
            _ => false,
        }
    }

    /// The HTTP status of the answer, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Rejected(status, _)
            | Self::Unavailable(status, _)
            | Self::UnexpectedStatus(status)
            | Self::WebPage(status, _) => Some(*status),
            Self::RateLimited(_) => Some(StatusCode::TOO_MANY_REQUESTS),
            _ => None,
        }
    }
}

/// What an operator should know about an error of TLS.
fn tls_hint(cause: &str) -> &'static str {
    if cause.contains("UnknownIssuer") {
        " (the server leaves out a certificate, or its authority is newer than this release of the function)"
    } else {
        ""
    }
}

/// Text from outside as printable ASCII of limited length, so that it can neither forge, split nor flood log lines. Control
/// characters are left out, and all others are escaped.
#[must_use]
pub fn printable(text: &str) -> String {
    let text: String = text.chars().filter(|character| !character.is_control()).take(FOREIGN_TEXT_MAX).collect();
    let mut escaped: String = text
        .chars()
        .flat_map(|character| if character.is_ascii() { vec![character] } else { character.escape_unicode().collect() })
        .collect();
    escaped.truncate(FOREIGN_TEXT_MAX);
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_error(error: &Error, kind: &str, status: Option<u16>, is_kept: bool, text: &str) {
        assert_eq!(error.kind(), kind);
        assert!(Error::KINDS.contains(&kind));
        assert_eq!(error.status().map(|status| status.as_u16()), status);
        assert_eq!(error.is_kept(), is_kept, "{error:?}");
        assert_eq!(error.to_string(), text);
    }

    fn status(status: u16) -> StatusCode {
        StatusCode::from_u16(status).unwrap()
    }

    #[test]
    fn has_a_kind_a_status_and_a_text() {
        assert_error(&Error::Settings("A is not set".into()), "settings", None, true, "A is not set");
        assert_error(&Error::Event("has no userName"), "event", None, false, "the event has no userName");
        assert_error(&Error::Message("is no report"), "message", None, true, "the message is no report");
        let text = "the last requests got no answer, so none is sent for some seconds";
        assert_error(&Error::CircuitOpen, "circuit_open", None, true, text);
        assert_error(&Error::Connect("no route".into()), "connect", None, true, "could not connect: no route");
        assert_error(&Error::Tls("expired".into()), "tls", None, true, "could not connect: expired");
        let hint =
            " (the server leaves out a certificate, or its authority is newer than this release of the function)";
        let text = format!("could not connect: invalid peer certificate: UnknownIssuer{hint}");
        let unknown = Error::Tls("invalid peer certificate: UnknownIssuer".into());
        assert_error(&unknown, "tls", None, true, &text);
        assert_error(&Error::TimedOut, "timed_out", None, true, "no answer in time");
        let text = "rejected: 403 Forbidden, PERMISSION_DENIED, USER_PENDING_DELETION";
        let both = ", PERMISSION_DENIED, USER_PENDING_DELETION".to_owned();
        assert_error(&Error::Rejected(status(403), both), "rejected", Some(403), true, text);
        let text = "rejected: 400 Bad Request";
        assert_error(&Error::Rejected(status(400), String::new()), "rejected", Some(400), false, text);
        let text = "too many requests: 429 Too Many Requests, RESOURCE_EXHAUSTED";
        let limited = Error::RateLimited(", RESOURCE_EXHAUSTED".into());
        assert_error(&limited, "rate_limited", Some(429), true, text);
        let text = "unavailable: 502 Bad Gateway, INTERNAL";
        let unavailable = Error::Unavailable(status(502), ", INTERNAL".into());
        assert_error(&unavailable, "unavailable", Some(502), true, text);
        let text = "unexpected answer: 302 Found";
        assert_error(&Error::UnexpectedStatus(status(302)), "unexpected_answer", Some(302), true, text);
        let text = "unexpected answer: 200 OK with a web page (text/html)";
        assert_error(&Error::WebPage(status(200), "text/html".into()), "unexpected_answer", Some(200), true, text);
        let malformed = Error::Malformed("not HTTP".into());
        assert_error(&malformed, "unexpected_answer", None, true, "unexpected answer: not HTTP");
        assert_error(&Error::Panic, "panic", None, true, "the report panicked");
        let queue = Box::new(Error::Rejected(status(403), ", AccessDenied".into()));
        let alone = Error::Queue { queue: queue.clone(), userhub: None };
        let text = "the queue did not take the report: rejected: 403 Forbidden, AccessDenied";
        assert_error(&alone, "queue", None, false, text);
        let after_userhub = Error::Queue { queue, userhub: Some(Error::TimedOut.into()) };
        assert_error(&after_userhub, "queue", None, false, &format!("{text}; UserHub: no answer in time"));
    }

    /// Of all statuses from 400 to 499, those that somebody or time can put right.
    #[test]
    fn keeps_what_may_succeed_later() {
        let kept: Vec<_> = (400..500).filter(|code| Error::Rejected(status(*code), String::new()).is_kept()).collect();
        assert_eq!(kept, [401, 402, 403, 404, 407, 408, 421, 425]);
    }

    #[test]
    fn an_answer_is_a_status_or_something_that_is_not_http() {
        let malformed = Error::Malformed(String::new());
        assert!(Error::UnexpectedStatus(status(302)).is_answer() && malformed.is_answer());
        let [connect, tls] = [Error::Connect(String::new()), Error::Tls(String::new())];
        for error in [Error::TimedOut, connect, tls, Error::CircuitOpen, Error::Panic] {
            assert!(!error.is_answer(), "{error:?}");
        }
    }

    #[test]
    fn text_from_outside_is_short_and_printable_ascii() {
        let foreign = format!("one\r\ntwo\u{1b}[31m\0\u{85}\u{2028}\u{202e}é{}", "x".repeat(1000));
        let start = r"onetwo[31m\u{2028}\u{202e}\u{e9}x";
        let text = printable(&foreign);
        assert!(text.starts_with(start) && text.len() == FOREIGN_TEXT_MAX, "{text}");
    }
}

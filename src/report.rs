//! A report: what UserHub should be told about a user. In the queue it is a message.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::trigger::EventType;

/// Longest user name that is reported, in bytes of UTF-8. Cognito allows 128 characters, which are at most 512 bytes
/// (`UserType` in the Cognito API reference). Twice that accepts every real name and limits the URL.
pub const USER_NAME_MAX: usize = 1024;

/// What UserHub should be told about a user.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The user's name in the pool, which UserHub calls the external id.
    pub user_name: String,
    /// What happened to the user.
    pub event_type: EventType,
}

/// Version of the messages that [`Report::to_message`] writes. A message may be as old as 14 days, so a function with a new
/// version still reads the old ones.
const VERSION: u32 = 1;

/// A message's JSON: `{"version":1,"userName":"sample","type":"SIGNIN"}`. docs/operate.md documents it.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    version: u32,
    #[serde(borrow)]
    user_name: std::borrow::Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    event_type: std::borrow::Cow<'a, str>,
}

impl Report {
    /// The text of a message.
    ///
    /// # Errors
    /// None: serde serializes every string.
    pub fn to_message(&self) -> serde_json::Result<String> {
        let text = serde_json::to_string(&Message {
            version: VERSION,
            user_name: self.user_name.as_str().into(),
            event_type: self.event_type.name().into(),
        })?;
        // SQS refuses these two characters, and those below U+0020, which serde_json has escaped
        // (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>).
        Ok(text.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff"))
    }

    /// Reads the text of a message. It ignores fields that it does not know.
    ///
    /// # Errors
    /// [`Error::Message`] with what is wrong with the text, which it does not quote.
    pub fn from_message(text: &str) -> Result<Self, Error> {
        let message: Message<'_> = serde_json::from_str(text)
            .map_err(|_| Error::Message("is not a report: it must be JSON with version, userName and type"))?;
        if message.version != VERSION {
            return Err(Error::Message("has a version that this release of the function does not know"));
        }
        let event_type = EventType::ALL.into_iter().find(|known| known.name() == message.event_type);
        match event_type {
            Some(event_type) if (1..=USER_NAME_MAX).contains(&message.user_name.len()) => {
                Ok(Self { user_name: message.user_name.into_owned(), event_type })
            }
            Some(_) => Err(Error::Message("has an empty userName, or one longer than Cognito allows")),
            None => Err(Error::Message("has a type that this release of the function does not know")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of every release so far, as they may still be in a queue.
    #[test]
    fn reads_the_messages_of_every_release() {
        let report = Report { user_name: "sample".into(), event_type: EventType::SignIn };
        let version_1 = r#"{"version":1,"userName":"sample","type":"SIGNIN"}"#;
        assert_eq!(Report::from_message(version_1), Ok(report.clone()));
        assert_eq!(report.to_message().unwrap(), version_1);
    }

    #[test]
    fn a_message_brings_every_name_and_type_through() {
        for name in ["a", "\"\\\n\u{0}", "名@例え/?#%", "😀", "\u{fffe}\u{ffff}", &"é".repeat(512)] {
            for event_type in EventType::ALL {
                let report = Report { user_name: name.into(), event_type };
                let message = report.to_message().unwrap();
                assert!(!message.contains(['\u{fffe}', '\u{ffff}', '\u{0}', '\n']), "SQS refuses {message:?}");
                assert_eq!(Report::from_message(&message), Ok(report));
            }
        }
    }

    #[test]
    fn names_what_is_wrong_with_a_message() {
        let no_report = "is not a report: it must be JSON with version, userName and type";
        for (text, error) in [
            ("", no_report),
            ("sample", no_report),
            ("[]", no_report),
            (r#"{"version":1,"userName":"sample"}"#, no_report),
            (r#"{"version":1,"userName":5,"type":"SIGNIN"}"#, no_report),
            (r#"{"userName":"sample","type":"SIGNIN"}"#, no_report),
            (
                r#"{"version":2,"userName":"sample","type":"SIGNIN"}"#,
                "has a version that this release of the function does not know",
            ),
            (
                r#"{"version":1,"userName":"","type":"SIGNIN"}"#,
                "has an empty userName, or one longer than Cognito allows",
            ),
            (
                r#"{"version":1,"userName":"sample","type":"signin"}"#,
                "has a type that this release of the function does not know",
            ),
        ] {
            assert_eq!(Report::from_message(text), Err(Error::Message(error)), "{text}");
        }
        let more = r#"{"version":1,"userName":"sample","type":"SIGNIN","more":[]}"#;
        assert!(Report::from_message(more).is_ok(), "a field that a later release adds");
    }
}

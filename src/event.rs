//! Reads what Lambda hands over: Cognito's event, of which only the user name and the trigger matter, or messages from SQS.

use std::collections::BTreeMap;

use aws_lambda_events::sqs::SqsMessage;
use serde::Deserialize;
use serde_bytes::{ByteBuf, Bytes};
use serde_json::value::RawValue;

use crate::error::Error;
use crate::report::USER_NAME_MAX;
use crate::trigger::{self, Meaning};

/// What an event says.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// Cognito's, or any other: whatever it is, it goes back as it came.
    Trigger(Trigger),
    /// Reports that waited in the queue.
    Messages(Vec<SqsMessage>),
}

/// What Cognito's event says.
#[derive(Debug, PartialEq)]
pub struct Trigger {
    /// From `triggerSource`.
    pub meaning: Meaning,
    /// `triggerSource`, if it has the form of one.
    pub source: Option<String>,
    /// `userName`, or what is wrong with it. Some events have no user.
    pub user_name: Result<String, Error>,
}

/// Reads any event. If a field occurs twice, the last one counts, as in JavaScript.
#[must_use]
pub fn read(event: &RawValue) -> Event {
    let fields = serde_json::from_str::<BTreeMap<ByteBuf, &RawValue>>(event.get());
    let field = |name: &[u8]| fields.as_ref().ok().and_then(|fields| fields.get(Bytes::new(name)));
    let text = |name| field(name).map(|value| serde_json::from_str::<String>(value.get()));
    if let Some(messages) = field(b"Records").and_then(|records| messages(records)) {
        return Event::Messages(messages);
    }
    let source = text(b"triggerSource").and_then(Result::ok).unwrap_or_default();
    Event::Trigger(Trigger {
        meaning: trigger::meaning(&source),
        source: Some(source).filter(|source| trigger::is_source(source)),
        user_name: if fields.is_ok() {
            user_name(text(b"userName"))
        } else {
            Err(Error::Event("is not a JSON object"))
        },
    })
}

/// What every message from SQS has, whatever else AWS puts into it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Origin {
    message_id: Option<String>,
    event_source: String,
}

/// The messages in `Records`, if each is from SQS. No event of Cognito has such a field. A message of which more cannot be read
/// has no body then, so it stays in the queue: taken for a sign-in, the event would come back, and SQS would delete all messages.
fn messages(records: &RawValue) -> Option<Vec<SqsMessage>> {
    let records: Vec<&RawValue> = serde_json::from_str(records.get()).ok()?;
    let message = |record: &&RawValue| {
        let origin = serde_json::from_str::<Origin>(record.get()).ok().filter(|it| it.event_source == "aws:sqs")?;
        let mut message = serde_json::from_str::<SqsMessage>(record.get()).unwrap_or_default();
        message.message_id = origin.message_id;
        Some(message)
    };
    records.iter().map(message).collect::<Option<Vec<_>>>().filter(|messages| !messages.is_empty())
}

/// Checks a user name, wherever it comes from.
///
/// # Errors
/// [`Error::Event`] with what is wrong with it.
fn user_name(field: Option<serde_json::Result<String>>) -> Result<String, Error> {
    let name = field
        .ok_or(Error::Event("has no userName"))?
        .map_err(|_| Error::Event("has a userName that is not a string"))?;
    match name.len() {
        0 => Err(Error::Event("has an empty userName")),
        1..=USER_NAME_MAX => Ok(name),
        _ => Err(Error::Event("has a userName longer than Cognito allows")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(event: &str) -> Event {
        super::read(&RawValue::from_string(event.to_owned()).unwrap())
    }

    fn trigger(event: &str) -> Trigger {
        match read(event) {
            Event::Trigger(trigger) => trigger,
            Event::Messages(_) => panic!("taken for messages: {event}"),
        }
    }

    fn user_name(event: &str) -> Result<String, Error> {
        trigger(event).user_name
    }

    fn trigger_source(event: &str) -> Option<String> {
        trigger(event).source
    }

    #[test]
    fn reads_the_user_name_and_the_trigger_and_nothing_else() {
        assert_eq!(user_name(r#"{"userName":"sample"}"#).unwrap(), "sample");
        assert_eq!(user_name(r#" {"a":[1e999,"\ud800",{}],"userName":"\u540d\n","b":null} "#).unwrap(), "名\n");
        assert_eq!(user_name(r#"{"userName":1,"\ud800":2,"userName":"last"}"#).unwrap(), "last");
        let trigger = r#"{"triggerSource":null,"userName":"sample","triggerSource":"PostConfirmation_ConfirmSignUp"}"#;
        assert_eq!(trigger_source(trigger).as_deref(), Some("PostConfirmation_ConfirmSignUp"));
    }

    #[test]
    fn a_trigger_that_is_not_a_string_is_none() {
        for event in [
            r#"{"userName":"a"}"#,
            r#"{"userName":"a","triggerSource":1}"#,
            r#"{"userName":"a","triggerSource":"\ud800"}"#,
        ] {
            assert_eq!(trigger_source(event), None, "{event}");
        }
    }

    #[test]
    fn a_user_name_has_a_maximum_length() {
        assert_eq!(user_name(&format!(r#"{{"userName":"{}"}}"#, "é".repeat(512))).unwrap().len(), 1024);
        assert_eq!(
            user_name(&format!(r#"{{"userName":"{}x"}}"#, "é".repeat(512))),
            Err(Error::Event("has a userName longer than Cognito allows"))
        );
    }

    #[test]
    fn names_what_is_wrong_with_an_event() {
        for (event, error) in [
            ("[]", "is not a JSON object"),
            ("\"userName\"", "is not a JSON object"),
            ("{}", "has no userName"),
            (r#"{"userName":0}"#, "has a userName that is not a string"),
            (r#"{"userName":"\udc00"}"#, "has a userName that is not a string"),
            (r#"{"userName":""}"#, "has an empty userName"),
        ] {
            assert_eq!(user_name(event), Err(Error::Event(error)), "{event}");
        }
    }

    #[test]
    fn messages_are_recognized_by_their_source() {
        let message = r#"{"messageId":"1","body":"{}","eventSource":"aws:sqs","attributes":{"SentTimestamp":"1"}}"#;
        let Event::Messages(messages) = read(&format!(r#"{{"Records":[{message},{message}]}}"#)) else {
            panic!("not taken for messages")
        };
        assert_eq!((messages.len(), messages[0].message_id.as_deref()), (2, Some("1")));
        // Something in it is not as the published type wants it.
        let odd = message.replace(r#"{"SentTimestamp":"1"}"#, r#"{"SentTimestamp":1}"#);
        let Event::Messages(messages) = read(&format!(r#"{{"Records":[{message},{odd}]}}"#)) else {
            panic!("not taken for messages")
        };
        assert_eq!((messages[0].body.as_deref(), messages[1].body.as_deref()), (Some("{}"), None));
        assert_eq!(messages[1].message_id.as_deref(), Some("1"), "so that it stays in the queue");

        let other = message.replace("aws:sqs", "aws:sns");
        for records in ["null", "[]", "[null]", "{}", "1", &format!("[{message},{other}]"), &format!("[[{message}]]")] {
            trigger(&format!(r#"{{"Records":{records}}}"#));
        }
    }
}

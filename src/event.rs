//! Reads the user name and the trigger from Cognito's event, and nothing else.

use std::collections::BTreeMap;

use serde_bytes::{ByteBuf, Bytes};
use serde_json::value::RawValue;

use crate::error::Error;
use crate::trigger::Trigger;

/// Longest user name that is reported, in bytes of UTF-8. Cognito allows 128 characters, which are at most 512 bytes
/// (`UserType` in the Cognito API reference). Twice that accepts every real name and limits the URL.
const USER_NAME_MAX: usize = 1024;

/// What an event says.
#[derive(Debug, PartialEq)]
pub struct Event {
    /// From `triggerSource`.
    pub trigger: Trigger,
    /// `userName`, or what is wrong with it. Some events have no user.
    pub user_name: Result<String, Error>,
}

/// Reads any event. If a field occurs twice, the last one counts, as in JavaScript.
#[must_use]
pub fn read(event: &RawValue) -> Event {
    let Ok(fields) = serde_json::from_str::<BTreeMap<ByteBuf, &RawValue>>(event.get()) else {
        return Event { trigger: Trigger::new(None), user_name: Err(Error::Event("is not a JSON object")) };
    };
    let field = |name: &[u8]| fields.get(Bytes::new(name)).map(|value| serde_json::from_str::<String>(value.get()));
    let trigger_source = field(b"triggerSource").and_then(Result::ok);
    Event { trigger: Trigger::new(trigger_source.as_deref()), user_name: user_name(field(b"userName")) }
}

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

    fn user_name(event: &str) -> Result<String, Error> {
        read(event).user_name
    }

    fn trigger_source(event: &str) -> Option<&'static str> {
        read(event).trigger.source
    }

    #[test]
    fn reads_the_user_name_and_the_trigger_and_nothing_else() {
        assert_eq!(user_name(r#"{"userName":"sample"}"#).unwrap(), "sample");
        assert_eq!(user_name(r#" {"a":[1e999,"\ud800",{}],"userName":"\u540d\n","b":null} "#).unwrap(), "名\n");
        assert_eq!(user_name(r#"{"userName":1,"\ud800":2,"userName":"last"}"#).unwrap(), "last");
        let trigger = r#"{"triggerSource":null,"userName":"sample","triggerSource":"PostConfirmation_ConfirmSignUp"}"#;
        assert_eq!(trigger_source(trigger), Some("PostConfirmation_ConfirmSignUp"));
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
}

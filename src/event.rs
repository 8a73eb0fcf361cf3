//! What is read of Cognito's event: the user name, and nothing else.

use std::collections::BTreeMap;

use serde_bytes::{ByteBuf, Bytes};
use serde_json::value::RawValue;

use crate::error::Error;

/// Longest user name that is reported, in bytes of UTF-8. Cognito allows 128 characters, 512 bytes at most
/// (`UserType` in the Cognito API reference); twice that keeps every real name and bounds the URL.
const USER_NAME_MAX: usize = 1024;

/// The `userName` of a JSON object, whatever else the object holds or lacks. Of two fields with that name the last
/// counts, as in JavaScript.
///
/// # Errors
/// [`Error::Event`] when the event is not an object, or has no user name that can be reported.
pub fn user_name(event: &RawValue) -> Result<String, Error> {
    let fields: BTreeMap<ByteBuf, &RawValue> =
        serde_json::from_str(event.get()).map_err(|_| Error::Event("is not a JSON object"))?;
    let value = fields.get(Bytes::new(b"userName")).ok_or(Error::Event("has no userName"))?;
    let name: String =
        serde_json::from_str(value.get()).map_err(|_| Error::Event("has a userName that is not a string"))?;
    match name.len() {
        0 => Err(Error::Event("has an empty userName")),
        1..=USER_NAME_MAX => Ok(name),
        _ => Err(Error::Event("has a userName longer than Cognito allows")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(event: &str) -> Result<String, Error> {
        user_name(&RawValue::from_string(event.to_owned()).unwrap())
    }

    #[test]
    fn reads_the_user_name_and_nothing_else() {
        assert_eq!(read(r#"{"userName":"sample"}"#).unwrap(), "sample");
        assert_eq!(read(r#" {"a":[1e999,"\ud800",{}],"userName":"\u540d\n","b":null} "#).unwrap(), "名\n");
        assert_eq!(read(r#"{"userName":1,"\ud800":2,"userName":"last"}"#).unwrap(), "last");
    }

    #[test]
    fn a_user_name_has_a_greatest_length() {
        assert_eq!(read(&format!(r#"{{"userName":"{}"}}"#, "é".repeat(512))).unwrap().len(), 1024);
        assert_eq!(
            read(&format!(r#"{{"userName":"{}x"}}"#, "é".repeat(512))),
            Err(Error::Event("has a userName longer than Cognito allows"))
        );
    }

    #[test]
    fn every_other_event_has_its_error() {
        for (event, error) in [
            ("[]", "is not a JSON object"),
            ("\"userName\"", "is not a JSON object"),
            ("{}", "has no userName"),
            (r#"{"userName":0}"#, "has a userName that is not a string"),
            (r#"{"userName":"\udc00"}"#, "has a userName that is not a string"),
            (r#"{"userName":""}"#, "has an empty userName"),
        ] {
            assert_eq!(read(event), Err(Error::Event(error)), "{event}");
        }
    }
}

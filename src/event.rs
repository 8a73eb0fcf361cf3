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

//! What can go wrong with UserHub, for the examples.

use std::time::Duration;

use crate::support::{Reply, Step, answer};

/// The name of a fault, what it is, and what UserHub does to the report.
pub fn faults() -> [(&'static str, &'static str, Reply); 8] {
    let unauthenticated = r#"{"code": "UNAUTHENTICATED", "message": "the API key is not valid"}"#;
    let internal = r#"{"code": "INTERNAL", "message": "something broke"}"#;
    let late = [vec![Step::Wait(Duration::from_secs(1))], answer(200, "{}")].concat();
    [
        ("hang", "UserHub never answers", vec![Step::Hang]),
        ("refuse", "nothing listens at UserHub's address", Vec::new()),
        ("reset", "UserHub resets the connection in place of an answer", vec![Step::Reset]),
        ("302", "UserHub redirects", answer(302, "")),
        ("401", "UserHub does not know the admin key", answer(401, unauthenticated)),
        ("429", "UserHub asks for fewer requests", answer(429, "too many requests")),
        ("500", "UserHub fails", answer(500, internal)),
        ("slow", "UserHub answers after one second", late),
    ]
}

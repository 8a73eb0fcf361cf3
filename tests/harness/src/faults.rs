//! What can go wrong with UserHub: the faults of `make run` and `make soak`.

use std::time::Duration;

use crate::{Reply, Step, answer};

pub struct Fault {
    pub name: &'static str,
    /// In words, for the user of `make run`.
    pub description: &'static str,
    /// How UserHub replies to a report.
    pub reply: Reply,
}

/// Every fault. In `refuse` UserHub gets no request at all.
pub fn faults() -> Vec<Fault> {
    let unauthenticated = r#"{"code": "UNAUTHENTICATED", "message": "the API key is not valid"}"#;
    let internal = r#"{"code": "INTERNAL", "message": "something broke"}"#;
    let late = vec![Step::Wait(Duration::from_secs(1)), Step::Accept];
    [
        ("hang", "UserHub never answers", vec![Step::Hang]),
        ("refuse", "nothing listens at UserHub's address", Vec::new()),
        ("reset", "UserHub resets the connection instead of answering", vec![Step::Reset]),
        ("302", "UserHub redirects", answer(302, "")),
        ("401", "UserHub does not accept the admin key", answer(401, unauthenticated)),
        ("429", "UserHub asks for fewer requests", answer(429, "too many requests")),
        ("500", "UserHub fails", answer(500, internal)),
        ("slow", "UserHub answers after one second", late),
    ]
    .into_iter()
    .map(|(name, description, reply)| Fault { name, description, reply })
    .collect()
}

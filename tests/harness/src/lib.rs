//! Starts the function between a local Lambda Runtime API and strict stand-ins for UserHub and SQS. The tests, the
//! benchmark and the programs in `src/bin` use it.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a broken promise must end the program")]
#![expect(missing_docs, reason = "tests read it, not users: names are enough unless there is something to explain")]
#![expect(clippy::missing_errors_doc, clippy::missing_panics_doc, clippy::must_use_candidate, reason = "as above")]

mod function;
#[cfg(target_os = "linux")]
mod limit;
mod mapping;
pub mod namespace;
mod runtime_api;
mod server;
mod sqs;
#[cfg(feature = "tls")]
mod tls;
mod userhub;

use std::collections::BTreeMap;
use std::env;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

pub use function::{Batch, Function, Settings, SignIn, binary};
#[cfg(target_os = "linux")]
pub use limit::Limit;
pub use mapping::{Mapping, sqs_event};
pub use runtime_api::{Behaviour, Response};
pub use server::{Reply, Request, Server, Step, answer, reserve, send};
pub use sqs::{ReceivedMessage, Sqs, access_denied, queue_does_not_exist, sqs_error};
#[cfg(feature = "tls")]
pub use tls::{Authority, Tls, certificate_for, server};
pub use userhub::{Fault, ReceivedReport, UserHub, faults};

/// A key that is easy to find wherever it must not be.
pub const ADMIN_KEY: &str = "userhub_admin_local";
pub const CONNECTION_ID: &str = "conn_local";

/// What Lambda gives a function to sign its requests to AWS with.
pub const REGION: &str = "eu-west-1";
pub const ACCESS_KEY_ID: &str = "local-access-key";
pub const SECRET_ACCESS_KEY: &str = "local-secret-key";
pub const SESSION_TOKEN: &str = "local-session-token";

/// The event of an ordinary sign-in.
pub const EVENT: &[u8] = include_bytes!("../../../events/post-authentication.json").trim_ascii();

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// The sample events, by file name without `.json`.
pub fn sample_events() -> BTreeMap<String, Vec<u8>> {
    let files = repository("events").read_dir().expect("events/");
    let paths = files.map(|file| file.expect("a file in events/").path());
    paths.map(|path| (path.file_stem().expect("a name").to_string_lossy().into_owned(), read_event(&path))).collect()
}

/// The JSON text in a file, without the white space around it that editors add and Cognito does not.
pub fn read_event(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim_ascii().to_vec()
}

/// A base URL where nothing listens.
pub fn unused_base_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

/// Says that a test is skipped because this system cannot run it. In CI it panics instead.
#[track_caller]
pub(crate) fn skip(what: &str, why: &str) {
    // Not eprintln, which the test runner hides.
    io::stderr().write_all(format!("SKIPPED {what}: {why}\n").as_bytes()).expect("standard error");
    assert!(env::var_os("CI").is_none(), "in CI nothing is skipped");
}

//! The shipped binary between a local Lambda Runtime API and a strict stand-in for UserHub. The tests and `make run`
//! share it.

mod function;
mod http;
mod runtime_api;
mod userhub;

use std::path::Path;

pub use function::{Function, Settings, SignIn, binary};
pub use userhub::{Reply, Step, UserHub, answer};

/// A key that is easy to find wherever it must not be.
pub const ADMIN_KEY: &str = "userhub_admin_local";
pub const CONNECTION_ID: &str = "conn_local";

/// The sample events, by file name without `.json`.
pub fn sample_events() -> Vec<(String, Vec<u8>)> {
    let files = Path::new(EVENTS).read_dir().expect("events/").map(|file| file.expect("a file in events/").path());
    files.map(|path| (path.file_stem().expect("a name").to_string_lossy().into_owned(), read_event(&path))).collect()
}

pub fn sample_event(name: &str) -> Vec<u8> {
    read_event(&Path::new(EVENTS).join(name).with_extension("json"))
}

const EVENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/events");

/// The JSON text in a file. White space around it is an editor's, not Cognito's.
pub fn read_event(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim_ascii().to_vec()
}

//! The shipped binary between a local Lambda Runtime API and a strict stand-in for UserHub. The tests and `make run`
//! share it.

mod authority;
mod function;
pub mod http;
mod runtime_api;
mod userhub;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;

pub use authority::{Authority, certificate_for, server};
pub use function::{Function, Settings, SignIn, binary};
pub use runtime_api::Manners;
pub use userhub::{Reply, Step, UserHub, answer, send};

/// A key that is easy to find wherever it must not be.
pub const ADMIN_KEY: &str = "userhub_admin_local";
pub const CONNECTION_ID: &str = "conn_local";

/// The ordinary event.
pub const EVENT: &[u8] = include_bytes!("../../../events/post-authentication.json").trim_ascii();

/// The sample events, by file name without `.json`.
pub fn sample_events() -> BTreeMap<String, Vec<u8>> {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("events").read_dir().expect("events/");
    let paths = files.map(|file| file.expect("a file in events/").path());
    paths.map(|path| (path.file_stem().expect("a name").to_string_lossy().into_owned(), read_event(&path))).collect()
}

/// The JSON text in a file. White space around it is an editor's, not Cognito's.
pub fn read_event(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim_ascii().to_vec()
}

/// A base URL where nothing listens.
pub fn unused_base_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

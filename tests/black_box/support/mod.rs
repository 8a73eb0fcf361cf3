//! The shipped binary between a local Lambda Runtime API and a strict stand-in for UserHub. The tests and `make run`
//! share it.

mod function;
mod http;
mod runtime_api;
mod userhub;

pub use function::{Function, Settings, SignIn, binary};
pub use userhub::{Reply, Step, UserHub, answer};

/// A key that is easy to find wherever it must not be.
pub const ADMIN_KEY: &str = "userhub_admin_local";
pub const CONNECTION_ID: &str = "conn_local";

/// The sample events, by file name without `.json`.
pub fn sample_events() -> Vec<(String, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("events");
    let mut events: Vec<_> = std::fs::read_dir(folder)
        .expect("events/")
        .map(|file| {
            let path = file.expect("a file in events/").path();
            let name = path.file_stem().expect("a file name").to_string_lossy().into_owned();
            (name, read_event(&path))
        })
        .collect();
    events.sort();
    events
}

pub fn sample_event(name: &str) -> Vec<u8> {
    sample_events().into_iter().find(|(other, _)| other == name).expect("a sample event of that name").1
}

/// The JSON text in a file. White space around it is an editor's, not Cognito's.
pub fn read_event(path: &std::path::Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim_ascii().to_vec()
}

//! Lambda's log conventions, on tracing-subscriber.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::{env, mem};

use tracing::level_filters::LevelFilter;
use tracing::{error, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, registry};

/// Sends log lines to standard output. Lambda's logging settings choose the format and the lowest level
/// (`AWS_LAMBDA_LOG_FORMAT`, `AWS_LAMBDA_LOG_LEVEL`, otherwise `RUST_LOG`). Panics are logged as well.
pub fn init() {
    let json = env::var("AWS_LAMBDA_LOG_FORMAT").is_ok_and(|format| format.eq_ignore_ascii_case("json"));
    let (filter, problem) = filter(&|variable| env::var(variable).ok().filter(|value| !value.is_empty()));

    // Errors in logging are dropped. To report one, tracing-subscriber would panic if standard error is closed too.
    let lines = fmt::layer().with_target(false).log_internal_errors(false).with_writer(Mutex::new(Lines::new()));
    let lines = if json { lines.json().flatten_event(true).boxed() } else { lines.boxed() };
    registry().with(filter).with(lines).init();

    std::panic::set_hook(Box::new(|panic| {
        // lambda_runtime panics when the Runtime API does not behave. main says so.
        if !panic.location().is_some_and(|location| location.file().contains("/lambda_runtime")) {
            // The location is enough: the message may contain data, such as a user name.
            error!(location = panic.location().map(ToString::to_string), "panicked");
        }
    }));
    if let Some(problem) = problem {
        warn!("{problem}");
    }
}

/// Standard output, without waiting: while nobody reads it, lines are lost, and sign-ins go on. The next line that gets
/// through has the number of those lost in front of its fields, as `lost_lines`.
struct Lines {
    /// `None` if it could not be made to refuse what it cannot take. Then lines are written in the ordinary way.
    output: Option<File>,
    lost: u64,
}

impl Lines {
    fn new() -> Self {
        Self { output: not_waiting().ok(), lost: 0 }
    }
}

impl Write for Lines {
    /// Writes a whole line, which is shorter than the 4 KiB that a pipe takes whole or not at all. Never fails.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let lost = mem::take(&mut self.lost);
        let counted = match (lost, line) {
            (0, _) => Cow::Borrowed(line),
            (_, [b'{', fields @ ..]) => [format!("{{\"lost_lines\":{lost},").as_bytes(), fields].concat().into(),
            _ => [format!("lost_lines={lost} ").as_bytes(), line].concat().into(),
        };
        let written = match &mut self.output {
            Some(output) => output.write_all(&counted),
            None => io::stdout().write_all(&counted),
        };
        if written.is_err() {
            self.lost = lost + 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard output as a file that refuses what it cannot take at once.
fn not_waiting() -> io::Result<File> {
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    if output.metadata()?.is_file() {
        return Ok(output); // it takes everything at once; opened anew, it would be written from its start
    }
    // Opened anew, because other processes may share what this process was started with, such as a terminal.
    let opened = OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open("/proc/self/fd/1");
    opened.or_else(|_| {
        // A socket cannot be opened. The standard library offers this setting for its own sockets; it works for all of them.
        let output = UnixStream::from(OwnedFd::from(output));
        output.set_nonblocking(true)?;
        Ok(File::from(OwnedFd::from(output)))
    })
}

/// From Linux's `fcntl.h`; the same on x86-64 and ARM.
const O_NONBLOCK: i32 = 0o4000;

/// Which lines are logged, and what is wrong with the variable that sets this.
fn filter(value_of: &dyn Fn(&str) -> Option<String>) -> (Targets, Option<String>) {
    let default = Targets::new().with_default(LevelFilter::INFO);
    let (variable, parsed) = if let Some(level) = value_of("AWS_LAMBDA_LOG_LEVEL") {
        ("AWS_LAMBDA_LOG_LEVEL", level_filter(&level).map(|level| Targets::new().with_default(level)))
    } else if let Some(directives) = value_of("RUST_LOG") {
        ("RUST_LOG", directives.parse().ok())
    } else {
        return (default, None);
    };
    match parsed {
        Some(filter) => (filter, None),
        None => (default, Some(format!("{variable} is not a log level: INFO is used"))),
    }
}

/// Parses Lambda's levels. tracing has no level above ERROR, so FATAL turns the log off.
fn level_filter(level: &str) -> Option<LevelFilter> {
    if level.eq_ignore_ascii_case("FATAL") { Some(LevelFilter::OFF) } else { level.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    fn filter_for(variables: &[(&str, &str)]) -> (Targets, Option<String>) {
        filter(&|name| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned()))
    }

    #[track_caller]
    fn assert_from(level: Level, variables: &[(&str, &str)]) {
        let (filter, problem) = filter_for(variables);
        assert_eq!(filter.default_level(), Some(LevelFilter::from_level(level)));
        assert_eq!(problem, None);
    }

    #[test]
    fn prefers_lambdas_level() {
        assert_from(Level::INFO, &[]);
        assert_from(Level::WARN, &[("RUST_LOG", "warn")]);
        assert_from(Level::ERROR, &[("AWS_LAMBDA_LOG_LEVEL", "ERROR"), ("RUST_LOG", "debug")]);
        assert_from(Level::DEBUG, &[("AWS_LAMBDA_LOG_LEVEL", "debug"), ("RUST_LOG", "not a level")]);
        assert_eq!(filter_for(&[("AWS_LAMBDA_LOG_LEVEL", "FATAL")]).0.default_level(), Some(LevelFilter::OFF));
    }

    #[test]
    fn accepts_targets_in_rust_log() {
        let (filter, problem) = filter_for(&[("RUST_LOG", "warn,userhub_signin=debug")]);
        assert_eq!(problem, None);
        assert!(filter.would_enable("userhub_signin::handler", &Level::DEBUG));
        assert!(!filter.would_enable("lambda_runtime", &Level::INFO));
    }

    #[test]
    fn names_a_variable_with_an_unknown_level() {
        for variable in ["AWS_LAMBDA_LOG_LEVEL", "RUST_LOG"] {
            let (filter, problem) = filter_for(&[(variable, "a=loud")]);
            assert_eq!(filter.default_level(), Some(LevelFilter::INFO));
            assert_eq!(problem, Some(format!("{variable} is not a log level: INFO is used")));
        }
    }
}

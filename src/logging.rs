//! Lambda's log conventions, on tracing-subscriber.

use std::env;

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
    let lines = fmt::layer().with_target(false).log_internal_errors(false);
    let lines = if json {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    } else {
        lines.boxed()
    };
    registry().with(filter).with(lines).init();

    // The location is enough: the message may contain data, such as a user name.
    std::panic::set_hook(Box::new(|panic| {
        error!(location = panic.location().map(ToString::to_string), "panicked");
    }));
    if let Some(problem) = problem {
        warn!("{problem}");
    }
}

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

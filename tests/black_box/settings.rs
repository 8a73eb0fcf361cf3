//! Settings that are missing or wrong: the function starts, says so, and passes every event through.

use std::path::Path;

use crate::support::{ADMIN_KEY, CONNECTION_ID, EVENT, Settings, UserHub};

/// Starts the function with a setting that is wrong, and holds it to saying `problem` at start and at each sign-in.
#[track_caller]
fn assert_refused(settings: Settings, variable: &str, problem: &str) {
    let function = settings.start();
    let sentence = format!("{variable} {problem}");
    for _ in 0..2 {
        let error = function.sign_in(EVENT).assert_not_reported("settings", None);
        assert!(error.contains(&sentence), "{error:?} does not say {sentence:?}");
    }
    let log = function.end();
    let at_start: Vec<_> = log.iter().filter(|line| line.contains(&sentence) && !line.contains("requestId")).collect();
    assert_eq!(at_start.len(), 1, "one line at start: {log:#?}");
    assert!(at_start[0].contains(r#""level":"ERROR""#), "{}", at_start[0]);
}

#[test]
fn says_which_setting_is_missing() {
    let userhub = UserHub::start(); // fails the test if it gets a request
    for (variable, problem) in [
        ("USERHUB_ADMIN_KEY", "is not set: create an Admin API key in UserHub and put it there"),
        (
            "AMAZON_COGNITO_CONNECTION_ID",
            "is not set: put the id of UserHub's Amazon Cognito connection there (conn_...)",
        ),
    ] {
        let settings = Settings::for_base_url(&userhub.base_url());
        assert_refused(settings.clone().unset(variable), variable, problem);
        assert_refused(settings.clone().set(variable, ""), variable, problem);
        assert_refused(settings.clone().set(variable, " \t\n"), variable, problem);
    }
}

#[test]
fn says_every_setting_that_is_wrong() {
    let function = Settings::for_base_url("ftp://userhub.example")
        .unset("USERHUB_ADMIN_KEY")
        .set("AMAZON_COGNITO_CONNECTION_ID", "no/such")
        .set("USERHUB_EXTRA_CA_CERTS", "/no/such/file.pem")
        .start();
    let error = function.sign_in(EVENT).assert_not_reported("settings", None);
    for variable in ["USERHUB_ADMIN_KEY", "AMAZON_COGNITO_CONNECTION_ID", "USERHUB_BASE_URL", "USERHUB_EXTRA_CA_CERTS"]
    {
        assert!(error.contains(&format!("{variable} ")), "{error}");
    }
}

#[test]
fn says_which_setting_is_malformed_without_its_value() {
    let not_pem = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml").display().to_string();
    for (variable, value, problem) in [
        ("USERHUB_ADMIN_KEY", "value one", "holds white space, control or non-ASCII characters"),
        ("USERHUB_ADMIN_KEY", "value\r\nX-Injected: yes", "holds white space, control or non-ASCII characters"),
        ("USERHUB_ADMIN_KEY", "value\u{e9}", "holds white space, control or non-ASCII characters"),
        ("AMAZON_COGNITO_CONNECTION_ID", "value/../../x", "may hold letters, digits, '_' and '-' only"),
        ("AMAZON_COGNITO_CONNECTION_ID", "value:event?x=", "may hold letters, digits, '_' and '-' only"),
        ("USERHUB_BASE_URL", "value", "is not a URL: relative URL without a base"),
        ("USERHUB_BASE_URL", "https://", "is not a URL: empty host"),
        ("USERHUB_BASE_URL", "http://value.example", "must start with https:// (http is for a loopback host only"),
        ("USERHUB_BASE_URL", "http://localhost.value.example", "must start with https:// (http is for"),
        ("USERHUB_BASE_URL", "http://169.254.169.254/value", "must start with https:// (http is for"),
        ("USERHUB_BASE_URL", "file:///value", "must start with https://"),
        ("USERHUB_BASE_URL", "https://value@userhub.example", "may hold a host, a port and a path"),
        ("USERHUB_BASE_URL", "https://userhub.example?value", "may hold a host, a port and a path"),
        ("USERHUB_BASE_URL", "https://userhub.example#value", "may hold a host, a port and a path"),
        ("USERHUB_BASE_URL", "https://user\nhub.value", "holds control characters"),
        ("USERHUB_EXTRA_CA_CERTS", "/no/such/value.pem", "names a file that cannot be read as PEM"),
        ("USERHUB_EXTRA_CA_CERTS", &not_pem, "names a file without a certificate"),
    ] {
        let settings = Settings::for_base_url("https://userhub.example").set(variable, value);
        let function = settings.clone().start();
        function.sign_in(EVENT);
        let printed = function.end().concat();
        assert!(!printed.contains("value"), "the value of {variable} is in {printed}");
        assert_refused(settings, variable, problem);
    }
}

#[test]
fn drops_white_space_around_values() {
    let userhub = UserHub::start();
    let function = Settings::for_base_url(&format!(" {}/ ", userhub.base_url()))
        .set("USERHUB_ADMIN_KEY", &format!("\n{ADMIN_KEY}\n"))
        .set("AMAZON_COGNITO_CONNECTION_ID", &format!("\t{CONNECTION_ID} "))
        .set("USERHUB_EXTRA_CA_CERTS", " ")
        .start();
    function.sign_in(EVENT).assert_reported(200);
    userhub.only_report();
}

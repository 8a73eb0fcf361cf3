//! Log lines, in the format and from the level that Lambda's settings ask for.

use std::time::Duration;

use harness::{EVENT, Function, Settings, Step, UserHub, answer};

#[test]
fn logs_flat_json() {
    let userhub = UserHub::start();
    let fields = Function::reporting_to(&userhub).sign_in(EVENT).fields();
    userhub.only_report();
    assert!(fields.values().all(|value| !value.is_object() && !value.is_array()), "{fields:?}");
    let timestamp = fields["timestamp"].as_str().unwrap();
    assert!(is_rfc_3339_utc(timestamp), "{timestamp}");
    assert_eq!(fields["level"], "INFO");
    assert_eq!(fields["message"], "sign-in reported to UserHub");
    assert_eq!(fields["requestId"], "00000000-0000-4000-8000-000000000000");
}

/// Such as `2026-01-31T23:59:59.123456Z`.
fn is_rfc_3339_utc(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00.000000Z"
}

#[test]
fn logs_how_long_the_report_took() {
    let reply = [vec![Step::Wait(Duration::from_millis(300))], answer(200, "{}")].concat();
    let userhub = UserHub::replying([reply]);
    let sign_in = Function::reporting_to(&userhub).sign_in(EVENT);
    userhub.only_report();
    let duration = Duration::from_millis(sign_in.fields()["duration_ms"].as_u64().unwrap());
    assert!(duration >= Duration::from_millis(300) && duration <= sign_in.elapsed, "{duration:?}");
}

#[test]
fn logs_text_unless_lambda_asks_for_json() {
    for format in ["Text", "", "other"] {
        let userhub = UserHub::start();
        let settings = Settings::for_base_url(&userhub.base_url()).set("AWS_LAMBDA_LOG_FORMAT", format);
        let line = settings.start().sign_in(EVENT).line;
        userhub.only_report();
        assert!(line.contains(r#" INFO sign-in reported to UserHub outcome="reported" status=200 "#), "{line}");
        assert!(!line.contains('\u{1b}'), "colours: {line:?}");
    }
}

#[test]
fn logs_from_the_level_that_lambda_sets() {
    for (level, rust_log, success, failure) in [
        ("", "", true, true),
        ("DEBUG", "", true, true),
        ("info", "", true, true),
        ("WARN", "", false, true),
        ("ERROR", "", false, true),
        ("FATAL", "", false, false),
        ("", "error", false, true),
        ("", "off", false, false),
        ("", "userhub_signin=warn", false, true),
        ("", "warn,userhub_signin=info", true, true),
        ("", "info,userhub_signin=off", false, false),
        ("INFO", "error", true, true),
        ("ERROR", "trace", false, true),
    ] {
        let userhub = UserHub::replying([answer(200, "{}"), answer(500, "{}")]);
        let function = Settings::for_base_url(&userhub.base_url())
            .set("AWS_LAMBDA_LOG_LEVEL", level)
            .set("RUST_LOG", rust_log)
            .start();
        function.return_event(EVENT);
        function.return_event(EVENT);
        assert_eq!(userhub.reports().len(), 2);
        let lines = function.end().concat();
        assert_eq!(lines.contains("sign-in reported"), success, "{level:?} {rust_log:?}: {lines}");
        assert_eq!(lines.contains("sign-in not reported"), failure, "{level:?} {rust_log:?}: {lines}");
    }
}

#[test]
fn warns_about_an_unknown_level() {
    for variable in ["AWS_LAMBDA_LOG_LEVEL", "RUST_LOG"] {
        let userhub = UserHub::start();
        let function = Settings::for_base_url(&userhub.base_url()).set(variable, "value=loud").start();
        function.sign_in(EVENT).assert_reported(200);
        userhub.only_report();
        let line = function.line_with(variable);
        assert!(line.contains(r#""level":"WARN""#) && line.contains("is not a log level: INFO is used"), "{line}");
        assert!(!line.contains("loud"), "{line}");
    }
}

#[test]
fn logs_nothing_of_the_event_at_any_level() {
    for (variable, value) in
        [("AWS_LAMBDA_LOG_LEVEL", "TRACE"), ("AWS_LAMBDA_LOG_LEVEL", "DEBUG"), ("RUST_LOG", "trace")]
    {
        let userhub = UserHub::replying([answer(200, "{}"), answer(404, r#"{"code":"NOT_FOUND"}"#)]);
        let function = Settings::for_base_url(&userhub.base_url()).set(variable, value).start();
        for _ in 0..2 {
            function.sign_in(EVENT); // checks the log for the user name and the key
        }
        assert_eq!(userhub.reports().len(), 2);
        let printed = function.end().concat();
        for word in ["sample.user", "userAttributes", "email", "eu-west-1_EXAMPLE00", "1example23456789"] {
            assert!(!printed.contains(word), "{word} in {printed}");
        }
    }
}

#[test]
fn a_line_stays_one_line_whatever_userhub_sends() {
    let reason = format!("HTTP/1.1 \u{1b}[31m{}\n{{\"level\":\"INFO\"}}\r\n\r\n", "x".repeat(500));
    for format in ["JSON", "Text"] {
        let userhub = UserHub::replying([vec![Step::Send(reason.clone().into_bytes()), Step::Hang]]);
        let function = Settings::for_base_url(&userhub.base_url()).set("AWS_LAMBDA_LOG_FORMAT", format).start();
        let line = function.sign_in(EVENT).line;
        assert_eq!(userhub.reports().len(), 1);
        assert_eq!(function.end(), std::slice::from_ref(&line));
        assert!(line.len() < 600 && !line.contains(char::is_control), "{line}");
    }
}

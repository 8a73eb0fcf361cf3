//! Lambda: its deadline, its clock, its Runtime API, its signals.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;

use harness::{Behaviour, EVENT, Function, Settings, Step, UserHub, answer, binary};
use serde_json::Value;

#[test]
fn returns_the_event_before_a_near_deadline() {
    let userhub = UserHub::replying([vec![Step::Hang]]);
    thread::scope(|scope| {
        for left in [300, 700, 1200, 1900].map(Duration::from_millis) {
            let function = Function::reporting_to(&userhub);
            scope.spawn(move || {
                function.wait_until_ready();
                let sign_in = function.sign_in_by(SystemTime::now() + left, EVENT);
                sign_in.assert_not_reported("timed_out", None);
                assert!(sign_in.elapsed < left, "{left:?} left, and the event came back after {:?}", sign_in.elapsed);
            });
        }
    });
    assert_eq!(userhub.reports().len(), 4);
    // Too near to wait for an answer: the report ends at once.
    let function = Function::reporting_to(&userhub);
    let sign_in = function.sign_in_by(SystemTime::now() + Duration::from_millis(150), EVENT);
    sign_in.assert_not_reported("timed_out", None);
    assert!(sign_in.elapsed < Duration::from_secs(1), "{:?}", sign_in.elapsed);
    thread::sleep(Duration::from_millis(100)); // a request may still be on its way
    userhub.reports();
}

#[test]
fn uses_the_time_that_is_left() {
    let userhub = UserHub::replying([[vec![Step::Wait(Duration::from_millis(500))], answer(200, "{}")].concat()]);
    let function = Function::reporting_to(&userhub);
    function.sign_in_by(SystemTime::now() + Duration::from_millis(1200), EVENT).assert_reported(200);
    userhub.only_report();
}

/// The machine's clock and Lambda's deadline disagree after one of them has jumped.
#[test]
fn a_wrong_clock_neither_prevents_nor_prolongs_reports() {
    let late = [vec![Step::Wait(Duration::from_millis(500))], answer(200, "{}")].concat();
    let userhub = UserHub::replying([late.clone(), late, vec![Step::Hang]]);
    let function = Function::reporting_to(&userhub);
    let century = Duration::from_hours(100 * 365 * 24);
    for deadline in [SystemTime::now() - Duration::from_hours(1), SystemTime::UNIX_EPOCH] {
        function.sign_in_by(deadline, EVENT).assert_reported(200);
        userhub.only_report();
    }
    function.sign_in_by(SystemTime::now() + century, EVENT).assert_not_reported("timed_out", None);
    userhub.only_report();
}

#[test]
fn works_with_a_slow_runtime_api() {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    function.set_runtime_api(Behaviour::Slow);
    for _ in 0..3 {
        function.sign_in(EVENT).assert_reported(200);
        userhub.only_report();
    }
}

/// Cognito sends neither; another caller of the function may. lambda_runtime ends then, without a response.
#[test]
fn names_a_client_context_or_an_identity_that_cannot_be_read() {
    let userhub = UserHub::start();
    for (header, is_valid) in [
        (r#"Client-Context: {"custom":{"a":"1"}}"#, true),
        (r#"Client-Context: {"custom":{"a":1}}"#, false),
        (r#"Cognito-Identity: {"cognitoIdentityId":"a","cognitoIdentityPoolId":"b"}"#, true),
        (r#"Cognito-Identity: {"cognitoIdentityId":"a"}"#, false),
        ("Cognito-Identity: sample", false),
    ] {
        let mut function = Function::reporting_to(&userhub);
        function.send_with_headers(&format!("Lambda-Runtime-{header}\r\n"));
        if is_valid {
            function.line_with("sign-in reported");
            userhub.only_report();
        } else {
            assert_eq!(function.wait_for_end().code(), Some(1));
            assert_only_error(
                &function.end(),
                "an invocation got no response because lambda_runtime cannot read its client context or Cognito identity",
            );
        }
    }
}

/// The only line is an ERROR with a message that starts like this.
#[track_caller]
fn assert_only_error(lines: &[String], start: &str) {
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let fields: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(fields["level"], "ERROR", "{}", lines[0]);
    assert!(fields["message"].as_str().unwrap().starts_with(start), "{}", lines[0]);
}

/// lambda_runtime ends or panics then. A line that says "panicked" would be taken for a bug of this function.
#[test]
fn names_the_runtime_api_when_it_misbehaves() {
    let userhub = UserHub::start();
    for behaviour in [Behaviour::Fails, Behaviour::GivesNoDeadline, Behaviour::GivesNoRequestId] {
        let mut function = Settings::for_base_url(&userhub.base_url()).with_runtime_api(behaviour).start();
        function.send_with_headers("");
        assert_eq!(function.wait_for_end().code(), Some(1));
        assert_only_error(&function.end(), "the Lambda Runtime API failed: ");
    }
}

#[test]
fn names_the_runtime_api_when_its_address_is_none() {
    let settings = Settings::for_base_url("https://userhub.example");
    for address in ["not a url", "127.0.0.1:99999", "127.0.0.1:9", "http://", "/", "[::1", "\u{e9}", "a b:1"] {
        let output = Command::new(binary())
            .env_clear()
            .envs(settings.variables())
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{address}: {output:?}");
        assert!(output.stderr.is_empty(), "{address}: {output:?}");
        let lines: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(ToOwned::to_owned).collect();
        assert_only_error(&lines, "the Lambda Runtime API failed: ");
    }
}

/// Lambda starts another process then.
#[test]
fn ends_when_the_runtime_api_is_gone() {
    let userhub = UserHub::replying([[vec![Step::Wait(Duration::from_millis(500))], answer(200, "{}")].concat()]);
    for busy in [false, true] {
        let mut function = Function::reporting_to(&userhub);
        function.wait_until_ready();
        if busy {
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(Duration::from_millis(250));
                    function.set_runtime_api(Behaviour::Gone);
                });
                function.sign_in(EVENT).assert_reported(200);
            });
            userhub.only_report();
        } else {
            function.set_runtime_api(Behaviour::Gone);
        }
        assert_eq!(function.wait_for_end().code(), Some(1));
        let line = function.line_with("the Lambda Runtime API failed");
        assert!(line.contains(r#""level":"ERROR""#), "{line}");
    }
}

#[test]
fn ends_at_once_when_lambda_shuts_it_down() {
    let userhub = UserHub::start();
    for signal in [Signal::TERM, Signal::INT] {
        let mut settings = Settings::for_base_url(&userhub.base_url());
        if cfg!(target_os = "linux") {
            // Whoever runs the tests may ignore SIGINT, and a process inherits that.
            settings = settings.started_by(["env", "--default-signal=TERM,INT"]);
        }
        let mut function = settings.start();
        function.sign_in(EVENT).assert_reported(200);
        userhub.only_report();
        function.signal(signal);
        assert_eq!(function.wait_for_end().signal(), Some(signal.as_raw()));
        assert_eq!(function.end().len(), 1, "only the sign-in's line");
    }
}

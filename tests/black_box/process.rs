//! The function's process: started by hand, panicking, without a log.

use std::process::Command;

use harness::{EVENT, Settings, UserHub, binary};

#[test]
fn says_what_it_is_when_started_by_hand() {
    for variables in [&[][..], &[("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9")]] {
        let output = Command::new(binary()).env_clear().envs(variables.iter().copied()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(
            printed.starts_with("userhub-signin is an AWS Lambda function") && printed.contains("`make run`"),
            "{printed}"
        );
        assert_eq!(printed.lines().count(), 1, "{printed}");
        assert!(output.stdout.is_empty());
    }
}

/// A name look-up needs a thread, and tokio panics if it gets none: a real panic in the middle of a report. In a binary
/// built with `panic = "abort"` it ends the process, and the sign-in fails.
#[cfg(target_os = "linux")]
#[test]
fn returns_the_event_when_the_report_panics() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

    let userhub = UserHub::start();
    let base_url = format!("http://localhost:{}", userhub.address.port());
    let function = Settings::for_base_url(&base_url).start();
    let limit = |limit| prlimit(Pid::from_raw(function.id().cast_signed()), Resource::As, limit).unwrap();
    let unlimited = getrlimit(Resource::As);
    function.wait_until_ready();
    let pages: u64 = std::fs::read_to_string(format!("/proc/{}/statm", function.id()))
        .unwrap()
        .split(' ')
        .next()
        .and_then(|pages| pages.parse().ok())
        .unwrap();
    let used = pages * rustix::param::page_size() as u64;
    limit(Rlimit { current: Some(used + (1 << 20)), ..unlimited }); // a thread's stack takes 2 MiB
    for _ in 0..2 {
        function.sign_in(EVENT).assert_not_reported("panic", None);
    }
    assert!(function.line_with("panicked").contains("location"));

    limit(unlimited);
    function.sign_in(EVENT).assert_reported(200);
    userhub.only_report();
}

/// An open pipe that nobody reads would block the function after some 500 lines. Lambda always reads: it has to, to send
/// the lines to CloudWatch.
#[test]
fn returns_the_event_when_the_log_pipe_is_closed() {
    let userhub = UserHub::start();
    let function = Settings::for_base_url(&userhub.base_url()).with_closed_log().start();
    for _ in 0..3 {
        function.return_event(EVENT);
        userhub.only_report();
    }
}

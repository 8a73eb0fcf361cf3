//! The function's process: started by hand, panicking, started anew.

use std::process::Command;

use harness::{EVENT, Function, Settings, UserHub, binary};
use serde_json::{Map, Value};

/// Quick, because it is not reported.
const REFRESH: &[u8] = br#"{"triggerSource":"TokenGeneration_RefreshTokens","userName":"sample"}"#;

#[test]
fn says_what_it_is_when_started_by_hand() {
    let variables = ["RUNTIME_API", "FUNCTION_NAME", "FUNCTION_MEMORY_SIZE", "FUNCTION_VERSION"];
    for (missing, empty) in variables.iter().flat_map(|missing| [(missing, false), (missing, true)]) {
        let others = variables.iter().filter(|name| *name != missing);
        let others = others.map(|name| (format!("AWS_LAMBDA_{name}"), "127.0.0.1:9"));
        let empty = empty.then(|| (format!("AWS_LAMBDA_{missing}"), ""));
        let output = Command::new(binary()).env_clear().envs(others.chain(empty)).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "without {missing}");
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
    let line: Map<String, Value> = serde_json::from_str(&function.line_with("\"panicked\"")).unwrap();
    let fields: Vec<_> = line.keys().map(String::as_str).collect();
    assert_eq!(fields, ["level", "location", "message", "timestamp"], "the panic's own text may contain data");
    assert_eq!(line["message"], "panicked");

    limit(unlimited);
    function.sign_in(EVENT).assert_reported(200);
    userhub.only_report();
}

/// main.rs says why. Each invocation here has a trace id of its own, as in Lambda, which shows what the process keeps of it.
#[cfg(target_os = "linux")]
#[test]
fn starts_anew_between_two_invocations() {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    function.sign_in(EVENT).assert_reported(200);
    for _ in 0..200 {
        function.return_event(REFRESH);
    }
    let memory = function.status_kib("VmRSS");
    assert_eq!(userhub.only_report().connection, 0);
    let mut grown = 0;
    let mut done = 201;
    for edge in [10_000, 20_000] {
        while done < edge - 5 {
            function.return_event(REFRESH);
            done += 1;
            if done % 500 == 0 {
                grown = grown.max(function.status_kib("VmRSS").saturating_sub(memory));
            }
        }
        for _ in 0..10 {
            function.sign_in(EVENT).assert_reported(200);
        }
        done += 10;
        let connections: Vec<_> = userhub.reports().iter().map(|report| report.connection).collect();
        let first = edge / 10_000 - 1;
        let expected = [[first; 5], [first + 1; 5]].concat();
        assert_eq!(connections, expected, "no report is lost, and the new process has a connection of its own");
    }
    while done < 25_000 {
        function.return_event(REFRESH);
        done += 1;
    }
    grown = grown.max(function.status_kib("VmRSS").saturating_sub(memory));
    assert!(grown < 3000, "the memory of process {} grew by {grown} KiB", function.id());
    assert_eq!(function.end().len(), 21, "one line for each sign-in");
}

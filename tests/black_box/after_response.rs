//! `USERHUB_REPORT=after-response`: the event comes back at once, and the report follows in the same invocation.

use std::time::{Duration, Instant, SystemTime};

use harness::{
    Behaviour, EVENT, Function, Reply, Settings, SignIn, Step, UserHub, answer, sample_events, send, unused_base_url,
};

/// A report that took this long is certain to end after the event is back.
const LONG: Duration = Duration::from_millis(150);

fn settings(base_url: &str) -> Settings {
    Settings::for_base_url(base_url).set("USERHUB_REPORT", "after-response")
}

fn function(userhub: &UserHub) -> Function {
    settings(&userhub.base_url()).start()
}

fn late(wait: Duration, reply: Reply) -> Reply {
    [vec![Step::Wait(wait)], reply].concat()
}

/// An answer that asks for a pause before the next try.
fn refusal(status: &str, retry_after: &str) -> Reply {
    vec![send(format!("HTTP/1.1 {status}\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\n\r\n"))]
}

/// One sign-in that does not wait for its report. Also how long the invocation took, report included.
#[track_caller]
fn sign_in_at_once(function: &Function, userhub: &UserHub, event: &[u8]) -> (SignIn, Duration) {
    let start = Instant::now();
    let sign_in = function.sign_in(event);
    let elapsed = function.wait_until_idle().duration_since(start);
    assert!(elapsed < LONG || sign_in.returned_at < userhub.last_reply_ended_at(), "waited {:?}", sign_in.elapsed);
    (sign_in, elapsed)
}

/// As [`sign_in_at_once`], and checks what became of the report.
#[track_caller]
fn assert_sign_in(function: &Function, userhub: &UserHub, outcome: &str, tries: u64) -> Duration {
    let (sign_in, elapsed) = sign_in_at_once(function, userhub, EVENT);
    let fields = sign_in.fields();
    assert_eq!(fields.get("error_kind").unwrap_or(&fields["outcome"]), outcome, "{}", sign_in.line);
    assert_eq!(sign_in.tries(), tries, "{}", sign_in.line);
    assert_eq!(userhub.reports().len(), usize::try_from(tries).unwrap(), "{}", sign_in.line);
    elapsed
}

#[test]
fn returns_the_event_at_once_and_reports_within_the_invocation() {
    let wait = Duration::from_millis(600);
    let userhub = UserHub::replying([answer(200, "{}"), late(wait, answer(200, "{}"))]);
    let function = function(&userhub);
    assert_sign_in(&function, &userhub, "reported", 1);
    for _ in 0..2 {
        let elapsed = assert_sign_in(&function, &userhub, "reported", 1);
        assert!(elapsed >= wait, "the invocation ended after {elapsed:?}, before the report");
        assert!(elapsed < 2 * wait, "the invocation went on after the report, for {elapsed:?}");
    }
    assert_eq!(userhub.connections(), 1);
}

#[test]
fn tries_three_times_if_that_may_help() {
    let (fail, take) = (answer(503, ""), answer(200, "{}"));
    for (replies, outcome, tries, pauses) in [
        (vec![fail.clone(), take.clone()], "reported", 2, 200),
        (vec![vec![Step::Reset], fail.clone(), take.clone()], "reported", 3, 400),
        (vec![vec![Step::Close], vec![Step::Reset], take.clone()], "reported", 3, 200),
        (vec![answer(429, ""), take.clone()], "reported", 2, 200),
        (vec![fail.clone()], "unavailable", 3, 600),
        (vec![answer(429, "")], "rate_limited", 3, 600),
        (vec![vec![Step::Reset]], "connect", 3, 200),
        (vec![answer(401, "{}"), take.clone()], "rejected", 1, 0),
        (vec![answer(302, ""), take.clone()], "unexpected_answer", 1, 0),
        (vec![vec![send("no HTTP\r\n\r\n")], take.clone()], "unexpected_answer", 1, 0),
    ] {
        let userhub = UserHub::replying(replies);
        let elapsed = assert_sign_in(&function(&userhub), &userhub, outcome, tries);
        assert!(elapsed >= Duration::from_millis(pauses), "{tries} tries in {elapsed:?}");
    }
    let nobody = settings(&unused_base_url()).start();
    let sign_in = nobody.sign_in(EVENT);
    sign_in.assert_not_reported("connect", None);
    assert_eq!(sign_in.tries(), 3);
}

#[test]
fn waits_as_long_as_userhub_asks() {
    let take = answer(200, "{}");
    for (refusal, outcome, tries, pause) in [
        (refusal("429 Too Many Requests", "1"), "reported", 2, 1000),
        (refusal("503 Service Unavailable", "1"), "reported", 2, 1000),
        (refusal("429 Too Many Requests", "0"), "reported", 2, 200),
        (refusal("429 Too Many Requests", "soon"), "reported", 2, 200),
        // A date is ignored.
        (refusal("429 Too Many Requests", "Thu, 01 Jan 2099 00:00:00 GMT"), "reported", 2, 200),
        (refusal("503 Service Unavailable", "3"), "reported", 2, 3000),
        // Longer than a report may take: no second try.
        (refusal("429 Too Many Requests", "4"), "rate_limited", 1, 0),
        (refusal("503 Service Unavailable", "18446744073709551615"), "unavailable", 1, 0),
    ] {
        let userhub = UserHub::replying([refusal, take.clone()]);
        let elapsed = assert_sign_in(&function(&userhub), &userhub, outcome, tries);
        assert!(elapsed >= Duration::from_millis(pause), "{outcome} after {elapsed:?}");
    }
}

#[test]
fn ends_the_report_before_lambda_would_end_the_function() {
    let userhub = UserHub::replying([vec![Step::Hang]]);
    let function = function(&userhub);
    let start = Instant::now();
    let deadline = SystemTime::now() + Duration::from_millis(2500);
    let sign_in = function.sign_in_by(deadline, EVENT);
    let idle_since = function.wait_until_idle();
    assert!(sign_in.returned_at < userhub.last_reply_ended_at(), "waited {:?}", sign_in.elapsed);
    sign_in.assert_not_reported("timed_out", None);
    assert_eq!(sign_in.tries(), 2);
    let elapsed = idle_since.duration_since(start);
    assert!(elapsed < Duration::from_millis(2500), "{elapsed:?}");
    assert_eq!(userhub.reports().len(), 2);
}

#[test]
fn reports_each_sign_in_once_and_for_its_own_user() {
    let userhub = UserHub::replying([answer(500, ""), answer(200, "{}")]);
    let function = settings(&userhub.base_url()).set("AWS_LAMBDA_LOG_LEVEL", "DEBUG").start();
    for round in 0..4 {
        for (name, event) in sample_events() {
            let (sign_in, _) = sign_in_at_once(&function, &userhub, &event);
            if sign_in.fields()["outcome"] == "ignored" {
                assert!(userhub.reports_of_any_type().is_empty(), "{name}");
                continue;
            }
            sign_in.assert_reported(200);
            let user_name = serde_json::from_slice::<serde_json::Value>(&event).unwrap()["userName"].clone();
            let reports = userhub.reports_of_any_type();
            assert!(reports.iter().all(|report| report.user_name == user_name), "{name}: {reports:?}");
            assert_eq!(reports.len(), if sign_in.tries() == 2 { 2 } else { 1 }, "{name} in round {round}");
        }
        userhub.reply_with([answer(500, ""), answer(200, "{}")]);
    }
}

#[test]
fn the_next_sign_in_begins_when_the_last_report_has_ended() {
    let wait = Duration::from_millis(500);
    let userhub = UserHub::replying([late(wait, answer(200, "{}")), answer(200, "{}")]);
    let function = function(&userhub);
    let start = Instant::now();
    // Its log line is not looked for, because that would wait for its report.
    let first = function.return_event(EVENT);
    assert!(first.elapsed < wait, "waited {:?}", first.elapsed);
    function.sign_in(EVENT).assert_reported(200);
    assert!(start.elapsed() >= wait, "{:?}", start.elapsed());
    assert_eq!(userhub.reports().len(), 2);
    function.line_with(&first.request_id);
}

#[test]
fn reports_before_the_response_if_lambda_refuses_the_extension() {
    let wait = Duration::from_millis(600);
    let userhub = UserHub::replying([late(wait, answer(200, "{}"))]);
    for behaviour in [Behaviour::RefusesExtensions, Behaviour::IgnoresExtensions] {
        reports_before_the_response(behaviour, wait, &userhub);
    }
}

#[track_caller]
fn reports_before_the_response(behaviour: Behaviour, wait: Duration, userhub: &UserHub) {
    userhub.reply_with([late(wait, answer(200, "{}"))]);
    let function = settings(&userhub.base_url()).with_runtime_api(behaviour).start();
    for _ in 0..2 {
        let sign_in = function.sign_in(EVENT);
        assert!(sign_in.elapsed >= wait, "without an extension, Lambda would freeze the function during the report");
        sign_in.assert_reported(200);
        userhub.only_report();
    }
    // It tries twice, as in the default mode.
    userhub.reply_with([vec![Step::Reset], answer(200, "{}")]);
    function.sign_in(EVENT).assert_reported(200);
    assert_eq!(userhub.reports().len(), 2);
    let log = function.end();
    let about_it: Vec<_> = log.iter().filter(|line| line.contains("takes no extension")).collect();
    assert_eq!(about_it.len(), 1, "{log:#?}");
    assert!(about_it[0].contains(r#""level":"WARN""#), "{}", about_it[0]);
}

/// Lambda sends no further sign-in to it, and starts another process for the next one.
#[test]
fn ends_after_the_last_report_when_the_extensions_api_fails() {
    let wait = Duration::from_millis(600);
    let userhub = UserHub::replying([late(wait, answer(200, "{}"))]);
    let mut function = function(&userhub);
    assert_sign_in(&function, &userhub, "reported", 1);
    function.set_runtime_api(Behaviour::RefusesExtensions); // also the request that is waiting
    let last = function.sign_in(EVENT);
    last.assert_reported(200);
    assert!(last.returned_at < userhub.last_reply_ended_at(), "waited {:?}", last.elapsed);
    userhub.only_report();
    let line = function.line_with("the Lambda Extensions API failed: its answer was 403 Forbidden");
    assert!(line.contains(r#""level":"ERROR""#), "{line}");
    assert_eq!(function.wait_for_end().code(), Some(1));
}

/// The report of a sign-in whose response could not be sent is under way.
#[test]
fn ends_after_the_last_report_when_the_runtime_api_is_gone() {
    let userhub = UserHub::replying([late(Duration::from_millis(600), answer(200, "{}"))]);
    let mut function = function(&userhub);
    let returned = function.return_event(EVENT);
    function.set_runtime_api(Behaviour::Gone);
    assert_eq!(function.wait_for_end().code(), Some(1));
    let line = function.line_with(&returned.request_id);
    assert!(line.contains("sign-in reported"), "{line}");
    userhub.only_report();
}

/// lambda_runtime rejects the event itself, so there is nothing to report.
#[test]
fn an_invocation_with_invalid_json_ends() {
    let userhub = UserHub::start();
    let function = function(&userhub);
    function.send_invalid_json(b"no JSON");
    let start = Instant::now();
    function.sign_in(EVENT).assert_reported(200);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    userhub.only_report();
}

/// The extension has stopped waiting for it by then, and reports it during the next invocation, together with that one's.
#[test]
fn reports_an_event_that_arrives_late() {
    let userhub = UserHub::start();
    let function = function(&userhub);
    function.wait_until_ready();
    function.set_runtime_api(Behaviour::DelaysEvents);
    let late = function.return_event(EVENT);
    function.set_runtime_api(Behaviour::Normal);
    function.sign_in(EVENT).assert_reported(200);
    function.wait_until_idle();
    function.line_with(&late.request_id);
    assert_eq!(userhub.reports().len(), 2);
}

#[test]
fn the_default_is_to_report_before_the_response() {
    let wait = Duration::from_millis(600);
    let userhub = UserHub::replying([late(wait, answer(200, "{}"))]);
    let plain = Settings::for_base_url(&userhub.base_url());
    for settings in
        [plain.clone(), plain.clone().set("USERHUB_REPORT", ""), plain.set("USERHUB_REPORT", "before-response")]
    {
        let function = settings.start();
        let sign_in = function.sign_in(EVENT);
        assert!(sign_in.elapsed >= wait, "the event came back before the report");
        userhub.only_report();
    }
}

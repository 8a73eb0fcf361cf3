//! `USERHUB_REPORT=after-response`: Cognito has its event back at once, and the report follows in the same invocation.

use std::time::{Duration, Instant, SystemTime};

use crate::support::{
    EVENT, Function, Manners, Reply, Settings, Step, UserHub, answer, sample_events, send, unused_base_url,
};

/// The event is back at once: the time that UserHub takes in these tests is longer.
const AT_ONCE: Duration = Duration::from_millis(250);

fn settings(base_url: &str) -> Settings {
    Settings::for_base_url(base_url).set("USERHUB_REPORT", "after-response")
}

fn function(userhub: &UserHub) -> Function {
    settings(&userhub.base_url()).start()
}

fn late(wait: Duration, reply: Reply) -> Reply {
    [vec![Step::Wait(wait)], reply].concat()
}

/// An answer that asks for a pause.
fn refusal(status: &str, retry_after: &str) -> Reply {
    vec![send(format!("HTTP/1.1 {status}\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\n\r\n"))]
}

/// How long the invocation went on after Cognito had its event back.
#[track_caller]
fn sign_in_at_once(function: &Function, userhub: &UserHub, outcome: &str, tries: u64, requests: usize) -> Duration {
    let start = Instant::now();
    let sign_in = function.sign_in(EVENT);
    assert!(sign_in.elapsed < AT_ONCE, "Cognito waited {:?}", sign_in.elapsed);
    let idle_since = function.wait_until_idle();
    let fields = sign_in.fields();
    assert_eq!(fields.get("error_kind").unwrap_or(&fields["outcome"]), outcome, "{}", sign_in.line);
    assert_eq!(fields["tries"], tries, "{}", sign_in.line);
    assert_eq!(userhub.reports().len(), requests, "{}", sign_in.line);
    idle_since.duration_since(start)
}

#[test]
fn gives_the_event_back_at_once_and_reports_within_the_invocation() {
    let wait = Duration::from_millis(600);
    let userhub = UserHub::replying([answer(200, "{}"), late(wait, answer(200, "{}"))]);
    let function = function(&userhub);
    sign_in_at_once(&function, &userhub, "reported", 1, 1);
    for _ in 0..2 {
        let elapsed = sign_in_at_once(&function, &userhub, "reported", 1, 1);
        assert!(elapsed >= wait, "the invocation was over after {elapsed:?}, before the report was");
        assert!(elapsed < 2 * wait, "the invocation went on after the report, until {elapsed:?}");
    }
    assert_eq!(userhub.connections(), 1);
}

#[test]
fn tries_three_times_where_that_may_help() {
    let (fail, take) = (answer(503, ""), answer(200, "{}"));
    for (replies, outcome, tries) in [
        (vec![fail.clone(), take.clone()], "reported", 2),
        (vec![vec![Step::Reset], fail.clone(), take.clone()], "reported", 3),
        (vec![vec![Step::Close], vec![Step::Reset], take.clone()], "reported", 3),
        (vec![answer(429, ""), take.clone()], "reported", 2),
        (vec![fail.clone()], "unavailable", 3),
        (vec![answer(429, "")], "rate_limited", 3),
        (vec![vec![Step::Reset]], "connect", 3),
        (vec![answer(401, "{}"), take.clone()], "rejected", 1),
        (vec![answer(302, ""), take.clone()], "unexpected_answer", 1),
        (vec![vec![send("no HTTP\r\n\r\n")], take.clone()], "unexpected_answer", 1),
    ] {
        let userhub = UserHub::replying(replies);
        let requests = usize::try_from(tries).unwrap();
        let elapsed = sign_in_at_once(&function(&userhub), &userhub, outcome, tries, requests);
        // 0.2 s after the first try, and 0.4 s after the second.
        let pauses = Duration::from_millis([0, 200, 600][requests - 1]);
        assert!(elapsed >= pauses, "{tries} tries in {elapsed:?}");
    }
    let nobody = settings(&unused_base_url()).start();
    let sign_in = nobody.sign_in(EVENT);
    sign_in.assert_not_reported("connect", None);
    assert_eq!(sign_in.fields()["tries"], 3);
}

#[test]
fn waits_as_long_as_userhub_asks() {
    let take = answer(200, "{}");
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3)); // cut to a whole second
    for (refusal, outcome, tries, pause) in [
        (refusal("429 Too Many Requests", &date), "reported", 2, 1500),
        (refusal("429 Too Many Requests", "1"), "reported", 2, 1000),
        (refusal("503 Service Unavailable", "1"), "reported", 2, 1000),
        (refusal("429 Too Many Requests", "0"), "reported", 2, 200),
        (refusal("429 Too Many Requests", "soon"), "reported", 2, 200),
        (refusal("429 Too Many Requests", "Thu, 01 Jan 1970 00:00:00 GMT"), "reported", 2, 200),
        // Longer than Lambda lets the function run: not at all.
        (refusal("429 Too Many Requests", "3600"), "rate_limited", 1, 0),
        (refusal("503 Service Unavailable", "18446744073709551615"), "unavailable", 1, 0),
    ] {
        let userhub = UserHub::replying([refusal, take.clone()]);
        let requests = usize::try_from(tries).unwrap();
        let elapsed = sign_in_at_once(&function(&userhub), &userhub, outcome, tries, requests);
        assert!(elapsed >= Duration::from_millis(pause), "{outcome} after {elapsed:?}");
    }
}

#[test]
fn gives_a_report_up_before_lambda_would_end_the_function() {
    let userhub = UserHub::replying([vec![Step::Hang]]);
    let function = function(&userhub);
    let start = Instant::now();
    let deadline = SystemTime::now() + Duration::from_millis(3500);
    let sign_in = function.sign_in_by(deadline, EVENT);
    assert!(sign_in.elapsed < AT_ONCE, "Cognito waited {:?}", sign_in.elapsed);
    sign_in.assert_not_reported("timed_out", None);
    assert_eq!(sign_in.fields()["tries"], 2);
    let elapsed = function.wait_until_idle().duration_since(start);
    assert!(elapsed < Duration::from_millis(3500), "{elapsed:?}");
    assert_eq!(userhub.reports().len(), 2);
}

#[test]
fn mixes_no_sign_ins_up_and_loses_none() {
    let userhub = UserHub::replying([answer(500, ""), answer(200, "{}")]);
    let function = function(&userhub);
    for round in 0..4 {
        for (name, event) in sample_events() {
            let sign_in = function.sign_in(&event);
            assert!(sign_in.elapsed < AT_ONCE, "Cognito waited {:?}", sign_in.elapsed);
            sign_in.assert_reported(200);
            let user_name = serde_json::from_slice::<serde_json::Value>(&event).unwrap()["userName"].clone();
            function.wait_until_idle();
            let reports = userhub.reports_of_any_type();
            assert!(reports.iter().all(|report| report.user_name == user_name), "{name}: {reports:?}");
            assert_eq!(reports.len(), if sign_in.fields()["tries"] == 2 { 2 } else { 1 }, "{name} in round {round}");
        }
        userhub.reply_with([answer(500, ""), answer(200, "{}")]);
    }
}

#[test]
fn the_next_sign_in_begins_when_the_last_report_is_over() {
    let wait = Duration::from_millis(500);
    let userhub = UserHub::replying([late(wait, answer(200, "{}")), answer(200, "{}")]);
    let function = function(&userhub);
    let start = Instant::now();
    // Without a look at the first one's log line, which would be a wait for its report.
    function.return_event(EVENT);
    assert!(start.elapsed() < AT_ONCE);
    function.sign_in(EVENT).assert_reported(200);
    assert!(start.elapsed() >= wait, "{:?}", start.elapsed());
    assert_eq!(userhub.reports().len(), 2);
    function.line_with("000000000000"); // the first one's id
}

#[test]
fn reports_before_the_response_where_lambda_takes_no_extension() {
    let wait = Duration::from_millis(600);
    let userhub = UserHub::replying([late(wait, answer(200, "{}"))]);
    let function = settings(&userhub.base_url()).start_with(Manners::NoExtensions);
    for _ in 0..2 {
        let sign_in = function.sign_in(EVENT);
        assert!(sign_in.elapsed >= wait, "nobody would have let the report end");
        sign_in.assert_reported(200);
        assert!(!sign_in.fields().contains_key("tries"), "{}", sign_in.line);
        userhub.only_report();
    }
    // The default mode's second try is there as well.
    userhub.reply_with([vec![Step::Reset], answer(200, "{}")]);
    function.sign_in(EVENT).assert_reported(200);
    assert_eq!(userhub.reports().len(), 2);
    let log = function.end();
    let about_it: Vec<_> = log.iter().filter(|line| line.contains("takes no extension")).collect();
    assert_eq!(about_it.len(), 1, "{log:#?}");
    assert!(about_it[0].contains(r#""level":"WARN""#), "{}", about_it[0]);
}

#[test]
fn reports_before_the_response_once_the_extensions_api_fails() {
    let wait = Duration::from_millis(600);
    let userhub = UserHub::replying([late(wait, answer(200, "{}"))]);
    let function = function(&userhub);
    sign_in_at_once(&function, &userhub, "reported", 1, 1);
    function.set_manners(Manners::NoExtensions); // the request that waits now still gets its reply
    let last = function.sign_in(EVENT);
    assert!(last.elapsed < AT_ONCE, "Cognito waited {:?}", last.elapsed);
    last.assert_reported(200);
    userhub.only_report();
    let line = function.line_with("the Lambda Extensions API failed");
    assert!(line.contains(r#""level":"ERROR""#), "{line}");
    let sign_in = function.sign_in(EVENT);
    assert!(sign_in.elapsed >= wait, "nobody would have let the report end");
    sign_in.assert_reported(200);
    userhub.only_report();
}

/// The runtime answers it itself, so that no report comes of it.
#[test]
fn an_invocation_without_an_event_ends_as_well() {
    let userhub = UserHub::start();
    let function = function(&userhub);
    function.be_refused(b"no JSON");
    let start = Instant::now();
    function.sign_in(EVENT).assert_reported(200);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    userhub.only_report();
}

#[test]
fn the_default_is_before_the_response() {
    let wait = Duration::from_millis(600);
    let userhub = UserHub::replying([late(wait, answer(200, "{}"))]);
    let plain = Settings::for_base_url(&userhub.base_url());
    for settings in
        [plain.clone(), plain.clone().set("USERHUB_REPORT", ""), plain.set("USERHUB_REPORT", "before-response")]
    {
        let function = settings.start();
        let sign_in = function.sign_in(EVENT);
        assert!(sign_in.elapsed >= wait, "the report was still to come");
        assert!(!sign_in.fields().contains_key("tries"), "{}", sign_in.line);
        userhub.only_report();
    }
}

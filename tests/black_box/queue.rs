//! What UserHub does not take waits in the queue; with `USERHUB_REPORT_VIA=queue`, everything does.

use std::thread;
use std::time::Duration;

use harness::{
    EVENT, Function, Reply, Settings, Sqs, Step, UserHub, access_denied, answer, queue_does_not_exist, send, sqs_error,
    unused_base_url,
};

use crate::answers::page;

const USER: &str = "1f0e2d3c-4b5a-4697-8877-665544332211";

/// What UserHub does, the error that this is, and whether its report is kept.
fn failures() -> Vec<(&'static str, Reply, &'static str, Option<u16>, bool)> {
    let body = r#"{"code":"SOME_CODE"}"#;
    let mut failures = vec![
        ("resets", vec![Step::Reset], "connect", None, true),
        ("closes", vec![Step::Close], "connect", None, true),
        ("hangs", vec![Step::Hang], "timed_out", None, true),
        ("is no HTTP server", vec![send("SSH-2.0-OpenSSH_9.6\r\n"), Step::Hang], "unexpected_answer", None, true),
        ("redirects", answer(302, ""), "unexpected_answer", Some(302), true),
        ("shows a page with 200", page(200, "text/html; charset=utf-8"), "unexpected_answer", Some(200), true),
        ("shows a page with 403", page(403, "text/html; charset=utf-8"), "unexpected_answer", Some(403), true),
        ("shows a page with 404", page(404, "text/html; charset=utf-8"), "unexpected_answer", Some(404), true),
        ("shows a page with 502", page(502, "text/html; charset=utf-8"), "unavailable", Some(502), true),
        ("limits the rate", answer(429, body), "rate_limited", Some(429), true),
    ];
    for status in [500, 502, 503, 504] {
        failures.push(("fails", answer(status, body), "unavailable", Some(status), true));
    }
    for status in [401, 402, 403, 404, 407, 408, 421, 425] {
        failures.push(("rejects for now", answer(status, body), "rejected", Some(status), true));
    }
    for status in [400, 405, 409, 410, 413, 422, 451] {
        failures.push(("rejects for ever", answer(status, body), "rejected", Some(status), false));
    }
    failures
}

#[test]
fn what_may_succeed_later_waits_in_the_queue_and_nothing_else_does() {
    thread::scope(|scope| {
        for (what, reply, kind, status, kept) in failures() {
            scope.spawn(move || {
                let (userhub, sqs) = (UserHub::replying([reply]), Sqs::start());
                let settings = Settings::for_base_url(&userhub.base_url());
                let with_queue = settings.clone().queue(&sqs).start().sign_in(EVENT);
                let messages = sqs.messages();
                if kept {
                    with_queue.assert_queued(Some(kind));
                    assert_eq!(with_queue.fields().get("status").cloned(), status.map(Into::into), "{what}");
                    assert_eq!(messages.len(), 1, "{what}");
                    assert_eq!((&*messages[0].user_name, &*messages[0].event_type), (USER, "SIGNIN"));
                } else {
                    with_queue.assert_not_reported(kind, status);
                    assert!(messages.is_empty(), "{what}: {messages:?}");
                }
                let requests = userhub.reports().len();

                settings.clone().start().sign_in(EVENT).assert_not_reported(kind, status);
                assert_eq!(userhub.reports().len(), requests, "{what}: a queue changes nothing before");
                settings.via_queue(&sqs).start().sign_in(EVENT).assert_queued(None);
                assert_eq!(sqs.only_message().user_name, USER);
                assert!(userhub.reports().is_empty(), "{what}: UserHub was asked");
            });
        }
    });
}

#[test]
fn a_healthy_userhub_needs_no_queue() {
    let (userhub, sqs) = (UserHub::start(), Sqs::start());
    let function = Settings::for_base_url(&userhub.base_url()).queue(&sqs).start();
    for _ in 0..3 {
        function.sign_in(EVENT).assert_reported(200);
        userhub.only_report();
    }
    assert_eq!(sqs.connections(), 0);
}

#[test]
fn says_when_the_queue_does_not_take_a_report() {
    let failures: [(&str, Reply, &str); 10] = [
        ("is another server", answer(200, "{}"), "unexpected answer: 200 OK without a MessageId"),
        ("shows a page", page(200, "text/html; charset=utf-8"), "unexpected answer: 200 OK without a MessageId"),
        ("hangs", vec![Step::Hang], "no answer in time"),
        ("resets", vec![Step::Reset], "could not connect: "),
        ("may not be used", access_denied(), "rejected: 403 Forbidden, AccessDeniedException"),
        ("does not exist", queue_does_not_exist(), "rejected: 400 Bad Request, QueueDoesNotExist"),
        (
            "fails",
            sqs_error(500, "InternalFailure", "sample.user"),
            "unavailable: 500 Internal Server Error, InternalFailure",
        ),
        ("has odd names", sqs_error(400, "a b\u{2028}", ""), "rejected: 400 Bad Request"),
        ("redirects", answer(301, ""), "unexpected answer: 301 Moved Permanently"),
        ("is no HTTP server", vec![send("\0\0\r\n\r\n"), Step::Hang], "unexpected answer: "),
    ];
    thread::scope(|scope| {
        for (what, reply, text) in failures {
            scope.spawn(move || {
                let (userhub, sqs) = (UserHub::replying([answer(503, "")]), Sqs::replying([reply]));
                let settings = Settings::for_base_url(&userhub.base_url());
                let error = settings.clone().via_queue(&sqs).start().sign_in(EVENT).assert_not_reported("queue", None);
                let start = format!("the queue did not take the report: {text}");
                assert!(error.starts_with(&start) && !error.contains("UserHub"), "{what}: {error}");

                let error = settings.queue(&sqs).start().sign_in(EVENT).assert_not_reported("queue", None);
                let end = "; UserHub: unavailable: 503 Service Unavailable";
                assert!(error.starts_with(&start) && error.ends_with(end), "{what}: {error}");
                userhub.only_report();
                sqs.messages();
            });
        }
    });
    let settings = Settings::for_base_url(&unused_base_url());
    let nowhere = settings.set("USERHUB_QUEUE_URL", &format!("{}/123456789012/name", unused_base_url()));
    let error = nowhere.start().sign_in(EVENT).assert_not_reported("queue", None);
    assert!(error.matches("Connection refused").count() == 2, "{error}");
}

/// Both hang. The harness checks that the event comes back in time.
#[test]
fn userhub_and_the_queue_share_the_two_seconds() {
    let (userhub, sqs) = (UserHub::replying([vec![Step::Hang]]), Sqs::replying([vec![Step::Hang]]));
    let function = Settings::for_base_url(&userhub.base_url()).queue(&sqs).start();
    let error = function.sign_in(EVENT).assert_not_reported("queue", None);
    assert_eq!(error, "the queue did not take the report: no answer in time; UserHub: no answer in time");
    sqs.only_message();
    userhub.only_report();
}

#[test]
fn the_queue_has_time_when_userhub_hangs() {
    let late = vec![Step::Wait(Duration::from_millis(250)), Step::Accept];
    let (userhub, sqs) = (UserHub::replying([vec![Step::Hang]]), Sqs::replying([late]));
    let function = Settings::for_base_url(&userhub.base_url()).queue(&sqs).start();
    function.sign_in(EVENT).assert_queued(Some("timed_out"));
    sqs.only_message();
    userhub.only_report();
}

/// Then a sign-in waits for SQS alone.
#[test]
fn an_open_circuit_sends_reports_to_the_queue_at_once() {
    let (userhub, sqs) = (UserHub::replying([vec![Step::Hang]]), Sqs::start());
    let function = Settings::for_base_url(&userhub.base_url()).queue(&sqs).start();
    assert!(!function.sign_in(EVENT).fields().contains_key("circuit"));
    assert_eq!(function.sign_in(EVENT).fields()["circuit"], "opened");
    for _ in 0..10 {
        let sign_in = function.sign_in(EVENT);
        sign_in.assert_queued(Some("circuit_open"));
        assert_eq!(sign_in.tries(), 0);
        assert!(sign_in.elapsed < Duration::from_millis(500), "{:?}", sign_in.elapsed);
    }
    assert_eq!((userhub.reports().len(), sqs.messages().len()), (2, 12));
}

/// Nothing is kept then, and nothing waits either.
#[test]
fn an_sqs_that_hangs_holds_few_sign_ins() {
    let (userhub, sqs) = (UserHub::start(), Sqs::replying([vec![Step::Hang]]));
    let function = Settings::for_base_url(&userhub.base_url()).via_queue(&sqs).start();
    for _ in 0..2 {
        let error = function.sign_in(EVENT).assert_not_reported("queue", None);
        assert_eq!(error, "the queue did not take the report: no answer in time");
    }
    let sign_in = function.sign_in(EVENT);
    let error = sign_in.assert_not_reported("queue", None);
    let text = "the last requests got no answer, so none is sent for some seconds";
    assert_eq!(error, format!("the queue did not take the report: {text}"));
    assert!(sign_in.elapsed < Duration::from_millis(500), "{:?}", sign_in.elapsed);
    assert_eq!(sqs.messages().len(), 2);
}

#[test]
fn tries_the_queue_once_more() {
    for failure in [vec![Step::Reset], vec![Step::Close], sqs_error(503, "ServiceUnavailable", "")] {
        let (userhub, sqs) = (UserHub::start(), Sqs::replying([failure, vec![Step::Accept]]));
        let function = Settings::for_base_url(&userhub.base_url()).via_queue(&sqs).start();
        function.sign_in(EVENT).assert_queued(None);
        assert_eq!((sqs.messages().len(), sqs.waiting().len()), (2, 1));
    }
}

#[test]
fn keeps_its_connection_to_the_queue_and_replaces_a_dead_one() {
    let closing = vec![Step::Accept, Step::Wait(Duration::from_millis(50)), Step::Close];
    let (userhub, sqs) = (UserHub::start(), Sqs::start());
    let function = Settings::for_base_url(&userhub.base_url()).via_queue(&sqs).start();
    for _ in 0..5 {
        function.sign_in(EVENT).assert_queued(None);
    }
    assert_eq!((sqs.messages().len(), sqs.connections()), (5, 1));
    sqs.reply_with([closing]);
    for connection in [0, 1, 2] {
        function.sign_in(EVENT).assert_queued(None);
        assert_eq!(sqs.only_message().connection, connection);
        function.freeze();
        thread::sleep(Duration::from_millis(100));
        function.signal(rustix::process::Signal::CONT);
    }
}

#[test]
fn a_wrong_setting_of_userhub_is_no_reason_to_lose_a_report() {
    let (userhub, sqs) = (UserHub::start(), Sqs::start());
    let settings = Settings::for_base_url(&userhub.base_url()).queue(&sqs);
    for (variable, value) in [
        ("USERHUB_ADMIN_KEY", ""),
        ("USERHUB_ADMIN_KEY", "not a key"),
        ("AMAZON_COGNITO_CONNECTION_ID", ""),
        ("USERHUB_BASE_URL", "http://userhub.example"),
        ("USERHUB_EXTRA_CA_CERTS", "/no/such/file"),
    ] {
        let function = settings.clone().set(variable, value).start();
        let error = function.sign_in(EVENT).assert_queued(Some("settings"));
        assert!(error.starts_with(variable), "{error}");
        sqs.only_message();
    }
}

#[test]
fn a_wrong_setting_of_the_queue_is_no_reason_not_to_ask_userhub() {
    let userhub = UserHub::start();
    let settings = Settings::for_base_url(&userhub.base_url());
    for (variable, value) in [
        ("USERHUB_QUEUE_URL", "http://sqs.example/123456789012/name"),
        ("USERHUB_QUEUE_URL", "https://sqs.example"),
        ("AWS_REGION", ""),
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
    ] {
        let queue = settings.clone().set("USERHUB_QUEUE_URL", "http://127.0.0.1:9/123456789012/name");
        userhub.reply_with([answer(200, "{}"), answer(500, "")]);
        let function = queue.set(variable, value).start();
        function.line_with(&format!("{variable} "));
        function.sign_in(EVENT).assert_reported(200);
        let error = function.sign_in(EVENT).assert_not_reported("queue", None);
        assert!(error.starts_with(&format!("the queue did not take the report: {variable} ")), "{error}");
        assert_eq!(userhub.reports().len(), 2);
    }
}

#[test]
fn names_a_queue_that_is_missing_and_a_way_that_does_not_exist() {
    let userhub = UserHub::start();
    let settings = Settings::for_base_url(&userhub.base_url());
    let error =
        settings.clone().set("USERHUB_REPORT_VIA", "queue").start().sign_in(EVENT).assert_not_reported("queue", None);
    assert!(error.contains("USERHUB_QUEUE_URL is not set: put the URL of the SQS queue there, or set"), "{error}");

    let function = settings.set("USERHUB_REPORT_VIA", "afterwards").start();
    function.line_with("USERHUB_REPORT_VIA must be direct or queue; direct is used");
    function.sign_in(EVENT).assert_reported(200);
    userhub.only_report();
}

#[test]
fn credentials_without_a_session_token_will_do() {
    let (userhub, sqs) = (UserHub::start(), Sqs::start());
    sqs.expect_no_session_token();
    let settings = Settings::for_base_url(&userhub.base_url()).via_queue(&sqs).unset("AWS_SESSION_TOKEN");
    settings.start().sign_in(EVENT).assert_queued(None);
    sqs.only_message();
}

#[test]
fn events_without_a_user_are_not_queued() {
    let (userhub, sqs) = (UserHub::start(), Sqs::start());
    let settings = Settings::for_base_url(&userhub.base_url());
    for function in [settings.clone().queue(&sqs).start(), settings.via_queue(&sqs).start()] {
        for event in ["{}", "[]", r#"{"userName":""}"#, r#"{"userName":7}"#] {
            function.sign_in(event.as_bytes()).assert_not_reported("event", None);
        }
        function.return_event(br#"{"triggerSource":"TokenGeneration_RefreshTokens","userName":"sample"}"#);
    }
    assert_eq!(sqs.connections(), 0);
}

/// The thread for a DNS look-up cannot be started, so the HTTP client panics.
#[cfg(target_os = "linux")]
#[test]
fn a_report_that_panics_waits_in_the_queue() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

    let (userhub, sqs) = (UserHub::start(), Sqs::start());
    let base_url = format!("http://localhost:{}", userhub.address.port());
    let function = Settings::for_base_url(&base_url).queue(&sqs).start();
    function.wait_until_ready();
    let used = function.status_kib("VmSize") * 1024;
    let limit = Rlimit { current: Some(used + (1 << 20)), ..getrlimit(Resource::As) }; // a thread's stack takes 2 MiB
    prlimit(Pid::from_raw(function.id().cast_signed()), Resource::As, limit).unwrap();
    function.sign_in(EVENT).assert_queued(Some("panic"));
    sqs.only_message();
    drop(function);
    let alone = Function::reporting_to(&userhub);
    alone.sign_in(EVENT).assert_reported(200);
    userhub.only_report();
}

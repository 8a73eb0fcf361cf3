//! Everything that UserHub may answer, or do instead.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use harness::{EVENT, Function, Reply, Settings, SignIn, Step, UserHub, answer, send, unused_base_url};

/// One sign-in that UserHub answers with `reply`, after which it must have received this many requests.
#[track_caller]
fn sign_in(reply: Reply, requests: usize) -> SignIn {
    let userhub = UserHub::replying([reply]);
    let function = Function::reporting_to(&userhub);
    let sign_in = function.sign_in(EVENT);
    assert_eq!(userhub.reports().len(), requests, "requests that UserHub received");
    sign_in
}

#[test]
fn sends_the_documented_request() {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    function.sign_in(EVENT).assert_reported(200);
    let request = userhub.only_report().request;
    assert_eq!(request.path, "/admin/v1/users/1f0e2d3c-4b5a-4697-8877-665544332211@conn_local:event");
    assert_eq!(request.header("host"), Some(userhub.address.to_string().as_str()));
    assert_eq!(request.header("content-length"), Some("17"));
}

/// A field for the first attempt would be in every line.
#[test]
fn logs_the_number_of_tries_unless_it_is_one() {
    for (replies, tries) in
        [(vec![answer(200, "{}")], None), (vec![answer(503, "")], None), (vec![vec![Step::Reset]], Some(2))]
    {
        let userhub = UserHub::replying(replies);
        let sign_in = Function::reporting_to(&userhub).sign_in(EVENT);
        assert_eq!(sign_in.fields().get("tries"), tries.map(Into::into).as_ref(), "{}", sign_in.line);
        assert_eq!(userhub.reports().len(), tries.unwrap_or(1));
    }
}

#[test]
fn accepts_every_2xx() {
    for status in [200, 201, 202, 204, 206, 299] {
        // A 204 has no body, so HTTP forbids a length.
        let reply = if status == 204 { vec![send("HTTP/1.1 204 No Content\r\n\r\n")] } else { answer(status, "{}") };
        sign_in(reply, 1).assert_reported(status);
    }
}

#[test]
fn logs_status_and_code_of_a_rejection() {
    for (status, code, error) in [
        (400, "INVALID_ARGUMENT", "rejected: 400 Bad Request, INVALID_ARGUMENT"),
        (401, "UNAUTHENTICATED", "rejected: 401 Unauthorized, UNAUTHENTICATED"),
        (403, "PERMISSION_DENIED", "rejected: 403 Forbidden, PERMISSION_DENIED"),
        (404, "NOT_FOUND", "rejected: 404 Not Found, NOT_FOUND"),
        (410, "CANCELLED", "rejected: 410 Gone, CANCELLED"),
        (451, "ABORTED", "rejected: 451 Unavailable For Legal Reasons, ABORTED"),
    ] {
        let reply = answer(status, &format!(r#"{{"code": "{code}", "message": "about sample.user@example.com"}}"#));
        assert_eq!(sign_in(reply, 1).assert_not_reported("rejected", Some(status)), error);
    }
}

#[test]
fn leaves_out_a_code_that_is_not_one() {
    for body in ["", "not JSON", "null", "[]", r#"{"code": 5, "reason": {}}"#] {
        let error = sign_in(answer(403, body), 1).assert_not_reported("rejected", Some(403));
        assert_eq!(error, "rejected: 403 Forbidden", "{body}");
    }
    let long = "A".repeat(65);
    for text in ["", "1f0e2d3c-4b5a-4697-8877-665544332211", "NOT_FOUND_2", "not_found", "TWO\\nLINES", &long] {
        for field in ["code", "reason"] {
            let body = format!(r#"{{"{field}": "{text}"}}"#);
            let error = sign_in(answer(403, &body), 1).assert_not_reported("rejected", Some(403));
            assert_eq!(error, "rejected: 403 Forbidden", "{body}");
        }
    }
}

#[test]
fn logs_code_and_reason_of_every_error() {
    let body = r#"{"code": "FAILED_PRECONDITION", "reason": "USER_PENDING_DELETION", "message": "sample.user"}"#;
    let names = ", FAILED_PRECONDITION, USER_PENDING_DELETION";
    for (status, kind, error) in [
        (400, "rejected", "rejected: 400 Bad Request"),
        (429, "rate_limited", "too many requests: 429 Too Many Requests"),
        (503, "unavailable", "unavailable: 503 Service Unavailable"),
    ] {
        let logged = sign_in(answer(status, body), 1).assert_not_reported(kind, Some(status));
        assert_eq!(logged, format!("{error}{names}"));
        let code_only = sign_in(answer(status, r#"{"code": "ABORTED"}"#), 1).assert_not_reported(kind, Some(status));
        assert_eq!(code_only, format!("{error}, ABORTED"));
        let reason_only = sign_in(answer(status, r#"{"reason": "A"}"#), 1).assert_not_reported(kind, Some(status));
        assert_eq!(reason_only, format!("{error}, A"));
    }
}

#[test]
fn distinguishes_rate_limiting_from_other_rejections() {
    let reply = vec![send("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 9\r\nRetry-After: 1\r\n\r\nslow down")];
    sign_in(reply, 1).assert_not_reported("rate_limited", Some(429));
}

/// The connections of two sign-ins' requests: one that opens a connection, and one that is answered with `replies`.
#[track_caller]
fn sign_in_on_a_kept_connection(replies: &[Reply]) -> (SignIn, Vec<usize>) {
    let userhub = UserHub::replying([&[answer(200, "{}")], replies].concat());
    let function = Function::reporting_to(&userhub);
    function.sign_in(EVENT).assert_reported(200);
    let sign_in = function.sign_in(EVENT);
    (sign_in, userhub.reports().iter().map(|report| report.connection).collect())
}

/// The server says that it did not act on the request, and that another connection may help: a proxy gave up an idle one
/// (408), or the connection leads to the wrong server (421).
#[test]
fn tries_once_more_on_a_new_connection_when_the_server_asks_for_it() {
    for status in [408, 421, 425] {
        let (sign_in, connections) = sign_in_on_a_kept_connection(&[answer(status, ""), answer(200, "{}")]);
        sign_in.assert_reported(200);
        assert_eq!(sign_in.tries(), 2, "{status}");
        assert_eq!(connections, [0, 0, 1], "{status}: on the kept connection, then on a new one");

        let (sign_in, connections) = sign_in_on_a_kept_connection(&[answer(status, ""), answer(status, "")]);
        sign_in.assert_not_reported("rejected", Some(status));
        assert_eq!(sign_in.tries(), 2, "{status}");
        assert_eq!(connections, [0, 0, 1], "{status}: not a third time");
    }
}

#[test]
fn sends_no_other_answer_again() {
    for status in [400, 401, 403, 404, 409, 429, 500, 502, 503, 504] {
        let (sign_in, connections) = sign_in_on_a_kept_connection(&[answer(status, ""), answer(200, "{}")]);
        assert_eq!((&sign_in.fields()["outcome"], sign_in.tries()), (&"not_reported".into(), 1), "{status}");
        assert_eq!(connections, [0, 0], "{status}");
    }
}

pub fn page(status: u16, content_type: &str) -> Reply {
    let head = format!("HTTP/1.1 {status} Some\r\nContent-Type: {content_type}\r\nContent-Length: 6\r\n\r\n");
    vec![send(head + "<html>")]
}

/// It comes from a proxy, a parked domain or a wrong base URL: UserHub has not seen the report.
#[test]
fn does_not_take_a_web_page_for_an_answer_of_the_api() {
    for (status, content_type, error) in [
        (200, "text/html", "unexpected answer: 200 OK with a web page (text/html)"),
        (200, "TEXT/HTML ; charset=utf-8", "unexpected answer: 200 OK with a web page (TEXT/HTML)"),
        (200, "application/xhtml+xml", "unexpected answer: 200 OK with a web page (application/xhtml+xml)"),
        (202, "text/html", "unexpected answer: 202 Accepted with a web page (text/html)"),
        (302, "text/html", "unexpected answer: 302 Found with a web page (text/html)"),
        (403, "text/html;charset=x", "unexpected answer: 403 Forbidden with a web page (text/html)"),
        (404, "text/html", "unexpected answer: 404 Not Found with a web page (text/html)"),
    ] {
        let logged = sign_in(page(status, content_type), 1).assert_not_reported("unexpected_answer", Some(status));
        assert_eq!(logged, error);
    }
    // Load balancers send pages with these, and they say what is wrong.
    for status in [500, 502, 503, 504] {
        sign_in(page(status, "text/html"), 1).assert_not_reported("unavailable", Some(status));
    }
    sign_in(page(429, "text/html"), 1).assert_not_reported("rate_limited", Some(429));
    for content_type in ["text/plain", "application/json; x=text/html", "text/htmlx", "", "\u{e9}"] {
        sign_in(page(200, content_type), 1).assert_reported(200);
        sign_in(page(404, content_type), 1).assert_not_reported("rejected", Some(404));
    }
}

#[test]
fn names_failures_of_userhub() {
    for status in [500, 502, 503, 504, 599] {
        sign_in(answer(status, "<html>"), 1).assert_not_reported("unavailable", Some(status));
    }
}

#[test]
fn does_not_follow_redirects() {
    let elsewhere = UserHub::start(); // fails the test if it gets a request
    for status in [301, 302, 303, 307, 308] {
        let location = format!("Location: {}/elsewhere", elsewhere.base_url());
        let head = format!("HTTP/1.1 {status} Moved\r\n{location}\r\nContent-Length: 0\r\n\r\n");
        sign_in(vec![send(head)], 1).assert_not_reported("unexpected_answer", Some(status));
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn names_an_unexpected_status() {
    for status in [101, 304, 600, 999] {
        sign_in(answer(status, ""), 1).assert_not_reported("unexpected_answer", Some(status));
    }
}

#[test]
fn waits_through_interim_answers() {
    let reply =
        [vec![send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")], answer(200, "{}")].concat();
    sign_in(reply, 1).assert_reported(200);
}

#[test]
fn reports_to_a_slow_userhub() {
    let reply = [vec![Step::Wait(Duration::from_secs(1))], answer(200, "{}")].concat();
    sign_in(reply, 1).assert_reported(200);
}

#[test]
fn waits_two_seconds_for_an_answer() {
    let reply = [vec![Step::Wait(Duration::from_millis(1800))], answer(200, "{}")].concat();
    sign_in(reply, 1).assert_reported(200);
}

#[test]
fn gives_up_when_userhub_hangs() {
    let error = sign_in(vec![Step::Hang], 1).assert_not_reported("timed_out", None);
    assert_eq!(error, "no answer in time");
}

/// The fastest of three, so that a busy machine does not count.
#[track_caller]
fn fastest(sign_in: impl Fn() -> SignIn + Sync) -> Duration {
    thread::scope(|scope| {
        let threads = [(); 3].map(|()| scope.spawn(|| sign_in().elapsed));
        threads.into_iter().map(|thread| thread.join().unwrap()).min().unwrap()
    })
}

#[test]
fn the_promise_is_two_seconds() {
    let elapsed = fastest(|| sign_in(vec![Step::Hang], 1));
    assert!(elapsed < Duration::from_millis(2100), "{elapsed:?}");
}

#[test]
fn gives_up_when_userhub_answers_too_late() {
    let reply = [vec![Step::Wait(Duration::from_millis(2200))], answer(200, "{}")].concat();
    sign_in(reply, 1).assert_not_reported("timed_out", None);
}

#[test]
fn a_late_answer_is_not_taken_for_the_next_one() {
    let late = [vec![Step::Wait(Duration::from_millis(2200))], answer(500, "{}")].concat();
    let userhub = UserHub::replying([late, [vec![Step::Wait(Duration::from_millis(500))], answer(200, "{}")].concat()]);
    let function = Function::reporting_to(&userhub);
    function.sign_in(EVENT).assert_not_reported("timed_out", None);
    function.sign_in(EVENT).assert_reported(200);
    let connections: Vec<_> = userhub.reports().iter().map(|report| report.connection).collect();
    assert_eq!(connections, [0, 1]);
}

#[test]
fn gives_up_when_the_head_of_the_answer_drips() {
    let reply =
        vec![send("HTTP/1.1 200 OK\r\n"), Step::SendForever(b"X-Slow: yes\r\n".to_vec(), Duration::from_millis(100))];
    sign_in(reply, 1).assert_not_reported("timed_out", None);
}

#[test]
fn does_not_wait_for_the_body_of_a_success() {
    let head = send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
    let chunked = send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let endless =
        Step::SendForever(b"400\r\n".iter().chain(&[b'x'; 1024]).chain(b"\r\n").copied().collect(), Duration::ZERO);
    for reply in [vec![head, Step::Hang], vec![chunked, endless]] {
        let elapsed = fastest(|| {
            let sign_in = sign_in(reply.clone(), 1);
            sign_in.assert_reported(200);
            sign_in
        });
        assert!(elapsed < Duration::from_millis(250), "waited for the body, which takes 300 ms: {elapsed:?}");
    }
}

#[test]
fn keeps_the_status_when_the_body_of_an_error_never_ends() {
    let head = send("HTTP/1.1 403 Forbidden\r\nContent-Length: 99\r\n\r\n{");
    let endless = [send("HTTP/1.1 403 Forbidden\r\n\r\n"), Step::SendForever(vec![b'x'; 4096], Duration::ZERO)];
    let broken = [send("HTTP/1.1 403 Forbidden\r\nContent-Length: 99\r\n\r\n{"), Step::Reset];
    for reply in [vec![head, Step::Hang], endless.to_vec(), broken.to_vec()] {
        let elapsed = fastest(|| {
            let sign_in = sign_in(reply.clone(), 1);
            sign_in.assert_not_reported("rejected", Some(403));
            sign_in
        });
        assert!(elapsed < Duration::from_millis(700), "waited for the body for more than 300 ms: {elapsed:?}");
    }
}

#[test]
fn does_not_read_a_body_past_lambdas_deadline() {
    let head = send("HTTP/1.1 403 Forbidden\r\nContent-Length: 99\r\n\r\n{");
    let userhub = UserHub::replying([vec![Step::Wait(Duration::from_millis(450)), head, Step::Hang]]);
    let left = Duration::from_millis(700);
    let sign_in = Function::reporting_to(&userhub).sign_in_by(SystemTime::now() + left, EVENT);
    assert!(sign_in.elapsed < left, "{left:?} left, and the event came back after {:?}", sign_in.elapsed);
    userhub.only_report();
}

/// Otherwise the connection would stay open for as long as UserHub likes.
#[test]
fn stops_reading_a_body_that_does_not_end() {
    for status in ["200 OK", "403 Forbidden", "503 Service Unavailable"] {
        let head = send(format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n"));
        let userhub =
            UserHub::replying([vec![head, Step::SendForever(b"1\r\nx\r\n".to_vec(), Duration::from_millis(50))]]);
        let function = Function::reporting_to(&userhub);
        assert_eq!(function.sign_in(EVENT).fields()["status"], status[..3].parse::<u16>().unwrap());
        userhub.only_report();
        let start = Instant::now();
        userhub.wait_for_connections_to_end();
        assert!(start.elapsed() < Duration::from_secs(5), "{status}: {:?}", start.elapsed());
    }
}

#[test]
fn reads_16_kib_of_an_error() {
    let body = |length: usize| {
        let start = r#"{"code": "NOT_FOUND", "details": ""#;
        format!("{start}{}\"}}", "x".repeat(length - start.len() - 2))
    };
    let error = sign_in(answer(404, &body(16 * 1024)), 1).assert_not_reported("rejected", Some(404));
    assert_eq!(error, "rejected: 404 Not Found, NOT_FOUND");
    let error = sign_in(answer(404, &body(16 * 1024 + 1)), 1).assert_not_reported("rejected", Some(404));
    assert_eq!(error, "rejected: 404 Not Found");
}

#[test]
fn reads_little_of_a_huge_error() {
    let body = format!(r#"{{"code": "NOT_FOUND", "details": "{}"}}"#, "x".repeat(50_000_000));
    let error = sign_in(answer(404, &body), 1).assert_not_reported("rejected", Some(404));
    assert_eq!(error, "rejected: 404 Not Found", "the code comes after the part that is read");
}

#[test]
fn names_an_answer_that_is_not_http() {
    let many_headers = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-Many: yes\r\n".repeat(10_000));
    let long_header = format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "x".repeat(2_000_000));
    for bytes in
        ["SSH-2.0-OpenSSH_9.6\r\n", "\0\u{1}\u{2}\u{3}\r\n\r\n", "HTTP/1.1 OK\r\n\r\n", &many_headers, &long_header]
    {
        sign_in(vec![send(bytes), Step::Hang], 1).assert_not_reported("unexpected_answer", None);
    }
}

#[test]
fn tries_once_more_when_the_connection_breaks_before_the_answer() {
    let half = send("HTTP/1.1 200 OK\r\nContent-Le");
    for failure in [vec![Step::Reset], vec![Step::Close], vec![half.clone(), Step::Reset], vec![half, Step::Close]] {
        sign_in(failure.clone(), 2).assert_not_reported("connect", None);

        let userhub = UserHub::replying([failure, answer(200, "{}")]);
        let function = Function::reporting_to(&userhub);
        function.sign_in(EVENT).assert_reported(200);
        assert_eq!(userhub.reports().len(), 2);
    }
}

#[test]
fn stays_inside_the_limit_when_the_second_try_hangs() {
    let userhub = UserHub::replying([vec![Step::Wait(Duration::from_millis(1500)), Step::Reset], vec![Step::Hang]]);
    let function = Function::reporting_to(&userhub);
    function.sign_in(EVENT).assert_not_reported("timed_out", None);
    assert_eq!(userhub.reports().len(), 2);
}

#[test]
fn names_a_refused_connection() {
    let function = Settings::for_base_url(&unused_base_url()).start();
    let error = function.sign_in(EVENT).assert_not_reported("connect", None);
    assert!(error.starts_with("could not connect: Connection refused"), "{error}");
}

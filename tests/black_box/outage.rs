//! The circuit breaker: a UserHub that does not answer costs the pool nothing.

use std::thread;
use std::time::{Duration, Instant};

use harness::{EVENT, Function, Reply, Settings, SignIn, Step, UserHub, answer, unused_base_url};
use serde_json::json;

/// The longest pause before a probe is 10 s.
const PATIENCE: Duration = Duration::from_secs(15);

fn late(milliseconds: u64) -> Reply {
    [vec![Step::Wait(Duration::from_millis(milliseconds))], answer(200, "{}")].concat()
}

/// A function whose circuit has been opened by a UserHub that hangs.
#[track_caller]
fn with_open_circuit(userhub: &UserHub) -> Function {
    userhub.reply_with([vec![Step::Hang]]);
    let function = Function::reporting_to(userhub);
    let mut lines = Vec::new();
    while userhub.connections() < 2 {
        let sign_in = function.sign_in(EVENT);
        sign_in.assert_not_reported("timed_out", None);
        if userhub.connections() == 2 {
            assert!(sign_in.elapsed < Duration::from_millis(1400), "0.75 s are enough: {:?}", sign_in.elapsed);
        }
        lines.push(sign_in.fields());
    }
    assert_eq!(lines.pop().unwrap()["circuit"], "opened");
    assert!(lines.iter().all(|fields| !fields.contains_key("circuit")), "{lines:?}");
    assert_eq!(userhub.reports().len(), 2);
    function
}

#[track_caller]
fn assert_not_tried(sign_in: &SignIn) {
    let error = sign_in.assert_not_reported("circuit_open", None);
    assert_eq!(error, "the last requests got no answer, so none is sent for some seconds");
    assert_eq!(sign_in.tries(), 0);
    assert!(!sign_in.fields().contains_key("circuit"), "{}", sign_in.line);
}

/// Signs in until UserHub is asked again.
#[track_caller]
pub fn sign_in_until_probe(function: &Function) -> SignIn {
    let start = Instant::now();
    loop {
        let sign_in = function.sign_in(EVENT);
        if sign_in.tries() != 0 {
            return sign_in;
        }
        assert_not_tried(&sign_in);
        assert!(start.elapsed() < PATIENCE, "no probe after {:?}", start.elapsed());
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_failed_probe_leaves_it_open() {
    let userhub = UserHub::start();
    let function = with_open_circuit(&userhub);
    let probe = sign_in_until_probe(&function);
    probe.assert_not_reported("timed_out", None);
    assert!(!probe.fields().contains_key("circuit"), "it was open before: {}", probe.line);
    assert_not_tried(&function.sign_in(EVENT));
    userhub.only_report();
}

/// Its own circuit for each: a good one, an error, one of a distant UserHub on a new connection, one of a slow UserHub.
#[test]
fn any_answer_closes_it() {
    let closes = |reply: Reply, status| {
        let userhub = UserHub::start();
        let function = with_open_circuit(&userhub);
        for _ in 0..20 {
            let sign_in = function.sign_in(EVENT);
            assert_not_tried(&sign_in);
            assert!(sign_in.elapsed < Duration::from_millis(500), "waited {:?}", sign_in.elapsed);
        }
        assert_eq!(userhub.connections(), 2);

        userhub.reply_with([reply]);
        let probe = sign_in_until_probe(&function);
        assert_eq!((&probe.fields()["status"], &probe.fields()["circuit"]), (&status, &"closed".into()));
        let next = function.sign_in(EVENT);
        assert_eq!(next.fields()["status"], status);
        assert!(!next.fields().contains_key("circuit"), "{}", next.line);
        assert_eq!(userhub.reports().len(), 2);
    };
    thread::scope(|scope| {
        for (reply, status) in [(answer(200, "{}"), 200), (answer(503, ""), 503), (late(600), 200), (late(1500), 200)] {
            scope.spawn(move || closes(reply, json!(status)));
        }
    });
}

#[test]
fn one_unanswered_attempt_in_five_leaves_it_closed() {
    let hang = vec![Step::Hang];
    let good = || answer(200, "{}");
    let userhub =
        UserHub::replying([hang.clone(), late(600), good(), good(), good(), hang.clone(), answer(500, ""), hang]);
    let function = Function::reporting_to(&userhub);
    function.sign_in(EVENT).assert_not_reported("timed_out", None);
    for _ in 0..4 {
        function.sign_in(EVENT).assert_reported(200);
    }
    let second = function.sign_in(EVENT);
    second.assert_not_reported("timed_out", None);
    assert!(!second.fields().contains_key("circuit"), "{}", second.line);
    function.sign_in(EVENT).assert_not_reported("unavailable", Some(500));
    let third = function.sign_in(EVENT);
    third.assert_not_reported("timed_out", None);
    assert_eq!(third.fields()["circuit"], "opened", "two of the last three");
    assert_eq!(userhub.reports().len(), 8);
}

/// Finding a kept connection dead takes about 0.5 s, twice that with a second one.
#[test]
fn quick_failures_leave_it_closed() {
    let userhub = UserHub::replying([vec![Step::Wait(Duration::from_millis(450)), Step::Close]]);
    let function = Function::reporting_to(&userhub);
    for _ in 0..3 {
        let sign_in = function.sign_in(EVENT);
        sign_in.assert_not_reported("connect", None);
        assert_eq!(sign_in.tries(), 2);
    }
    userhub.reports();
}

/// They cost nothing, and the first report after the outage arrives.
#[test]
fn refused_connections_leave_it_closed() {
    let function = Settings::for_base_url(&unused_base_url()).start();
    for _ in 0..20 {
        function.sign_in(EVENT).assert_not_reported("connect", None);
    }
}

//! The circuit breaker: a UserHub that does not answer costs the pool nothing.

use std::thread;
use std::time::{Duration, Instant};

use harness::{EVENT, Function, Reply, Settings, SignIn, Step, UserHub, answer, unused_base_url};

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

/// Signs in until a probe is reported.
#[track_caller]
fn sign_in_until_reported(function: &Function) -> SignIn {
    let start = Instant::now();
    loop {
        let sign_in = function.sign_in(EVENT);
        if sign_in.fields()["outcome"] == "reported" {
            return sign_in;
        }
        assert_not_tried(&sign_in);
        assert!(start.elapsed() < PATIENCE, "no probe after {:?}", start.elapsed());
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn opens_when_userhub_hangs_and_closes_when_it_answers() {
    let userhub = UserHub::start();
    let function = with_open_circuit(&userhub);
    for _ in 0..20 {
        let sign_in = function.sign_in(EVENT);
        assert_not_tried(&sign_in);
        assert!(sign_in.elapsed < Duration::from_millis(500), "waited {:?}", sign_in.elapsed);
    }
    assert_eq!(userhub.connections(), 2);

    userhub.reply_with([answer(200, "{}")]);
    let probe = sign_in_until_reported(&function);
    assert_eq!(probe.fields()["circuit"], "closed");
    function.sign_in(EVENT).assert_reported(200);
    assert_eq!(userhub.reports().len(), 2);
}

#[test]
fn any_answer_closes_it_and_a_failed_probe_does_not() {
    let userhub = UserHub::start();
    let function = with_open_circuit(&userhub);
    let start = Instant::now();
    let probe = loop {
        let sign_in = function.sign_in(EVENT);
        if sign_in.tries() != 0 {
            break sign_in;
        }
        assert!(start.elapsed() < PATIENCE, "no probe after {:?}", start.elapsed());
        thread::sleep(Duration::from_millis(100));
    };
    probe.assert_not_reported("timed_out", None);
    assert!(!probe.fields().contains_key("circuit"), "it was open before: {}", probe.line);
    assert_not_tried(&function.sign_in(EVENT));
    userhub.only_report();

    userhub.reply_with([answer(503, "")]);
    let start = Instant::now();
    let answered = loop {
        let sign_in = function.sign_in(EVENT);
        if sign_in.tries() != 0 {
            break sign_in;
        }
        assert!(start.elapsed() < PATIENCE, "no probe after {:?}", start.elapsed());
        thread::sleep(Duration::from_millis(100));
    };
    answered.assert_not_reported("unavailable", Some(503));
    assert_eq!(answered.fields()["circuit"], "closed");
    userhub.only_report();
}

/// A distant UserHub takes that long on a new connection, a slow one on each.
#[test]
fn closes_when_userhub_is_slow() {
    for milliseconds in [600, 1500] {
        let userhub = UserHub::start();
        let function = with_open_circuit(&userhub);
        userhub.reply_with([late(milliseconds)]);
        assert_eq!(sign_in_until_reported(&function).fields()["circuit"], "closed");
        function.sign_in(EVENT).assert_reported(200);
        assert_eq!(userhub.reports().len(), 2);
    }
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

/// They cost nothing, and the first report after the outage arrives.
#[test]
fn refused_connections_leave_it_closed() {
    let function = Settings::for_base_url(&unused_base_url()).start();
    for _ in 0..20 {
        function.sign_in(EVENT).assert_not_reported("connect", None);
    }
}

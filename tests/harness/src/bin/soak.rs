//! `make soak`: many sign-ins, with a healthy UserHub and with one that fails at random. Argument: the number of sign-ins. It
//! panics at the first one that is not answered, not reported exactly once, or logged wrongly.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a broken promise must end the program")]

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use harness::faults::faults;
use harness::{Function, Reply, UserHub, answer, reserve};

/// How many processes run at the same time: with a healthy UserHub, with one that fails.
const HEALTHY_PROCESSES: usize = 16;
const FAULTY_PROCESSES: usize = 48;

/// A sign-in with a faulty UserHub takes half a second, so there are fewer of them by this factor.
const HEALTHY_FOR_EACH_FAULTY: usize = 40;

/// Sign-ins after which memory must have stopped growing, and the slack from then on.
const SETTLED: usize = 1000;
const MEMORY_SLACK_KIB: u64 = 1024;

fn main() {
    let sign_ins = std::env::args().nth(1).and_then(|number| number.parse().ok()).expect("the number of sign-ins");
    let enough = HEALTHY_PROCESSES * (SETTLED + 1);
    assert!(sign_ins >= enough, "at least {enough} sign-ins are needed: more than {SETTLED} for each process");

    let start = Instant::now();
    let memory = healthy(0, sign_ins);
    println!(
        "one process: {sign_ins} sign-ins, each answered byte for byte and reported once; {memory}; {:.0} s",
        start.elapsed().as_secs_f64()
    );

    let start = Instant::now();
    at_once(HEALTHY_PROCESSES, |process| drop(healthy(process, sign_ins / HEALTHY_PROCESSES)));
    println!(
        "{HEALTHY_PROCESSES} processes at once: {} sign-ins, each answered byte for byte and reported once; {:.0} s",
        sign_ins / HEALTHY_PROCESSES * HEALTHY_PROCESSES,
        start.elapsed().as_secs_f64()
    );

    let start = Instant::now();
    let each = sign_ins / HEALTHY_FOR_EACH_FAULTY / FAULTY_PROCESSES;
    let outcomes = at_once(FAULTY_PROCESSES, |process| faulty(process, each));
    let mut sum = Outcomes::default();
    for outcome in outcomes {
        sum.reported += outcome.reported;
        sum.not_reported += outcome.not_reported;
        sum.longest = sum.longest.max(outcome.longest);
    }
    assert_eq!(sum.reported + sum.not_reported, each * FAULTY_PROCESSES);
    println!(
        "{FAULTY_PROCESSES} processes at once, a UserHub that fails at random: {} sign-ins, each answered byte for byte \
         within {:.2} s; {} reported, {} logged as not reported, as UserHub saw it; {:.0} s",
        each * FAULTY_PROCESSES,
        sum.longest.as_secs_f64(),
        sum.reported,
        sum.not_reported,
        start.elapsed().as_secs_f64()
    );
}

fn at_once<T: Send>(processes: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..processes).map(|process| scope.spawn(move || work(process))).collect();
        threads.into_iter().map(|thread| thread.join().expect("the sign-ins of one process")).collect()
    })
}

fn event(process: usize, sign_in: usize) -> (String, Vec<u8>) {
    let name = format!("soak-{process}-{}", sign_in % 64);
    let event = format!(r#"{{"userName":"{name}","number":{sign_in}}}"#);
    (name, event.into_bytes())
}

/// Returns what the process used after [`SETTLED`] sign-ins, and at the end.
fn healthy(process: usize, sign_ins: usize) -> String {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    let mut settled = (0, 0);
    let mut ids = Vec::new();
    for sign_in in 0..sign_ins {
        let (name, event) = event(process, sign_in);
        ids.push(function.return_event(&event).request_id);
        let report = userhub.only_report();
        assert_eq!((report.user_name, report.connection), (name, 0));
        if sign_in == SETTLED {
            settled = used(&function);
        }
    }
    let (memory, descriptors) = used(&function);
    assert!(memory <= settled.0 + MEMORY_SLACK_KIB, "peak memory grew from {} to {memory} KiB", settled.0);
    assert_eq!(descriptors, settled.1, "open descriptors");

    let mut lines: HashMap<String, usize> = HashMap::new();
    for line in function.end() {
        let fields: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
        assert_eq!(fields["outcome"], "reported", "{line}");
        *lines.entry(fields["requestId"].as_str().expect("an id").to_owned()).or_default() += 1;
    }
    assert!(ids.iter().all(|id| lines.get(id) == Some(&1)) && lines.len() == ids.len(), "one line for each sign-in");
    format!("peak memory {} KiB after {SETTLED} and {memory} KiB after all, {descriptors} open descriptors", settled.0)
}

/// Peak memory in KiB, and open descriptors.
fn used(function: &Function) -> (u64, usize) {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", function.id())).expect("a running process").count();
    (function.status_kib("VmHWM"), descriptors)
}

#[derive(Default)]
struct Outcomes {
    reported: usize,
    not_reported: usize,
    longest: Duration,
}

/// Checks each sign-in against what UserHub does to its first request and to its second one, if there is one.
fn faulty(process: usize, sign_ins: usize) -> Outcomes {
    // An address that nothing else on this machine uses, because UserHub stops listening at its port for a while.
    let address = Ipv4Addr::new(127, 8, u8::try_from(process).unwrap(), 1);
    let userhub = UserHub::listen(reserve(address), [answer(200, "{}")]);
    let function = Function::reporting_to(&userhub);
    let mut faults: Vec<_> = faults().into_iter().map(|fault| (fault.name, fault.reply)).collect();
    faults.push(("none", answer(200, "{}"))); // no fault
    let mut random = process as u64 + 1;
    let mut choose = || {
        random ^= random << 13; // xorshift: every run has the same faults
        random ^= random >> 7;
        random ^= random << 17;
        let chosen: &(&str, Reply) = &faults[usize::try_from(random >> 33).unwrap() % faults.len()];
        chosen.clone()
    };

    let mut outcomes = Outcomes::default();
    let healthy = ("none", answer(200, "{}"));
    let mut hung = false;
    for sign_in in 0..sign_ins {
        let (name, event) = event(process, sign_in);
        // After one that hung, a healthy sign-in keeps the circuit closed.
        let (first, second) = if hung { (healthy.clone(), healthy.clone()) } else { (choose(), choose()) };
        // The second request follows a first one that was accepted, so its connection cannot be refused.
        let second = if second.0 == "refuse" { first.clone() } else { second };
        let last = if first.0 == "reset" { &second } else { &first };
        hung = last.0 == "hang";
        let expected = match last.0 {
            "none" | "slow" => None,
            "hang" => Some("timed_out"),
            "refuse" | "reset" => Some("connect"),
            "302" => Some("unexpected_answer"),
            "401" => Some("rejected"),
            "429" => Some("rate_limited"),
            "500" => Some("unavailable"),
            other => panic!("the outcome of {other} is unknown"),
        };
        userhub.reply_with([first.1.clone(), second.1.clone()]);
        if first.0 == "refuse" {
            userhub.refuse_connections(true);
        }
        let result = function.sign_in(&event);
        if first.0 == "refuse" {
            userhub.refuse_connections(false);
        }

        let fields = result.fields();
        assert_eq!(fields.get("error_kind").and_then(|kind| kind.as_str()), expected, "{}: {}", first.0, result.line);
        let requests = match first.0 {
            "refuse" => 0,
            "reset" => 2,
            _ => 1,
        };
        let reports = userhub.reports();
        assert_eq!(reports.len(), requests, "{}: {}", first.0, result.line);
        assert!(reports.iter().all(|report| report.user_name == name));
        if expected.is_none() {
            outcomes.reported += 1;
        } else {
            outcomes.not_reported += 1;
        }
        outcomes.longest = outcomes.longest.max(result.elapsed);
    }
    outcomes
}

//! `make soak`: many sign-ins, with a healthy UserHub, with one that fails at random, and with a queue that fails at random
//! too. Argument: the number of sign-ins. It panics at the first one that is not answered, not reported exactly once, or
//! logged wrongly.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a broken promise must end the program")]

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use harness::{
    Function, Mapping, Reply, Settings, SignIn, Sqs, Step, UserHub, access_denied, answer, faults,
    queue_does_not_exist, reserve, sqs_error,
};

/// How many processes run at the same time: with a healthy UserHub, with one that fails.
const HEALTHY_PROCESSES: usize = 16;
const FAULTY_PROCESSES: usize = 48;

/// A sign-in with a faulty UserHub takes half a second, so there are fewer of them by this factor.
const HEALTHY_FOR_EACH_FAULTY: usize = 40;

/// How many pools with a queue of their own run at the same time, and the processes of each: this many for either way.
const POOLS: usize = 6;
const PROCESSES_OF_POOL: usize = 4;

/// There are fewer sign-ins with a queue by this factor.
const HEALTHY_FOR_EACH_QUEUED: usize = 5;

/// On AWS it is 120 s.
const VISIBILITY_TIMEOUT: Duration = Duration::from_secs(1);

/// Time for the queue to become empty after the last sign-in, although UserHub still fails at random.
const DRAIN_LIMIT: Duration = Duration::from_mins(5);

/// After so many sign-ins the process starts anew (`src/main.rs` says why). By then it must have used all the memory that it
/// ever uses, but for this slack.
const RESTART: usize = 10_000;
const MEMORY_SLACK_KIB: u64 = 512;

fn main() {
    let sign_ins = std::env::args().nth(1).and_then(|number| number.parse().ok()).expect("the number of sign-ins");
    let enough = 2 * RESTART;
    assert!(sign_ins >= enough, "at least {enough} sign-ins are needed, so that a process starts anew");

    let start = Instant::now();
    let memory = healthy(0, sign_ins);
    println!(
        "- one process: {sign_ins} sign-ins, each answered byte for byte and reported once; {memory}; {:.0} s",
        start.elapsed().as_secs_f64()
    );

    let start = Instant::now();
    at_once(HEALTHY_PROCESSES, |process| drop(healthy(process, sign_ins / HEALTHY_PROCESSES)));
    println!(
        "- {HEALTHY_PROCESSES} processes at once: {} sign-ins, each answered byte for byte and reported once; {:.0} s",
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
        "- {FAULTY_PROCESSES} processes at once, a UserHub that fails at random: {} sign-ins, each answered byte for byte \
         within {:.2} s; {} reported, {} logged as not reported, as UserHub saw it; {:.0} s",
        each * FAULTY_PROCESSES,
        sum.longest.as_secs_f64(),
        sum.reported,
        sum.not_reported,
        start.elapsed().as_secs_f64()
    );

    let start = Instant::now();
    let each = sign_ins / HEALTHY_FOR_EACH_QUEUED / (POOLS * PROCESSES_OF_POOL * 2);
    let mut sum = Queued::default();
    for pool in at_once(POOLS, |pool| with_queue(pool, each)) {
        sum.add(&pool);
    }
    println!(
        "- {POOLS} pools at once, with queues, UserHub and SQS failing at random, messages visible again after {} s: {} sign-ins, \
         each answered byte for byte within {:.2} s; {} reported at once and {} out of the queue, {} waiting, {} logged as not \
         reported; {} reported twice and {} although logged as not reported, after {} answers lost on their way; {:.0} s",
        VISIBILITY_TIMEOUT.as_secs(),
        sum.sign_ins,
        sum.longest.as_secs_f64(),
        sum.at_once,
        sum.reported - sum.at_once,
        sum.waiting,
        sum.not_reported,
        sum.twice,
        sum.sign_ins_overcounted(),
        sum.lost_answers,
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

/// Returns what the process used until it started anew, and after that.
fn healthy(process: usize, sign_ins: usize) -> String {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    let mut used: Vec<(u64, usize)> = Vec::new(); // in each life of the process
    let mut ids = Vec::new();
    for sign_in in 0..sign_ins {
        let (name, event) = event(process, sign_in);
        ids.push(function.return_event(&event).request_id);
        let report = userhub.only_report();
        assert_eq!((report.user_name, report.connection), (name, sign_in / RESTART), "sign-in {sign_in}");
        if sign_in % RESTART == RESTART - 2 || sign_in + 1 == sign_ins {
            used.push(used_by(&function)); // before its last sign-in, after which it starts anew at any moment
        }
    }
    let [(first, descriptors), later @ ..] = used.as_slice() else { panic!("no sign-ins") };
    let most = later.iter().map(|(memory, _)| *memory).max().unwrap_or(*first);
    assert!(most <= first + MEMORY_SLACK_KIB, "peak memory grew from {first} to {most} KiB");
    assert!(later.iter().all(|(_, other)| other == descriptors), "open descriptors: {used:?}");

    let mut lines: HashMap<String, usize> = HashMap::new();
    for line in function.end() {
        let fields: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
        assert_eq!(fields["outcome"], "reported", "{line}");
        *lines.entry(fields["requestId"].as_str().expect("an id").to_owned()).or_default() += 1;
    }
    assert!(ids.iter().all(|id| lines.get(id) == Some(&1)) && lines.len() == ids.len(), "one line for each sign-in");
    format!(
        "peak memory {first} KiB in the first {RESTART} and {most} KiB after that, when the process had started anew {} \
         times, {descriptors} open descriptors",
        (sign_ins - 1) / RESTART
    )
}

/// Peak memory in KiB, and open descriptors.
fn used_by(function: &Function) -> (u64, usize) {
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
    let mut random = Random::new(process);
    let mut choose = || random.among(&faults).clone();

    let mut outcomes = Outcomes::default();
    let healthy = ("none", answer(200, "{}"));
    let mut healthy_ones = 0;
    for sign_in in 0..sign_ins {
        let (name, event) = event(process, sign_in);
        let (first, second) = if healthy_ones > 0 { (healthy.clone(), healthy.clone()) } else { (choose(), choose()) };
        // The second request follows a first one that was accepted, so its connection cannot be refused.
        let second = if second.0 == "refuse" { first.clone() } else { second };
        let last = if first.0 == "reset" { &second } else { &first };
        // Two of five attempts that hang would open the circuit.
        healthy_ones = if last.0 == "hang" { 4 } else { usize::saturating_sub(healthy_ones, 1) };
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

/// Every run has the same faults.
struct Random(u64);

impl Random {
    fn new(seed: usize) -> Self {
        Self(seed as u64 + 1)
    }

    fn among<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        self.0 ^= self.0 << 13; // xorshift
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        &choices[usize::try_from(self.0 >> 33).unwrap() % choices.len()]
    }
}

/// What became of sign-ins whose reports could wait in a queue.
#[derive(Default)]
struct Queued {
    sign_ins: usize,
    /// UserHub has them.
    reported: usize,
    /// Those of them that did not go through the queue.
    at_once: usize,
    waiting: usize,
    not_reported: usize,
    /// UserHub has them more than once.
    twice: usize,
    /// How often UserHub or SQS took something and the function could not know.
    lost_answers: usize,
    longest: Duration,
}

impl Queued {
    fn add(&mut self, other: &Self) {
        self.sign_ins += other.sign_ins;
        self.reported += other.reported;
        self.at_once += other.at_once;
        self.waiting += other.waiting;
        self.not_reported += other.not_reported;
        self.twice += other.twice;
        self.lost_answers += other.lost_answers;
        self.longest = self.longest.max(other.longest);
    }

    /// Sign-ins that are in two of the three sums.
    fn sign_ins_overcounted(&self) -> usize {
        self.reported + self.waiting + self.not_reported - self.sign_ins
    }
}

/// Replies for many requests, one after the other. Most accept; one of a hundred hangs.
fn troubled(random: &mut Random, faults: &[Reply]) -> Vec<Reply> {
    let reply = |_| match random.among(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]) {
        0 if *random.among(&[true, false, false, false, false, false, false, false, false, false]) => vec![Step::Hang],
        0..=2 => random.among(faults).clone(),
        _ => vec![Step::Accept],
    };
    (0..997).map(reply).collect()
}

/// Sign-ins of one pool, half of them with reports that all go through the queue. The queue's function works all the time.
fn with_queue(pool: usize, sign_ins: usize) -> Queued {
    let mut random = Random::new(pool);
    let wait = Step::Wait(Duration::from_millis(50));
    let lost_answer = vec![Step::AcceptSilently, Step::Reset];
    let userhub = UserHub::start();
    userhub.reply_in_turn(troubled(
        &mut random,
        &[
            answer(302, ""),
            answer(401, "{}"),
            answer(429, ""),
            answer(503, "{}"),
            vec![Step::Reset],
            vec![Step::Close],
            vec![wait.clone(), Step::Accept],
            lost_answer.clone(),
        ],
    ));
    let sqs = Sqs::start();
    sqs.reply_in_turn(troubled(
        &mut random,
        &[
            access_denied(),
            queue_does_not_exist(),
            sqs_error(500, "com.amazon.coral.service#InternalFailure", "something broke"),
            sqs_error(503, "com.amazon.coral.service#ServiceUnavailableException", "busy"),
            vec![Step::Reset],
            vec![Step::Close],
            vec![wait, Step::Accept],
            lost_answer,
        ],
    ));
    let settings = Settings::for_base_url(&userhub.base_url());
    let mapping = Mapping::start(&sqs, VISIBILITY_TIMEOUT, settings.clone());
    let ways = [settings.clone().queue(&sqs), settings.via_queue(&sqs)];
    let by_name: HashMap<String, SignIn> = at_once(PROCESSES_OF_POOL * 2, |process| {
        let function = ways[process % 2].clone().start();
        let one = |sign_in| {
            let name = format!("soak-{pool}-{process}-{sign_in}");
            let result = function.sign_in(format!(r#"{{"userName":"{name}"}}"#).as_bytes());
            (name, result)
        };
        (0..sign_ins).map(one).collect::<Vec<_>>()
    })
    .into_iter()
    .flatten()
    .collect();
    mapping.wait_until_empty(DRAIN_LIMIT);
    for line in mapping.end() {
        let fields: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
        assert!(fields["outcome"] == "queued" || fields["waited_ms"].is_u64(), "{line}");
    }

    let accepted = userhub.accepted();
    let waiting = sqs.waiting();
    let is_waiting = |name: &str| waiting.iter().any(|body| body.contains(&format!(r#""{name}""#)));
    for (name, sign_in) in &by_name {
        let (arrived, line) = (accepted.contains_key(name), &sign_in.line);
        match outcome(sign_in).as_str() {
            "reported" => assert!(arrived, "UserHub does not have it: {line}"),
            "queued" => assert!(arrived || is_waiting(name), "neither UserHub nor the queue has it: {line}"),
            "not_reported" => {}
            other => panic!("{other}: {line}"),
        }
    }
    let counted = |which: &str| by_name.values().filter(|it| outcome(it) == which).count();
    let queued = Queued {
        sign_ins: by_name.len(),
        reported: by_name.keys().filter(|name| accepted.contains_key(*name)).count(),
        at_once: counted("reported"),
        waiting: by_name.keys().filter(|name| !accepted.contains_key(*name) && is_waiting(name)).count(),
        not_reported: counted("not_reported"),
        twice: accepted.values().filter(|times| times.len() > 1).count(),
        lost_answers: userhub.lost_answers() + sqs.lost_answers(),
        longest: by_name.values().map(|it| it.elapsed).max().unwrap_or_default(),
    };
    assert_eq!(accepted.len(), queued.reported, "UserHub got reports of nobody");
    let explained = queued.twice + queued.sign_ins_overcounted();
    assert!(explained <= queued.lost_answers, "{explained} in excess after {} lost answers", queued.lost_answers);
    userhub.reports();
    sqs.messages();
    queued
}

fn outcome(sign_in: &SignIn) -> String {
    sign_in.fields()["outcome"].as_str().expect("a text").to_owned()
}

//! `make outage`: what an outage of UserHub does to a pool. Real processes are the environments behind Lambda's concurrency
//! limit. A sign-in takes the environment that was used last, or starts another one, or is refused if the limit is reached.
//! The queue's function takes its environments out of the same limit.
//!
//! Arguments: `short` simulates only some faults, and for less time; any other is a file for the picture.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a broken promise must end the program")]
#![expect(clippy::cast_precision_loss, reason = "there are some thousand sign-ins")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shares and seconds are small")]

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use charts_rs::{Align, Color, LineChart, Series};
use harness::{Function, Mapping, Reply, Settings, Sqs, Step, UserHub, namespace, repository, reserve};

/// Lambda's limit of concurrent executions in a new AWS account.
const ENVIRONMENTS: usize = 10;
const SIGN_INS_PER_SECOND: u32 = 20;

/// How long a healthy UserHub takes to answer, and SQS.
const LATENCY: Duration = Duration::from_millis(50);
const SQS_LATENCY: Duration = Duration::from_millis(10);

/// How long UserHub is well, fails, and is well again.
#[derive(Clone, Copy, PartialEq)]
struct Phases {
    before: Duration,
    fault: Duration,
    after: Duration,
    /// When a message that stayed in the queue comes again. On AWS it is 120 s.
    visibility_timeout: Duration,
}

const FULL: Phases = Phases {
    before: Duration::from_secs(10),
    fault: Duration::from_secs(30),
    after: Duration::from_secs(30),
    visibility_timeout: Duration::from_mins(2),
};
const SHORT: Phases = Phases {
    before: Duration::from_secs(3),
    fault: Duration::from_secs(14),
    after: Duration::from_secs(21),
    visibility_timeout: Duration::from_secs(5),
};

/// The first part of the fault, in which circuits open.
const OPENING: Duration = Duration::from_secs(10);

/// Of the picture.
const INTERVAL: Duration = Duration::from_secs(2);

/// From this time after the fault on, nearly all sign-ins must be reported, also without a queue.
const RECOVERY: Duration = Duration::from_secs(15);

/// A UserHub that flaps is well as long as it hangs.
const FLAP: Duration = Duration::from_secs(7);

/// The promise: 2 s, and some slack for a busy machine.
const WAIT_MAX: Duration = Duration::from_millis(2500);

/// By then all reports must have arrived, beside one visibility timeout.
const DRAIN_LIMIT: Duration = Duration::from_mins(3);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Hangs,
    DropsPackets,
    Refuses,
    Fails,
    EveryNthHangs(usize),
    Slow(u64),
    Flaps,
}

const FAULTS: [Fault; 10] = [
    Fault::Hangs,
    Fault::DropsPackets,
    Fault::Refuses,
    Fault::Fails,
    Fault::EveryNthHangs(2),
    Fault::EveryNthHangs(3),
    Fault::EveryNthHangs(5),
    Fault::Slow(800),
    Fault::Slow(1500),
    Fault::Flaps,
];

impl Fault {
    fn description(self) -> String {
        match self {
            Self::Hangs => "hangs".to_owned(),
            Self::DropsPackets => "loses all packets".to_owned(),
            Self::Refuses => "refuses connections".to_owned(),
            Self::Fails => "answers 503".to_owned(),
            Self::EveryNthHangs(2) => "every 2nd request hangs".to_owned(),
            Self::EveryNthHangs(3) => "every 3rd request hangs".to_owned(),
            Self::EveryNthHangs(n) => format!("every {n}th request hangs"),
            Self::Slow(milliseconds) => {
                format!("answers after {} s", Duration::from_millis(milliseconds).as_secs_f64())
            }
            Self::Flaps => format!("hangs {0} s, well {0} s, …", FLAP.as_secs()),
        }
    }

    /// Whether UserHub fails at this time after the fault has begun.
    fn is_on(self, time: Duration) -> bool {
        self != Self::Flaps || (time.as_secs() / FLAP.as_secs()).is_multiple_of(2)
    }

    fn set(self, on: bool, userhub: &UserHub) {
        let late = |time| vec![Step::Wait(time), Step::Accept];
        match self {
            Self::Refuses => userhub.refuse_connections(on),
            Self::DropsPackets => {
                let action = if on { "-A" } else { "-D" };
                namespace::run(&format!("iptables {action} INPUT -p tcp --dport {} -j DROP", userhub.address.port()));
            }
            Self::EveryNthHangs(n) if on => {
                let mut replies: Vec<Reply> = vec![late(LATENCY); n];
                replies[n - 1] = vec![Step::Hang];
                userhub.reply_in_turn(replies);
            }
            Self::Hangs | Self::Flaps if on => userhub.reply_with([vec![Step::Hang]]),
            Self::Fails if on => {
                userhub.reply_with([[vec![Step::Wait(LATENCY)], harness::answer(503, "")].concat()]);
            }
            Self::Slow(milliseconds) if on => userhub.reply_with([late(Duration::from_millis(milliseconds))]),
            _ => userhub.reply_with([late(LATENCY)]),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Program {
    DirectWithoutQueue,
    Direct,
    Queue,
    NodeJs,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::DirectWithoutQueue => "`direct` without a queue",
            Self::Direct => "`direct`",
            Self::Queue => "`queue`",
            Self::NodeJs => "Node.js",
        }
    }

    fn has_queue(self) -> bool {
        matches!(self, Self::Direct | Self::Queue)
    }

    fn settings(self, userhub: &UserHub, sqs: &Sqs) -> Settings {
        let settings = Settings::for_base_url(&userhub.base_url());
        match self {
            Self::DirectWithoutQueue => settings,
            Self::Direct => settings.queue(sqs),
            Self::Queue => settings.via_queue(sqs),
            Self::NodeJs => settings
                .set("PATH", &std::env::var("PATH").unwrap_or_default())
                .command(["node".into(), repository("benches/node.mjs")]),
        }
    }
}

/// What limits all functions of an AWS account together.
#[derive(Default)]
struct Account {
    busy: Mutex<usize>,
}

/// The environments of one function.
struct Environments {
    account: Arc<Account>,
    settings: Settings,
    idle: Mutex<Vec<Function>>,
}

impl Environments {
    fn new(account: &Arc<Account>, settings: Settings) -> Self {
        Self { account: Arc::clone(account), settings, idle: Mutex::default() }
    }

    /// Invokes the function in one environment. Returns `None` if Lambda refuses that.
    fn invoke<T>(&self, invocation: impl FnOnce(&Function) -> T) -> Option<T> {
        {
            let mut busy = self.account.busy.lock().unwrap();
            if *busy == ENVIRONMENTS {
                return None;
            }
            *busy += 1;
        }
        let idle = self.idle.lock().unwrap().pop();
        let function = idle.unwrap_or_else(|| self.settings.clone().start());
        let result = invocation(&function);
        self.idle.lock().unwrap().push(function);
        *self.account.busy.lock().unwrap() -= 1;
        Some(result)
    }
}

/// One sign-in: when, for whom, and how long it waited, if it was not refused.
struct SignIn {
    at: Duration,
    began: Instant,
    user_name: String,
    waited: Option<Duration>,
}

/// How long the sign-in waited, or `None` if it was refused.
fn sign_in(program: Program, environments: &Environments, user_name: &str) -> Option<Duration> {
    let event = format!(r#"{{"userName":"{user_name}"}}"#);
    // The template's limit, but a busy machine must not end the simulation.
    let deadline = SystemTime::now() + Duration::from_secs(4);
    let response = environments.invoke(|function| function.invoke(deadline, event.as_bytes()))?;
    assert!(program == Program::NodeJs || response.body == event.as_bytes(), "another event came back");
    Some(response.elapsed)
}

/// What one simulation found, as shares of the sign-ins and times.
struct Findings {
    fault: Fault,
    program: Program,
    refused_first: f64,
    refused_later: f64,
    median_later: Duration,
    longest: Duration,
    /// Of the sign-ins that were let in: those in the fault, those after the recovery, and all.
    arrived_of_fault: f64,
    arrived_after: f64,
    arrived: f64,
    /// From a sign-in of the fault to its report.
    median_delay: Duration,
    longest_delay: Duration,
    /// Refused sign-ins in each [`INTERVAL`], in percent.
    refused: Vec<f32>,
}

fn simulate(fault: Fault, program: Program, phases: &Phases) -> Findings {
    let userhub = UserHub::listen(reserve([127, 0, 0, 1]), [vec![Step::Wait(LATENCY), Step::Accept]]);
    userhub.allow_other_clients();
    let sqs = Sqs::replying([vec![Step::Wait(SQS_LATENCY), Step::Accept]]);
    let account = Arc::default();
    let environments = Environments::new(&account, program.settings(&userhub, &sqs));
    let of_queue = Settings::for_base_url(&userhub.base_url()).set("AWS_LAMBDA_FUNCTION_NAME", "userhub-signin-queue");
    let of_queue = Environments::new(&account, of_queue);
    let mapping = Mapping::with(&sqs, phases.visibility_timeout, move |event| {
        of_queue.invoke(|function| function.report_batch(event).failed)
    });

    let sign_ins = Mutex::new(Vec::new());
    let (begins, ends) = (phases.before, phases.before + phases.fault);
    let total = ends + phases.after;
    let start = Instant::now();
    thread::scope(|scope| {
        let mut is_on = false;
        for number in 0.. {
            let at = Duration::from_secs(1) / SIGN_INS_PER_SECOND * number;
            if at > total {
                break;
            }
            thread::sleep(at.saturating_sub(start.elapsed()));
            let should_be_on = (begins..ends).contains(&at) && fault.is_on(at.saturating_sub(begins));
            if is_on != should_be_on {
                fault.set(should_be_on, &userhub);
                is_on = should_be_on;
            }
            let (environments, sign_ins) = (&environments, &sign_ins);
            scope.spawn(move || {
                let (user_name, began) = (format!("outage-{number}"), Instant::now());
                let waited = sign_in(program, environments, &user_name);
                sign_ins.lock().unwrap().push(SignIn { at, began, user_name, waited });
            });
        }
    });
    mapping.wait_until_empty(phases.visibility_timeout + DRAIN_LIMIT);
    drop((mapping, environments));
    userhub.reports();
    sqs.messages();
    let sign_ins = sign_ins.into_inner().unwrap();
    findings(fault, program, phases, &sign_ins, &userhub.accepted())
}

fn findings(
    fault: Fault,
    program: Program,
    phases: &Phases,
    sign_ins: &[SignIn],
    accepted: &HashMap<String, Vec<Instant>>,
) -> Findings {
    let (begins, ends) = (phases.before, phases.before + phases.fault);
    let between = |from, to| sign_ins.iter().filter(move |it| (from..to).contains(&it.at)).collect::<Vec<_>>();
    let refused = |part: &[&SignIn]| share(part, |sign_in| sign_in.waited.is_none());
    let let_in = |mut part: Vec<_>| {
        part.retain(|sign_in: &&SignIn| sign_in.waited.is_some());
        part
    };
    let delay = |sign_in: &SignIn| Some(accepted.get(&sign_in.user_name)?.iter().min()?.duration_since(sign_in.began));
    let arrived = |part| share(&let_in(part), |sign_in| delay(sign_in).is_some());
    let later = between(begins + OPENING, ends);
    let mut delays: Vec<_> = between(begins, ends).into_iter().filter_map(delay).collect();
    let mut waits: Vec<_> = later.iter().filter_map(|sign_in| sign_in.waited).collect();
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    Findings {
        fault,
        program,
        refused_first: refused(&between(begins, begins + OPENING)),
        refused_later: refused(&later),
        median_later: median(&mut waits),
        longest: sign_ins.iter().filter_map(|sign_in| sign_in.waited).max().unwrap_or_default(),
        arrived_of_fault: arrived(between(begins, ends)),
        arrived_after: arrived(between(ends + RECOVERY, Duration::MAX)),
        arrived: arrived(between(Duration::ZERO, Duration::MAX)),
        median_delay: median(&mut delays),
        longest_delay: delays.last().copied().unwrap_or_default(),
        refused: (0..(ends + phases.after).div_duration_f64(INTERVAL) as u32)
            .map(|interval| (refused(&between(INTERVAL * interval, INTERVAL * (interval + 1))) * 100.0) as f32)
            .collect(),
    }
}

fn share(part: &[&SignIn], is_counted: impl Fn(&SignIn) -> bool) -> f64 {
    part.iter().filter(|sign_in| is_counted(sign_in)).count() as f64 / part.len() as f64
}

impl Findings {
    fn row(&self) -> String {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        let delay = |time: Duration| if self.arrived_of_fault > 0.0 { seconds(time) } else { "–".to_owned() };
        let cells = [
            self.fault.description(),
            self.program.name().to_owned(),
            percent(self.refused_first),
            percent(self.refused_later),
            format!("{} ms", self.median_later.as_millis()),
            seconds(self.longest),
            percent(self.arrived_of_fault),
            delay(self.median_delay),
            delay(self.longest_delay),
            percent(self.arrived_after),
        ];
        format!("| {} |", cells.join(" | "))
    }

    /// The goals that were missed: what a pool can expect of this function.
    fn missed(&self) -> Vec<String> {
        let hangs = matches!(self.fault, Fault::Hangs | Fault::DropsPackets);
        let (first, later) = match self.program {
            Program::NodeJs => return Vec::new(),
            Program::Queue => (0.0, 0.0),
            Program::Direct if hangs => (0.18, 0.0),
            Program::DirectWithoutQueue if hangs => (0.3, 0.01),
            Program::Direct if self.fault == Fault::EveryNthHangs(2) => (0.25, 0.1),
            _ => (1.0, 1.0), // nothing can be both reported and fast
        };
        // A percentage has no decimals.
        let goals = [
            (self.refused_first > first + 0.005, format!("refused at most {first} first")),
            (self.refused_later > later + 0.005, format!("refused at most {later} later")),
            (hangs && self.median_later > Duration::from_millis(50), "median wait under 50 ms".to_owned()),
            (self.longest > WAIT_MAX, format!("every event back within {WAIT_MAX:?}")),
            (self.program.has_queue() && self.arrived < 1.0, "every report arrives".to_owned()),
            // Idle environments wait once more when they are used again, and without a queue nobody else takes their reports.
            (self.arrived_after < 0.95, "reports arrive after the recovery".to_owned()),
        ];
        goals.into_iter().filter_map(|(missed, goal)| missed.then_some(goal)).collect()
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let short = arguments.iter().any(|argument| argument == "short");
    let inside = namespace::is_inside();
    if !inside && let Some(mut again) = namespace::command("lost packets") {
        let status = again.args(&arguments).status().expect("this program starts again");
        return if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let has_node = Command::new("node").arg("--version").output().is_ok_and(|node| node.status.success());
    let ours = [Program::DirectWithoutQueue, Program::Direct, Program::Queue];
    let faults = if short { vec![Fault::Hangs, Fault::EveryNthHangs(2)] } else { FAULTS.to_vec() };
    let scenarios = |programs: &[Program]| -> Vec<_> {
        let possible = faults.iter().filter(|fault| inside || **fault != Fault::DropsPackets);
        possible.flat_map(|fault| programs.iter().map(|program| (*fault, *program))).collect()
    };
    // One begins after the other, because processes start at the moment of a fault. Node.js takes so much processor time to
    // start that it runs afterwards, and slower.
    let mut rounds = vec![(scenarios(&ours), Duration::from_millis(400))];
    if has_node && !short {
        rounds.push((scenarios(&[Program::NodeJs]), Duration::from_secs(3)));
    }
    let phases = if short { SHORT } else { FULL };

    let mut findings = Vec::new();
    for (round, pause) in rounds {
        thread::scope(|scope| {
            let mut simulations = Vec::new();
            for (fault, program) in round {
                simulations.push(scope.spawn(move || simulate(fault, program, &phases)));
                thread::sleep(pause);
            }
            findings.extend(simulations.into_iter().map(|simulation| simulation.join().expect("a simulation")));
        });
    }
    findings.sort_by_key(|finding| FAULTS.iter().position(|fault| *fault == finding.fault));
    print!("{}", table(&findings, &phases));
    if let Some(path) = arguments.iter().find(|argument| *argument != "short") {
        fs::write(path, picture(&findings)).unwrap_or_else(|error| eprintln!("{path}: {error}"));
    }
    let missed: Vec<_> = findings.iter().filter(|finding| !finding.missed().is_empty()).collect();
    for finding in &missed {
        eprintln!("goals missed: {}: {}", finding.row(), finding.missed().join(", "));
    }
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The share of sign-ins that are refused over time, while UserHub hangs.
fn picture(findings: &[Findings]) -> String {
    let shown = |finding: &&Findings| finding.fault == Fault::Hangs && finding.program != Program::DirectWithoutQueue;
    let lines: Vec<_> = findings.iter().filter(shown).collect();
    let series =
        lines.iter().map(|finding| Series::new(finding.program.name().replace('`', ""), finding.refused.clone()));
    let intervals = lines.first().map_or(0, |finding| finding.refused.len());
    let seconds = (0..intervals).map(|interval| format!("{} s", INTERVAL.as_secs() * interval as u64));
    let mut chart = LineChart::new(series.collect(), seconds.collect());
    chart.background_color = Color::white();
    (chart.width, chart.height) = (760.0, 260.0);
    "Sign-ins refused (%), while UserHub hangs from 10 s to 40 s".clone_into(&mut chart.title.text);
    chart.title.align = Align::Left;
    chart.title.font.size = 13.0;
    chart.legend.margin = Some((24.0).into());
    chart.svg().expect("an SVG image") + "\n"
}

fn table(findings: &[Findings], phases: &Phases) -> String {
    let mut text = format!(
        "{ENVIRONMENTS} environments, {SIGN_INS_PER_SECOND} sign-ins a second; UserHub fails for {} s, and otherwise \
         answers after {} ms; SQS after {} ms; a message that stayed in the queue comes again after {} s{}\n\n\
         | UserHub | function | refused in the first {} s | refused after that | median wait after that | longest wait | \
         reports that arrive, of those let in meanwhile | their median delay | longest | from {} s after recovery on |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        phases.fault.as_secs(),
        LATENCY.as_millis(),
        SQS_LATENCY.as_millis(),
        phases.visibility_timeout.as_secs(),
        if *phases == FULL { "" } else { " (on AWS after 120 s)" },
        OPENING.as_secs(),
        RECOVERY.as_secs()
    );
    for finding in findings {
        writeln!(text, "{}", finding.row()).expect("a string");
    }
    text
}

//! `make outage`: what an outage of UserHub does to a pool. Real processes are the environments behind Lambda's concurrency
//! limit. A sign-in takes the environment that was used last, or starts another one, or is refused if all are in use.
//!
//! With the argument `short` it simulates only a UserHub that hangs, and for less time.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a broken promise must end the program")]

use std::collections::HashSet;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use harness::{Function, Reply, Settings, Step, UserHub, answer, namespace, repository, reserve};

/// Lambda's limit of concurrent executions in a new AWS account.
const ENVIRONMENTS: usize = 10;
const SIGN_INS_PER_SECOND: u32 = 20;

/// How long a healthy UserHub takes to answer.
const LATENCY: Duration = Duration::from_millis(50);

/// How long UserHub is well, fails, and is well again.
#[derive(Clone, Copy)]
struct Phases {
    before: Duration,
    fault: Duration,
    after: Duration,
}

const FULL: Phases =
    Phases { before: Duration::from_secs(10), fault: Duration::from_secs(30), after: Duration::from_secs(30) };
const SHORT: Phases =
    Phases { before: Duration::from_secs(3), fault: Duration::from_secs(14), after: Duration::from_secs(21) };

/// The first part of the fault, in which circuits open.
const OPENING: Duration = Duration::from_secs(10);

/// From this time after the fault on, nearly all sign-ins must be reported.
const RECOVERY: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Hangs,
    Refuses,
    DropsPackets,
    Fails,
    Slow,
}

impl Fault {
    fn description(self) -> &'static str {
        match self {
            Self::Hangs => "hangs",
            Self::Refuses => "refuses connections",
            Self::DropsPackets => "loses all packets",
            Self::Fails => "answers 503",
            Self::Slow => "answers after 1.5 s",
        }
    }

    fn set(self, on: bool, userhub: &UserHub) {
        let late = |time| [vec![Step::Wait(time)], answer(200, "{}")].concat();
        let reply: Reply = match self {
            Self::Hangs if on => vec![Step::Hang],
            Self::Fails if on => [vec![Step::Wait(LATENCY)], answer(503, "")].concat(),
            Self::Slow if on => late(Duration::from_millis(1500)),
            _ => late(LATENCY),
        };
        match self {
            Self::Hangs | Self::Fails | Self::Slow => userhub.reply_with([reply]),
            Self::Refuses => userhub.refuse_connections(on),
            Self::DropsPackets => {
                let action = if on { "-A" } else { "-D" };
                namespace::run(&format!("iptables {action} INPUT -p tcp --dport {} -j DROP", userhub.address.port()));
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Program {
    Direct,
    NodeJs,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::NodeJs => "Node.js",
        }
    }

    fn settings(self, userhub: &UserHub) -> Settings {
        let settings = Settings::for_base_url(&userhub.base_url());
        match self {
            Self::Direct => settings,
            Self::NodeJs => settings
                .set("PATH", &std::env::var("PATH").unwrap_or_default())
                .command(["node".into(), repository("benches/node.mjs")]),
        }
    }
}

/// One sign-in: when, for whom, and how long it waited, if it was not refused.
struct SignIn {
    at: Duration,
    user_name: String,
    waited: Option<Duration>,
}

/// The environments of a function.
struct Pool {
    program: Program,
    settings: Settings,
    idle: Mutex<Vec<Function>>,
    started: Mutex<usize>,
}

impl Pool {
    fn environment(&self) -> Option<Function> {
        if let Some(function) = self.idle.lock().unwrap().pop() {
            return Some(function);
        }
        let mut started = self.started.lock().unwrap();
        (*started < ENVIRONMENTS).then(|| {
            *started += 1;
            self.settings.clone().start()
        })
    }

    /// How long the sign-in waited, or `None` if it was refused.
    fn sign_in(&self, user_name: &str) -> Option<Duration> {
        let function = self.environment()?;
        let event = format!(r#"{{"userName":"{user_name}"}}"#);
        let response = if self.program == Program::NodeJs {
            function.invoke(SystemTime::now() + Duration::from_secs(5), event.as_bytes())
        } else {
            function.return_event_by(SystemTime::now() + Duration::from_secs(4), event.as_bytes()) // the template's limit
        };
        self.idle.lock().unwrap().push(function);
        Some(response.elapsed)
    }
}

/// What one simulation found, as shares of the sign-ins and times.
struct Findings {
    fault: Fault,
    program: Program,
    refused_first: f64,
    refused_later: f64,
    median_later: Duration,
    longest: Duration,
    reported_in_fault: f64,
    reported_after: f64,
}

fn simulate(fault: Fault, program: Program, phases: &Phases) -> Findings {
    let userhub = UserHub::listen(reserve([127, 0, 0, 1]), [answer(200, "{}")]);
    userhub.allow_other_clients();
    Fault::Hangs.set(false, &userhub); // the latency of a healthy UserHub
    let settings = program.settings(&userhub);
    let pool = Pool { program, settings, idle: Mutex::default(), started: Mutex::default() };

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
            let should_be_on = (begins..ends).contains(&at);
            if is_on != should_be_on {
                fault.set(should_be_on, &userhub);
                is_on = should_be_on;
            }
            let (pool, sign_ins) = (&pool, &sign_ins);
            scope.spawn(move || {
                let user_name = format!("outage-{number}");
                let waited = pool.sign_in(&user_name);
                sign_ins.lock().unwrap().push(SignIn { at, user_name, waited });
            });
        }
    });
    drop(pool);

    // UserHub gets reports while it hangs, and does not answer them.
    let reported: HashSet<_> = userhub.reports().into_iter().map(|report| report.user_name).collect();
    let sign_ins = sign_ins.into_inner().unwrap();
    let between = |from, to| sign_ins.iter().filter(move |it| (from..to).contains(&it.at)).collect::<Vec<_>>();
    let refused = |part: &[&SignIn]| share(part, |sign_in| sign_in.waited.is_none());
    let is_reported = |sign_in: &SignIn| reported.contains(&sign_in.user_name);
    let later = between(begins + OPENING, ends);
    let mut waits: Vec<_> = later.iter().filter_map(|sign_in| sign_in.waited).collect();
    waits.sort_unstable();
    Findings {
        fault,
        program,
        refused_first: refused(&between(begins, begins + OPENING)),
        refused_later: refused(&later),
        median_later: waits.get(waits.len() / 2).copied().unwrap_or_default(),
        longest: sign_ins.iter().filter_map(|sign_in| sign_in.waited).max().unwrap_or_default(),
        reported_in_fault: if fault == Fault::Slow { share(&between(begins, ends), is_reported) } else { 0.0 },
        reported_after: share(&between(ends + RECOVERY, total), is_reported),
    }
}

#[expect(clippy::cast_precision_loss, reason = "there are some thousand sign-ins")]
fn share(part: &[&SignIn], is_counted: impl Fn(&SignIn) -> bool) -> f64 {
    part.iter().filter(|sign_in| is_counted(sign_in)).count() as f64 / part.len() as f64
}

impl Findings {
    fn row(&self) -> String {
        format!(
            "| {} | {} | {:.0} % | {:.1} % | {:.0} ms | {:.1} s | {:.0} % | {:.1} % |",
            self.fault.description(),
            self.program.name(),
            self.refused_first * 100.0,
            self.refused_later * 100.0,
            self.median_later.as_secs_f64() * 1000.0,
            self.longest.as_secs_f64(),
            self.reported_in_fault * 100.0,
            self.reported_after * 100.0,
        )
    }

    /// What a pool can expect of this function. With a slow UserHub, nothing can be both reported and fast.
    fn meets_goals(&self) -> bool {
        let is_open = matches!(self.fault, Fault::Hangs | Fault::DropsPackets);
        self.program == Program::NodeJs
            || self.reported_after >= 0.99
                && (self.fault == Fault::Slow || self.refused_first <= 0.3 && self.refused_later <= 0.01)
                && (!is_open || self.median_later < Duration::from_millis(50))
    }
}

fn main() -> ExitCode {
    let short = std::env::args().nth(1).is_some_and(|argument| argument == "short");
    let inside = namespace::is_inside();
    if !inside && let Some(mut again) = namespace::command("lost packets") {
        let status = again.args(short.then_some("short")).status().expect("this program starts again");
        return if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let has_node = Command::new("node").arg("--version").output().is_ok_and(|node| node.status.success());
    let ours = [Program::Direct];
    let faults = [Fault::Hangs, Fault::DropsPackets, Fault::Refuses, Fault::Fails, Fault::Slow];
    let scenarios = |programs: &[Program]| -> Vec<_> {
        let possible = faults.iter().filter(|fault| inside || **fault != Fault::DropsPackets);
        possible.flat_map(|fault| programs.iter().map(|program| (*fault, *program))).collect()
    };
    // Node.js takes so much processor time to start that it runs afterwards.
    let rounds = if short {
        vec![ours.map(|program| (Fault::Hangs, program)).to_vec()]
    } else if has_node {
        vec![scenarios(&ours), scenarios(&[Program::NodeJs])]
    } else {
        vec![scenarios(&ours)]
    };
    let phases = if short { SHORT } else { FULL };

    let mut findings = Vec::new();
    for round in rounds {
        thread::scope(|scope| {
            let simulations: Vec<_> = round
                .into_iter()
                .map(|(fault, program)| scope.spawn(move || simulate(fault, program, &phases)))
                .collect();
            findings.extend(simulations.into_iter().map(|simulation| simulation.join().expect("a simulation")));
        });
    }
    findings.sort_by_key(|finding| faults.iter().position(|fault| *fault == finding.fault));
    println!(
        "{ENVIRONMENTS} environments, {SIGN_INS_PER_SECOND} sign-ins a second; UserHub fails for {} s, and otherwise answers \
         after {} ms\n",
        phases.fault.as_secs(),
        LATENCY.as_millis()
    );
    println!(
        "| UserHub | function | refused in the first {0} s | refused after that | median wait after that | longest wait | \
         reported meanwhile | reported from {1} s after recovery on |\n| --- | --- | --- | --- | --- | --- | --- | --- |",
        OPENING.as_secs(),
        RECOVERY.as_secs()
    );
    for finding in &findings {
        println!("{}", finding.row());
    }
    if findings.iter().all(Findings::meets_goals) {
        return ExitCode::SUCCESS;
    }
    eprintln!("a goal is missed: refused at most 30 % first and 1 % later, median under 50 ms, at least 99 % reported");
    ExitCode::FAILURE
}

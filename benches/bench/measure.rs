//! What is measured, in which order.

use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::limit::Limit;
use super::process::{Process, settings};
use super::userhub::UserHub;

/// Starts of each function at full speed and under a limit, and sign-ins after each start.
const ROUNDS: usize = 40;
const SIGN_INS: usize = 100;
const LIMITED_ROUNDS: usize = 12;
const LIMITED_SIGN_INS: usize = 10;

/// Between two sign-ins under a limit: two of its periods, so that each begins with all of its quota. With a slow UserHub
/// as well: who has just waited for it finds the processor's caches cold, so everybody shall.
const PAUSE: Duration = Duration::from_millis(40);

/// The limits: their names, and microseconds of processor time in 20 ms. Lambda gives a function with 1,769 MB one whole
/// processor, and less memory its share of one.
const LIMITS: [(&str, u32); 2] = [("256 MB", 2880), ("128 MB", 1440)];

/// How long UserHub takes to answer in the last part, and how many sign-ins there are with each.
const LATENCIES_MS: [(u64, usize); 4] = [(0, 20), (50, 20), (200, 20), (2000, 3)];

/// What ours is called when it reports after the response.
pub const AFTER_RESPONSE: &str = "ours, after the response";

pub struct Contender {
    pub name: &'static str,
    command: Vec<String>,
    report: &'static str,
}

impl Contender {
    pub fn new(name: &'static str, command: &[impl ToString]) -> Self {
        Self { name, command: command.iter().map(ToString::to_string).collect(), report: "before-response" }
    }

    /// The same, which reports after the response.
    pub fn after_response(&self) -> Self {
        Self { name: AFTER_RESPONSE, command: self.command.clone(), report: "after-response" }
    }
}

/// What starts of one function took: an element for each start, but for `warm`, which has one for each sign-in.
#[derive(Default)]
pub struct Starts {
    pub cold: Vec<f64>,
    pub ready: Vec<f64>,
    pub warm: Vec<f64>,
    pub cold_cpu: Vec<f64>,
    pub warm_cpu: Vec<f64>,
    pub peak_mib: Vec<f64>,
}

/// All times in milliseconds; an element for each contender.
pub struct Figures {
    pub full_speed: Vec<Starts>,
    pub limited: Vec<(&'static str, Vec<Starts>)>,
    /// With ours that reports after the response as one more contender.
    pub latencies: Vec<(u64, Vec<Vec<f64>>)>,
    pub post: Vec<f64>,
    pub handshakes: Vec<f64>,
}

pub fn measure(contenders: &[Contender], post: &str) -> Figures {
    let userhub = UserHub::start();
    let (mut full_speed, mut posts) = (no_starts(contenders), Vec::new());
    for round in 0..ROUNDS {
        progress("full speed", round, ROUNDS);
        for (contender, starts) in contenders.iter().zip(&mut full_speed) {
            start(contender, &userhub, None, SIGN_INS, starts);
        }
        posts.extend(bare_posts(post, &userhub));
    }
    let handshakes = userhub.handshakes().into_iter().map(milliseconds).collect();

    let mut limited = Vec::new();
    for (name, quota_us) in LIMITS {
        match limited_starts(contenders, &userhub, name, quota_us) {
            Ok(starts) => limited.push((name, starts)),
            Err(error) => eprintln!("{name} is left out, as there is no control group to be had: {error}"),
        }
    }

    let mut latencies = Vec::new();
    let after_response = contenders[0].after_response();
    for (round, (latency_ms, sign_ins)) in LATENCIES_MS.into_iter().enumerate() {
        progress("latency", round, LATENCIES_MS.len());
        userhub.set_latency_ms(latency_ms);
        let one = |contender: &Contender| {
            let mut process = Process::start(&contender.command, contender.report, &userhub, None).0;
            process.sign_in();
            let sign_in = |_| {
                thread::sleep(PAUSE);
                milliseconds(process.sign_in())
            };
            (0..sign_ins).map(sign_in).collect()
        };
        latencies.push((latency_ms, contenders.iter().chain([&after_response]).map(one).collect()));
    }
    Figures { full_speed, limited, latencies, post: posts, handshakes }
}

/// # Errors
/// Those of [`Limit::new`].
fn limited_starts(contenders: &[Contender], userhub: &UserHub, name: &str, quota_us: u32) -> io::Result<Vec<Starts>> {
    let mut all = no_starts(contenders);
    for round in 0..LIMITED_ROUNDS {
        progress(name, round, LIMITED_ROUNDS);
        for (contender, starts) in contenders.iter().zip(&mut all) {
            let limit = Limit::new(quota_us)?; // one of its own: what the last one used too much, it pays for itself
            start(contender, userhub, Some(limit.group()), LIMITED_SIGN_INS, starts);
        }
    }
    Ok(all)
}

fn no_starts(contenders: &[Contender]) -> Vec<Starts> {
    contenders.iter().map(|_| Starts::default()).collect()
}

/// One start of a function, and sign-ins.
fn start(contender: &Contender, userhub: &UserHub, limit: Option<&Path>, sign_ins: usize, starts: &mut Starts) {
    let (mut process, ready) = Process::start(&contender.command, contender.report, userhub, limit);
    process.sign_in();
    starts.cold.push(milliseconds(process.since_launch()));
    starts.ready.push(milliseconds(ready));
    let cold_cpu = process.cpu();
    starts.cold_cpu.push(milliseconds(cold_cpu));
    for _ in 0..sign_ins {
        if limit.is_some() {
            thread::sleep(PAUSE);
        }
        starts.warm.push(milliseconds(process.sign_in()));
    }
    starts.warm_cpu.push(milliseconds(process.cpu().saturating_sub(cold_cpu)) / sign_ins as f64);
    starts.peak_mib.push(process.peak_memory_kib() as f64 / 1024.0);
}

fn bare_posts(post: &str, userhub: &UserHub) -> Vec<f64> {
    let path = "/admin/v1/users/1f0e2d3c-4b5a-4697-8877-665544332211@conn_local:event";
    let run = Command::new(post).args([path, &SIGN_INS.to_string()]).env_clear().envs(settings(userhub)).output();
    let output = run.expect("the bare POSTs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("numbers");
    lines.lines().map(|line| line.parse::<f64>().expect("a number") / 1e6).collect()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn progress(what: &str, round: usize, rounds: usize) {
    eprint!("\r{what}: {} of {rounds}    ", round + 1);
}

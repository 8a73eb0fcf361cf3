//! Instructions that the function executes, counted by valgrind's callgrind. Unlike times, they hardly change from run to
//! run, so a regression of a few percent shows.

use std::fs;
use std::path::Path;
use std::thread;

use harness::Settings;
use rustix::process::Signal;

use crate::measure::{REST, Servers, sign_in};

/// Number of sign-ins after the first one, over which the warm count is averaged.
const SIGN_INS: u64 = 50;

/// Each count is the median of this many, because keys and signatures differ each time.
const RUNS: usize = 3;

/// How far a count may be from its baseline: 2 %. It varies by 0.3 % from run to run.
const TOLERANCE_PERMILLE: u64 = 20;

/// Counts, and compares with the file `baseline` or rewrites it. Returns the exit code.
pub fn check(function: &str, baseline: &Path, directory: &Path, write: bool) -> i32 {
    let counts = count(function, directory);
    if write {
        let lines = counts.map(|(what, count)| format!("{what} {count}\n"));
        fs::write(baseline, lines.concat()).expect("the baseline can be written");
    }
    let lines = fs::read_to_string(baseline).expect("the baseline: `make instructions BASELINE=new` writes it");
    let verdicts = counts.map(|(what, count)| {
        let before = lines.lines().find_map(|line| line.strip_prefix(what)?.trim().parse::<u64>().ok());
        let before = before.expect("a line for each count in the baseline, with a number");
        let tolerated = before * TOLERANCE_PERMILLE / 1000;
        let verdict = match count {
            _ if count > before + tolerated => "a regression: find it, or explain it with a new baseline",
            _ if count + tolerated < before => "an improvement: keep it with a new baseline",
            _ => "as before",
        };
        println!("{what}: {count} instructions, {before} in the baseline: {verdict}");
        verdict == "as before"
    });
    if verdicts == [true; 4] {
        return 0;
    }
    println!("`make instructions BASELINE=new` writes the baseline");
    1
}

/// Counts what `function` executes: from the start of the process to the first response, and for a later sign-in, directly and
/// through the queue. `directory` is for callgrind's files.
fn count(function: &str, directory: &Path) -> [(&'static str, u64); 4] {
    let servers = Servers::start();
    let direct = servers.settings();
    let queue = servers.settings().via_queue(&servers.sqs);
    let [(cold, warm), (queue_cold, queue_warm)] = [direct, queue].map(|settings| {
        let mut runs = [(); RUNS].map(|()| {
            let cold = run(function, settings.clone(), directory, 0);
            let warm = run(function, settings.clone(), directory, SIGN_INS);
            servers.clear();
            (cold, warm.saturating_sub(cold) / SIGN_INS)
        });
        let mut middle = |key: fn(&(u64, u64)) -> u64| {
            runs.sort_by_key(key);
            key(&runs[RUNS / 2])
        };
        (middle(|run| run.0), middle(|run| run.1))
    });
    [("cold", cold), ("warm", warm), ("queue, cold", queue_cold), ("queue, warm", queue_warm)]
}

/// One process that handles a first sign-in and `more`.
fn run(function: &str, settings: Settings, directory: &Path, more: u64) -> u64 {
    let file = directory.join("callgrind.out");
    let out = format!("--callgrind-out-file={}", file.display());
    let command = ["valgrind", "--quiet", "--tool=callgrind", "--compress-strings=no", &out, function];
    let mut process = settings.command(command).start();
    process.wait_until_ready();
    for _ in 0..=more {
        sign_in(&process);
    }
    thread::sleep(REST);
    process.signal(Signal::TERM); // as Lambda ends a function
    process.wait_for_end();
    own(&fs::read_to_string(file).expect("callgrind's file"), function)
}

/// The instructions in the function's own binary. Those in the C library depend on the machine.
fn own(profile: &str, function: &str) -> u64 {
    let (mut counted, mut lines, mut is_own) = (0, profile.lines(), false);
    while let Some(line) = lines.next() {
        if let Some(object) = line.strip_prefix("ob=") {
            is_own = object.ends_with(function);
        } else if line.starts_with("calls=") {
            lines.next(); // the cost of a call is counted in the called function
        } else if is_own && line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            counted += line.rsplit(' ').next().and_then(|cost| cost.parse::<u64>().ok()).expect("a cost");
        }
    }
    counted
}

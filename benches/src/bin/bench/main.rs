//! `make bench`: sign-ins through our function, through the smallest function on the same runtime, and through one in
//! Node.js, alternately. Writes tables and a picture.
//!
//! `make instructions`: what our function executes, compared with a baseline.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot go on must end")]
#![expect(clippy::cast_precision_loss, reason = "counts and sizes are far below 2^52")]
#![expect(clippy::cast_possible_truncation, reason = "a bar in a picture needs less than the precision of f32")]

mod instructions;
mod measure;
mod results;

use std::process::Command;
use std::thread;
use std::time::Duration;

use measure::{Contender, Effort, measure};
use results::Sizes;

/// Longer than any run takes. The benchmark ends even if something hangs.
const TIME_LIMIT: Duration = Duration::from_mins(15);

fn main() {
    thread::spawn(|| {
        thread::sleep(TIME_LIMIT);
        eprintln!("the benchmark hangs");
        std::process::exit(1);
    });
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, function, baseline, directory, new] = arguments.as_slice()
        && mode == "instructions"
    {
        std::process::exit(instructions::check(function, baseline.as_ref(), directory.as_ref(), new == "new"));
    }
    let [ours, ours_zip, floor, floor_zip, post, directory, effort] = arguments.as_slice() else {
        panic!(
            "seven arguments are expected: ours and its zip, floor and its zip, post, a folder for the results, `short`"
        )
    };
    let effort = if effort == "short" { Effort::SHORT } else { Effort::FULL };
    let mut contenders = vec![Contender::new("ours", &[ours]), Contender::new("floor", &[floor])];
    let node = node_version();
    if node.is_some() {
        contenders.push(Contender::new("Node.js", &["node", "benches/node.mjs"]));
    } else {
        eprintln!("Node.js is left out because there is no `node`");
    }
    let figures = measure(&contenders, post, &effort);
    let sizes = [Sizes::of(ours, ours_zip), Sizes::of(floor, floor_zip)];
    let node = node.as_deref().unwrap_or("missing");
    results::write(&contenders, node, &figures, &sizes, directory.as_ref());
}

/// The version of Node.js, if there is a `node`.
fn node_version() -> Option<String> {
    let output = Command::new("node").arg("--version").output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

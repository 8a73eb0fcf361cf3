//! `make bench`: sign-ins through our function, through the least function on the same runtime, and through one in Node.js,
//! side by side and turn about. Writes a table and a picture.
//!
//! `make instructions`: what our function executes, against what it executed when the baseline was written.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a benchmark that cannot go on has to end")]
#![expect(clippy::cast_precision_loss, reason = "counts and sizes here are far below 2^52")]

mod instructions;
mod limit;
mod measure;
mod process;
mod report;
#[path = "../../tests/black_box/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the tests use the rest of it")]
mod support;
mod userhub;

use std::process::Command;
use std::thread;
use std::time::Duration;

use measure::{Contender, measure};
use report::Sizes;

/// Longer than any run takes: whatever hangs, the benchmark ends.
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
    let [ours, ours_zip, floor, floor_zip, post, directory] = arguments.as_slice() else {
        panic!("six arguments are due: ours and its zip, floor and its zip, post, and where the results go")
    };
    let mut contenders = vec![Contender::new("ours", &[ours]), Contender::new("floor", &[floor])];
    if Command::new("node").arg("--version").output().is_ok_and(|node| node.status.success()) {
        contenders.push(Contender::new("Node.js", &["node", "benches/node.mjs"]));
    } else {
        eprintln!("there is no `node` here, so Node.js is left out");
    }
    let figures = measure(&contenders, post);
    let sizes = [Sizes::of(ours, ours_zip), Sizes::of(floor, floor_zip)];
    report::write(&contenders, &figures, &sizes, directory.as_ref());
}

//! The tests' stand-in for UserHub as a process of its own, for the end-to-end tests: prints its base URL, serves until
//! its standard input ends, then prints each report's event type and user name as a JSON array. Fails if anything else was
//! sent.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a broken promise has to end it")]

use std::io::Read;

#[path = "support/faults.rs"]
mod faults;
#[path = "../tests/black_box/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the tests use the rest of it")]
mod support;

use faults::faults;
use support::{UserHub, answer};

fn main() {
    let reply = std::env::args().nth(1).map_or_else(
        || answer(200, "{}"),
        |fault| faults().into_iter().find(|(name, ..)| *name == fault).expect("a fault of `make run`").2,
    );
    let userhub = UserHub::replying([reply]);
    println!("{}", userhub.base_url());
    std::io::stdin().read_to_end(&mut Vec::new()).expect("standard input");
    let reports = userhub.reports_of_any_type().into_iter().map(|report| (report.event_type, report.user_name));
    let reports: Vec<_> = reports.collect();
    println!("{}", serde_json::to_string(&reports).expect("strings"));
}

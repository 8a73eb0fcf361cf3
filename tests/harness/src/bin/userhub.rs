//! The stand-in for UserHub as a process of its own, for the end-to-end tests. It prints its base URL, serves until its
//! standard input ends, and then prints the event type and user name of each report as a JSON array. It fails if anything
//! else was sent.

#![expect(clippy::expect_used, reason = "a broken promise must end the program")]

use std::io::Read;

use harness::{UserHub, answer, faults};

fn main() {
    let reply = std::env::args().nth(1).map_or_else(
        || answer(200, "{}"),
        |name| faults().into_iter().find(|fault| fault.name == name).expect("a fault of `make run`").reply,
    );
    let userhub = UserHub::replying([reply]);
    println!("{}", userhub.base_url());
    std::io::stdin().read_to_end(&mut Vec::new()).expect("standard input");
    let reports = userhub.reports_of_any_type().into_iter().map(|report| (report.event_type, report.user_name));
    let reports: Vec<_> = reports.collect();
    println!("{}", serde_json::to_string(&reports).expect("strings"));
}

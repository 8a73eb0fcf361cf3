//! `make run`: one sign-in through the real function, between a local Lambda Runtime API and a local UserHub.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a broken promise has to end it")]

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

#[path = "support/faults.rs"]
mod faults;
#[path = "../tests/black_box/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the tests use the rest of it")]
mod support;

use faults::faults;
use support::{ADMIN_KEY, Reply, Settings, Step, UserHub, answer, read_event, sample_events, unused_base_url};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [event, fault, report] = arguments.as_slice() else {
        return refuse("usage: local <event file> <fault, or an empty word> <USERHUB_REPORT, or an empty word>");
    };
    let path = Path::new(event);
    if !path.is_file() {
        let samples = sample_events().into_keys().map(|name| format!("\n  EVENT=events/{name}.json"));
        return refuse(&format!("there is no file {event}; the sample events are{}", samples.collect::<String>()));
    }
    let bytes = read_event(path);
    if let Err(error) = serde_json::from_slice::<serde_json::Value>(&bytes) {
        return refuse(&format!("{event} is not JSON, which Lambda would refuse as well: {error}"));
    }
    let reply = if fault.is_empty() {
        answer(200, "{}")
    } else if let Some((_, _, reply)) = faults().into_iter().find(|(name, ..)| name == fault) {
        reply
    } else {
        let faults = faults().map(|(name, what, _)| format!("\n  FAULT={name:<8} {what}"));
        return refuse(&format!("there is no fault {fault}; the faults are{}", faults.concat()));
    };
    run(event, &bytes, fault, &reply, report);
    ExitCode::SUCCESS
}

fn run(path: &str, event: &[u8], fault: &str, reply: &Reply, report: &str) {
    let userhub = UserHub::replying([reply.clone()]);
    let base_url = if fault == "refuse" { unused_base_url() } else { userhub.base_url() };
    let function = Settings::for_base_url(&base_url).set("USERHUB_REPORT", report).start();
    let start_up = function.wait_until_ready();

    show("Cognito -> function", &format!("{path}, {} bytes", event.len()));
    let sign_in = function.sign_in(event); // ends here, loudly, if the event does not come back as it was and in time
    let at_once = sign_in.fields().contains_key("tries");
    let answer = || show("function -> Cognito", &format!("the same {} bytes", event.len()));
    if at_once {
        answer();
    }
    let reports = userhub.reports_of_any_type();
    for report in &reports {
        let request = &report.request;
        let headers = request.headers.iter().map(|(name, value)| format!("{name}: {}\n", masked(value)));
        let body = String::from_utf8_lossy(&request.body);
        show(
            "function -> UserHub",
            &format!("{} {}\n{}\n{body}", request.method, request.path, headers.collect::<String>()),
        );
        show("UserHub -> function", &reply.iter().map(described).collect::<Vec<_>>().join("\n"));
    }
    if reports.is_empty() {
        show("function -> UserHub", "(nothing arrived)");
    }
    if !at_once {
        answer();
    }
    println!();
    show("cold start", &format!("{:.1} ms from the process's start until it asked for the event", millis(start_up)));
    show("sign-in", &format!("{:.1} ms from the event until its return", millis(sign_in.elapsed)));
    show("the function's log", &function.end().join("\n"));
    println!("\nThe event came back byte for byte: the user is signed in.");
}

fn described(step: &Step) -> String {
    match step {
        Step::Send(bytes) => String::from_utf8_lossy(bytes).replace("\r\n", "\n"),
        Step::Wait(time) => format!("(nothing for {} s)", time.as_secs()),
        Step::Hang => "(nothing)".to_owned(),
        Step::Reset => "(resets the connection)".to_owned(),
        Step::Close | Step::SendForever(..) => unreachable!("no fault does this"),
    }
}

fn masked(value: &str) -> String {
    value.replace(ADMIN_KEY, "userhub_admin_*****")
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A label on the left, and the text beside it, line by line.
fn show(label: &str, text: &str) {
    for (index, line) in text.lines().enumerate() {
        let label = if index == 0 { label } else { "" };
        println!("{}", format!("{label:<21}{line}").trim_end());
    }
}

fn refuse(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::from(2)
}

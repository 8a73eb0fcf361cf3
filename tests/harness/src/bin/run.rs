//! `make run`: one sign-in through the real function, between a local Lambda Runtime API and a local UserHub.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use harness::faults::faults;
use harness::{ADMIN_KEY, Reply, Settings, Step, UserHub, answer, read_event, sample_events, unused_base_url};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [event, fault, report] = arguments.as_slice() else {
        return refuse("usage: run <event file> <fault, or an empty word> <USERHUB_REPORT, or an empty word>");
    };
    let path = Path::new(event);
    if !path.is_file() {
        let samples = sample_events().into_keys().map(|name| format!("\n  EVENT=events/{name}.json"));
        return refuse(&format!("there is no file {event}; the sample events are{}", samples.collect::<String>()));
    }
    let bytes = read_event(path);
    if let Err(error) = serde_json::from_slice::<serde_json::Value>(&bytes) {
        return refuse(&format!("{event} is not JSON, so Lambda would reject it too: {error}"));
    }
    let reply = if fault.is_empty() {
        answer(200, "{}")
    } else if let Some(known) = faults().into_iter().find(|known| known.name == fault) {
        known.reply
    } else {
        let faults = faults().into_iter().map(|fault| format!("\n  FAULT={:<8} {}", fault.name, fault.description));
        return refuse(&format!("there is no fault {fault}; the faults are{}", faults.collect::<String>()));
    };
    run(event, &bytes, fault, &reply, report);
    ExitCode::SUCCESS
}

fn run(path: &str, event: &[u8], fault: &str, reply: &Reply, report: &str) {
    let userhub = UserHub::replying([reply.clone()]);
    let base_url = if fault == "refuse" { unused_base_url() } else { userhub.base_url() };
    let settings = Settings::for_base_url(&base_url).set("USERHUB_REPORT", report);
    let function = settings.set("RUST_LOG", "info,userhub_signin=debug").start(); // shows why an event is ignored
    let cold_start = function.wait_until_ready();

    show("Cognito -> function", &format!("{path}, {} bytes", event.len()));
    let sign_in = function.sign_in(event); // panics unless the same event comes back in time
    let returned_first = report == "after-response";
    let show_event = || show("function -> Cognito", &format!("the same {} bytes", event.len()));
    if returned_first {
        show_event();
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
    let is_ignored = sign_in.fields()["outcome"] == "ignored";
    if is_ignored {
        show("function -> UserHub", "(nothing is sent: this event is not a sign-in)");
    } else if reports.is_empty() {
        show("function -> UserHub", "(nothing arrived)");
    }
    if !returned_first {
        show_event();
    }
    println!();
    show("cold start", &format!("{:.1} ms until the function asked for the event", millis(cold_start)));
    show("sign-in", &format!("{:.1} ms until the event came back", millis(sign_in.elapsed)));
    show("the function's log", &function.end().join("\n"));
    let signed_in = if is_ignored { "" } else { ": the user is signed in" };
    println!("\nThe event came back byte for byte{signed_in}.");
}

fn described(step: &Step) -> String {
    match step {
        Step::Accept => "(accepts it)".to_owned(),
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

/// A label on the left, and the text next to it, line by line.
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

//! `make run`: one sign-in through the real function, between a local Lambda Runtime API and a local UserHub. Where the
//! report goes into the queue, it also shows how the queue's function reports it.

use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime};

use harness::{
    ADMIN_KEY, Fault, Reply, Request, SESSION_TOKEN, Settings, Sqs, Step, UserHub, faults, read_event, sample_events,
    sqs_event, unused_base_url,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [event, fault, via] = arguments.as_slice() else {
        return refuse("usage: run <event file> <fault, or an empty word> <USERHUB_REPORT_VIA, or an empty word>");
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
    let known = faults().into_iter().find(|known| known.name == fault);
    if known.is_none() && !fault.is_empty() {
        let faults = faults().into_iter().map(|fault| format!("\n  FAULT={:<8} {}", fault.name, fault.description));
        return refuse(&format!("there is no fault {fault}; the faults are{}", faults.collect::<String>()));
    }
    let via_queue = match via.as_str() {
        "" | "direct" => false,
        "queue" => true,
        _ => return refuse(&format!("there is no way {via}; VIA is direct or queue")),
    };
    show("Cognito -> function", &format!("{event}, {} bytes", bytes.len()));
    run(&bytes, known.as_ref(), via_queue);
    ExitCode::SUCCESS
}

fn run(event: &[u8], fault: Option<&Fault>, via_queue: bool) {
    let well = vec![Step::Accept];
    let reply = fault.map_or(&well, |fault| &fault.reply);
    let userhub = UserHub::replying([reply.clone()]);
    let is_reachable = fault.is_none_or(|fault| fault.name != "refuse");
    let base_url = if is_reachable { userhub.base_url() } else { unused_base_url() };
    let settings = Settings::for_base_url(&base_url).set("RUST_LOG", "info,userhub_signin=debug"); // why an event is ignored
    let sqs = Sqs::start();
    let function = match fault {
        _ if via_queue => settings.clone().via_queue(&sqs),
        Some(_) => settings.clone().queue(&sqs),
        None => settings.clone(), // UserHub takes everything, so the queue would only confuse
    };
    let function = function.start();
    let cold_start = function.wait_until_ready();

    let sign_in = function.sign_in(event); // panics unless the same event comes back in time
    let signed_in_at = SystemTime::now();
    let outcome = sign_in.fields()["outcome"].clone();
    if outcome == "ignored" {
        show("function -> UserHub", "(nothing is sent: this event is not a sign-in)");
    } else if !via_queue {
        show_reports(&userhub, reply, &headers);
    }
    let messages = sqs.messages();
    for message in &messages {
        show_request("function -> SQS", &message.request, &headers);
        show("SQS -> function", "HTTP/1.1 200 OK");
    }
    show("function -> Cognito", &format!("the same {} bytes", event.len()));
    println!();
    show("cold start", &format!("{:.1} ms until the function asked for the event", millis(cold_start)));
    show("sign-in", &format!("{:.1} ms until the event came back", millis(sign_in.elapsed)));
    show("the function's log", &function.end().join("\n"));

    let mut arrived = String::new();
    for message in &messages {
        let event = sqs_event(&[("local-message", &message.body, signed_in_at)]);
        let mut stays = true;
        if via_queue && fault.is_some() {
            println!("\nThe queue's function gets the message while UserHub is in trouble:\n");
            stays = !empty_queue(&settings, &event, &userhub, reply);
        }
        if stays {
            let mut when = "At the same time,";
            if fault.is_some() {
                thread::sleep(Duration::from_secs(1));
                when = "A second later UserHub is well again, and";
            }
            println!("\n{when} the queue's function gets the message:\n");
            userhub.reply_with([well.clone()]);
            empty_queue(&settings.clone().set("USERHUB_BASE_URL", &userhub.base_url()), &event, &userhub, &well);
        }
        let late = signed_in_at.elapsed().unwrap_or_default();
        arrived = format!(", and the report arrived {:.1} s later", late.as_secs_f64());
    }
    let signed_in = if outcome == "ignored" { "" } else { ": the user is signed in" };
    println!("\nThe event came back byte for byte{signed_in}{arrived}.");
}

/// Gives the queue's function one message, as Lambda does, and shows what it makes of it. Returns whether the
/// message is done.
fn empty_queue(settings: &Settings, event: &[u8], userhub: &UserHub, reply: &Reply) -> bool {
    let function = settings.clone().set("AWS_LAMBDA_FUNCTION_NAME", "userhub-signin-queue").start();
    show("SQS -> function", "a batch with this message");
    let batch = function.report_batch(event);
    show_reports(userhub, reply, &|_| String::new());
    let is_done = batch.failed.is_empty();
    let what = if is_done { "done" } else { "it stays (on AWS it comes again after 2 minutes)" };
    show("function -> SQS", what);
    show("the function's log", &function.end().join("\n"));
    is_done
}

fn show_reports(userhub: &UserHub, reply: &Reply, headers: &impl Fn(&Request) -> String) {
    let reports = userhub.reports_of_any_type();
    for report in &reports {
        show_request("function -> UserHub", &report.request, headers);
        show("UserHub -> function", &reply.iter().map(described).collect::<Vec<_>>().join("\n"));
    }
    if reports.is_empty() {
        show("function -> UserHub", "(nothing arrived)");
    }
}

fn show_request(label: &str, request: &Request, headers: &impl Fn(&Request) -> String) {
    let body = String::from_utf8_lossy(&request.body);
    show(label, &format!("{} {}\n{}{body}", request.method, request.path, headers(request)));
}

fn headers(request: &Request) -> String {
    let lines = request.headers.iter().map(|(name, value)| format!("{name}: {}\n", masked(value)));
    lines.chain(["\n".to_owned()]).collect()
}

fn described(step: &Step) -> String {
    match step {
        Step::Accept => "HTTP/1.1 200 OK".to_owned(),
        Step::Send(bytes) => String::from_utf8_lossy(bytes).replace("\r\n", "\n"),
        Step::Wait(time) => format!("(nothing for {} s)", time.as_secs()),
        Step::Hang => "(nothing)".to_owned(),
        Step::Reset => "(resets the connection)".to_owned(),
        _ => unreachable!("no fault does this"),
    }
}

fn masked(value: &str) -> String {
    value.replace(ADMIN_KEY, "userhub_admin_*****").replace(SESSION_TOKEN, "*****")
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

//! The queue's function: messages in, those that stay out.

use std::thread;
use std::time::{Duration, SystemTime};

use harness::{EVENT, Function, Settings, Sqs, Step, UserHub, answer, sqs_event};
use serde_json::{Value, json};

fn message(user: &str) -> String {
    json!({ "version": 1, "userName": user, "type": "SIGNIN" }).to_string()
}

/// A batch of messages with these bodies, whose ids are `message-0`, `message-1`, …
fn batch(bodies: &[String]) -> Vec<u8> {
    let ids: Vec<_> = (0..bodies.len()).map(|number| format!("message-{number}")).collect();
    let sent_at = SystemTime::now() - Duration::from_mins(1);
    let messages: Vec<_> = ids.iter().zip(bodies).map(|(id, body)| (&**id, &**body, sent_at)).collect();
    sqs_event(&messages)
}

fn users(count: usize) -> Vec<String> {
    (0..count).map(|number| message(&format!("user-{number}"))).collect()
}

/// The lines about reports.
fn lines(function: Function) -> Vec<Value> {
    let lines = function.end().into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    lines.filter(|line| line["requestId"].is_string()).collect()
}

#[test]
fn reports_a_batch() {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    let mut bodies = users(8);
    bodies.push(json!({ "version": 1, "userName": "user-8", "type": "SIGNUP" }).to_string());
    bodies.push(json!({ "version": 1, "userName": "user-9", "type": "CHANGED", "more": [1] }).to_string());
    let result = function.report_batch(&batch(&bodies));
    assert!(result.failed.is_empty(), "{:?}", result.failed);

    let mut reports: Vec<_> =
        userhub.reports_of_any_type().into_iter().map(|report| (report.user_name, report.event_type)).collect();
    reports.sort();
    let types = ["SIGNIN"; 8].into_iter().chain(["SIGNUP", "CHANGED"]);
    let expected: Vec<_> = types.enumerate().map(|(number, name)| (format!("user-{number}"), name)).collect();
    assert_eq!(reports, expected);
    let lines = lines(function);
    assert_eq!(lines.len(), 10);
    for line in lines {
        assert_eq!((&line["outcome"], &line["status"]), (&json!("reported"), &json!(200)), "{line}");
        let waited = line["waited_ms"].as_u64().unwrap();
        assert!((60_000..90_000).contains(&waited), "{line}");
    }
}

/// Ten that hang take as long as one.
#[test]
fn reports_all_messages_at_the_same_time() {
    let userhub = UserHub::replying([vec![Step::Hang]]);
    let function = Function::reporting_to(&userhub);
    let result = function.report_batch(&batch(&users(10)));
    assert_eq!(result.failed.len(), 10);
    assert!(result.elapsed < Duration::from_millis(2800), "{:?}", result.elapsed);
    assert_eq!(userhub.reports().len(), 10);
}

#[test]
fn exactly_what_userhub_may_take_later_stays() {
    for (status, stays) in [(500, true), (429, true), (401, true), (404, true), (302, true), (400, false), (422, false)]
    {
        let userhub = UserHub::replying([answer(200, "{}"), answer(status, ""), answer(200, "{}")]);
        let function = Function::reporting_to(&userhub);
        let failed = function.report_batch(&batch(&users(3))).failed;
        let answered = userhub.reports();
        let of_second = answered[1].user_name.replace("user", "message");
        assert_eq!(failed, if stays { vec![of_second] } else { Vec::new() }, "{status}");
        let outcomes: Vec<_> = lines(function).into_iter().map(|line| line["outcome"].clone()).collect();
        let other = if stays { "queued" } else { "not_reported" };
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == "reported").count(), 2, "{status}");
        assert!(outcomes.contains(&json!(other)), "{status}: {outcomes:?}");
    }
}

#[test]
fn a_message_that_is_no_report_stays_and_stops_no_other() {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    let mut bodies = users(2);
    for body in [
        "",
        "sample.user@example.com",
        "{}",
        r#"{"version":2,"userName":"sample.user","type":"SIGNIN"}"#,
        r#"{"version":1,"userName":"sample.user","type":"DELETE"}"#,
    ] {
        bodies.push(body.to_owned());
    }
    let result = function.report_batch(&batch(&bodies));
    assert_eq!(result.failed, ["message-2", "message-3", "message-4", "message-5", "message-6"]);
    assert!(result.elapsed < Duration::from_millis(1500), "waited for nothing: {:?}", result.elapsed);
    assert_eq!(userhub.reports().len(), 2);
    let lines = lines(function);
    let foreign: Vec<_> = lines.iter().filter(|line| line["error_kind"] == "message").collect();
    assert_eq!(foreign.len(), 5);
    for (line, number) in foreign.into_iter().zip(2..) {
        assert_eq!(
            (&line["level"], &line["messageId"]),
            (&json!("ERROR"), &json!(format!("message-{number}"))),
            "{line}"
        );
        assert!(line.get("outcome").is_none() && !line.to_string().contains("sample"), "{line}");
    }
}

#[test]
fn a_batch_of_nothing_but_foreign_messages_ends_at_once() {
    let function = Settings::for_base_url("https://userhub.example").start();
    let result = function.report_batch(&batch(&["x".to_owned(), "y".to_owned()]));
    assert_eq!(result.failed.len(), 2);
    assert!(result.elapsed < Duration::from_millis(1500), "{:?}", result.elapsed);
}

/// Lambda asks for the next batch when this one is done. In an outage that would be a tight loop.
#[test]
fn a_batch_of_which_nothing_arrives_takes_its_time() {
    let userhub = UserHub::replying([answer(503, "")]);
    let refused = Function::reporting_to(&userhub);
    let wrong_key = Settings::for_base_url(&userhub.base_url()).unset("USERHUB_ADMIN_KEY").start();
    thread::scope(|scope| {
        for function in [&refused, &wrong_key] {
            scope.spawn(move || {
                let result = function.report_batch(&batch(&users(2)));
                assert_eq!(result.failed.len(), 2);
                assert!(result.elapsed > Duration::from_millis(1700), "{:?}", result.elapsed);
            });
        }
    });
    assert_eq!(userhub.reports().len(), 2);

    userhub.reply_with([answer(503, ""), answer(200, "{}")]);
    let result = refused.report_batch(&batch(&users(2)));
    assert_eq!(result.failed.len(), 1);
    assert!(result.elapsed < Duration::from_millis(1500), "one arrived: {:?}", result.elapsed);
    assert_eq!(userhub.reports().len(), 2);
}

/// Somebody gave the queue to a function that only sends.
#[test]
fn a_function_without_a_way_to_userhub_keeps_the_messages() {
    let (userhub, sqs) = (UserHub::start(), Sqs::start());
    let function = Settings::for_base_url(&userhub.base_url()).via_queue(&sqs).start();
    assert_eq!(function.report_batch(&batch(&users(3))).failed.len(), 3);
    assert!(sqs.messages().is_empty());
    for line in lines(function) {
        assert_eq!((&line["outcome"], &line["error_kind"]), (&json!("queued"), &json!("settings")), "{line}");
    }
}

/// Lambda deletes every message that is not in the answer. A new field must not delete one.
#[test]
fn a_message_of_an_unknown_form_stays_and_stops_no_other() {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    let mut event: Value = serde_json::from_slice(&batch(&users(3))).unwrap();
    event["Records"][1]["attributes"]["SomethingNew"] = json!(1);
    assert_eq!(function.report_batch(event.to_string().as_bytes()).failed, ["message-1"]);
    assert_eq!(userhub.reports().len(), 2);
    let lines = lines(function);
    let foreign: Vec<_> = lines.iter().filter(|line| line["error_kind"] == "message").collect();
    assert_eq!(foreign.len(), 1, "{lines:#?}");
    assert_eq!(foreign[0]["messageId"], "message-1");
}

/// An event of Cognito's comes back, whatever fields AWS adds to it.
#[test]
fn only_messages_from_sqs_are_a_batch() {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    let mut event: Value = serde_json::from_slice(EVENT).unwrap();
    for records in [json!(null), json!([]), json!([{}]), json!([{ "eventSource": "aws:sns" }]), json!("aws:sqs")] {
        event["Records"] = records;
        function.sign_in(event.to_string().as_bytes()).assert_reported(200);
        userhub.only_report();
    }
}

/// User names of all kinds, into the queue and out again.
#[test]
fn every_user_name_arrives_unchanged() {
    let (userhub, sqs) = (UserHub::start(), Sqs::start());
    let settings = Settings::for_base_url(&userhub.base_url());
    let (sender, receiver) = (settings.clone().via_queue(&sqs).start(), settings.start());
    let long = "é".repeat(512);
    for name in [
        "sample.user@example.com",
        "Google_1234567890",
        "a/b?c#d%e:f+g|h&i=j",
        "..",
        "\"quoted\" \\ \t\r\n\u{0}",
        "<script>&amp;</script>",
        "名前",
        "\u{1f469}\u{200d}\u{1f4bb}",
        "e\u{301}",
        "\u{202e}\u{2028}\u{feff}",
        &long,
    ] {
        let event = json!({ "userName": name, "triggerSource": "PostConfirmation_ConfirmSignUp" }).to_string();
        sender.sign_in(event.as_bytes()).assert_queued(None);
        let message = sqs.only_message();
        assert_eq!((&*message.user_name, &*message.event_type), (name, "SIGNUP"));
        assert!(receiver.report_batch(&sqs_event(&[("id", &message.body, SystemTime::now())])).failed.is_empty());
        let reports = userhub.reports_of_any_type();
        assert_eq!((reports.len(), &*reports[0].user_name, reports[0].event_type), (1, name, "SIGNUP"));
    }
}

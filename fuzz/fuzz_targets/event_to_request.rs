//! From the bytes of an event to the URL of its report: the user name is the one in the event, and the URL names that user
//! and nothing else.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;
use reqwest::Url;
use rustls::RootCertStore;
use serde_json::Value;
use serde_json::value::RawValue;
use userhub_signin::event::{self, Event};
use userhub_signin::report::Report;
use userhub_signin::trigger::{EventType, Meaning};
use userhub_signin::userhub::Client;
use userhub_signin::{config, http};

static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    let settings = config::UserHub {
        admin_key: "key".into(),
        connection_id: "conn".into(),
        base_url: "https://userhub.example/prefix".parse().unwrap(),
    };
    Client::new(settings, http::Client::new(RootCertStore::empty()).unwrap()).unwrap()
});

fuzz_target!(|bytes: &[u8]| {
    // Lambda rejects everything but JSON.
    let Ok(event) = serde_json::from_slice::<&RawValue>(bytes) else { return };
    match event::read(event) {
        Event::Trigger(found) => {
            // The result must be what serde_json reads. It rejects lone surrogates and deep nesting, so it reads fewer events.
            if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
                let name =
                    value.get("userName").and_then(Value::as_str).filter(|name| (1..=1024).contains(&name.len()));
                let trigger = value.get("triggerSource").and_then(Value::as_str);
                assert_eq!(found.user_name.as_deref().ok(), name);
                assert_eq!(found.meaning, meaning(trigger.unwrap_or_default()));
                assert_eq!(found.source.as_deref(), trigger.filter(|source| has_the_form_of_a_source(source)));
            }
            if let Ok(user_name) = found.user_name {
                let report = Report { user_name, event_type: EventType::SignIn };
                check_url(&report);
                assert_eq!(Report::from_message(&report.to_message().unwrap()), Ok(report));
            }
        }
        Event::Messages(messages) => {
            assert!(messages.iter().all(|message| message.event_source.as_deref() == Some("aws:sqs")));
            for message in messages {
                if let Ok(report) = Report::from_message(message.body.as_deref().unwrap_or_default()) {
                    check_url(&report);
                }
            }
        }
    }
});

fn check_url(report: &Report) {
    let url: Url = CLIENT.event_url(&report.user_name).parse().unwrap();
    assert_eq!((url.scheme(), url.host_str(), url.port()), ("https", Some("userhub.example"), None));
    assert_eq!((url.username(), url.password(), url.query(), url.fragment()), ("", None, None, None));
    let segments: Vec<_> = url.path_segments().unwrap().collect();
    let [prefix, "admin", "v1", "users", event] = segments[..] else { panic!("{segments:?}") };
    assert_eq!(prefix, "prefix");
    let user = event.strip_suffix("@conn:event").unwrap();
    assert!(!user.contains(['@', ':', '/', '?', '#', '\\', ';']), "{user}");
    assert_eq!(percent_decode_str(user).decode_utf8().unwrap(), report.user_name);
}

fn has_the_form_of_a_source(text: &str) -> bool {
    let words: Vec<_> = text.split('_').collect();
    let is_word = |word: &&str| !word.is_empty() && word.chars().all(|letter| letter.is_ascii_alphabetic());
    words.len() == 2 && words.iter().all(is_word) && text.len() <= 64
}

/// The rule in other words.
fn meaning(source: &str) -> Meaning {
    match source.split_once('_') {
        Some(("PostConfirmation", "ConfirmSignUp")) => Meaning::Report(EventType::SignUp),
        Some(("PostConfirmation", "ConfirmForgotPassword")) => Meaning::Report(EventType::Changed),
        Some(("TokenGeneration", action)) if action != "HostedAuth" => Meaning::Nothing,
        Some((
            "PreAuthentication"
            | "PreSignUp"
            | "DefineAuthChallenge"
            | "CreateAuthChallenge"
            | "VerifyAuthChallengeResponse"
            | "VerifyAuthChallenge"
            | "UserMigration"
            | "CustomMessage"
            | "CustomEmailSender"
            | "CustomSMSSender"
            | "CustomSmsSender"
            | "InboundFederation",
            _,
        )) => Meaning::WrongTrigger,
        _ => Meaning::Report(EventType::SignIn),
    }
}

//! Random events. Each one goes through the binary and must come back, like every event in these tests.

use aws_lambda_events::cognito::CognitoEventUserPoolsPostAuthentication as PostAuthentication;
use proptest::collection::{hash_map, vec};
use proptest::prelude::*;
use proptest::string::string_regex;
use proptest::test_runner::{TestError, TestRunner};
use serde_json::Value;

use harness::{Function, Settings, UserHub, sample_events};

/// How many events each property is checked with.
const EVENTS: u32 = 500;

/// Checks the property for random events, with one function and one UserHub for all of them.
#[track_caller]
fn check<S: Strategy>(events: S, property: impl Fn(&Function, &UserHub, S::Value))
where
    S::Value: Clone,
{
    let userhub = UserHub::start();
    // So that there is a line about an event that is ignored, too.
    let function = Settings::for_base_url(&userhub.base_url()).set("AWS_LAMBDA_LOG_LEVEL", "DEBUG").start();
    let mut runner = TestRunner::new(ProptestConfig { cases: EVENTS, failure_persistence: None, ..Default::default() });
    let outcome = runner.run(&events, |event| {
        property(&function, &userhub, event);
        Ok(())
    });
    userhub.reports_of_any_type();
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, event)) => panic!("{why}\nwith the event {event:?}"),
        Err(abort) => panic!("{abort}"),
    }
}

/// Any Unicode text of the length that Cognito allows for user names.
fn user_name() -> impl Strategy<Value = String> {
    prop_oneof![
        vec(any::<char>(), 1..=128),
        vec(proptest::char::range('\u{0}', char::MAX), 1..=128),
        vec(proptest::sample::select(r#"/.%?#@:;\+&=|~"' "#.chars().collect::<Vec<_>>()), 1..=16),
    ]
    .prop_map(String::from_iter)
}

/// A JSON string with every kind of escape, including lone surrogates.
fn json_string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => any::<char>().prop_map(|c| serde_json::to_string(&c).unwrap().trim_matches('"').to_owned())
            .prop_filter("trimming a quotation mark leaves a backslash", |text| text != "\\"),
        1 => string_regex(r"\\u[0-9a-fA-F]{4}").unwrap(),
        1 => string_regex(r"\\u[dD][89a-fA-F][0-9a-f]{2}").unwrap(),
        1 => string_regex(r#"\\["\\/bfnrt]"#).unwrap(),
    ];
    vec(piece, 0..6).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn space() -> impl Strategy<Value = String> {
    string_regex("[ \t\r\n]{0,2}").unwrap()
}

/// Any JSON value as text, with duplicate keys, numbers out of range, and white space.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        string_regex("null|true|false").unwrap(),
        string_regex("-?(0|[1-9][0-9]{0,40})([.][0-9]{1,40})?([eE][+-]?[0-9]{1,6})?").unwrap(),
        json_string(),
    ];
    leaf.prop_recursive(6, 64, 8, |value| {
        let key = prop_oneof![json_string(), Just("\"userName\"".to_owned()), Just("\"request\"".to_owned())];
        let member =
            (space(), key, space(), value.clone()).prop_map(|(a, key, b, value)| format!("{a}{key}{b}:{value}"));
        prop_oneof![
            (vec(value, 0..8), space()).prop_map(|(values, space)| format!("[{space}{}]", values.join(","))),
            (vec(member, 0..8), space()).prop_map(|(members, space)| format!("{{{}{space}}}", members.join(","))),
        ]
    })
}

/// Text as a JSON string in which `which` selects the characters that are escaped.
fn escaped(text: &str, which: &[bool]) -> String {
    let pieces = text.chars().zip(which.iter().cycle()).map(|(c, escape)| {
        let mut units = [0; 2];
        match (escape, c) {
            (false, c) if c != '"' && c != '\\' && !c.is_ascii_control() => c.to_string(),
            _ => c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat(),
        }
    });
    format!("\"{}\"", pieces.collect::<String>())
}

#[test]
fn any_user_name_arrives() {
    let attributes = hash_map(".{0,20}", ".{0,40}", 0..5);
    check((user_name(), attributes, any::<bool>()), |function, userhub, (name, attributes, flag)| {
        let mut event = PostAuthentication::default();
        event.cognito_event_user_pools_header.user_name = Some(name.clone());
        event.request.user_attributes = attributes;
        event.request.new_device_used = flag;
        function.sign_in(&serde_json::to_vec(&event).unwrap()).assert_reported(200);
        assert_eq!(userhub.only_report().user_name, name);
    });
}

#[test]
fn a_user_name_is_found_among_anything() {
    let other = || vec((json_string(), json()), 0..5);
    let events = (other(), user_name(), vec(any::<bool>(), 1..9), other());
    check(events, |function, userhub, (before, name, escapes, after)| {
        let members = before.into_iter().chain([("\"userName\"".to_owned(), escaped(&name, &escapes))]).chain(after);
        let members: Vec<_> = members.map(|(key, value)| format!("{key}:{value}")).collect();
        function.sign_in(format!("{{{}}}", members.join(",")).as_bytes()).assert_reported(200);
        assert_eq!(userhub.only_report().user_name, name);
    });
}

/// The event comes back, and the log line agrees with what UserHub received.
#[track_caller]
fn pass_through(function: &Function, userhub: &UserHub, event: &[u8]) {
    let fields = function.sign_in(event).fields();
    let reports = userhub.reports_of_any_type();
    match fields["outcome"].as_str() {
        Some("reported") => {
            assert_eq!(reports.len(), 1);
            assert_eq!(fields["event_type"], reports[0].event_type);
        }
        Some("ignored") => {
            assert!(reports.is_empty(), "{reports:#?}");
            let source = source(event);
            let is_other = OTHER_TRIGGERS.iter().any(|trigger| source.starts_with(trigger));
            assert!(is_other && source != "TokenGeneration_HostedAuth", "{source} was ignored");
        }
        _ => assert_eq!((reports.len(), &fields["error_kind"]), (0, &Value::from("event"))),
    }
}

/// The triggers whose events are no sign-ins, but for one of `TokenGeneration`.
const OTHER_TRIGGERS: [&str; 13] = [
    "TokenGeneration_",
    "PreAuthentication_",
    "PreSignUp_",
    "DefineAuthChallenge_",
    "CreateAuthChallenge_",
    "VerifyAuthChallengeResponse_",
    "VerifyAuthChallenge_",
    "UserMigration_",
    "CustomMessage_",
    "CustomEmailSender_",
    "CustomSMSSender_",
    "CustomSmsSender_",
    "InboundFederation_",
];

/// The event's `triggerSource`.
fn source(event: &[u8]) -> String {
    let event: Value = serde_json::from_slice(event).unwrap();
    event["triggerSource"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn any_trigger_is_reported_or_ignored() {
    let action = string_regex("[A-Za-z]{0,12}").unwrap();
    let reported =
        ["PostAuthentication_Authentication", "PostConfirmation_ConfirmSignUp", "TokenGeneration_HostedAuth"];
    let known = proptest::sample::select(reported.to_vec()).prop_map(ToOwned::to_owned);
    let family = proptest::sample::select(OTHER_TRIGGERS.to_vec());
    let source_text = prop_oneof![known, (family, action).prop_map(|(trigger, action)| format!("{trigger}{action}"))];
    check((source_text, any::<bool>()), |function, userhub, (trigger_source, has_user)| {
        let user = if has_user { r#","userName":"sample""# } else { "" };
        let event = format!(r#"{{"triggerSource":"{trigger_source}"{user}}}"#);
        pass_through(function, userhub, event.as_bytes());
    });
}

#[test]
fn any_json_comes_back() {
    check(json(), |function, userhub, event| pass_through(function, userhub, event.trim_ascii().as_bytes()));
}

/// Real events with some bytes put in, taken out or changed, so far as they are JSON, without which Lambda takes none.
#[test]
fn broken_events_come_back() {
    let samples: Vec<_> = sample_events().into_values().collect();
    let change = (any::<proptest::sample::Index>(), any::<Option<u8>>(), any::<bool>());
    let events =
        (proptest::sample::select(samples), vec(change, 1..4)).prop_filter_map("not JSON", |(mut event, changes)| {
            for (place, byte, grow) in changes {
                let place = place.index(event.len());
                event.splice(place..place + usize::from(!grow), byte);
            }
            serde_json::from_slice::<&serde_json::value::RawValue>(&event).ok()?;
            Some(event.trim_ascii().to_vec())
        });
    check(events, |function, userhub, event| pass_through(function, userhub, &event));
}

#[test]
fn deep_events_come_back() {
    let level = proptest::sample::select(vec![("[", "]"), ("{\"a\":", "}"), ("[null,", "]")]);
    check((vec(level, 1..20), 1_usize..5000, any::<bool>()), |function, userhub, (levels, times, named)| {
        let open: String = levels.iter().map(|level| level.0).collect();
        let close: String = levels.iter().rev().map(|level| level.1).collect();
        let name = if named { r#""userName":"sample","# } else { "" };
        let event = format!("{{{name}\"deep\":{}0{}}}", open.repeat(times), close.repeat(times));
        pass_through(function, userhub, event.as_bytes());
    });
}

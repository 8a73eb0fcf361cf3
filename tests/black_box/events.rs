//! Every event that Cognito may send, and others.

use aws_lambda_events::cognito::{
    CognitoEventUserPoolsPostAuthentication as PostAuthentication,
    CognitoEventUserPoolsPostConfirmation as PostConfirmation,
};
use serde_json::{Value, json};

use harness::{EVENT, Function, UserHub, sample_events};

#[test]
fn reports_every_sample_event() {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    let events = sample_events();
    assert!(events.len() >= 9);
    for (name, event) in events {
        function.sign_in(&event).assert_reported(200);
        let event: Value = serde_json::from_slice(&event).unwrap();
        let event_type = match name.as_str() {
            "sign-up" | "federated-sign-up" => "SIGNUP",
            "forgotten-password" => "CHANGED",
            _ => "SIGNIN",
        };
        assert_eq!(userhub.only_report_of(event_type).user_name, event["userName"], "{name}");
    }
}

#[test]
fn reports_each_trigger_with_its_event_type() {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    for (trigger_source, event_type) in [
        (json!("PostAuthentication_Authentication"), "SIGNIN"),
        (json!("PostConfirmation_ConfirmSignUp"), "SIGNUP"),
        (json!("PostConfirmation_ConfirmForgotPassword"), "CHANGED"),
        (json!("PostConfirmation_SomethingNew"), "SIGNIN"),
        (json!("postconfirmation_confirmsignup"), "SIGNIN"),
        (json!(""), "SIGNIN"),
        (json!(null), "SIGNIN"),
        (json!(["PostConfirmation_ConfirmSignUp"]), "SIGNIN"),
    ] {
        let event = json!({"userName": "sample", "triggerSource": trigger_source});
        function.sign_in(event.to_string().as_bytes()).assert_reported(200);
        userhub.only_report_of(event_type);
    }
}

#[test]
fn sample_events_follow_the_published_schema() {
    for (name, event) in sample_events() {
        let written = match name.as_str() {
            "sign-up" | "federated-sign-up" | "forgotten-password" => {
                serde_json::from_slice::<PostConfirmation>(&event).and_then(serde_json::to_value)
            }
            _ => serde_json::from_slice::<PostAuthentication>(&event).and_then(serde_json::to_value),
        };
        if matches!(name.as_str(), "minimal" | "console-test") {
            assert!(written.is_err(), "{name} is a sample because the types reject it");
            continue;
        }
        let mut written = written.unwrap_or_else(|error| panic!("{name}: {error}"));
        let event: Value = serde_json::from_slice(&event).unwrap();
        if event["request"].get("clientMetadata").is_none() {
            // The types add an empty object that Cognito left out.
            assert_eq!(written["request"].as_object_mut().unwrap().remove("clientMetadata"), Some(json!({})));
        }
        assert_eq!(written, event, "{name} contains something that is not in the schema");
    }
}

#[test]
fn reports_events_built_from_the_published_types() {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    for user_name in [
        "sample",
        "sample.user+tag@example.com",
        "ExampleIdP_a/b?c#d%e:f|g",
        "../../admin",
        "..",
        "名前😀é",
        "e\u{301}",
        "it's (me)!~*",
        "\u{202e}\u{0}\r\nX-Injected: yes",
        &"𝒳".repeat(128),
    ] {
        let mut event = PostAuthentication::default();
        let header = &mut event.cognito_event_user_pools_header;
        header.user_name = Some(user_name.to_owned());
        header.user_pool_id = Some("eu-west-1_EXAMPLE00".to_owned());
        event.request.user_attributes.insert("email".to_owned(), "sample.user@example.com".to_owned());
        function.sign_in(&serde_json::to_vec(&event).unwrap()).assert_reported(200);
        assert_eq!(userhub.only_report().user_name, user_name);
    }
}

#[test]
fn ignores_everything_else_in_the_event() {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    let nested = format!(r#"{{"a":{}1{},"userName":"sample"}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let large = format!(r#"{{"userName":"sample","a":"{}"}}"#, "x".repeat(6_000_000));
    for event in [
        r#"{"userName":"sample"}"#,
        r#"{ "response" : null, "request":{"userAttributes":{"email":null}},	"userName" : "sample" }"#,
        r#"{"userName":"sample","huge":1e400,"tiny":-0.0e-999,"long":123456789012345678901234567890.10}"#,
        r#"{"a":1,"a":2,"userName":"sample","b":{"a":1,"a":2}}"#,
        r#"{"a":"\ud800","\udfff":1,"userName":"sample"}"#,
        r#"{"triggerSource":"SomethingNew","userName":"sample","version":7}"#,
        r#"{"\u0075serName":"\u0073ample"}"#,
        r#"{"userName":"first","userName":"sample"}"#,
        r#"{"userName":7,"userName":"sample"}"#,
        &nested,
        &large,
    ] {
        function.sign_in(event.as_bytes()).assert_reported(200);
        assert_eq!(userhub.only_report().user_name, "sample");
    }
}

#[test]
fn returns_an_event_without_a_user_name() {
    let userhub = UserHub::start(); // fails the test if it gets a request
    let function = Function::reporting_to(&userhub);
    let long = format!(r#"{{"userName":"{}"}}"#, "x".repeat(1025));
    for (event, error) in [
        ("null", "the event is not a JSON object"),
        ("true", "the event is not a JSON object"),
        ("17", "the event is not a JSON object"),
        (r#""sample""#, "the event is not a JSON object"),
        ("[]", "the event is not a JSON object"),
        (r#"["sample"]"#, "the event is not a JSON object"),
        (r#"[{"userName":"sample"}]"#, "the event is not a JSON object"),
        ("{}", "the event has no userName"),
        (r#"{"username":"sample"}"#, "the event has no userName"),
        (r#"{"request":{"userName":"sample"}}"#, "the event has no userName"),
        (r#"{"userName":null}"#, "the event has a userName that is not a string"),
        (r#"{"userName":["sample"]}"#, "the event has a userName that is not a string"),
        (r#"{"userName":491234567}"#, "the event has a userName that is not a string"),
        (r#"{"userName":"\ud800"}"#, "the event has a userName that is not a string"),
        (r#"{"userName":""}"#, "the event has an empty userName"),
        (&long, "the event has a userName longer than Cognito allows"),
    ] {
        assert_eq!(function.sign_in(event.as_bytes()).assert_not_reported("event", None), error, "{event}");
    }
    // The function still works.
    function.sign_in(EVENT).assert_reported(200);
    userhub.only_report();
}

//! Every event that Cognito may send, and others.

use aws_lambda_events::cognito::{
    CognitoEventUserPoolsPostAuthentication as PostAuthentication,
    CognitoEventUserPoolsPostConfirmation as PostConfirmation,
    CognitoEventUserPoolsPreAuthentication as PreAuthentication,
    CognitoEventUserPoolsPreTokenGen as PreTokenGeneration, CognitoEventUserPoolsPreTokenGenV2 as PreTokenGenerationV2,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use harness::{EVENT, Function, Settings, UserHub, sample_events};

#[test]
fn reports_or_ignores_every_sample_event() {
    let userhub = UserHub::start();
    let function = Settings::for_base_url(&userhub.base_url()).set("AWS_LAMBDA_LOG_LEVEL", "DEBUG").start();
    let events = sample_events();
    assert!(events.len() >= 12);
    for (name, event) in events {
        let sign_in = function.sign_in(&event);
        let event: Value = serde_json::from_slice(&event).unwrap();
        let event_type = match name.as_str() {
            "sign-up" | "federated-sign-up" => "SIGNUP",
            "forgotten-password" => "CHANGED",
            "token-refresh" | "machine-client" | "new-password" | "pre-authentication" => {
                assert_eq!(sign_in.fields()["outcome"], "ignored", "{name}");
                continue;
            }
            _ => "SIGNIN",
        };
        sign_in.assert_reported(200);
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
        (json!("PostAuthentication_SomethingNew"), "SIGNIN"),
        (json!("TokenGeneration_HostedAuth"), "SIGNIN"),
        (json!("postconfirmation_confirmsignup"), "SIGNIN"),
        (json!(""), "SIGNIN"),
        (json!(null), "SIGNIN"),
        (json!(["PostConfirmation_ConfirmSignUp"]), "SIGNIN"),
    ] {
        let event = json!({"userName": "sample", "triggerSource": trigger_source});
        let sign_in = function.sign_in(event.to_string().as_bytes());
        sign_in.assert_reported(200);
        userhub.only_report_of(event_type);
        assert_eq!(sign_in.fields()["event_type"], event_type);
        let logged = sign_in.fields().get("trigger_source").cloned();
        let is_source = trigger_source.as_str().is_some_and(|source| {
            let letters = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphabetic());
            source.split_once('_').is_some_and(|(trigger, action)| letters(trigger) && letters(action))
        });
        assert_eq!(logged, is_source.then_some(trigger_source), "no other text is logged");
    }
}

/// With and without a user: a machine client has none.
#[test]
fn reports_nothing_for_other_triggers() {
    let userhub = UserHub::start(); // fails the test if it gets a request
    let settings = Settings::for_base_url(&userhub.base_url());
    let quiet = settings.clone().start();
    let debugging = settings.set("AWS_LAMBDA_LOG_LEVEL", "DEBUG").start();
    for source in [
        "TokenGeneration_RefreshTokens",
        "TokenGeneration_Authentication",
        "TokenGeneration_ClientCredentials",
        "TokenGeneration_NewPasswordChallenge",
        "TokenGeneration_AuthenticateDevice",
        "PreAuthentication_Authentication",
        "PreSignUp_SignUp",
        "DefineAuthChallenge_Authentication",
        "CreateAuthChallenge_Authentication",
        "VerifyAuthChallengeResponse_Authentication",
        "VerifyAuthChallenge_Authentication",
        "UserMigration_ForgotPassword",
        "CustomMessage_ResendCode",
        "CustomEmailSender_AccountTakeOverNotification",
        "CustomSMSSender_SignUp",
        "CustomSmsSender_SignUp",
        "InboundFederation_ExternalProvider",
    ] {
        for user in ["", r#","userName":"sample""#] {
            let event = format!(r#"{{"triggerSource":"{source}"{user}}}"#);
            quiet.return_event(event.as_bytes());
            let fields = debugging.sign_in(event.as_bytes()).fields();
            assert_eq!((&fields["outcome"], &fields["level"]), (&json!("ignored"), &json!("DEBUG")), "{source}");
            assert_eq!(fields["trigger_source"], source);
        }
    }
    let warnings = quiet.end();
    assert_eq!(warnings.len(), 1, "one for the process: {warnings:#?}");
    let text = "the user pool calls this function for a trigger that is not a sign-in: remove it from that trigger";
    assert!(warnings[0].contains(text) && warnings[0].contains(r#""level":"WARN""#), "{}", warnings[0]);
    assert!(warnings[0].contains("PreAuthentication_Authentication"), "{}", warnings[0]);
}

/// Refreshes are frequent, and the pool may use the trigger for nothing else.
#[test]
fn is_silent_about_token_refreshes() {
    let function = Settings::for_base_url("").unset("USERHUB_ADMIN_KEY").start();
    let at_start = function.line_with("USERHUB_ADMIN_KEY");
    for _ in 0..3 {
        function.return_event(br#"{"triggerSource":"TokenGeneration_RefreshTokens","userName":"sample"}"#);
    }
    assert_eq!(function.end(), [at_start]);
}

/// The event as the published type reads and writes it.
fn written<T: DeserializeOwned + Serialize>(event: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice::<T>(event).and_then(serde_json::to_value)
}

#[test]
fn sample_events_follow_the_published_schema() {
    for (name, event) in sample_events() {
        let written = match name.as_str() {
            "sign-up" | "federated-sign-up" | "forgotten-password" => written::<PostConfirmation>(&event),
            "managed-login-v1" | "token-refresh" | "new-password" => written::<PreTokenGeneration>(&event),
            "managed-login-v3" => written::<PreTokenGenerationV2>(&event), // V3 has the same fields
            "pre-authentication" => written::<PreAuthentication>(&event),
            _ => written::<PostAuthentication>(&event),
        };
        if matches!(name.as_str(), "console-test" | "machine-client") {
            assert!(written.is_err(), "{name} is a sample because the types reject it");
            continue;
        }
        let mut written = written.unwrap_or_else(|error| panic!("{name}: {error}"));
        let event: Value = serde_json::from_slice(&event).unwrap();
        if event["request"].get("clientMetadata").is_none() {
            // Most of the types add an empty object that Cognito left out.
            let added = written["request"].as_object_mut().unwrap().remove("clientMetadata");
            assert!(added.is_none_or(|added| added == json!({})), "{name}");
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

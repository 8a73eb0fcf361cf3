//! A strict stand-in for SQS. It accepts only a signed `SendMessage` by the JSON protocol, with a message of ours
//! (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>).

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::server::{Connect, Connection, Protocol, Reply, Request, Server, Step, plain, respond, send};
use crate::{ACCESS_KEY_ID, ADMIN_KEY, REGION, SECRET_ACCESS_KEY, SESSION_TOKEN};

const CONTENT_TYPE: &str = "application/x-amz-json-1.0";
const QUEUE_PATH: &str = "/123456789012/userhub-signin";

/// AWS refuses a request that was signed longer ago than this, or that much in the future.
const CLOCK_SKEW_MAX: Duration = Duration::from_mins(5);

/// One request from the function.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    /// The message as SQS keeps it.
    pub body: String,
    pub user_name: String,
    /// `SIGNIN`, `SIGNUP` or `CHANGED`.
    pub event_type: String,
    /// Counts from 0.
    pub connection: usize,
    /// The function's end of the connection.
    pub peer: SocketAddr,
    pub request: Request,
}

/// What it can do beside this, see [`Server`].
pub struct Sqs {
    server: Server<ReceivedMessage>,
    queue_url: String,
    expects_session_token: Arc<AtomicBool>,
    pub(crate) queue: Arc<Queue>,
}

/// The messages that SQS has accepted, until somebody has received and deleted them.
#[derive(Default)]
pub(crate) struct Queue {
    pub messages: Mutex<Vec<Message>>,
    pub changed: Condvar,
    count: AtomicUsize,
}

pub(crate) struct Message {
    pub id: String,
    pub body: String,
    pub sent_at: SystemTime,
    /// Nobody receives it before. `None` while a batch with it is under way.
    pub visible_at: Option<Instant>,
    pub receives: u32,
}

impl Sqs {
    /// Accepts every message.
    pub fn start() -> Self {
        Self::replying([vec![Step::Accept]])
    }

    /// Replies to each request with the next of `replies`, and repeats the last one.
    pub fn replying(replies: impl Into<Vec<Reply>>) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").expect("a free port"), replies)
    }

    pub fn listen(listener: TcpListener, replies: impl Into<Vec<Reply>>) -> Self {
        let base_url = format!("http://{}", listener.local_addr().expect("an address"));
        Self::listen_with(listener, &base_url, replies.into(), plain())
    }

    pub(crate) fn listen_with(listener: TcpListener, base_url: &str, replies: Vec<Reply>, connect: Connect) -> Self {
        let queue_url = format!("{base_url}{QUEUE_PATH}");
        let expects_session_token = Arc::new(AtomicBool::new(true));
        let queue: Arc<Queue> = Arc::default();
        let (expects_token, url, accepting) =
            (Arc::clone(&expects_session_token), queue_url.clone(), Arc::clone(&queue));
        let protocol = Protocol {
            name: "SQS",
            connect,
            read: Box::new(move |request, Connection { number, peer }| {
                let session_token = expects_token.load(Ordering::Relaxed).then_some(SESSION_TOKEN);
                let body = message_body(&request, &url, session_token, SystemTime::now())?;
                let (user_name, event_type) = read_message(&body)?;
                Ok(ReceivedMessage { body, user_name, event_type, connection: number, peer, request })
            }),
            accept: Box::new(move |message: &ReceivedMessage| accepting.accept(&message.body)),
        };
        Self { server: Server::start(listener, replies, protocol), queue_url, expects_session_token, queue }
    }

    pub fn queue_url(&self) -> String {
        self.queue_url.clone()
    }

    /// Expects the credentials of a user rather than those of a function's role, which have a session token.
    pub fn expect_no_session_token(&self) {
        self.expects_session_token.store(false, Ordering::Relaxed);
    }

    /// The messages that were sent since the last call, whether SQS accepted them or not.
    pub fn messages(&self) -> Vec<ReceivedMessage> {
        self.server.take_requests()
    }

    /// The only message that was sent since the last call.
    #[track_caller]
    pub fn only_message(&self) -> ReceivedMessage {
        let mut messages = self.messages();
        assert_eq!(messages.len(), 1, "exactly one message is expected: {messages:#?}");
        messages.remove(0)
    }

    /// Puts a message into the queue as somebody else would: with any body.
    pub fn put(&self, body: &str) {
        self.queue.accept(body);
    }

    /// The bodies of the messages that SQS accepted and nobody has deleted.
    pub fn waiting(&self) -> Vec<String> {
        self.queue.messages.lock().unwrap().iter().map(|message| message.body.clone()).collect()
    }
}

impl Deref for Sqs {
    type Target = Server<ReceivedMessage>;

    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

impl Queue {
    /// Puts a message into the queue, and returns SQS's answer.
    fn accept(&self, body: &str) -> String {
        let id = format!("00000000-0000-4000-8000-{:012x}", self.count.fetch_add(1, Ordering::Relaxed));
        let md5 = hex::encode(Md5::digest(body));
        let answer = format!(r#"{{"MessageId":"{id}","MD5OfMessageBody":"{md5}"}}"#);
        self.messages.lock().unwrap().push(Message {
            id,
            body: body.to_owned(),
            sent_at: SystemTime::now(),
            visible_at: Some(Instant::now()),
            receives: 0,
        });
        self.changed.notify_one();
        respond(200, CONTENT_TYPE, &answer)
    }
}

/// SQS's answer to a role that may not send to this queue.
pub fn access_denied() -> Reply {
    let message = format!(
        "User: arn:aws:sts::123456789012:assumed-role/userhub-signin/userhub-signin is not authorized to perform: \
         sqs:sendmessage on resource: arn:aws:sqs:{REGION}:123456789012:userhub-signin because no identity-based policy \
         allows the sqs:sendmessage action"
    );
    sqs_error(403, "com.amazon.coral.service#AccessDeniedException", &message)
}

pub fn queue_does_not_exist() -> Reply {
    sqs_error(400, "com.amazonaws.sqs#QueueDoesNotExist", "The specified queue does not exist.")
}

/// An error of SQS, by the JSON protocol.
pub fn sqs_error(status: u16, name: &str, message: &str) -> Reply {
    vec![send(respond(status, CONTENT_TYPE, &serde_json::json!({ "__type": name, "message": message }).to_string()))]
}

/// The user name and the event type in a message, which must be exactly as documented.
fn read_message(body: &str) -> Result<(String, String), String> {
    let not_ours = |why: &str| format!("the message is none of ours: {why}");
    let fields: Map<String, Value> = serde_json::from_str(body).map_err(|error| not_ours(&error.to_string()))?;
    let names: Vec<_> = fields.keys().map(String::as_str).collect();
    if names != ["type", "userName", "version"] {
        return Err(not_ours(&format!("its fields are {names:?}")));
    }
    if fields["version"] != 1 {
        return Err(not_ours("its version is not 1"));
    }
    let event_type = fields["type"].as_str().filter(|it| ["SIGNIN", "SIGNUP", "CHANGED"].contains(it));
    match (fields["userName"].as_str(), event_type) {
        (Some(user_name), Some(event_type)) => Ok((user_name.to_owned(), event_type.to_owned())),
        _ => Err(not_ours("its type or user name is unknown")),
    }
}

/// The body of the message in a request, if SQS would accept the request.
fn message_body(
    request: &Request,
    queue_url: &str,
    session_token: Option<&str>,
    now: SystemTime,
) -> Result<String, String> {
    expect("the method", &request.method, "POST")?;
    expect("the path", &request.path, "/")?;
    let headers = headers(request, session_token)?;
    expect("the content type", headers["content-type"], CONTENT_TYPE)?;
    expect("the target", headers["x-amz-target"], "AmazonSQS.SendMessage")?;
    let body = std::str::from_utf8(&request.body).map_err(|error| error.to_string())?;
    if headers.values().any(|value| value.contains(ADMIN_KEY)) || body.contains(ADMIN_KEY) {
        return Err("UserHub's key is in it".to_owned());
    }
    check_signature(&headers, &request.body, now)?;

    let parameters: BTreeMap<String, String> = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let names: Vec<_> = parameters.keys().map(String::as_str).collect();
    if names != ["MessageBody", "QueueUrl"] {
        return Err(format!("the parameters are {names:?}"));
    }
    expect("the queue's URL", &parameters["QueueUrl"], queue_url)?;
    let message = &parameters["MessageBody"];
    if let Some(refused) = message.chars().find(|char| !is_allowed(*char)) {
        return Err(format!("SQS takes no {refused:?} in a message"));
    }
    Ok(message.clone())
}

/// The characters that SQS allows in a message.
fn is_allowed(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{1_0000}'..)
}

/// The headers by name. Each one must be known, and may occur only once.
fn headers<'a>(request: &'a Request, session_token: Option<&str>) -> Result<BTreeMap<&'a str, &'a str>, String> {
    let required = ["authorization", "content-length", "content-type", "host", "x-amz-date", "x-amz-target"];
    let optional = ["accept", "user-agent", "x-amz-content-sha256", "x-amz-security-token"];
    let mut headers = BTreeMap::new();
    for (name, value) in &request.headers {
        if !required.contains(&name.as_str()) && !optional.contains(&name.as_str()) {
            return Err(format!("unexpected header {name}"));
        }
        if headers.insert(name.as_str(), value.as_str()).is_some() {
            return Err(format!("the header {name} occurs twice"));
        }
    }
    if let Some(missing) = required.iter().find(|name| !headers.contains_key(*name)) {
        return Err(format!("the header {missing} is missing"));
    }
    if headers.get("x-amz-security-token").copied() != session_token {
        return Err("the session token is missing or another one".to_owned());
    }
    Ok(headers)
}

/// Checks the signature as AWS does
/// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>).
fn check_signature(headers: &BTreeMap<&str, &str>, body: &[u8], now: SystemTime) -> Result<(), String> {
    let time = headers["x-amz-date"];
    let day = time.get(..8).ok_or("the date is too short")?;
    let scope = format!("{day}/{REGION}/sqs/aws4_request");
    let (signed, signature) = headers["authorization"]
        .strip_prefix(&format!("AWS4-HMAC-SHA256 Credential={ACCESS_KEY_ID}/{scope}, SignedHeaders="))
        .and_then(|rest| rest.split_once(", Signature="))
        .ok_or("the header authorization has another form, access key, day, Region or service")?;

    let skew = signed_at(time)?.duration_since(now).unwrap_or_else(|past| past.duration());
    if skew > CLOCK_SKEW_MAX {
        return Err(format!("the signature is {skew:?} away from now"));
    }
    let signed_names: Vec<_> = signed.split(';').collect();
    let must_be_signed = |name: &str| name.starts_with("x-amz-") || ["host", "content-type"].contains(&name);
    if let Some(unsigned) = headers.keys().find(|name| must_be_signed(name) && !signed_names.contains(name)) {
        return Err(format!("the header {unsigned} is not signed"));
    }
    if !signed_names.is_sorted() {
        return Err("the names of the signed headers are not sorted".to_owned());
    }
    let body_hash = hex::encode(Sha256::digest(body));
    if headers.get("x-amz-content-sha256").is_some_and(|hash| *hash != body_hash) {
        return Err("the body has another hash".to_owned());
    }

    let canonical_header = |name: &&str| {
        let value = headers.get(name).ok_or_else(|| format!("the signed header {name} is missing"))?;
        Ok(format!("{name}:{}\n", value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")))
    };
    let signed_headers = signed_names.iter().map(canonical_header).collect::<Result<String, String>>()?;
    let canonical = format!("POST\n/\n\n{signed_headers}\n{signed}\n{body_hash}");
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let key = [day, REGION, "sqs", "aws4_request", &to_sign]
        .iter()
        .fold(format!("AWS4{SECRET_ACCESS_KEY}").into_bytes(), |key, text| hmac_sha256(&key, text));
    if hex::encode(key) == signature { Ok(()) } else { Err("the signature is wrong".to_owned()) }
}

fn hmac_sha256(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key may have any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Reads a time such as `20261127T055400Z`.
fn signed_at(time: &str) -> Result<SystemTime, String> {
    let pieces = [0..4, 4..6, 6..11, 11..13, 13..16].map(|range| time.get(range).unwrap_or_default());
    let [year, month, day_and_hour, minute, second] = pieces;
    humantime::parse_rfc3339(&format!("{year}-{month}-{day_and_hour}:{minute}:{second}"))
        .map_err(|error| format!("the date {time}: {error}"))
}

fn expect(what: &str, found: &str, expected: &str) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found:?}, not {expected:?}")) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};

    use super::*;

    const QUEUE_URL: &str = "http://127.0.0.1:4566/123456789012/userhub-signin";
    const MESSAGE: &str = r#"{"version":1,"userName":"ada","type":"SIGNIN"}"#;
    const SIGNED_AT: &str = "2026-11-27T05:54:00Z";

    /// What botocore 1.44.8 made of this request at this time: with a session token, and without.
    const SIGNATURE: &str = "cb7b18d42a9ac3aeab29b8c2fcd1dbcf2df3234d2c9e0a052abda4582d202bbc";
    const SIGNATURE_WITHOUT_TOKEN: &str = "536df5400fd40bf66114855e76441c32cddab5762f94941683058f7ed39ed87f";

    fn at(time: &str) -> SystemTime {
        humantime::parse_rfc3339(time).unwrap()
    }

    fn request(signed_headers: &str, signature: &str) -> Request {
        let body = format!(r#"{{"QueueUrl":"{QUEUE_URL}","MessageBody":"{}"}}"#, MESSAGE.replace('"', "\\\""));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=local-access-key/20261127/eu-west-1/sqs/aws4_request, \
             SignedHeaders={signed_headers}, Signature={signature}"
        );
        let headers = [
            ("host", "127.0.0.1:4566"),
            ("content-type", "application/x-amz-json-1.0"),
            ("content-length", &body.len().to_string()),
            ("x-amz-target", "AmazonSQS.SendMessage"),
            ("x-amz-date", "20261127T055400Z"),
            ("x-amz-security-token", "local-session-token"),
            ("authorization", &authorization),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Request { method: "POST".to_owned(), path: "/".to_owned(), headers, body: body.into_bytes() }
    }

    fn signed() -> Request {
        request("content-type;host;x-amz-date;x-amz-security-token;x-amz-target", SIGNATURE)
    }

    fn check(request: &Request) -> Result<String, String> {
        message_body(request, QUEUE_URL, Some(SESSION_TOKEN), at(SIGNED_AT))
    }

    /// As [`signed`], with another value for one header, or without it.
    fn with_header(name: &str, value: Option<&str>) -> Request {
        let mut request = signed();
        request.headers.retain(|(other, _)| other != name);
        request.headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        request
    }

    #[track_caller]
    fn assert_refused(request: &Request, why: &str) {
        let refusal = check(request).unwrap_err();
        assert!(refusal.contains(why), "{refusal}");
    }

    #[test]
    #[should_panic(expected = "SQS would have refused: [\n    \"the header content-type is missing: POST /")]
    fn fails_the_test_that_sent_anything_else() {
        let sqs = Sqs::start();
        let mut stream = TcpStream::connect(sqs.address).unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nAuthorization: none\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }

    #[test]
    fn accepts_what_botocore_signed() {
        assert_eq!(check(&signed()).as_deref(), Ok(MESSAGE));
        let mut without_token = request("content-type;host;x-amz-date;x-amz-target", SIGNATURE_WITHOUT_TOKEN);
        without_token.headers.retain(|(name, _)| name != "x-amz-security-token");
        assert_eq!(message_body(&without_token, QUEUE_URL, None, at(SIGNED_AT)).as_deref(), Ok(MESSAGE));
        assert_refused(&without_token, "session token");
    }

    #[test]
    fn accepts_only_the_signed_bytes() {
        let mut other_body = signed();
        other_body.body = String::from_utf8(other_body.body).unwrap().replace("ada", "eve").into_bytes();
        assert_refused(&other_body, "the signature is wrong");
        assert_refused(&with_header("host", Some("127.0.0.1:4567")), "the signature is wrong");
        assert_refused(
            &request("content-type;host;x-amz-date;x-amz-security-token;x-amz-target", SIGNATURE_WITHOUT_TOKEN),
            "the signature is wrong",
        );
    }

    #[test]
    fn accepts_only_our_credentials() {
        let authorization = |from: &str, to: &str| {
            let value = signed().header("authorization").unwrap().replace(from, to);
            with_header("authorization", Some(&value))
        };
        for (ours, other) in [("local-access-key", "other"), ("eu-west-1", "us-east-1"), ("/sqs/", "/sns/")] {
            assert_refused(&authorization(ours, other), "another form, access key, day, Region or service");
        }
        assert_refused(&with_header("x-amz-security-token", Some("other")), "session token");
        assert_refused(&with_header("x-amz-security-token", None), "session token");
    }

    #[test]
    fn accepts_only_a_recent_signature() {
        for (now, is_near) in [
            ("2026-11-27T05:58:59Z", true),
            ("2026-11-27T05:49:01Z", true),
            ("2026-11-27T05:59:01Z", false),
            ("2026-11-27T05:48:59Z", false),
            ("2026-11-28T05:54:00Z", false),
        ] {
            let result = message_body(&signed(), QUEUE_URL, Some(SESSION_TOKEN), at(now));
            assert_eq!(result.is_ok(), is_near, "{now}: {result:?}");
        }
        assert_refused(&with_header("x-amz-date", Some("20261127")), "the date 20261127");
    }

    #[test]
    fn every_header_that_matters_is_signed() {
        for unsigned in ["content-type", "host", "x-amz-date", "x-amz-security-token", "x-amz-target"] {
            let all = ["content-type", "host", "x-amz-date", "x-amz-security-token", "x-amz-target"];
            let others: Vec<_> = all.into_iter().filter(|name| *name != unsigned).collect();
            assert_refused(&request(&others.join(";"), SIGNATURE), &format!("the header {unsigned} is not signed"));
        }
    }

    #[test]
    fn accepts_only_the_documented_request() {
        assert_refused(&with_header("x-amz-target", Some("AmazonSQS.ReceiveMessage")), "the target");
        assert_refused(&with_header("content-type", Some("application/json")), "the content type");
        assert_refused(&with_header("cookie", Some("a=b")), "unexpected header cookie");
        assert_refused(&with_header("user-agent", Some(ADMIN_KEY)), "UserHub's key");
        assert_refused(&Request { method: "GET".to_owned(), ..signed() }, "the method");
        assert_refused(&Request { path: QUEUE_PATH.to_owned(), ..signed() }, "the path");
        let elsewhere = message_body(&signed(), "http://127.0.0.1:1/2/other", Some(SESSION_TOKEN), at(SIGNED_AT));
        assert!(elsewhere.unwrap_err().contains("the queue's URL"));
    }

    #[test]
    fn a_message_has_exactly_the_documented_fields() {
        assert_eq!(read_message(MESSAGE), Ok(("ada".to_owned(), "SIGNIN".to_owned())));
        for (other, why) in [
            (r#"{"version":1,"userName":"ada","type":"SIGNIN","more":1}"#, "its fields are"),
            (r#"{"version":1,"type":"SIGNIN"}"#, "its fields are"),
            (r#"{"version":2,"userName":"ada","type":"SIGNIN"}"#, "its version"),
            (r#"{"version":1,"userName":"ada","type":"SIGNOUT"}"#, "its type or user name"),
            (r#"{"version":1,"userName":1,"type":"SIGNIN"}"#, "its type or user name"),
            ("ada", "expected value"),
        ] {
            let refusal = read_message(other).unwrap_err();
            assert!(refusal.contains(why), "{other}: {refusal}");
        }
        assert!(MESSAGE.chars().all(is_allowed) && !"\u{1}\u{fffe}\u{ffff}".chars().any(is_allowed));
    }
}

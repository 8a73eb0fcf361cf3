//! A strict stand-in for UserHub's Admin API. It accepts only the request that the API documents.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;

use crate::server::{Connect, Connection, Protocol, Reply, Request, Server, Step, answer, plain, respond};
use crate::{ADMIN_KEY, CONNECTION_ID};

/// One request from the function.
#[derive(Clone, Debug)]
pub struct ReceivedReport {
    /// Decoded from the path.
    pub user_name: String,
    /// `SIGNIN`, `SIGNUP` or `CHANGED`.
    pub event_type: &'static str,
    /// Counts from 0.
    pub connection: usize,
    /// The function's end of the connection.
    pub peer: SocketAddr,
    pub request: Request,
}

/// What can go wrong with UserHub, in `make run` and `make soak`.
pub struct Fault {
    pub name: &'static str,
    /// In words, for the user of `make run`.
    pub description: &'static str,
    /// How UserHub replies to a report.
    pub reply: Reply,
}

/// Every fault. In `refuse` UserHub gets no request at all.
pub fn faults() -> Vec<Fault> {
    let unauthenticated = r#"{"code": "UNAUTHENTICATED", "message": "the API key is not valid"}"#;
    let internal = r#"{"code": "INTERNAL", "message": "something broke"}"#;
    let late = vec![Step::Wait(Duration::from_secs(1)), Step::Accept];
    [
        ("hang", "UserHub never answers", vec![Step::Hang]),
        ("refuse", "nothing listens at UserHub's address", Vec::new()),
        ("reset", "UserHub resets the connection instead of answering", vec![Step::Reset]),
        ("302", "UserHub redirects", answer(302, "")),
        ("401", "UserHub does not accept the admin key", answer(401, unauthenticated)),
        ("429", "UserHub asks for fewer requests", answer(429, "too many requests")),
        ("500", "UserHub fails", answer(500, internal)),
        ("slow", "UserHub answers after one second", late),
    ]
    .into_iter()
    .map(|(name, description, reply)| Fault { name, description, reply })
    .collect()
}

/// What it can do beside this, see [`Server`].
pub struct UserHub {
    server: Server<ReceivedReport>,
    base_url: String,
    allows_other_clients: Arc<AtomicBool>,
    accepted: Arc<Mutex<HashMap<String, Vec<Instant>>>>,
}

impl UserHub {
    /// Accepts every report.
    pub fn start() -> Self {
        Self::replying([vec![Step::Accept]])
    }

    /// Replies to each request with the next of `replies`, and repeats the last one.
    pub fn replying(replies: impl Into<Vec<Reply>>) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").expect("a free port"), replies)
    }

    pub fn listen(listener: TcpListener, replies: impl Into<Vec<Reply>>) -> Self {
        let base_url = format!("http://{}", listener.local_addr().expect("an address"));
        Self::listen_with(listener, base_url, replies.into(), plain())
    }

    pub(crate) fn listen_with(listener: TcpListener, base_url: String, replies: Vec<Reply>, connect: Connect) -> Self {
        let allows_other_clients = Arc::new(AtomicBool::new(false));
        let allows = Arc::clone(&allows_other_clients);
        let accepted: Arc<Mutex<HashMap<String, Vec<Instant>>>> = Arc::default();
        let accepts = Arc::clone(&accepted);
        let protocol = Protocol {
            name: "UserHub",
            connect,
            read: Box::new(move |request, Connection { number, peer }| {
                let user_name = user_name(&request, !allows.load(Ordering::Relaxed))?;
                let event_type = event_type(&request)?;
                Ok(ReceivedReport { user_name, event_type, connection: number, peer, request })
            }),
            accept: Box::new(move |report: &ReceivedReport| {
                accepts.lock().unwrap().entry(report.user_name.clone()).or_default().push(Instant::now());
                respond(200, "application/json", "{}")
            }),
        };
        Self { server: Server::start(listener, replies, protocol), base_url, allows_other_clients, accepted }
    }

    pub fn base_url(&self) -> String {
        self.base_url.clone()
    }

    /// Accepts a report from a client with other headers, such as Node.js.
    pub fn allow_other_clients(&self) {
        self.allows_other_clients.store(true, Ordering::Relaxed);
    }

    /// The reports since the last call. All of them must be of sign-ins.
    #[track_caller]
    pub fn reports(&self) -> Vec<ReceivedReport> {
        let reports = self.reports_of_any_type();
        assert!(reports.iter().all(|report| report.event_type == "SIGNIN"), "{reports:#?}");
        reports
    }

    /// The reports since the last call.
    pub fn reports_of_any_type(&self) -> Vec<ReceivedReport> {
        self.server.take_requests()
    }

    /// The only report since the last call. It must be of a sign-in.
    #[track_caller]
    pub fn only_report(&self) -> ReceivedReport {
        self.only_report_of("SIGNIN")
    }

    /// The only report since the last call. It must be of this type.
    #[track_caller]
    pub fn only_report_of(&self, event_type: &str) -> ReceivedReport {
        let mut reports = self.reports_of_any_type();
        assert_eq!(reports.len(), 1, "exactly one report is expected: {reports:#?}");
        assert_eq!(reports[0].event_type, event_type);
        reports.remove(0)
    }

    /// When it accepted reports of each user with [`Step::Accept`].
    pub fn accepted(&self) -> HashMap<String, Vec<Instant>> {
        self.accepted.lock().unwrap().clone()
    }
}

impl Deref for UserHub {
    type Target = Server<ReceivedReport>;

    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

/// The type of event in a report. UserHub takes a missing type for `CHANGED`; the stand-in requires one.
fn event_type(request: &Request) -> Result<&'static str, String> {
    ["SIGNIN", "SIGNUP", "CHANGED"]
        .into_iter()
        .find(|event_type| request.body == format!(r#"{{"type":"{event_type}"}}"#).as_bytes())
        .ok_or_else(|| "the body is not an event".to_owned())
}

/// The user in a report, if the request is exactly as UserHub's Admin API documents it.
fn user_name(request: &Request, strict: bool) -> Result<String, String> {
    let expect = |what: &str, found: Option<&str>, expected: &str| match found {
        Some(found) if found == expected => Ok(()),
        _ => Err(format!("{what} is {found:?}, not {expected:?}").replace(ADMIN_KEY, "*****")),
    };
    expect("method", Some(&request.method), "POST")?;
    expect("authorization", request.header("authorization"), &format!("Bearer {ADMIN_KEY}"))?;
    expect("content-type", request.header("content-type"), "application/json")?;
    if strict {
        check_headers(request, expect)?;
    }

    let user = request
        .path
        .strip_prefix("/admin/v1/users/")
        .and_then(|rest| rest.strip_suffix(&format!("@{CONNECTION_ID}:event")))
        .ok_or("not the path of a user's event")?;
    if user.is_empty() || user.contains(['/', '?', '#', '@', ':', '\\']) {
        return Err("the user name is empty or leaves its path segment".to_owned());
    }
    percent_decode_str(user).decode_utf8().map(Into::into).map_err(|error| error.to_string())
}

/// Checks that the other headers are exactly those of UserHub's own SDKs.
fn check_headers(
    request: &Request,
    expect: impl Fn(&str, Option<&str>, &str) -> Result<(), String>,
) -> Result<(), String> {
    expect("accept", request.header("accept"), "application/json")?;
    expect("userhub-api-version", request.header("userhub-api-version"), "2025-05-01")?;
    let user_agent = concat!("UserHub-AmazonCognito/1.0 userhub-signin/", env!("CARGO_PKG_VERSION"));
    expect("user-agent", request.header("user-agent"), user_agent)?;
    let known =
        ["host", "authorization", "content-type", "content-length", "accept", "userhub-api-version", "user-agent"];
    if let Some((name, _)) = request.headers.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        return Err(format!("unexpected header {name}"));
    }
    if request.headers.len() != known.len() {
        return Err("a header is missing or occurs twice".to_owned());
    }
    Ok(())
}

/// It fails a test in which anything but a documented request is sent.
#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Sends the parts one after the other to a stand-in that never answers, and drops it as a test would.
    fn send_and_drop(parts: &[&str]) {
        let userhub = UserHub::replying([vec![Step::Hang]]);
        let mut stream = TcpStream::connect(userhub.address).unwrap();
        for part in parts {
            stream.write_all(part.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(100)); // so that they are not read together
        }
        stream.shutdown(Shutdown::Write).ok();
        stream.read_to_end(&mut Vec::new()).ok(); // until it closes the connection, perhaps with a reset
    }

    #[test]
    #[should_panic(expected = "invalid token")]
    fn refuses_what_is_not_http() {
        send_and_drop(&["\0\0\0\0\r\n\r\n"]);
    }

    #[test]
    #[should_panic(expected = "method is Some(\\\"GET\\\"), not \\\"POST\\\"")]
    fn refuses_another_request() {
        send_and_drop(&["GET / HTTP/1.1\r\n\r\n"]);
    }

    #[test]
    #[should_panic(expected = "more bytes than the request has")]
    fn refuses_bytes_behind_a_request() {
        send_and_drop(&["POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n{more"]);
    }

    #[test]
    #[should_panic(expected = "more bytes instead of waiting for the answer")]
    fn refuses_bytes_before_its_answer() {
        send_and_drop(&["POST / HTTP/1.1\r\n\r\n", "more"]);
    }
}

//! A strict stand-in for UserHub's Admin API. It accepts only the request that the API documents, records each one, and
//! replies as it is told. When it is dropped, it fails the test if anything else was sent, or if a report was not checked.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ::http::StatusCode;
use percent_encoding::percent_decode_str;
use socket2::SockRef;

use crate::http::{Request, invalid};
use crate::{ADMIN_KEY, CONNECTION_ID};

/// A step of a reply. After the last one the connection waits for the next request.
#[derive(Clone)]
pub enum Step {
    Send(Vec<u8>),
    Wait(Duration),
    /// The bytes again and again, with this pause in between, until the function closes the connection.
    SendForever(Vec<u8>, Duration),
    /// Nothing more, until the function closes the connection.
    Hang,
    Close,
    Reset,
}

/// How UserHub replies to one request.
pub type Reply = Vec<Step>;

/// A complete answer with a JSON body.
pub fn answer(status: u16, body: &str) -> Reply {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Other");
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    vec![send(head + body)]
}

/// Bytes as they are: a complete answer or a part of one.
pub fn send(bytes: impl Into<Vec<u8>>) -> Step {
    Step::Send(bytes.into())
}

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

pub struct UserHub {
    pub address: SocketAddr,
    base_url: String,
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    replies: Mutex<Vec<Reply>>,
    accept: Accept,
    allows_other_clients: AtomicBool,
    open: Mutex<HashMap<usize, TcpStream>>,
    seen: Mutex<Seen>,
}

/// Turns a TCP connection into one that HTTP is spoken on.
type Accept = Box<dyn Fn(TcpStream) -> io::Result<Box<dyn Stream>> + Send + Sync>;

pub(crate) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

#[derive(Default)]
struct Seen {
    connections: usize,
    requests: usize,
    last_reply_ended_at: Option<Instant>,
    reports: Vec<ReceivedReport>,
    violations: Vec<String>,
}

impl UserHub {
    /// Accepts every report.
    pub fn start() -> Self {
        Self::replying([answer(200, "{}")])
    }

    /// Replies to each request with the next of `replies`, and repeats the last one.
    pub fn replying(replies: impl Into<Vec<Reply>>) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").expect("a free port"), replies)
    }

    pub fn listen(listener: TcpListener, replies: impl Into<Vec<Reply>>) -> Self {
        let base_url = format!("http://{}", listener.local_addr().expect("an address"));
        Self::listen_with(listener, base_url, replies.into(), |tcp| Ok(Box::new(tcp)))
    }

    pub(crate) fn listen_with(
        listener: TcpListener,
        base_url: String,
        replies: Vec<Reply>,
        accept: impl Fn(TcpStream) -> io::Result<Box<dyn Stream>> + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            replies: Mutex::new(replies),
            accept: Box::new(accept),
            allows_other_clients: AtomicBool::new(false),
            open: Mutex::default(),
            seen: Mutex::default(),
        });
        let accepting = listener.try_clone().expect("a second handle");
        let server = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in accepting.incoming() {
                let server = Arc::clone(&server);
                match stream {
                    Ok(stream) => drop(thread::spawn(move || server.serve(stream))),
                    Err(_) => thread::sleep(Duration::from_millis(1)), // refuses connections now
                }
            }
        });
        Self { address, base_url, listener, shared }
    }

    pub fn base_url(&self) -> String {
        self.base_url.clone()
    }

    /// From now on replies to each request with the next of `replies`, and repeats the last one.
    pub fn reply_with(&self, replies: impl Into<Vec<Reply>>) {
        self.shared.seen.lock().unwrap().requests = 0;
        *self.shared.replies.lock().unwrap() = replies.into();
    }

    /// Accepts a report from a client with other headers, such as Node.js.
    pub fn allow_other_clients(&self) {
        self.shared.allows_other_clients.store(true, Ordering::Relaxed);
    }

    /// Closes all connections, and refuses new ones or accepts them again. The listener must be one of [`reserve`]:
    /// Linux would give another one a new port.
    #[cfg(target_os = "linux")]
    pub fn refuse_connections(&self, refuse: bool) {
        let listener = SockRef::from(&self.listener);
        if refuse {
            listener.shutdown(Shutdown::Both).expect("to stop listening");
        } else {
            listener.listen(128).expect("to listen again");
        }
        for connection in self.shared.open.lock().unwrap().values() {
            connection.shutdown(Shutdown::Both).ok();
        }
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
        std::mem::take(&mut self.shared.seen.lock().unwrap().reports)
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

    /// When the last reply to a request was complete.
    #[track_caller]
    pub fn last_reply_ended_at(&self) -> Instant {
        self.shared.seen.lock().unwrap().last_reply_ended_at.expect("a reply")
    }

    pub fn connections(&self) -> usize {
        self.shared.seen.lock().unwrap().connections
    }

    /// Waits until all connections have ended, so that everything sent on them has been recorded.
    pub fn wait_for_connections_to_end(&self) {
        while !self.shared.open.lock().unwrap().is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for UserHub {
    fn drop(&mut self) {
        if !thread::panicking() {
            let seen = self.shared.seen.lock().unwrap();
            assert!(seen.violations.is_empty(), "UserHub would have refused: {:#?}", seen.violations);
            assert!(seen.reports.is_empty(), "reports that were not checked: {:#?}", seen.reports);
        }
    }
}

impl Shared {
    fn serve(&self, tcp: TcpStream) {
        let connection = {
            let mut seen = self.seen.lock().unwrap();
            seen.connections += 1;
            seen.connections - 1
        };
        tcp.set_nodelay(true).expect("nodelay");
        let Ok(peer) = tcp.peer_addr() else { return }; // closed already
        let handle = tcp.try_clone().expect("a second handle");
        self.open.lock().unwrap().insert(connection, tcp.try_clone().expect("a third handle"));
        let served = (self.accept)(tcp).and_then(|stream| self.answer_requests(stream, &handle, connection, peer));
        if let Err(error) = served
            && error.kind() == ErrorKind::InvalidData
        {
            self.seen.lock().unwrap().violations.push(error.to_string());
        }
        self.open.lock().unwrap().remove(&connection);
    }

    /// Returns an error if the connection does not end between two requests. [`ErrorKind::InvalidData`] is a violation of
    /// HTTP.
    fn answer_requests(
        &self,
        mut stream: Box<dyn Stream>,
        tcp: &TcpStream,
        connection: usize,
        peer: SocketAddr,
    ) -> io::Result<()> {
        while let Some(request) = Request::read(&mut stream)? {
            let reply = {
                let mut seen = self.seen.lock().unwrap();
                let strict = !self.allows_other_clients.load(Ordering::Relaxed);
                match user_name(&request, strict).and_then(|user_name| Ok((user_name, event_type(&request)?))) {
                    Ok((user_name, event_type)) => {
                        seen.reports.push(ReceivedReport { user_name, event_type, connection, peer, request });
                    }
                    Err(violation) => seen.violations.push(format!("{violation}: {request:?}")),
                }
                seen.requests += 1;
                let replies = self.replies.lock().unwrap();
                replies[(seen.requests - 1).min(replies.len() - 1)].clone()
            };
            let ended = reply.into_iter().try_for_each(|step| step.perform(&mut stream, tcp));
            self.seen.lock().unwrap().last_reply_ended_at = Some(Instant::now());
            ended?;
        }
        Ok(())
    }
}

/// A listener at a free port, which it keeps when it stops listening for a while.
pub fn reserve(address: impl Into<IpAddr>) -> TcpListener {
    let address = address.into();
    loop {
        let free = TcpListener::bind((address, 0)).expect("a free port").local_addr().expect("an address");
        // Linux keeps a port that was bound by its number.
        if let Ok(listener) = TcpListener::bind(free) {
            return listener;
        }
    }
}

impl Step {
    /// Returns an error if the connection has ended.
    pub fn perform(self, stream: &mut (impl Read + Write), tcp: &TcpStream) -> io::Result<()> {
        let mut send = |bytes: &[u8]| stream.write_all(bytes).and_then(|()| stream.flush());
        match self {
            Self::Send(bytes) => send(&bytes),
            Self::Wait(time) => {
                thread::sleep(time);
                Ok(())
            }
            Self::SendForever(bytes, pause) => loop {
                send(&bytes)?;
                thread::sleep(pause);
            },
            Self::Hang => match stream.read(&mut [0])? {
                0 => Err(ErrorKind::ConnectionAborted.into()),
                _ => Err(invalid("more bytes instead of waiting for the answer")),
            },
            Self::Close => {
                tcp.shutdown(Shutdown::Both).ok();
                Err(ErrorKind::ConnectionAborted.into())
            }
            Self::Reset => {
                SockRef::from(tcp).set_linger(Some(Duration::ZERO))?; // closing then sends a RST
                Err(ErrorKind::ConnectionReset.into())
            }
        }
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

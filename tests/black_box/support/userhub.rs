//! A strict stand-in for UserHub's Admin API: it takes nothing but the request that the API documents, remembers each
//! one, and answers as it was told. A test that leaves a report unlooked at, or that sent anything else, fails.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use reqwest::StatusCode;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;

use super::http::{Request, invalid};
use super::{ADMIN_KEY, CONNECTION_ID};

/// A step of an answer. After the last one the connection waits for the next request.
#[derive(Clone)]
pub enum Step {
    Send(Vec<u8>),
    Wait(Duration),
    /// The bytes again and again, that far apart, until the function hangs up.
    SendForever(Vec<u8>, Duration),
    /// Nothing more, until the function hangs up.
    Hang,
    Close,
    Reset,
}

/// How one request is answered.
pub type Reply = Vec<Step>;

/// A whole answer with a JSON body.
pub fn answer(status: u16, body: &str) -> Reply {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Other");
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    vec![send(head + body)]
}

/// Bytes as they are, a whole answer or not.
pub fn send(bytes: impl Into<Vec<u8>>) -> Step {
    Step::Send(bytes.into())
}

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Report {
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
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    replies: Mutex<Vec<Reply>>,
    tls: Option<Arc<ServerConfig>>,
    open: Mutex<HashMap<usize, TcpStream>>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    requests: usize,
    reports: Vec<Report>,
    violations: Vec<String>,
}

impl UserHub {
    /// Takes every report.
    pub fn start() -> Self {
        Self::replying([answer(200, "{}")])
    }

    /// Answers each request with the next of `replies`, and with the last one from then on.
    pub fn replying(replies: impl Into<Vec<Reply>>) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").expect("a free port"), replies.into(), None)
    }

    /// Takes every report, over TLS.
    pub fn start_tls(tls: ServerConfig) -> Self {
        Self::listen(
            TcpListener::bind("127.0.0.1:0").expect("a free port"),
            vec![answer(200, "{}")],
            Some(Arc::new(tls)),
        )
    }

    pub fn listen(listener: TcpListener, replies: Vec<Reply>, tls: Option<Arc<ServerConfig>>) -> Self {
        let address = listener.local_addr().expect("an address");
        let shared =
            Arc::new(Shared { replies: Mutex::new(replies), tls, open: Mutex::default(), seen: Mutex::default() });
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
        Self { address, listener, shared }
    }

    pub fn base_url(&self) -> String {
        match self.shared.tls {
            None => format!("http://{}", self.address),
            Some(_) => format!("https://localhost:{}", self.address.port()), // a name for the certificate
        }
    }

    /// From now on answers each request with the next of `replies`, and with the last one from then on.
    pub fn reply_with(&self, replies: impl Into<Vec<Reply>>) {
        self.shared.seen.lock().unwrap().requests = 0;
        *self.shared.replies.lock().unwrap() = replies.into();
    }

    /// Closes all connections, and refuses new ones or takes them again. Needs a listener that was bound to a port by its
    /// number: another one would come back at another port.
    #[cfg(target_os = "linux")]
    pub fn refuse(&self, refuse: bool) {
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

    /// The reports since the last call, all of them of sign-ins.
    #[track_caller]
    pub fn reports(&self) -> Vec<Report> {
        let reports = self.reports_of_any_type();
        assert!(reports.iter().all(|report| report.event_type == "SIGNIN"), "{reports:#?}");
        reports
    }

    /// The reports since the last call.
    pub fn reports_of_any_type(&self) -> Vec<Report> {
        std::mem::take(&mut self.shared.seen.lock().unwrap().reports)
    }

    /// The only report since the last call, of a sign-in.
    #[track_caller]
    pub fn only_report(&self) -> Report {
        self.only_report_of("SIGNIN")
    }

    /// The only report since the last call, with its event's type.
    #[track_caller]
    pub fn only_report_of(&self, event_type: &str) -> Report {
        let mut reports = self.reports_of_any_type();
        assert_eq!(reports.len(), 1, "exactly one report was due: {reports:#?}");
        assert_eq!(reports[0].event_type, event_type);
        reports.remove(0)
    }

    pub fn connections(&self) -> usize {
        self.shared.seen.lock().unwrap().connections
    }

    /// Waits until all connections are over, so that everything sent on them has been seen.
    pub fn until_connections_end(&self) {
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
            assert!(seen.reports.is_empty(), "reports that no test looked at: {:#?}", seen.reports);
        }
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Shared {
    fn serve(&self, tcp: TcpStream) {
        let connection = {
            let mut seen = self.seen.lock().unwrap();
            seen.connections += 1;
            seen.connections - 1
        };
        tcp.set_nodelay(true).expect("nodelay");
        let Ok(peer) = tcp.peer_addr() else { return }; // hung up already
        let handle = tcp.try_clone().expect("a second handle");
        self.open.lock().unwrap().insert(connection, tcp.try_clone().expect("a third handle"));
        let mut stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(tls) => Box::new(StreamOwned::new(ServerConnection::new(Arc::clone(tls)).expect("TLS"), tcp)),
        };
        if let Err(error) = self.answer_requests(&mut stream, &handle, connection, peer)
            && is_violation(&error)
        {
            self.seen.lock().unwrap().violations.push(error.to_string());
        }
        self.open.lock().unwrap().remove(&connection);
    }

    /// `Err` when the connection is over but for an end between two requests.
    fn answer_requests(
        &self,
        stream: &mut Box<dyn Stream>,
        tcp: &TcpStream,
        connection: usize,
        peer: SocketAddr,
    ) -> io::Result<()> {
        while let Some(request) = Request::read(stream)? {
            let reply = {
                let mut seen = self.seen.lock().unwrap();
                match user_name(&request).and_then(|user_name| Ok((user_name, event_type(&request)?))) {
                    Ok((user_name, event_type)) => {
                        seen.reports.push(Report { user_name, event_type, connection, peer, request });
                    }
                    Err(violation) => seen.violations.push(format!("{violation}: {request:?}")),
                }
                seen.requests += 1;
                let replies = self.replies.lock().unwrap();
                replies[(seen.requests - 1).min(replies.len() - 1)].clone()
            };
            for step in reply {
                step.perform(stream, tcp)?;
            }
        }
        Ok(())
    }
}

/// Whether the function sent what is no request. That it hangs up, or refuses a certificate, is its right.
fn is_violation(error: &io::Error) -> bool {
    error.kind() == ErrorKind::InvalidData && error.get_ref().is_none_or(|cause| !cause.is::<rustls::Error>())
}

impl Step {
    /// `Err` when the connection is over.
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
                _ => Err(invalid("more bytes in place of waiting for the answer")),
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

/// The type of event in a report. UserHub takes a request without one for `CHANGED`: here it has to be said.
fn event_type(request: &Request) -> Result<&'static str, String> {
    ["SIGNIN", "SIGNUP", "CHANGED"]
        .into_iter()
        .find(|event_type| request.body == format!(r#"{{"type":"{event_type}"}}"#).as_bytes())
        .ok_or_else(|| "the body is no event".to_owned())
}

/// The user in a report, if the request is exactly what UserHub's Admin API documents.
fn user_name(request: &Request) -> Result<String, String> {
    let expect = |what: &str, found: Option<&str>, expected: &str| match found {
        Some(found) if found == expected => Ok(()),
        _ => Err(format!("{what} is {found:?}, not {expected:?}").replace(ADMIN_KEY, "*****")),
    };
    expect("method", Some(&request.method), "POST")?;
    expect("authorization", request.header("authorization"), &format!("Bearer {ADMIN_KEY}"))?;
    expect("content-type", request.header("content-type"), "application/json")?;
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
        return Err("a header is missing or came twice".to_owned());
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

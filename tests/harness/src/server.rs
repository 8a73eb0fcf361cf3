//! What the stand-ins for UserHub and for SQS share: a strict HTTP server that takes only the requests it expects, records
//! each one, and replies as it is told. When it is dropped, it fails the test if anything else was sent, or if a request
//! was not looked at. The Runtime API reads its requests with the same parser.

use std::collections::HashMap;
use std::error::Error;
use std::fmt::{self, Debug};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use http::StatusCode;
use socket2::SockRef;

/// A step of a reply. After the last one the connection waits for the next request.
#[derive(Clone)]
pub enum Step {
    /// Takes what was sent, and says so. UserHub then knows of the event, and SQS has the message.
    Accept,
    /// As [`Self::Accept`], but the answer is lost.
    AcceptSilently,
    Send(Vec<u8>),
    /// Bytes beneath TLS, as somebody on the way could send them.
    SendBeneathTls(Vec<u8>),
    Wait(Duration),
    /// The bytes again and again, with this pause in between, until the function closes the connection.
    SendForever(Vec<u8>, Duration),
    /// Nothing more, until the function closes the connection.
    Hang,
    Close,
    Reset,
}

/// How a stand-in replies to one request.
pub type Reply = Vec<Step>;

/// A complete answer with a JSON body.
pub fn answer(status: u16, body: &str) -> Reply {
    vec![send(respond(status, "application/json", body))]
}

pub(crate) fn respond(status: u16, content_type: &str, body: &str) -> String {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Other");
    let length = body.len();
    format!("HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Bytes as they are: a complete answer or a part of one.
pub fn send(bytes: impl Into<Vec<u8>>) -> Step {
    Step::Send(bytes.into())
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Counts from 0.
    pub number: usize,
    /// The function's end.
    pub peer: SocketAddr,
}

/// A server for requests that mean `T`.
pub struct Server<T: Debug> {
    pub address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared<T>>,
}

/// What a stand-in makes of requests.
pub(crate) struct Protocol<T> {
    /// For messages about violations.
    pub name: &'static str,
    /// Turns a TCP connection into one that HTTP is spoken on.
    pub connect: Connect,
    /// What a request means, or how it violates the protocol.
    pub read: Box<dyn Fn(Request, Connection) -> Result<T, String> + Send + Sync>,
    /// Takes what was sent, and returns the answer that says so.
    pub accept: Box<dyn Fn(&T) -> String + Send + Sync>,
}

pub(crate) type Connect = Box<dyn Fn(TcpStream) -> io::Result<Box<dyn Stream>> + Send + Sync>;

pub(crate) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// HTTP without TLS.
pub(crate) fn plain() -> Connect {
    Box::new(|tcp| Ok(Box::new(tcp)))
}

struct Shared<T> {
    protocol: Protocol<T>,
    replies: Mutex<Replies>,
    open: Mutex<HashMap<usize, TcpStream>>,
    seen: Mutex<Seen<T>>,
}

struct Replies {
    list: Vec<Reply>,
    /// Begins again after the last one, rather than repeat that one.
    in_turn: bool,
    next: usize,
}

struct Seen<T> {
    connections: usize,
    last_reply_ended_at: Option<Instant>,
    lost_answers: usize,
    requests: Vec<T>,
    violations: Vec<String>,
}

impl<T: Clone + Debug + Send + 'static> Server<T> {
    pub(crate) fn start(listener: TcpListener, replies: Vec<Reply>, protocol: Protocol<T>) -> Self {
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            protocol,
            replies: Mutex::new(Replies { list: replies, in_turn: false, next: 0 }),
            open: Mutex::default(),
            seen: Mutex::new(Seen {
                connections: 0,
                last_reply_ended_at: None,
                lost_answers: 0,
                requests: Vec::new(),
                violations: Vec::new(),
            }),
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
        Self { address, listener, shared }
    }

    /// From now on replies to each request with the next of `replies`, and repeats the last one.
    pub fn reply_with(&self, replies: impl Into<Vec<Reply>>) {
        *self.shared.replies.lock().unwrap() = Replies { list: replies.into(), in_turn: false, next: 0 };
    }

    /// From now on replies to each request with the next of `replies`, and begins again after the last one.
    pub fn reply_in_turn(&self, replies: impl Into<Vec<Reply>>) {
        *self.shared.replies.lock().unwrap() = Replies { list: replies.into(), in_turn: true, next: 0 };
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

    /// What the requests since the last call mean.
    pub(crate) fn take_requests(&self) -> Vec<T> {
        std::mem::take(&mut self.shared.seen.lock().unwrap().requests)
    }

    /// When the last reply to a request was complete.
    #[track_caller]
    pub fn last_reply_ended_at(&self) -> Instant {
        self.shared.seen.lock().unwrap().last_reply_ended_at.expect("a reply")
    }

    /// How often it accepted something silently.
    pub fn lost_answers(&self) -> usize {
        self.shared.seen.lock().unwrap().lost_answers
    }

    pub fn connections(&self) -> usize {
        self.shared.seen.lock().unwrap().connections
    }

    /// Waits until all connections have ended, so that everything sent on them has been recorded.
    #[track_caller]
    pub fn wait_for_connections_to_end(&self) {
        let start = Instant::now();
        while !self.shared.open.lock().unwrap().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(20), "a connection does not end");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl<T: Debug> Drop for Server<T> {
    fn drop(&mut self) {
        if !thread::panicking() {
            let name = self.shared.protocol.name;
            let seen = self.shared.seen.lock().unwrap();
            assert!(seen.violations.is_empty(), "{name} would have refused: {:#?}", seen.violations);
            assert!(seen.requests.is_empty(), "{name} got what was not checked: {:#?}", seen.requests);
        }
    }
}

impl<T: Clone> Shared<T> {
    fn serve(&self, tcp: TcpStream) {
        let number = {
            let mut seen = self.seen.lock().unwrap();
            seen.connections += 1;
            seen.connections - 1
        };
        tcp.set_nodelay(true).expect("nodelay");
        let Ok(peer) = tcp.peer_addr() else { return }; // closed already
        let handle = tcp.try_clone().expect("a second handle");
        self.open.lock().unwrap().insert(number, tcp.try_clone().expect("a third handle"));
        let connection = Connection { number, peer };
        let served = (self.protocol.connect)(tcp).and_then(|stream| self.answer_requests(stream, &handle, connection));
        if let Err(error) = served
            && error.kind() == ErrorKind::InvalidData
        {
            self.seen.lock().unwrap().violations.push(error.to_string());
        }
        self.open.lock().unwrap().remove(&number);
    }

    /// Returns an error if the connection does not end between two requests. [`ErrorKind::InvalidData`] is a violation of
    /// HTTP.
    fn answer_requests(&self, mut stream: Box<dyn Stream>, tcp: &TcpStream, connection: Connection) -> io::Result<()> {
        while let Some(request) = Request::read(&mut stream)? {
            let description = format!("{request:?}");
            let meaning = (self.protocol.read)(request, connection);
            {
                let mut seen = self.seen.lock().unwrap();
                match &meaning {
                    Ok(meaning) => seen.requests.push(meaning.clone()),
                    Err(violation) => seen.violations.push(format!("{violation}: {description}")),
                }
            }
            let reply = self.replies.lock().unwrap().next();
            let ended = reply.into_iter().try_for_each(|step| {
                let accept = || match &meaning {
                    Ok(meaning) => (self.protocol.accept)(meaning),
                    Err(_) => respond(400, "application/json", "{}"),
                };
                match step {
                    Step::Accept => send(accept()).perform(&mut stream, tcp),
                    Step::AcceptSilently => {
                        drop(accept());
                        self.seen.lock().unwrap().lost_answers += 1;
                        Ok(())
                    }
                    other => other.perform(&mut stream, tcp),
                }
            });
            self.seen.lock().unwrap().last_reply_ended_at = Some(Instant::now());
            ended?;
        }
        Ok(())
    }
}

impl Replies {
    fn next(&mut self) -> Reply {
        let index = if self.in_turn { self.next % self.list.len() } else { self.next.min(self.list.len() - 1) };
        self.next += 1;
        self.list[index].clone()
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
    /// Returns an error if the connection has ended. What it means to accept something, only a stand-in knows.
    pub fn perform(self, stream: &mut (impl Read + Write), tcp: &TcpStream) -> io::Result<()> {
        let mut send = |bytes: &[u8]| stream.write_all(bytes).and_then(|()| stream.flush());
        match self {
            Self::Accept | Self::AcceptSilently => unreachable!("a stand-in performs it"),
            Self::Send(bytes) => send(&bytes),
            Self::SendBeneathTls(bytes) => (&*tcp).write_all(&bytes),
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

/// A request, with header names in lower case.
#[derive(Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// Reads the next request of a connection. Returns `None` if the client closed the connection between two requests.
    pub fn read(stream: &mut (impl Read + ?Sized)) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        loop {
            if let Some((mut request, head_length, body_length)) = parse_head(&bytes)? {
                let mut body = bytes.split_off(head_length);
                let received = body.len();
                if received > body_length {
                    return Err(invalid("more bytes than the request has"));
                }
                body.resize(body_length, 0);
                stream.read_exact(&mut body[received..])?;
                request.body = body;
                return Ok(Some(request));
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk)? {
                0 if bytes.is_empty() => return Ok(None),
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => bytes.extend_from_slice(&chunk[..count]),
            }
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// Leaves out the headers' values, one of which is the key.
impl Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "{} {} {headers:?} {body:?}", self.method, self.path)
    }
}

fn parse_head(bytes: &[u8]) -> io::Result<Option<(Request, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head_length) = head.parse(bytes).map_err(invalid)? else { return Ok(None) };
    let headers = head
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: head.path.unwrap_or_default().to_owned(),
        headers,
        body: Vec::new(),
    };
    let body_length = request.header("content-length").map_or(Ok(0), str::parse).map_err(invalid)?;
    Ok(Some((request, head_length, body_length)))
}

/// The error of a client that violates the protocol.
fn invalid(error: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

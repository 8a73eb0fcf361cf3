//! Lambda's Runtime API on loopback: it gives events to the function and takes its responses
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>). It has the Extensions API too: an invocation begins
//! when both the runtime and the extension have asked for it, so it ends when the extension asks for the next one
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>).

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use socket2::SockRef;

use crate::http::Request;

const RUNTIME: &str = "/2018-06-01/runtime";
const EXTENSION: &str = "/2020-01-01/extension";
const EXTENSION_ID: &str = "00000000-0000-4000-8000-eeeeeeeeeeee";

const ARN: &str = "arn:aws:lambda:eu-west-1:123456789012:function:userhub-signin";

/// How long Cognito waits, and so the longest useful time limit of the function.
pub const FUNCTION_TIMEOUT: Duration = Duration::from_secs(5);

pub struct RuntimeApi {
    pub address: SocketAddr,
    invocations: Sender<Invocation>,
    responses: Mutex<Receiver<Response>>,
    shared: Arc<Shared>,
}

/// What the threads that serve the function share.
struct Shared {
    invocations: Mutex<Receiver<Invocation>>,
    responses: Sender<Response>,
    ready_at: Mutex<Option<Instant>>,
    behaviour: Mutex<Behaviour>,
    handed_over_at: Mutex<Instant>,
    extension: Mutex<Extension>,
    extension_changed: Condvar,
}

/// The state of the function's extension.
#[derive(Default)]
enum Extension {
    #[default]
    NotRegistered,
    Busy,
    /// It asked for an invocation, at that time.
    Idle(Instant),
    /// An invocation has begun. Contains the reply that the extension will get.
    Invoked(String),
}

/// How this Runtime API treats the function.
#[derive(Clone, Copy, PartialEq)]
pub enum Behaviour {
    /// As Lambda does.
    Normal,
    /// Sends its replies in pieces, a tenth of a second apart.
    Slow,
    /// Resets connections instead of replying, and accepts no new ones.
    Gone,
    /// Refuses every request of an extension.
    RefusesExtensions,
    /// Never replies to an extension.
    IgnoresExtensions,
    /// Gives the runtime its event long after it told the extension about it.
    DelaysEvents,
}

struct Invocation {
    request_id: String,
    event: Vec<u8>,
    deadline: SystemTime,
    /// More lines for the head of the reply to the runtime.
    headers: String,
}

/// What the function returned for one event.
pub struct Response {
    pub request_id: String,
    /// The last part of the path: `response`, or `error` if the sign-in would fail.
    pub verdict: String,
    pub body: Vec<u8>,
    /// From the moment when the event was handed over.
    pub elapsed: Duration,
    pub at: Instant,
}

impl RuntimeApi {
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (invocations, invocation_receiver) = channel();
        let (response_sender, responses) = channel();
        let shared = Arc::new(Shared {
            invocations: Mutex::new(invocation_receiver),
            responses: response_sender,
            ready_at: Mutex::new(None),
            behaviour: Mutex::new(behaviour),
            handed_over_at: Mutex::new(Instant::now()),
            extension: Mutex::default(),
            extension_changed: Condvar::new(),
        });
        let server = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let server = Arc::clone(&server);
                if *server.behaviour.lock().unwrap() == Behaviour::Gone {
                    break;
                }
                thread::spawn(move || server.serve(stream.expect("a connection")));
            }
        });
        Self { address, invocations, responses: Mutex::new(responses), shared }
    }

    /// Hands over one event with a deadline, and waits for the function's response, longer than Cognito would.
    pub fn invoke(&self, request_id: &str, event: &[u8], deadline: SystemTime) -> Response {
        self.send(request_id, event, deadline, "");
        let response =
            self.responses.lock().unwrap().recv_timeout(2 * FUNCTION_TIMEOUT).expect("the function responds");
        assert_eq!(response.request_id, request_id, "a response to another event");
        response
    }

    /// Hands over one event, with more header lines, and does not wait for a response.
    pub fn send(&self, request_id: &str, event: &[u8], deadline: SystemTime, headers: &str) {
        let (request_id, event, headers) = (request_id.to_owned(), event.to_vec(), headers.to_owned());
        self.invocations.send(Invocation { request_id, event, deadline, headers }).expect("the local Runtime API runs");
    }

    pub fn set_behaviour(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap() = behaviour;
        if behaviour == Behaviour::Gone {
            self.send("", b"", UNIX_EPOCH, ""); // the function may be waiting for its next event
        }
    }

    /// When the function's extension asked for the next invocation. The last one goes on until then.
    pub fn idle_since(&self) -> Option<Instant> {
        match *self.shared.extension.lock().unwrap() {
            Extension::Idle(since) => Some(since),
            _ => None,
        }
    }

    /// When the function first asked for an event.
    pub fn ready_at(&self) -> Option<Instant> {
        *self.shared.ready_at.lock().unwrap()
    }
}

impl Shared {
    /// Serves one connection until the function closes it or ends.
    fn serve(&self, mut stream: TcpStream) {
        stream.set_nodelay(true).expect("nodelay");
        while let Ok(Some(request)) = Request::read(&mut stream) {
            let reply = if let Some(path) = request.path.strip_prefix(EXTENSION) {
                self.serve_extension(path, &request)
            } else {
                let path = request.path.strip_prefix(RUNTIME).expect("a path of the Runtime API");
                if path == "/invocation/next" {
                    self.ready_at.lock().unwrap().get_or_insert_with(Instant::now);
                    let Ok(invocation) = self.invocations.lock().unwrap().recv() else { return };
                    self.invoke_extension(&invocation);
                    if *self.behaviour.lock().unwrap() == Behaviour::DelaysEvents {
                        thread::sleep(Duration::from_millis(2500));
                    }
                    let reply = next_invocation(&invocation);
                    *self.handed_over_at.lock().unwrap() = Instant::now();
                    reply
                } else {
                    self.take_response(path, request.body.clone());
                    b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_vec()
                }
            };
            let behaviour = *self.behaviour.lock().unwrap();
            let sent = match behaviour {
                Behaviour::Normal
                | Behaviour::RefusesExtensions
                | Behaviour::IgnoresExtensions
                | Behaviour::DelaysEvents => stream.write_all(&reply),
                Behaviour::Slow => reply.chunks(reply.len().div_ceil(3)).try_for_each(|piece| {
                    thread::sleep(Duration::from_millis(100));
                    stream.write_all(piece)
                }),
                Behaviour::Gone => SockRef::from(&stream).set_linger(Some(Duration::ZERO)), // closing then sends a RST
            };
            if sent.is_err() || behaviour == Behaviour::Gone {
                return;
            }
        }
    }

    /// Replies to a request of the Extensions API. The reply to a request for the next invocation waits for one. An extension
    /// that has registered and does not ask gets no invocation any more, and neither does the runtime.
    fn serve_extension(&self, path: &str, request: &Request) -> Vec<u8> {
        let refuses = || *self.behaviour.lock().unwrap() == Behaviour::RefusesExtensions;
        if refuses() {
            return refusal();
        }
        while *self.behaviour.lock().unwrap() == Behaviour::IgnoresExtensions {
            thread::sleep(Duration::from_millis(10));
        }
        if path == "/register" {
            assert!(matches!(*self.extension.lock().unwrap(), Extension::NotRegistered), "registered twice");
            assert!(self.ready_at.lock().unwrap().is_none(), "the runtime was ready before the extension registered");
            assert_eq!(request.header("lambda-extension-name"), Some("userhub-signin"));
            assert_eq!(request.body, br#"{"events":["INVOKE"]}"#);
            *self.extension.lock().unwrap() = Extension::Busy;
            let body = r#"{"functionName":"userhub-signin","functionVersion":"$LATEST","handler":"bootstrap"}"#;
            return format!(
                "HTTP/1.1 200 OK\r\nLambda-Extension-Identifier: {EXTENSION_ID}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes();
        }
        assert_eq!(path, "/event/next");
        assert_eq!(request.header("lambda-extension-identifier"), Some(EXTENSION_ID));
        let mut extension = self.extension.lock().unwrap();
        *extension = Extension::Idle(Instant::now());
        self.extension_changed.notify_all();
        loop {
            if let Extension::Invoked(body) = &*extension {
                let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                *extension = Extension::Busy;
                return if refuses() { refusal() } else { reply.into_bytes() };
            }
            extension = self.extension_changed.wait(extension).unwrap();
        }
    }

    /// Waits until the extension has finished the last invocation, and tells it about this one.
    fn invoke_extension(&self, invocation: &Invocation) {
        let mut extension = self.extension.lock().unwrap();
        while matches!(*extension, Extension::Busy | Extension::Invoked(_)) {
            extension = self.extension_changed.wait(extension).unwrap();
        }
        if matches!(*extension, Extension::Idle(_)) {
            *extension = Extension::Invoked(format!(
                r#"{{"eventType":"INVOKE","deadlineMs":{},"requestId":"{}","invokedFunctionArn":"{ARN}","tracing":{{"type":"X-Amzn-Trace-Id","value":"Root=1"}}}}"#,
                milliseconds(invocation.deadline),
                invocation.request_id,
            ));
            self.extension_changed.notify_all();
        }
    }

    fn take_response(&self, path: &str, body: Vec<u8>) {
        let at = Instant::now();
        let elapsed = at - *self.handed_over_at.lock().unwrap();
        let mut parts = path.rsplit('/').map(ToOwned::to_owned);
        let verdict = parts.next().unwrap_or_default();
        let request_id = parts.next().unwrap_or_default();
        // Nobody waits for it if the test has ended.
        self.responses.send(Response { request_id, verdict, body, elapsed, at }).ok();
    }
}

/// It has an identifier, so that only the status says what it is.
fn refusal() -> Vec<u8> {
    format!("HTTP/1.1 403 Forbidden\r\nLambda-Extension-Identifier: {EXTENSION_ID}\r\nContent-Length: 0\r\n\r\n")
        .into_bytes()
}

fn next_invocation(invocation: &Invocation) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\n\
         Content-Type: application/json\r\n\
         Content-Length: {}\r\n\
         Lambda-Runtime-Aws-Request-Id: {}\r\n\
         Lambda-Runtime-Deadline-Ms: {}\r\n\
         Lambda-Runtime-Invoked-Function-Arn: {ARN}\r\n\
         Lambda-Runtime-Trace-Id: Root=1-00000000-000000000000000000000000;Sampled=0\r\n{}\r\n",
        invocation.event.len(),
        invocation.request_id,
        milliseconds(invocation.deadline),
        invocation.headers,
    );
    [head.as_bytes(), &invocation.event].concat()
}

fn milliseconds(deadline: SystemTime) -> u128 {
    deadline.duration_since(UNIX_EPOCH).expect("a time after 1970").as_millis()
}

//! Lambda's Runtime API on loopback: hands events to the function and takes its answers
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>). Its Extensions API as well: an invocation begins when
//! both the runtime and the extension ask for it, and so ends when the extension asks for the next
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>).

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use socket2::SockRef;

use super::http::Request;

const RUNTIME: &str = "/2018-06-01/runtime";
const EXTENSION: &str = "/2020-01-01/extension";
const EXTENSION_ID: &str = "00000000-0000-4000-8000-eeeeeeeeeeee";

const ARN: &str = "arn:aws:lambda:eu-west-1:123456789012:function:userhub-signin";

/// How long Cognito waits, and so the longest that Lambda may let the function work on one event.
pub const FUNCTION_TIMEOUT: Duration = Duration::from_secs(5);

pub struct RuntimeApi {
    pub address: SocketAddr,
    events: Sender<Event>,
    answers: Mutex<Receiver<Answer>>,
    function: Arc<FunctionSide>,
}

/// What the threads share that talk to the function.
struct FunctionSide {
    events: Mutex<Receiver<Event>>,
    answers: Sender<Answer>,
    ready_at: Mutex<Option<Instant>>,
    manners: Mutex<Manners>,
    handed_over_at: Mutex<Instant>,
    extension: Mutex<Extension>,
    extension_changed: Condvar,
}

/// Where the function's extension is.
#[derive(Default)]
enum Extension {
    #[default]
    NotRegistered,
    Busy,
    /// It asked for an invocation, at that time.
    Idle(Instant),
    /// An invocation has begun: what it will be told.
    Invoked(String),
}

/// How this Runtime API treats the function's connections.
#[derive(Clone, Copy, PartialEq)]
pub enum Manners {
    /// Keeps them, as Lambda does.
    Keep,
    /// Sends replies in pieces, a tenth of a second apart.
    Drip,
    /// Resets them instead of replying, and takes no new ones.
    Gone,
    /// Keeps them, and has no Extensions API.
    NoExtensions,
}

struct Event {
    request_id: String,
    body: Vec<u8>,
    deadline: SystemTime,
}

/// What the function made of one event.
pub struct Answer {
    pub request_id: String,
    /// The last part of the path: `response`, or `error` when the sign-in would fail.
    pub verdict: String,
    pub body: Vec<u8>,
    /// Since the event was handed over.
    pub elapsed: Duration,
}

impl RuntimeApi {
    pub fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (events, event_receiver) = channel();
        let (answer_sender, answers) = channel();
        let function = Arc::new(FunctionSide {
            events: Mutex::new(event_receiver),
            answers: answer_sender,
            ready_at: Mutex::new(None),
            manners: Mutex::new(manners),
            handed_over_at: Mutex::new(Instant::now()),
            extension: Mutex::default(),
            extension_changed: Condvar::new(),
        });
        let shared = Arc::clone(&function);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                if *shared.manners.lock().unwrap() == Manners::Gone {
                    break;
                }
                thread::spawn(move || shared.serve(stream.expect("a connection")));
            }
        });
        Self { address, events, answers: Mutex::new(answers), function }
    }

    /// Hands over one event, to be answered by `deadline`, and waits for the function's answer, longer than Cognito would.
    pub fn invoke(&self, request_id: &str, event: &[u8], deadline: SystemTime) -> Answer {
        self.events
            .send(Event { request_id: request_id.to_owned(), body: event.to_vec(), deadline })
            .expect("the local Runtime API runs");
        let answer = self.answers.lock().unwrap().recv_timeout(2 * FUNCTION_TIMEOUT).expect("the function answers");
        assert_eq!(answer.request_id, request_id, "an answer to another event");
        answer
    }

    pub fn set_manners(&self, manners: Manners) {
        *self.function.manners.lock().unwrap() = manners;
        if manners == Manners::Gone {
            // For a function that waits for its next event.
            self.events.send(Event { request_id: String::new(), body: Vec::new(), deadline: UNIX_EPOCH }).ok();
        }
    }

    /// When the function's extension asked for the next invocation: until then, the last one goes on.
    pub fn idle_since(&self) -> Option<Instant> {
        match *self.function.extension.lock().unwrap() {
            Extension::Idle(since) => Some(since),
            _ => None,
        }
    }

    /// When the function first asked for an event.
    pub fn ready_at(&self) -> Option<Instant> {
        *self.function.ready_at.lock().unwrap()
    }
}

impl FunctionSide {
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
                    let Ok(event) = self.events.lock().unwrap().recv() else { return };
                    self.invoke_extension(&event);
                    *self.handed_over_at.lock().unwrap() = Instant::now();
                    next_event(&event)
                } else {
                    self.take_answer(path, request.body.clone());
                    b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_vec()
                }
            };
            let manners = *self.manners.lock().unwrap();
            let sent = match manners {
                Manners::Keep | Manners::NoExtensions => stream.write_all(&reply),
                Manners::Drip => reply.chunks(reply.len().div_ceil(3)).try_for_each(|piece| {
                    thread::sleep(Duration::from_millis(100));
                    stream.write_all(piece)
                }),
                Manners::Gone => SockRef::from(&stream).set_linger(Some(Duration::ZERO)), // closing then sends a RST
            };
            if sent.is_err() || manners == Manners::Gone {
                return;
            }
        }
    }

    /// The reply to a request of the Extensions API. The one for the next invocation comes when there is one.
    fn serve_extension(&self, path: &str, request: &Request) -> Vec<u8> {
        if *self.manners.lock().unwrap() == Manners::NoExtensions {
            *self.extension.lock().unwrap() = Extension::NotRegistered;
            return b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_vec();
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
                return reply.into_bytes();
            }
            extension = self.extension_changed.wait(extension).unwrap();
        }
    }

    /// Waits until the extension is done with the last invocation, and tells it of this one.
    fn invoke_extension(&self, event: &Event) {
        let mut extension = self.extension.lock().unwrap();
        while matches!(*extension, Extension::Busy | Extension::Invoked(_)) {
            extension = self.extension_changed.wait(extension).unwrap();
        }
        if matches!(*extension, Extension::Idle(_)) {
            *extension = Extension::Invoked(format!(
                r#"{{"eventType":"INVOKE","deadlineMs":{},"requestId":"{}","invokedFunctionArn":"{ARN}","tracing":{{"type":"X-Amzn-Trace-Id","value":"Root=1"}}}}"#,
                milliseconds(event.deadline),
                event.request_id,
            ));
            self.extension_changed.notify_all();
        }
    }

    fn take_answer(&self, path: &str, body: Vec<u8>) {
        let elapsed = self.handed_over_at.lock().unwrap().elapsed();
        let mut parts = path.rsplit('/').map(ToOwned::to_owned);
        let verdict = parts.next().unwrap_or_default();
        let request_id = parts.next().unwrap_or_default();
        // Nobody listens any more when a test has ended.
        self.answers.send(Answer { request_id, verdict, body, elapsed }).ok();
    }
}

fn next_event(event: &Event) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\n\
         Content-Type: application/json\r\n\
         Content-Length: {}\r\n\
         Lambda-Runtime-Aws-Request-Id: {}\r\n\
         Lambda-Runtime-Deadline-Ms: {}\r\n\
         Lambda-Runtime-Invoked-Function-Arn: {ARN}\r\n\
         Lambda-Runtime-Trace-Id: Root=1-00000000-000000000000000000000000;Sampled=0\r\n\r\n",
        event.body.len(),
        event.request_id,
        milliseconds(event.deadline),
    );
    [head.as_bytes(), &event.body].concat()
}

fn milliseconds(deadline: SystemTime) -> u128 {
    deadline.duration_since(UNIX_EPOCH).expect("a time after 1970").as_millis()
}

//! Lambda's Runtime API on loopback: hands events to the function and takes its answers
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>).

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use socket2::SockRef;

use super::http::Request;

const VERSION: &str = "/2018-06-01/runtime";

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
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (events, event_receiver) = channel();
        let (answer_sender, answers) = channel();
        let function = Arc::new(FunctionSide {
            events: Mutex::new(event_receiver),
            answers: answer_sender,
            ready_at: Mutex::new(None),
            manners: Mutex::new(Manners::Keep),
            handed_over_at: Mutex::new(Instant::now()),
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
            let path = request.path.strip_prefix(VERSION).expect("a path of the Runtime API");
            let reply = if path == "/invocation/next" {
                self.ready_at.lock().unwrap().get_or_insert_with(Instant::now);
                let Ok(event) = self.events.lock().unwrap().recv() else { return };
                *self.handed_over_at.lock().unwrap() = Instant::now();
                next_event(&event)
            } else {
                self.take_answer(path, request.body.clone());
                b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_vec()
            };
            let manners = *self.manners.lock().unwrap();
            let sent = match manners {
                Manners::Keep => stream.write_all(&reply),
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
    let deadline = event.deadline.duration_since(UNIX_EPOCH).expect("a time after 1970");
    let head = format!(
        "HTTP/1.1 200 OK\r\n\
         Content-Type: application/json\r\n\
         Content-Length: {}\r\n\
         Lambda-Runtime-Aws-Request-Id: {}\r\n\
         Lambda-Runtime-Deadline-Ms: {}\r\n\
         Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:eu-west-1:123456789012:function:userhub-signin\r\n\
         Lambda-Runtime-Trace-Id: Root=1-00000000-000000000000000000000000;Sampled=0\r\n\r\n",
        event.body.len(),
        event.request_id,
        deadline.as_millis(),
    );
    [head.as_bytes(), &event.body].concat()
}

//! Lambda's Runtime API on loopback: it gives events to the function and takes its responses
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>).

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use socket2::SockRef;

use crate::server::{Request, respond};

const RUNTIME: &str = "/2018-06-01/runtime";
const ARN: &str = "arn:aws:lambda:eu-west-1:123456789012:function:userhub-signin";

const FAILURE: &str = r#"{"errorMessage":"Failed","errorType":"InternalError"}"#;

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
    handed_over: AtomicU64,
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
    /// Answers 500, after which AWS wants a runtime to end.
    Fails,
    /// Does not say when an invocation must end.
    GivesNoDeadline,
    /// Does not say which invocation it is.
    GivesNoRequestId,
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
            handed_over: AtomicU64::new(0),
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
        if matches!(behaviour, Behaviour::Gone | Behaviour::Fails) {
            self.send("", b"", UNIX_EPOCH, ""); // the function may be waiting for its next event
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
            let path = request.path.strip_prefix(RUNTIME).expect("a path of the Runtime API");
            let invocation = if path == "/invocation/next" {
                self.ready_at.lock().unwrap().get_or_insert_with(Instant::now);
                let Ok(invocation) = self.invocations.lock().unwrap().recv() else { return };
                Some(invocation)
            } else {
                self.take_response(path, request.body);
                None
            };
            let behaviour = *self.behaviour.lock().unwrap();
            let reply = match invocation {
                _ if behaviour == Behaviour::Fails => respond(500, "application/json", FAILURE).into_bytes(),
                Some(invocation) => self.next_invocation(&invocation, behaviour),
                None => b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_vec(),
            };
            let sent = match behaviour {
                Behaviour::Normal | Behaviour::Fails | Behaviour::GivesNoDeadline | Behaviour::GivesNoRequestId => {
                    stream.write_all(&reply)
                }
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

    fn next_invocation(&self, invocation: &Invocation, behaviour: Behaviour) -> Vec<u8> {
        *self.handed_over_at.lock().unwrap() = Instant::now();
        let deadline = match behaviour {
            Behaviour::GivesNoDeadline => String::new(),
            _ => format!("Lambda-Runtime-Deadline-Ms: {}\r\n", milliseconds(invocation.deadline)),
        };
        let request_id = match behaviour {
            Behaviour::GivesNoRequestId => String::new(),
            _ => format!("Lambda-Runtime-Aws-Request-Id: {}\r\n", invocation.request_id),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\n\
             Content-Type: application/json\r\n\
             Content-Length: {}\r\n\
             Lambda-Runtime-Invoked-Function-Arn: {ARN}\r\n\
             Lambda-Runtime-Trace-Id: {}\r\n{request_id}{deadline}{}\r\n",
            invocation.event.len(),
            trace_id(self.handed_over.fetch_add(1, Ordering::Relaxed)),
            invocation.headers,
        );
        [head.as_bytes(), &invocation.event].concat()
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

/// Each invocation has another one, which lambda_runtime keeps in an environment variable. This has the form and the length
/// of a real one.
fn trace_id(invocation: u64) -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
    let scattered = (invocation + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15); // another number for each invocation
    let id = u128::from(scattered) << 32 | u128::from(invocation);
    format!("Root=1-{seconds:08x}-{id:024x};Parent={scattered:016x};Sampled=0;Lineage=1:{:08x}:0", scattered >> 32)
}

fn milliseconds(deadline: SystemTime) -> u128 {
    deadline.duration_since(UNIX_EPOCH).expect("a time after 1970").as_millis()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_invocation_has_a_trace_id_of_real_length() {
        let ids: HashSet<_> = (0..100_000).map(trace_id).collect();
        assert_eq!(ids.len(), 100_000);
        let real = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0;Lineage=1:a87bd80c:0";
        assert!(ids.iter().all(|id| id.len() == real.len()), "{ids:?}");
    }
}

//! A function's process, started and fed as Lambda does it, and what it takes of time, processor and memory.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use super::support::http::Request;
use super::support::{ADMIN_KEY, CONNECTION_ID, EVENT};
use super::userhub::UserHub;

/// Time for the launcher to get ready, and for a limit's next period to begin with all of its quota.
const REST: Duration = Duration::from_millis(50);

/// Closes the connection, so that the extension's next request comes on one of its own.
const REGISTERED: &[u8] = b"HTTP/1.1 200 OK\r\nLambda-Extension-Identifier: bench\r\nContent-Length: 0\r\n\
    Connection: close\r\n\r\n";

pub struct Process {
    child: Child,
    listener: TcpListener,
    api: TcpStream,
    /// The connection of the function's extension, if it has one.
    extension: Option<TcpStream>,
    launched: Instant,
    launcher_cpu: Duration,
    sign_ins: usize,
}

impl Process {
    /// Starts a function with `USERHUB_REPORT`, and waits until it asks for its first event; also how long that took.
    ///
    /// A shell moves itself into the control group, waits for a word, and becomes the function: so neither the making of
    /// the process nor the move counts.
    pub fn start(command: &[String], report: &str, userhub: &UserHub, limit: Option<&Path>) -> (Self, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut child = Command::new("sh")
            .args(["-c", r#"test -z "$0" || echo $$ >"$0"; read -r _; exec "$@""#])
            .arg(limit.map_or_else(PathBuf::new, |group| group.join("cgroup.procs")))
            .args(command)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(settings(userhub))
            .env("USERHUB_REPORT", report)
            .env("AWS_LAMBDA_RUNTIME_API", listener.local_addr().expect("an address").to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("a shell");
        thread::sleep(REST);
        let launcher_cpu = cpu(child.id());
        let launched = Instant::now();
        child.stdin.take().expect("a pipe").write_all(b"go\n").expect("the shell waits");
        let (mut api, mut request) = first_request(&listener);
        let mut extension = None;
        if request.path.ends_with("/extension/register") {
            api.write_all(REGISTERED).expect("the function reads");
            // The runtime and the extension ask for their first event in any order.
            while extension.is_none() || !request.path.ends_with("/invocation/next") {
                let (other, next) = first_request(&listener);
                if next.path.ends_with("/extension/event/next") {
                    extension = Some(other);
                } else {
                    (api, request) = (other, next);
                }
            }
        }
        assert!(request.path.ends_with("/invocation/next"), "{request:?}");
        let ready = launched.elapsed();
        (Self { child, listener, api, extension, launched, launcher_cpu, sign_ins: 0 }, ready)
    }

    /// One sign-in; from the event's handing over to its return.
    pub fn sign_in(&mut self) -> Duration {
        if self.sign_ins > 0 {
            expect(&mut self.api, "GET", "/next", b"");
        }
        self.sign_ins += 1;
        let deadline = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() + 5000;
        let request_id = format!("{:08}-0000-4000-8000-000000000000", self.sign_ins);
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Lambda-Runtime-Aws-Request-Id: {request_id}\r\n\
             Lambda-Runtime-Deadline-Ms: {deadline}\r\n\
             Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:eu-west-1:123456789012:function:bench\r\n\r\n",
            EVENT.len(),
        );
        let reply = [head.as_bytes(), EVENT].concat();
        let start = Instant::now();
        self.api.write_all(&reply).expect("the function reads");
        if let Some(extension) = &mut self.extension {
            let body = format!(r#"{{"eventType":"INVOKE","deadlineMs":{deadline},"requestId":"{request_id}"}}"#);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            extension.write_all((head + &body).as_bytes()).expect("the extension reads");
        }
        expect(&mut self.api, "POST", "/response", EVENT);
        let elapsed = start.elapsed();
        self.api.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").expect("the function reads");
        if let Some(extension) = &mut self.extension {
            expect(extension, "GET", "/event/next", b""); // the report is over
        }
        elapsed
    }

    pub fn since_launch(&self) -> Duration {
        self.launched.elapsed()
    }

    /// Processor time of all threads since the launch, once the function has come to rest.
    pub fn cpu(&self) -> Duration {
        thread::sleep(REST);
        cpu(self.child.id()).saturating_sub(self.launcher_cpu)
    }

    /// Ends the function as Lambda ends one.
    pub fn end(mut self) {
        self.cpu(); // at rest
        let process = Pid::from_raw(self.child.id().cast_signed()).expect("a process");
        kill_process(process, Signal::TERM).expect("a running process");
        self.child.wait().expect("its end");
    }

    pub fn peak_memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a running process");
        let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("its peak");
        line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        let _ = &self.listener; // until now, so that a second connection is not refused
    }
}

fn first_request(listener: &TcpListener) -> (TcpStream, Request) {
    let mut stream = listener.accept().expect("the function connects to the Runtime API").0;
    stream.set_nodelay(true).expect("nodelay");
    let request = Request::read(&mut stream).expect("HTTP").expect("a request to the Runtime API");
    (stream, request)
}

fn expect(stream: &mut TcpStream, method: &str, path: &str, body: &[u8]) {
    let request = Request::read(stream).expect("HTTP").expect("a request to the Runtime API");
    assert!(request.method == method && request.path.ends_with(path), "{request:?} in place of {path}");
    assert!(body.is_empty() || same_json(&request.body, body), "another event came back");
}

/// Node.js parses the event and writes it anew.
fn same_json(left: &[u8], right: &[u8]) -> bool {
    let parse = |bytes| serde_json::from_slice::<serde_json::Value>(bytes).expect("JSON");
    left == right || parse(left) == parse(right)
}

/// The environment of all functions.
pub fn settings(userhub: &UserHub) -> [(&'static str, String); 9] {
    let authority = userhub.authority.file.to_str().expect("a path in UTF-8");
    [
        ("AWS_LAMBDA_FUNCTION_NAME", "bench".to_owned()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128".to_owned()),
        ("AWS_LAMBDA_LOG_FORMAT", "JSON".to_owned()),
        ("USERHUB_ADMIN_KEY", ADMIN_KEY.to_owned()),
        ("AMAZON_COGNITO_CONNECTION_ID", CONNECTION_ID.to_owned()),
        ("USERHUB_BASE_URL", userhub.base_url.clone()),
        ("USERHUB_EXTRA_CA_CERTS", authority.to_owned()),
        ("NODE_EXTRA_CA_CERTS", authority.to_owned()),
    ]
}

/// Processor time of a process's threads, in the kernel's count of nanoseconds.
fn cpu(process: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("a running process");
    let nanoseconds = threads.filter_map(|thread| {
        let statistics = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        statistics.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

//! The shipped binary, started as Lambda starts it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value};

use super::runtime_api::{FUNCTION_TIMEOUT, Manners, RuntimeApi};
use super::{ADMIN_KEY, CONNECTION_ID, UserHub};

/// The promise: the event is back after 2 s at most. The rest is slack for a busy machine, well inside Cognito's 5 s.
const ANSWER_LIMIT: Duration = Duration::from_millis(2800);

/// The environment that a function is started with.
#[derive(Clone)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// What Lambda sets, and the settings that a user makes.
    pub fn for_base_url(base_url: &str) -> Self {
        Self(BTreeMap::new())
            .set("AWS_LAMBDA_FUNCTION_NAME", "userhub-signin")
            .set("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .set("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .set("AWS_LAMBDA_LOG_FORMAT", "JSON")
            .set("USERHUB_ADMIN_KEY", ADMIN_KEY)
            .set("AMAZON_COGNITO_CONNECTION_ID", CONNECTION_ID)
            .set("USERHUB_BASE_URL", base_url)
    }

    pub fn set(mut self, variable: &str, value: &str) -> Self {
        self.0.insert(variable.to_owned(), value.to_owned());
        self
    }

    pub fn unset(mut self, variable: &str) -> Self {
        self.0.remove(variable);
        self
    }

    pub fn start(self) -> Function {
        Function::start(self, true, Manners::Keep)
    }

    /// With nobody at the other end of its standard output and error.
    pub fn start_unheard(self) -> Function {
        Function::start(self, false, Manners::Keep)
    }

    pub fn start_with(self, manners: Manners) -> Function {
        Function::start(self, true, manners)
    }
}

/// A running function. However a test uses it, at its end the log must hold one line for each sign-in that the test
/// looked at, and neither the key nor a user name.
pub struct Function {
    process: Child,
    started_at: Instant,
    runtime_api: RuntimeApi,
    log: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    sign_ins: Mutex<Vec<String>>,
    events: AtomicUsize,
    user_names: Mutex<BTreeSet<String>>,
}

/// One sign-in that went through the function.
pub struct SignIn {
    /// Since Cognito's event was handed over.
    pub elapsed: Duration,
    /// The sign-in's own log line.
    pub line: String,
}

impl Function {
    pub fn reporting_to(userhub: &UserHub) -> Self {
        Settings::for_base_url(&userhub.base_url()).start()
    }

    fn start(Settings(variables): Settings, heard: bool, manners: Manners) -> Self {
        let runtime_api = RuntimeApi::start(manners);
        let started_at = Instant::now();
        let mut process = Command::new(binary())
            .env_clear()
            .envs(variables)
            .env("AWS_LAMBDA_RUNTIME_API", runtime_api.address.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::default();
        let (stdout, stderr) = (process.stdout.take().expect("a pipe"), process.stderr.take().expect("a pipe"));
        let readers = if heard { vec![collect_lines(stdout, &log), collect_lines(stderr, &log)] } else { Vec::new() };
        Self {
            process,
            started_at,
            runtime_api,
            log,
            readers,
            sign_ins: Mutex::default(),
            events: AtomicUsize::new(0),
            user_names: Mutex::default(),
        }
    }

    /// Sends an event through the function and holds it to its promise: the same bytes come back in time, and the log
    /// has a line about it.
    #[track_caller]
    pub fn sign_in(&self, event: &[u8]) -> SignIn {
        self.sign_in_by(SystemTime::now() + FUNCTION_TIMEOUT, event)
    }

    /// As [`Self::sign_in`], with the deadline that Lambda tells the function.
    #[track_caller]
    pub fn sign_in_by(&self, deadline: SystemTime, event: &[u8]) -> SignIn {
        let (request_id, elapsed) = self.return_event_by(deadline, event);
        let line = self.line_with(&request_id);
        self.sign_ins.lock().unwrap().push(request_id);
        SignIn { elapsed, line }
    }

    /// As [`Self::sign_in`] for a function whose log has no line about the event.
    #[track_caller]
    pub fn return_event(&self, event: &[u8]) -> (String, Duration) {
        self.return_event_by(SystemTime::now() + FUNCTION_TIMEOUT, event)
    }

    #[track_caller]
    fn return_event_by(&self, deadline: SystemTime, event: &[u8]) -> (String, Duration) {
        let request_id = format!("00000000-0000-4000-8000-{:012}", self.events.fetch_add(1, Ordering::Relaxed));
        self.user_names.lock().unwrap().insert(user_name(event));
        let answer = self.runtime_api.invoke(&request_id, event, deadline);
        assert_eq!(answer.verdict, "response", "the sign-in fails: {}", String::from_utf8_lossy(&answer.body));
        assert!(answer.body == event, "another event came back: {}", String::from_utf8_lossy(&answer.body));
        assert!(answer.elapsed < ANSWER_LIMIT, "the event came back after {:?}", answer.elapsed);
        (request_id, answer.elapsed)
    }

    /// The first printed line with `text` in it, which may still be on its way.
    #[track_caller]
    pub fn line_with(&self, text: &str) -> String {
        let printed = || self.log.lock().unwrap().iter().find(|line| line.contains(text)).cloned();
        wait_for(printed).unwrap_or_else(|| panic!("no line with {text:?} in {:#?}", self.log.lock().unwrap()))
    }

    /// From the start of the process until it asked for its first event.
    #[track_caller]
    pub fn wait_until_ready(&self) -> Duration {
        wait_for(|| self.runtime_api.ready_at()).expect("the function asks for an event") - self.started_at
    }

    /// An event that is no JSON, which the runtime refuses in the function's place.
    #[track_caller]
    pub fn be_refused(&self, event: &[u8]) {
        let answer = self.runtime_api.invoke("refused", event, SystemTime::now() + FUNCTION_TIMEOUT);
        assert_eq!(answer.verdict, "error");
    }

    /// Waits until Lambda could freeze the function, for its extension is done; since when that is.
    #[track_caller]
    pub fn wait_until_idle(&self) -> Instant {
        wait_for(|| self.runtime_api.idle_since()).expect("the extension asks for the next invocation")
    }

    /// How the Runtime API treats the function from its next reply on.
    pub fn set_manners(&self, manners: Manners) {
        self.runtime_api.set_manners(manners);
    }

    /// As Lambda does between two events.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// As [`Self::sign_in`], with an event that arrives while the function is still frozen.
    #[track_caller]
    pub fn thaw_and_sign_in(&self, event: &[u8]) -> SignIn {
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(20));
                self.signal(Signal::CONT);
            });
            self.sign_in(event)
        })
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("the function runs");
    }

    /// How the process ended, within 5 s.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let ended = wait_for(|| self.process.try_wait().expect("a status"));
        ended.expect("the function ends")
    }

    /// What Linux says about the process: a field of `/proc/<id>/status`, in KiB.
    #[cfg(target_os = "linux")]
    pub fn status_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a running process");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a field of that name");
        line.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends the function. Everything that it printed.
    pub fn end(mut self) -> Vec<String> {
        self.stop();
        self.log.lock().unwrap().clone()
    }

    fn stop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        for reader in self.readers.drain(..) {
            reader.join().expect("UTF-8");
        }
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.stop();
        if thread::panicking() {
            return;
        }
        let log = self.log.lock().unwrap();
        for request_id in &*self.sign_ins.lock().unwrap() {
            let lines: Vec<_> = log.iter().filter(|line| line.contains(request_id)).collect();
            assert_eq!(lines.len(), 1, "one line a sign-in: {lines:#?}");
        }
        for line in &*log {
            assert!(!line.contains(ADMIN_KEY), "the key is in {line}");
            let line = line.replace("signed in all the same", ""); // "sample" without two letters, which chance takes out
            for user_name in self.user_names.lock().unwrap().iter().filter(|name| name.len() > 3) {
                assert!(!line.contains(user_name), "the user name is in {line}");
            }
        }
    }
}

impl SignIn {
    /// The line's fields, for a function that logs JSON.
    #[track_caller]
    pub fn fields(&self) -> Map<String, Value> {
        serde_json::from_str(&self.line).unwrap_or_else(|error| panic!("{error} in {}", self.line))
    }

    #[track_caller]
    pub fn assert_reported(&self, status: u16) {
        let fields = self.fields();
        assert_eq!(fields["outcome"], "reported", "{}", self.line);
        assert_eq!(fields["status"], status, "{}", self.line);
        assert_eq!(fields["level"], "INFO", "{}", self.line);
        assert!(!fields.contains_key("error_kind"), "{}", self.line);
    }

    /// The text of the error, for a look at it.
    #[track_caller]
    pub fn assert_not_reported(&self, error_kind: &str, status: Option<u16>) -> String {
        let fields = self.fields();
        assert_eq!(fields["outcome"], "not_reported", "{}", self.line);
        assert_eq!(fields["error_kind"], error_kind, "{}", self.line);
        assert_eq!(fields.get("status"), status.map(Value::from).as_ref(), "{}", self.line);
        assert_eq!(fields["level"], "ERROR", "{}", self.line);
        let error = fields["error"].as_str().expect("the error's text").to_owned();
        assert!(error.len() < 600 && !error.contains("/users/"), "{}", self.line);
        error
    }
}

/// The binary that `make build` ships when make says where it is, else the one that cargo built for the tests.
pub fn binary() -> PathBuf {
    std::env::var_os("USERHUB_SIGNIN_BINARY")
        .map(PathBuf::from)
        .or_else(|| option_env!("CARGO_BIN_EXE_userhub-signin").map(PathBuf::from))
        .expect("USERHUB_SIGNIN_BINARY names the built binary (`make run` and `make test` set it)")
}

fn collect_lines(pipe: impl Read + Send + 'static, log: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let log = Arc::clone(log);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            log.lock().unwrap().push(line.expect("UTF-8"));
        }
    })
}

/// Asks again and again, for 5 s at most.
fn wait_for<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let give_up = Instant::now() + Duration::from_secs(5);
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() > give_up {
            return answer;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The event's user name, or nothing where it has none.
fn user_name(event: &[u8]) -> String {
    let event: Value = serde_json::from_slice(event).unwrap_or_default();
    event.get("userName").and_then(Value::as_str).unwrap_or_default().to_owned()
}

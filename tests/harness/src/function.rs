//! The function's binary, started as Lambda starts it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value};

#[cfg(target_os = "linux")]
use crate::limit;
use crate::runtime_api::{Behaviour, FUNCTION_TIMEOUT, Response, RuntimeApi};
use crate::{ACCESS_KEY_ID, ADMIN_KEY, CONNECTION_ID, EVENT, REGION, SECRET_ACCESS_KEY, SESSION_TOKEN, Sqs, UserHub};

/// The promise: the event comes back within 2 s. The rest is slack for a busy machine, well below Cognito's 5 s. The test
/// `the_promise_is_two_seconds` has less.
const ANSWER_LIMIT: Duration = Duration::from_millis(2500);

/// The time limit of the queue's function in the template.
const QUEUE_FUNCTION_TIMEOUT: Duration = Duration::from_secs(10);

/// How a function is started.
#[must_use]
#[derive(Clone)]
pub struct Settings {
    variables: BTreeMap<String, String>,
    command: Vec<OsString>,
    /// Reads what the function prints. Otherwise the pipes are closed.
    reads_log: bool,
    /// What standard output is, in place of a pipe that is read.
    output: Option<Arc<OwnedFd>>,
    launch: Launch,
    runtime_api: Behaviour,
}

#[derive(Clone)]
enum Launch {
    Direct,
    /// For measurements: a shell is moved into the control group, waits for a word, and becomes the function. So neither
    /// creating the process nor the move counts.
    Prepared(Option<PathBuf>),
}

/// Time for the shell of [`Launch::Prepared`] to get ready, and for a control group to get its next quota.
const PREPARATION: Duration = Duration::from_millis(50);

impl Settings {
    /// The variables that Lambda sets, and the required settings.
    pub fn for_base_url(base_url: &str) -> Self {
        let settings = Self {
            variables: BTreeMap::new(),
            command: vec![binary().into()],
            reads_log: true,
            output: None,
            launch: Launch::Direct,
            runtime_api: Behaviour::Normal,
        };
        settings
            .set("AWS_LAMBDA_FUNCTION_NAME", "userhub-signin")
            .set("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .set("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .set("AWS_LAMBDA_LOG_FORMAT", "JSON")
            .set("AWS_REGION", REGION)
            .set("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
            .set("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
            .set("AWS_SESSION_TOKEN", SESSION_TOKEN)
            .set("USERHUB_ADMIN_KEY", ADMIN_KEY)
            .set("AMAZON_COGNITO_CONNECTION_ID", CONNECTION_ID)
            .set("USERHUB_BASE_URL", base_url)
    }

    /// What UserHub does not take goes into the queue.
    pub fn queue(self, sqs: &Sqs) -> Self {
        self.set("USERHUB_QUEUE_URL", &sqs.queue_url())
    }

    /// Everything goes through the queue, and the function cannot ask UserHub itself.
    pub fn via_queue(self, sqs: &Sqs) -> Self {
        self.queue(sqs)
            .set("USERHUB_REPORT_VIA", "queue")
            .unset("USERHUB_ADMIN_KEY")
            .unset("AMAZON_COGNITO_CONNECTION_ID")
    }

    pub fn set(mut self, variable: &str, value: &str) -> Self {
        self.variables.insert(variable.to_owned(), value.to_owned());
        self
    }

    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    pub fn unset(mut self, variable: &str) -> Self {
        self.variables.remove(variable);
        self
    }

    /// Another program in place of the function's binary, with its arguments.
    pub fn command(mut self, words: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// A program that starts the function's binary, such as `env`, with its arguments.
    pub fn started_by(mut self, words: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.command.splice(..0, words.into_iter().map(Into::into));
        self
    }

    /// Closes the function's standard output and error at their other end.
    pub fn with_closed_log(mut self) -> Self {
        self.reads_log = false;
        self
    }

    /// Standard output, such as a file or a pipe's end. What the function prints there is the test's to read.
    pub fn printing_to(mut self, output: impl Into<OwnedFd>) -> Self {
        self.output = Some(Arc::new(output.into()));
        self
    }

    /// Starts the function for a measurement, in a control group if there is one.
    pub fn prepared(mut self, group: Option<&Path>) -> Self {
        self.launch = Launch::Prepared(group.map(ToOwned::to_owned));
        self
    }

    pub fn with_runtime_api(mut self, behaviour: Behaviour) -> Self {
        self.runtime_api = behaviour;
        self
    }

    pub fn start(self) -> Function {
        Function::start(self)
    }
}

/// A running function. When it is dropped, the log must contain one line for each sign-in that the test looked at, and
/// neither a secret nor a user name.
pub struct Function {
    process: Child,
    started_at: Instant,
    #[cfg(target_os = "linux")]
    cpu_at_start: Duration,
    runtime_api: RuntimeApi,
    log: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    sign_ins: Mutex<Vec<String>>,
    invocations: AtomicUsize,
    user_names: Mutex<BTreeSet<String>>,
}

/// One sign-in that went through the function.
pub struct SignIn {
    /// From the moment when Cognito's event was handed over.
    pub elapsed: Duration,
    /// When the function returned the event.
    pub returned_at: Instant,
    /// The log line about this sign-in.
    pub line: String,
}

/// What the queue's function made of a batch.
pub struct Batch {
    /// The ids of the messages that stay in the queue.
    pub failed: Vec<String>,
    /// From the moment when the event was handed over.
    pub elapsed: Duration,
}

impl Function {
    pub fn reporting_to(userhub: &UserHub) -> Self {
        Settings::for_base_url(&userhub.base_url()).start()
    }

    fn start(settings: Settings) -> Self {
        let runtime_api = RuntimeApi::start(settings.runtime_api);
        let mut words = settings.command;
        if let Launch::Prepared(_) = &settings.launch {
            words.splice(..0, ["sh", "-c", r#"read -r _; exec "$0" "$@""#].map(Into::into));
        }
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .envs(&settings.variables)
            .env("AWS_LAMBDA_RUNTIME_API", runtime_api.address.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(output) = settings.output {
            command.stdout(output.try_clone().expect("a second handle"));
        }
        if let Launch::Prepared(_) = settings.launch {
            command.stdin(Stdio::piped());
        }
        let mut started_at = Instant::now();
        let mut process = command.spawn().expect("the program starts");
        if let Launch::Prepared(group) = &settings.launch {
            #[cfg(target_os = "linux")]
            if let Some(group) = group {
                limit::enter(group, process.id());
            }
            thread::sleep(PREPARATION);
        }
        #[cfg(target_os = "linux")]
        let cpu_at_start = cpu_time(process.id());
        if let Some(mut stdin) = process.stdin.take() {
            started_at = Instant::now();
            stdin.write_all(b"go\n").expect("the shell waits");
        }
        let log = Arc::default();
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        let readers = if settings.reads_log {
            let stdout = stdout.map(|pipe| collect_lines(pipe, &log));
            stdout.into_iter().chain(stderr.map(|pipe| collect_lines(pipe, &log))).collect()
        } else {
            Vec::new()
        };
        Self {
            process,
            started_at,
            #[cfg(target_os = "linux")]
            cpu_at_start,
            runtime_api,
            log,
            readers,
            sign_ins: Mutex::default(),
            invocations: AtomicUsize::new(0),
            user_names: Mutex::default(),
        }
    }

    /// Sends an event through the function and checks the promise: the same bytes come back in time, and the log has a line
    /// about it.
    #[track_caller]
    pub fn sign_in(&self, event: &[u8]) -> SignIn {
        self.sign_in_by(SystemTime::now() + FUNCTION_TIMEOUT, event)
    }

    /// As [`Self::sign_in`], with the deadline that Lambda tells the function.
    #[track_caller]
    pub fn sign_in_by(&self, deadline: SystemTime, event: &[u8]) -> SignIn {
        let response = self.return_event_by(deadline, event);
        let line = self.line_with(&response.request_id);
        self.sign_ins.lock().unwrap().push(response.request_id);
        SignIn { elapsed: response.elapsed, returned_at: response.at, line }
    }

    /// As [`Self::sign_in`], without looking for a log line.
    #[track_caller]
    pub fn return_event(&self, event: &[u8]) -> Response {
        self.return_event_by(SystemTime::now() + FUNCTION_TIMEOUT, event)
    }

    #[track_caller]
    pub fn return_event_by(&self, deadline: SystemTime, event: &[u8]) -> Response {
        let response = self.invoke(deadline, event);
        assert_eq!(response.verdict, "response", "the sign-in fails: {}", String::from_utf8_lossy(&response.body));
        assert!(response.body == event, "another event came back: {}", String::from_utf8_lossy(&response.body));
        assert!(response.elapsed < ANSWER_LIMIT, "the event came back after {:?}", response.elapsed);
        response
    }

    /// Whatever the function responds to an event.
    #[track_caller]
    pub fn invoke(&self, deadline: SystemTime, event: &[u8]) -> Response {
        let request_id = format!("00000000-0000-4000-8000-{:012}", self.invocations.fetch_add(1, Ordering::Relaxed));
        self.user_names.lock().unwrap().extend(user_names(event));
        self.runtime_api.invoke(&request_id, event, deadline)
    }

    /// Sends an event with messages through the queue's function, and checks that its response has the published form
    /// (<https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>).
    #[track_caller]
    pub fn report_batch(&self, event: &[u8]) -> Batch {
        let response = self.invoke(SystemTime::now() + QUEUE_FUNCTION_TIMEOUT, event);
        let body = String::from_utf8_lossy(&response.body);
        assert_eq!(response.verdict, "response", "the whole batch stays in the queue: {body}");
        let failed = failed_messages(&body).unwrap_or_else(|| panic!("Lambda cannot read this answer: {body}"));
        let event = String::from_utf8_lossy(event);
        assert!(failed.iter().all(|id| event.contains(id)), "no message of this batch: {body}");
        Batch { failed, elapsed: response.elapsed }
    }

    /// Waits for a printed line that contains `text`, and returns the first one.
    #[track_caller]
    pub fn line_with(&self, text: &str) -> String {
        let printed = || self.log.lock().unwrap().iter().find(|line| line.contains(text)).cloned();
        wait_for(printed).unwrap_or_else(|| panic!("no line with {text:?} in {:#?}", self.log.lock().unwrap()))
    }

    pub fn started_at(&self) -> Instant {
        self.started_at
    }

    /// Waits until the function asks for its first event. Returns how long that took from the start of the process.
    #[track_caller]
    pub fn wait_until_ready(&self) -> Duration {
        wait_for(|| self.runtime_api.ready_at()).expect("the function asks for an event") - self.started_at
    }

    /// Sends what is not JSON, which lambda_runtime rejects before the function sees it.
    #[track_caller]
    pub fn send_invalid_json(&self, event: &[u8]) {
        let response = self.runtime_api.invoke("invalid", event, SystemTime::now() + FUNCTION_TIMEOUT);
        assert_eq!(response.verdict, "error");
    }

    /// Sends an ordinary event with more header lines, and does not wait for the response.
    pub fn send_with_headers(&self, headers: &str) {
        self.runtime_api.send("with-headers", EVENT, SystemTime::now() + FUNCTION_TIMEOUT, headers);
    }

    /// Changes how the Runtime API behaves, from its next reply on.
    pub fn set_runtime_api(&self, behaviour: Behaviour) {
        self.runtime_api.set_behaviour(behaviour);
    }

    /// Stops the process, as Lambda does between two events.
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

    /// Waits until the process ends.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let ended = wait_for(|| self.process.try_wait().expect("a status"));
        ended.expect("the function ends")
    }

    /// A field of `/proc/<id>/status`, in KiB.
    #[cfg(target_os = "linux")]
    pub fn status_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a running process");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a field of that name");
        line.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Processor time of all threads since the start.
    #[cfg(target_os = "linux")]
    pub fn cpu_time(&self) -> Duration {
        cpu_time(self.id()).saturating_sub(self.cpu_at_start)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends the function and returns all lines that it printed.
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
            assert_eq!(lines.len(), 1, "one line for each sign-in: {lines:#?}");
        }
        for line in &*log {
            for secret in [ADMIN_KEY, SECRET_ACCESS_KEY, SESSION_TOKEN] {
                assert!(!line.contains(secret), "a secret is in {line}");
            }
            let line = without_trigger_source(line);
            for user_name in self.user_names.lock().unwrap().iter().filter(|name| name.len() > 3) {
                assert!(!line.contains(user_name), "the user name is in {line}");
            }
        }
    }
}

/// Some user names are parts of names of triggers: a machine client is called `ClientCredentials`.
fn without_trigger_source(line: &str) -> String {
    match serde_json::from_str::<Map<String, Value>>(line) {
        Ok(mut fields) => {
            fields.remove("trigger_source");
            Value::from(fields).to_string()
        }
        Err(_) => line.to_owned(),
    }
}

impl SignIn {
    /// The line's fields, if the function logs JSON.
    #[track_caller]
    pub fn fields(&self) -> Map<String, Value> {
        serde_json::from_str(&self.line).unwrap_or_else(|error| panic!("{error} in {}", self.line))
    }

    /// How often the report was sent.
    #[track_caller]
    pub fn tries(&self) -> u64 {
        self.fields().get("tries").map_or(1, |tries| tries.as_u64().expect("a number"))
    }

    #[track_caller]
    pub fn assert_reported(&self, status: u16) {
        let fields = self.fields();
        assert_eq!(fields["outcome"], "reported", "{}", self.line);
        assert_eq!(fields["status"], status, "{}", self.line);
        assert_eq!(fields["level"], "INFO", "{}", self.line);
        assert!(!fields.contains_key("error_kind"), "{}", self.line);
    }

    /// Returns the text of the error.
    #[track_caller]
    pub fn assert_not_reported(&self, error_kind: &str, status: Option<u16>) -> String {
        let fields = self.fields();
        assert_eq!(fields["outcome"], "not_reported", "{}", self.line);
        assert_eq!(fields["error_kind"], error_kind, "{}", self.line);
        assert_eq!(fields.get("status"), status.map(Value::from).as_ref(), "{}", self.line);
        assert_eq!(fields["level"], "ERROR", "{}", self.line);
        self.error_text()
    }

    /// The report waits in the queue, because UserHub did not take it, or because it was not asked. Returns the text of the
    /// error, which is empty if UserHub was not asked.
    #[track_caller]
    pub fn assert_queued(&self, error_kind: Option<&str>) -> String {
        let fields = self.fields();
        assert_eq!(fields["outcome"], "queued", "{}", self.line);
        assert_eq!(fields.get("error_kind"), error_kind.map(Value::from).as_ref(), "{}", self.line);
        assert_eq!(fields["level"], "INFO", "{}", self.line);
        assert_eq!(fields.contains_key("error"), error_kind.is_some(), "{}", self.line);
        if error_kind.is_some() { self.error_text() } else { String::new() }
    }

    #[track_caller]
    fn error_text(&self) -> String {
        let error = self.fields()["error"].as_str().expect("the error's text").to_owned();
        assert!(error.len() < 600 && !error.contains("/users/"), "{}", self.line);
        error
    }
}

/// The function's binary: the one that `make` names, otherwise the one that cargo built for the tests.
pub fn binary() -> PathBuf {
    ["USERHUB_SIGNIN_BINARY", "CARGO_BIN_EXE_userhub-signin"]
        .into_iter()
        .find_map(std::env::var_os)
        .map(PathBuf::from)
        .expect("USERHUB_SIGNIN_BINARY is the path of the built binary (`make` sets it)")
}

/// Processor time of a process's threads, as the kernel counts it, in nanoseconds.
#[cfg(target_os = "linux")]
pub(crate) fn cpu_time(process: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("a running process");
    let nanoseconds = threads.filter_map(|thread| {
        let statistics = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        statistics.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

fn collect_lines(pipe: impl Read + Send + 'static, log: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let log = Arc::clone(log);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            log.lock().unwrap().push(line.expect("UTF-8"));
        }
    })
}

/// Asks again and again, longer than anything takes on a busy machine.
fn wait_for<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let give_up = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() > give_up {
            return answer;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The ids in an answer of the form `{"batchItemFailures":[{"itemIdentifier":"<id>"}]}`.
fn failed_messages(answer: &str) -> Option<Vec<String>> {
    let answer: Map<String, Value> = serde_json::from_str(answer).ok()?;
    let failures = answer.get("batchItemFailures").filter(|_| answer.len() == 1)?.as_array()?;
    failures.iter().map(|failure| Some(failure.get("itemIdentifier")?.as_str()?.to_owned())).collect()
}

/// The user names in an event of Cognito, or in the messages of one of SQS.
fn user_names(event: &[u8]) -> Vec<String> {
    let event: Value = serde_json::from_slice(event).unwrap_or_default();
    let bodies = event["Records"].as_array().into_iter().flatten().filter_map(|record| record["body"].as_str());
    let messages = bodies.map(|body| serde_json::from_str(body).unwrap_or_default());
    let names = messages.chain([event.clone()]).map(|it: Value| it["userName"].as_str().map(ToOwned::to_owned));
    names.flatten().collect()
}

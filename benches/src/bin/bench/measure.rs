//! What is measured, in which order.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use harness::{
    Authority, EVENT, Function, Limit, Response, Settings, Sqs, Step, Tls, UserHub, answer, certificate_for,
};
use serde_json::Value;

/// How much is measured.
pub struct Effort {
    /// Starts of each function at full speed, and sign-ins after each start.
    rounds: usize,
    sign_ins: usize,
    /// The same under a limit.
    limited_rounds: usize,
    limited_sign_ins: usize,
    /// How long UserHub takes to answer in the last part, in ms, and how many sign-ins each function makes.
    latencies: &'static [(u64, usize)],
}

impl Effort {
    pub const FULL: Self = Self {
        rounds: 40,
        sign_ins: 100,
        limited_rounds: 12,
        limited_sign_ins: 10,
        latencies: &[(0, 20), (50, 20), (200, 20), (2000, 3)],
    };
    /// Enough to see that the benchmark works.
    pub const SHORT: Self =
        Self { rounds: 3, sign_ins: 10, limited_rounds: 1, limited_sign_ins: 2, latencies: &[(0, 3), (50, 3)] };
}

/// Pause between two sign-ins under a limit: two of its periods, so that each begins with the whole quota. It is the same
/// with a slow UserHub: after a wait the processor's caches are cold, so they must be cold for every function.
const PAUSE: Duration = Duration::from_millis(40);

/// The limits: their names, and the memory in MB whose share of a processor a function gets.
const LIMITS: [(&str, u32); 2] = [("256 MB", 256), ("128 MB", 128)];

/// After this time a function has finished what it does after a response.
pub const REST: Duration = Duration::from_millis(50);

/// The name of our function when it reports through the queue.
pub const VIA_QUEUE: &str = "ours, via the queue";

pub struct Contender {
    pub name: &'static str,
    command: Vec<String>,
    via_queue: bool,
}

impl Contender {
    pub fn new(name: &'static str, command: &[impl ToString]) -> Self {
        Self { name, command: command.iter().map(ToString::to_string).collect(), via_queue: false }
    }

    /// The same function, which reports through the queue.
    pub fn via_queue(&self) -> Self {
        Self { name: VIA_QUEUE, command: self.command.clone(), via_queue: true }
    }

    fn start(&self, servers: &Servers, limit: Option<&Path>) -> Function {
        let settings = if self.via_queue { servers.settings().via_queue(&servers.sqs) } else { servers.settings() };
        settings.command(&self.command).prepared(limit).start()
    }
}

/// One sign-in through any function. Node.js parses the event and writes it again, so only the JSON must be the same.
pub fn sign_in(function: &Function) -> Response {
    let response = function.invoke(SystemTime::now() + Duration::from_secs(5), EVENT);
    let parse = |bytes| serde_json::from_slice::<Value>(bytes).expect("JSON");
    assert!(response.body == EVENT || parse(&response.body) == parse(EVENT), "another event came back");
    response
}

/// UserHub and SQS over TLS, and the certificate authority that vouches for them.
pub struct Servers {
    userhub: UserHub,
    pub sqs: Sqs,
    authority: Authority,
    tls: Tls,
}

impl Servers {
    pub fn start() -> Self {
        let authority = Authority::new("bench");
        let tls = Tls::new(authority.server(&certificate_for("localhost"), rustls::ALL_VERSIONS));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let userhub = UserHub::listen_tls(listener, [answer(200, "{}")], tls.clone());
        userhub.allow_other_clients();
        let sqs = Sqs::start_tls(authority.server(&certificate_for("localhost"), rustls::ALL_VERSIONS));
        Self { userhub, sqs, authority, tls }
    }

    /// The settings of every function.
    pub fn settings(&self) -> Settings {
        Settings::for_base_url(&self.userhub.base_url())
            .set("PATH", &std::env::var("PATH").unwrap_or_default())
            .set("USERHUB_EXTRA_CA_CERTS", self.authority.file())
            .set("NODE_EXTRA_CA_CERTS", self.authority.file())
    }

    fn set_latency(&self, milliseconds: u64) {
        self.userhub.reply_with([[vec![Step::Wait(Duration::from_millis(milliseconds))], answer(200, "{}")].concat()]);
    }

    /// Forgets the reports and messages. The stand-ins have checked that each of them is correct.
    pub fn clear(&self) {
        self.userhub.reports();
        self.sqs.messages();
    }
}

/// What the starts of one function took: one element for each start, except in `warm`, which has one for each sign-in.
#[derive(Default)]
pub struct Starts {
    pub cold: Vec<f64>,
    pub ready: Vec<f64>,
    pub warm: Vec<f64>,
    pub cold_cpu: Vec<f64>,
    pub warm_cpu: Vec<f64>,
    pub peak_mib: Vec<f64>,
}

/// All times in milliseconds, one element for each contender.
pub struct Figures {
    pub full_speed: Vec<Starts>,
    pub limited: Vec<(&'static str, Vec<Starts>)>,
    /// These have one more contender: ours that reports through the queue.
    pub latencies: Vec<(u64, Vec<Vec<f64>>)>,
    pub post: Vec<f64>,
    pub handshakes: Vec<f64>,
}

pub fn measure(contenders: &[Contender], post: &str, effort: &Effort) -> Figures {
    let servers = Servers::start();
    let (mut full_speed, mut posts) = (no_starts(contenders), Vec::new());
    for round in 0..effort.rounds {
        progress("full speed", round, effort.rounds);
        for (contender, starts) in contenders.iter().zip(&mut full_speed) {
            start(contender, &servers, None, effort.sign_ins, starts);
        }
        posts.extend(bare_posts(post, &servers, effort.sign_ins));
    }
    let handshakes = servers.tls.handshakes().into_iter().map(milliseconds).collect();

    let mut limited = Vec::new();
    for (name, megabytes) in LIMITS {
        match limited_starts(contenders, &servers, name, megabytes, effort) {
            Ok(starts) => limited.push((name, starts)),
            Err(error) => eprintln!("{name} is left out because no control group can be created: {error}"),
        }
    }

    let mut latencies = Vec::new();
    let via_queue = contenders[0].via_queue();
    for (round, (latency_ms, sign_ins)) in effort.latencies.iter().copied().enumerate() {
        progress("latency", round, effort.latencies.len());
        servers.set_latency(latency_ms);
        let one = |contender: &Contender| {
            let function = contender.start(&servers, None);
            sign_in(&function);
            let times = (0..sign_ins).map(|_| {
                thread::sleep(PAUSE);
                milliseconds(sign_in(&function).elapsed)
            });
            times.collect()
        };
        latencies.push((latency_ms, contenders.iter().chain([&via_queue]).map(one).collect()));
    }
    servers.clear();
    Figures { full_speed, limited, latencies, post: posts, handshakes }
}

/// # Errors
/// Those of [`Limit::for_memory`].
fn limited_starts(
    contenders: &[Contender],
    servers: &Servers,
    name: &str,
    megabytes: u32,
    effort: &Effort,
) -> io::Result<Vec<Starts>> {
    let mut all = no_starts(contenders);
    for round in 0..effort.limited_rounds {
        progress(name, round, effort.limited_rounds);
        for (contender, starts) in contenders.iter().zip(&mut all) {
            let limit = Limit::for_memory(megabytes)?; // a new one, so that no function pays for what another one used
            start(contender, servers, Some(limit.group()), effort.limited_sign_ins, starts);
        }
    }
    Ok(all)
}

fn no_starts(contenders: &[Contender]) -> Vec<Starts> {
    contenders.iter().map(|_| Starts::default()).collect()
}

/// One start of a function, and sign-ins.
fn start(contender: &Contender, servers: &Servers, limit: Option<&Path>, sign_ins: usize, starts: &mut Starts) {
    let function = contender.start(servers, limit);
    starts.cold.push(milliseconds(sign_in(&function).at - function.started_at()));
    starts.ready.push(milliseconds(function.wait_until_ready()));
    let cold_cpu = cpu_at_rest(&function);
    starts.cold_cpu.push(milliseconds(cold_cpu));
    for _ in 0..sign_ins {
        if limit.is_some() {
            thread::sleep(PAUSE);
        }
        starts.warm.push(milliseconds(sign_in(&function).elapsed));
    }
    let warm_cpu = cpu_at_rest(&function).saturating_sub(cold_cpu);
    starts.warm_cpu.push(milliseconds(warm_cpu) / sign_ins as f64);
    starts.peak_mib.push(function.status_kib("VmHWM") as f64 / 1024.0);
}

fn cpu_at_rest(function: &Function) -> Duration {
    thread::sleep(REST);
    function.cpu_time()
}

fn bare_posts(post: &str, servers: &Servers, count: usize) -> Vec<f64> {
    let path = "/admin/v1/users/1f0e2d3c-4b5a-4697-8877-665544332211@conn_local:event";
    let run =
        Command::new(post).args([path, &count.to_string()]).env_clear().envs(servers.settings().variables()).output();
    let output = run.expect("the bare POSTs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("numbers");
    lines.lines().map(|line| line.parse::<f64>().expect("a number") / 1e6).collect()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn progress(what: &str, round: usize, rounds: usize) {
    eprint!("\r{what}: {} of {rounds}    ", round + 1);
}

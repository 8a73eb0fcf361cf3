//! Sign-ins over the network of this process, for `make networks`. It prints how many were reported and how long they
//! took, as a JSON object. Arguments: the address at which UserHub listens, the address at which the function finds it, and
//! the number of processes that sign in at the same time. Before the last part it prints a line and waits for one, so that
//! its caller can cut the connections.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a broken promise must end the program")]

use std::io::stdin;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use harness::{Authority, EVENT, Function, Settings, Tls, UserHub, answer, certificate_for};
use rustls::version::TLS13;
use serde_json::{Value, json};

/// How many sign-ins each process makes on its kept connection.
const KEPT: usize = 4;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen_at, find_at, processes] = arguments.as_slice() else { panic!("three arguments are expected") };
    let authority = Authority::new("network");
    let tls = authority.server(&certificate_for(find_at), &[&TLS13]);
    let listener = TcpListener::bind((listen_at.as_str(), 0)).unwrap();
    let base_url = format!("https://{find_at}:{}", listener.local_addr().unwrap().port());
    let userhub = UserHub::listen_tls(listener, [answer(200, "{}")], Tls::new(tls));
    let settings = Settings::for_base_url(&base_url).set("USERHUB_EXTRA_CA_CERTS", authority.file());

    let functions: Vec<_> = (0..processes.parse().unwrap()).map(|_| settings.clone().start()).collect();
    let new = sign_in(&functions, 1);
    let kept = sign_in(&functions, KEPT);
    println!("cut");
    stdin().read_line(&mut String::new()).unwrap();
    let cut = sign_in(&functions, 1);
    std::mem::forget(userhub); // reports on lost connections may still arrive; nothing checks them
    println!("{}", json!({ "new": new, "kept": kept, "cut": cut }));
}

/// Signs in that many times through each function, all functions at the same time.
fn sign_in(functions: &[Function], times: usize) -> Value {
    let sign_ins: Vec<(bool, Duration)> = thread::scope(|scope| {
        let one = |function: &Function| {
            let sign_in = function.sign_in(EVENT);
            (sign_in.fields()["outcome"] == "reported", sign_in.elapsed)
        };
        let threads: Vec<_> =
            functions.iter().map(|function| scope.spawn(move || (0..times).map(|_| one(function)).collect())).collect();
        threads.into_iter().flat_map(|thread| -> Vec<_> { thread.join().unwrap() }).collect()
    });
    let reported = sign_ins.iter().filter(|(reported, _)| *reported).count();
    let mut milliseconds: Vec<_> = sign_ins.iter().map(|(_, time)| u64::try_from(time.as_millis()).unwrap()).collect();
    milliseconds.sort_unstable();
    let at = |share: usize| milliseconds[(milliseconds.len() - 1) * share / 100];
    json!({ "sign_ins": sign_ins.len(), "reported": reported, "median_ms": at(50), "p95_ms": at(95), "longest_ms": at(100) })
}

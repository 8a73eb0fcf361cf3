//! Where the admin key is, and where it never is.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use harness::{ADMIN_KEY, EVENT, Function, UserHub, answer};

/// How often the key occurs in the memory of a running function.
fn copies_in_memory(function: &Function) -> usize {
    let maps = fs::read_to_string(format!("/proc/{}/maps", function.id())).unwrap();
    let memory = File::open(format!("/proc/{}/mem", function.id())).unwrap();
    let writable = maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|access| access.starts_with("rw")));
    writable
        .map(|line| {
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            memory.read_exact_at(&mut bytes, start).unwrap();
            bytes.windows(ADMIN_KEY.len()).filter(|window| *window == ADMIN_KEY.as_bytes()).count()
        })
        .sum()
}

/// Three copies stay while the process lives: its environment, where Lambda puts the key; the header that all requests
/// share; and what the connection sent last. All others are freed or wiped.
#[test]
fn the_key_is_in_memory_at_most_three_times() {
    let userhub = UserHub::replying([answer(200, "{}"), answer(401, "{}")]);
    let function = Function::reporting_to(&userhub);
    function.wait_until_ready();
    assert_eq!(copies_in_memory(&function), 2, "the environment and the header");
    for _ in 0..50 {
        function.sign_in(EVENT);
    }
    assert!(copies_in_memory(&function) <= 3);
    assert_eq!(userhub.reports().len(), 50);
}

#[test]
fn the_key_is_in_no_process_list() {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    function.sign_in(EVENT).assert_reported(200);
    userhub.only_report();
    for entry in fs::read_dir(format!("/proc/{}/task", function.id())).unwrap() {
        let thread = entry.unwrap().path();
        for file in ["cmdline", "comm", "status"] {
            let text = fs::read(thread.join(file)).unwrap();
            assert!(!text.windows(ADMIN_KEY.len()).any(|window| window == ADMIN_KEY.as_bytes()), "{file}");
        }
    }
}

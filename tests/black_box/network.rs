//! Networks that fail between two sign-ins, also while Lambda keeps the function frozen (SIGSTOP stands for that).

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use crate::support::{EVENT, Function, SignIn, Step, UserHub, answer};

/// Longer than a packet on loopback takes.
const PAUSE: Duration = Duration::from_millis(50);

/// A sign-in that must be reported exactly once, on the connection of that number.
#[track_caller]
fn assert_reported_on(connection: usize, userhub: &UserHub, sign_in: &SignIn) {
    sign_in.assert_reported(200);
    assert_eq!(userhub.only_report().connection, connection);
}

#[test]
fn reports_after_userhub_closed_or_reset_the_connection_of_a_frozen_function() {
    for ending in [Step::Close, Step::Reset] {
        let userhub = UserHub::replying([[answer(200, "{}"), vec![Step::Wait(PAUSE), ending]].concat()]);
        let function = Function::reporting_to(&userhub);
        assert_reported_on(0, &userhub, &function.sign_in(EVENT));
        for connection in 1..4 {
            function.freeze();
            thread::sleep(2 * PAUSE);
            assert_reported_on(connection, &userhub, &function.thaw_and_sign_in(EVENT));
        }
    }
}

#[test]
fn reports_on_the_same_connection_after_a_freeze_that_nothing_happened_in() {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    function.sign_in(EVENT).assert_reported(200);
    userhub.only_report();
    for _ in 0..5 {
        function.freeze();
        thread::sleep(PAUSE);
        assert_reported_on(0, &userhub, &function.thaw_and_sign_in(EVENT));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn reports_again_when_userhub_is_back() {
    // An address that nothing else on this machine uses, for the port is freed and taken again.
    let listener = TcpListener::bind("127.7.0.1:8080").unwrap();
    let userhub = UserHub::listen(listener, vec![answer(200, "{}")], None);
    let function = Function::reporting_to(&userhub);
    assert_reported_on(0, &userhub, &function.sign_in(EVENT));
    userhub.refuse(true);
    for _ in 0..2 {
        let error = function.sign_in(EVENT).assert_not_reported("connect", None);
        assert!(error.contains("Connection refused"), "{error}");
    }
    userhub.refuse(false);
    for _ in 0..2 {
        assert_reported_on(1, &userhub, &function.sign_in(EVENT));
    }
}

#[cfg(target_os = "linux")]
mod namespace {
    use std::env;
    use std::fs;
    use std::io::{self, Write};
    use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::support::Settings;

    /// Runs the rest of the test of that name in namespaces of its own, where it may break the network and the files in
    /// `/etc`. Skips it, and says so, where the system allows no such namespaces; not under CI.
    #[track_caller]
    fn in_namespace(test: &str, rest: impl FnOnce()) {
        if env::var_os("IN_NAMESPACE").is_some() {
            run("ip link set lo up");
            return rest();
        }
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--net", "--mount"]);
            command
        };
        let probe = unshare().args(["sh", "-c", "ip link set lo up && iptables --list"]).output();
        if !probe.as_ref().is_ok_and(|probe| probe.status.success()) {
            let why =
                probe.map_or_else(|error| error.to_string(), |it| String::from_utf8_lossy(&it.stderr).into_owned());
            // Not eprintln, which the test runner keeps to itself.
            let message = format!("SKIPPED {test}: no namespaces with ip and iptables: {}\n", why.trim());
            io::stderr().write_all(message.as_bytes()).unwrap();
            assert!(env::var_os("CI").is_none(), "under CI nothing is skipped");
            return;
        }
        let name = format!("network::namespace::{test}");
        let mut again = unshare();
        again.arg(env::current_exe().unwrap()).args(["--exact", &name, "--nocapture"]).env("IN_NAMESPACE", "1");
        let output = again.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
    }

    #[track_caller]
    fn run(command: &str) {
        let mut words = command.split(' ');
        let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
        assert!(status.success(), "{command}");
    }

    /// From now on nothing that either end of the connection sends arrives, and neither is told.
    fn silence(function_end: SocketAddr) {
        for end in ["sport", "dport"] {
            run(&format!("iptables -A INPUT -p tcp --{end} {} -j DROP", function_end.port()));
        }
    }

    /// `frozen`: whether the connection dies, and the next event arrives, while the function is frozen.
    fn a_silently_dead_connection(frozen: bool) {
        let userhub = UserHub::start();
        let function = Function::reporting_to(&userhub);
        function.sign_in(EVENT).assert_reported(200);
        for connection in 1..4 {
            function.sign_in(EVENT).assert_reported(200);
            let mut reports = userhub.reports();
            let kept = reports.pop().unwrap();
            assert_eq!(kept.connection, connection - 1);
            if frozen {
                function.freeze();
            }
            silence(kept.peer);
            let sign_in = if frozen { function.thaw_and_sign_in(EVENT) } else { function.sign_in(EVENT) };
            assert_reported_on(connection, &userhub, &sign_in);

            let next = function.sign_in(EVENT);
            assert_reported_on(connection, &userhub, &next);
            assert!(next.elapsed < Duration::from_millis(300), "a second search for a dead one: {:?}", next.elapsed);
        }
    }

    #[test]
    fn reports_when_an_idle_connection_died_silently() {
        in_namespace("reports_when_an_idle_connection_died_silently", || a_silently_dead_connection(false));
    }

    #[test]
    fn reports_when_a_connection_died_silently_during_a_freeze() {
        in_namespace("reports_when_a_connection_died_silently_during_a_freeze", || a_silently_dead_connection(true));
    }

    /// Puts a file of our own in the place of one in `/etc`, in this namespace only. Where it is, to change it later.
    fn replace(file: &str, text: &str) -> std::path::PathBuf {
        let ours = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file.replace('/', "-"));
        fs::write(&ours, text).unwrap();
        run(&format!("mount --bind {} {file}", ours.display()));
        ours
    }

    #[test]
    fn finds_userhub_at_its_new_address() {
        in_namespace("finds_userhub_at_its_new_address", || {
            let [old, new] = [2, 3].map(|last| Ipv4Addr::new(127, 0, 0, last));
            let listener = TcpListener::bind((old, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let [at_old, at_new] = [listener, TcpListener::bind((new, port)).unwrap()]
                .map(|listener| UserHub::listen(listener, vec![answer(200, "{}")], None));
            let hosts = replace("/etc/hosts", &format!("{old} localhost\n"));

            let function = Settings::for_base_url(&format!("http://localhost:{port}")).start();
            assert_reported_on(0, &at_old, &function.sign_in(EVENT));
            fs::write(hosts, format!("{new} localhost\n")).unwrap();
            run(&format!("iptables -A INPUT -d {old} -j DROP"));
            assert_reported_on(0, &at_new, &function.sign_in(EVENT));
            assert_reported_on(0, &at_new, &function.sign_in(EVENT));
        });
    }

    #[test]
    fn gives_up_when_the_name_server_hangs() {
        in_namespace("gives_up_when_the_name_server_hangs", || {
            let name_server = UdpSocket::bind("127.0.0.1:53").unwrap();
            replace("/etc/resolv.conf", "nameserver 127.0.0.1\n");
            let function = Settings::for_base_url("https://userhub.example").start();
            for _ in 0..3 {
                function.sign_in(EVENT).assert_not_reported("timed_out", None);
            }
            let mut query = [0; 512];
            let length = name_server.recv(&mut query).unwrap();
            assert!(String::from_utf8_lossy(&query[..length]).contains("userhub"), "it was asked for something else");
        });
    }
}

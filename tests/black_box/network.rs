//! Networks that fail between two sign-ins, also while Lambda keeps the function frozen (SIGSTOP simulates that).

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use harness::{EVENT, Function, SignIn, Step, UserHub, answer, reserve};

/// Longer than a packet on loopback takes.
const PAUSE: Duration = Duration::from_millis(50);

/// Checks that a sign-in was reported exactly once, on this connection.
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
fn keeps_its_connection_through_a_freeze() {
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
    // An address that nothing else on this machine uses, because UserHub stops listening at its port for a while.
    let userhub = UserHub::listen(reserve(Ipv4Addr::new(127, 7, 0, 1)), [answer(200, "{}")]);
    let function = Function::reporting_to(&userhub);
    assert_reported_on(0, &userhub, &function.sign_in(EVENT));
    userhub.refuse_connections(true);
    for _ in 0..2 {
        let error = function.sign_in(EVENT).assert_not_reported("connect", None);
        assert!(error.contains("Connection refused"), "{error}");
    }
    userhub.refuse_connections(false);
    for _ in 0..2 {
        assert_reported_on(1, &userhub, &function.sign_in(EVENT));
    }
}

#[cfg(target_os = "linux")]
mod dead {
    use std::fs;
    use std::net::{SocketAddr, TcpListener, UdpSocket};
    use std::path::Path;
    use std::time::Instant;

    use harness::namespace::{self, run};
    use harness::{Behaviour, Settings};

    use super::*;

    /// Runs the rest of the test of that name in its own namespaces, where it may break the network and change files in
    /// `/etc`.
    #[track_caller]
    fn in_namespace(test: &str, rest: impl FnOnce()) {
        if namespace::is_inside() {
            return rest();
        }
        let Some(mut again) = namespace::command(test) else { return };
        let output = again.args(["--exact", &format!("network::dead::{test}"), "--nocapture"]).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
    }

    /// Drops everything that either end of the connection sends from now on.
    fn silence(function_end: SocketAddr) {
        for end in ["sport", "dport"] {
            run(&format!("iptables -A INPUT -p tcp --{end} {} -j DROP", function_end.port()));
        }
    }

    /// `frozen`: the connection dies and the next event arrives while the function is frozen.
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
            assert!(next.elapsed < Duration::from_millis(450), "looked for a dead one again: {:?}", next.elapsed);
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

    /// Replaces a file in `/etc`, in this namespace only. Returns the path of the replacement.
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
                .map(|listener| UserHub::listen(listener, [answer(200, "{}")]));
            let hosts = replace("/etc/hosts", &format!("{old} localhost\n"));

            let function = Settings::for_base_url(&format!("http://localhost:{port}")).start();
            assert_reported_on(0, &at_old, &function.sign_in(EVENT));
            fs::write(hosts, format!("{new} localhost\n")).unwrap();
            run(&format!("iptables -A INPUT -d {old} -j DROP"));
            assert_reported_on(0, &at_new, &function.sign_in(EVENT));
            assert_reported_on(0, &at_new, &function.sign_in(EVENT));
        });
    }

    /// The time for a connection is shared by all addresses of a host.
    #[test]
    fn reports_although_two_of_three_addresses_are_dead() {
        in_namespace("reports_although_two_of_three_addresses_are_dead", || {
            let [one, two, three] = [2, 3, 4].map(|last| Ipv4Addr::new(127, 0, 0, last));
            replace("/etc/hosts", &format!("{one} localhost\n{two} localhost\n{three} localhost\n"));
            // The order in which they are tried is the resolver's.
            for (good, dead) in [(one, [two, three]), (two, [one, three]), (three, [one, two])] {
                run("iptables -F INPUT");
                for address in dead {
                    run(&format!("iptables -A INPUT -d {address} -j DROP"));
                }
                let userhub = UserHub::listen(TcpListener::bind((good, 0)).unwrap(), [answer(200, "{}")]);
                let function = Settings::for_base_url(&format!("http://localhost:{}", userhub.address.port())).start();
                for _ in 0..2 {
                    assert_reported_on(0, &userhub, &function.sign_in(EVENT));
                }
            }
        });
    }

    /// Its thread cannot be interrupted, and asks for up to 10 s. Lambda starts another process as soon as this one has ended.
    #[test]
    fn ends_at_once_although_the_name_server_hangs() {
        in_namespace("ends_at_once_although_the_name_server_hangs", || {
            let _name_server = UdpSocket::bind("127.0.0.1:53").unwrap();
            replace("/etc/resolv.conf", "nameserver 127.0.0.1\n");
            let mut function = Settings::for_base_url("https://userhub.example").start();
            function.sign_in(EVENT).assert_not_reported("timed_out", None);
            let start = Instant::now();
            function.set_runtime_api(Behaviour::Gone);
            assert_eq!(function.wait_for_end().code(), Some(1));
            assert!(start.elapsed() < Duration::from_millis(1500), "it waited {:?}", start.elapsed());
        });
    }

    #[test]
    fn names_a_host_that_the_name_server_does_not_know() {
        in_namespace("names_a_host_that_the_name_server_does_not_know", || {
            let name_server = UdpSocket::bind("127.0.0.1:53").unwrap();
            replace("/etc/resolv.conf", "nameserver 127.0.0.1\n");
            thread::spawn(move || {
                let mut message = [0; 512];
                loop {
                    let (length, client) = name_server.recv_from(&mut message).unwrap();
                    message[2..4].copy_from_slice(&[0x81, 0x83]); // a response: no such name (RFC 1035, section 4.1.1)
                    name_server.send_to(&message[..length], client).unwrap();
                }
            });
            let function = Settings::for_base_url("https://userhub.example").start();
            let error = function.sign_in(EVENT).assert_not_reported("connect", None);
            assert!(error.starts_with("could not connect: failed to lookup address"), "{error}");
        });
    }

    #[test]
    fn gives_up_when_the_name_server_hangs() {
        in_namespace("gives_up_when_the_name_server_hangs", || {
            let name_server = UdpSocket::bind("127.0.0.1:53").unwrap();
            replace("/etc/resolv.conf", "nameserver 127.0.0.1\n");
            let function = Settings::for_base_url("https://userhub.example").start();
            for _ in 0..2 {
                function.sign_in(EVENT).assert_not_reported("timed_out", None);
            }
            function.sign_in(EVENT).assert_not_reported("circuit_open", None);
            let mut query = [0; 512];
            let length = name_server.recv(&mut query).unwrap();
            assert!(String::from_utf8_lossy(&query[..length]).contains("userhub"), "it was asked for another name");
        });
    }
}

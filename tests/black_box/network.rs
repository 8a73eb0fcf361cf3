//! Connections that are kept, and networks that fail between two sign-ins, also while Lambda keeps the function frozen (SIGSTOP simulates that).

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

/// Connections that are kept between sign-ins.
mod kept {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use harness::{EVENT, Function, Settings, Step, UserHub, answer, send};

    /// Long enough for the function to notice what UserHub did to an idle connection.
    const PAUSE: Duration = Duration::from_millis(50);

    #[test]
    fn uses_one_connection_for_200_sign_ins() {
        let userhub = UserHub::start();
        let function = Function::reporting_to(&userhub);
        for _ in 0..200 {
            function.sign_in(EVENT).assert_reported(200);
            userhub.only_report();
        }
        assert_eq!(userhub.connections(), 1);
    }

    #[test]
    fn keeps_a_connection_whose_answers_come_in_pieces() {
        let userhub = UserHub::replying([vec![
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"),
            Step::Wait(PAUSE / 5),
            send(b"{"),
            Step::Wait(PAUSE / 5),
            send(b"}\r\n"),
        ]]);
        let function = Function::reporting_to(&userhub);
        for _ in 0..5 {
            function.sign_in(EVENT).assert_reported(200);
            userhub.only_report();
            thread::sleep(PAUSE);
        }
        assert_eq!(userhub.connections(), 1);
    }

    /// A failing UserHub would otherwise have to shake hands for each sign-in.
    #[test]
    fn keeps_a_connection_after_an_error_whose_body_comes_late() {
        for (status, error_kind) in [
            (302, "unexpected_answer"),
            (401, "rejected"),
            (404, "rejected"),
            (429, "rate_limited"),
            (503, "unavailable"),
        ] {
            let head = send(format!("HTTP/1.1 {status} Some\r\nContent-Length: 2\r\n\r\n"));
            let userhub = UserHub::replying([vec![head, Step::Wait(PAUSE / 2), send("{}")]]);
            let function = Function::reporting_to(&userhub);
            for _ in 0..10 {
                function.sign_in(EVENT).assert_not_reported(error_kind, Some(status));
                userhub.only_report();
            }
            assert_eq!(userhub.connections(), 1, "{status}");
        }
    }

    /// The options of the function's own sockets, which this test may borrow as the function's parent.
    #[cfg(target_os = "linux")]
    #[test]
    fn sets_the_options_of_its_connection() {
        use rustix::net::{getpeername, sockopt};
        use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

        let userhub = UserHub::start();
        let function = Function::reporting_to(&userhub);
        function.sign_in(EVENT).assert_reported(200);
        userhub.only_report();
        let process = pidfd_open(Pid::from_raw(function.id().cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
        let files = std::fs::read_dir(format!("/proc/{}/fd", function.id())).unwrap();
        let numbers = files.filter_map(|file| file.unwrap().file_name().to_str()?.parse().ok());
        let sockets = numbers.filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok());
        let to_userhub = |socket: &_| getpeername(socket).is_ok_and(|peer| peer == Some(userhub.address.into()));
        let connections: Vec<_> = sockets.filter(to_userhub).collect();
        assert_eq!(connections.len(), 1);
        assert_eq!(sockopt::tcp_user_timeout(&connections[0]).unwrap(), 100, "ms: a dead connection is found soon");
        assert!(sockopt::tcp_nodelay(&connections[0]).unwrap(), "a request goes out at once");
    }

    #[test]
    fn opens_a_new_connection_after_userhub_closed_or_reset_the_old_one() {
        for ending in [Step::Close, Step::Reset] {
            let userhub = UserHub::replying([[answer(200, "{}"), vec![ending]].concat()]);
            let function = Function::reporting_to(&userhub);
            for connection in 0..5 {
                function.sign_in(EVENT).assert_reported(200);
                assert_eq!(userhub.only_report().connection, connection);
                thread::sleep(PAUSE);
            }
        }
    }

    #[test]
    fn tries_once_more_when_a_kept_connection_breaks_on_use() {
        for ending in [Step::Close, Step::Reset] {
            let userhub = UserHub::replying([answer(200, "{}"), vec![ending], answer(200, "{}")]);
            let function = Function::reporting_to(&userhub);
            function.sign_in(EVENT).assert_reported(200);
            userhub.only_report();
            function.sign_in(EVENT).assert_reported(200);
            let connections: Vec<_> = userhub.reports().iter().map(|report| report.connection).collect();
            assert_eq!(connections, [0, 1], "the broken one, then a new one");
        }
    }

    /// The other end of the connection accepts no more bytes, as behind a gateway that forgot it.
    #[cfg(target_os = "linux")]
    #[test]
    fn tries_once_more_when_a_connection_is_silently_dead() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&listener).set_recv_buffer_size(1).unwrap(); // the kernel makes it some 2 kB
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (silent, _) = listener.accept().unwrap(); // never read, never closed
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut chunk = [0; 4096];
            while !request.ends_with(br#"{"type":"SIGNIN"}"#) {
                let count = stream.read(&mut chunk).unwrap();
                assert_ne!(count, 0, "the function closed the connection");
                request.extend_from_slice(&chunk[..count]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            drop(silent);
        });
        let function = Settings::for_base_url(&base_url).start();
        // A request of 3 kB is more than the silent end accepts.
        let event = format!(r#"{{"userName":"{}"}}"#, "/".repeat(1024));
        let sign_in = function.sign_in(event.as_bytes());
        sign_in.assert_reported(200);
        assert!(sign_in.elapsed > Duration::from_millis(100), "the first connection was silent: {:?}", sign_in.elapsed);
        server.join().unwrap();
    }

    #[test]
    fn ignores_a_proxy_set_for_other_purposes() {
        let userhub = UserHub::start();
        let nowhere = "http://127.0.0.1:9";
        let mut settings = Settings::for_base_url(&userhub.base_url());
        for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            settings = settings.set(variable, nowhere);
        }
        settings.start().sign_in(EVENT).assert_reported(200);
        userhub.only_report();
    }
}

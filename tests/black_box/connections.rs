//! Connections that are kept between sign-ins.

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
    for (status, error_kind) in
        [(302, "unexpected_answer"), (401, "rejected"), (404, "rejected"), (429, "rate_limited"), (503, "unavailable")]
    {
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

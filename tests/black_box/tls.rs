//! UserHub over TLS, with certificates made here.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rcgen::date_time_ymd;
use rustls::version::{TLS12, TLS13};
use socket2::SockRef;

use crate::support::{Authority, EVENT, Settings, UserHub, answer, certificate_for};

#[test]
fn reports_over_tls_with_an_extra_root() {
    let authority = Authority::new("extra");
    for version in [&TLS12, &TLS13] {
        let userhub = UserHub::start_tls(authority.server(&certificate_for("localhost"), &[version]));
        let function = Settings::for_base_url(&userhub.base_url())
            .set("USERHUB_EXTRA_CA_CERTS", authority.file.to_str().unwrap())
            .start();
        for _ in 0..3 {
            function.sign_in(EVENT).assert_reported(200);
            userhub.only_report();
        }
        assert_eq!(userhub.connections(), 1);
    }
}

#[test]
fn refuses_a_certificate_that_does_not_verify() {
    let authority = Authority::new("trusted");
    let unknown = Authority::new("unknown");
    let mut expired = certificate_for("localhost");
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2020, 12, 31);
    for (authority_used, certificate, words) in [
        (&unknown, certificate_for("localhost"), "UnknownIssuer"),
        (&authority, expired, "certificate expired"),
        (&authority, certificate_for("userhub.example"), "certificate not valid for name \"localhost\""),
    ] {
        let userhub = UserHub::start_tls(authority_used.server(&certificate, &[&TLS13]));
        let function = Settings::for_base_url(&userhub.base_url())
            .set("USERHUB_EXTRA_CA_CERTS", authority.file.to_str().unwrap())
            .start();
        let error = function.sign_in(EVENT).assert_not_reported("connect", None);
        assert!(
            error.starts_with("could not reach UserHub: invalid peer certificate") && error.contains(words),
            "{error}"
        );
        assert_eq!(userhub.connections(), 1, "a second try would see the same certificate");
    }
}

#[test]
fn does_not_trust_a_private_authority_by_itself() {
    let authority = Authority::new("private");
    let userhub = UserHub::start_tls(authority.server(&certificate_for("localhost"), &[&TLS13]));
    let function = Settings::for_base_url(&userhub.base_url()).start();
    function.sign_in(EVENT).assert_not_reported("connect", None);
}

#[test]
fn names_a_server_that_does_not_speak_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("https://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        }
    });
    let function = Settings::for_base_url(&base_url).start();
    function.sign_in(EVENT).assert_not_reported("connect", None);
}

#[test]
fn tries_once_more_when_the_handshake_breaks() {
    let authority = Authority::new("handshake");
    let tls = authority.server(&certificate_for("localhost"), &[&TLS13]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let server = thread::spawn(move || {
        let (first, _) = listener.accept().unwrap();
        SockRef::from(&first).set_linger(Some(Duration::ZERO)).unwrap(); // closing then sends a RST
        drop(first);
        UserHub::listen(listener, vec![answer(200, "{}")], Some(Arc::new(tls)))
    });
    let function =
        Settings::for_base_url(&base_url).set("USERHUB_EXTRA_CA_CERTS", authority.file.to_str().unwrap()).start();
    function.sign_in(EVENT).assert_reported(200);
    server.join().unwrap().only_report();
}

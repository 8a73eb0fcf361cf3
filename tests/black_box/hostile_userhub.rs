//! Hostile answers, from UserHub or from an impostor. The function works after each of them.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use harness::{
    Authority, EVENT, Function, Limit, Reply, Settings, SignIn, Step, UserHub, answer, certificate_for, send,
};
use rustls::version::TLS13;

/// Limit of the memory that one answer may take, in KiB. The function reads up to 16 KiB of a body, and hyper reads up to
/// some 400 KiB of a head.
const MEMORY_MAX: u64 = 2048;

/// Between the parts of a flood, each of which is more than the function reads in this time.
const PAUSE: Duration = Duration::from_millis(1);

/// One sign-in that is answered with `reply`, between two that are answered normally.
#[track_caller]
fn survive(reply: Reply) -> SignIn {
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    function.sign_in(EVENT).assert_reported(200);
    let memory = function.status_kib("VmHWM");

    userhub.reply_with([reply]);
    let sign_in = function.sign_in(EVENT);
    assert!(sign_in.line.len() < 600 && !sign_in.line.contains(char::is_control), "{}", sign_in.line);
    assert!(!sign_in.line.contains("FORGED"), "{}", sign_in.line);
    let more = function.status_kib("VmHWM") - memory;
    assert!(more < MEMORY_MAX, "{more} KiB for {}", sign_in.line);

    thread::sleep(Duration::from_millis(50)); // for what follows the answer
    userhub.reply_with([answer(200, "{}")]);
    userhub.reports();
    function.sign_in(EVENT).assert_reported(200);
    userhub.only_report();
    assert_eq!(function.end().len(), 3, "one line for each sign-in");
    sign_in
}

#[track_caller]
fn assert_malformed(bytes: impl Into<Vec<u8>>) {
    survive(vec![send(bytes), Step::Hang]).assert_not_reported("unexpected_answer", None);
}

#[test]
fn rejects_malformed_status_lines() {
    for line in [
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 -20 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 \u{0} OK",
        "HTTP/1.1 200 \u{0}FORGED",
        "HTTP/2 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/3.7 200 OK",
        "http/1.1 200 ok",
        "ICY 200 OK",
        "200 OK",
        "{\"level\":\"INFO\",\"message\":\"FORGED\"}",
        "\u{16}\u{3}\u{1}",
    ] {
        assert_malformed(format!("{line}\r\nContent-Length: 0\r\n\r\n"));
    }
}

#[test]
fn rejects_malformed_headers() {
    for header in [
        "No-Colon",
        ": no name",
        "Na me: value",
        "Name : value",
        "Name: \u{0}",
        "Name: \u{7f}",
        "Folded: one\r\n two",
        "N\u{e4}me: value",
        "Content-Length: -1",
        "Content-Length: +1",
        "Content-Length: 0x1",
        "Content-Length: 1e3",
        "Content-Length: ",
        "Content-Length: 18446744073709551614",
        "Content-Length: 18446744073709551616",
        "Content-Length: 1, 2",
        "Content-Length: 1\r\nContent-Length: 2",
    ] {
        assert_malformed(format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n"));
    }
    assert_malformed(format!("HTTP/1.1 200 OK\r\n{}: x\r\n\r\n", "X".repeat(70_000)));
    assert_malformed("HTTP/1.1 200 OK\r\nX: FORGED\r".repeat(20_000));
}

/// The status is readable, so UserHub has the report, whatever follows.
#[test]
fn accepts_unusual_answers_with_a_readable_status() {
    for rest in [
        "Content-Length: 5\r\n\r\n",
        "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
        "Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip\r\n\r\n{}",
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Trailer: FORGED\r\n\r\n",
        "Content-Encoding: br, gzip\r\n\r\nnot compressed",
        "Connection: close, keep-alive, upgrade\r\nUpgrade: h2c\r\n\r\n",
        "X-Binary: \u{ff}\u{fe}\r\n\r\n",
    ] {
        survive(vec![send(format!("HTTP/1.1 200 OK\r\n{rest}")), Step::Wait(Duration::from_millis(50)), Step::Close])
            .assert_reported(200);
    }
    survive(vec![send("HTTP/1.0 200 OK\r\n\r\n"), Step::Close]).assert_reported(200);
    survive(vec![send("HTTP/1.1 200 OK\nContent-Length: 2\n\n{}")]).assert_reported(200);
    survive(vec![send("\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), Step::Close]).assert_reported(200);
    survive(vec![send("HTTP/1.1 200 \u{1b}[31mFORGED\r\nContent-Length: 2\r\n\r\n{}"), Step::Hang])
        .assert_not_reported("unexpected_answer", None);
    let extension = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;{}\r\n", "x".repeat(1_000_000));
    survive(vec![send(extension), Step::Hang]).assert_reported(200);
    let trailers = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}\r\n",
        "X-Trailer: FORGED\r\n".repeat(50_000)
    );
    survive(vec![send(trailers), Step::Hang]).assert_reported(200);
}

#[test]
fn survives_floods() {
    for (flood, error_kind) in [
        ("HTTP/1.1 100 Continue\r\n\r\n".repeat(1000), "timed_out"),
        ("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(1000), "timed_out"),
        ("\r\n".repeat(10_000), "unexpected_answer"),
    ] {
        survive(vec![Step::SendForever(flood.into_bytes(), PAUSE)]).assert_not_reported(error_kind, None);
    }
    let mut endless = vec![send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")];
    endless.push(Step::SendForever("X-Trailer: x\r\n".repeat(1000).into_bytes(), PAUSE));
    survive(endless).assert_reported(200);
    let endless = [send("HTTP/1.1 200 OK\r\n\r\n"), Step::SendForever(vec![b'x'; 65_536], PAUSE)];
    survive(endless.to_vec()).assert_reported(200);
}

/// With the processor time that Lambda gives 128 MB, and over TLS, as in Lambda.
#[test]
fn survives_floods_with_little_processor_time() {
    let Some(limit) = Limit::for_memory_or_skip(128, "survives_floods_with_little_processor_time") else { return };
    let authority = Authority::new("flood");
    for flood in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"] {
        let userhub = UserHub::start_tls(authority.server(&certificate_for("localhost"), &[&TLS13]));
        userhub.reply_with([vec![Step::SendForever(flood.repeat(1000).into_bytes(), PAUSE)]]);
        let function = Settings::for_base_url(&userhub.base_url())
            .set("USERHUB_EXTRA_CA_CERTS", authority.file())
            .prepared(Some(limit.group()))
            .start();
        let sign_in = function.sign_in(EVENT);
        sign_in.assert_not_reported("timed_out", None);
        assert!(sign_in.elapsed < Duration::from_millis(2500), "{:?}", sign_in.elapsed);
        userhub.only_report();
    }
}

#[test]
fn survives_hostile_error_bodies() {
    let nested = "[".repeat(16_000);
    let deep_code = format!(r#"{{"code": {nested}"#);
    let many = format!(r#"{{{}"code":"NOT_FOUND"}}"#, r#""code":"FORGED_CODE_","#.repeat(100));
    for (body, code) in [
        (nested.as_str(), ""),
        (&deep_code, ""),
        (&many, ", NOT_FOUND"),
        (r#"{"code":"FORGED\u000a{}"}"#, ""),
        (r#"{"code":["FORGED"]}"#, ""),
        ("\u{feff}{\"code\":\"NOT_FOUND\"}", ""),
    ] {
        let error = survive(answer(404, body)).assert_not_reported("rejected", Some(404));
        assert_eq!(error, format!("rejected: 404 Not Found{code}"));
    }
}

/// So a decompression bomb cannot work.
#[test]
fn does_not_decompress() {
    for encoding in ["gzip", "deflate", "br", "zstd"] {
        let body = r#"{"code":"NOT_FOUND"}"#;
        let head = format!("HTTP/1.1 404 Not Found\r\nContent-Encoding: {encoding}\r\nContent-Length: {}", body.len());
        let error = survive(vec![send(format!("{head}\r\n\r\n{body}"))]).assert_not_reported("rejected", Some(404));
        assert!(error.ends_with(", NOT_FOUND"), "{error}");
    }
}

/// The stand-in rejects a request with any header that is not documented.
#[test]
fn no_header_of_an_answer_changes_the_next_request() {
    let headers = [
        "Set-Cookie: session=FORGED; Path=/",
        "Alt-Svc: h3=\":443\"; ma=86400",
        "Strict-Transport-Security: max-age=31536000",
        "Accept-CH: Sec-CH-UA",
        "Refresh: 0; url=http://127.0.0.1:9/",
        "WWW-Authenticate: Basic realm=\"FORGED\"",
        "Location: http://127.0.0.1:9/",
    ];
    for status in [200, 401, 407, 408, 421, 425] {
        let head = format!("HTTP/1.1 {status} Odd\r\n{}\r\nContent-Length: 0\r\n\r\n", headers.join("\r\n"));
        let sign_in = survive(vec![send(head)]);
        assert_eq!(sign_in.fields()["status"], status, "{}", sign_in.line);
    }
}

/// A second answer must not be taken as the answer to the next sign-in.
#[test]
fn ignores_an_answer_sent_in_advance() {
    let forged = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
    let honest = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    for reply in [
        vec![send([honest, forged].concat())],
        vec![send(honest), Step::Wait(Duration::from_millis(20)), send(forged)],
        vec![send([honest, "HTTP/1.1 40"].concat())],
    ] {
        survive(reply).assert_reported(200);
    }
}

/// One sign-in at a server that sends `reply` on every connection and reads nothing.
#[track_caller]
fn survive_tls(reply: Reply) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let function = Settings::for_base_url(&format!("https://{}", listener.local_addr().unwrap())).start();
    function.sign_in(b"{}"); // so that everything except the report has allocated its memory
    let memory = function.status_kib("VmHWM");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let handle = stream.try_clone().unwrap();
            reply.iter().try_for_each(|step| step.clone().perform(&mut stream, &handle)).ok();
        }
    });
    let sign_in = function.sign_in(EVENT);
    let more = function.status_kib("VmHWM") - memory;
    assert!(more < MEMORY_MAX, "{more} KiB for {}", sign_in.line);
    assert_eq!(sign_in.fields()["outcome"], "not_reported");
    sign_in.fields()["error_kind"].as_str().unwrap().to_owned()
}

fn record(kind: u8, version: u16, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    [&[kind], &version.to_be_bytes()[..], &length.to_be_bytes()[..], content].concat()
}

fn server_hello(version: u16, random: [u8; 32], cipher: u16, compression: u8) -> Vec<u8> {
    let body = [&version.to_be_bytes()[..], &random[..], &[0], &cipher.to_be_bytes()[..], &[compression]].concat();
    let length = u8::try_from(body.len()).unwrap();
    record(HANDSHAKE, version, &[&[2, 0, 0, length], &body[..]].concat())
}

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

#[test]
fn survives_hostile_tls_servers() {
    let [ssl3, tls10, tls11, tls12] = [0x0300, 0x0301, 0x0302, 0x0303];
    let ecdhe = 0xc02f; // TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    let mut downgraded = [7; 32];
    downgraded[24..].copy_from_slice(b"DOWNGRD\x01");
    for (name, bytes) in [
        ("SSL 3", server_hello(ssl3, [7; 32], ecdhe, 0)),
        ("TLS 1.0", server_hello(tls10, [7; 32], ecdhe, 0)),
        ("TLS 1.1", server_hello(tls11, [7; 32], ecdhe, 0)),
        ("TLS 1.2 although both support 1.3", server_hello(tls12, downgraded, ecdhe, 0)),
        ("a cipher without forward secrecy", server_hello(tls12, [7; 32], 0x002f, 0)),
        ("no cipher at all", server_hello(tls12, [7; 32], 0x0000, 0)),
        ("compression", server_hello(tls12, [7; 32], ecdhe, 1)),
        ("a request for another handshake", record(HANDSHAKE, tls12, &[0, 0, 0, 0])),
        ("a fatal alert", record(ALERT, tls12, &[2, 40])),
        ("an unknown alert", record(ALERT, tls12, &[9, 255])),
        ("a record of an unknown type", record(99, tls12, b"FORGED")),
        ("a record longer than allowed", vec![HANDSHAKE, 3, 3, 0xff, 0xff, 2, 0, 0, 0]),
        ("a message of 16 MB", record(HANDSHAKE, tls12, &[2, 0xff, 0xff, 0xff, 3, 3])),
        ("data before the handshake", record(23, tls12, b"HTTP/1.1 200 OK\r\n\r\n")),
    ] {
        assert_eq!(survive_tls(vec![send(bytes), Step::Close]), "tls", "{name}");
    }
    for (name, start, flood) in [
        ("warnings", Vec::new(), record(ALERT, tls12, &[1, 90])),
        ("changes of cipher", Vec::new(), record(CHANGE_CIPHER_SPEC, tls12, &[1])),
        ("empty records", Vec::new(), record(HANDSHAKE, tls12, &[])),
        (
            "pieces of a message of 16 MB",
            vec![HANDSHAKE, 3, 3, 0, 4, 11, 0xff, 0xff, 0xff],
            record(HANDSHAKE, tls12, &[0; 16_000]),
        ),
        ("bytes one by one", vec![HANDSHAKE, 3, 3, 0x40, 0], vec![2]),
    ] {
        let pause = if flood.len() == 1 { Duration::from_millis(50) } else { Duration::ZERO };
        let kind = survive_tls(vec![send(start), Step::SendForever(flood, pause)]);
        assert!(["tls", "timed_out"].contains(&kind.as_str()), "{name}: {kind}");
    }
    assert_eq!(
        survive_tls(vec![send(server_hello(tls12, [7; 32], ecdhe, 0)), Step::Wait(Duration::from_secs(3))]),
        "timed_out"
    );
}

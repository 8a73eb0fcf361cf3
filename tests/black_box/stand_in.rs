//! The stand-in for UserHub is strict: it fails a test in which anything but a documented request is sent.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use harness::{Step, UserHub};

/// Sends the parts one after the other to a stand-in that never answers, and drops it as a test would.
fn send_and_drop(parts: &[&str]) {
    let userhub = UserHub::replying([vec![Step::Hang]]);
    let mut stream = TcpStream::connect(userhub.address).unwrap();
    for part in parts {
        stream.write_all(part.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(100)); // so that they are not read together
    }
    stream.shutdown(Shutdown::Write).ok();
    stream.read_to_end(&mut Vec::new()).ok(); // until it closes the connection, perhaps with a reset
}

#[test]
#[should_panic(expected = "invalid token")]
fn refuses_what_is_not_http() {
    send_and_drop(&["\0\0\0\0\r\n\r\n"]);
}

#[test]
#[should_panic(expected = "method is Some(\\\"GET\\\"), not \\\"POST\\\"")]
fn refuses_another_request() {
    send_and_drop(&["GET / HTTP/1.1\r\n\r\n"]);
}

#[test]
#[should_panic(expected = "more bytes than the request has")]
fn refuses_bytes_behind_a_request() {
    send_and_drop(&["POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n{more"]);
}

#[test]
#[should_panic(expected = "more bytes instead of waiting for the answer")]
fn refuses_bytes_before_its_answer() {
    send_and_drop(&["POST / HTTP/1.1\r\n\r\n", "more"]);
}

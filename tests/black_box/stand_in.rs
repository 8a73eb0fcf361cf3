//! The stand-in for UserHub is strict: a test that talks to it in any other way than the Admin API documents fails.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::{Step, UserHub};

/// Says the parts, one after the other, to a stand-in that never answers, and then looks at it as a test would.
fn say(parts: &[&str]) {
    let userhub = UserHub::replying([vec![Step::Hang]]);
    let mut stream = TcpStream::connect(userhub.address).unwrap();
    for part in parts {
        stream.write_all(part.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(100)); // so that they are not read as one
    }
    stream.shutdown(Shutdown::Write).ok();
    stream.read_to_end(&mut Vec::new()).ok(); // until it has hung up, be it with a reset
}

#[test]
#[should_panic(expected = "invalid token")]
fn refuses_what_is_not_http() {
    say(&["\0\0\0\0\r\n\r\n"]);
}

#[test]
#[should_panic(expected = "method is Some(\\\"GET\\\"), not \\\"POST\\\"")]
fn refuses_another_request() {
    say(&["GET / HTTP/1.1\r\n\r\n"]);
}

#[test]
#[should_panic(expected = "more bytes than the request has")]
fn refuses_bytes_behind_a_request() {
    say(&["POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n{more"]);
}

#[test]
#[should_panic(expected = "more bytes in place of waiting for the answer")]
fn refuses_bytes_before_its_answer() {
    say(&["POST / HTTP/1.1\r\n\r\n", "more"]);
}

//! A UserHub over TLS that takes every report after a given time.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::support::http::Request;
use super::support::{ADMIN_KEY, Authority, CONNECTION_ID, certificate_for};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

pub struct UserHub {
    pub base_url: String,
    pub authority: Authority,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    latency_ms: AtomicU64,
    handshakes: Mutex<Vec<Duration>>,
}

impl UserHub {
    pub fn start() -> Self {
        let authority = Authority::new("bench");
        let tls = Arc::new(authority.server(&certificate_for("localhost"), rustls::ALL_VERSIONS));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let base_url = format!("https://localhost:{}", listener.local_addr().expect("an address").port());
        let shared = Arc::<Shared>::default();
        let server = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, tls) = (Arc::clone(&server), Arc::clone(&tls));
                thread::spawn(move || server.serve(stream.expect("a connection"), tls));
            }
        });
        Self { base_url, authority, shared }
    }

    pub fn set_latency_ms(&self, milliseconds: u64) {
        self.shared.latency_ms.store(milliseconds, Ordering::Relaxed);
    }

    /// How long this side of each TLS handshake took since the last call, from the client's first message to the answer.
    pub fn handshakes(&self) -> Vec<Duration> {
        std::mem::take(&mut self.shared.handshakes.lock().unwrap())
    }
}

impl Shared {
    /// Ends with the connection, however that ends; but a request that is no report ends the benchmark.
    fn serve(&self, mut tcp: TcpStream, tls: Arc<ServerConfig>) -> Option<()> {
        tcp.set_nodelay(true).ok()?;
        let mut tls = ServerConnection::new(tls).ok()?;
        self.hello(&mut tls, &mut tcp).ok()?;
        let mut stream = StreamOwned::new(tls, tcp);
        while let Some(request) = Request::read(&mut stream).ok()? {
            if !is_report(&request) {
                eprintln!("not a report: {request:?}");
                std::process::exit(1);
            }
            thread::sleep(Duration::from_millis(self.latency_ms.load(Ordering::Relaxed)));
            stream.write_all(ANSWER).ok()?;
            stream.flush().ok()?;
        }
        Some(())
    }

    fn hello(&self, tls: &mut ServerConnection, tcp: &mut (impl Read + Write)) -> io::Result<()> {
        tls.read_tls(tcp)?;
        let start = Instant::now();
        tls.process_new_packets().map_err(io::Error::other)?;
        while tls.wants_write() {
            tls.write_tls(tcp)?;
        }
        self.handshakes.lock().unwrap().push(start.elapsed());
        Ok(())
    }
}

fn is_report(request: &Request) -> bool {
    request.method == "POST"
        && request.path.starts_with("/admin/v1/users/")
        && request.path.ends_with(&format!("@{CONNECTION_ID}:event"))
        && request.header("authorization") == Some(&format!("Bearer {ADMIN_KEY}"))
        && request.body == br#"{"type":"SIGNIN"}"#
}

//! UserHub and SQS over TLS, with certificates made on the spot, good and bad.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use tempfile::TempPath;

use crate::server::{Connect, Reply, Step};
use crate::sqs::Sqs;
use crate::userhub::UserHub;

/// A certificate authority, and a file with its certificate for the function to trust.
pub struct Authority {
    pub issuer: CertifiedIssuer<'static, KeyPair>,
    file: TempPath,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Self::with_key(name, KeyPair::generate().unwrap())
    }

    pub fn with_key(name: &str, key: KeyPair) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let mut file = tempfile::Builder::new().suffix(".pem").tempfile().unwrap();
        file.write_all(issuer.pem().as_bytes()).unwrap();
        Self { issuer, file: file.into_temp_path() }
    }

    /// Its certificate's file, which exists as long as the authority.
    pub fn file(&self) -> &str {
        Path::to_str(&self.file).expect("a path in UTF-8")
    }

    /// A server with a certificate from this authority.
    pub fn server(&self, params: &CertificateParams, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        server(vec![certificate.into()], &key, versions)
    }
}

/// A server that presents these certificates, the first of which is for `key`.
pub fn server(
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap()
}

pub fn certificate_for(host: &str) -> CertificateParams {
    CertificateParams::new([host.to_owned()]).unwrap()
}

/// How a stand-in accepts connections over TLS.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    handshakes: Arc<Mutex<Vec<Duration>>>,
}

impl Tls {
    pub fn new(config: ServerConfig) -> Self {
        Self { config: Arc::new(config), handshakes: Arc::default() }
    }

    /// How long the stand-in's part of each handshake took since the last call.
    pub fn handshakes(&self) -> Vec<Duration> {
        std::mem::take(&mut self.handshakes.lock().unwrap())
    }

    fn connect(self) -> Connect {
        Box::new(move |tcp| Ok(Box::new(self.accept(tcp)?)))
    }

    fn accept(&self, mut tcp: TcpStream) -> io::Result<TlsStream> {
        let mut connection = ServerConnection::new(Arc::clone(&self.config)).map_err(aborted)?;
        self.answer_client_hello(&mut connection, &mut tcp)?;
        Ok(TlsStream(StreamOwned::new(connection, tcp)))
    }

    /// Reads the client's first message and answers it, to see how long that takes. rustls does the rest while it reads.
    fn answer_client_hello(&self, connection: &mut ServerConnection, tcp: &mut TcpStream) -> io::Result<()> {
        let mut elapsed = Duration::ZERO;
        while !connection.wants_write() {
            if connection.read_tls(tcp)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let start = Instant::now();
            let result = connection.process_new_packets();
            elapsed += start.elapsed();
            if let Err(error) = result {
                connection.write_tls(tcp).ok(); // the alert
                return Err(aborted(error));
            }
        }
        self.handshakes.lock().unwrap().push(elapsed);
        while connection.wants_write() {
            connection.write_tls(tcp)?;
        }
        Ok(())
    }
}

impl Sqs {
    /// Accepts every message, over TLS, at `localhost`.
    pub fn start_tls(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let base_url = at_localhost(&listener);
        Self::listen_with(listener, &base_url, vec![vec![Step::Accept]], Tls::new(config).connect())
    }
}

/// A name rather than a number, for the certificate.
fn at_localhost(listener: &TcpListener) -> String {
    format!("https://localhost:{}", listener.local_addr().expect("an address").port())
}

impl UserHub {
    /// Accepts every report, over TLS, at `localhost`.
    pub fn start_tls(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self::listen_tls(listener, [vec![Step::Accept]], Tls::new(config))
    }

    pub fn listen_tls(listener: TcpListener, replies: impl Into<Vec<Reply>>, tls: Tls) -> Self {
        let base_url = at_localhost(&listener);
        Self::listen_with(listener, base_url, replies.into(), tls.connect())
    }
}

struct TlsStream(StreamOwned<ServerConnection, TcpStream>);

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| if error.kind() == ErrorKind::InvalidData { aborted(error) } else { error })
    }
}

impl Write for TlsStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The function may refuse a certificate, which ends the connection. That does not violate HTTP.
fn aborted(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::ConnectionAborted, error)
}

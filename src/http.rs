//! HTTP over TLS: the client that reaches UserHub and SQS, and what an error on the way means.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, Request, Response, Url, redirect};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, printable};

/// How long sent bytes may stay unacknowledged before the connection counts as dead. While Lambda keeps the function
/// frozen, a NAT gateway or load balancer may silently forget a kept connection. Without this limit the next report would
/// wait on it until its 2 s are over. Linux checks the limit only after it has sent the bytes again, so a slow connection
/// does not count as dead. Measured (`make networks`): a dead connection is found after about 0.5 s, and the report
/// arrives on a new one if a round trip takes up to 0.25 s. With 500 ms it took 0.4 s longer, and failed from 0.2 s
/// on. The limit does not change what gets lost at 5 and 10 % packet loss.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_millis(100);

/// Time for a new connection, TLS handshake included. The addresses of a host share it equally while TCP connects, so a good
/// one is reached behind two dead ones. It is more than the 0.9 s that three round trips of 0.3 s take.
const CONNECT_LIMIT: Duration = Duration::from_millis(1500);

/// How long an unused connection is kept. AWS's NAT gateways and network load balancers forget a connection after 350 s.
/// After 300 s, a new connection costs less than the 0.5 s that it may take to find the old one dead. If the clock stands
/// still while Lambda keeps the function frozen, the connection is kept for longer, and may have to be found dead.
const IDLE_LIMIT: Duration = Duration::from_mins(5);

/// How much of an answer's body is read, in bytes and in time after its head. This is enough for any error object. A body
/// that was read to its end leaves a connection that can be used again.
const BODY_MAX: usize = 16 * 1024;
const BODY_LIMIT: Duration = Duration::from_millis(300);

/// How many of a server's certificates are looked at, beside its own. webpki tries every path through them and reads each
/// certificate anew at each step, in one go that no timer can interrupt: nine that share a name took 3.7 s with the processor
/// time of 128 MB. With four, the worst chain found (P-384 keys, named like a root) takes 0.5 s. Chains in use have one to three.
const INTERMEDIATES_MAX: usize = 4;

/// An HTTP client that keeps its connections. Clones share them.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    tls: ClientConfig,
}

impl Client {
    /// Creates a client without a connection. It trusts Mozilla's certificate authorities, which are compiled in, and the
    /// operator's own.
    ///
    /// # Errors
    /// [`Error::Settings`] if the TLS settings contradict each other. No setting of an operator leads to that.
    pub fn new(extra_ca_certs: RootCertStore) -> Result<Self, Error> {
        Self::with_tls(tls(extra_ca_certs).map_err(unusable)?)
    }

    /// A client with the same settings and no connection. It costs as much as the first one, so it is for rare cases.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_new_connections(&self) -> Result<Self, Error> {
        Self::with_tls(self.tls.clone())
    }

    fn with_tls(tls: ClientConfig) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .redirect(redirect::Policy::none()) // the key must not be sent to another server
            .no_proxy() // nor through a proxy that was set for other programs
            .connect_timeout(CONNECT_LIMIT)
            .pool_idle_timeout(IDLE_LIMIT);
        #[cfg(target_os = "linux")]
        let http = http.tcp_user_timeout(UNACKNOWLEDGED_LIMIT);
        Ok(Self { http: http.build().map_err(unusable)?, tls })
    }

    /// Sends a request and waits for the head of the answer. That includes DNS, connecting and TLS.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Tls`] or [`Error::Malformed`] if there is no answer.
    pub async fn post(&self, url: Url, headers: HeaderMap, body: String) -> Result<Response, Error> {
        let mut request = Request::new(Method::POST, url);
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body.into());
        self.http.execute(request).await.map_err(|error| classify(&error))
    }
}

fn unusable(cause: impl Display) -> Error {
    Error::Settings(format!("the HTTP client cannot be built: {cause}"))
}

/// Reads the start of an answer's body: 16 KiB at most, for 0.3 s at most, and until the deadline.
pub async fn read_body(mut response: Response, deadline: Instant) -> Vec<u8> {
    let deadline = deadline.min(Instant::now() + BODY_LIMIT);
    let mut body = Vec::new();
    while body.len() < BODY_MAX
        && let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await
    {
        body.extend_from_slice(&chunk);
    }
    body.truncate(BODY_MAX);
    body
}

/// Turns the reason why there is no answer into an [`Error`].
fn classify(error: &reqwest::Error) -> Error {
    // The root cause is the most specific. The outermost error would print the URL with the user name.
    let cause = printable(&causes(error).skip(1).last().map(ToString::to_string).unwrap_or_default());
    if causes(error).any(<Cause>::is::<rustls::Error>) {
        Error::Tls(cause)
    } else if error.is_connect() || causes(error).any(is_lost_connection) {
        Error::Connect(cause)
    } else {
        Error::Malformed(cause)
    }
}

/// Whether the connection broke, as opposed to an answer that is not HTTP.
fn is_lost_connection(cause: &Cause) -> bool {
    cause.is::<io::Error>() || cause.downcast_ref::<hyper::Error>().is_some_and(|error| !error.is_parse())
}

type Cause = dyn std::error::Error + 'static;

/// The error and its causes, outermost first. `source` skips the error that an I/O error wraps, so it is added here.
fn causes(error: &Cause) -> impl Iterator<Item = &Cause> {
    std::iter::successors(Some(error), |error| match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    })
}

fn tls(extra_ca_certs: RootCertStore) -> Result<ClientConfig, Box<dyn std::error::Error>> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new(extra_ca_certs, &provider)?;
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()? // TLS 1.2 and 1.3
        .dangerous() // rustls's word for every verifier that is not its own; this one uses that
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()]; // RFC 9325, section 3.7: a server that expects another protocol refuses
    Ok(tls)
}

/// rustls's own verifier, which gets few of the server's certificates to look at.
#[derive(Debug)]
struct Verifier(Arc<WebPkiServerVerifier>);

impl Verifier {
    fn new(extra_ca_certs: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Self, Box<dyn std::error::Error>> {
        let roots = Arc::new(trusted(extra_ca_certs));
        Ok(Self(WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build()?))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let few = &intermediates[..intermediates.len().min(INTERMEDIATES_MAX)];
        self.0.verify_server_cert(server, few, name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, server, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, server, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Mozilla's roots and the operator's own.
fn trusted(extra_ca_certs: RootCertStore) -> RootCertStore {
    let mut roots = extra_ca_certs;
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trusts_mozillas_roots_and_the_operators() {
        assert_eq!(trusted(RootCertStore::empty()).roots, webpki_roots::TLS_SERVER_ROOTS);
        let mut extra = RootCertStore::empty();
        let own = rcgen::generate_simple_self_signed(["own.example".to_owned()]).unwrap().cert;
        extra.add(own.der().clone()).unwrap();
        assert_eq!(trusted(extra).len(), 1 + webpki_roots::TLS_SERVER_ROOTS.len());
    }
}

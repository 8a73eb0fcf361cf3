//! UserHub over TLS, with certificates made by the tests.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyPair, NameConstraints, SanType, SignatureAlgorithm, date_time_ymd,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{Acceptor, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use socket2::SockRef;

use harness::{Authority, EVENT, Limit, Settings, SignIn, Step, Tls, UserHub, answer, certificate_for, send, server};

use crate::outage::sign_in_until_probe;

#[test]
fn reports_over_tls_with_an_extra_root() {
    let authority = Authority::new("extra");
    for version in [&TLS12, &TLS13] {
        let userhub = UserHub::start_tls(authority.server(&certificate_for("localhost"), &[version]));
        let function =
            Settings::for_base_url(&userhub.base_url()).set("USERHUB_EXTRA_CA_CERTS", authority.file()).start();
        for _ in 0..3 {
            function.sign_in(EVENT).assert_reported(200);
            userhub.only_report();
        }
        assert_eq!(userhub.connections(), 1);
    }
}

#[test]
fn trusts_every_root_in_the_file() {
    let [first, second] = ["first", "second"].map(Authority::new);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "{}{}", first.issuer.pem(), second.issuer.pem()).unwrap();
    for authority in [first, second] {
        let userhub = UserHub::start_tls(authority.server(&certificate_for("localhost"), &[&TLS13]));
        let function = Settings::for_base_url(&userhub.base_url())
            .set("USERHUB_EXTRA_CA_CERTS", file.path().to_str().unwrap())
            .start();
        function.sign_in(EVENT).assert_reported(200);
        userhub.only_report();
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
        let function =
            Settings::for_base_url(&userhub.base_url()).set("USERHUB_EXTRA_CA_CERTS", authority.file()).start();
        let error = function.sign_in(EVENT).assert_not_reported("tls", None);
        assert!(error.starts_with("could not connect: invalid peer certificate") && error.contains(words), "{error}");
        assert_eq!(userhub.connections(), 1, "a second attempt would see the same certificate");
    }
}

#[test]
fn does_not_trust_a_private_authority_without_being_told() {
    let authority = Authority::new("private");
    let userhub = UserHub::start_tls(authority.server(&certificate_for("localhost"), &[&TLS13]));
    let function = Settings::for_base_url(&userhub.base_url()).start();
    function.sign_in(EVENT).assert_not_reported("tls", None);
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
    function.sign_in(EVENT).assert_not_reported("tls", None);
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
        UserHub::listen_tls(listener, [answer(200, "{}")], Tls::new(tls))
    });
    let function = Settings::for_base_url(&base_url).set("USERHUB_EXTRA_CA_CERTS", authority.file()).start();
    function.sign_in(EVENT).assert_reported(200);
    server.join().unwrap().only_report();
}

/// One sign-in at a server, by a function that trusts `authority`. Also the number of reports and connections.
#[track_caller]
fn sign_in_at(authority: &Authority, tls: ServerConfig) -> (SignIn, usize, usize) {
    let userhub = UserHub::start_tls(tls);
    let function = Settings::for_base_url(&userhub.base_url()).set("USERHUB_EXTRA_CA_CERTS", authority.file()).start();
    let sign_in = function.sign_in(EVENT);
    function.end();
    userhub.wait_for_connections_to_end(); // it may read a request long after the function stopped waiting
    (sign_in, userhub.reports().len(), userhub.connections())
}

#[track_caller]
fn assert_refused(what: &str, authority: &Authority, tls: ServerConfig) {
    let (sign_in, reports, connections) = sign_in_at(authority, tls);
    let error = sign_in.assert_not_reported("tls", None);
    assert!(error.contains("invalid peer certificate"), "{what}: {error}");
    assert_eq!((reports, connections), (0, 1), "{what}");
}

#[test]
fn refuses_certificates_for_other_names() {
    let authority = Authority::new("names");
    for name in ["*", "localhost.example", "xlocalhost", "local", "127.0.0.1", "example.localhost", "*.localhost"] {
        assert_refused(name, &authority, authority.server(&certificate_for(name), &[&TLS13]));
    }
    let mut common_name_only = CertificateParams::default();
    common_name_only.distinguished_name.push(DnType::CommonName, "localhost");
    assert_refused("a common name", &authority, authority.server(&common_name_only, &[&TLS13]));

    let mut other_kind = CertificateParams::default();
    other_kind.subject_alt_names = vec![SanType::URI("https://localhost".try_into().unwrap())];
    assert_refused("a URI", &authority, authority.server(&other_kind, &[&TLS13]));

    for same in ["LOCALHOST", "LocalHost"] {
        let (sign_in, ..) = sign_in_at(&authority, authority.server(&certificate_for(same), &[&TLS13]));
        sign_in.assert_reported(200);
    }
}

#[test]
fn refuses_chains_that_do_not_verify() {
    let authority = Authority::new("chains");
    let mut future = certificate_for("localhost");
    (future.not_before, future.not_after) = (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1));
    assert_refused("not yet valid", &authority, authority.server(&future, &[&TLS13]));

    let mut for_clients = certificate_for("localhost");
    for_clients.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    assert_refused("for clients only", &authority, authority.server(&for_clients, &[&TLS13]));

    let mut an_authority = certificate_for("localhost");
    an_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_refused("a certificate authority", &authority, authority.server(&an_authority, &[&TLS13]));

    let key = KeyPair::generate().unwrap();
    let self_signed = certificate_for("localhost").self_signed(&key).unwrap();
    assert_refused("self-signed", &authority, server(vec![self_signed.into()], &key, &[&TLS13]));

    // Signed by an issuer that is not an authority, or not for this name, or no longer.
    let [leaf, mut elsewhere, mut expired] = [(); 3].map(|()| CertificateParams::default());
    elsewhere.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    elsewhere.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".into())],
        excluded_subtrees: Vec::new(),
    });
    expired.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (expired.not_before, expired.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    let mut honest = CertificateParams::default();
    honest.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    for (what, mut intermediate, trusted) in [
        ("an intermediate that is no authority", leaf, false),
        ("an intermediate for other names", elsewhere, false),
        ("an expired intermediate", expired, false),
        ("an honest intermediate", honest, true),
    ] {
        intermediate.distinguished_name.push(DnType::CommonName, what);
        let issuer = CertifiedIssuer::signed_by(intermediate, KeyPair::generate().unwrap(), &authority.issuer).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = certificate_for("localhost").signed_by(&key, &issuer).unwrap();
        let chain = vec![certificate.into(), issuer.der().clone()];
        if trusted {
            sign_in_at(&authority, server(chain, &key, &[&TLS13])).0.assert_reported(200);
        } else {
            assert_refused(what, &authority, server(chain, &key, &[&TLS13]));
        }
    }
}

/// Certificates among which a path to a root can be searched in many ways, without any that leads there.
struct Maze {
    what: &'static str,
    /// Authorities of one name, each of which may have issued every certificate.
    namesakes: usize,
    /// Authorities of other names, which are read at each step.
    others: usize,
    algorithm: &'static SignatureAlgorithm,
    /// More names in each certificate.
    names: usize,
}

impl Maze {
    /// Each authority has a key of its own, and is signed by itself.
    fn server(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        let key = || KeyPair::generate_for(self.algorithm).unwrap();
        let names = (0..self.names).map(|number| SanType::DnsName(format!("{number}.example").try_into().unwrap()));
        let names: Vec<_> = names.collect();
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.subject_alt_names.clone_from(&names);
            CertifiedIssuer::self_signed(params, key()).unwrap()
        };
        let namesakes: Vec<_> = (0..self.namesakes).map(|_| authority(self.what)).collect();
        let others: Vec<_> = (0..self.others).map(|number| authority(&format!("other {number}"))).collect();
        let own_key = key();
        let leaf = certificate_for("localhost").signed_by(&own_key, &namesakes[0]).unwrap();
        let chain = namesakes.iter().chain(&others).map(|authority| authority.der().clone());
        server(std::iter::once(leaf.into()).chain(chain).collect(), &own_key, versions)
    }
}

/// webpki looks for a path to a trusted root among the certificates that a server sends, and no timer can interrupt it.
#[cfg(target_os = "linux")]
#[test]
fn a_search_among_many_certificates_holds_no_sign_in() {
    use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};
    let Some(limit) = Limit::for_memory_or_skip(128, "a_search_among_many_certificates_holds_no_sign_in") else {
        return;
    };
    for (what, namesakes, others, algorithm, names) in [
        ("nine", 9, 0, &PKCS_ECDSA_P256_SHA256, 0),
        ("nine and twenty-one", 9, 21, &PKCS_ECDSA_P256_SHA256, 0),
        ("nine and a hundred", 9, 100, &PKCS_ECDSA_P256_SHA256, 0),
        ("a hundred and ten", 110, 0, &PKCS_ECDSA_P256_SHA256, 0),
        ("nine with expensive keys", 9, 0, &PKCS_ECDSA_P384_SHA384, 0),
        ("nine with many names", 9, 0, &PKCS_ECDSA_P256_SHA256, 300),
    ] {
        for named_like_a_root in [false, true] {
            // The root is trusted, so webpki checks each path's last signature with its key.
            let root = Authority::with_key(what, KeyPair::generate_for(algorithm).unwrap());
            let other = Authority::new("other");
            for version in [&TLS12, &TLS13] {
                let maze = Maze { what, namesakes, others, algorithm, names };
                let userhub = UserHub::start_tls(maze.server(&[version]));
                let trusted = if named_like_a_root { &root } else { &other };
                let function = Settings::for_base_url(&userhub.base_url())
                    .set("USERHUB_EXTRA_CA_CERTS", trusted.file())
                    .prepared(Some(limit.group()))
                    .start();
                let sign_in = function.sign_in(EVENT);
                // The share of 2 s: processor time does not depend on what else this machine does.
                let used = function.cpu_time();
                assert!(used < Duration::from_millis(140), "{what}, {version:?}: {used:?} of a processor");
                let error = sign_in.assert_not_reported("tls", None);
                assert!(error.starts_with("could not connect: invalid peer certificate: "), "{error}");
                function.end();
                userhub.wait_for_connections_to_end();
            }
        }
    }
}

/// Servers may send more than the chain, in any order (RFC 8446, section 4.4.2), but they send it first.
#[test]
fn finds_an_ordinary_chain_before_other_certificates() {
    let authority = Authority::new("root");
    let authorities = |issuer: &CertifiedIssuer<'_, KeyPair>, name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), issuer).unwrap()
    };
    let first = authorities(&authority.issuer, "first");
    let second = authorities(&first, "second");
    let third = authorities(&second, "third");
    let key = KeyPair::generate().unwrap();
    let leaf = certificate_for("localhost").signed_by(&key, &third).unwrap();
    let chain = [leaf.into(), third.der().clone(), second.der().clone(), first.der().clone()];
    let others = (0..50).map(|_| third.der().clone());
    for version in [&TLS12, &TLS13] {
        let certificates = chain.iter().cloned().chain(others.clone()).collect();
        sign_in_at(&authority, server(certificates, &key, &[version])).0.assert_reported(200);
    }
}

/// RFC 9325, section 3.7: otherwise a server for another protocol may answer.
#[test]
fn offers_http_1_1_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let offered = thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut acceptor = Acceptor::default();
        loop {
            acceptor.read_tls(&mut tcp).unwrap();
            if let Some(accepted) = acceptor.accept().unwrap() {
                let protocols = accepted.client_hello().alpn().map(|protocols| protocols.map(<[u8]>::to_vec).collect());
                return protocols.unwrap_or_else(Vec::new);
            }
        }
    });
    Settings::for_base_url(&base_url).start().sign_in(EVENT).assert_not_reported("connect", None);
    assert_eq!(offered.join().unwrap(), [b"http/1.1"]);

    let authority = Authority::new("protocols");
    for version in [&TLS12, &TLS13] {
        let mut both = authority.server(&certificate_for("localhost"), &[version]);
        both.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        sign_in_at(&authority, both).0.assert_reported(200);

        let mut another = authority.server(&certificate_for("localhost"), &[version]);
        another.alpn_protocols = vec![b"h2".to_vec()];
        let (sign_in, reports, connections) = sign_in_at(&authority, another);
        let error = sign_in.assert_not_reported("tls", None);
        assert_eq!(error, "could not connect: received fatal alert: NoApplicationProtocol");
        assert_eq!((reports, connections), (0, 1));
    }
}

/// A certificate for hosts with names that no host has. rcgen would refuse to write them.
fn certificate_for_names(names: &[&str]) -> CertificateParams {
    let der = |tag: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).unwrap();
        assert!(length < 0x80, "a longer one is written in another way");
        [&[tag, length], content].concat()
    };
    let dns_names: Vec<_> = names.iter().flat_map(|name| der(0x82, name.as_bytes())).collect();
    let mut params = CertificateParams::default();
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], der(0x30, &dns_names))];
    params
}

/// U+2028 ends a line for some readers, U+202E shows the rest backwards, U+009B starts a command to a terminal.
#[test]
fn a_certificate_cannot_put_its_characters_into_a_line() {
    let authority = Authority::new("hostile names");
    let names = ["a\u{2028}{\"level\":\"INFO\"}", "\u{202e}b", "\u{9b}31mc", "\r\n\u{1b}[31md", "\u{e9}\u{1f600}"];
    for name in names {
        for format in ["JSON", "Text"] {
            let userhub = UserHub::start_tls(authority.server(&certificate_for_names(&[name]), &[&TLS13]));
            let function = Settings::for_base_url(&userhub.base_url())
                .set("USERHUB_EXTRA_CA_CERTS", authority.file())
                .set("AWS_LAMBDA_LOG_FORMAT", format)
                .start();
            let line = function.sign_in(EVENT).line;
            assert!(line.contains("not valid for name"), "{line}");
            assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{format}: {line:?}");
            assert_eq!(function.end(), [line], "one line");
        }
    }
}

/// Under TLS 1.3 the handshake is over for the client before the server has seen that there is no certificate.
#[test]
fn a_server_that_wants_a_client_certificate_is_an_error_of_tls() {
    let authority = Authority::new("clients");
    for version in [&TLS12, &TLS13] {
        let mut roots = RootCertStore::empty();
        roots.add(authority.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build().unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = certificate_for("localhost").signed_by(&key, &authority.issuer).unwrap();
        let tls = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.into()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let (sign_in, reports, connections) = sign_in_at(&authority, tls);
        let error = sign_in.assert_not_reported("tls", None);
        assert!(error.starts_with("could not connect: received fatal alert: "), "{error}");
        assert_eq!((reports, connections), (0, 1), "a second attempt would not have a certificate either");
    }
}

/// What somebody on the way can put between the records of a connection.
fn forged_records() -> [(&'static str, Vec<u8>); 4] {
    let record = |kind: u8, content: &[u8]| [&[kind, 3, 3, 0, u8::try_from(content.len()).unwrap()], content].concat();
    [
        ("a record with a bad MAC", record(23, &[7; 64])),
        ("an answer without TLS", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("a message of the handshake without encryption", record(22, &[0, 0, 0, 0])),
        ("a record that is too short for a MAC", record(23, &[7])),
    ]
}

#[test]
fn what_breaks_tls_after_the_handshake_is_an_error_of_tls() {
    let authority = Authority::new("records");
    for version in [&TLS12, &TLS13] {
        for (what, forged) in forged_records() {
            let half = send("HTTP/1.1 200 OK\r\nContent-Le");
            for start in [None, Some(half)] {
                let reply: Vec<_> =
                    start.into_iter().chain([Step::SendBeneathTls(forged.clone()), Step::Hang]).collect();
                let userhub = UserHub::start_tls(authority.server(&certificate_for("localhost"), &[version]));
                userhub.reply_with([answer(200, "{}"), reply]);
                let function =
                    Settings::for_base_url(&userhub.base_url()).set("USERHUB_EXTRA_CA_CERTS", authority.file()).start();
                function.sign_in(EVENT).assert_reported(200);
                let sign_in = function.sign_in(EVENT);
                let error = sign_in.assert_not_reported("tls", None);
                assert!(error.starts_with("could not connect: "), "{what}: {error}");
                assert_eq!(sign_in.tries(), 1, "{what}");
                assert_eq!(userhub.reports().len(), 2);
            }
        }
    }
}

/// Whoever sends it is not UserHub.
#[test]
fn what_breaks_tls_is_no_answer_for_the_circuit() {
    let authority = Authority::new("circuit");
    let userhub = UserHub::start_tls(authority.server(&certificate_for("localhost"), &[&TLS13]));
    let [(_, forged), ..] = forged_records();
    let forged = vec![Step::SendBeneathTls(forged), Step::Hang];
    userhub.reply_with([vec![Step::Hang], forged.clone(), vec![Step::Hang], forged]);
    let function = Settings::for_base_url(&userhub.base_url()).set("USERHUB_EXTRA_CA_CERTS", authority.file()).start();
    function.sign_in(EVENT).assert_not_reported("timed_out", None);
    function.sign_in(EVENT).assert_not_reported("tls", None);
    let second = function.sign_in(EVENT);
    second.assert_not_reported("timed_out", None);
    assert!(second.elapsed < Duration::from_millis(1400), "as after one without an answer: {:?}", second.elapsed);
    assert_eq!(second.fields()["circuit"], "opened");

    let probe = sign_in_until_probe(&function);
    probe.assert_not_reported("tls", None);
    assert!(!probe.fields().contains_key("circuit"), "{}", probe.line);
    function.sign_in(EVENT).assert_not_reported("circuit_open", None);
    assert_eq!(userhub.reports().len(), 4);
}

/// rustls accepts some tickets and refuses a flood of them. The promise holds in both cases.
#[test]
fn survives_a_flood_of_session_tickets() {
    let authority = Authority::new("tickets");
    for (tickets, outcome) in [(50, "reported"), (2000, "not_reported")] {
        let mut tls = authority.server(&certificate_for("localhost"), &[&TLS13]);
        tls.send_tls13_tickets = tickets;
        assert_eq!(sign_in_at(&authority, tls).0.fields()["outcome"], outcome, "{tickets} tickets");
    }
}

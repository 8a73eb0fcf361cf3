//! Missing and wrong settings: the function starts, logs what is wrong, and returns every event.

use std::io::{self, Write};
use std::net::TcpListener;
use std::path::Path;

use harness::{ADMIN_KEY, Authority, CONNECTION_ID, EVENT, Settings, UserHub, answer, certificate_for};
use rustls::version::TLS13;
use serde_json::{Value, json};

/// Starts the function with a wrong setting, and checks that it logs `problem` at start and at each sign-in.
#[track_caller]
fn assert_refused(settings: Settings, variable: &str, problem: &str) {
    let function = settings.start();
    let sentence = format!("{variable} {problem}");
    for _ in 0..2 {
        let error = function.sign_in(EVENT).assert_not_reported("settings", None);
        assert!(error.contains(&sentence), "{error:?} does not say {sentence:?}");
    }
    let log = function.end();
    let at_start: Vec<_> = log.iter().filter(|line| line.contains(&sentence) && !line.contains("requestId")).collect();
    assert_eq!(at_start.len(), 1, "one line at start: {log:#?}");
    let fields: Value = serde_json::from_str(at_start[0]).unwrap();
    assert_eq!((&fields["level"], &fields["variable"]), (&json!("ERROR"), &json!(variable)), "{}", at_start[0]);
}

#[test]
fn names_a_missing_setting() {
    let userhub = UserHub::start(); // fails the test if it gets a request
    for (variable, problem) in [
        ("USERHUB_ADMIN_KEY", "is not set: create an Admin API key in UserHub and put it there"),
        (
            "AMAZON_COGNITO_CONNECTION_ID",
            "is not set: put the id of UserHub's Amazon Cognito connection there (conn_...)",
        ),
    ] {
        let settings = Settings::for_base_url(&userhub.base_url());
        assert_refused(settings.clone().unset(variable), variable, problem);
        assert_refused(settings.clone().set(variable, ""), variable, problem);
        assert_refused(settings.clone().set(variable, " \t\n"), variable, problem);
    }
}

#[test]
fn names_every_wrong_setting() {
    let function = Settings::for_base_url("ftp://userhub.example")
        .unset("USERHUB_ADMIN_KEY")
        .set("AMAZON_COGNITO_CONNECTION_ID", "no/such")
        .set("USERHUB_EXTRA_CA_CERTS", "/no/such/file.pem")
        .start();
    let error = function.sign_in(EVENT).assert_not_reported("settings", None);
    for variable in ["USERHUB_ADMIN_KEY", "AMAZON_COGNITO_CONNECTION_ID", "USERHUB_BASE_URL", "USERHUB_EXTRA_CA_CERTS"]
    {
        assert!(error.contains(&format!("{variable} ")), "{error}");
    }
}

const NOT_A_KEY: &str = "is not an Admin API key: it may contain only letters, digits and -._~+/= (common causes are quotes \
    around it, and a secret that contains JSON instead of the key alone)";

#[test]
fn names_a_malformed_setting_without_its_value() {
    let not_pem = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml").display().to_string();
    for (variable, value, problem) in [
        ("USERHUB_ADMIN_KEY", "value one", NOT_A_KEY),
        ("USERHUB_ADMIN_KEY", "value\tone", NOT_A_KEY),
        ("USERHUB_ADMIN_KEY", "value\r\nX-Injected: yes", NOT_A_KEY),
        ("USERHUB_ADMIN_KEY", "value\u{e9}", NOT_A_KEY),
        ("USERHUB_ADMIN_KEY", "\"value\"", NOT_A_KEY),
        ("USERHUB_ADMIN_KEY", "'value'", NOT_A_KEY),
        ("USERHUB_ADMIN_KEY", r#"{"key":"value"}"#, NOT_A_KEY),
        ("USERHUB_ADMIN_KEY", "Bearer:value", NOT_A_KEY),
        ("USERHUB_ADMIN_KEY", "value=value", NOT_A_KEY),
        ("USERHUB_ADMIN_KEY", "===", NOT_A_KEY),
        ("AMAZON_COGNITO_CONNECTION_ID", "value/../../x", "may contain only letters, digits, '_' and '-'"),
        ("AMAZON_COGNITO_CONNECTION_ID", "value:event?x=", "may contain only letters, digits, '_' and '-'"),
        ("USERHUB_BASE_URL", "value", "is not a URL: relative URL without a base"),
        ("USERHUB_BASE_URL", "https://", "is not a URL: empty host"),
        ("USERHUB_BASE_URL", "http://value.example", "must start with https:// (http is for a loopback host only"),
        ("USERHUB_BASE_URL", "http://localhost.value.example", "must start with https:// (http is for"),
        ("USERHUB_BASE_URL", "http://169.254.169.254/value", "must start with https:// (http is for"),
        ("USERHUB_BASE_URL", "file:///value", "must start with https://"),
        ("USERHUB_BASE_URL", "https://value@userhub.example", "may contain a host, a port and a path"),
        ("USERHUB_BASE_URL", "https://:value@userhub.example", "may contain a host, a port and a path"),
        ("USERHUB_BASE_URL", "https://userhub.example?value", "may contain a host, a port and a path"),
        ("USERHUB_BASE_URL", "https://userhub.example#value", "may contain a host, a port and a path"),
        ("USERHUB_BASE_URL", "https://user\nhub.value", "contains control characters"),
        ("USERHUB_EXTRA_CA_CERTS", "/no/such/value.pem", "names a file that cannot be read: No such file"),
        ("USERHUB_EXTRA_CA_CERTS", &not_pem, "names a file without a certificate"),
    ] {
        let settings = Settings::for_base_url("https://userhub.example").set(variable, value);
        let function = settings.clone().start();
        function.sign_in(EVENT);
        let printed = function.end().concat();
        assert!(!printed.contains("value"), "the value of {variable} is in {printed}");
        assert_refused(settings, variable, problem);
    }
}

#[test]
fn drops_white_space_around_values() {
    let userhub = UserHub::start();
    let function = Settings::for_base_url(&format!(" {}/ ", userhub.base_url()))
        .set("USERHUB_ADMIN_KEY", &format!("\n{ADMIN_KEY}\n"))
        .set("AMAZON_COGNITO_CONNECTION_ID", &format!("\t{CONNECTION_ID} "))
        .set("USERHUB_EXTRA_CA_CERTS", " ")
        .start();
    function.sign_in(EVENT).assert_reported(200);
    userhub.only_report();
}

/// Values that try to reach another server or file, or to forge log lines. No line contains the value.
#[test]
fn refuses_hostile_values() {
    let long = "v".repeat(100_000);
    let long_url = format!("https://value.example/{long}");
    let directory = env!("CARGO_MANIFEST_DIR");
    let broken =
        certificate_file("broken.pem", "-----BEGIN CERTIFICATE-----\nvalue value\n-----END CERTIFICATE-----\n");
    let unfinished = certificate_file("unfinished.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    let header = certificate_file("header.pem", "-----BEGIN value\nMIIB\n");
    let no_certificate =
        certificate_file("empty.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    let huge = certificate_file("huge.pem", &"value\n".repeat(200_000));
    let [key, id, url, file] =
        ["USERHUB_ADMIN_KEY", "AMAZON_COGNITO_CONNECTION_ID", "USERHUB_BASE_URL", "USERHUB_EXTRA_CA_CERTS"];
    let userhub = UserHub::start(); // fails the test if it gets a request
    for (variable, value) in [
        (key, "value\nvalue"),
        (key, "value\u{7f}"),
        (key, "value\u{1b}[31m"),
        (key, "va lue"),
        (key, "\u{feff}value"),
        (key, "value\u{2028}value"),
        (key, &long),
        (id, "value\nvalue"),
        (id, "value\u{e9}"),
        (id, "../value"),
        (id, "value%2f"),
        (id, "value@evil"),
        (id, "\u{661}value"),
        (id, &long),
        (url, &long_url),
        (url, "http://metadata.value.internal/"),
        (url, "http://169.254.169.254/latest/meta-data/value"),
        (url, "http://169.254.170.2/value"),
        (url, "http://[fd00:ec2::254]/value"),
        (url, "http://[::ffff:169.254.169.254]/value"),
        (url, "http://2852039166/value"),
        (url, "http://0xa9fea9fe/value"),
        (url, "http://0.0.0.0/value"),
        (url, "http://[::]/value"),
        (url, "http://localhost.value"),
        (url, "http://value.localhost/"),
        (url, "http://valuelocalhost/"),
        (url, "http://127.0.0.1.value/"),
        (url, "http://127.0.0.1@value/"),
        (url, "http://value@127.0.0.1/"),
        (url, "https://user:value@userhub.example/"),
        (url, "https://userhub.example/?value"),
        (url, "https://userhub.example/#value"),
        (url, "https://userhub.example/value?"),
        (url, "https://[::1/value"),
        (url, "https://[value]/"),
        (url, "https://userhub.example:99999/value"),
        (url, "https://user hub.value/"),
        (url, "javascript:value"),
        (url, "data:,value"),
        (url, "unix:/value"),
        (url, "//value.example"),
        (url, "https://xn--value-\u{fffd}/"),
        (file, directory),
        (file, "/dev/zero"),
        (file, "/dev/stdin"),
        (file, "/proc/self/pagemap"),
        (file, &broken),
        (file, &unfinished),
        (file, &header),
        (file, &no_certificate),
        (file, &huge),
        (file, &long),
    ] {
        let function = Settings::for_base_url(&userhub.base_url()).set(variable, value).start();
        let shown: String = value.chars().take(60).collect();
        let error = function.sign_in(EVENT).assert_not_reported("settings", None);
        assert!(error.starts_with(&format!("{variable} ")), "{shown}: {error}");
        let printed = function.end();
        assert_eq!(printed.len(), 2, "one line at start, one for the sign-in: {printed:#?}");
        for line in printed {
            assert!(line.len() < 600 && !line.contains("value"), "{shown}: {line}");
            assert!(
                !line.contains("evil") && !line.contains("meta-data") && !line.contains("118, 97"),
                "{shown}: {line}"
            );
        }
    }
}

#[test]
fn reads_a_certificate_file_of_at_most_1_mib() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("large.pem");
    for (length, error) in [
        (1 << 20, "names a file without a certificate: it must contain PEM blocks 'BEGIN CERTIFICATE'"),
        ((1 << 20) + 1, "must name a regular file of at most 1 MiB"),
    ] {
        std::fs::write(&file, vec![b'\n'; length]).unwrap();
        let function = Settings::for_base_url("").set("USERHUB_EXTRA_CA_CERTS", file.to_str().unwrap()).start();
        let logged = function.sign_in(EVENT).assert_not_reported("settings", None);
        assert_eq!(logged, format!("USERHUB_EXTRA_CA_CERTS {error}"));
    }
}

/// The path of a file with this text.
fn certificate_file(name: &str, text: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Windows programs begin a file with one. It must not hide the first certificate.
#[test]
fn reads_a_certificate_file_with_a_byte_order_mark() {
    let authority = Authority::new("byte order mark");
    let file = certificate_file("mark.pem", &format!("\u{feff}{}", authority.issuer.pem()));
    let userhub = UserHub::start_tls(authority.server(&certificate_for("localhost"), &[&TLS13]));
    let function = Settings::for_base_url(&userhub.base_url()).set("USERHUB_EXTRA_CA_CERTS", &file).start();
    function.sign_in(EVENT).assert_reported(200);
    userhub.only_report();
    assert_eq!(function.end().len(), 1, "no warning");
}

/// Collections of certificates often hold some that are broken. One line says so, and the others are used.
#[test]
fn leaves_out_certificates_that_cannot_be_used() {
    let no_base64 = "-----BEGIN CERTIFICATE-----\n*value*\n-----END CERTIFICATE-----\n";
    let no_certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let [first, second] = ["first", "second"].map(Authority::new);
    let [good, also_good] = [&first, &second].map(|authority| authority.issuer.pem());
    for (name, text, unusable) in [
        ("one.pem", [no_certificate, &good, &also_good].concat(), 1),
        ("two.pem", [&good, no_base64, &also_good, no_certificate].concat(), 2),
        ("three.pem", [no_base64, no_certificate, &good, no_base64, &also_good].concat(), 3),
        ("unfinished.pem", [&good, &also_good, "-----BEGIN CERTIFICATE-----\nMIIB\n"].concat(), 1),
    ] {
        let file = certificate_file(name, &text);
        for authority in [&first, &second] {
            let userhub = UserHub::start_tls(authority.server(&certificate_for("localhost"), &[&TLS13]));
            let function = Settings::for_base_url(&userhub.base_url()).set("USERHUB_EXTRA_CA_CERTS", &file).start();
            function.sign_in(EVENT).assert_reported(200);
            userhub.only_report();
            let lines = function.end();
            assert_eq!(lines.len(), 2, "one line at start, one for the sign-in: {lines:#?}");
            let fields: Value = serde_json::from_str(&lines[0]).unwrap();
            assert_eq!((&fields["level"], &fields["variable"]), (&json!("WARN"), &json!("USERHUB_EXTRA_CA_CERTS")));
            let sentence =
                format!("names a file in which {unusable} certificates cannot be used; the others are trusted");
            assert_eq!(fields["message"], format!("USERHUB_EXTRA_CA_CERTS {sentence}"));
            assert!(!lines[0].contains("value"), "{}", lines[0]);
        }
    }
    let none = certificate_file("none.pem", &[no_base64, no_certificate].concat());
    let settings = Settings::for_base_url("").set("USERHUB_EXTRA_CA_CERTS", &none);
    assert_refused(settings, "USERHUB_EXTRA_CA_CERTS", "names a file with no certificate that can be used");
}

/// A read from a pipe without a writer never ends, and every sign-in would wait for it.
#[test]
fn does_not_wait_for_a_certificate_file_that_is_a_pipe() {
    let pipe = Path::new(env!("CARGO_TARGET_TMPDIR")).join("certificates.pipe");
    std::fs::remove_file(&pipe).ok();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let function = Settings::for_base_url("").set("USERHUB_EXTRA_CA_CERTS", pipe.to_str().unwrap()).start();
    let error = function.sign_in(EVENT).assert_not_reported("settings", None);
    assert_eq!(error, "USERHUB_EXTRA_CA_CERTS must name a regular file of at most 1 MiB");
}

#[test]
fn accepts_unusual_spellings_of_a_base_url() {
    let userhub = UserHub::start();
    let port = userhub.address.port();
    for base_url in [
        format!("http://127.1:{port}"),
        format!("HTTP://LOCALHOST:{port}/"),
        format!("http://0x7f000001:{port}//"),
        format!("http://localhost:{port}/./%2e/"),
        format!("http:\\\\127.0.0.1:{port}"),
    ] {
        Settings::for_base_url(&base_url).start().sign_in(EVENT).assert_reported(200);
        userhub.only_report();
    }

    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        return io::stderr().write_all(b"SKIPPED a part: this machine has no IPv6\n").unwrap();
    };
    let base_url = format!("http://[::1]:{}", listener.local_addr().unwrap().port());
    let over_ipv6 = UserHub::listen(listener, [answer(200, "{}")]);
    Settings::for_base_url(&base_url).start().sign_in(EVENT).assert_reported(200);
    over_ipv6.only_report();
}

/// The other variables of the environment are for other programs.
#[test]
fn ignores_other_variables() {
    let userhub = UserHub::start();
    let long = "x".repeat(100_000);
    for (variable, value) in [
        ("SSL_CERT_FILE", "/no/such/file"),
        ("SSL_CERT_DIR", "/no/such/directory"),
        ("RUST_BACKTRACE", "full"),
        ("RUST_MIN_STACK", "1"),
        ("TOKIO_WORKER_THREADS", "none"),
        ("AWS_LAMBDA_MAX_CONCURRENCY", "64"),
        ("_X_AMZN_TRACE_ID", &long),
        ("LANG", "tr_TR.UTF-8"),
        ("RUST_LOG", &long),
        ("AWS_LAMBDA_LOG_LEVEL", &long),
        ("AWS_LAMBDA_LOG_FORMAT", &long),
    ] {
        let function = Settings::for_base_url(&userhub.base_url()).set(variable, value).start();
        function.return_event(EVENT);
        userhub.only_report();
        assert!(function.end().iter().all(|line| line.len() < 600), "{variable}");
    }
}

//! A bare keep-alive POST by the same HTTP client, without Lambda. It prints how many nanoseconds each one took. The
//! settings are the function's. Arguments: the path, and the number of requests.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a benchmark that cannot go on must end")]

use std::sync::Arc;
use std::time::Instant;

use secrecy::ExposeSecret;
use userhub_signin::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, count] = arguments.as_slice() else { panic!("two arguments are expected") };
    let count: usize = count.parse().unwrap();
    let config = Config::from_env();
    let userhub = config.userhub.expect("direct").expect("the function's settings");
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(config.extra_ca_certs)
        .with_no_client_auth();
    let http = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
    let url = userhub.base_url.join(path).unwrap();
    for request in 0..=count {
        let start = Instant::now();
        let post = http.post(url.clone()).bearer_auth(userhub.admin_key.expose_secret());
        let post = post.header("content-type", "application/json").body(r#"{"type":"SIGNIN"}"#);
        let response = post.send().await.expect("an answer");
        let elapsed = start.elapsed();
        assert!(response.status().is_success());
        response.bytes().await.expect("a body");
        if request > 0 {
            println!("{}", elapsed.as_nanos()); // the first one opened the connection
        }
    }
}

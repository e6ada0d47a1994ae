//! Kubernetes as an issuer, as it is in a cluster: its keys behind a private authority, for who shows a token that is
//! renewed in place.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use super::mint::{Bench, Signer, claims_with, issuer, set};
use crate::domain::decision::Reason::*;
use crate::domain::issuer::{Issuer, KeySource};
use crate::domain::time::Micros;

const CLUSTER: &str = "https://kubernetes.default.svc.cluster.local";

/// The API server, as far as keys go. Its thread ends with the process; it answers at most a hundred callers.
struct ApiServer {
    url: String,
    ca: String,
    /// The token that it asks for.
    token: Arc<Mutex<String>>,
    refused: Arc<AtomicUsize>,
}

impl ApiServer {
    fn serving(keys: String) -> Self {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = authority.self_signed(&ca_key).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &rcgen::Issuer::new(authority, ca_key)).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/openid/v1/jwks", listener.local_addr().unwrap());
        let (token, refused) = (Arc::new(Mutex::new("first".to_owned())), Arc::new(AtomicUsize::new(0)));
        let (tls, wanted, counted) = (Arc::new(tls), Arc::clone(&token), Arc::clone(&refused));
        std::thread::spawn(move || {
            for caller in listener.incoming().take(100) {
                let caller = caller.unwrap();
                caller.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&tls)).unwrap(), caller);
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && request.len() < 8192 {
                    match stream.read(&mut byte) {
                        Ok(1) => request.push(byte[0]),
                        // A caller that does not trust the certificate hangs up.
                        _ => break,
                    }
                }
                let request = String::from_utf8_lossy(&request).to_lowercase();
                let shown = format!("authorization: bearer {}\r\n", wanted.lock().unwrap());
                let (status, body) = if request.contains(&shown) {
                    ("200 OK", keys.as_str())
                } else {
                    counted.fetch_add(1, Ordering::SeqCst);
                    ("401 Unauthorized", "")
                };
                let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                // An error is the caller's: it has gone.
                let _ = stream.write_all((head + body).as_bytes());
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        });
        Self { url, ca: ca.pem(), token, refused }
    }

    /// The issuer as `docs/configuration.md` has it.
    fn issuer(&self, token: &Path) -> Issuer {
        let mut issuer = issuer(KeySource::Url(self.url.clone()));
        issuer.issuer = CLUSTER.to_owned();
        issuer.connection.ca = Some(self.ca.clone());
        issuer.connection.token = Some(token.to_owned());
        issuer
    }
}

#[tokio::test]
async fn service_accounts_are_verified_with_keys_that_only_the_cluster_shows() {
    let signer = Signer::rsa("cluster", 0);
    let server = ApiServer::serving(set([signer.jwk()]));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first\n").unwrap();
    let bench = Bench::new(vec![server.issuer(file.path())]);
    bench.tokens.first_fetch().await;
    let token = signer.token(&{
        let mut claims = claims_with("iss", CLUSTER);
        claims["sub"] = json!("system:serviceaccount:shop:checkout");
        claims["aud"] = json!(["orders"]);
        claims
    });
    assert_eq!(bench.reason(&token), Allowed, "{:?}", bench.tokens.health());

    // The kubelet writes a new token in its place, and the old one ends.
    *server.token.lock().unwrap() = "second".to_owned();
    std::fs::write(file.path(), "second\n").unwrap();
    bench.clock.pass(Micros::from_secs(40));
    let stranger = Signer::ec("unknown").token(&claims_with("iss", CLUSTER));
    assert_eq!(bench.reason_later(&stranger).await, UnknownKey);
    assert_eq!(server.refused.load(Ordering::SeqCst), 0);
    assert_eq!(bench.tokens.health()[0].last_error, None);
}

#[tokio::test]
async fn without_the_clusters_authority_or_token_there_are_no_keys() {
    let server = ApiServer::serving(set([Signer::rsa("cluster", 0).jwk()]));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "stolen").unwrap();
    let missing = file.path().with_extension("missing");
    let mut untrusting = server.issuer(file.path());
    untrusting.connection.ca = None;
    let mut unfound = server.issuer(&missing);
    unfound.issuer = "unfound".to_owned();
    let mut wrong = server.issuer(file.path());
    wrong.issuer = "wrong".to_owned();
    let bench = Bench::new(vec![untrusting, unfound, wrong]);
    bench.tokens.first_fetch().await;
    let health = bench.tokens.health();
    assert!(health.iter().all(|issuer| issuer.keys == 0), "{health:?}");
    let errors: Vec<&str> = health.iter().filter_map(|issuer| issuer.last_error.as_deref()).collect();
    assert!(errors[0].contains("certificate") || errors[0].contains("cannot be"), "{errors:?}");
    assert!(errors[1].contains("cannot be read"), "{errors:?}");
    assert!(errors[2].contains("status 401") && !errors[2].contains("stolen"), "{errors:?}");
}

//! Fetching JSON from issuers, who are not trusted more than need be: time, size and addresses are bounded, and nothing
//! that they answer leads to another place than the one that was asked.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, CACHE_CONTROL, HeaderMap, HeaderValue};
use reqwest::{Client, StatusCode, redirect};
use url::{Host, Url};

use crate::domain::time::Micros;

/// Bytes of an answer, and of a key file.
pub(super) const BODY_BYTES_MAX: usize = 512 * 1024;

const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// For one answer, from the first byte sent to the last one received.
const DEADLINE: Duration = Duration::from_secs(5);

/// Fetches over HTTP. Clones share one client.
#[derive(Clone, Default)]
pub(super) struct Fetcher {
    /// Made when first needed, for that reads the system's certificate authorities. An error: there are none, mostly.
    client: Arc<OnceLock<Result<Client, String>>>,
}

/// What was fetched.
pub(super) struct Fetched {
    /// The body.
    pub body: Vec<u8>,
    /// How long it may be kept, where the answer says so.
    pub max_age: Option<Micros>,
}

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub(super) struct FetchError {
    /// For the log and `/readyz`.
    pub sentence: String,
    /// Whether the server said that there is no such thing: a status of 400 to 499.
    pub is_absent: bool,
}

/// Uses no proxy: keys are what everything else hangs on, so they come on the path that the configuration names and on
/// no other, whatever the environment says.
fn client() -> Result<Client, String> {
    let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
    Client::builder()
        .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .connect_timeout(CONNECT_DEADLINE)
        .timeout(DEADLINE)
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .dns_resolver(Arc::new(Resolver))
        .build()
        .map_err(|error| format!("no HTTP client can be made: {}", reasons(&error)))
}

impl Fetcher {
    /// Fetches what is at `url`.
    pub(super) async fn fetch(&self, url: &Url) -> Result<Fetched, FetchError> {
        let failed = |what: String| FetchError { sentence: format!("{} {what}", place(url)), is_absent: false };
        let client =
            self.client.get_or_init(client).as_ref().map_err(|why| failed(format!("cannot be asked: {why}")))?;
        let broke = |error: reqwest::Error| {
            let slow = error.is_timeout();
            failed(if slow {
                "did not answer in time".into()
            } else {
                format!("cannot be read: {}", reasons(&error.without_url()))
            })
        };
        let mut answer = client.get(url.clone()).send().await.map_err(broke)?;
        let status = answer.status();
        if status != StatusCode::OK {
            let hint = if status.is_redirection() { ", and redirects are not followed" } else { "" };
            let error = failed(format!("answered with status {}{hint}", status.as_u16()));
            return Err(FetchError { is_absent: status.is_client_error(), ..error });
        }
        let too_large = || failed(format!("answered with more than {} KiB", BODY_BYTES_MAX / 1024));
        if answer.content_length().is_some_and(|length| length > BODY_BYTES_MAX as u64) {
            return Err(too_large());
        }
        let max_age = max_age(answer.headers());
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(broke)? {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Fetched { body, max_age })
    }
}

/// Checks the address of an issuer or a key set: `https`, or `http` to this very machine; no user, no fragment; and no
/// link-local address, where clouds keep their machines' secrets.
pub(super) fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("`{}` is no address: {error}", printable(text)))?;
    let shown = place(&url);
    if !matches!(url.scheme(), "https" | "http") || (url.scheme() == "http" && !is_loopback(&url)) {
        return Err(format!("`{shown}` must begin with https:// (http:// only for this machine, as 127.0.0.1)"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(format!("`{shown}` must have no user, password or fragment"));
    }
    let literal = match url.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Some(Host::Domain(_)) | None => None,
    };
    if literal.is_some_and(is_link_local) {
        return Err(format!("`{shown}` is a link-local address"));
    }
    Ok(url)
}

/// Whether an address is on this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// An address as it may be shown: without user and query, where secrets could be.
fn place(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    printable(&format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path()))
}

fn printable(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_default).collect()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || address.to_ipv4_mapped().is_some_and(|address| address.is_link_local())
        }
    }
}

/// `max-age` of `Cache-Control` (RFC 9111 §5.2.2.1); zero where the answer is not to be kept at all.
fn max_age(headers: &HeaderMap) -> Option<Micros> {
    let mut age = None;
    for value in headers.get_all(CACHE_CONTROL) {
        for directive in value.to_str().unwrap_or_default().split(',') {
            let directive = directive.trim().to_ascii_lowercase();
            if matches!(directive.as_str(), "no-store" | "no-cache") {
                return Some(Micros::ZERO);
            }
            if let Some(secs) = directive.strip_prefix("max-age=").and_then(|secs| secs.trim_matches('"').parse().ok())
            {
                age = Some(Micros::from_secs(secs));
            }
        }
    }
    age
}

/// An error and what is behind it, in one sentence.
fn reasons(error: &dyn Error) -> String {
    let mut sentence = error.to_string();
    let mut source = error.source();
    // A handful says it all; the bound is against errors that are their own source.
    for _ in 0..8 {
        let Some(cause) = source else { break };
        sentence = format!("{sentence}: {cause}");
        source = cause.source();
    }
    printable(&sentence)
}

/// The system's names, less those for link-local addresses.
struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| !is_link_local(address.ip())).collect();
            if allowed.is_empty() {
                return Err("the name has no address, or link-local ones only".into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn addresses_are_https_or_on_this_machine() {
        for good in [
            "https://issuer.example",
            "https://issuer.example:8443/realms/a?x=y",
            "http://127.0.0.1:8080/jwks",
            "http://localhost/jwks",
            "http://[::1]:1/",
        ] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "issuer.example",
            "http://issuer.example",
            "http://localhost.evil.example/",
            "http://10.0.0.1/",
            "ftp://issuer.example/",
            "file:///etc/passwd",
            "https://user@issuer.example/",
            "https://user:secret@issuer.example/",
            "https://issuer.example/#a",
            "https://169.254.169.254/latest",
            "https://[fe80::1]/",
            "https://[::ffff:169.254.169.254]/",
        ] {
            let error = address(bad).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_may_be_kept_and_for_how_long_is_read_from_cache_control() {
        let age = |value: &str| {
            max_age(&HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_str(value).unwrap())]))
                .map(Micros::as_secs)
        };
        assert_eq!(age("public, max-age=90, must-revalidate"), Some(90));
        assert_eq!(age("Max-Age=\"7\""), Some(7));
        assert_eq!(age("max-age=90, no-store"), Some(0));
        assert_eq!(age("max-age=-1"), None);
        assert_eq!(age("max-age=99999999999999999999999"), None);
        assert_eq!(age("private"), None);
    }

    #[tokio::test]
    async fn a_link_local_name_has_no_address() {
        let resolved = Resolver.resolve("169.254.169.254".parse().unwrap()).await;
        assert!(resolved.is_err());
        assert!(Resolver.resolve("127.0.0.1".parse().unwrap()).await.is_ok());
    }
}

//! Asking issuers, who are not trusted more than need be: time, size and addresses are bounded, and nothing that they
//! answer leads to another place than the one that was asked.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, DATE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH,
    RETRY_AFTER,
};
use reqwest::{Certificate, Client, Identity, Response, StatusCode, redirect};
use tokio::io::AsyncReadExt as _;
use url::{Host, Origin, Url};

use crate::domain::connection::{ClientCertificate, Connection};
use crate::domain::issuer::{Issuer, KeySource};
use crate::domain::time::Micros;

/// Bytes of a key set or metadata document, and of a key file.
pub(super) const BODY_BYTES_MAX: usize = 512 * 1024;

const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// For a key set or metadata document, from the first byte sent to the last one received.
const DEADLINE: Duration = Duration::from_secs(5);

/// Documents that are remembered with their tags: an issuer's key set, and its metadata at either place.
const DOCUMENTS_MAX: usize = 3;

/// Bytes of an entity tag. A document with a longer one is not remembered.
const TAG_BYTES_MAX: usize = 256;

/// How many times in a row a document may be confirmed until it is asked for whole again: a server that says "not modified"
/// whatever there is, or a cache before it, must not keep old keys in force for ever. At the pace of renewals that is
/// between ten minutes and an hour and a half.
const CONFIRMATIONS_MAX: u32 = 10;

/// Bytes of a file that holds a bearer token.
const TOKEN_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Asks one issuer's servers over HTTP, as its [`Connection`] says. Clones share one client.
#[derive(Clone)]
pub(super) struct Fetcher(Arc<Shared>);

struct Shared {
    /// Made when first needed, for that may read the system's certificate authorities. An error: there are none, mostly.
    client: OnceLock<Result<Client, String>>,
    connection: Connection,
    headers: HeaderMap,
    /// Where the configuration itself sends us. Token and headers are shown to nobody else: metadata may name any place.
    homes: Vec<Origin>,
    /// Those that came with a tag, the oldest first. Not locked across anything that waits.
    documents: Mutex<Vec<Document>>,
}

/// A document that its server can confirm without sending it again (RFC 9110 §13.1.2).
#[derive(Clone)]
struct Document {
    url: Url,
    /// As the server wrote it. A weak one will do: it stands for all that has the same meaning (RFC 9110 §8.8.1).
    tag: HeaderValue,
    body: Arc<[u8]>,
    max_age: Option<Micros>,
    /// Times in a row.
    confirmed: u32,
}

/// What is asked of a server.
pub(super) struct Request<'a> {
    /// Where.
    pub url: &'a Url,
    /// What is posted; none: the document there is asked for.
    pub post: Option<Post>,
    /// Headers of this request. They come before those of the connection.
    pub headers: HeaderMap,
    /// For all of it, from the first byte sent to the last one received.
    pub deadline: Duration,
    /// Bytes of the answer; more is an error.
    pub bytes_max: usize,
}

/// What is posted.
pub(super) struct Post {
    /// The media type.
    pub media_type: &'static str,
    /// The body.
    pub body: String,
}

/// What was fetched.
#[derive(Debug)]
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
    /// The status that was answered; none where nothing was, or not in time.
    pub status: Option<StatusCode>,
    /// How long the server wants to be left alone: `Retry-After` (RFC 9110 §10.2.3), in seconds or until a date.
    pub retry_after: Option<Micros>,
}

impl FetchError {
    /// Without an answer that explains it.
    pub(super) const fn new(sentence: String) -> Self {
        Self { sentence, status: None, retry_after: None }
    }

    /// Whether the server said that there is no such thing: a status of 400 to 499.
    pub(super) fn is_absent(&self) -> bool {
        self.status.is_some_and(|status| status.is_client_error())
    }
}

impl<'a> Request<'a> {
    /// For the document at `url`.
    pub(super) fn of(url: &'a Url) -> Self {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        Self { url, post: None, headers, deadline: DEADLINE, bytes_max: BODY_BYTES_MAX }
    }
}

impl Fetcher {
    /// For the servers of that issuer. An error is a sentence: its certificates or headers cannot be used.
    pub(super) fn of(issuer: &Issuer) -> Result<Self, String> {
        let keys = match &issuer.keys {
            KeySource::Url(url) => Some(url),
            KeySource::Discovery
            | KeySource::File(_)
            | KeySource::Inline(_)
            | KeySource::Secret(_)
            | KeySource::Unneeded => None,
        };
        let introspection = issuer.introspection.as_ref().and_then(|introspection| introspection.url.as_ref());
        let poll = issuer.events.as_ref().and_then(|events| events.poll.as_ref());
        let homes = [Some(&issuer.issuer), keys, introspection, poll];
        Self::new(&issuer.connection, homes.into_iter().flatten().map(String::as_str))
    }

    /// `homes` are addresses of the configuration; what is none counts for nothing.
    fn new<'a>(connection: &Connection, homes: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &connection.headers {
            let shown = printable(name);
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{shown}` is no header's name"))?;
            headers.insert(name, secret(value.reveal()).ok_or(format!("the value of `{shown}` is no header's"))?);
        }
        let homes = homes.filter_map(|text| Url::parse(text).ok()).map(|url| url.origin()).collect();
        let made = OnceLock::new();
        // What the operator wrote is checked at once; the system's authorities are read when they are needed.
        if connection.ca.is_some() || connection.certificate.is_some() {
            made.get_or_init(|| client(connection)).as_ref().map_err(Clone::clone)?;
        }
        let (connection, documents) = (connection.clone(), Mutex::default());
        Ok(Self(Arc::new(Shared { client: made, connection, headers, homes, documents })))
    }

    /// How the servers are reached.
    pub(super) fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// Fetches what is at `url`. A document that is there from last time need not be sent again, where its server says
    /// that it is still the same; that is as good as if it had been sent.
    pub(super) async fn fetch(&self, url: &Url) -> Result<Fetched, FetchError> {
        let mut request = Request::of(url);
        let bytes_max = request.bytes_max;
        let known = self.known(url);
        if let Some(known) = &known {
            request.headers.insert(IF_NONE_MATCH, known.tag.clone());
        }
        let answer = self.answer(request).await?;
        if let Some(known) = known.filter(|known| known.is_confirmed_by(&answer)) {
            let max_age = max_age(answer.headers()).or(known.max_age);
            let body = known.body.to_vec();
            self.remember(Document { max_age, confirmed: known.confirmed + 1, ..known });
            return Ok(Fetched { body, max_age });
        }
        let tag = tag(answer.headers()).cloned();
        let fetched = read(url, answer, bytes_max).await?;
        if let Some(tag) = tag {
            let (body, max_age) = (fetched.body.as_slice().into(), fetched.max_age);
            self.remember(Document { url: url.clone(), tag, body, max_age, confirmed: 0 });
        }
        Ok(fetched)
    }

    /// Sends a request. Anything but status 200 is an error.
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Fetched, FetchError> {
        let (url, bytes_max) = (request.url, request.bytes_max);
        read(url, self.answer(request).await?, bytes_max).await
    }

    /// What was at `url` last time, if that may be confirmed once more.
    fn known(&self, url: &Url) -> Option<Document> {
        self.documents().iter().find(|known| known.url == *url && known.confirmed < CONFIRMATIONS_MAX).cloned()
    }

    fn remember(&self, document: Document) {
        let mut documents = self.documents();
        documents.retain(|known| known.url != document.url);
        if documents.len() == DOCUMENTS_MAX {
            documents.remove(0);
        }
        documents.push(document);
    }

    fn documents(&self) -> MutexGuard<'_, Vec<Document>> {
        self.0.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head of the answer, whatever its status.
    async fn answer(&self, request: Request<'_>) -> Result<Response, FetchError> {
        let url = request.url;
        let unasked = |why: String| FetchError::new(format!("{} {why}", place(url)));
        self.ask(request).await.map_err(unasked)?.map_err(|error| broken(url, error))
    }

    /// The outer error: it could not even be asked, and why.
    async fn ask(&self, request: Request<'_>) -> Result<reqwest::Result<Response>, String> {
        let Request { url, post, headers, deadline, bytes_max: _ } = request;
        let Shared { client: made, connection, .. } = &*self.0;
        // Whoever made the address has checked it, under settings that may have changed since.
        address(url.as_str(), connection)?;
        let client = made.get_or_init(|| client(connection)).as_ref();
        let client = client.map_err(|why| format!("cannot be asked: {why}"))?;
        let own = self.own_headers(url).await.map_err(|why| format!("cannot be asked: {why}"))?;
        let request = match post {
            Some(Post { media_type, body }) => {
                client.post(url.clone()).header(CONTENT_TYPE, HeaderValue::from_static(media_type)).body(body)
            }
            None => client.get(url.clone()),
        };
        Ok(request.headers(own).headers(headers).timeout(deadline).send().await)
    }

    /// What the connection shows, where `url` is one of its homes.
    async fn own_headers(&self, url: &Url) -> Result<HeaderMap, String> {
        let Shared { connection, headers, homes, .. } = &*self.0;
        if !homes.contains(&url.origin()) {
            return Ok(HeaderMap::new());
        }
        let mut headers = headers.clone();
        if let Some(path) = &connection.token {
            let token = read_token(path).await?;
            let value = secret(&format!("Bearer {token}"));
            headers.insert(AUTHORIZATION, value.ok_or(format!("{} holds no token", path.display()))?);
        }
        Ok(headers)
    }
}

impl Document {
    /// Whether an answer says that it is still the same. One that names another tag speaks of another document.
    fn is_confirmed_by(&self, answer: &Response) -> bool {
        let opaque = |tag: &HeaderValue| tag.as_bytes().strip_prefix(b"W/").unwrap_or(tag.as_bytes()).to_vec();
        let is_other = |tag| opaque(tag) != opaque(&self.tag);
        answer.status() == StatusCode::NOT_MODIFIED && !answer.headers().get(ETAG).is_some_and(is_other)
    }
}

/// The body of an answer. Anything but status 200 is an error.
async fn read(url: &Url, mut answer: Response, bytes_max: usize) -> Result<Fetched, FetchError> {
    let failed = |what: String| FetchError::new(format!("{} {what}", place(url)));
    let status = answer.status();
    if status != StatusCode::OK {
        let hint = match status {
            StatusCode::NOT_MODIFIED => ", and there is no document here that it could mean",
            status if status.is_redirection() => ", and redirects are not followed",
            _ => "",
        };
        let error = failed(format!("answered with status {}{hint}", status.as_u16()));
        return Err(FetchError { status: Some(status), retry_after: retry_after(answer.headers()), ..error });
    }
    let too_large = || failed(format!("answered with more than {} KiB", bytes_max / 1024));
    if answer.content_length().is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large());
    }
    let max_age = max_age(answer.headers());
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| broken(url, error))? {
        if body.len() + chunk.len() > bytes_max {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Fetched { body, max_age })
}

fn broken(url: &Url, error: reqwest::Error) -> FetchError {
    let what = if error.is_timeout() {
        "did not answer in time".to_owned()
    } else {
        format!("cannot be read: {}", reasons(&error.without_url()))
    };
    FetchError::new(format!("{} {what}", place(url)))
}

/// Uses no proxy: keys are what everything else hangs on, so they come on the path that the configuration names and on
/// no other, whatever the environment says.
fn client(connection: &Connection) -> Result<Client, String> {
    let mut builder = Client::builder()
        .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_DEADLINE)
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .dns_resolver(Arc::new(Resolver));
    if let Some(ca) = &connection.ca {
        let authorities = Certificate::from_pem_bundle(ca.as_bytes()).unwrap_or_default();
        if authorities.is_empty() {
            return Err("its `ca` holds no certificate".to_owned());
        }
        builder = builder.tls_certs_only(authorities);
    }
    if let Some(ClientCertificate { chain, key }) = &connection.certificate {
        let both = format!("{chain}\n{}", key.reveal());
        // The library's reason is left out: it was made while it had the key in hand.
        let identity = Identity::from_pem(both.as_bytes());
        builder =
            builder.identity(identity.map_err(|_| "its client certificate or the key cannot be read".to_owned())?);
    }
    builder.build().map_err(|error| format!("no HTTP client can be made: {}", reasons(&error)))
}

/// The token in a file: one line.
async fn read_token(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let mut text = String::new();
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text).await.map_err(failed)?;
    match text.trim() {
        "" => Err(format!("{} holds no token", path.display())),
        token => Ok(token.to_owned()),
    }
}

/// A header's value that the HTTP library does not print; none where it can be no header's.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Checks the address of an issuer, a key set or an endpoint: `https`, or `http` to this very machine, or to any where
/// that is allowed; no user, no fragment; and no link-local address, where clouds keep their machines' secrets.
pub(super) fn address(text: &str, connection: &Connection) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("`{}` is no address: {error}", printable(text)))?;
    let shown = place(&url);
    let is_fit = match url.scheme() {
        "https" => true,
        "http" => connection.plain_http || is_loopback(&url),
        _ => false,
    };
    if !is_fit {
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

/// An entity tag (RFC 9110 §8.8.3) that can be sent back.
fn tag(headers: &HeaderMap) -> Option<&HeaderValue> {
    let tag = headers.get(ETAG).filter(|tag| tag.len() <= TAG_BYTES_MAX)?;
    let quoted = tag.as_bytes().strip_prefix(b"W/").unwrap_or(tag.as_bytes());
    let opaque = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    opaque.iter().all(|byte| *byte != b'"' && *byte > b' ' && *byte != 0x7f).then_some(tag)
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

/// A date counts from the server's own `Date`, whatever its clock says; without that it is not read.
fn retry_after(headers: &HeaderMap) -> Option<Micros> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let after = text(RETRY_AFTER)?;
    if let Ok(secs) = after.parse() {
        return Some(Micros::from_secs(secs));
    }
    let moment = |text| httpdate::parse_http_date(text).ok();
    let wait = moment(after)?.duration_since(moment(text(DATE)?)?).unwrap_or_default();
    Some(Micros::from_secs(wait.as_secs()))
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
            assert!(address(good, &Connection::default()).is_ok(), "{good}");
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
            let error = address(bad, &Connection::default()).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
            let plain = Connection { plain_http: true, ..Connection::default() };
            let elsewhere = ["http://issuer.example", "http://localhost.evil.example/", "http://10.0.0.1/"];
            assert_eq!(address(bad, &plain).is_ok(), elsewhere.contains(&bad), "{bad}");
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

    #[test]
    fn only_an_answer_that_speaks_of_the_very_document_confirms_it() {
        let confirms = |known: &'static str, status: u16, tag: Option<&str>| {
            let answer = http::Response::builder().status(status);
            let answer = tag.into_iter().fold(answer, |answer, tag| answer.header(ETAG, tag)).body("").unwrap();
            let url = Url::parse("https://issuer.example/keys").unwrap();
            let tag = HeaderValue::from_static(known);
            let document = Document { url, tag, body: [].into(), max_age: None, confirmed: 0 };
            document.is_confirmed_by(&answer.into())
        };
        assert!(confirms("\"1\"", 304, None) && confirms("\"1\"", 304, Some("\"1\"")));
        assert!(confirms("W/\"1\"", 304, Some("\"1\"")) && confirms("\"1\"", 304, Some("W/\"1\"")));
        assert!(!confirms("\"1\"", 304, Some("\"2\"")));
        assert!(!confirms("\"1\"", 200, Some("\"1\"")) && !confirms("\"1\"", 302, None));
    }

    #[test]
    fn how_long_a_server_wants_to_be_left_alone_is_read_in_seconds_or_by_its_own_clock() {
        let wait = |after: &str, date: Option<&str>| {
            let header = |name, value: &str| (name, HeaderValue::from_str(value).unwrap());
            let date = date.map(|date| header(DATE, date));
            let headers = [header(RETRY_AFTER, after)].into_iter().chain(date).collect();
            retry_after(&headers).map(Micros::as_secs)
        };
        let now = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!((wait("120", None), wait(" 120 ", now)), (Some(120), Some(120)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:07 GMT", now), Some(30));
        // The forms that recipients must know, too (RFC 9110 §5.6.7).
        assert_eq!(wait("Sunday, 06-Nov-94 08:50:07 GMT", now), Some(30));
        assert_eq!(wait("Sun Nov  6 08:50:07 1994", now), Some(30));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:07 GMT", now), Some(0), "over already");
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:07 GMT", None), None);
        for after in ["soon", "-1", "1.5", "", "1994-11-06T08:50:07Z"] {
            assert_eq!(wait(after, now), None, "{after}");
        }
    }

    /// A server for one TLS connection after another, which answers each with the certificates that it was shown and the
    /// request's head.
    fn tls_server(server: rustls::ServerConfig) -> u16 {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Arc::new(server);
        std::thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                let mut tls = rustls::ServerConnection::new(Arc::clone(&server)).unwrap();
                let mut head = Vec::new();
                let mut stream = rustls::Stream::new(&mut tls, &mut socket);
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                    head.push(byte[0]);
                }
                let shown = tls.peer_certificates().map_or(0, <[_]>::len);
                let body = format!("{shown} {}", String::from_utf8_lossy(&head));
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                let _ = rustls::Stream::new(&mut tls, &mut socket).write_all(answer.as_bytes());
                tls.send_close_notify();
                let _ = tls.complete_io(&mut socket);
            }
        });
        port
    }

    #[tokio::test]
    async fn a_private_authority_a_client_certificate_a_token_and_headers_are_used_where_the_configuration_leads() {
        use crate::domain::secret::Secret;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let names = vec!["localhost".to_owned()];
        let own = rcgen::generate_simple_self_signed(names.clone()).unwrap();
        let client = rcgen::generate_simple_self_signed(names).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(client.cert.der().to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
            .with_single_cert(
                vec![own.cert.der().clone()],
                PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap(),
            )
            .unwrap();
        let url = Url::parse(&format!("https://localhost:{}/keys", tls_server(server))).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "first\n").unwrap();
        let trusting = Connection { ca: Some(own.cert.pem()), ..Connection::default() };
        let whole = Connection {
            certificate: Some(ClientCertificate {
                chain: client.cert.pem(),
                key: Secret::new(client.signing_key.serialize_pem()),
            }),
            token: Some(token.clone()),
            headers: vec![("x-api-key".to_owned(), Secret::new("k1".to_owned()))],
            ..trusting.clone()
        };
        let answer = async |connection: &Connection, home: &str| {
            let fetched = Fetcher::new(connection, [home].into_iter()).unwrap().fetch(&url).await;
            fetched.map(|fetched| String::from_utf8(fetched.body).unwrap()).map_err(|error| error.sentence)
        };
        let stranger = answer(&Connection::default(), url.as_str()).await;
        assert!(stranger.unwrap_err().contains("cannot be read"), "the system's authorities do not know it");
        let plain = answer(&trusting, url.as_str()).await.unwrap();
        assert!(plain.starts_with("0 GET") && !plain.contains("authorization"), "{plain}");
        let shown = answer(&whole, url.as_str()).await.unwrap();
        assert!(shown.starts_with("1 GET") && shown.contains("x-api-key: k1"), "{shown}");
        assert!(shown.contains("authorization: Bearer first\r\n"), "{shown}");
        let elsewhere = answer(&whole, "https://other.example").await.unwrap();
        assert!(!elsewhere.contains("first") && !elsewhere.contains("k1"), "metadata may name any place: {elsewhere}");
        // Renewed in place, by the same client.
        let fetcher = Fetcher::new(&whole, [url.as_str()].into_iter()).unwrap();
        std::fs::write(&token, "second").unwrap();
        assert!(String::from_utf8(fetcher.fetch(&url).await.unwrap().body).unwrap().contains("Bearer second\r\n"));
        std::fs::write(&token, "\n").unwrap();
        assert!(fetcher.fetch(&url).await.unwrap_err().sentence.contains("holds no token"));
        std::fs::remove_file(&token).unwrap();
        assert!(fetcher.fetch(&url).await.unwrap_err().sentence.contains("cannot be read"));
    }

    #[test]
    fn certificates_and_headers_that_cannot_be_used_are_named_at_once_without_their_secrets() {
        use crate::domain::secret::Secret;
        let connection = Connection::default;
        let secret = || Secret::new("hunter2\n".to_owned());
        let certificate = Some(ClientCertificate { chain: "x".to_owned(), key: secret() });
        for bad in [
            Connection { ca: Some("nothing".to_owned()), ..connection() },
            Connection { certificate, ..connection() },
            Connection { headers: vec![("a b".to_owned(), secret())], ..connection() },
            Connection { headers: vec![("a".to_owned(), secret())], ..connection() },
        ] {
            let why = Fetcher::new(&bad, std::iter::empty()).err().unwrap();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[tokio::test]
    async fn a_link_local_name_has_no_address() {
        let resolved = Resolver.resolve("169.254.169.254".parse().unwrap()).await;
        assert!(resolved.is_err());
        assert!(Resolver.resolve("127.0.0.1".parse().unwrap()).await.is_ok());
    }
}

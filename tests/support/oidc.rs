//! A real OpenID provider on loopback: `tests/oidc/provider.mjs`, run by node.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use url::form_urlencoded::Serializer;

use super::authority::{Authority, Holder};
use super::{Process, Signal, root};

/// How long the provider may take to start, on a machine that is busy with other tests.
const START_MAX: Duration = Duration::from_secs(30);

/// How long one of its answers may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Set to skip the tests that need the provider.
const SKIP: &str = "TOLLGATE_TEST_SKIP_OIDC";

const REMEDY: &str = "run ./scripts/test, which installs what the tests need (or set TOLLGATE_TEST_SKIP_OIDC=1)";

/// Who asks for tokens. The names are those that `provider.mjs` knows; each is its tokens' `sub` and `client_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// May have `orders:read`; has the role `USER`.
    Reader,
    /// May have `orders:read` and `orders:write`; has the role `USER`.
    Writer,
    /// May have both scopes; has the roles `USER` and `ADMIN`.
    Admin,
    /// May have `orders:read`; has no role.
    Nobody,
}

impl Client {
    /// Its id.
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::Reader => "orders-reader",
            Self::Writer => "orders-writer",
            Self::Admin => "orders-admin",
            Self::Nobody => "orders-nobody",
        }
    }
}

/// What signs a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signature {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Signature {
    /// Each of them.
    pub(crate) const ALL: [Self; 3] = [Self::Rs256, Self::Es256, Self::EdDsa];

    /// The registered name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// What becomes of the keys that new ones follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OldKeys {
    /// They stay published: their tokens go on being good.
    Kept,
    /// They go at once, as after a leak.
    Dropped,
}

/// The provider. Stopped when dropped.
pub(crate) struct Oidc {
    /// None while it is stopped.
    process: Option<Process>,
    issuer: String,
    port: u16,
    http: reqwest::Client,
    /// Holds the signing keys, so that they outlive a stop, and what it needs for TLS.
    folder: TempDir,
    secured: bool,
}

impl Oidc {
    /// Starts a provider with fresh keys on a free port; none when the environment says to skip it.
    ///
    /// Fails the test when node or its packages are not installed.
    pub(crate) async fn start() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self::start_in(folder, false, reqwest::Client::builder()).await
    }

    /// The same by https, with a certificate of `authority`, who signs its clients', too. Every token is bound to the
    /// certificate of `holder`, who asks for them.
    pub(crate) async fn start_secured(authority: &Authority, holder: &Holder) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let own = authority.day(&["localhost"]);
        for (name, text) in [("server.pem", &own.certificate), ("server.key", &own.key), ("ca.pem", &authority.pem())] {
            fs::write(folder.path().join(name), text).expect("it is ours");
        }
        let known = reqwest::Certificate::from_pem(authority.pem().as_bytes()).expect("it is a certificate");
        let shown = format!("{}{}", holder.certificate, holder.key);
        let shown = reqwest::Identity::from_pem(shown.as_bytes()).expect("it is a certificate and its key");
        Self::start_in(folder, true, reqwest::Client::builder().tls_certs_only([known]).identity(shown)).await
    }

    async fn start_in(folder: TempDir, secured: bool, http: reqwest::ClientBuilder) -> Option<Self> {
        if env::var_os(SKIP).is_some_and(|value| value == "1") {
            return None;
        }
        let http = http.no_proxy().timeout(ANSWER_MAX).build().expect("nothing can be amiss");
        let mut provider = Self { process: None, issuer: String::new(), port: 0, http, folder, secured };
        provider.restart().await;
        Some(provider)
    }

    /// Starts it again, with the keys and on the port that it had.
    pub(crate) async fn restart(&mut self) {
        self.stop();
        let folder = root().join("tests/oidc");
        assert!(folder.join("node_modules/oidc-provider").is_dir(), "oidc-provider is not installed; {REMEDY}");
        let mut command = Command::new("node");
        command.arg(folder.join("provider.mjs"));
        command.arg("--port").arg(self.port.to_string());
        command.arg("--keys").arg(self.folder.path().join("keys.json"));
        if self.secured {
            command.arg("--tls").arg(self.folder.path());
        }
        let mut process = Process::start(command, REMEDY);
        let ready = process.line(START_MAX).await;
        let ready: Value = serde_json::from_str(&ready).expect("its first line is JSON");
        ready["issuer"].as_str().expect("it names its issuer").clone_into(&mut self.issuer);
        self.port = ready["port"].as_u64().and_then(|port| port.try_into().ok()).expect("it names its port");
        self.process = Some(process);
    }

    /// Ends it: connections are refused until it is started again.
    pub(crate) fn stop(&mut self) {
        self.process = None;
    }

    /// Lets it stand still: connections are accepted by the kernel, and nothing is answered.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::Stop);
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    pub(crate) fn thaw(&self) {
        self.signal(Signal::Continue);
    }

    fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("the provider runs").signal(signal);
    }

    /// Its `iss`; discovery is below it.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// An access token for `audience`, which is `https://NAME.example`; `scopes` are separated by spaces.
    pub(crate) async fn token(&self, client: Client, audience: &str, signature: Signature, scopes: &str) -> String {
        self.asked_for(client, audience, signature.name(), scopes, None).await
    }

    /// The same without scopes, bound to the key that made `proof` (RFC 9449 §5); without a signature one that only the
    /// provider can read.
    pub(crate) async fn bound_token(
        &self,
        client: Client,
        audience: &str,
        signature: Option<Signature>,
        proof: &str,
    ) -> String {
        self.asked_for(client, audience, signature.map_or("opaque", Signature::name), "", Some(proof)).await
    }

    /// An access token that only the provider can read.
    pub(crate) async fn opaque_token(&self, client: Client, audience: &str, scopes: &str) -> String {
        self.asked_for(client, audience, "opaque", scopes, None).await
    }

    async fn asked_for(&self, client: Client, audience: &str, form: &str, scopes: &str, proof: Option<&str>) -> String {
        let resource = format!("{audience}/{form}");
        let mut fields = vec![("grant_type", "client_credentials"), ("resource", &resource)];
        if !scopes.is_empty() {
            fields.push(("scope", scopes));
        }
        let answer = self.post(client, "token", &fields, proof).await;
        let fields: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        let token = fields["access_token"].as_str();
        token.unwrap_or_else(|| panic!("{client:?} gets no token for {audience}: {answer}")).to_owned()
    }

    /// Takes a token of that client's back (RFC 7009).
    pub(crate) async fn take_back(&self, client: Client, token: &str) {
        let answer = self.post(client, "token/revocation", &[("token", token)], None).await;
        assert_eq!(answer, "", "an error would be told");
    }

    /// What the provider answers when that client posts a form, with a `DPoP` proof where there is one.
    async fn post(&self, client: Client, place: &str, fields: &[(&str, &str)], proof: Option<&str>) -> String {
        let mut form = Serializer::new(String::new());
        form.append_pair("client_id", client.id());
        form.append_pair("client_secret", &format!("secret of {}", client.id()));
        form.extend_pairs(fields);
        let request = self.http.post(format!("{}/{place}", self.issuer)).body(form.finish());
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let request = proof.into_iter().fold(request, |request, proof| request.header("dpop", proof));
        request.send().await.expect("the provider answers").text().await.expect("it answers in text")
    }

    /// Tells logouts to `uri` from now on, with the session's id, which tokens have then, too; or without.
    pub(crate) async fn tell_logouts(&self, uri: &str, with_session: bool) {
        let query = Serializer::new(String::new()).append_pair("uri", uri).finish();
        self.control(&format!("logout?{query}&session={with_session}")).await;
    }

    /// Signs with new keys, with new key ids, from now on.
    pub(crate) async fn rotate(&self, old: OldKeys) {
        self.control(&format!("rotate?keep={}", old == OldKeys::Kept)).await;
    }

    /// Tokens live for so many seconds from now on; 600 at first.
    pub(crate) async fn live_for(&self, seconds: u32) {
        self.control(&format!("lifetime?seconds={seconds}")).await;
    }

    async fn control(&self, command: &str) {
        let request = self.http.post(format!("{}/control/{command}", self.issuer));
        let status = request.send().await.expect("the provider answers").status();
        assert!(status.is_success(), "{command}: {status}");
    }

    /// The text at `path` below the issuer; none when nothing answers.
    pub(crate) async fn page(&self, path: &str) -> Option<String> {
        self.http.get(format!("{}{path}", self.issuer)).send().await.ok()?.text().await.ok()
    }
}

/// Where the shop takes people back who have logged in.
const CALLBACK: &str = "https://shop.example/callback";

/// The browser of somebody who logs in and out.
pub(crate) struct Browser<'p> {
    provider: &'p Oidc,
    http: reqwest::Client,
    cookies: BTreeMap<String, String>,
}

impl<'p> Browser<'p> {
    /// One without a session.
    pub(crate) fn new(provider: &'p Oidc) -> Self {
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = http.timeout(ANSWER_MAX).build().expect("nothing can be amiss");
        Self { provider, http, cookies: BTreeMap::new() }
    }

    /// Logs `user` in at the shop. Answers the access token for `audience` that the shop gets, which may read orders.
    pub(crate) async fn log_in(&mut self, user: &str, audience: &str, signature: Signature) -> String {
        let resource = format!("{audience}/{}", signature.name());
        let query = Serializer::new(String::new())
            .extend_pairs([("client_id", "shop"), ("response_type", "code"), ("redirect_uri", CALLBACK)])
            .extend_pairs([("scope", "openid orders:read"), ("resource", &resource)])
            .finish();
        let mut place = self.sent_on(&format!("/auth?{query}"), None).await;
        for _ in 0..8 {
            if let Some(answer) = place.strip_prefix(CALLBACK) {
                let answer = url::form_urlencoded::parse(answer.trim_start_matches('?').as_bytes());
                let code = answer.into_iter().find(|(name, _)| name == "code").expect("nothing went wrong").1;
                return self.token(&code, &resource).await;
            }
            // First who it is, then that the shop may know it.
            let who = [("prompt", "login"), ("login", user), ("password", "any")];
            let form: Option<&[_]> = match place.contains("/interaction/") {
                true if self.cookies.contains_key("_session") => Some(&[("prompt", "consent")]),
                true => Some(&who),
                false => None,
            };
            place = self.sent_on(&place, form).await;
        }
        panic!("{user} cannot log in: {place}");
    }

    /// Ends the session.
    pub(crate) async fn log_out(&mut self) {
        let page = self.go("/session/end", None).await.text().await.expect("it is a page");
        let secret = page.split_once(r#"name="xsrf" value=""#).and_then(|(_, rest)| rest.split_once('"'));
        let (secret, _) = secret.unwrap_or_else(|| panic!("no form: {page}"));
        let form = [("xsrf", secret), ("logout", "yes")];
        let ended = self.go("/session/end/confirm", Some(&form)).await;
        assert!(ended.status().is_redirection(), "{}", ended.status());
    }

    async fn token(&self, code: &str, resource: &str) -> String {
        let mut form = Serializer::new(String::new());
        form.extend_pairs([("client_id", "shop"), ("client_secret", "secret of shop"), ("code", code)]);
        form.extend_pairs([("grant_type", "authorization_code"), ("redirect_uri", CALLBACK), ("resource", resource)]);
        let request = self.http.post(format!("{}/token", self.provider.issuer)).body(form.finish());
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.send().await.expect("the provider answers").text().await.expect("it answers in text");
        let fields: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        fields["access_token"].as_str().unwrap_or_else(|| panic!("no token: {answer}")).to_owned()
    }

    /// Where a page leads to.
    async fn sent_on(&mut self, place: &str, form: Option<&[(&str, &str)]>) -> String {
        let answer = self.go(place, form).await;
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok()).map(str::to_owned);
        match location {
            Some(location) => location,
            None => panic!("{place} leads nowhere: {}", answer.text().await.unwrap_or_default()),
        }
    }

    /// Opens a page of the provider, or sends it a form.
    async fn go(&mut self, place: &str, form: Option<&[(&str, &str)]>) -> reqwest::Response {
        let issuer = &self.provider.issuer;
        let url = if place.starts_with('/') { format!("{issuer}{place}") } else { place.to_owned() };
        let request = match form {
            None => self.http.get(url),
            Some(fields) => {
                let body = Serializer::new(String::new()).extend_pairs(fields).finish();
                self.http.post(url).header("content-type", "application/x-www-form-urlencoded").body(body)
            }
        };
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let answer = request.header("cookie", cookies.join("; ")).send().await.expect("the provider answers");
        for cookie in answer.headers().get_all("set-cookie") {
            let cookie = cookie.to_str().expect("it is ASCII").split(';').next().unwrap_or_default();
            match cookie.split_once('=') {
                Some((name, "")) => drop(self.cookies.remove(name)),
                Some((name, value)) => drop(self.cookies.insert(name.to_owned(), value.to_owned())),
                None => {}
            }
        }
        answer
    }
}

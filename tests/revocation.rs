//! Taking back over real sockets: by gRPC, by RFC 7009, from the command line; and what is refused.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tollgate::decide::ports::Clock as _;
use tollgate::proto as pb;
use tollgate::proto::revoke_target::Kind;
use tollgate::server::dev::DevIssuer;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::program::run;
use crate::support::server::{SOON, Tollgate};
use crate::support::signer::Signer;

const ISSUER: &str = "https://dev.tollgate.invalid";

/// A server with two issuers, of which one is the test's own, clients that may revoke their own tokens or all, and a rule for
/// whoever has a token.
struct Bench {
    tollgate: Tollgate,
    issuer: DevIssuer,
    signer: Signer,
}

impl Bench {
    async fn start() -> Self {
        Self::start_with("").await
    }

    /// `settings`: of the test's own issuer.
    async fn start_with(settings: &str) -> Self {
        let issuer = DevIssuer::new().expect("the system has randomness");
        let signer = Signer::ec("a");
        let yaml = format!(
            "issuers:
  - {{ issuer: '{ISSUER}', audiences: [demo], operators: true, jwks: {{ keys: [{}] }} }}
  - {{ issuer: own, audiences: [demo], jwks: {{ keys: [{}] }}{settings} }}
clients:
  - {{ id: demo-client, secret: the secret of the demo }}
  - {{ id: desk, secret: the secret of the desk, scopes: ['tollgate:revoke'] }}
rules: [{{ match: {{ path: /** }} }}]
",
            issuer.public_key(),
            signer.jwk()
        );
        Self { tollgate: Tollgate::start(&yaml).await, issuer, signer }
    }

    fn now(&self) -> u64 {
        self.tollgate.clock.now().wall.as_secs()
    }

    /// A token of the first issuer, about `subject`, with an id, for `demo-client`.
    fn token(&self, subject: &str, scope: &str) -> String {
        self.issuer.token(subject, scope, self.tollgate.clock.now().wall).expect("the system has randomness")
    }

    fn operator(&self) -> String {
        format!("Bearer {}", self.token("root", "tollgate:revoke"))
    }

    /// A token of the test's own issuer with these claims besides, or instead of, the usual ones.
    fn own(&self, claims: &Value) -> String {
        let now = self.now();
        let mut all = json!({ "iss": "own", "sub": "bob", "aud": "demo", "iat": now, "exp": now + 3_600 });
        for (name, value) in claims.as_object().expect("claims are an object") {
            all[name] = value.clone();
        }
        self.signer.token(&all)
    }

    async fn verdict(&self, token: &str) -> String {
        self.tollgate.verdict("GET", "/", Some(token)).await
    }

    async fn revoke(&self, authorization: &str, request: pb::RevokeRequest) -> Result<Vec<pb::RevokeResult>, Status> {
        let answer = self.tollgate.tokens().await.revoke(with(authorization, request)).await;
        answer.map(|answer| answer.into_inner().results)
    }

    /// The entry that an operator's wish leads to.
    async fn entry(&self, kind: Kind) -> pb::Revocation {
        let mut results = self.revoke(&self.operator(), wish([kind])).await.expect("an operator may");
        let pb::RevokeResult { outcome: _, revocation } = results.remove(0);
        revocation.expect("it was written")
    }

    /// The status, headers and body that a form to `/oauth2/revoke` is answered with.
    async fn form(&self, authorization: &str, form: &[(&str, &str)]) -> (u16, reqwest::header::HeaderMap, String) {
        let url = format!("http://{}/oauth2/revoke", self.tollgate.server.http);
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        let client = reqwest::Client::builder().no_proxy().timeout(SOON).build().expect("nothing can be amiss");
        let request = client.post(url).header("content-type", "application/x-www-form-urlencoded").body(body.finish());
        let answer = request.header("authorization", authorization).send().await.expect("it answers");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        (status, headers, answer.text().await.expect("it answers in text"))
    }

    /// How many entries there are.
    async fn entries(&self) -> usize {
        self.listed(pb::ListRevocationsRequest::default()).await.len()
    }

    async fn listed(&self, mut request: pb::ListRevocationsRequest) -> Vec<pb::Revocation> {
        // By their ids: one may be listed twice.
        let mut all = BTreeMap::new();
        for _ in 0..100 {
            let asked = with(&self.operator(), request.clone());
            let page =
                self.tollgate.tokens().await.list_revocations(asked).await.expect("an operator may").into_inner();
            all.extend(page.revocations.into_iter().map(|entry| (entry.id.clone(), entry)));
            if page.next_page_token.is_empty() {
                return all.into_values().collect();
            }
            request.page_token = page.next_page_token;
        }
        panic!("the listing does not end")
    }
}

fn with<T>(authorization: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::try_from(authorization).expect("it can be a header");
    request.metadata_mut().insert("authorization", value);
    request
}

fn wish(kinds: impl IntoIterator<Item = Kind>) -> pb::RevokeRequest {
    let targets = kinds.into_iter().map(|kind| pb::RevokeTarget { kind: Some(kind) }).collect();
    pb::RevokeRequest { targets, ..pb::RevokeRequest::default() }
}

fn named(issuer: &str, name: &str) -> pb::IssuedName {
    pb::IssuedName { issuer: issuer.to_owned(), name: name.to_owned() }
}

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

const REVOKED: &str = "deny revoked";

#[tokio::test]
async fn every_kind_hits_what_it_names_at_once_and_nothing_else() {
    let bench = Bench::start().await;
    let claims =
        |id: &str| json!({ "jti": id, "sid": format!("s-{id}"), "sub": format!("sub-{id}"), "azp": format!("c-{id}") });
    let kinds = [
        ("a", Kind::Jti(named("own", "a"))),
        ("b", Kind::Session(named("own", "s-b"))),
        ("c", Kind::Subject(named("own", "sub-c"))),
        ("d", Kind::Client(named("own", "c-d"))),
        ("e", Kind::Token(bench.own(&claims("e")))),
    ];
    let other = bench.own(&claims("other"));
    for (id, kind) in kinds {
        let token = bench.own(&claims(id));
        assert_eq!(bench.verdict(&token).await, "allow", "{id}: remembered as good");
        let entry = bench.entry(kind).await;
        assert_eq!(bench.verdict(&token).await, REVOKED, "{id}");
        assert_eq!(bench.verdict(&other).await, "allow", "{id}");
        let later = bench.own(&json!({ "jti": "later", "sid": format!("s-{id}"), "sub": "x", "azp": "y" }));
        let session = if id == "b" { REVOKED } else { "allow" };
        assert_eq!(bench.verdict(&later).await, session, "{id}: a later token of the session");
        // Undone, it is good again; and undoing it twice says that nothing was there.
        let undo = || pb::UnrevokeRequest { id: entry.id.clone(), reason: "a mistake".to_owned() };
        let gone = bench.tollgate.tokens().await.unrevoke(with(&bench.operator(), undo())).await;
        assert_eq!(gone.expect("it was there").into_inner().revocation.map(|gone| gone.id), Some(entry.id.clone()));
        bench.tollgate.comes_to("allow", "GET", "/", Some(&token)).await;
        let again = bench.tollgate.tokens().await.unrevoke(with(&bench.operator(), undo())).await;
        assert_eq!(again.expect_err("it is gone").code(), Code::NotFound);
    }
    bench.entry(Kind::Issuer("own".to_owned())).await;
    assert_eq!(bench.verdict(&other).await, REVOKED);
    assert_eq!(bench.verdict(&bench.token("ann", "")).await, "allow", "another issuer's");
}

#[tokio::test]
async fn a_token_of_the_very_second_is_refused_and_one_of_the_next_is_not() {
    let bench = Bench::start().await;
    let old = bench.own(&json!({}));
    bench.entry(Kind::Subject(named("own", "bob"))).await;
    assert_eq!(bench.verdict(&old).await, REVOKED);
    let same_second = bench.own(&json!({ "jti": "new" }));
    assert_eq!(bench.verdict(&same_second).await, REVOKED, "`iat` has whole seconds");
    bench.tollgate.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.verdict(&bench.own(&json!({}))).await, "allow", "a login after that");
    assert_eq!(bench.verdict(&old).await, REVOKED);
}

#[tokio::test]
async fn of_a_clock_that_is_ahead_later_tokens_are_hit_too() {
    let bench = Bench::start_with(", clock_ahead: 5s").await;
    let stamped = |ahead: u64| bench.own(&json!({ "iat": bench.now() + ahead }));
    let (within, beyond) = (stamped(5), stamped(6));
    bench.entry(Kind::Subject(named("own", "bob"))).await;
    assert_eq!(bench.verdict(&within).await, REVOKED);
    assert_eq!(bench.verdict(&beyond).await, "allow");
}

#[tokio::test]
async fn both_spellings_of_a_signature_are_refused() {
    let bench = Bench::start().await;
    let token = bench.own(&json!({}));
    let (signed, signature) = token.rsplit_once('.').expect("it has three parts");
    let mut signature = URL_SAFE_NO_PAD.decode(signature).expect("it is base64url");
    mirror(&mut signature[32..]);
    let twin = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    assert_ne!(token, twin);
    for token in [&token, &twin] {
        assert_eq!(bench.verdict(token).await, "allow");
    }
    let entry = bench.entry(Kind::Token(token.clone())).await;
    assert_eq!(entry.kind(), pb::RevocationKind::UnnamedToken);
    for token in [&token, &twin] {
        assert_eq!(bench.verdict(token).await, REVOKED);
    }
}

/// `n − s`, for the order `n` of the curve P-256: the other `s` that makes a good signature with the same `r`.
fn mirror(s: &mut [u8]) {
    const N: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut borrow = 0_i16;
    for (digit, n) in s.iter_mut().zip(N).rev() {
        let difference = i16::from(n) - i16::from(*digit) - borrow;
        borrow = i16::from(difference < 0);
        *digit = u8::try_from(difference.rem_euclid(256)).expect("it is a digit");
    }
}

#[tokio::test]
async fn a_signing_key_is_named_by_its_kid_or_its_thumbprint() {
    let bench = Bench::start().await;
    let signing_key = |key| Kind::SigningKey(pb::SigningKey { issuer: "own".to_owned(), key: Some(key) });
    let token = bench.own(&json!({}));
    let by_kid = bench.entry(signing_key(pb::signing_key::Key::Kid("a".to_owned()))).await;
    assert_eq!(bench.verdict(&token).await, REVOKED);
    assert_eq!((by_kid.name.len(), by_kid.until), (43, None));
    let by_thumbprint = bench.entry(signing_key(pb::signing_key::Key::Thumbprint(by_kid.name.clone()))).await;
    assert_eq!(by_thumbprint.id, by_kid.id);
    let unknown = wish([signing_key(pb::signing_key::Key::Kid("b".to_owned()))]);
    let status = bench.revoke(&bench.operator(), unknown).await.expect_err("no key is called so");
    assert_eq!(fields(&status), ["targets[0].signing_key.kid"]);
}

fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let bad = status.get_details_bad_request().expect("it names the fields");
    bad.field_violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test]
async fn what_is_malformed_is_told_with_every_field_and_nothing_is_written() {
    let bench = Bench::start().await;
    let long = "x".repeat(1_025);
    let timestamp = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let bare = || pb::RevokeTarget { kind: None };
    let key = |key| Kind::SigningKey(pb::SigningKey { issuer: "own".to_owned(), key });
    let good = || Kind::Session(named("own", "s"));
    let requests = [
        (wish([]), vec!["targets"]),
        (wish((0..201).map(|_| good())), vec!["targets"]),
        (pb::RevokeRequest { reason: "y".repeat(1024 * 1024), ..wish([good()]) }, vec!["reason"]),
        (pb::RevokeRequest { reason: "y".repeat(513), ..wish([good()]) }, vec!["reason"]),
        (pb::RevokeRequest { reason: format!("leaked: {}", bench.own(&json!({}))), ..wish([good()]) }, vec!["reason"]),
        (pb::RevokeRequest { targets: vec![bare(), bare()], ..wish([]) }, vec!["targets[0]", "targets[1]"]),
        (
            wish([Kind::Jti(named("", "")), Kind::Subject(named("own", &long)), Kind::Issuer(long.clone())]),
            vec!["targets[0].jti.issuer", "targets[0].jti.name", "targets[1].subject.name", "targets[2].issuer"],
        ),
        (wish([Kind::Jti(named("own", &bench.own(&json!({}))))]), vec!["targets[0].jti.name"]),
        (
            wish([Kind::Token(String::new()), Kind::ApiKey("short".to_owned())]),
            vec!["targets[0].token", "targets[1].api_key"],
        ),
        (
            wish([key(None), key(Some(pb::signing_key::Key::Thumbprint("AAAA".to_owned())))]),
            vec!["targets[0].signing_key", "targets[1].signing_key.thumbprint"],
        ),
        (pb::RevokeRequest { issued_before: timestamp(5, 0), ..wish([good()]) }, vec!["issued_before"]),
        (
            pb::RevokeRequest { issued_before: timestamp(-1, 0), ..wish([Kind::Issuer("own".to_owned())]) },
            vec!["issued_before"],
        ),
        (
            pb::RevokeRequest { issued_before: timestamp(1, 1_000_000_000), ..wish([Kind::Issuer("own".to_owned())]) },
            vec!["issued_before"],
        ),
        (wish([good(), Kind::Session(named("Own", "s"))]), vec!["targets[1].session.issuer"]),
    ];
    for (request, wrong) in requests {
        let status = bench.revoke(&bench.operator(), request).await.expect_err("it is malformed");
        assert_eq!(fields(&status), wrong);
        assert!(status.message().len() < 2_048, "{}", status.message().len());
    }
    for id in ["", "x", &"A".repeat(32), &"0".repeat(31)] {
        let request = pb::UnrevokeRequest { id: id.to_owned(), reason: String::new() };
        let status = bench.tollgate.tokens().await.unrevoke(with(&bench.operator(), request)).await;
        assert_eq!(fields(&status.expect_err("it is no id")), ["id"], "{id}");
    }
    let request = pb::ListRevocationsRequest { kind: 99, page_token: "x".to_owned(), ..Default::default() };
    let status = bench.tollgate.tokens().await.list_revocations(with(&bench.operator(), request)).await;
    assert_eq!(fields(&status.expect_err("it is malformed")), ["page_token", "kind"]);
    assert_eq!(bench.entries().await, 0);
}

#[tokio::test]
async fn a_moment_in_the_far_past_hits_nothing_and_says_so_and_one_ahead_counts_as_now() {
    let bench = Bench::start().await;
    let token = bench.own(&json!({}));
    let at = |seconds| {
        let issued_before = Some(prost_types::Timestamp { seconds, nanos: 0 });
        pb::RevokeRequest { issued_before, ..wish([Kind::Subject(named("own", "bob"))]) }
    };
    let past = bench.revoke(&bench.operator(), at(1)).await.expect("it is well formed").remove(0);
    assert_eq!((past.outcome(), past.revocation), (pb::RevokeOutcome::NothingLeft, None));
    assert_eq!(bench.verdict(&token).await, "allow");
    let ahead = bench.revoke(&bench.operator(), at(253_402_300_799)).await.expect("it is well formed").remove(0);
    let entry = ahead.revocation.expect("it was written");
    assert_eq!(entry.issued_before, entry.revoked_at);
    bench.tollgate.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.verdict(&token).await, REVOKED);
    assert_eq!(bench.verdict(&bench.own(&json!({}))).await, "allow", "issued after the revocation");
}

#[tokio::test]
async fn who_may_not_is_refused_and_nothing_is_written() {
    let bench = Bench::start().await;
    let wish = || wish([Kind::Subject(named("own", "bob"))]);
    let plain = format!("Bearer {}", bench.token("ann", "tollgate:introspect tollgate:quota"));
    let foreign = format!("Bearer {}", bench.own(&json!({ "scope": "tollgate:revoke" })));
    let demo = basic("demo-client", "the secret of the demo");
    for (authorization, code) in [
        (plain.clone(), Code::PermissionDenied),
        (foreign, Code::PermissionDenied),
        (demo.clone(), Code::PermissionDenied),
        (basic("demo-client", "the secret of the desk"), Code::Unauthenticated),
        ("Bearer x".to_owned(), Code::Unauthenticated),
        ("Basic !".to_owned(), Code::Unauthenticated),
    ] {
        let refused = bench.revoke(&authorization, wish()).await.expect_err("it may not");
        assert_eq!(refused.code(), code, "{authorization}");
    }
    let nobody = bench.tollgate.tokens().await.revoke(wish()).await.expect_err("nobody may not");
    assert_eq!(nobody.code(), Code::Unauthenticated);
    for authorization in [&plain, &demo] {
        let mut tokens = bench.tollgate.tokens().await;
        let listed = tokens.list_revocations(with(authorization, pb::ListRevocationsRequest::default())).await;
        assert_eq!(listed.expect_err("it may not").code(), Code::PermissionDenied);
        let id = "0".repeat(32);
        let undone = tokens.unrevoke(with(authorization, pb::UnrevokeRequest { id, reason: String::new() })).await;
        assert_eq!(undone.expect_err("it may not").code(), Code::PermissionDenied);
    }
    assert_eq!(bench.entries().await, 0);
    let desk = basic("desk", "the secret of the desk");
    assert!(bench.revoke(&desk, wish()).await.is_ok(), "a client with the scope may");
    assert_eq!(bench.entries().await, 1);
    let refused = r#"tollgate_revocation_requests_total{way="grpc",outcome="refused"}"#;
    assert!(bench.tollgate.metric(refused).await > 9.5);
}

#[tokio::test]
async fn clients_end_their_own_tokens_by_rfc_7009_and_learn_nothing_of_others() {
    let bench = Bench::start().await;
    let demo = basic("demo-client", "the secret of the demo");
    let own = bench.token("ann", "a");
    let theirs = bench.own(&json!({ "azp": "another" }));
    let forged = format!("{}x", bench.token("ann", "b"));
    let expired = bench.own(&json!({ "azp": "demo-client", "exp": bench.now() - 100, "iat": bench.now() - 200 }));
    for token in [&theirs, &forged, &expired, "x", "a.b.c", "tg_aaaaaaaaaaaa_bbb"] {
        let (status, headers, body) = bench.form(&demo, &[("token", token)]).await;
        assert_eq!((status, body.as_str()), (200, ""), "{token}");
        assert_eq!(headers["cache-control"], "no-store");
    }
    assert_eq!(bench.entries().await, 0, "what is good nowhere, or another's, is not written down");
    assert_eq!(bench.verdict(&theirs).await, "allow");
    assert_eq!(bench.verdict(&own).await, "allow");
    // A hint is a hint, whatever it says (§2.1), and once more does no harm.
    for hint in ["access_token", "refresh_token", "made_up"] {
        let (status, _, body) = bench.form(&demo, &[("token", &own), ("token_type_hint", hint)]).await;
        assert_eq!((status, body.as_str()), (200, ""));
        assert_eq!(bench.verdict(&own).await, REVOKED);
        assert_eq!(bench.entries().await, 1);
    }
    let (status, ..) = bench.form(&bench.operator(), &[("token", &theirs)]).await;
    assert_eq!(status, 200);
    assert_eq!(bench.verdict(&theirs).await, REVOKED, "an operator may end every token");
}

#[tokio::test]
async fn what_rfc_7009_refuses_is_told_in_oauths_words() {
    let bench = Bench::start().await;
    let demo = basic("demo-client", "the secret of the demo");
    let token = bench.token("ann", "a");
    for (authorization, form, status, error) in [
        (demo.clone(), vec![], 400, "invalid_request"),
        (demo.clone(), vec![("token", "a"), ("token", "b")], 400, "invalid_request"),
        (basic("demo-client", "guessed at random"), vec![("token", token.as_str())], 401, "invalid_client"),
        (format!("Bearer {token}"), vec![("token", token.as_str())], 403, "insufficient_scope"),
        ("Bearer x".to_owned(), vec![("token", token.as_str())], 401, "invalid_token"),
    ] {
        let (got, headers, body) = bench.form(&authorization, &form).await;
        let told: Value = serde_json::from_str(&body).expect("it is JSON");
        assert_eq!((got, told["error"].as_str()), (status, Some(error)), "{body}");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers.contains_key("www-authenticate"), status > 400, "{headers:?}");
        if status == 403 {
            let challenge = headers["www-authenticate"].to_str().expect("it is text");
            assert!(challenge.contains(r#"scope="tollgate:revoke""#), "{challenge}");
        }
    }
    assert_eq!(bench.verdict(&token).await, "allow");
    let url = format!("http://{}/oauth2/revoke", bench.tollgate.server.http);
    let client = reqwest::Client::builder().no_proxy().timeout(SOON).build().expect("nothing can be amiss");
    let got = client.get(&url).send().await.expect("it answers");
    assert_eq!((got.status().as_u16(), got.headers()["allow"].as_bytes()), (405, b"POST".as_slice()));
    let query = client.post(format!("{url}?token={token}")).header("authorization", demo).send().await;
    assert_eq!(query.expect("it answers").status().as_u16(), 400);
    assert_eq!(bench.entries().await, 0);
}

#[tokio::test]
async fn a_flood_from_one_caller_is_refused_by_every_way_and_hinders_no_other() {
    let bench = Bench::start().await;
    let desk = basic("desk", "the secret of the desk");
    let call = || wish((0..200).map(|number| Kind::Session(named("own", &format!("s{number}")))));
    for _ in 0..50 {
        bench.revoke(&desk, call()).await.expect("so much is allowed");
    }
    let refused = bench.revoke(&desk, call()).await.expect_err("that is too much");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let wait = refused.get_details_retry_info().and_then(|info| info.retry_delay).expect("it says when");
    assert_eq!(wait, Duration::from_millis(200));
    let (status, headers, _) = bench.form(&desk, &[("token", "x")]).await;
    assert_eq!((status, headers["retry-after"].as_bytes()), (429, b"1".as_slice()));
    bench.revoke(&bench.operator(), call()).await.expect("another caller may");
    bench.tollgate.clock.advance(wait);
    bench.revoke(&desk, call()).await.expect("who waits as told is served");
}

#[tokio::test]
async fn an_entry_ends_when_nothing_is_left_for_it_and_listings_tell_what_it_is() {
    let bench = Bench::start().await;
    let desk = basic("desk", "the secret of the desk");
    let request = pb::RevokeRequest { reason: "phone lost".to_owned(), ..wish([Kind::Session(named("own", "s"))]) };
    bench.revoke(&desk, request).await.expect("it may");
    bench.entry(Kind::Jti(named(ISSUER, "j"))).await;
    let listed = |kind: pb::RevocationKind, issuer: &str| {
        bench.listed(pb::ListRevocationsRequest {
            kind: kind.into(),
            issuer: issuer.to_owned(),
            page_token: String::new(),
        })
    };
    let [session] = listed(pb::RevocationKind::Session, "").await.try_into().expect("there is one");
    let pb::Revocation { issuer, name, reason, by, until, revoked_at, .. } = session;
    assert_eq!([issuer, name, reason, by], ["own", "s", "phone lost", "client desk"]);
    let (until, at) = (until.expect("it ends"), revoked_at.expect("it was written"));
    // The longest life of a token, twice the leeway, and a minute for clocks.
    assert_eq!(until.seconds - at.seconds, 86_400 + 120 + 60);
    assert_eq!(listed(pb::RevocationKind::Unspecified, ISSUER).await.len(), 1);
    assert_eq!(listed(pb::RevocationKind::Session, ISSUER).await.len(), 0);
    assert_eq!(bench.entries().await, 2);
}

#[tokio::test]
async fn the_command_line_revokes_lists_and_undoes() {
    let bench = Bench::start().await;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("operator");
    std::fs::write(&file, bench.operator().trim_start_matches("Bearer ")).expect("the folder can be written to");
    let url = format!("http://{}", bench.tollgate.server.grpc);
    let file = file.to_str().expect("the path is UTF-8");
    let token = bench.own(&json!({ "jti": "a", "sid": "s" }));
    let command = async |arguments: &[&str]| {
        let how = ["--url", &url, "--operator-token-file", file];
        let arguments: Vec<String> = arguments.iter().chain(&how).map(|&text| text.to_owned()).collect();
        tokio::task::spawn_blocking(move || run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()))
            .await
            .expect("it ends")
    };
    let (code, out, complaint) = command(&["revoke", "session", "own", "s", "--reason", "lost", "--json"]).await;
    assert_eq!(code, 0, "{complaint}");
    let entry: Value = serde_json::from_str(&out).expect("it is JSON");
    assert_eq!((&entry["kind"], &entry["reason"]), (&json!("REVOCATION_KIND_SESSION"), &json!("lost")));
    assert_eq!(bench.verdict(&token).await, REVOKED);
    let (code, out, _) = command(&["revocations", "list", "--kind", "session"]).await;
    assert_eq!(code, 0);
    let id = entry["id"].as_str().expect("it has an id");
    assert!(out.starts_with(&format!("{id}  session  own  s  kept until ")), "{out}");
    assert!(out.ends_with(&format!("  by root of {ISSUER}  because lost\n")), "{out}");
    let (code, out, _) = command(&["unrevoke", id]).await;
    assert!(code == 0 && out.starts_with("undone: "), "{out}");
    bench.tollgate.comes_to("allow", "GET", "/", Some(&token)).await;
    let (code, _, complaint) = command(&["unrevoke", id]).await;
    assert_eq!((code, complaint.contains("no such entry")), (1, true), "{complaint}");

    let (code, out, _) = command(&["revoke", "token", &format!("{token}x")]).await;
    assert_eq!((code, out.contains("good nowhere")), (1, true), "{out}");
    let (code, out, _) = command(&["revoke", "subject", "own", "bob", "--before", "2001-01-01"]).await;
    assert_eq!((code, out.contains("nothing is left")), (1, true), "{out}");
    let (code, _, complaint) = command(&["revoke", "signing-key", "own", "--kid", "b"]).await;
    assert_eq!((code, complaint.contains("targets[0].signing_key.kid")), (2, true), "{complaint}");
    for arguments in [&["revoke", "signing-key", "own"][..], &["revoke", "session", "own"], &["revoke"]] {
        assert_eq!(command(arguments).await.0, 2, "{arguments:?}");
    }
    let asked = with_input(&["revoke", "token", "-", "--url", &url, "--operator-token-file", file], &token).await;
    assert_eq!(asked, 0);
    assert_eq!(bench.verdict(&token).await, REVOKED);
}

/// The exit code of the program when it reads `input`.
async fn with_input(arguments: &[&str], input: &str) -> i32 {
    use std::io::Write as _;
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(arguments).env_remove("TOLLGATE_OPERATOR_TOKEN").stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().expect("the program was built");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let ended = tokio::task::spawn_blocking(move || child.wait()).await.expect("it ends");
    ended.expect("a child can be waited for").code().expect("it ends by itself")
}

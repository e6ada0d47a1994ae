//! Configurations to values and to problems, and the schema and the reference held to what is read.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod files;
mod keys;
mod problems;
mod ratelimit;
mod schema;
mod texts;

use super::*;
use crate::domain::bucket::Flow;
use crate::domain::client::{Client, MayRevoke, Sight, secret_hash};
use crate::domain::connection::Connection;
use crate::domain::event::Events;
use crate::domain::expression::Expression;
use crate::domain::fixed::Grid;
use crate::domain::guard::{Guard, Origin, Sources};
use crate::domain::identity_headers::{Facet, IdentityHeader};
use crate::domain::introspection::{ClientAuth, Introspection};
use crate::domain::issuer::{Algorithm as Signing, BindingDemand, ClaimPath, KeySource};
use crate::domain::limit::{Algorithm, Attribute, WhenAway};
use crate::domain::network::{Network, Networks};
use crate::domain::path::Leniency;
use crate::domain::policy::{Attributes, Caller, HostPattern, ValuePattern};
use crate::domain::revocation::WhenBehind;
use crate::domain::slots::Slots;
use crate::domain::status::StatusLists;

/// The environment of the tests.
fn environment(name: &str) -> Option<String> {
    match name {
        "AUDIENCE" => Some("orders".to_owned()),
        "UNITS" => Some("7".to_owned()),
        "PASSWORD" => Some("hunter2".to_owned()),
        "EMPTY" => Some(String::new()),
        "WORDS" => Some("a, b]: ${AUDIENCE}".to_owned()),
        _ => None,
    }
}

fn read(yaml: &str) -> Result<(Config, Vec<Problem>), Problems> {
    parse(yaml, "t.yaml", &environment)
}

/// The configuration, without a warning.
#[track_caller]
fn good(yaml: &str) -> Config {
    match read(yaml) {
        Ok((config, warnings)) if warnings.is_empty() => config,
        Ok((_, warnings)) => panic!("{yaml}\n{warnings:?}"),
        Err(problems) => panic!("{yaml}\n{problems}"),
    }
}

/// Every problem, or every warning, one a line, without the file's name.
fn said(yaml: &str) -> String {
    let listed = match read(yaml) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems.listed,
    };
    let lines: Vec<String> =
        listed.iter().map(|problem| problem.to_string().strip_prefix("t.yaml:").unwrap().to_owned()).collect();
    lines.join("\n")
}

/// Every key that there is, at least once.
const EVERYTHING: &str = r#"
listen: { grpc: "0.0.0.0:1", http: "127.0.0.1:3", admin: "[::1]:2" }
store:
  redis:
    urls: [rediss://redis.example.com:6380/3]
    username: tollgate
    password: ${PASSWORD}
    deadline: 8ms
issuers:
  - issuer: https://auth.example.com/realms/myapp
    audiences: [orders, "${AUDIENCE}-${AUDIENCE}"]
  - issuer: partner
    audiences: [orders]
    algorithms: [ES256, Ed25519]
    types: [application/AT+JWT]
    untyped: true
    operators: true
    leeway: 0s
    clock_ahead: 5s
    max_token_lifetime: 1h
    binding: dpop
    max_age: 15m
    tenant_claim: [org, id]
    claims: { namespace: [kubernetes.io, namespace], plan: plan }
    required_claims: [sub]
    scope_claims: [permissions]
    role_claims: [[resource_access, "*", roles], groups]
    jwks:
      keys:
        - { kty: OKP, crv: Ed25519, x: 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo, key_ops: [verify], ext: true }
    connection: { headers: { X-Api-Key: "${PASSWORD}" }, plain_http: true }
    events: { audiences: [shop, https://rec.example], poll: "http://10.0.0.1/poll" }
    status_lists: { check: false, origins: ["https://status.example/", "http://10.0.0.1:8080"] }
    stale_for: 2d
    refresh_cooldown: 1m
  - issuer: https://other.example.com
    audiences: [orders]
    introspection:
      url: https://other.example.com/introspect
      client_id: tollgate
      client_secret: ${PASSWORD}
      auth: post
      cache: 1m
      deadline: 500ms
      jwt: true
      prefix: at_
    jwks: { url: "http://localhost:3000/jwks?x=y" }
  - issuer: shared
    audiences: [orders]
    algorithms: [HS256]
    secret: ${PASSWORD}-of-thirty-two-bytes-or-more
api_keys: { redis: true, operators: true }
clients:
  - { id: orders, secret: "${PASSWORD} and hunter3", audiences: [orders] }
  - { id: gateway, sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855, scopes: ['tollgate:revoke'] }
identity_headers: { x-tollgate-subject: subject, x-email: claims.email }
limits:
  per-subject: { units: 1000000000000, window: 366d, by: [identity.subject, path.id], when_away: allow }
  all: { units: 1, window: 100ms }
  from-the-environment: { units: "${UNITS}", window: 1m }
  spikes: { algorithm: token_bucket, rate: 10/s, burst: 20, by: [identity.client] }
  hourly: { algorithm: fixed_window, units: 3, window: 1h }
  at-once: { algorithm: concurrency, units: 10, hold: 30s, by: [identity.client] }
  knocks: { units: 9, window: 1m, by: [source.address], charge: before_auth }
  guesses: { units: 5, window: 1m, by: [source.address], charge: on_failure }
rules:
  - name: one order
    match: { method: [PUT, POST], host: "*.example.com", path: "/orders/{id}" }
    require: { names: [spiffe://td/ns/**], roles: [ADMIN, OWNER], scopes: ["orders:read"], issuers: [partner], audiences: [orders], actors: [], max_login_age: 5m, binding: dpop, when: path.id == identity.subject }
    limits: [guesses, per-subject, knocks, all]
    sources: { allow: [10.0.0.0/8, 192.0.2.7], deny: ["2001:db8::/32"] }
    max_body: 1MiB
    origins: [https://app.example.com, "http://localhost:3000"]
    refuse_method_override: true
    encoded_slash: allow
    path_parameters: strip
  - match: { method: GET, path: /public/**, headers: { x-tenant: [acme, "a b"], x-trace: "*" }, resource: { route: open } }
    permit: anyone
    sources: [10.0.0.0/8]
    on_invalid: refuse
  - match: { host: example.com }
path: { normalization: trust_gateway, case_insensitive_hosts: ["*.legacy.example.com"] }
revocation: { max_lag: 5s, when_behind: deny }
dpop: { nonce_secret: 0123456789abcdef0123456789ABCDEF }
gateways: { trusted_hops: 2, forwarded_certificates: true, forward_auth_peers: [10.1.0.0/16, "2001:db8::7"] }
bounds: { calls_in_flight: 5, drain: 1m, remembered_tokens: 5000 }
certificates: { names: ["spiffe://td/**", "*.example.com"] }
"#;

#[test]
fn everything_that_can_be_said_is_heard() {
    let config = good(EVERYTHING);
    assert_eq!(config.listen.grpc.to_string(), "0.0.0.0:1");
    assert_eq!(config.listen.http.to_string(), "127.0.0.1:3");
    assert_eq!(config.listen.admin.to_string(), "[::1]:2");
    let Store::Redis(redis) = &config.store else { panic!("{:?}", config.store) };
    assert_eq!(redis.reach, Reach::Servers(vec![Secret::new("rediss://redis.example.com:6380/3".to_owned())]));
    assert_eq!(redis.username.as_deref(), Some("tollgate"));
    assert_eq!(redis.password.as_ref().map(Secret::reveal), Some("hunter2"));
    assert_eq!(redis.deadline, Micros::from_millis(8));
    let secret = config.dpop.nonce_secret.as_ref().map(Secret::reveal);
    assert_eq!(secret, Some("0123456789abcdef0123456789ABCDEF"));
    assert_eq!(config.api_keys, ApiKeys { kept: KeptKeys::Redis, operators: true });
    let sight = Sight::MeantFor(["orders".into()].into());
    let orders =
        Client { id: "orders".into(), hash: secret_hash("hunter2 and hunter3"), sight, may_revoke: MayRevoke::Own };
    let gateway =
        Client { id: "gateway".into(), hash: secret_hash(""), sight: Sight::Every, may_revoke: MayRevoke::Every };
    assert_eq!(config.policy.clients, [orders, gateway]);
    let header = |name: &str, facet| IdentityHeader { name: name.into(), facet };
    let headers = [header("x-tollgate-subject", Facet::Subject), header("x-email", Facet::Claim("email".into()))];
    assert_eq!(config.policy.identity_headers, headers);
    let trust = Trust { max_lag: Micros::from_secs(5), when_behind: WhenBehind::Deny };
    assert_eq!(config.revocation, Revocation { trust, file: None });
    let kept = good("revocation: { file: dir/revoked }\nrules: [{ match: { path: /** }, permit: anyone }]").revocation;
    assert_eq!(kept, Revocation { trust: Trust::default(), file: Some("dir/revoked".into()) });
    let forward_auth_peers = ["10.1.0.0/16", "2001:db8::7"].map(|peers| Network::parse(peers).unwrap()).into();
    let gateways = Gateways { trusted_hops: 2, forwarded_certificates: true, forward_auth_peers };
    assert_eq!(config.policy.gateways, gateways);
    assert_eq!(config.bounds, Bounds { calls_in_flight: 5, drain: Micros::from_secs(60), remembered_tokens: 5_000 });

    let limits: Vec<_> = config.policy.limits.iter().map(|limit| (limit.name.as_str(), limit.units())).collect();
    assert_eq!(
        limits,
        [
            ("all", 1),
            ("at-once", 10),
            ("from-the-environment", 7),
            ("guesses", 5),
            ("hourly", 3),
            ("knocks", 9),
            ("per-subject", 1_000_000_000_000),
            ("spikes", 20)
        ]
    );
    let hourly = Grid { units: 3, length: Micros::from_secs(3_600) };
    assert_eq!(config.policy.limit("hourly").unwrap().algorithm, Algorithm::FixedWindow(hourly));
    let at_once = Slots { units: 10, hold: Micros::from_secs(30) };
    assert_eq!(config.policy.limit("at-once").unwrap().algorithm, Algorithm::Concurrency(at_once));
    let spikes = Flow::new(10, Micros::from_secs(1), 20).unwrap();
    assert_eq!(config.policy.limit("spikes").unwrap().algorithm, Algorithm::TokenBucket(spikes));
    let all = Algorithm::SlidingWindow { units: 1, window: Micros::from_millis(100) };
    assert_eq!(config.policy.limit("all").unwrap().algorithm, all);
    let per_subject = config.policy.limit("per-subject").unwrap();
    assert_eq!(per_subject.by, [Attribute::Subject, Attribute::PathParameter("id".into())]);
    assert_eq!(per_subject.when_away, WhenAway::Allow);
    assert_eq!(config.policy.limit("all").unwrap().when_away, WhenAway::Deny);

    let names: Vec<_> = config.policy.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["one order", "GET /public/**", "example.com"]);
    let [order, public, rest] = &config.policy.rules[..] else { panic!() };
    assert_eq!(order.matches.methods, ["PUT", "POST"]);
    let of_rule = |limits: &[Arc<Limit>]| limits.iter().map(|limit| limit.name.clone()).collect::<Vec<_>>();
    assert_eq!(of_rule(&order.limits), ["per-subject", "all"]);
    let early = order.early.as_ref().unwrap();
    assert_eq!(
        (of_rule(&early.before_auth), of_rule(&early.on_failure)),
        (vec!["knocks".into()], vec!["guesses".into()])
    );
    assert!(public.early.is_none() && rest.early.is_none());
    let caller = Caller {
        issuers: vec!["partner".into()],
        audiences: vec!["orders".into()],
        actors: Some(Vec::new()),
        max_login_age: Some(Micros::from_secs(300)),
        binding: BindingDemand::Dpop,
        names: vec![NamePattern::parse("spiffe://td/ns/**").unwrap()],
        roles: vec!["ADMIN".into(), "OWNER".into()],
        scopes: vec!["orders:read".into()],
        when: Some(Box::new(Expression::compile("path.id == identity.subject", &["id"]).unwrap())),
    };
    assert_eq!(order.demand, Demand::Caller(caller));
    let networks = |texts: &[&str]| texts.iter().map(|text| Network::parse(text).unwrap()).collect::<Networks>();
    let (allow, deny) = (networks(&["10.0.0.0/8", "192.0.2.7"]), networks(&["2001:db8::/32"]));
    let guard = Guard {
        sources: Sources { allow, deny },
        body_max: Some(1_048_576),
        origins: ["https://app.example.com", "http://localhost:3000"].map(|text| Origin::parse(text).unwrap()).to_vec(),
        refuses_bad_credentials: false,
        refuses_method_override: true,
    };
    assert_eq!(order.guard.as_deref(), Some(&guard));
    assert_eq!(order.leniency, Leniency { encoded_slash: true, path_parameters: true });
    let sources = Sources { allow: networks(&["10.0.0.0/8"]), deny: Networks::default() };
    assert_eq!(public.guard.as_deref(), Some(&Guard { sources, refuses_bad_credentials: true, ..Guard::default() }));
    let one_of = |values: &[&str]| ValuePattern::OneOf(values.iter().map(|&value| value.to_owned()).collect());
    let attributes = Attributes {
        headers: vec![("x-tenant".to_owned(), one_of(&["acme", "a b"])), ("x-trace".to_owned(), ValuePattern::Present)],
        resource: vec![("route".to_owned(), one_of(&["open"]))],
    };
    assert_eq!(public.matches.attributes.as_deref(), Some(&attributes));
    assert!(rest.guard.is_none() && rest.matches.attributes.is_none() && rest.leniency == Leniency::default());
    let hosts = vec![HostPattern::parse("*.legacy.example.com").unwrap()];
    assert_eq!(config.policy.paths, Paths { trusts_gateway: true, case_insensitive_hosts: hosts });
    assert_eq!(public.demand, Demand::Anyone);
    assert_eq!(rest.demand, Demand::authenticated());
}

#[test]
fn issuers_have_the_defaults_that_the_design_names() {
    let config = good(EVERYTHING);
    let [discovered, partner, other, shared] = config.issuers.as_slice() else { panic!() };
    assert_eq!(discovered.audiences, ["orders", "orders-orders"]);
    assert_eq!(discovered.algorithms, Signing::ASYMMETRIC);
    assert_eq!((discovered.types.as_slice(), discovered.untyped), (["at+jwt".into(), "jwt".into()].as_slice(), true));
    assert_eq!(discovered.leeway, Micros::from_secs(60));
    assert_eq!((discovered.clock_ahead, partner.clock_ahead), (Micros::ZERO, Micros::from_secs(5)));
    let ahead = |issuer: &str| config.policy.lifetimes[issuer].clock_ahead;
    assert_eq!(ahead("partner"), Micros::from_secs(5));
    assert_eq!(discovered.max_token_lifetime, Micros::from_secs(86_400));
    assert_eq!(discovered.stale_for, Micros::from_secs(86_400));
    assert_eq!((discovered.binding, partner.binding), (BindingDemand::Nothing, BindingDemand::Dpop));
    assert_eq!(discovered.refresh_cooldown, Micros::from_secs(30));
    assert_eq!(discovered.keys, KeySource::Discovery);
    let path = |names: &[&str]| ClaimPath(names.iter().map(|&name| name.to_owned()).collect());
    assert_eq!(discovered.scope_claims, [path(&["scope"]), path(&["scp"])]);
    let roles = [
        path(&["roles"]),
        path(&["realm_access", "roles"]),
        path(&["resource_access", "orders", "roles"]),
        path(&["resource_access", "orders-orders", "roles"]),
    ];
    assert_eq!(discovered.role_claims, roles);

    assert_eq!(partner.algorithms, [Signing::ES256, Signing::EdDSA]);
    assert_eq!((partner.types.as_slice(), partner.untyped), (["at+jwt".into()].as_slice(), true));
    assert_eq!(partner.role_claims, [path(&["resource_access", "*", "roles"]), path(&["groups"])]);
    assert_eq!(partner.max_age, Some(Micros::from_secs(900)));
    assert_eq!(partner.tenant, Some(path(&["org", "id"])));
    let chosen: Vec<_> = partner.claims.iter().map(|claim| (claim.name.as_str(), &claim.place)).collect();
    assert_eq!(chosen, [("namespace", &path(&["kubernetes.io", "namespace"])), ("plan", &path(&["plan"]))]);
    let KeySource::Inline(set) = &partner.keys else { panic!() };
    let set: serde_json::Value = serde_json::from_str(set).unwrap();
    assert_eq!(set["keys"][0]["ext"], true);
    assert_eq!(set["keys"][0]["key_ops"][0], "verify");
    assert_eq!(discovered.connection, Connection::default());
    let headers = vec![("x-api-key".to_owned(), Secret::new("hunter2".to_owned()))];
    assert_eq!(partner.connection, Connection { headers, plain_http: true, ..Connection::default() });
    let audiences = vec!["shop".to_owned(), "https://rec.example".to_owned()];
    assert_eq!(partner.events, Some(Events { audiences, poll: Some("http://10.0.0.1/poll".to_owned()) }));
    assert_eq!(other.events, None);
    let origins = vec!["https://status.example".to_owned(), "http://10.0.0.1:8080".to_owned()];
    assert_eq!(partner.status_lists, StatusLists { check: false, origins });
    assert_eq!(other.status_lists, StatusLists::default());
    assert_eq!(shared.keys, KeySource::Secret(Secret::new("hunter2-of-thirty-two-bytes-or-more".to_owned())));
    assert_eq!(shared.algorithms, [Signing::HS256]);
    assert_eq!(other.keys, KeySource::Url("http://localhost:3000/jwks?x=y".into()));
}

#[test]
fn an_issuer_is_asked_as_its_section_says_and_needs_keys_only_where_they_are_used() {
    let config = good(EVERYTHING);
    let asked = config.issuers[2].introspection.clone();
    let expected = Introspection {
        url: Some("https://other.example.com/introspect".to_owned()),
        client_id: "tollgate".to_owned(),
        auth: ClientAuth::Post(Secret::new("hunter2".to_owned())),
        cache: Micros::from_secs(60),
        deadline: Micros::from_millis(500),
        signed: true,
        prefix: Some("at_".to_owned()),
        all: false,
    };
    assert_eq!(asked, Some(expected));
    let issuer = |more: &str| {
        let text =
            "issuers: [{ issuer: https://a.example, audiences: [a], introspection: { client_id: t, client_secret: s";
        good(&format!("{text}{more} }}]\nrules: [{{ match: {{ path: /** }} }}]")).issuers.remove(0)
    };
    let plain = issuer(" }");
    let asked = plain.introspection.unwrap();
    assert_eq!((plain.keys, asked.all, asked.signed, asked.prefix), (KeySource::Unneeded, true, false, None));
    assert_eq!((asked.cache, asked.deadline), (Micros::from_secs(30), Micros::from_secs(2)));
    assert_eq!(asked.auth, ClientAuth::Basic(Secret::new("s".to_owned())));
    assert_eq!(issuer(", jwt: true }").keys, KeySource::Discovery, "signed answers need keys");
    let both = issuer(" }, jwks: { url: https://a.example/keys }");
    assert!(matches!(both.keys, KeySource::Url(_)) && !both.introspection.unwrap().all);
}

#[test]
fn whoever_lists_types_gets_no_untyped_tokens() {
    let config = good(
        "issuers: [{ issuer: https://a.example, audiences: [a], types: [at+jwt] }]\nrules: [{ match: { path: /** } }]",
    );
    assert!(!config.issuers[0].untyped);
}

#[test]
fn a_profile_settles_types_and_adds_to_what_is_demanded() {
    let issuer = |settings: &str| {
        let yaml = format!(
            "issuers: [{{ issuer: https://a.example, audiences: [a], {settings} }}]\nrules: [{{ match: {{ path: /** }} }}]"
        );
        good(&yaml).issuers.remove(0)
    };
    let access = issuer("profile: rfc9068, required_claims: [email, sub]");
    assert_eq!((access.types.as_slice(), access.untyped), (["at+jwt".to_owned()].as_slice(), false));
    assert_eq!(access.required_claims, ["email", "sub", "client_id", "jti"]);
    assert_eq!((access.algorithms.as_slice(), access.svid), (Signing::ASYMMETRIC.as_slice(), false));
    let svid = issuer("profile: spiffe");
    assert_eq!((svid.types.as_slice(), svid.untyped), (["jwt".to_owned(), "jose".to_owned()].as_slice(), true));
    assert_eq!(svid.required_claims, ["sub"]);
    assert!(svid.svid && !svid.algorithms.contains(&Signing::EdDSA) && svid.algorithms.contains(&Signing::ES256));
}

#[test]
fn nothing_said_is_memory_loopback_and_deny() {
    let (config, warnings) = read("{}").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.store, Store::Memory);
    assert!(
        config.listen.grpc.ip().is_loopback()
            && config.listen.http.ip().is_loopback()
            && config.listen.admin.ip().is_loopback()
    );
    assert!(config.policy.rules.is_empty());
    assert_eq!(warnings.len(), 1);
}

#[test]
fn the_example_has_no_problem() {
    let text = include_str!("../../../deploy/tollgate.example.yaml");
    let config = good(text);
    assert_eq!(config.policy.rules.len(), 7);
    // What is commented out is good, too.
    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| is_store(rest)).unwrap_or(line).to_owned() + "\n")
        .collect();
    let text = uncommented.replace("REDIS_PASSWORD", "PASSWORD");
    assert!(matches!(good(&text).store, Store::Redis(_)));
}

/// Whether a comment of the example is a part of the section `store`.
fn is_store(comment: &str) -> bool {
    ["store:", "  redis:", "    urls", "    username", "    password"].iter().any(|start| comment.starts_with(start))
}

#[test]
fn redis_is_one_server_a_cluster_or_a_master_that_sentinels_name() {
    let reach = |redis: &str| match read(&format!("store: {{ redis: {{ {redis} }} }}")).unwrap().0.store {
        Store::Redis(redis) => redis.reach,
        Store::Memory => panic!("{redis}"),
    };
    let urls = |urls: &[&str]| urls.iter().map(|&url| Secret::new(url.to_owned())).collect::<Vec<_>>();
    assert_eq!(reach("urls: ['redis://u:p@a/3']"), Reach::Servers(urls(&["redis://u:p@a/3"])));
    let nodes = ["rediss://a:1", "rediss://b:2/0"];
    assert_eq!(reach("urls: ['rediss://a:1', 'rediss://b:2/0']"), Reach::Servers(urls(&nodes)));
    let asked = "sentinel: { urls: ['redis://a:1', 'redis://b'], service: m, username: u, password: hunter2 }";
    let sentinel = Sentinel {
        urls: urls(&["redis://a:1", "redis://b"]),
        service: "m".to_owned(),
        username: Some("u".to_owned()),
        password: Some(Secret::new("hunter2".to_owned())),
    };
    assert_eq!(reach(asked), Reach::Sentinel(sentinel));
}

#[test]
fn rules_without_a_name_get_one_that_is_theirs_alone() {
    let yaml = "
issuers: [{ issuer: https://a.example, audiences: [a] }]
rules:
  - match: { method: GET, path: /a }
  - { name: 'GET /a #2', match: { method: POST } }
  - match: { method: GET, path: /a }
  - match: { method: GET, path: /a }
  - match: { method: [PUT, PATCH], host: '*.example.com', path: '/b/{id}' }
";
    let (config, _) = read(yaml).unwrap();
    let names: Vec<_> = config.policy.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["GET /a", "GET /a #2", "GET /a #3", "GET /a #4", "PUT,PATCH *.example.com/b/{id}"]);
}

#[test]
fn what_cannot_change_while_running_is_named() {
    let old = Config::default();
    assert_eq!(old.needs_restart(&good(EVERYTHING)), ["listen", "store", "bounds"]);
    let mut new = old.clone();
    new.policy.version = 7;
    new.issuers = good(EVERYTHING).issuers;
    assert!(old.needs_restart(&new).is_empty());
}

#[test]
fn secrets_are_not_printed() {
    let config = good(EVERYTHING);
    let printed = format!("{config:?}");
    assert!(!printed.contains("hunter2") && !printed.contains("redis.example.com"), "{printed}");
}

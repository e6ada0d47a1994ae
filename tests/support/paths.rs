//! Calls that are made to be read in two ways, and what becomes of them. Every façade is asked about the same ones.
//!
//! A byte that is no UTF-8 can be in no native message, so there is none in here.

use std::fmt::Write as _;

/// How paths and calls are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// As they are read when nothing is said about it.
    Strict,
    /// With all that rules and hosts may opt in to.
    OptedIn,
    /// As whoever says that the gateway has read them already.
    TrustGateway,
}

/// What the caller shows. Its token is good for the scope `orders` and for no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// A good token.
    Good,
    /// A token that nobody made.
    Bad,
    /// Nothing.
    Nothing,
}

/// A call and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Which trick it is; several calls may show one.
    pub row: u8,
    pub reading: Reading,
    pub method: &'static str,
    pub host: &'static str,
    /// As it is on the wire.
    pub target: String,
    pub headers: &'static [(&'static str, &'static str)],
    pub shown: Shown,
    /// `400`, or the rule and the reason; `- no_rule` where there is no rule.
    pub native: &'static str,
}

/// The sections `path` and `rules` of a configuration: public, administration, deleting orders, orders, and a few more.
pub(crate) fn policy(reading: Reading) -> String {
    let opted = reading == Reading::OptedIn;
    let says = |more: &'static str| if opted { more } else { "" };
    let mut yaml = match reading {
        Reading::Strict => String::new(),
        Reading::OptedIn => {
            "path: { case_insensitive_hosts: [legacy.example.com, '*.legacy.example.com'] }\n".to_owned()
        }
        Reading::TrustGateway => "path: { normalization: trust_gateway }\n".to_owned(),
    };
    let rules = [
        format!(
            "{{ name: public, match: {{ path: /api/public/** }}, permit: anyone{} }}",
            says(", on_invalid: refuse")
        ),
        format!(
            "{{ name: admin, match: {{ path: /api/admin/** }}, require: {{ roles: [ADMIN] }}{} }}",
            says(", path_parameters: strip")
        ),
        format!(
            "{{ name: delete, match: {{ method: DELETE, path: '/api/orders/{{id}}' }}, require: {{ roles: [ADMIN] }}{} }}",
            says(", encoded_slash: allow")
        ),
        format!(
            "{{ name: orders, match: {{ path: /api/orders/** }}, require: {{ scopes: [orders] }}{} }}",
            says(", refuse_method_override: true")
        ),
        "{ name: rpc, match: { method: POST, path: /pkg.Svc/Method }, permit: anyone }".to_owned(),
        "{ name: hosted, match: { host: api.example.com, path: /hosted }, permit: anyone }".to_owned(),
    ];
    yaml.push_str("rules:\n");
    for rule in rules {
        writeln!(yaml, "  - {rule}").expect("a text takes everything");
    }
    if opted {
        yaml.push_str("  - { name: tenant, match: { path: /tenant, headers: { x-tenant: a } }, permit: anyone }\n");
        yaml.push_str("  - { name: files, match: { path: '/files/{name}' }, permit: anyone, encoded_slash: allow }\n");
        yaml.push_str("  - { name: rest, match: { path: /api/** }, permit: anyone, path_parameters: strip, encoded_slash: allow }\n");
    }
    yaml
}

/// All calls, by row.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = strict();
    cases.extend(opted_in());
    cases.extend(trusted());
    cases.sort_by_key(|case| case.row);
    cases
}

fn call(row: u8, method: &'static str, target: impl Into<String>, native: &'static str) -> Case {
    let (reading, host, shown) = (Reading::Strict, "api.example.com", Shown::Good);
    Case { row, reading, method, host, target: target.into(), headers: &[], shown, native }
}

fn get(row: u8, target: impl Into<String>, native: &'static str) -> Case {
    call(row, "GET", target, native)
}

/// What becomes of them where nobody opts in to anything.
fn strict() -> Vec<Case> {
    let refused: [(u8, &[&str]); 17] = [
        (1, &["/api/public/../admin/x", "/api/public/..", "/..", "/api/admin/../../api/admin/x"]),
        (2, &["/api/public/%2e%2e/admin/x", "/api/public/.%2E/admin", "/api/public/%2E./admin"]),
        (3, &["/api/public/..%2fadmin/x", "/api/public/%2F..%2Fadmin/x", "/api/public%2f../admin"]),
        (4, &["/api/public/%252e%252e/admin", "/api/public/%25252e%25252e/admin", "/api/%2561dmin/x"]),
        (5, &["/api/public/..;/admin", "/api/public/..;foo=bar/admin", "/api/public/.;/../admin"]),
        (6, &["/api/admin;x=y/users", "/api;a/admin/users", "/;/api/admin/users"]),
        (7, &["/api/admin;jsessionid=1", "/api/admin%3bjsessionid=1", "/api/admin%3B"]),
        (8, &["//api/admin/x", "/api//admin/x", "/api/admin//", "//", "///api/admin"]),
        (9, &["/api/./admin/x", "/./api/admin", "/api/admin/.", "/api/%2e/admin/x"]),
        (10, &["/api\\admin\\x", "/api/public\\..\\admin", "/api%5cadmin", "/api/public%5C..%5Cadmin"]),
        (
            11,
            &[
                "/api/admin%00.png",
                "/api/admin%0a",
                "/api/admin%0d",
                "/api/admin%0d%0aX:y",
                "/api/admin\0",
                "/api/admin\n",
            ],
        ),
        (12, &["/api/admin#x", "/api/public#/../admin"]),
        (20, &["api/admin", "", "*", "?", "https:/api/admin"]),
        (22, &["http://evil/api/public", "http://api.example.com@evil/api/public", "ftp://api.example.com/api/public"]),
        (23, &["/api/admin/%zz", "/api/admin/%", "/api/admin/%2", "/api/admin/%+2"]),
        (24, &["/api/adm%C0%AFin", "/%C0%AE%C0%AE/", "/api/%ff", "/api/%u002e/admin", "/api/%ed%a0%80"]),
        (26, &[" /api/admin", "/api/admin ", "/api/admin\t", "/api/ admin"]),
    ];
    let mut cases: Vec<Case> = refused
        .into_iter()
        .flat_map(|(row, targets)| targets.iter().map(move |&target| get(row, target, "400")))
        .collect();
    cases.extend(decided());
    cases.extend(methods_and_headers());
    cases.extend(hosts());
    cases
}

/// Paths that have one reading, and those that are too much to read.
fn decided() -> Vec<Case> {
    vec![
        get(12, "/api/admin%23x", "- no_rule"),
        get(12, "/api/admin/%23x", "admin insufficient_role"),
        get(13, "/api/admin?x=/api/public/", "admin insufficient_role"),
        get(13, "/api/admin/?/api/public/../;//", "admin insufficient_role"),
        get(14, "/api/public?/../admin", "public allowed"),
        get(14, "/api/public?%2e%2e/admin", "public allowed"),
        get(15, "/api/%61dmin/x", "admin insufficient_role"),
        get(15, "/%61%70%69/%61%64%6d%69%6e", "admin insufficient_role"),
        get(16, "/API/admin/x", "- no_rule"),
        get(16, "/api/Admin/x", "- no_rule"),
        get(17, "/api/admin", "admin insufficient_role"),
        get(17, "/api/admin/", "admin insufficient_role"),
        get(18, "/api/adminx", "- no_rule"),
        get(18, "/api/admin.json", "- no_rule"),
        get(18, "/api/admin~", "- no_rule"),
        get(19, "/api/publicx/secret", "- no_rule"),
        get(19, "/api/public.x/secret", "- no_rule"),
        get(25, "/api/adm\u{131}n", "- no_rule"),
        get(25, "/api/adm%C4%B1n", "- no_rule"),
        get(25, "/api%EF%BC%8Fadmin", "- no_rule"),
        get(25, "/api/public/%EF%BC%8E%EF%BC%8E/admin", "public allowed"),
        get(26, "/api/admin%20", "- no_rule"),
        get(27, format!("/api/public/{}", "a".repeat(9 * 1024)), "400"),
        get(27, format!("/api/public{}", "/a".repeat(300)), "400"),
        get(27, "/".repeat(1_000_000), "400"),
        get(27, "/a".repeat(500_000), "400"),
        get(35, "/api/orders/*", "orders allowed"),
        get(35, "/api/orders/{id}", "orders allowed"),
        get(35, "/api/orders/**", "orders allowed"),
        get(35, "/api/*/x", "- no_rule"),
    ]
}

/// What is done by other words than the path's.
fn methods_and_headers() -> Vec<Case> {
    let with = |headers, case| Case { headers, ..case };
    vec![
        call(20, "OPTIONS", "*", "- no_rule"),
        call(21, "CONNECT", "", "- no_rule"),
        call(28, "delete", "/api/orders/1", "400"),
        call(28, "DELETE\t", "/api/orders/1", "400"),
        call(28, "Delete", "/api/orders/1", "400"),
        call(28, "", "/api/orders/1", "400"),
        with(&[("x-http-method-override", "DELETE")], call(29, "POST", "/api/orders/1", "orders allowed")),
        call(30, "HEAD", "/api/admin/x", "admin insufficient_role"),
        call(30, "FOO", "/api/admin/x", "admin insufficient_role"),
        call(30, "FOO", "/api/orders/1", "orders allowed"),
        call(31, "DELETE", "/api/orders/1", "delete insufficient_role"),
        call(31, "DELETE", "/api/orders/1/", "delete insufficient_role"),
        call(31, "DELETE", "/api/orders/", "orders allowed"),
        call(31, "DELETE", "/api/orders//1", "400"),
        call(32, "DELETE", "/api/orders/1%2f2", "400"),
        call(32, "DELETE", "/api%2Forders/1", "400"),
        with(&[("x-original-url", "/api/public/x")], get(33, "/api/admin/x", "admin insufficient_role")),
        with(&[("x-rewrite-url", "/api/public/x")], get(33, "/api/admin/x", "admin insufficient_role")),
        with(&[("x-forwarded-uri", "/api/public/x")], get(33, "/api/admin/x", "admin insufficient_role")),
        with(&[("x-envoy-original-path", "/api/public/x")], get(33, "/api/admin/x", "admin insufficient_role")),
        call(37, "POST", "/pkg.Svc/Method", "rpc allowed"),
        call(37, "POST", "/pkg.svc/method", "- no_rule"),
        call(37, "POST", "/pkg.Svc/Method/x", "- no_rule"),
        Case { shown: Shown::Bad, ..get(38, "/api/public/x", "public allowed") },
        Case { shown: Shown::Nothing, ..get(38, "/api/public/x", "public allowed") },
        Case { shown: Shown::Nothing, ..get(38, "/api/orders/1", "orders no_credential") },
    ]
}

/// Spellings of hosts.
fn hosts() -> Vec<Case> {
    let at = |host, native| Case { host, ..get(34, "/hosted", native) };
    let absolute = |target, native| get(22, target, native);
    vec![
        absolute("http://api.example.com/api/public/x", "public allowed"),
        absolute("https://API.example.com:443/api/admin", "admin insufficient_role"),
        at("API.example.com", "hosted allowed"),
        at("api.example.com.", "hosted allowed"),
        at("api.example.com:443", "hosted allowed"),
        at("api.example.com:8443", "hosted allowed"),
        at("other.example.com", "- no_rule"),
        at("api.example.com.evil", "- no_rule"),
        at("api.example.com,evil", "400"),
        at("api.example.com, api.example.com", "400"),
        at("user@api.example.com", "400"),
        at("api.example.com:x", "400"),
        at("api.example.com/x", "400"),
        at("api..example.com", "400"),
    ]
}

/// What rules and hosts may opt in to. Whatever they do not name stays as it is.
fn opted_in() -> Vec<Case> {
    let legacy = |target, native| Case { host: "LEGACY.example.com:8080", ..get(16, target, native) };
    let with = |headers, case| Case { headers, ..case };
    let cases = vec![
        get(5, "/api/public/..;/admin", "400"),
        get(5, "/api/other/..;x=y/admin", "400"),
        get(6, "/api/admin;x=y/users", "admin insufficient_role"),
        get(6, "/api;a/admin/users", "admin insufficient_role"),
        get(6, "/api/admin;x=y;z/;/users", "400"),
        // The rule that a server finds which strips, or the one that a server finds which does not, has not opted in.
        get(6, "/api/public;x/users", "400"),
        get(6, "/api/public/x;y", "400"),
        get(6, "/api/other;x/users", "rest allowed"),
        get(7, "/api/admin;jsessionid=1", "admin insufficient_role"),
        get(7, "/api/admin%3bjsessionid=1", "400"),
        get(8, "/api/other//x", "400"),
        get(10, "/api/other\\x", "400"),
        get(4, "/api/other/%252e", "400"),
        legacy("/API/admin/x", "admin insufficient_role"),
        legacy("/api/ADMIN", "admin insufficient_role"),
        legacy("/api/Public/x", "public allowed"),
        legacy("/api/adm%C4%B0n", "rest allowed"),
        Case { host: "a.legacy.example.com", ..get(16, "/API/admin/x", "admin insufficient_role") },
        get(16, "/API/admin/x", "- no_rule"),
        get(16, "/api/Admin/x", "rest allowed"),
        with(&[("x-http-method-override", "DELETE")], call(29, "POST", "/api/orders/1", "400")),
        with(&[("x-method-override", "DELETE")], call(29, "POST", "/api/orders/1", "400")),
        with(&[("x-http-method", "POST")], call(29, "POST", "/api/orders/1", "400")),
        call(29, "POST", "/api/orders/1", "orders allowed"),
        call(32, "DELETE", "/api/orders/1%2f2", "delete insufficient_role"),
        call(32, "DELETE", "/api/orders/..%2f2", "400"),
        call(32, "DELETE", "/api/orders/1%2f..", "400"),
        // Not a rule for `{id}` where the slash is data, but the one for the segments below.
        call(32, "DELETE", "/api/orders/1%2f2/3", "400"),
        call(32, "DELETE", "/api%2Forders/1", "400"),
        get(32, "/files/a%2Fb", "files allowed"),
        get(32, "/files/https%3A%2F%2Fexample.com%2F", "files allowed"),
        get(32, "/files%2Fa", "400"),
        get(32, "/nowhere/a%2Fb", "400"),
        // Another server would serve what `admin` is for.
        get(32, "/api%2Fadmin/x", "400"),
        get(32, "/api/%2Fadmin/x", "400"),
        get(32, "/api/other%2Fadmin", "rest allowed"),
        with(&[("x-tenant", "a")], get(36, "/tenant", "tenant allowed")),
        with(&[("x-tenant", "a,b")], get(36, "/tenant", "- no_rule")),
        with(&[("x-tenant", "A")], get(36, "/tenant", "- no_rule")),
        with(&[("x-tenant", "\u{e9}")], get(36, "/tenant", "400")),
        with(&[("x-tenant", "a\u{1}")], get(36, "/tenant", "400")),
        get(36, "/tenant", "- no_rule"),
        with(&[("x-tenant", "\u{1}")], get(36, "/api/orders/1", "orders allowed")),
        Case { shown: Shown::Bad, ..get(38, "/api/public/x", "public malformed_token") },
        Case { shown: Shown::Nothing, ..get(38, "/api/public/x", "public allowed") },
    ];
    cases.into_iter().map(|case| Case { reading: Reading::OptedIn, ..case }).collect()
}

/// What is data once the gateway is trusted, and what is refused all the same.
fn trusted() -> Vec<Case> {
    let cases = vec![
        get(1, "/api/public/../admin/x", "400"),
        get(2, "/api/public/%2e%2e/admin/x", "400"),
        get(3, "/api/public/..%2fadmin/x", "400"),
        get(3, "/api/public/a%2Fb", "public allowed"),
        get(4, "/api/public/%252e%252e/admin", "400"),
        get(4, "/api/public/%25252E./admin", "400"),
        get(4, "/api/%2561dmin/x", "- no_rule"),
        get(4, "/api/public/100%25", "public allowed"),
        get(5, "/api/public/..;/admin", "400"),
        get(6, "/api/public;x/y", "400"),
        get(7, "/api/admin%3bjsessionid=1", "400"),
        get(8, "//api/admin/x", "- no_rule"),
        get(8, "/api//admin/x", "- no_rule"),
        get(8, "/api/admin//x", "admin insufficient_role"),
        get(8, "/api/public//x", "public allowed"),
        get(10, "/api/public\\..\\admin", "400"),
        get(10, "/api/public%5C..%5Cadmin", "400"),
        get(10, "/api/public/a\\b", "public allowed"),
        get(10, "/api\\admin\\x", "- no_rule"),
        get(11, "/api/admin%00.png", "400"),
        get(12, "/api/admin#x", "400"),
        get(23, "/api/admin/%zz", "400"),
        get(24, "/api/adm%C0%AFin", "400"),
        call(31, "DELETE", "/api/orders//", "orders allowed"),
        call(32, "DELETE", "/api/orders/1%2f2", "delete insufficient_role"),
    ];
    cases.into_iter().map(|case| Case { reading: Reading::TrustGateway, ..case }).collect()
}

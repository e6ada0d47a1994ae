//! What rules demand of the call itself, through a real Envoy: sizes of bodies, pages of other origins, headers.

use super::{Bench, PATIENT, Setup, WITH_BODY};

const RULES: (&str, &str) = (
    "rules:",
    "rules:
  - { name: upload, match: { path: /upload }, permit: anyone, max_body: 4KiB }
  - { name: app, match: { path: /app/** }, origins: ['https://app.example'] }
  - { name: tenant, match: { path: /tenant, headers: { x-tenant: acme } }, permit: anyone }",
);

/// A request to `/upload` with a body of so many bytes; `length`: whether it says so beforehand.
fn upload(length: bool, bytes: usize, more: &str) -> Vec<u8> {
    let body = "x".repeat(bytes);
    let (how, body) = if length {
        (format!("Content-Length: {bytes}"), body)
    } else {
        ("Transfer-Encoding: chunked".to_owned(), format!("{bytes:x}\r\n{body}\r\n0\r\n\r\n"))
    };
    format!("POST /upload HTTP/1.1\r\nHost: a\r\n{how}\r\n{more}\r\n{body}").into_bytes()
}

#[tokio::test]
async fn bodies_are_bounded_by_what_announces_them() {
    let Some(bench) = Bench::start(Setup { tollgate: &[RULES], envoy: &[PATIENT], ..Setup::default() }).await else {
        return;
    };
    let fits = bench.envoy.send(&upload(true, 4096, "")).await;
    assert_eq!((fits.status, fits.body.as_str()), (200, "served 4096 bytes"));
    assert_eq!(bench.envoy.send(&upload(true, 4097, "")).await.verdict(), "413 body_too_large");
    // Envoy's own word for "this is all", which a client sends, is not believed.
    for more in ["", "x-envoy-auth-partial-body: false\r\n"] {
        assert_eq!(bench.envoy.send(&upload(false, 5, more)).await.verdict(), "411 length_required", "{more}");
    }
    assert_eq!(bench.service.seen().len(), 1);
    assert_eq!(bench.envoy.get("/upload", &[]).await.verdict(), "200");
}

#[tokio::test]
async fn bodies_that_envoy_waits_for_are_bounded_by_what_came() {
    let Some(bench) =
        Bench::start(Setup { tollgate: &[RULES], envoy: &[PATIENT, WITH_BODY], ..Setup::default() }).await
    else {
        return;
    };
    let forged = "x-envoy-auth-partial-body: false\r\n";
    let fits = bench.envoy.send(&upload(false, 4096, forged)).await;
    assert_eq!((fits.status, fits.body.as_str()), (200, "served 4096 bytes"));
    assert_eq!(bench.envoy.send(&upload(false, 4097, forged)).await.verdict(), "413 body_too_large");
    // More than Envoy hands on.
    assert_eq!(bench.envoy.send(&upload(false, 70_000, forged)).await.verdict(), "411 length_required");
    assert_eq!(bench.envoy.send(&upload(true, 70_000, "")).await.verdict(), "413 body_too_large");
    assert_eq!(bench.service.seen().len(), 1);
}

#[tokio::test]
async fn pages_of_the_origins_that_a_rule_names_may_ask_before_they_call() {
    let Some(bench) = Bench::start(Setup { tollgate: &[RULES], envoy: &[PATIENT], ..Setup::default() }).await else {
        return;
    };
    let asks = "Access-Control-Request-Method: GET";
    let preflight = bench.envoy.ask("OPTIONS", "/app/x", &["Origin: https://app.example", asks]).await;
    assert_eq!(preflight.verdict(), "200");
    assert_eq!(bench.service.seen().len(), 1);
    let other = bench.envoy.ask("OPTIONS", "/app/x", &["Origin: https://evil.example", asks]).await;
    assert_eq!(other.verdict(), "403 wrong_origin");
    let bearer = bench.bearer("ann", "any");
    for (origin, verdict) in
        [("https://app.example", "200"), ("https://evil.example", "403 wrong_origin"), ("null", "403 wrong_origin")]
    {
        let answer = bench.envoy.get("/app/x", &[&bearer, &format!("Origin: {origin}")]).await;
        assert_eq!(answer.verdict(), verdict, "{origin}");
    }
    assert_eq!(bench.envoy.get("/app/x", &["Origin: https://app.example"]).await.verdict(), "401 no_credential");
}

#[tokio::test]
async fn a_header_that_a_rule_looks_at_is_one_value_and_must_be_text() {
    let Some(bench) = Bench::start(Setup { tollgate: &[RULES], envoy: &[PATIENT], ..Setup::default() }).await else {
        return;
    };
    assert_eq!(bench.envoy.get("/tenant", &["x-tenant: acme"]).await.verdict(), "200");
    // Never the first, never the last.
    for headers in
        [&["x-tenant: acme", "x-tenant: evil"][..], &["x-tenant: evil", "x-tenant: acme"], &["x-tenant: acme,evil"]]
    {
        assert_eq!(bench.envoy.get("/tenant", headers).await.verdict(), "403 no_rule", "{headers:?}");
    }
    let raw = bench.envoy.send(b"GET /tenant HTTP/1.1\r\nHost: a\r\nx-tenant: acme\xff\r\n\r\n").await;
    assert_eq!((raw.status, &raw.json()["violations"][0]["field"]), (400, &"request.headers[\"x-tenant\"]".into()));
}

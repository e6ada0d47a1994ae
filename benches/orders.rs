//! What the benches and the load test ask all the time, and the policy under which it is allowed for ever.

use tollgate::proto as pb;

/// Limits and rules, as they stand in a configuration. The third rule matches, demands a scope, and charges two limits whose
/// units are never used up.
pub(crate) const POLICY: &str = r#"limits:
  per-subject: { units: 1000000000000, window: 1m, by: [identity.subject] }
  all-orders: { units: 1000000000000, window: 1h }
rules:
  - name: public
    match: { path: /public/** }
    permit: anyone
  - name: admin
    match: { path: /admin/** }
    require: { roles: [ADMIN] }
  - name: orders
    match: { path: /orders/** }
    require: { scopes: ["orders:read"] }
    limits: [per-subject, all-orders]
"#;

/// The question, asked with that token.
pub(crate) fn question(token: String) -> pb::DecideRequest {
    pb::DecideRequest {
        credential: Some(pb::Credential { kind: Some(pb::credential::Kind::BearerToken(token)), ..Default::default() }),
        request: Some(pb::RequestAttributes {
            method: "GET".to_owned(),
            path: "/orders/1".to_owned(),
            host: "shop.example.com".to_owned(),
            source_address: "192.0.2.7".to_owned(),
            ..Default::default()
        }),
        ..pb::DecideRequest::default()
    }
}

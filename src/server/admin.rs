//! The admin port: `/metrics`, `/healthz`, `/readyz`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::Parts;
use crate::decide::ports::Away;
use crate::domain::time::Micros;
use crate::revocation::Health;
use crate::stores::redis::NodeHealth;
use crate::telemetry::names;

/// Serves until the last call has ended: a replica that drains still says so.
pub(super) async fn serve(listener: TcpListener, parts: Arc<Parts>) {
    let stopped = parts.stopped.clone().cancelled_owned();
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(parts);
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "the admin port failed");
    }
}

async fn metrics(State(parts): State<Arc<Parts>>) -> impl IntoResponse {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53 calls are in flight")]
    parts.telemetry.gauge(names::IN_FLIGHT, &[]).set(parts.admission.in_flight() as f64);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], parts.telemetry.render())
}

/// 200 while this replica should get calls. What is away shows in the body and does not make it unready: every replica
/// would lose it at the same time, and the limits' `when_away` says what happens then.
async fn ready(State(parts): State<Arc<Parts>>) -> impl IntoResponse {
    let status = if parts.stopping.is_cancelled() {
        "stopping"
    } else if !parts.ready.is_cancelled() {
        "starting"
    } else if parts.is_degraded() {
        "degraded"
    } else {
        "ok"
    };
    let code = match status {
        "ok" | "degraded" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(parts.state(status)))
}

impl Parts {
    fn is_degraded(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.store.health().iter().any(|(_, health)| health.is_err()))
            || self.revocations.health(self.decider.now().steady).is_behind
            || self
                .tokens
                .health()
                .iter()
                .any(|issuer| issuer.last_error.is_some() || issuer.introspection.iter().any(Option::is_some))
    }

    fn state(&self, status: &str) -> Value {
        let issuers: Vec<Value> = self
            .tokens
            .health()
            .into_iter()
            .map(|issuer| {
                json!({
                    "issuer": &*issuer.issuer,
                    "keys": issuer.keys,
                    "keys_age_seconds": issuer.age.map(Micros::as_secs),
                    "stale": issuer.is_stale,
                    "problem": issuer.last_error,
                    "introspection": issuer.introspection.map(|problem| json!({ "problem": problem })),
                })
            })
            .collect();
        let Health { lag, is_behind, entries, problem } = self.revocations.health(self.decider.now().steady);
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let lag = lag.map(|lag| lag.0 as f64 / 1e6);
        json!({
            "status": status,
            "policy_version": self.decider.policy().version,
            "store": match &self.shared {
                None => json!({ "kind": "memory" }),
                Some(shared) => store_state(&shared.store.health()),
            },
            "revocations": {
                "lag_seconds": lag,
                "behind": is_behind,
                "entries": entries,
                "problem": problem.map(|away| format!("the log {away}")),
            },
            "issuers": issuers,
        })
    }
}

fn store_state(health: &[NodeHealth]) -> Value {
    let problem = |health: &Result<(), Away>| health.err().map(|away| format!("it {away}"));
    json!({
        "kind": "redis",
        "problem": health.iter().find_map(|(_, health)| problem(health)),
        "nodes": health
            .iter()
            .map(|(node, health)| json!({ "node": node, "problem": problem(health) }))
            .collect::<Vec<_>>(),
    })
}

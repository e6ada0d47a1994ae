//! `envoy.service.auth.v3.Authorization`: what an Envoy's filter `ext_authz` asks about a request, and is answered.
//!
//! A question that is not well formed is answered as a refusal, not as an error of the call: an Envoy may be told to let
//! requests go on when asking fails.

mod answer;
mod question;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use self::question::{Fields, in_words_of_routes, question};
use crate::decide::Decider;
use crate::proto::envoy::service::auth::v3::authorization_server::Authorization;
use crate::proto::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use crate::telemetry::Facade;

/// Answers `Authorization`.
pub struct ExtAuthz(Arc<Decider>);

impl ExtAuthz {
    /// Has `decider` decide.
    pub const fn new(decider: Arc<Decider>) -> Self {
        Self(decider)
    }
}

#[async_trait]
impl Authorization for ExtAuthz {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let wire = request.get_ref();
        let policy = self.0.policy();
        let fields = Fields::of(wire);
        let is_grpc = fields.is_grpc();
        let answer = match question(wire, &fields, &policy.gateways) {
            Ok(question) => match self.0.decide(&question, Facade::ExtAuthz).get().await {
                Ok(decision) => answer::response(&decision, &question, is_grpc),
                Err(undecidable) => answer::malformed(&in_words_of_routes(undecidable), is_grpc),
            },
            Err(undecidable) => {
                self.0.turned_away(Facade::ExtAuthz);
                answer::malformed(&undecidable, is_grpc)
            }
        };
        Ok(Response::new(answer))
    }
}

//! `envoy.service.auth.v3.Authorization`: what an Envoy's filter `ext_authz` asks about a request, and is answered.
//!
//! A question that is not well formed is answered as a refusal, not as an error of the call: an Envoy may be told to let
//! requests go on when asking fails.

mod answer;
mod question;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::Request;
use http_body::Body;
use prost::bytes::Bytes;
use tonic::Status;
use tonic::codegen::StdError;

use self::question::{Fields, in_words_of_routes, question};
use super::codec::{Encoded, decode};
use super::unary;
use crate::decide::Decider;
use crate::proto::envoy::service::auth::v3::authorization_server::SERVICE_NAME;
use crate::proto::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use crate::telemetry::Facade;

/// Answers `Authorization`. Cheap to clone.
#[derive(Clone)]
pub struct ExtAuthz(Arc<Decider>);

impl ExtAuthz {
    /// Has `decider` decide.
    pub const fn new(decider: Arc<Decider>) -> Self {
        Self(decider)
    }

    /// Answers a call of the service.
    pub fn call<B>(&self, request: Request<B>) -> unary::Answer
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send + 'static,
    {
        if unary::method_of(&request, SERVICE_NAME) != "Check" {
            return unary::no_such_method();
        }
        let own = self.clone();
        unary::answer(request, |message| async move { own.check(message).await })
    }

    /// `message` is read as the bytes that came in: of a borrowed one prost copies each field of bytes twice.
    async fn check(&self, message: Bytes) -> Result<Encoded<CheckResponse>, Status> {
        let wire = Box::new(decode::<CheckRequest>(message)?);
        let policy = self.0.policy();
        let fields = Fields::of(&wire);
        let is_grpc = fields.is_grpc();
        let answer = match question(&wire, &fields, &policy.gateways) {
            Ok(question) => match self.0.decide(&question, Facade::ExtAuthz).get().await {
                Ok(decision) => answer::response(&decision, &question, is_grpc),
                Err(undecidable) => answer::malformed(&in_words_of_routes(undecidable), is_grpc),
            },
            Err(undecidable) => {
                self.0.turned_away(Facade::ExtAuthz);
                answer::malformed(&undecidable, is_grpc)
            }
        };
        Ok(Encoded::of(&answer))
    }
}

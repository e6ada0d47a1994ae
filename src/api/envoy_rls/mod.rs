//! `envoy.service.ratelimit.v3`: what an Envoy's filter `ratelimit` asks, answered as envoyproxy/ratelimit answers it.

mod answer;
mod question;

use std::sync::Arc;

use http::{HeaderMap, Request};
use http_body::Body;
use prost::bytes::Bytes;
use tonic::Status;
use tonic::codegen::StdError;

use self::question::{bounded, make_readable, question, usual};
use super::codec::{Encoded, decode};
use super::native::{QUOTA_SCOPE, status};
use super::{Peer, asker, unary};
use crate::decide::ports::Answer;
use crate::decide::{Decider, RateLimited};
use crate::domain::ratelimit::Unit;
use crate::proto::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit as Named;
use crate::proto::envoy::service::ratelimit::v3::rate_limit_service_server::SERVICE_NAME;
use crate::proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use crate::telemetry::Facade;

/// Answers `RateLimitService`. Cheap to clone.
#[derive(Clone)]
pub struct RateLimitApi {
    decider: Arc<Decider>,
}

impl RateLimitApi {
    /// Has `decider` say what has room.
    pub const fn new(decider: Arc<Decider>) -> Self {
        Self { decider }
    }

    /// Answers a call of the service by `peer`.
    pub fn call<B>(&self, peer: &Peer, request: Request<B>) -> unary::Answer
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send + 'static,
    {
        if unary::method_of(&request, SERVICE_NAME) != "ShouldRateLimit" {
            return unary::no_such_method();
        }
        let (own, peer) = (self.clone(), peer.clone());
        unary::answer_with(request, |headers| {
            |message| async move { own.should_rate_limit(&peer, &headers, &message).await }
        })
    }

    async fn should_rate_limit(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        message: &[u8],
    ) -> Result<Encoded<RateLimitResponse>, Status> {
        if let Some((domain, limiting)) = self.ask(message) {
            let limited = match limiting {
                Answer::Now(limited) => limited,
                Answer::Later(limiting) => limiting.await,
            };
            return Ok(answer::response(domain, &limited));
        }
        // What is kept while it waits would make every call larger, and most wait for nothing.
        Box::pin(self.ask_unusually(peer, headers, message)).await
    }

    /// Asks what a message of the usual form says.
    fn ask<'a>(&'a self, message: &'a [u8]) -> Option<(&'a str, Answer<'a, RateLimited>)> {
        let question = usual(message)?;
        Some((question.domain, self.decider.limit_rate(&question)))
    }

    /// Asks what any other message says, if it is well formed, and its asker may.
    async fn ask_unusually(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        message: &[u8],
    ) -> Result<Encoded<RateLimitResponse>, Status> {
        let turned_away = |_: &_| self.decider.turned_away(Facade::RateLimit);
        bounded(message).inspect_err(turned_away)?;
        let message = make_readable(decode::<RateLimitRequest>(message)?);
        if message.descriptors.iter().any(|descriptor| descriptor.is_negative_hits) {
            self.permit(peer, headers).await?;
        }
        let question = question(&message).inspect_err(turned_away)?;
        let limited = self.decider.limit_rate(&question).get().await;
        Ok(answer::response(question.domain, &limited))
    }

    /// What is taken back lifts limits, as `QuotaService/Refund` does.
    async fn permit(&self, peer: &Peer, headers: &HeaderMap) -> Result<(), Status> {
        let credential = asker::credential(headers);
        let caller = self.decider.permit_operator(credential, peer.certificate(), QUOTA_SCOPE).get().await;
        caller.map(|_| ()).map_err(|reason| status::refused(reason, QUOTA_SCOPE))
    }
}

const fn number_of(unit: Unit) -> Named {
    match unit {
        Unit::Second => Named::Second,
        Unit::Minute => Named::Minute,
        Unit::Hour => Named::Hour,
        Unit::Day => Named::Day,
        Unit::Week => Named::Week,
        Unit::Month => Named::Month,
        Unit::Year => Named::Year,
    }
}

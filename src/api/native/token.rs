//! `TokenService`.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::{answer, shown_by, status};
use crate::api::asker;
use crate::decide::{Decider, INTROSPECT_SCOPE, Unpermitted, Violation};
use crate::domain::decision::Class;
use crate::proto as pb;
use crate::proto::token_service_server::TokenService;

/// Answers `TokenService`.
pub struct TokenApi {
    decider: Arc<Decider>,
}

impl TokenApi {
    /// Has `decider` judge tokens.
    pub const fn new(decider: Arc<Decider>) -> Self {
        Self { decider }
    }
}

#[async_trait]
impl TokenService for TokenApi {
    async fn introspect(
        &self,
        request: Request<pb::IntrospectRequest>,
    ) -> Result<Response<pb::IntrospectResponse>, Status> {
        let certificate = shown_by(request.extensions());
        let sight = asker::sight(&self.decider, request.metadata().as_ref(), certificate).await;
        let sight = sight.map_err(|unpermitted| match unpermitted {
            Unpermitted::Operator(reason) => status::refused(reason, INTROSPECT_SCOPE),
            Unpermitted::Client => {
                Status::unauthenticated("no client of the configuration has this name and this secret")
            }
        })?;
        let pb::IntrospectRequest { token, token_type_hint: _ } = request.get_ref();
        if token.is_empty() {
            let violation = Violation { field: "token".to_owned(), description: "is needed".to_owned() };
            return Err(status::malformed(&[violation]));
        }
        match self.decider.introspect(token, &sight).get().await {
            Ok(identity) => Ok(Response::new(answer::active(&identity))),
            // What could not be found out is not "inactive": the asker would throw a good token away.
            Err(reason) if reason.class() == Class::DependencyUnavailable => Err(status::away(reason.name())),
            Err(_) => Ok(Response::new(pb::IntrospectResponse::default())),
        }
    }
}

//! `TokenService`.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::{answer, revocation, shown_by, status};
use crate::api::asker;
use crate::decide::ports::{Cursor, Listed};
use crate::decide::{Decider, INTROSPECT_SCOPE, REVOKE_SCOPE, Revoker, Unpermitted, Violation, Way};
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

    async fn revoker<T: Sync>(&self, request: &Request<T>) -> Result<Revoker, Status> {
        let certificate = shown_by(request.extensions());
        let revoker = asker::revoker(&self.decider, request.metadata().as_ref(), certificate, Way::Grpc).await;
        revoker.map_err(|unpermitted| unpermitted_for(REVOKE_SCOPE, unpermitted))
    }
}

/// Who asks may not.
fn unpermitted_for(scope: &str, unpermitted: Unpermitted) -> Status {
    match unpermitted {
        Unpermitted::Operator(reason) => status::refused(reason, scope),
        Unpermitted::Client => Status::unauthenticated("no client of the configuration has this name and this secret"),
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
        let sight = sight.map_err(|unpermitted| unpermitted_for(INTROSPECT_SCOPE, unpermitted))?;
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

    async fn revoke(&self, request: Request<pb::RevokeRequest>) -> Result<Response<pb::RevokeResponse>, Status> {
        let revoker = self.revoker(&request).await?;
        let (asked, reason) = revocation::asked(request.get_ref())?;
        let outcomes = self.decider.revoke(&revoker, asked, reason).get().await.map_err(revocation::refused)?;
        Ok(Response::new(pb::RevokeResponse { results: outcomes.iter().map(revocation::result).collect() }))
    }

    async fn list_revocations(
        &self,
        request: Request<pb::ListRevocationsRequest>,
    ) -> Result<Response<pb::ListRevocationsResponse>, Status> {
        let revoker = self.revoker(&request).await?;
        let (from, filter) = revocation::to_list(request.get_ref())?;
        let listed = self.decider.revocations(&revoker, from, filter).get().await;
        let Listed { entries, next } = listed.map_err(revocation::refused)?;
        Ok(Response::new(pb::ListRevocationsResponse {
            revocations: entries.iter().map(revocation::listed).collect(),
            next_page_token: next.map(|Cursor(next)| next.to_string()).unwrap_or_default(),
        }))
    }

    async fn unrevoke(&self, request: Request<pb::UnrevokeRequest>) -> Result<Response<pb::UnrevokeResponse>, Status> {
        let revoker = self.revoker(&request).await?;
        let (id, reason) = revocation::to_undo(request.get_ref())?;
        let gone = self.decider.unrevoke(&revoker, id, reason).get().await.map_err(revocation::refused)?;
        let gone = gone.ok_or_else(|| Status::not_found("there is no entry of this id, or no longer"))?;
        Ok(Response::new(pb::UnrevokeResponse { revocation: Some(revocation::listed(&gone)) }))
    }
}

//! `TokenService`.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::{answer, operator, shown_by, status};
use crate::decide::{Decider, Violation};
use crate::domain::decision::Class;
use crate::proto as pb;
use crate::proto::token_service_server::TokenService;

/// The scope that `Introspect` needs: without it, whoever finds a token could learn what it is good for (RFC 7662 §4).
const INTROSPECT_SCOPE: &str = "tollgate:introspect";

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
        let credential = operator(request.metadata());
        let certificate = shown_by(request.extensions());
        let caller = self.decider.permit_operator(credential, certificate, INTROSPECT_SCOPE).get().await;
        caller.map_err(|reason| status::refused(reason, INTROSPECT_SCOPE))?;
        let pb::IntrospectRequest { token, token_type_hint: _ } = request.get_ref();
        if token.is_empty() {
            let violation = Violation { field: "token".to_owned(), description: "is needed".to_owned() };
            return Err(status::malformed(&[violation]));
        }
        match self.decider.introspect(token).get().await {
            Ok(identity) => Ok(Response::new(answer::active(&identity))),
            // What could not be found out is not "inactive": the asker would throw a good token away.
            Err(reason) if reason.class() == Class::DependencyUnavailable => Err(status::away(reason.name())),
            Err(_) => Ok(Response::new(pb::IntrospectResponse::default())),
        }
    }
}

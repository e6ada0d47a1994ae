//! `QuotaService`.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::question::counter_charges;
use super::{answer, operator, status};
use crate::decide::{Decider, Violation};
use crate::domain::question::Mode;
use crate::proto as pb;
use crate::proto::quota_service_server::QuotaService;

/// The scope that `Reset` needs.
const RESET_SCOPE: &str = "tollgate:quota";

/// Answers `QuotaService`.
pub struct QuotaApi {
    decider: Arc<Decider>,
}

impl QuotaApi {
    /// Has `decider` consume.
    pub const fn new(decider: Arc<Decider>) -> Self {
        Self { decider }
    }
}

#[async_trait]
impl QuotaService for QuotaApi {
    async fn consume(&self, request: Request<pb::ConsumeRequest>) -> Result<Response<pb::ConsumeResponse>, Status> {
        let charges = counter_charges(&request.get_ref().charges)?;
        let payment = self.decider.consume(&charges, Mode::Consume).get().await?;
        Ok(Response::new(answer::consumed(&payment)))
    }

    async fn peek(&self, request: Request<pb::PeekRequest>) -> Result<Response<pb::PeekResponse>, Status> {
        let charges = counter_charges(&request.get_ref().charges)?;
        let payment = self.decider.consume(&charges, Mode::Peek).get().await?;
        Ok(Response::new(answer::peeked(&payment)))
    }

    async fn reset(&self, request: Request<pb::ResetRequest>) -> Result<Response<pb::ResetResponse>, Status> {
        let credential = operator(request.metadata());
        let caller = self.decider.permit_operator(credential, RESET_SCOPE).get().await;
        let caller = caller.map_err(|reason| status::refused(reason, RESET_SCOPE))?;
        let Some(counter) = &request.get_ref().counter else {
            let violation = Violation { field: "counter".to_owned(), description: "is needed".to_owned() };
            return Err(status::malformed(&[violation]));
        };
        let outcome = self.decider.reset(&counter.limit, &counter.key).get().await?;
        outcome.map_err(|away| status::away(format!("the quota store {away}")))?;
        tracing::info!(limit = counter.limit, subject = caller.subject.as_deref(), "a counter was reset");
        Ok(Response::new(pb::ResetResponse {}))
    }
}

//! `QuotaService`.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::question::{counter_charges, estimate, settlement};
use super::{answer, shown_by, status};
use crate::api::asker;
use crate::decide::ports::Away;
use crate::decide::{Decider, Violation};
use crate::domain::identity::Identity;
use crate::domain::question::Mode;
use crate::proto as pb;
use crate::proto::quota_service_server::QuotaService;

/// The scope that `Refund` and `Reset` need: they lift limits.
pub(in crate::api) const QUOTA_SCOPE: &str = "tollgate:quota";

/// Answers `QuotaService`.
pub struct QuotaApi {
    decider: Arc<Decider>,
}

impl QuotaApi {
    /// Has `decider` consume.
    pub const fn new(decider: Arc<Decider>) -> Self {
        Self { decider }
    }

    async fn permit<T: Sync>(&self, request: &Request<T>) -> Result<Arc<Identity>, Status> {
        let credential = asker::credential(request.metadata().as_ref());
        let certificate = shown_by(request.extensions());
        let caller = self.decider.permit_operator(credential, certificate, QUOTA_SCOPE).get().await;
        caller.map_err(|reason| status::refused(reason, QUOTA_SCOPE))
    }
}

#[async_trait]
impl QuotaService for QuotaApi {
    async fn consume(&self, request: Request<pb::ConsumeRequest>) -> Result<Response<pb::ConsumeResponse>, Status> {
        let charges = counter_charges(&request.get_ref().charges, Mode::Consume)?;
        let paid = self.decider.consume(&charges, Mode::Consume).get().await?;
        Ok(Response::new(answer::consumed(&paid)))
    }

    async fn peek(&self, request: Request<pb::PeekRequest>) -> Result<Response<pb::PeekResponse>, Status> {
        let charges = counter_charges(&request.get_ref().charges, Mode::Peek)?;
        let paid = self.decider.consume(&charges, Mode::Peek).get().await?;
        Ok(Response::new(answer::peeked(&paid)))
    }

    async fn reserve(&self, request: Request<pb::ReserveRequest>) -> Result<Response<pb::ReserveResponse>, Status> {
        let (charges, hold) = estimate(request.get_ref())?;
        let paid = self.decider.reserve(&charges, hold).get().await?;
        Ok(Response::new(answer::reserved(&paid)))
    }

    async fn settle(&self, request: Request<pb::SettleRequest>) -> Result<Response<pb::SettleResponse>, Status> {
        let (lease, used) = settlement(request.get_ref())?;
        let gone = self.decider.settle(lease, used).get().await.map_err(away)?;
        Ok(Response::new(pb::SettleResponse { gone }))
    }

    async fn refund(&self, request: Request<pb::RefundRequest>) -> Result<Response<pb::RefundResponse>, Status> {
        let caller = self.permit(&request).await?;
        let charges = counter_charges(&request.get_ref().charges, Mode::Consume)?;
        let refunded = self.decider.refund(&charges).get().await?.map_err(away)?.to_vec();
        for (charge, units) in charges.iter().zip(&refunded) {
            tracing::info!(limit = charge.limit, units, subject = caller.subject.as_deref(), "units were given back");
        }
        Ok(Response::new(pb::RefundResponse { refunded }))
    }

    async fn reset(&self, request: Request<pb::ResetRequest>) -> Result<Response<pb::ResetResponse>, Status> {
        let caller = self.permit(&request).await?;
        let Some(counter) = &request.get_ref().counter else {
            let violation = Violation { field: "counter".to_owned(), description: "is needed".to_owned() };
            return Err(status::malformed(&[violation]));
        };
        self.decider.reset(&counter.limit, &counter.key).get().await?.map_err(away)?;
        tracing::info!(limit = counter.limit, subject = caller.subject.as_deref(), "a counter was reset");
        Ok(Response::new(pb::ResetResponse {}))
    }
}

fn away(away: Away) -> Status {
    status::away(format!("the quota store {away}"))
}

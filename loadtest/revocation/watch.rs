//! One token, asked about at one replica again and again.

use std::time::Duration;

use tollgate::decide::ports::Clock as _;
use tollgate::domain::time::Micros;
use tollgate::proto as pb;
use tollgate::proto::decision_service_client::DecisionServiceClient;
use tollgate::server::SystemClock;
use tonic::transport::Channel;

use crate::load;

/// The time from one question to the next while the token is good, and once it is refused.
const INTERVAL: Duration = Duration::from_millis(10);
const INTERVAL_REFUSED: Duration = Duration::from_millis(250);

/// For so long it is asked on after the first refusal: nothing is to be accepted any more.
const ASKED_ON: Duration = Duration::from_secs(2);

/// A token that is still good after so long is good for ever.
const WATCHED_MAX: Duration = Duration::from_secs(20);

/// Asks one replica about one token.
pub(super) struct Watch {
    client: DecisionServiceClient<Channel>,
    question: pb::DecideRequest,
    clock: SystemClock,
}

/// A call that was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    sent: Micros,
    answered: Micros,
    allowed: bool,
}

/// What was seen of one token at one replica, from the answer to its revocation on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    /// When the first refusal was answered; zero where that was before.
    pub first_refusal: Micros,
    /// When the last call was sent that was accepted; zero where that was before.
    pub last_acceptance: Micros,
    /// Calls that were accepted after one that was refused.
    pub accepted_again: usize,
    /// Decisions.
    pub calls: usize,
}

impl Watch {
    pub(super) const fn new(
        client: DecisionServiceClient<Channel>,
        question: pb::DecideRequest,
        clock: SystemClock,
    ) -> Self {
        Self { client, question, clock }
    }

    /// Asks once. That makes it remembered, too.
    pub(super) async fn must_be_allowed(&mut self) -> Result<(), String> {
        if self.ask().await?.allowed { Ok(()) } else { Err("a token is refused that was not revoked".to_owned()) }
    }

    /// Asks until the token has been refused for a while.
    pub(super) async fn until_over(mut self) -> Result<Vec<Call>, String> {
        let give_up = self.clock.steady() + WATCHED_MAX.into();
        let mut calls = Vec::new();
        let mut refused: Option<Micros> = None;
        loop {
            let call = self.ask().await?;
            calls.push(call);
            if !call.allowed {
                refused.get_or_insert(call.answered);
            }
            match refused {
                Some(refused) if call.answered >= refused + ASKED_ON.into() => return Ok(calls),
                Some(_) => tokio::time::sleep(INTERVAL_REFUSED).await,
                None if call.answered >= give_up => return Err("a revoked token stays good".to_owned()),
                None => tokio::time::sleep(INTERVAL).await,
            }
        }
    }

    async fn ask(&mut self) -> Result<Call, String> {
        let sent = self.clock.steady();
        let answer = self.client.decide(self.question.clone()).await.map_err(|status| load::refused(&status))?;
        let answer = answer.into_inner();
        let is_revoked = answer.detail == "revoked";
        if answer.allowed == is_revoked {
            return Err(format!("a call is refused for another reason: {answer:?}"));
        }
        Ok(Call { sent, answered: self.clock.steady(), allowed: answer.allowed })
    }
}

impl Sight {
    /// What `calls` show, of a token whose revocation was answered then.
    pub(super) fn of(calls: &[Call], revoked: Micros) -> Result<Self, String> {
        let first = calls.iter().position(|call| !call.allowed).ok_or("no call was refused")?;
        let last_accepted = calls.iter().rfind(|call| call.allowed);
        Ok(Self {
            first_refusal: calls[first].answered.since(revoked),
            last_acceptance: last_accepted.map_or(Micros::ZERO, |call| call.sent.since(revoked)),
            accepted_again: calls[first..].iter().filter(|call| call.allowed).count(),
            calls: calls.len(),
        })
    }
}

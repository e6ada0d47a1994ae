//! What is known of a token, told to those who may ask (RFC 7662).

use super::Decider;
use super::ports::{Answer, Inspected, Shown, Verdict};
use crate::domain::client::{self, Sight};
use crate::domain::decision::{Class, Reason};
use crate::domain::question::{Certificate, Credential};
use crate::telemetry::names;

/// The scope that asking needs: without it, whoever finds a token could learn what it is good for (RFC 7662 §4).
pub const INTROSPECT_SCOPE: &str = "tollgate:introspect";

/// Who asks about a token, as it shows itself.
#[derive(Clone, Copy)]
pub enum Asker<'a> {
    /// By a token, an API key or the connection's certificate, which has the scope [`INTROSPECT_SCOPE`].
    Operator(Credential<'a>, Option<&'a Certificate<'a>>),
    /// By the name and the secret of a client of the configuration. There may be several ways to read what it shows.
    Client(&'a [(String, String)]),
}

/// Why somebody may not ask about tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpermitted {
    /// No client of the configuration has that name and that secret.
    Client,
    /// What is wrong with the token or API key, or could not be found out about it.
    Operator(Reason),
}

impl Decider {
    /// Which tokens `asker` learns of, if any.
    pub fn permit_asker<'a>(&'a self, asker: Asker<'a>) -> Answer<'a, Result<Sight, Unpermitted>> {
        match asker {
            Asker::Operator(credential, certificate) => self
                .permit_operator(credential, certificate, INTROSPECT_SCOPE)
                .then(|verdict| Answer::Now(verdict.map(|_| Sight::Every).map_err(Unpermitted::Operator))),
            Asker::Client(spellings) => {
                let policy = self.policy();
                let client = client::authenticated(&policy.clients, spellings);
                Answer::Now(client.map(|client| client.sight.clone()).ok_or(Unpermitted::Client))
            }
        }
    }

    /// Whose a token is, revocations considered. One that `sight` does not cover is refused as if it were good nowhere.
    pub fn introspect<'a>(&'a self, token: &'a str, sight: &'a Sight) -> Answer<'a, Verdict> {
        self.stands_now(Shown::Token(token)).then(move |verdict| {
            let verdict = verdict
                .and_then(|identity| if sight.covers(&identity) { Ok(identity) } else { Err(Reason::WrongAudience) });
            let outcome = match &verdict {
                Ok(_) => "active",
                Err(reason) if reason.class() == Class::DependencyUnavailable => "away",
                Err(_) => "inactive",
            };
            self.telemetry.counter(names::INTROSPECTION_ANSWERS, &[("outcome", outcome)]).increment(1);
            Answer::Now(verdict)
        })
    }

    /// The verdict on what is shown, revocations considered.
    pub(super) fn stands_now<'a>(&'a self, shown: Shown<'a>) -> Answer<'a, Verdict> {
        let now = self.clock.now();
        self.tokens.inspect(shown, now).then(move |Inspected { verdict, .. }| match verdict {
            Ok(identity) => self.standing(identity, now),
            Err(reason) => Answer::Now(Err(reason)),
        })
    }
}

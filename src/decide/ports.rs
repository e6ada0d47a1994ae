//! What the decision needs from outside. A few seams where something is swapped; each speaks of the domain only.

mod revocation;

use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;

use smallvec::SmallVec;

#[cfg(test)]
pub(crate) use self::revocation::NoLog;
pub use self::revocation::{
    Change, Cursor, Listed, ListedRevocation, News, Place, RevocationLog, RevocationView, Snapshot, Standing,
};
pub use super::hashes::{TokenHash, TokenHashes};
use crate::domain::api_key::{ApiKey, KeyId};
use crate::domain::decision::{QuotaStates, Reason};
use crate::domain::event::{EventFlaw, EventKind};
use crate::domain::fixed::Grid;
use crate::domain::identity::{Identity, Thumbprint};
use crate::domain::limit::{CounterKey, Limit};
use crate::domain::question::{Certificate, Mode, Question};
use crate::domain::revocation::{Target, Which};
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{Grant, LeaseId, Terms};

/// An answer that is there already, or one that has to be waited for.
///
/// The warm path is made of [`Answer::Now`]s: no await, no boxed future, no task switch. Only a miss is
/// [`Answer::Later`]. Nothing happens before such a future is polled; dropping it half-way leaves at most a charge
/// that nobody uses.
#[must_use = "an answer that is not waited for never comes"]
pub enum Answer<'a, T> {
    /// Known without waiting.
    Now(T),
    /// To be waited for.
    Later(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
}

impl<'a, T> Answer<'a, T> {
    /// An answer that has to be waited for.
    pub fn later(future: impl Future<Output = T> + Send + 'a) -> Self {
        Self::Later(Box::pin(future))
    }

    /// Goes on with the answer: at once where it is there, else when it comes.
    pub fn then<U>(self, next: impl FnOnce(T) -> Answer<'a, U> + Send + 'a) -> Answer<'a, U>
    where
        T: Send + 'a,
        U: Send + 'a,
    {
        match self {
            Self::Now(answer) => next(answer),
            Self::Later(future) => Answer::later(async move { next(future.await).get().await }),
        }
    }

    /// Waits where waiting is needed.
    pub async fn get(self) -> T {
        match self {
            Self::Now(answer) => answer,
            Self::Later(future) => future.await,
        }
    }
}

/// Tells the time. The only place that time enters through.
pub trait Clock: Send + Sync {
    /// Both clocks, now.
    fn now(&self) -> Moment;

    /// The steady one alone, for measuring how long something took.
    fn steady(&self) -> Micros {
        self.now().steady
    }
}

/// Finds out who shows a credential.
pub trait TokenInspector: Send + Sync {
    /// The verdict on `token` at `now`: whose it is, or why it is not accepted.
    ///
    /// [`Answer::Now`] whenever the verdict is remembered or can be computed from keys in hand; `Later` only where
    /// someone has to be asked, or where other tokens' signatures are to be checked first. A remembered verdict says nothing about revocation, which is asked every time.
    fn inspect<'a>(&'a self, shown: Shown<'a>, now: Moment) -> Answer<'a, Inspected>;

    /// The same, of a token among others, whose hashes may be in hand. That makes no other difference.
    fn inspect_among<'a>(
        &'a self,
        shown: Shown<'a>,
        _hashes: &mut TokenHashes<'a>,
        now: Moment,
    ) -> Answer<'a, Inspected> {
        self.inspect(shown, now)
    }

    /// Whether `shown` is remembered, or at hand, as good at `now`: then [`inspect`](Self::inspect) takes no signature and no
    /// asking. It says so at once, and nothing is counted.
    fn knows(&self, shown: Shown<'_>, now: Moment) -> bool;

    /// Whether the caller holds the keys that `identity` is bound to: asked on each decision, after the verdict, since a
    /// proof is for one call. [`Answer::Now`] where no key is asked for.
    fn prove<'a>(&'a self, identity: &Arc<Identity>, question: &'a Question<'a>, now: Moment) -> Answer<'a, Proved>;

    /// What the status list says that `identity`'s token names. Asked on each decision, after revocations, where it names
    /// one. [`Answer::Now`] while the list is in hand; where it cannot be had, [`Standing::Unknown`].
    fn status<'a>(&'a self, _identity: &Arc<Identity>, _now: Moment) -> Answer<'a, Standing> {
        Answer::Now(Standing::Unknown)
    }

    /// The keys in hand that this issuer calls so (`kid`), by their thumbprints: at least one, several only where they are for
    /// different algorithms. Else [`Reason::UnknownIssuer`], [`Reason::UnknownKey`], or [`Reason::KeysAway`] where its
    /// keys could never be had.
    fn signing_keys(&self, issuer: &str, kid: &str) -> Result<Vec<Thumbprint>, Reason>;
}

/// What came of asking for proofs of possession.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// Whether the caller holds the keys: if not, a [`Reason`] of class `Unauthenticated` or `DependencyUnavailable`.
    pub outcome: Result<(), Reason>,
    /// The nonce that the next `DPoP` proof is to hold (RFC 9449 §8), where the caller does not know it yet.
    pub next_nonce: Option<Box<str>>,
}

impl From<Result<(), Reason>> for Proved {
    fn from(outcome: Result<(), Reason>) -> Self {
        Self { outcome, next_nonce: None }
    }
}

/// Remembers which proofs of possession were used, so that none is good twice (RFC 9449 §11.1).
pub trait ProofLog: Send + Sync {
    /// Whether this is the first use of a proof, which is remembered then for as long as it says. [`Mode::Peek`] only looks.
    /// Of several who ask at a time, on whatever replicas that share the log, one alone is told that it is the first.
    ///
    /// Nothing is forgotten before its time to make room: where there is none the answer is [`AwayCause::Full`].
    fn first_use(&self, proof: ProofUse, mode: Mode, now: Moment) -> Answer<'_, Result<bool, Away>>;
}

/// One use of a proof of possession.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProofUse {
    /// The key that made the proof.
    pub key: Thumbprint,
    /// A hash that stands for the proof: of the key and of the proof's own id.
    pub name: [u8; 32],
    /// For how long the proof could be shown once more.
    pub keep: Micros,
}

/// Reads what identity providers tell, and believes none of it before it was verified.
pub trait EventReader: Send + Sync {
    /// Reads it at `now`. Waits where a key of the issuer, or whether it was told before, has to be asked for.
    fn read<'a>(&'a self, told: Told<'a>, now: Moment) -> Answer<'a, Result<Heard, Unheard>>;

    /// Notes that what was told has been done, for as long as it could be told again. To be called after it was done: who
    /// is interrupted in between is told once more, which does no harm, and has not noted what never happened.
    fn note(&self, receipt: ProofUse, now: Moment) -> Answer<'_, Result<(), Away>>;
}

/// Does what identity providers tell.
pub trait EventSink: Send + Sync {
    /// Does it. Once answered, it has been written down.
    fn hear<'a>(&'a self, told: Told<'a>) -> Answer<'a, Result<(), Unheard>>;
}

/// What an identity provider tells; it may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told<'a> {
    /// A logout token (`OpenID` Connect Back-Channel Logout §2.4).
    Logout(&'a str),
    /// A security event token (RFC 8417).
    Event(&'a str),
}

/// What was told, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who told it.
    pub issuer: Arc<str>,
    /// What is to be taken back.
    pub aims: Vec<Aim>,
    /// Events that take something back, of a subject that no token of the issuer names. Others do not count.
    pub missed: usize,
    /// Whether it was told and done before.
    pub again: bool,
    /// Under which name it is remembered.
    pub receipt: ProofUse,
}

/// What an event takes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aim {
    /// What happened.
    pub kind: EventKind,
    /// What is to be taken back.
    pub target: Target,
    /// Which of it.
    pub which: Which,
}

/// Why what somebody told was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unheard {
    /// It is not believed, and telling it again changes nothing.
    Refused(EventFlaw),
    /// It could not be verified, or not be written down; it may be told again.
    Away(Away),
}

impl From<EventFlaw> for Unheard {
    fn from(flaw: EventFlaw) -> Self {
        Self::Refused(flaw)
    }
}

/// What is shown to find out who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown<'a> {
    /// A token, whatever its scheme; it may be anything.
    Token(&'a str),
    /// An API key; it may be anything.
    ApiKey(&'a str),
    /// A certificate that whoever asks vouches for.
    Certificate(&'a Certificate<'a>),
}

/// What is known of a token.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// Whose it is, or why it is refused: a [`Reason`] of class `Unauthenticated` or `DependencyUnavailable`.
    pub verdict: Verdict,
    /// Whether the verdict was remembered.
    pub remembered: bool,
}

/// Whose a token is, or why it is refused.
pub type Verdict = Result<Arc<Identity>, Reason>;

/// Keeps API keys where several replicas find them. Each call is one round trip, within the store's deadline.
pub trait ApiKeyRecords: Send + Sync {
    /// What is kept of a key; none: there is no such key, or what is kept makes no sense, which the log says.
    fn find(&self, id: KeyId) -> Answer<'_, Result<Option<ApiKey>, Away>>;

    /// Keeps a new key. False: the id is taken, and nothing changed.
    fn add(&self, key: ApiKey) -> Answer<'_, Result<bool, Away>>;

    /// Ends a key. False: there is no such key.
    fn end(&self, id: KeyId, ending: KeyEnding) -> Answer<'_, Result<bool, Away>>;

    /// Notes that a key was used now. One that is gone stays gone.
    fn note_use(&self, id: KeyId) -> Answer<'_, Result<(), Away>>;

    /// Every key that is kept, by id, each read for itself.
    fn list(&self) -> Answer<'_, Result<ListedKeys, Away>>;
}

/// Several keys, each with its id; none where what is kept makes no sense.
pub type ListedKeys = Vec<(KeyId, Option<KeptKey>)>;

/// When a key ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEnding {
    /// Now and for good: it is revoked.
    Revoked,
    /// Then, since the Unix epoch. One that ends sooner is left as it is.
    At(Micros),
}

/// What is kept of a key, and when it was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptKey {
    /// The key.
    pub key: ApiKey,
    /// When it was used last, since the Unix epoch, give or take a minute; none: never.
    pub used: Option<Micros>,
}

/// Pays what a decision costs.
pub trait Quotas: Send + Sync {
    /// Pays every charge or none; one state per charge, in order. Asks the store once, within its deadline, and may wait for
    /// answers to others who ask for the same counter before that, some times at most. Where the store
    /// cannot be asked, each limit's `when_away` decides, and the state says [`QuotaVerdict::Away`].
    ///
    /// [`QuotaVerdict::Away`]: crate::domain::decision::QuotaVerdict::Away
    fn pay(&self, charges: Charges, now: Moment) -> Answer<'_, Payment>;

    /// Says what paying would lead to, without paying: the units left are those that are there now.
    fn peek(&self, charges: Charges, now: Moment) -> Answer<'_, Payment>;

    /// Pays every charge or none, as [`Quotas::pay`] does, for a cost that is known only afterwards: an estimate is
    /// charged at once and exactly, and held under the name that the payment says. What is not settled when `hold`, at
    /// most [`HOLD_MAX`](crate::domain::limit::HOLD_MAX), has passed counts as spent.
    fn reserve(&self, charges: Charges, hold: Micros, now: Moment) -> Answer<'_, Payment>;

    /// Counts hits of fixed windows, each by itself and whether they fit or not, as envoyproxy/ratelimit does; one state
    /// for each, in order, told as of afterwards. A counter that cannot be asked admits what its limit's `when_away`
    /// says, and counts nothing.
    fn hit(&self, hits: Hits, now: Moment) -> Answer<'_, QuotaStates>;

    /// Says what of a reservation was used: the rest comes back; more than was reserved is charged, too, even beyond
    /// the limit. Slots of a concurrency limit are released, whatever was used. What is unknown, settled already or over
    /// is left as it is. Any replica may settle what another reserved, where they share a store.
    fn settle(&self, settlements: Settlements, now: Moment) -> Answer<'_, Result<(), Away>>;

    /// Takes charges back that were paid and not used, within the last window, and answers how many units of each: never
    /// more than are charged. Of a concurrency limit none: its slots are released by settling.
    fn refund(&self, charges: Charges, now: Moment) -> Answer<'_, Result<Refunds, Away>>;

    /// Forgets what was charged to a counter.
    fn reset(&self, limit: Arc<Limit>, key: CounterKey) -> Answer<'_, Result<(), Away>>;
}

/// Some units of one counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The limit.
    pub limit: Arc<Limit>,
    /// Which of its counters.
    pub key: CounterKey,
    /// At least 1.
    pub units: u64,
}

/// Some hits of one fixed window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The limit.
    pub limit: Arc<Limit>,
    /// The windows that its algorithm says.
    pub grid: Grid,
    /// Which of its counters.
    pub key: CounterKey,
    /// How many; none look.
    pub hits: u64,
}

/// Hits of several counters, one after the other.
pub type Hits = SmallVec<[Hit; 4]>;

/// What a decision costs, at most one charge per counter.
pub type Charges = SmallVec<[Charge; 4]>;

/// What became of several charges.
#[derive(Clone, Debug)]
pub struct Payment {
    /// `Allowed` when all was paid (or peeked to be payable), else `QuotaExceeded` or `StoreAway`.
    pub reason: Reason,
    /// One for each charge, in order.
    pub states: QuotaStates,
    /// Whether the store had to be asked.
    pub asked: bool,
    /// Whether a counter's store was away, so that its limit had to be answered for without.
    pub away: bool,
    /// The name under which something is held until it is settled, for all counters of the call alike: a
    /// reservation, or slots of a concurrency limit. None where nothing is.
    pub held: Option<LeaseId>,
}

/// Keeps counters. Implemented by each store, decorated by deadline and breaker, used by [`Quotas`] only.
///
/// Each call is one round trip to each node that keeps some of its counters. `now` is the moment of the decision: a store that has
/// no clock of its own goes by its steady part; one that several replicas share goes by its own clock.
pub trait QuotaStore: Send + Sync {
    /// Asks counters for units, all or none: unless each of them can grant its `at_least`, none is charged. One answer
    /// per request, in order, each saying what its own counter has to say. No counter is named twice.
    ///
    /// A counter that cannot be asked refuses where its limit's `when_away` says deny, and else holds up no other.
    ///
    /// A refusal changes nothing, and neither does [`Mode::Peek`]; what is left is then what is left without the units.
    fn acquire(&self, requests: Requests, mode: Mode, now: Moment) -> Answer<'_, Grants>;

    /// Counts hits of fixed windows, each by itself and in order, whether they fit or not; no hits look. One answer for each,
    /// told as of afterwards: [`Outcome::Short`] where a window has counted more than its units.
    ///
    /// [`Outcome::Short`]: crate::domain::window::Outcome::Short
    fn hit(&self, hits: Hits, now: Moment) -> Answer<'_, Grants>;

    /// Ends leases: what was used is charged to the moment of the settling, the rest is released; slots are released
    /// whatever was used. A lease that is unknown, settled already or past its expiry is left as it is: spent whole. So is
    /// one whose charge is gone meanwhile (refunded, reset), but for what was used beyond its units.
    fn settle(&self, settlements: Settlements, now: Moment) -> Answer<'_, Result<(), Away>>;

    /// Takes back up to so many units of each counter, from the oldest that count first, and answers how many. Each
    /// counter by itself: one that has less to give back holds up no other.
    fn refund(&self, charges: Charges, now: Moment) -> Answer<'_, Result<Refunds, Away>>;

    /// Forgets a counter.
    fn reset(&self, limit: Arc<Limit>, key: CounterKey) -> Answer<'_, Result<(), Away>>;

    /// Charges units that were admitted already, as far as the counters reach: up to each limit's units. Nothing is
    /// refused. The units count from the moment of the charging, which is never too early. No counter is named twice;
    /// slots are left as they are.
    ///
    /// A store that lost its data takes this before anything else: see [`QuotaStore::beat`].
    fn assert(&self, charges: Charges, now: Moment) -> Answer<'_, Result<(), Away>>;

    /// Says that a replica is there, and hears who else is and whether the store has lost its data. To be said about once
    /// a second; it changes the store, so it also shows whether the store takes charges.
    ///
    /// Between the moment at which a store finds that its data is of another epoch and the first pulse of that epoch
    /// it answers acquisitions with [`AwayCause::Lost`]: whoever asks has to tell it first what it admitted.
    fn beat(&self, pulse: Pulse, now: Moment) -> Answer<'_, Result<Beat, Away>>;
}

/// What a replica says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// Who: a random number, drawn when the replica starts.
    pub replica: u64,
    /// The epoch of the store's data that knows all that this replica admitted. None: it has admitted nothing.
    pub epoch: Option<Epoch>,
}

/// What a replica hears of the others and of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Which data the store has.
    pub epoch: Epoch,
    /// The replicas that were there within the last few seconds, each once: this one is among them.
    pub there: Vec<Peer>,
}

/// A replica that was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who, as in its pulses.
    pub replica: u64,
    /// Whether the store's data knows what it admitted.
    pub word: Word,
}

/// What a replica's latest pulse says of the data that the store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The data knows all that it admitted.
    Told,
    /// It has still to tell.
    Owes,
    /// It has not told a part of the store, and nothing was heard of it there.
    Unheard,
}

/// Names the data of a store. Another one: what was charged before is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(pub NonZeroU64);

/// Units asked of one counter.
#[derive(Clone, Debug)]
pub struct Request {
    /// The limit that the counter belongs to.
    pub limit: Arc<Limit>,
    /// Which counter.
    pub key: CounterKey,
    /// How many units, for how long.
    pub terms: Terms,
}

/// Units that a lease's holder used.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The limit that the counter belongs to.
    pub limit: Arc<Limit>,
    /// Which counter.
    pub key: CounterKey,
    /// Which lease.
    pub lease: LeaseId,
    /// Units used. More than those granted only where they were reserved.
    pub used: u64,
}

/// What several counters are asked for.
pub type Requests = SmallVec<[Request; 4]>;

/// Several counters' answers: what each grants, or why it could not be asked.
pub type Grants = SmallVec<[Result<Grant, Away>; 4]>;

/// What is said of `counters` counters when none of them can be asked.
pub fn all_away(counters: usize, away: Away) -> Grants {
    SmallVec::from_elem(Err(away), counters)
}

/// Several leases' ends.
pub type Settlements = SmallVec<[Settlement; 4]>;

/// Units taken back, one number for each charge, in order.
pub type Refunds = SmallVec<[u64; 4]>;

/// A dependency could not be asked, or its answer could not be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{because}")]
pub struct Away {
    /// Why, for the log and `/readyz`; holds no secret.
    pub because: AwayCause,
}

/// Why a dependency counts as away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AwayCause {
    /// No connection, or it broke.
    #[error("cannot be reached")]
    Unreachable,
    /// No answer within the deadline.
    #[error("did not answer within its deadline")]
    Deadline,
    /// Not asked, because it failed just now and is given time.
    #[error("failed repeatedly and is not asked for a moment")]
    Resting,
    /// Not asked, because too many calls wait for it already.
    #[error("has too many calls waiting for it")]
    Crowded,
    /// Wrong password, or not allowed to do what is needed.
    #[error("refuses the credentials or lacks a permission")]
    Denied,
    /// It answers but takes no writes (a read-only replica, a disk error).
    #[error("takes no writes")]
    ReadOnly,
    /// It lost its data, and has not been told yet what was admitted before.
    #[error("has lost its data and is being told what was admitted")]
    Lost,
    /// It has no room for another counter or proof.
    #[error("is full")]
    Full,
    /// It is not what the configuration takes it for.
    #[error("is not what the configuration says; the log names the key")]
    Mistaken,
    /// It answered something else than expected.
    #[error("gave an answer that was not understood")]
    Garbled,
}

impl AwayCause {
    /// Whether what was asked may have been done all the same, and the answer did not come.
    pub const fn may_have_been_asked(self) -> bool {
        match self {
            Self::Unreachable | Self::Deadline | Self::Garbled => true,
            Self::Resting
            | Self::Crowded
            | Self::Denied
            | Self::ReadOnly
            | Self::Lost
            | Self::Full
            | Self::Mistaken => false,
        }
    }
}

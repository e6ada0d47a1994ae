//! Messages that cost little to send and to read.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::{BufMut as _, Bytes};
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// A message that is encoded already.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    /// Its first field, if it has an id (`DecideStreamRequest`).
    pub id: Option<u64>,
    /// All of it, or all but the id.
    pub rest: Bytes,
}

/// An answer, as far as it is read. Fields that are not declared are skipped.
pub(crate) trait Answer: Message + Default + 'static {
    /// The method that gives it.
    const PATH: &'static str;

    /// How many decisions it holds; none unless all of them allow.
    fn allows(&self) -> Option<u64>;
}

/// `DecideResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Decided {
    #[prost(bool, tag = "1")]
    allowed: bool,
}

/// `DecideOutcome`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Outcome {
    #[prost(message, optional, tag = "1")]
    decision: Option<Decided>,
}

/// `DecideBatchResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Batch {
    #[prost(message, repeated, tag = "1")]
    outcomes: Vec<Outcome>,
}

/// `DecideStreamResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Streamed {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(message, optional, tag = "2")]
    outcome: Option<Outcome>,
}

impl Outcome {
    /// Whether it is a decision that allows.
    pub(crate) fn allows(&self) -> bool {
        self.decision.as_ref().is_some_and(|decided| decided.allowed)
    }
}

impl Answer for Decided {
    const PATH: &'static str = "/tollgate.v1.DecisionService/Decide";

    fn allows(&self) -> Option<u64> {
        self.allowed.then_some(1)
    }
}

impl Answer for Batch {
    const PATH: &'static str = "/tollgate.v1.DecisionService/DecideBatch";

    fn allows(&self) -> Option<u64> {
        self.outcomes.iter().all(Outcome::allows).then_some(self.outcomes.len() as u64)
    }
}

impl Answer for Streamed {
    const PATH: &'static str = "/tollgate.v1.DecisionService/DecideStream";

    fn allows(&self) -> Option<u64> {
        self.outcome.as_ref().is_some_and(Outcome::allows).then_some(1)
    }
}

/// Sends [`Prepared`] messages and reads `A`.
#[derive(Clone, Debug)]
pub(crate) struct Lean<A>(PhantomData<A>);

impl<A> Default for Lean<A> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<A: Answer> Codec for Lean<A> {
    type Encode = Prepared;
    type Decode = A;
    type Encoder = Copying;
    type Decoder = ProstDecoder<A>;

    fn encoder(&mut self) -> Copying {
        Copying
    }

    fn decoder(&mut self) -> ProstDecoder<A> {
        ProstDecoder::new(BufferSettings::default())
    }
}

/// Copies what is prepared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copying;

impl Encoder for Copying {
    type Item = Prepared;
    type Error = Status;

    fn encode(&mut self, Prepared { id, rest }: Prepared, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        if let Some(id) = id {
            encode_key(1, WireType::Varint, to);
            encode_varint(id, to);
        }
        to.put(rest);
        Ok(())
    }
}

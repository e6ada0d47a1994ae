//! Proofs of possession that were used, shared by all replicas: a key of its own for each, spread over the slots, that ends
//! when the proof is no longer good.

use super::nodes::Outcome as Sent;
use super::script::Call;
use super::{Inner, RedisStore};
use crate::decide::ports::{Answer, Away, AwayCause, ProofLog, ProofUse};
use crate::domain::question::Mode;
use crate::domain::time::Moment;

impl ProofLog for RedisStore {
    fn first_use(&self, proof: ProofUse, mode: Mode, _: Moment) -> Answer<'_, Result<bool, Away>> {
        Answer::later(async move { self.0.first_use_later(proof, mode).await })
    }
}

impl Inner {
    async fn first_use_later(&self, ProofUse { key: _, name, keep }: ProofUse, mode: Mode) -> Result<bool, Away> {
        let mode: &[u8] = match mode {
            Mode::Consume => b"c",
            Mode::Peek => b"p",
        };
        // Rounded up: it must not end before the proof does.
        let millis = keep.0.div_ceil(1_000).max(1);
        let call = Call {
            keys: vec![proof_key(&name)],
            args: vec![millis.to_string().into_bytes(), mode.into()],
            ..Call::default()
        };
        let mut sent = self.nodes.run(&self.first_use, &call).await?;
        if matches!(sent, Sent::Spread) {
            // What was taken for a server has turned out to be a cluster's.
            sent = self.nodes.run(&self.first_use, &call).await?;
        }
        match sent {
            Sent::Done(bytes) if bytes == b"1" => Ok(true),
            Sent::Done(bytes) if bytes == b"0" => Ok(false),
            Sent::Done(_) | Sent::Spread => Err(Away { because: AwayCause::Garbled }),
        }
    }
}

/// No counter's: their names stand in braces. A hash has no braces, so all of it selects the slot.
fn proof_key(name: &[u8; 32]) -> Vec<u8> {
    let mut key = b"tollgate:proof:".to_vec();
    key.extend(name.iter().flat_map(|byte| [hex(byte >> 4), hex(byte & 15)]));
    key
}

const fn hex(digit: u8) -> u8 {
    match digit {
        0..10 => b'0' + digit,
        _ => b'a' + digit - 10,
    }
}

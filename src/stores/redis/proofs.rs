//! Proofs of possession that were used, shared by all replicas: for each key that made some a sorted set, so that all of
//! them are at one node and can be counted. It ends with the last of them.

use super::nodes::Outcome as Sent;
use super::script::Call;
use super::{Inner, RedisStore};
use crate::decide::ports::{Answer, Away, AwayCause, ProofLog, ProofUse};
use crate::domain::identity::Thumbprint;
use crate::domain::question::Mode;
use crate::domain::time::Moment;

impl ProofLog for RedisStore {
    fn first_use(&self, proof: ProofUse, mode: Mode, now: Moment) -> Answer<'_, Result<bool, Away>> {
        Answer::later(async move { self.0.first_use_later(proof, mode, now).await })
    }
}

impl Inner {
    async fn first_use_later(&self, proof: ProofUse, mode: Mode, now: Moment) -> Result<bool, Away> {
        let ProofUse { key, name, keep } = proof;
        let mode: &[u8] = match mode {
            Mode::Consume => b"c",
            Mode::Peek => b"p",
        };
        let call = Call {
            keys: vec![used_by(&key)],
            args: vec![
                self.time_argument(now),
                // Of a hash half is enough: nobody finds two alike.
                name[..16].into(),
                keep.0.to_string().into_bytes(),
                mode.into(),
                self.proofs_of_a_key_max.to_string().into_bytes(),
            ],
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
            Sent::Done(bytes) if bytes == b"f" => Err(Away { because: AwayCause::Full }),
            Sent::Done(_) | Sent::Spread => Err(Away { because: AwayCause::Garbled }),
        }
    }
}

/// No counter's: their names stand in braces. A hash has no braces, so all of it selects the slot.
fn used_by(key: &Thumbprint) -> Vec<u8> {
    let mut name = b"tollgate:proofs:".to_vec();
    name.extend(key.iter().flat_map(|byte| [hex(byte >> 4), hex(byte & 15)]));
    name
}

const fn hex(digit: u8) -> u8 {
    match digit {
        0..10 => b'0' + digit,
        _ => b'a' + digit - 10,
    }
}

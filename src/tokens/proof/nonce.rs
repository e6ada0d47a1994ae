//! Nonces for `DPoP` proofs (RFC 9449 §9) that nobody has to remember: each is the time, as only holders of the secret can
//! write it. Replicas with the same secret accept each other's.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::time::Micros;

/// How long one nonce is given out. It is accepted for as long again, so that a proof may be on its way meanwhile.
const STEP: Micros = Micros::from_secs(60);

/// Bytes of a nonce.
const BYTES: usize = 16;

/// What keeps nonces apart from whatever else the secret may be used for.
const CONTEXT: &[u8] = b"tollgate DPoP nonce 1";

pub(super) struct Nonces(hmac::Key);

/// How good a nonce is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The one that is given out now, or by a replica whose clock is ahead.
    Good,
    /// The one before: good for the last time, about.
    Ending,
    /// Any other.
    Bad,
}

impl Nonces {
    pub(super) fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(HMAC_SHA256, secret))
    }

    /// The nonce to give out at `now`, by the wall clock.
    pub(super) fn current(&self, now: Micros) -> Box<str> {
        self.of(now.0 / STEP.0)
    }

    /// How good `nonce` is at `now`.
    pub(super) fn judge(&self, nonce: &str, now: Micros) -> Standing {
        let step = now.0 / STEP.0;
        let is = |step| verify_slices_are_equal(self.of(step).as_bytes(), nonce.as_bytes()).is_ok();
        match nonce {
            _ if is(step) || is(step + 1) => Standing::Good,
            _ if is(step.wrapping_sub(1)) => Standing::Ending,
            _ => Standing::Bad,
        }
    }

    fn of(&self, step: u64) -> Box<str> {
        let tag = hmac::sign(&self.0, &[CONTEXT, &step.to_le_bytes()].concat());
        URL_SAFE_NO_PAD.encode(&tag.as_ref()[..BYTES]).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_for_its_minute_and_ends_with_the_next_on_every_replica() {
        let (one, other) = (Nonces::new(&[7; 32]), Nonces::new(&[7; 32]));
        let start = Micros(STEP.0 * 1_000);
        let nonce = one.current(start);
        for (at, standing) in [
            (start - STEP - Micros(1), Standing::Bad),
            (start - Micros(1), Standing::Good),
            (start, Standing::Good),
            (start + STEP - Micros(1), Standing::Good),
            (start + STEP, Standing::Ending),
            (start + STEP + STEP - Micros(1), Standing::Ending),
            (start + STEP + STEP, Standing::Bad),
        ] {
            assert_eq!(other.judge(&nonce, at), standing, "{at}");
        }
        assert_ne!(one.current(start + STEP), nonce);
    }

    #[test]
    fn nobody_without_the_secret_makes_a_nonce() {
        let nonces = Nonces::new(&[7; 32]);
        let now = Micros::from_secs(1_800_000_000);
        assert_eq!(nonces.judge(&Nonces::new(&[8; 32]).current(now), now), Standing::Bad);
        let good = nonces.current(now);
        for wrong in ["", &good[1..], &format!("{good}A"), &good.to_lowercase(), "é"] {
            assert_eq!(nonces.judge(wrong, now), Standing::Bad, "{wrong}");
        }
        assert_eq!(nonces.judge(&nonces.current(Micros::ZERO), Micros::ZERO), Standing::Good);
    }
}

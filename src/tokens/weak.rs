//! Keys that are well formed and yet give no security.

/// RSA keys whose primes came from Infineon's library (CVE-2017-15361, "The Return of Coppersmith's Attack", CCS 2017)
/// can be factored. They are known by their modulus: modulo each small prime it is a power of 65537.
///
/// `modulus` is big-endian. A sound modulus passes for a weak one less than once in 2^27.
pub(super) fn is_roca(modulus: &[u8]) -> bool {
    ROCA_PRIMES.iter().all(|&prime| {
        let residue = modulus.iter().fold(0, |rest, &byte| (rest * 256 + u32::from(byte)) % prime);
        let mut power = 1;
        (0..prime).any(|_| {
            let hit = power == residue;
            power = power * 65537 % prime;
            hit
        })
    })
}

/// The primes of the paper's fingerprint: up to 167.
const ROCA_PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
    113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// Whether an Ed25519 public key is of small order, or not the canonical spelling of its point (RFC 8032 §5.1.3):
/// for the first sort, signatures can be made that verify for almost any message.
///
/// `key` is little-endian, its top bit being the sign of x, which changes nothing about the order.
pub(super) fn is_weak_ed25519(key: [u8; 32]) -> bool {
    let mut y = key;
    y[31] &= 0x7f;
    // 2^255 − 19 and above: y is not reduced.
    let unreduced = y[31] == 0x7f && y[1..31].iter().all(|&byte| byte == 0xff) && y[0] >= 0xed;
    unreduced || SMALL_ORDER.contains(&y)
}

/// The y coordinates of the points of order 1, 2, 4 and 8.
const SMALL_ORDER: [[u8; 32]; 5] = [
    small(1, 0, 0),
    small(0xec, 0xff, 0x7f),
    small(0, 0, 0),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

const fn small(first: u8, between: u8, last: u8) -> [u8; 32] {
    let mut y = [between; 32];
    y[0] = first;
    y[31] = last;
    y
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    #[test]
    fn fresh_ed25519_keys_are_sound_and_points_of_small_order_are_not() {
        for _ in 0..50 {
            let pair = Ed25519KeyPair::generate().unwrap();
            let key = <[u8; 32]>::try_from(pair.public_key().as_ref()).unwrap();
            assert!(!is_weak_ed25519(key));
        }
        for mut key in SMALL_ORDER {
            assert!(is_weak_ed25519(key));
            key[31] |= 0x80;
            assert!(is_weak_ed25519(key), "the sign of x changes nothing");
        }
        for first in 0xed..=0xff {
            assert!(is_weak_ed25519(small(first, 0xff, 0x7f)), "unreduced: {first}");
        }
        assert!(!is_weak_ed25519(small(0xeb, 0xff, 0x7f)));
    }

    #[test]
    fn a_modulus_outside_the_subgroup_of_one_prime_is_no_roca_modulus() {
        // 65537^2 is a power of 65537 modulo everything.
        let square = 65537_u64 * 65537;
        assert!(is_roca(&square.to_be_bytes()));
        assert!(!is_roca(&(square + 1).to_be_bytes()));
    }
}

//! What tokens could be remembered under: each takes all bytes of a token. `cargo bench hashes`.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, SHA512_256, digest};
use aws_lc_rs::hmac;
use divan::{Bencher, black_box};

/// Bytes of tokens: a small one, and two with more claims.
const SIZES: [usize; 3] = [450, 1024, 4096];

const KEY: [u8; 32] = [7; 32];

/// What it is.
#[divan::bench(args = SIZES)]
fn sha256(bencher: Bencher<'_, '_>, bytes: usize) {
    let token = vec![b'x'; bytes];
    bencher.bench(|| digest(&SHA256, black_box(&token)));
}

#[divan::bench(args = SIZES)]
fn sha512_256(bencher: Bencher<'_, '_>, bytes: usize) {
    let token = vec![b'x'; bytes];
    bencher.bench(|| digest(&SHA512_256, black_box(&token)));
}

#[divan::bench(args = SIZES)]
fn hmac_sha256(bencher: Bencher<'_, '_>, bytes: usize) {
    let token = vec![b'x'; bytes];
    let key = hmac::Key::new(hmac::HMAC_SHA256, &KEY);
    bencher.bench(|| hmac::sign(&key, black_box(&token)));
}

/// A keyed hash by the tag of a message that is empty, with the token beside it (RFC 8452). A nonce may be used again here:
/// nobody sees a tag, and equal tokens shall have equal ones.
#[divan::bench(args = SIZES)]
fn aes_256_gcm_siv(bencher: Bencher<'_, '_>, bytes: usize) {
    let token = vec![b'x'; bytes];
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, &KEY).unwrap());
    bencher.bench(|| {
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        key.seal_in_place_separate_tag(nonce, Aad::from(black_box(&token)), &mut []).unwrap()
    });
}

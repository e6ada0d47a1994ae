//! What tokens could be remembered under: each takes all bytes of a token. `cargo bench hashes`.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, AES_256_GCM_SIV, Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use aws_lc_rs::cipher::{AES_128, EncryptingKey, UnboundCipherKey};
use aws_lc_rs::digest::{SHA256, SHA512_256, digest};
use aws_lc_rs::hmac;
use divan::{Bencher, black_box};

/// Bytes of tokens: an opaque one, the shortest that counts as long, a small JWT, and two with more claims.
const SIZES: [usize; 5] = [50, 256, 470, 1024, 4096];

const KEY: [u8; 32] = [7; 32];

/// What short ones are remembered under, but for the salt.
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
    by_tag(bencher, &AES_256_GCM_SIV, bytes);
}

/// The same with GCM, whose tag under one nonce is GHASH, but for a constant: linear, so it must not show in any way.
#[divan::bench(args = SIZES)]
fn aes_128_gcm(bencher: Bencher<'_, '_>, bytes: usize) {
    by_tag(bencher, &AES_128_GCM, bytes);
}

#[divan::bench(args = SIZES)]
fn aes_256_gcm(bencher: Bencher<'_, '_>, bytes: usize) {
    by_tag(bencher, &AES_256_GCM, bytes);
}

/// What long ones are remembered under: GCM's tag, encrypted.
#[divan::bench(args = SIZES)]
fn aes_128_gcm_encrypted(bencher: Bencher<'_, '_>, bytes: usize) {
    let token = vec![b'x'; bytes];
    let key = key(&AES_128_GCM);
    let cipher = EncryptingKey::ecb(UnboundCipherKey::new(&AES_128, &KEY[..16]).unwrap()).unwrap();
    bencher.bench(|| {
        let mut block = [0; 16];
        block.copy_from_slice(tag(&key, black_box(&token)).as_ref());
        cipher.encrypt(&mut block).unwrap();
        block
    });
}

fn by_tag(bencher: Bencher<'_, '_>, algorithm: &'static Algorithm, bytes: usize) {
    let token = vec![b'x'; bytes];
    let key = key(algorithm);
    bencher.bench(|| tag(&key, black_box(&token)));
}

fn key(algorithm: &'static Algorithm) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(algorithm, &KEY[..algorithm.key_len()]).unwrap())
}

fn tag(key: &LessSafeKey, token: &[u8]) -> aws_lc_rs::aead::Tag {
    let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
    key.seal_in_place_separate_tag(nonce, Aad::from(token), &mut []).unwrap()
}

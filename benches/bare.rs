//! The same benches as in `main.rs` without counting allocations, which makes each of them dearer: for times that are held
//! against a budget. `cargo bench --bench bare NAME`.

#![expect(clippy::print_stderr, clippy::unwrap_used, reason = "a bench says what it finds, and fails by panicking")]

mod asked;
mod decision;
mod descriptors;
mod hashes;
mod house;
mod leases;
mod orders;
mod quotas;
mod revoked;
mod rules;
mod signer;
mod tokens;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// As there.
const SAMPLE_SIZE: u32 = 64;

fn main() {
    divan::Divan::from_args().sample_size(SAMPLE_SIZE).main();
}

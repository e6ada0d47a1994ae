//! Benches of what every decision is made of, and of the whole. `cargo bench`, or `cargo bench NAME`.
//!
//! Allocations are counted, with the server's allocator underneath; counting makes each some nanoseconds dearer.

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

use divan::AllocProfiler;
use mimalloc::MiMalloc;

use self::house::SAMPLE_SIZE;

#[global_allocator]
static ALLOCATOR: AllocProfiler<MiMalloc> = AllocProfiler::new(MiMalloc);

fn main() {
    divan::Divan::from_args().sample_size(SAMPLE_SIZE).main();
}

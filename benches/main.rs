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

#[global_allocator]
static ALLOCATOR: AllocProfiler<MiMalloc> = AllocProfiler::new(MiMalloc);

/// Calls between two looks at the clock, so that its own cost and grain do not show.
const SAMPLE_SIZE: u32 = 64;

fn main() {
    divan::Divan::from_args().sample_size(SAMPLE_SIZE).main();
}

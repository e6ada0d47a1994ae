//! Benches of what every decision is made of, and of the whole. `cargo bench`, or `cargo bench -- NAME`.
//!
//! Allocations are counted, with the server's allocator underneath: counting makes each of them some nanoseconds dearer.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

mod decision;
mod house;
mod quotas;
mod rules;
mod tokens;

use divan::AllocProfiler;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: AllocProfiler<MiMalloc> = AllocProfiler::new(MiMalloc);

fn main() {
    divan::main();
}

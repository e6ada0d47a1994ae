//! Arguments to exit codes.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

/// Measured against the system's and jemalloc: see docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(cli::Arguments::parse())
}

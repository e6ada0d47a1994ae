//! Draws the picture of docs/quotas.md: `cargo run --example picture > docs/quotas.svg`.

mod draw;
mod play;
mod svg;

use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    io::stdout().lock().write_all(draw::picture().as_bytes())
}

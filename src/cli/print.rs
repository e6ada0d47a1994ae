//! Writing to the terminal. A reader that went away (`| head`) ends the writing, not the program.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Writes a line to standard output.
pub(super) fn line(text: impl Display) {
    // Nobody is left to be told.
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Writes what is shown this once to standard output.
///
/// # Errors
/// It could not be written, so nobody has it.
pub(super) fn once(text: impl Display) -> Result<(), String> {
    let mut output = io::stdout().lock();
    let written = writeln!(output, "{text}").and_then(|()| output.flush());
    written.map_err(|error| format!("the key could not be printed ({error})"))
}

/// Writes a problem to standard error.
pub(super) fn error(text: impl Display) {
    // Nobody is left to be told.
    let _ = writeln!(io::stderr().lock(), "tollgate: {text}");
}

//! What is wrong with a configuration, where, and what to do about it.

use std::fmt;
use std::path::PathBuf;

/// The most problems that are kept; the rest is counted only.
pub(super) const PROBLEMS_MAX: usize = 100;

/// The longest value that is shown, in characters.
const SHOWN_MAX: usize = 40;

/// A place in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Counts from 1.
    pub line: usize,
    /// In characters; counts from 1.
    pub column: usize,
}

/// Whether a configuration can be used in spite of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but hardly does what was meant.
    Warning,
}

/// One thing that is wrong. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The file's name, as it was given.
    pub file: String,
    /// Where; none where the file could not be read as a text at all.
    pub position: Option<Position>,
    /// The way to the value, such as `limits.per-client.units`; empty for the whole file.
    pub key: String,
    /// What is wrong, and the remedy.
    pub message: String,
}

/// Everything that is wrong with a configuration that cannot be used: at least one error, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    /// The first hundred, warnings included.
    pub listed: Vec<Problem>,
    /// How many more there are.
    pub omitted: usize,
    /// The files that were read besides the configuration's own: where it is mended, maybe.
    pub files: Vec<PathBuf>,
}

impl Problems {
    /// This one only.
    pub(super) fn of(problem: Problem) -> Self {
        Self { listed: vec![problem], omitted: 0, files: Vec::new() }
    }
}

/// `tollgate.yaml:12:5: limits.per-client.units: must be …`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        match self.severity {
            Severity::Error => {}
            Severity::Warning => f.write_str(" warning:")?,
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.message)
    }
}

/// One problem per line.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.listed.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        match self.omitted {
            0 => Ok(()),
            omitted => write!(f, "\nand {omitted} more"),
        }
    }
}

/// A value as it is shown in a message: quoted, escaped and cut, so that nothing in it can pass for another line. Of a
/// URL, user name and password are left out, with or without its scheme.
pub(super) fn shown(text: &str) -> String {
    if let Some((before, host)) = text.rsplit_once('@')
        && before.contains(':')
    {
        let scheme = before.split_once("://").map(|(scheme, _)| format!("{scheme}://"));
        return shown(&format!("{}…{host}", scheme.unwrap_or_default()));
    }
    let mut quoted = String::from("\"");
    for (index, character) in text.chars().enumerate() {
        if index == SHOWN_MAX {
            quoted.push('…');
            break;
        }
        quoted.extend(character.escape_debug());
    }
    quoted.push('"');
    quoted
}

/// The name among `names` that was probably meant by `name`.
pub(super) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer names are not compared: the work grows with the product of the lengths.
    const COMPARED_MAX: usize = 64;
    if name.len() > COMPARED_MAX {
        return None;
    }
    let folded = name.to_lowercase().replace('-', "_");
    names
        .into_iter()
        .filter(|known| known.len() <= COMPARED_MAX)
        .map(|known| (distance(&folded, &known.to_lowercase().replace('-', "_")), known))
        .filter(|&(distance, known)| distance * 3 <= known.len().max(3))
        .min()
        .map(|(_, known)| known)
}

/// How many characters must be put in, taken out, changed, or swapped with their neighbour (optimal string
/// alignment).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut rows: [Vec<usize>; 3] = [Vec::new(), Vec::new(), (0..=right.len()).collect()];
    let mut before = None;
    for (i, l) in left.chars().enumerate() {
        rows.rotate_left(1);
        let mut row = vec![i + 1];
        for (j, &r) in right.iter().enumerate() {
            let changed = rows[1][j] + usize::from(l != r);
            let mut least = changed.min(rows[1][j + 1] + 1).min(row[j] + 1);
            if j > 0 && before == Some(r) && l == right[j - 1] {
                least = least.min(rows[0][j - 1] + 1);
            }
            row.push(least);
        }
        rows[2] = row;
        before = Some(l);
    }
    rows[2][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_that_was_mistyped() {
        let names = ["units", "window", "by", "when_away"];
        for (name, meant) in [
            ("unit", Some("units")),
            ("untis", Some("units")),
            ("Window", Some("window")),
            ("when-away", Some("when_away")),
            ("whenaway", Some("when_away")),
            ("yb", Some("by")),
            ("algorithm", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, names), meant, "{name}");
        }
        assert_eq!(nearest(&"x".repeat(1 << 20), names), None);
    }

    #[test]
    fn values_are_shown_short_and_on_one_line() {
        assert_eq!(shown("a\nb\u{1b}[31m\"\u{202e}"), r#""a\nb\u{1b}[31m\"\u{202e}""#);
        assert_eq!(shown(&"x".repeat(41)), format!("\"{}…\"", "x".repeat(40)));
        assert_eq!(shown("https://user:p@ss@host/a"), "\"https://…host/a\"");
        assert_eq!(shown("user:p@ss@host:1"), "\"…host:1\"");
    }
}

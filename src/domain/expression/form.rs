//! What is looked at before the parser sees a text: whatever bounds the stack that it takes.

use super::{Flaw, TEXT_BYTES_MAX};

/// How deep brackets may be nested: every level costs the parser up to 200 KB of stack in a build for tests.
pub(super) const NESTING_MAX: usize = 8;

/// Whether `text` is short enough, its strings end, and its brackets are not nested too deep.
///
/// Brackets in strings do not count, so it must be sure what is a string: where the parser could take another view of it
/// (a comment, a triple quote, an escape that there is not, a quote that is glued to a word), the text is refused.
pub(super) fn check(text: &str) -> Result<(), Flaw> {
    let flaw = |at: usize, message: &str| {
        let (line, column) = place(text, at);
        Err(Flaw { line, column, message: message.to_owned() })
    };
    if text.len() > TEXT_BYTES_MAX {
        return flaw(0, "is longer than 2048 bytes; say it shorter, or by several rules");
    }
    let mut depth = 0_usize;
    let mut rest = text;
    let mut before = ' ';
    while let Some(sign) = rest.chars().next() {
        let at = text.len() - rest.len();
        rest = &rest[sign.len_utf8()..];
        match sign {
            '(' | '[' | '{' => {
                depth += 1;
                if depth > NESTING_MAX {
                    return flaw(at, "brackets are nested more than 8 deep; say it flatter, or by several rules");
                }
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '/' if rest.starts_with('/') => {
                return flaw(at, "has a comment; write it beside the expression, after `#`");
            }
            '`' => return flaw(at, "has a backtick; write `map[\"name\"]` for names that are no words"),
            '"' | '\'' => match string(rest, sign, false) {
                Ok(behind) => rest = behind,
                Err(why) => return flaw(at, why),
            },
            'r' | 'R' if !is_of_word(before) && rest.starts_with(['"', '\'']) => {
                match string(&rest[1..], if rest.starts_with('"') { '"' } else { '\'' }, true) {
                    Ok(behind) => rest = behind,
                    Err(why) => return flaw(at, why),
                }
            }
            _ if is_of_word(sign) && rest.starts_with(['"', '\'']) => {
                return flaw(at, "a string begins inside a word; only `r` may stand before its quote");
            }
            _ if !sign.is_ascii() => return flaw(at, "has a sign that can stand in a string only"),
            _ => {}
        }
        before = sign;
    }
    Ok(())
}

/// What is behind a string that ends with `quote`.
fn string(text: &str, quote: char, raw: bool) -> Result<&str, &'static str> {
    if text.starts_with(quote) && text[1..].starts_with(quote) {
        return Err("has a triple quote; one is enough");
    }
    let mut signs = text.char_indices();
    while let Some((at, sign)) = signs.next() {
        match sign {
            _ if sign == quote => return Ok(&text[at + 1..]),
            '\n' | '\r' => break,
            '\\' if !raw => {
                let Some((_, escaped)) = signs.next() else { break };
                let (digits, base) = match escaped {
                    'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`' => (0, 16),
                    'x' | 'X' => (2, 16),
                    'u' => (4, 16),
                    'U' => (8, 16),
                    '0'..='3' => (2, 8),
                    _ => return Err("has an escape that there is not; in `r\"…\"` a backslash is itself"),
                };
                if (0..digits).any(|_| !signs.next().is_some_and(|(_, digit)| digit.is_digit(base))) {
                    return Err("has an escape without all its digits");
                }
            }
            _ => {}
        }
    }
    Err("a string has no end on its line")
}

fn is_of_word(sign: char) -> bool {
    sign.is_ascii_alphanumeric() || sign == '_'
}

/// The line, and the column in characters, of the byte at `at`; both count from 1.
pub(super) fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let line = before.rfind('\n').map_or(before, |newline| &before[newline + 1..]);
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

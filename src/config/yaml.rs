//! YAML to a small tree that knows where each part of it stands.
//!
//! A configuration needs mappings, lists and scalars. Whatever else YAML offers (anchors and aliases, tags, directives,
//! several documents, keys that are no scalars) is refused: it makes two readers see two things, or a small text a
//! large value.

use std::collections::HashMap;

use granit_parser::{Event, Marker, Options, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::problem::Position;

/// The largest text that is read, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 4 << 20;

/// The most values, nested ones included.
const NODES_MAX: usize = 200_000;

/// How deep values may be nested; a configuration needs seven levels.
const DEPTH_MAX: usize = 32;

/// A value and where it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

/// What YAML values are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    /// In the order of the text; keys may repeat.
    Mapping(Vec<Entry>),
}

/// A scalar as written. What it means depends on who reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Whether it is without quotes, so that YAML may take it for something else than a string.
    pub(super) plain: bool,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Position,
    pub(super) value: Node,
}

/// Why a text has no tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) at: Option<Position>,
    pub(super) message: String,
}

/// What YAML takes a plain scalar for (YAML 1.2 core schema, §10.3.2, and what YAML 1.1 readers take for booleans).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlainKind {
    Nothing,
    Boolean,
    Number,
    Text,
}

/// The tree of `text`.
pub(super) fn read(text: &str) -> Result<Node, Flaw> {
    if text.len() > TEXT_BYTES_MAX {
        let message =
            format!("is larger than {} MiB; split it or remove what is not configuration", TEXT_BYTES_MAX >> 20);
        return Err(Flaw { at: None, message });
    }
    refuse_control_characters(text)?;
    let mut options = Options::default();
    options.strict_indentation = true;
    options.disallow_directives = true;
    // They are on where any crate in the build asks for granit-parser's `comments`.
    options.set_emit_comments(false);
    Tree { parser: Parser::new_from_str_with_options(text, options), nodes: 0 }.document()
}

/// The text of a file's bytes.
pub(super) fn text(bytes: Vec<u8>) -> Result<String, Flaw> {
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..good]).into_owned();
        let message = "is not UTF-8; save the file in UTF-8".to_owned();
        Flaw { at: Some(end_of(&before)), message }
    })
}

impl Scalar {
    /// What YAML takes it for.
    pub(super) fn kind(&self) -> PlainKind {
        if !self.plain {
            return PlainKind::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => PlainKind::Nothing,
            text if ["true", "false", "yes", "no", "on", "off"].iter().any(|word| text.eq_ignore_ascii_case(word)) => {
                PlainKind::Boolean
            }
            text if is_number(text) => PlainKind::Number,
            _ => PlainKind::Text,
        }
    }
}

/// Numbers of the core schema: decimal, octal, hexadecimal, floats, infinities.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let based = [("0x", 16), ("0o", 8)].into_iter().any(|(prefix, base)| {
        text.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_digit(base)))
    });
    let special = [".inf", ".Inf", ".INF"].contains(&digits) || [".nan", ".NaN", ".NAN"].contains(&text);
    let float = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && digits.parse::<f64>().is_ok();
    based || special || float
}

/// The parser takes a NUL for the end of the text: what follows must not be lost silently.
fn refuse_control_characters(text: &str) -> Result<(), Flaw> {
    let refused = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    let Some((index, character)) = text.char_indices().find(|&(_, c)| refused(c)) else {
        return Ok(());
    };
    let message = format!("has the control character U+{:04X}; remove it", u32::from(character));
    Err(Flaw { at: Some(end_of(&text[..index])), message })
}

/// The position behind `text`.
pub(super) fn end_of(text: &str) -> Position {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line = text.rfind('\n').map_or(text, |newline| &text[newline + 1..]);
    Position { line: text.matches('\n').count() + 1, column: line.chars().count() + 1 }
}

/// Builds the tree from the parser's events.
struct Tree<'t> {
    parser: Parser<'t, StrInput<'t>>,
    nodes: usize,
}

impl<'t> Tree<'t> {
    fn document(mut self) -> Result<Node, Flaw> {
        let mut root = None;
        while let Some(next) = self.parser.next_event() {
            let (event, span) = next.map_err(syntax)?;
            match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                _ if root.is_some() => {
                    return Err(flaw(&span, "a second document starts here; a configuration is one document"));
                }
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        // Not "everything by default": a file that is being written is empty for a moment.
        let message = "is empty; where that is meant, write `{}`".to_owned();
        root.filter(|node| !matches!(&node.value, Value::Scalar(scalar) if scalar.kind() == PlainKind::Nothing))
            .ok_or(Flaw { at: Some(Position { line: 1, column: 1 }), message })
    }

    /// The next event; the parser ends only behind the document.
    fn next(&mut self) -> Result<(Event<'t>, Span), Flaw> {
        match self.parser.next_event() {
            Some(next) => next.map_err(syntax),
            None => Err(Flaw { at: None, message: "ends in the middle of a value".to_owned() }),
        }
    }

    /// The value that starts with `event`. Recursion is bounded by [`DEPTH_MAX`].
    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Flaw> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(flaw(&span, &format!("has more than {NODES_MAX} values; make it smaller")));
        }
        if depth > DEPTH_MAX {
            return Err(flaw(&span, &format!("is nested more than {DEPTH_MAX} levels deep; nothing here needs that")));
        }
        refuse_extras(&event, &span)?;
        let value = match event {
            Event::Scalar(text, style, ..) => {
                Value::Scalar(Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain })
            }
            Event::SequenceStart(..) => Value::List(self.list(depth)?),
            Event::MappingStart(..) => Value::Mapping(self.mapping(depth)?),
            _ => return Err(flaw(&span, "is not understood; write a mapping, a list or a value")),
        };
        Ok(Node { at: position(span.start), value })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Flaw> {
        let mut nodes = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(nodes),
                (event, span) => nodes.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<Entry>, Flaw> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(entries),
                start => start,
            };
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            let Value::Scalar(name) = key.value else {
                let message = "a key must be a name, not a list or mapping".to_owned();
                return Err(Flaw { at: Some(key.at), message });
            };
            if name.kind() == PlainKind::Nothing {
                return Err(Flaw { at: Some(key.at), message: "a key is missing before `:`".to_owned() });
            }
            entries.push(Entry { key: name.text, at: key.at, value });
        }
    }
}

/// Refuses what makes a value depend on more than its own text.
fn refuse_extras(event: &Event<'_>, span: &Span) -> Result<(), Flaw> {
    if event.is_alias() {
        return Err(flaw(span, "aliases (`*name`) are refused; write the value out"));
    }
    if event.anchor_id().is_some() {
        return Err(flaw(span, "anchors (`&name`) are refused, since aliases are; remove it"));
    }
    if let Some(tag) = event.tag() {
        let tag = super::problem::shown(&tag.original());
        return Err(flaw(span, &format!("tags ({tag}) are refused; a string can be put in quotes")));
    }
    Ok(())
}

fn flaw(span: &Span, message: &str) -> Flaw {
    Flaw { at: Some(position(span.start)), message: message.to_owned() }
}

/// The parser's message with the remedy that usually helps.
#[expect(clippy::needless_pass_by_value, reason = "used as a function for `map_err`")]
fn syntax(error: ScanError) -> Flaw {
    let message = format!("is not YAML: {}; check indentation, quotes and brackets here and just above", error.info());
    Flaw { at: Some(position(*error.marker())), message }
}

/// The parser counts lines from 1 and columns from 0.
fn position(mark: Marker) -> Position {
    Position { line: mark.line().max(1), column: mark.col() + 1 }
}

/// For each key that is there more than once, its later places.
pub(super) fn repeated(entries: &[Entry]) -> Vec<(&Entry, Position)> {
    let mut first = HashMap::new();
    let mut repeated = Vec::new();
    for entry in entries {
        match first.get(entry.key.as_str()) {
            Some(&at) => repeated.push((entry, at)),
            None => {
                first.insert(entry.key.as_str(), entry.at);
            }
        }
    }
    repeated
}

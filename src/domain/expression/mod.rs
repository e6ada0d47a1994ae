//! Conditions of rules, in CEL (the Common Expression Language): read once, and held against calls.
//!
//! The `cel` crate parses and evaluates. Neither has bounds that hold against any text and any call: the parser takes
//! more stack with every bracket, and what an expression costs depends on what it is about. So a text is looked at before
//! it is parsed ([`form`]); what was parsed is checked node by node ([`check`]) for what it names, for the kinds of its
//! values and for the steps that it can take; and values of a call that are larger than the check reckons with are none
//! ([`facts`]). What passes has a bound: at most [`STEPS_MAX`] steps, whatever the call.
//!
//! An attribute that is not there makes an error of what looks at it, as CEL has it: `||` with true and `&&` with false
//! go on, and everything else is an error. An expression that ends in one is not true.

mod check;
mod facts;
mod form;
mod functions;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use cel::common::types::CelBool;
use cel::parser::{Expression as Tree, ParseError, Parser};
use cel::{Context, Env, Value};

use self::facts::Facts;
use self::functions::Constant;
use super::demand::Call;
use super::identity::Identity;

/// The longest expression, in bytes.
pub const TEXT_BYTES_MAX: usize = 2 * 1024;

/// The most steps that an expression may take, whatever the call: so many that none keeps others waiting for 10 ms. A step is
/// one operation, a quarter of finding what a name stands for, one item of a list that is built, searched or gone
/// through, up to [`BLOCK_BYTES`] of text that are copied, compared or searched, up to [`NAMES_A_STEP`] names among which one
/// is looked up, or one byte of a text that is matched, for each KiB that the pattern takes when it is compiled.
pub const STEPS_MAX: u64 = 140_000;

/// The longest text of a call that has a value, in bytes: a header, an attribute, a path.
pub const VALUE_BYTES_MAX: usize = 8 * 1024;

/// The longest list of a call that has a value.
pub const ITEMS_MAX: usize = 1_024;

/// The longest text in such a list, in bytes.
pub const ITEM_BYTES_MAX: usize = 512;

/// The most names in a map of a call that has values.
pub const NAMES_MAX: usize = 256;

/// How much text is one step.
const BLOCK_BYTES: u64 = 64;

/// How many names are one step.
const NAMES_A_STEP: u64 = 16;

/// A condition of a rule.
#[derive(Clone)]
pub struct Expression {
    text: Box<str>,
    tree: Tree,
    environment: Arc<Env>,
    constants: Box<[Constant]>,
    steps_max: u64,
    names_segments: bool,
}

/// What is wrong with an expression, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column} of the expression: {message}")]
pub struct Flaw {
    /// Counts from 1.
    pub line: usize,
    /// In characters; counts from 1.
    pub column: usize,
    /// What is wrong, and the remedy.
    pub message: String,
}

impl Expression {
    /// Reads an expression of at most [`TEXT_BYTES_MAX`] that is true or false. `segments` are the names of the segments
    /// of the rule's path, which it may name as `path.…`. The parser takes up to 2 MB of stack in a build for tests.
    pub fn compile(text: &str, segments: &[&str]) -> Result<Self, Flaw> {
        form::check(text)?;
        let environment =
            functions::environment().map_err(|error| Flaw { line: 1, column: 1, message: error.to_string() })?;
        let (mut tree, places) =
            Parser::new().parse_with_source_info(text).map_err(|errors| first_of(text, errors.errors))?;
        let place = |id: u64| form::place(text, places.offset_for(id).map_or(0, |(start, _)| start as usize));
        let checked = check::check(&mut tree, segments).map_err(|(id, message)| {
            let (line, column) = place(id);
            Flaw { line, column, message }
        })?;
        let check::Checked { constants, steps_max, names_segments } = checked;
        Ok(Self { text: text.into(), tree, environment, constants, steps_max, names_segments })
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The most steps that it takes for any call; at most [`STEPS_MAX`].
    pub const fn steps_max(&self) -> u64 {
        self.steps_max
    }

    /// Whether it is true of a call by `identity`. One that has no value is not.
    pub fn holds(&self, identity: &Identity, call: Call<'_>) -> bool {
        let facts = Facts { identity, call, constants: &self.constants };
        let mut context = Context::with_env(Arc::clone(&self.environment));
        context.set_variable_resolver(&facts);
        let value = Value::resolve_val(&self.tree, &context);
        value.is_ok_and(|value| value.downcast_ref::<CelBool>().is_some_and(|truth| *truth.inner()))
    }

    /// Whether this is true wherever `measure` is: no more than that they are the same is known. The segments that two
    /// rules give the same name may be others.
    pub fn demands_as_much(&self, measure: &Self) -> bool {
        self == measure && !self.names_segments
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

/// Those that are written in the same way.
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

/// The first thing that the parser complains of.
fn first_of(text: &str, errors: Vec<ParseError>) -> Flaw {
    /// The parser's messages list every sign that could stand there.
    const MESSAGE_CHARS_MAX: usize = 120;
    let Some(error) = errors.into_iter().min_by_key(|error| error.pos) else {
        return Flaw { line: 1, column: 1, message: "is no expression".to_owned() };
    };
    let message = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg);
    let message = message.split(" expecting ").next().unwrap_or(message);
    let message = if message.ends_with("'<EOF>'") { "ends too early" } else { message };
    let clean = message.chars().map(|c| if c.is_control() { ' ' } else { c });
    let message = clean.take(MESSAGE_CHARS_MAX).collect();
    let place = match (usize::try_from(error.pos.0), usize::try_from(error.pos.1)) {
        (Ok(line @ 1..), Ok(column @ 1..)) => Some((line, column)),
        _ => None,
    };
    let (line, column) = place.unwrap_or_else(|| form::place(text, text.len()));
    Flaw { line, column, message }
}

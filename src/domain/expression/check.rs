//! Checks an expression that was parsed, node by node: that it names what there is, that each operation is given what it
//! is for, and how many steps it takes at most.
//!
//! The language is the part of CEL in which that can be known before any call is there: no attribute is of a kind that
//! depends on the call, lists hold scalars, and nothing grows from one turn of a loop to the next.

use std::fmt;

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, ListExpr, LiteralValue, SelectExpr, operators};
use cel::parser::Expression as Tree;

use super::functions::Constant;
use super::{BLOCK_BYTES, ITEM_BYTES_MAX, ITEMS_MAX, NAMES_A_STEP, NAMES_MAX, STEPS_MAX, VALUE_BYTES_MAX};

/// How deep operations may be nested: the interpreter goes down with them. What is joined by `||` or `&&` is one level
/// for each doubling of its number.
const DEPTH_MAX: usize = 48;

/// The steps of finding what a name stands for, or an attribute of it: as long as several operations on numbers.
const NAME_STEPS: u64 = 4;

/// The longest whole number, in digits and a sign.
const NUMBER_BYTES_MAX: u64 = 20;

/// Every function that there is, as it is called.
const FUNCTIONS: &str = "size(x), x.startsWith(y), x.endsWith(y), x.contains(y), x.matches(pattern), int(text), string(number), inCidr(address, network), has(x.y), x.exists(y, …), x.exists_one(y, …) and x.all(y, …)";

/// What the check found out.
pub(super) struct Checked {
    /// What stands in the tree as `@0`, `@1`, …, which nobody can write.
    pub(super) constants: Box<[Constant]>,
    pub(super) steps_max: u64,
    pub(super) names_segments: bool,
}

/// Attributes that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Identity,
    Actor,
    Request,
    /// The named segments of the path.
    Segments,
    Claims,
    Resource,
    Headers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Truth,
    Number,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Scalar(Scalar),
    List(Scalar),
    Record(Record),
}

const TRUTH: Kind = Kind::Scalar(Scalar::Truth);
const NUMBER: Kind = Kind::Scalar(Scalar::Number);
const TEXT: Kind = Kind::Scalar(Scalar::Text);

/// What is known of a node's value and of the way to it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    kind: Kind,
    /// Of a list: the most items.
    items: u64,
    /// The most bytes of a text; of a list of texts: of each.
    bytes: u64,
    /// The most steps that it takes.
    steps: u64,
}

/// What is wrong, and the node's number.
type Wrong = (u64, String);

struct Check<'s> {
    segments: &'s [&'s str],
    constants: Vec<Constant>,
    names_segments: bool,
    /// The variables of loops, the innermost last.
    scope: Vec<(String, Seen)>,
}

/// Checks `tree`, and puts constants in it for what is read once. `segments` are the names of the path's.
pub(super) fn check(tree: &mut Tree, segments: &[&str]) -> Result<Checked, Wrong> {
    let mut check = Check { segments, constants: Vec::new(), names_segments: false, scope: Vec::new() };
    let seen = check.see(tree, 0)?;
    if seen.kind != TRUTH {
        return Err((tree.id, format!("must be true or false; this is {}", seen.kind)));
    }
    if seen.steps > STEPS_MAX {
        let steps = seen.steps;
        return Err((
            tree.id,
            format!(
                "could take {steps} steps for a large call, more than {STEPS_MAX}; keep loops out of loops, and patterns \
                 small"
            ),
        ));
    }
    let Check { constants, names_segments, .. } = check;
    Ok(Checked { constants: constants.into(), steps_max: seen.steps, names_segments })
}

impl Record {
    /// What a variable stands for.
    pub(super) fn variable(name: &str) -> Option<Self> {
        match name {
            "identity" => Some(Self::Identity),
            "request" => Some(Self::Request),
            "path" => Some(Self::Segments),
            "resource" => Some(Self::Resource),
            _ => None,
        }
    }

    /// The attributes that it can have, where that is the same for every call.
    pub(super) const fn attributes(self) -> &'static [(&'static str, Kind)] {
        match self {
            Self::Identity => &[
                ("kind", TEXT),
                ("issuer", TEXT),
                ("subject", TEXT),
                ("client", TEXT),
                ("username", TEXT),
                ("tenant", TEXT),
                ("session", TEXT),
                ("token_id", TEXT),
                ("scopes", Kind::List(Scalar::Text)),
                ("roles", Kind::List(Scalar::Text)),
                ("audiences", Kind::List(Scalar::Text)),
                ("names", Kind::List(Scalar::Text)),
                ("claims", Kind::Record(Self::Claims)),
                ("actor", Kind::Record(Self::Actor)),
                ("expires_at", NUMBER),
                ("issued_at", NUMBER),
                ("logged_in_at", NUMBER),
            ],
            Self::Actor => &[("issuer", TEXT), ("subject", TEXT), ("client", TEXT)],
            Self::Request => &[
                ("method", TEXT),
                ("host", TEXT),
                ("path", TEXT),
                ("scheme", TEXT),
                ("source", TEXT),
                ("body_bytes", NUMBER),
                ("headers", Kind::Record(Self::Headers)),
            ],
            Self::Segments | Self::Claims | Self::Resource | Self::Headers => &[],
        }
    }

    /// Whether it has names and texts that calls choose.
    const fn is_map(self) -> bool {
        match self {
            Self::Claims | Self::Resource | Self::Headers => true,
            Self::Identity | Self::Actor | Self::Request | Self::Segments => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scalar(Scalar::Truth) => "true or false",
            Self::Scalar(Scalar::Number) => "a whole number",
            Self::Scalar(Scalar::Text) => "a text",
            Self::List(_) => "a list",
            Self::Record(record) if record.is_map() => "a map",
            Self::Record(_) => "a group of attributes",
        })
    }
}

impl Seen {
    const fn of(kind: Kind, steps: u64) -> Self {
        let (items, bytes) = match kind {
            Kind::Scalar(Scalar::Text) => (0, VALUE_BYTES_MAX as u64),
            Kind::List(_) => (ITEMS_MAX as u64, ITEM_BYTES_MAX as u64),
            Kind::Scalar(Scalar::Truth | Scalar::Number) | Kind::Record(_) => (0, 0),
        };
        Self { kind, items, bytes, steps }
    }

    const fn text(bytes: u64, steps: u64) -> Self {
        Self { kind: TEXT, items: 0, bytes, steps }
    }

    /// The steps of going through its text once.
    const fn blocks(&self) -> u64 {
        blocks(self.bytes)
    }
}

const fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES)
}

/// The sum, with one for the operation itself.
fn and_one(steps: &[u64]) -> u64 {
    steps.iter().fold(1, |sum, steps| sum.saturating_add(*steps))
}

impl Check<'_> {
    fn see(&mut self, node: &mut Tree, depth: usize) -> Result<Seen, Wrong> {
        let id = node.id;
        if depth > DEPTH_MAX {
            return Err((id, format!("operations are nested more than {DEPTH_MAX} deep; say it flatter")));
        }
        let seen = match &mut node.expr {
            Expr::Literal(literal) => written(literal),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => self.selected(select, depth),
            Expr::Call(call) => self.called(call, depth),
            Expr::List(list) => self.listed(list, depth),
            Expr::Comprehension(comprehension) => self.looped(comprehension, depth),
            Expr::Map(_) | Expr::Struct(_) => {
                Err(Fault::Here("has braces; there are no maps to be written".to_owned()))
            }
            Expr::Unspecified => Err(Fault::Here("is no expression".to_owned())),
        };
        seen.map_err(|fault| match fault {
            Fault::Here(message) => (id, message),
            Fault::Below(wrong) => wrong,
        })
    }

    fn variable(&self, name: &str) -> Result<Seen, Fault> {
        if let Some((_, seen)) = self.scope.iter().rev().find(|(own, _)| own == name) {
            return Ok(*seen);
        }
        if name == "now" {
            return Ok(Seen::of(NUMBER, NAME_STEPS));
        }
        let unknown = || format!("there is no `{name}`; there are identity, request, path, resource and now");
        Ok(Seen::of(Kind::Record(Record::variable(name).ok_or_else(unknown)?), NAME_STEPS))
    }

    /// `x.y`, or `has(x.y)`.
    fn selected(&mut self, select: &mut SelectExpr, depth: usize) -> Result<Seen, Fault> {
        let seen = self.see(&mut select.operand, depth + 1)?;
        let name = select.field.as_str();
        let Kind::Record(record) = seen.kind else {
            return Err(Fault::Here(format!("{} has no attribute `{name}`", seen.kind)));
        };
        let kind = match record {
            Record::Segments if !self.segments.contains(&name) => {
                return Err(Fault::Here(format!("the rule's path has no segment `{{{name}}}`; name it there")));
            }
            Record::Segments => {
                self.names_segments = true;
                TEXT
            }
            _ if record.is_map() => TEXT,
            _ => {
                let attributes = record.attributes();
                let known = attributes.iter().find(|(known, _)| *known == name);
                let names = || attributes.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
                known.ok_or_else(|| format!("there is no attribute `{name}`; there are {}", names()))?.1
            }
        };
        let kind = if select.test { TRUTH } else { kind };
        // A list is made of the texts that are there.
        let steps = match kind {
            Kind::List(_) => ITEMS_MAX as u64,
            Kind::Scalar(_) | Kind::Record(_) => 0,
        };
        Ok(Seen::of(kind, and_one(&[seen.steps, NAME_STEPS, steps, look_up(record)])))
    }

    /// `[a, b]`
    fn listed(&mut self, list: &mut ListExpr, depth: usize) -> Result<Seen, Fault> {
        let mut all: Option<Seen> = None;
        let mut steps = 1_u64;
        for element in &mut list.elements {
            let id = element.id;
            let seen = self.see(element, depth + 1)?;
            steps = steps.saturating_add(and_one(&[seen.steps, seen.blocks()]));
            all = match (all, seen.kind) {
                (_, Kind::List(_) | Kind::Record(_)) => {
                    return Err(Fault::Below((id, format!("a list can hold texts and numbers, not {}", seen.kind))));
                }
                (Some(all), kind) if all.kind != kind => {
                    return Err(Fault::Below((id, format!("stands in a list of others: this is {kind}"))));
                }
                (Some(all), _) => Some(Seen { bytes: all.bytes.max(seen.bytes), ..all }),
                (None, _) => Some(seen),
            };
        }
        match all {
            Some(Seen { kind: Kind::Scalar(item), bytes, .. }) => {
                Ok(Seen { kind: Kind::List(item), items: list.elements.len() as u64, bytes, steps })
            }
            _ => Err(Fault::Here("the list is empty".to_owned())),
        }
    }

    /// `list.exists(x, …)` and its like, which the parser has spelled out.
    fn looped(&mut self, comprehension: &mut ComprehensionExpr, depth: usize) -> Result<Seen, Fault> {
        let ComprehensionExpr { iter_range, iter_var, iter_var2: _, accu_var, accu_init, loop_cond, loop_step, result } =
            comprehension;
        if matches!(accu_init.expr, Expr::List(_)) {
            return Err(Fault::Here(
                "`map` and `filter` make lists; ask by `exists`, `exists_one` or `all`".to_owned(),
            ));
        }
        let range = self.see(iter_range, depth + 1)?;
        let Kind::List(item) = range.kind else {
            return Err(Fault::Here(format!("goes through {}; only lists can be gone through", range.kind)));
        };
        let is_taken = Record::variable(iter_var).is_some() || iter_var == "now";
        if is_taken || self.scope.iter().any(|(own, _)| own == iter_var) {
            return Err(Fault::Here(format!("`{iter_var}` stands for something else already; take another name")));
        }
        let start = self.see(accu_init, depth + 1)?;
        let item = Seen { kind: Kind::Scalar(item), items: 0, bytes: range.bytes, steps: NAME_STEPS };
        self.scope.push((accu_var.clone(), Seen { steps: NAME_STEPS, ..start }));
        self.scope.push((iter_var.clone(), item));
        let condition = self.see(loop_cond, depth + 1)?;
        let turn = self.see(loop_step, depth + 1)?;
        self.scope.pop();
        let end = self.see(result, depth + 1)?;
        self.scope.pop();
        let turn = and_one(&[condition.steps, turn.steps, item.blocks(), 1]);
        Ok(Seen { steps: and_one(&[range.steps, start.steps, turn.saturating_mul(range.items), end.steps]), ..end })
    }

    /// An operator, or a function.
    fn called(&mut self, call: &mut CallExpr, depth: usize) -> Result<Seen, Fault> {
        let CallExpr { func_name: name, target, args } = call;
        let constant = match name.as_str() {
            "matches" => self.hold(args, Constant::pattern)?,
            "inCidr" => self.hold(args, Constant::network)?,
            _ => 0,
        };
        let is_member = target.is_some();
        let mut seen = Vec::with_capacity(args.len() + 1);
        for operand in target.as_deref_mut().into_iter().chain(args.iter_mut()) {
            seen.push(match &operand.expr {
                Expr::Ident(name) if is_constant(name) => Seen::of(TRUTH, NAME_STEPS),
                _ => self.see(operand, depth + 1)?,
            });
        }
        let kinds: Vec<Kind> = seen.iter().map(|seen| seen.kind).collect();
        let steps = and_one(&seen.iter().map(|seen| seen.steps).collect::<Vec<_>>());
        let with = |more: u64| steps.saturating_add(more);
        let result = match (name.as_str(), is_member, seen.as_slice()) {
            (
                operators::LOGICAL_OR | operators::LOGICAL_AND,
                false,
                [Seen { kind: TRUTH, .. }, Seen { kind: TRUTH, .. }],
            )
            | (operators::LOGICAL_NOT | operators::NOT_STRICTLY_FALSE, false, [Seen { kind: TRUTH, .. }]) => {
                Seen::of(TRUTH, steps)
            }
            (operators::EQUALS | operators::NOT_EQUALS, false, [left, right])
                if left.kind == right.kind && matches!(left.kind, Kind::Scalar(_)) =>
            {
                Seen::of(TRUTH, with(left.blocks().min(right.blocks())))
            }
            (
                operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS,
                false,
                [left, right],
            ) if left.kind == right.kind && matches!(left.kind, TEXT | NUMBER) => {
                Seen::of(TRUTH, with(left.blocks().min(right.blocks())))
            }
            (operators::ADD, false, [left @ Seen { kind: TEXT, .. }, right @ Seen { kind: TEXT, .. }]) => {
                let bytes = left.bytes.saturating_add(right.bytes);
                Seen::text(bytes, with(blocks(bytes)))
            }
            (
                operators::ADD | operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO,
                false,
                [Seen { kind: NUMBER, .. }, Seen { kind: NUMBER, .. }],
            )
            | (operators::NEGATE, false, [Seen { kind: NUMBER, .. }])
            | ("size", _, [Seen { kind: Kind::List(_), .. }]) => Seen::of(NUMBER, steps),
            (operators::CONDITIONAL, false, [Seen { kind: TRUTH, .. }, left, right])
                if left.kind == right.kind && !matches!(left.kind, Kind::Record(_)) =>
            {
                Seen { kind: left.kind, items: left.items.max(right.items), bytes: left.bytes.max(right.bytes), steps }
            }
            (operators::IN, false, [item, list @ Seen { kind: Kind::List(of), .. }])
                if item.kind == Kind::Scalar(*of) =>
            {
                let each = 1 + item.blocks().min(list.blocks());
                Seen::of(TRUTH, with(list.items.saturating_mul(each)))
            }
            (operators::IN, false, [Seen { kind: TEXT, .. }, Seen { kind: Kind::Record(map), .. }]) if map.is_map() => {
                Seen::of(TRUTH, with(look_up(*map)))
            }
            (operators::INDEX, false, [Seen { kind: Kind::Record(map), .. }, Seen { kind: TEXT, .. }])
                if map.is_map() =>
            {
                Seen::of(TEXT, with(look_up(*map)))
            }
            (operators::INDEX, false, [list @ Seen { kind: Kind::List(of), .. }, Seen { kind: NUMBER, .. }]) => {
                Seen { kind: Kind::Scalar(*of), items: 0, bytes: list.bytes, steps: with(list.blocks()) }
            }
            ("size", _, [value @ Seen { kind: TEXT, .. }]) | ("int", false, [value @ Seen { kind: TEXT, .. }]) => {
                Seen::of(NUMBER, with(value.blocks()))
            }
            ("contains", true, [value @ Seen { kind: TEXT, .. }, part @ Seen { kind: TEXT, .. }]) => {
                // A part that is longer than the text is not looked for.
                Seen::of(TRUTH, with(value.blocks().saturating_add(part.blocks().min(value.blocks()))))
            }
            ("startsWith" | "endsWith", true, [value @ Seen { kind: TEXT, .. }, part @ Seen { kind: TEXT, .. }]) => {
                Seen::of(TRUTH, with(value.blocks().min(part.blocks())))
            }
            ("matches", true, [value @ Seen { kind: TEXT, .. }, _]) => {
                Seen::of(TRUTH, with(value.bytes.saturating_mul(constant)))
            }
            ("inCidr", false, [value @ Seen { kind: TEXT, .. }, _]) => Seen::of(TRUTH, with(value.blocks())),
            ("string", false, [Seen { kind: NUMBER, .. }]) => Seen::text(NUMBER_BYTES_MAX, steps),
            _ => return Err(Fault::Here(unfit(name, &kinds))),
        };
        Ok(result)
    }

    /// Reads the last argument of a function, which must be written out, and puts a name in its place. Answers how large
    /// a pattern is, in KiB.
    fn hold(&mut self, args: &mut [Tree], read: fn(&str) -> Result<Constant, String>) -> Result<u64, Fault> {
        let Some(last) = args.last_mut() else { return Ok(0) };
        let Expr::Literal(LiteralValue::String(text)) = &last.expr else {
            let message = "must be written out, in quotes: it is read once, not for each call".to_owned();
            return Err(Fault::Below((last.id, message)));
        };
        let constant = read(text.inner()).map_err(|message| Fault::Below((last.id, message)))?;
        let size = match &constant {
            Constant::Pattern { kib, .. } => *kib as u64,
            Constant::Network(_) => 0,
        };
        last.expr = Expr::Ident(format!("@{}", self.constants.len()));
        self.constants.push(constant);
        Ok(size)
    }
}

/// What is known of a value that is written out.
fn written(literal: &LiteralValue) -> Result<Seen, Fault> {
    match literal {
        LiteralValue::Boolean(_) => Ok(Seen::of(TRUTH, 1)),
        LiteralValue::Int(_) => Ok(Seen::of(NUMBER, 1)),
        LiteralValue::String(text) => Ok(Seen::text(text.inner().len() as u64, 1)),
        LiteralValue::Bytes(_) | LiteralValue::Double(_) | LiteralValue::Null | LiteralValue::UInt(_) => {
            Err(Fault::Here("only texts in quotes, whole numbers, true and false can be written".to_owned()))
        }
    }
}

/// Whether a name is that of a constant: `@0`.
fn is_constant(name: &str) -> bool {
    name.strip_prefix('@').is_some_and(|index| index.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The steps of finding a name.
const fn look_up(record: Record) -> u64 {
    if record.is_map() { (NAMES_MAX as u64).div_ceil(NAMES_A_STEP) } else { 0 }
}

/// Why an operator or a function cannot do with what it is given.
fn unfit(name: &str, given: &[Kind]) -> String {
    let is_function = name.starts_with(|sign: char| sign.is_ascii_alphabetic());
    if is_function && !FUNCTIONS.contains(&format!("{name}(")) {
        return format!("there is no function `{name}`; there are {FUNCTIONS}");
    }
    let given = given.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    if is_function {
        return format!("`{name}` cannot be called in this way with {given}; there are {FUNCTIONS}");
    }
    let sign = match name {
        operators::IN => "in",
        operators::INDEX => "[]",
        operators::CONDITIONAL => "? :",
        _ => name.trim_matches('_'),
    };
    format!("`{sign}` cannot be used on {given}")
}

/// What is wrong with a node, or with one below it.
enum Fault {
    Here(String),
    Below(Wrong),
}

impl From<Wrong> for Fault {
    fn from(wrong: Wrong) -> Self {
        Self::Below(wrong)
    }
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self::Here(message)
    }
}

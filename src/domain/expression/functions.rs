//! The functions that expressions can call: those of CEL that rules need, and one for networks. There are no others.

#![expect(clippy::needless_pass_by_value, reason = "a function of the interpreter is given its arguments")]

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use cel::common::types::{CelBool, CelInt, CelString, INT_TYPE, LIST_TYPE, STRING_TYPE, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::{DeclarationError, Env, ExecutionError};
use ipnet::IpNet;
use regex::{Regex, RegexBuilder};

/// The longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 256;

/// The largest pattern when it is compiled, in KiB, and what may be remembered while matching with it.
const COMPILED_KIB_MAX: usize = 64;

/// How deep a pattern may be nested.
const PATTERN_NESTING_MAX: u32 = 16;

static CONSTANT_TYPE: Type = Type::new_unspecified_type("constant");

/// An argument that is read once, where the expression is.
#[derive(Clone, Debug)]
pub(super) enum Constant {
    /// Of `matches`. Whatever the text, each byte of it takes time in proportion to the compiled pattern at most.
    Pattern {
        /// What is compiled.
        pattern: Regex,
        /// How large it is, in KiB; rounded up to a power of two.
        kib: usize,
    },
    /// Of `inCidr`.
    Network(IpNet),
}

impl Constant {
    /// Reads a pattern.
    pub(super) fn pattern(text: &str) -> Result<Self, String> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!("the pattern is longer than {PATTERN_BYTES_MAX} bytes"));
        }
        let mut kib = 1;
        loop {
            let compiled = RegexBuilder::new(text)
                .size_limit(kib << 10)
                .dfa_size_limit(COMPILED_KIB_MAX << 10)
                .nest_limit(PATTERN_NESTING_MAX)
                .build();
            match compiled {
                Ok(pattern) => return Ok(Self::Pattern { pattern, kib }),
                Err(regex::Error::CompiledTooBig(_)) if kib < COMPILED_KIB_MAX => kib *= 2,
                Err(regex::Error::CompiledTooBig(_)) => {
                    return Err(format!(
                        "the pattern is larger than {COMPILED_KIB_MAX} KiB when it is compiled; repeat less, and name \
                         letters as [a-z] rather than as \\w"
                    ));
                }
                // The whole message draws the pattern with a mark under it.
                Err(error) => {
                    let why = error.to_string();
                    let why = why.lines().last().unwrap_or_default().trim();
                    return Err(format!("the pattern cannot be read: {}", why.trim_start_matches("error: ")));
                }
            }
        }
    }

    /// Reads a network, which has nothing behind its prefix.
    pub(super) fn network(text: &str) -> Result<Self, String> {
        match text.parse::<IpNet>() {
            Ok(IpNet::V6(network)) if network.addr().to_ipv4_mapped().is_some() => {
                Err("must be written as an IPv4 network; no address is taken for an IPv6 one that holds one".to_owned())
            }
            Ok(network) if network.trunc() == network => Ok(Self::Network(network)),
            Ok(network) => Err(format!("the network has bits behind its prefix; write {}", network.trunc())),
            Err(_) => Err("must be a network, such as 10.0.0.0/8 or 2001:db8::/32".to_owned()),
        }
    }
}

impl Val for Constant {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &CONSTANT_TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }
}

impl StaticVal for Constant {}

/// The functions, for every expression the same.
pub(super) fn environment() -> Result<Arc<Env>, DeclarationError> {
    static ENVIRONMENT: LazyLock<Result<Arc<Env>, DeclarationError>> = LazyLock::new(|| {
        let mut env = Env::default();
        declare(&mut env)?;
        Ok(Arc::new(env))
    });
    ENVIRONMENT.clone()
}

fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_overload("size", "size_string", vec![STRING_TYPE], size)?;
    env.add_overload("size", "size_list", vec![LIST_TYPE], size)?;
    env.add_member_overload("size", "string_size", STRING_TYPE, vec![], size)?;
    env.add_member_overload("size", "list_size", LIST_TYPE, vec![], size)?;
    env.add_member_overload("startsWith", "starts_with_string", STRING_TYPE, vec![STRING_TYPE], starts_with)?;
    env.add_member_overload("endsWith", "ends_with_string", STRING_TYPE, vec![STRING_TYPE], ends_with)?;
    env.add_member_overload("contains", "contains_string", STRING_TYPE, vec![STRING_TYPE], contains)?;
    env.add_member_overload("matches", "matches_string", STRING_TYPE, vec![CONSTANT_TYPE.to_owned()], matches)?;
    env.add_overload("int", "string_to_int64", vec![STRING_TYPE], int)?;
    env.add_overload("string", "int64_to_string", vec![INT_TYPE], string)?;
    env.add_overload("inCidr", "in_cidr_string", vec![STRING_TYPE, CONSTANT_TYPE.to_owned()], in_cidr)
}

/// What a function is given.
type Arguments<'b, 'v> = Vec<CowVal<'b, 'v>>;

/// What a function answers.
type Answer<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

fn size<'b, 'v>(arguments: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let sizer = arguments.first().and_then(|value| value.as_sizer()).ok_or_else(none_such)?;
    Ok(CowVal::owned(sizer.size()))
}

fn starts_with<'b, 'v>(arguments: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    Ok(truth(text(&arguments, 0)?.starts_with(text(&arguments, 1)?)))
}

fn ends_with<'b, 'v>(arguments: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    Ok(truth(text(&arguments, 0)?.ends_with(text(&arguments, 1)?)))
}

fn contains<'b, 'v>(arguments: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    Ok(truth(text(&arguments, 0)?.contains(text(&arguments, 1)?)))
}

fn matches<'b, 'v>(arguments: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    match constant(&arguments)? {
        Constant::Pattern { pattern, .. } => Ok(truth(pattern.is_match(text(&arguments, 0)?))),
        Constant::Network(_) => Err(none_such()),
    }
}

/// Digits, with or without a minus sign: in one way only, so that no two texts are one number.
fn int<'b, 'v>(arguments: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let text = text(&arguments, 0)?;
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => Ok(CowVal::owned(CelInt::from(number))),
        _ => Err(ExecutionError::function_error("int", "no whole number")),
    }
}

fn string<'b, 'v>(arguments: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let number = arguments.first().and_then(|value| value.downcast_ref::<CelInt>()).ok_or_else(none_such)?;
    Ok(CowVal::owned(CelString::from(number.inner().to_string())))
}

/// An IPv4 address in IPv6's form (RFC 4291 §2.5.5.2) is that IPv4 address.
fn in_cidr<'b, 'v>(arguments: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let address: IpAddr =
        text(&arguments, 0)?.parse().map_err(|_| ExecutionError::function_error("inCidr", "no address"))?;
    match constant(&arguments)? {
        Constant::Network(network) => Ok(truth(network.contains(&address.to_canonical()))),
        Constant::Pattern { .. } => Err(none_such()),
    }
}

fn text<'a>(arguments: &'a [CowVal<'_, '_>], at: usize) -> Result<&'a str, ExecutionError> {
    let value = arguments.get(at).and_then(|value| value.downcast_ref::<CelString>());
    value.map(CelString::inner).ok_or_else(none_such)
}

fn constant<'a>(arguments: &'a [CowVal<'_, '_>]) -> Result<&'a Constant, ExecutionError> {
    arguments.get(1).and_then(|value| value.downcast_ref::<Constant>()).ok_or_else(none_such)
}

fn truth<'b, 'v>(truth: bool) -> CowVal<'b, 'v> {
    CowVal::owned(CelBool::from(truth))
}

/// The check lets no such call through.
fn none_such() -> ExecutionError {
    ExecutionError::missing_argument_or_target()
}

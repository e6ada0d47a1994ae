//! What stands at the places in a token that the configuration names.

use super::json::{Number, Object, Value};
use crate::domain::decision::Reason;
use crate::domain::issuer::{ChosenClaim, ClaimPath};

/// Scopes of the first claim that is there. One string holds several, with single spaces between (RFC 6749 §3.3); in an
/// array each string is one.
pub(super) fn scopes(claims: &Object<'_>, places: &[ClaimPath]) -> Result<Box<[Box<str>]>, Reason> {
    for place in places {
        let mut scopes = Vec::new();
        let mut found = false;
        visit(claims, &place.0, &mut |value| {
            found = true;
            match value {
                Value::String(text) => {
                    let words = text.split(' ').filter(|scope| !scope.is_empty());
                    scopes.reserve_exact(words.clone().count());
                    scopes.extend(words.map(Into::into));
                    Ok(())
                }
                value => strings(value, &mut scopes),
            }
        })?;
        if found {
            return Ok(scopes.into());
        }
    }
    Ok(Box::default())
}

/// Roles of every claim that is there. A string is one role.
pub(super) fn roles(claims: &Object<'_>, places: &[ClaimPath]) -> Result<Box<[Box<str>]>, Reason> {
    let mut roles = Vec::new();
    for place in places {
        visit(claims, &place.0, &mut |value| match value {
            Value::String(role) => {
                roles.push((**role).into());
                Ok(())
            }
            value => strings(value, &mut roles),
        })?;
    }
    Ok(roles.into())
}

/// Shows every value at a place. What is on the way there and no object leads nowhere.
fn visit<'c, 'a>(
    object: &'c Object<'a>,
    names: &[String],
    show: &mut impl FnMut(&'c Value<'a>) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let Some((name, inner)) = names.split_first() else { return Ok(()) };
    let mut step = |value: &'c Value<'a>| match value {
        value if inner.is_empty() => show(value),
        Value::Object(object) => visit(object, inner, show),
        _ => Ok(()),
    };
    if name == "*" {
        return object.values().try_for_each(step);
    }
    object.get(name).map_or(Ok(()), &mut step)
}

/// Chosen claims, by name.
type Chosen = Box<[(Box<str>, Box<str>)]>;

/// The claims that were chosen, by the names that they were given; those that are there.
pub(super) fn chosen(claims: &Object<'_>, choice: &[ChosenClaim]) -> Result<Chosen, Reason> {
    let found = choice.iter().filter_map(|chosen| {
        let text = text_at(claims, &chosen.place).transpose()?;
        Some(text.map(|text| (chosen.name.as_str().into(), text)))
    });
    found.collect()
}

/// What stands at a place, as text: a string, a number, true or false.
pub(super) fn text_at(claims: &Object<'_>, place: &ClaimPath) -> Result<Option<Box<str>>, Reason> {
    let mut text = None;
    visit(claims, &place.0, &mut |value| {
        text = Some(match value {
            Value::String(text) => (**text).into(),
            Value::Bool(flag) => flag.to_string().into(),
            Value::Number(Number::Unsigned(number)) => number.to_string().into(),
            Value::Number(Number::Negative(number)) => number.to_string().into(),
            Value::Number(Number::Float(number)) => number.to_string().into(),
            // Not "not there": whoever goes by the claim must not take a caller for one without it.
            Value::Null | Value::Array(_) | Value::Object(_) => return Err(Reason::MalformedToken),
        });
        Ok(())
    })?;
    Ok(text)
}

/// Adds the strings of an array; anything else is malformed.
pub(super) fn strings(value: &Value<'_>, list: &mut Vec<Box<str>>) -> Result<(), Reason> {
    let Value::Array(items) = value else { return Err(Reason::MalformedToken) };
    list.reserve_exact(items.len());
    for item in items {
        let Value::String(text) = item else { return Err(Reason::MalformedToken) };
        list.push((**text).into());
    }
    Ok(())
}

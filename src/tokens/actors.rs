//! Who acts for a token's subject (RFC 8693 §4.1): `act`, and `act` inside it, from the current actor back to the first.

use super::json::{Object, Value};
use crate::domain::decision::Reason;
use crate::domain::identity::Actor;

/// The longest chain. Each exchange of a token adds one.
const ACTORS_MAX: usize = 8;

/// The actors of a token of `issuer`, the current one first. One that cannot be told is a refusal: without it, the
/// token would be taken for the subject's own.
pub(super) fn read(claims: &Object<'_>, issuer: &str) -> Result<Box<[Actor]>, Reason> {
    let mut actors = Vec::new();
    let mut inner = claims.get("act");
    while let Some(act) = inner {
        let Value::Object(act) = act else { return Err(Reason::MalformedToken) };
        if actors.len() == ACTORS_MAX {
            return Err(Reason::TokenTooLarge);
        }
        actors.push(actor(act, issuer)?);
        inner = act.get("act");
    }
    Ok(actors.into())
}

fn actor(act: &Object<'_>, issuer: &str) -> Result<Actor, Reason> {
    let text = |name| act.string(name).map(|text| text.filter(|text| !text.is_empty()));
    let (subject, client) = (text("sub")?, text("client_id")?);
    if subject.is_none() && client.is_none() {
        return Err(Reason::MalformedToken);
    }
    Ok(Actor {
        issuer: act.string("iss")?.filter(|own| *own != issuer).map(Into::into),
        subject: subject.map(Into::into),
        client: client.map(Into::into),
    })
}

//! One status list: where it may be, and how its token is read (Token Status List §5.1, §8.3).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

use crate::domain::decision::Reason;
use crate::domain::status::{StatusList, StatusRef};
use crate::domain::time::Micros;
use crate::tokens::claims::kind_of;
use crate::tokens::dates::Dates;
use crate::tokens::json::{Number, Object, Value};
use crate::tokens::jwt::Verified;

/// Bytes of a list once it is inflated: at a bit each it holds 16 million tokens.
pub(super) const LIST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Bytes of a list's URI.
const URI_BYTES_MAX: usize = 1024;

/// A list as it was published.
pub(super) struct Published {
    /// The statuses.
    pub list: StatusList,
    /// How long it is fresh, where it says so.
    pub ttl: Option<Micros>,
    /// How long it may be used at all, by the wall clock, where it says so.
    pub expires_at: Option<Micros>,
}

/// Where the status of a token stands (§6.2). A claim of that name which names no list is something else, and was there before
/// this was one; what names a list must do so properly.
pub(in crate::tokens) fn read(claims: &Object<'_>) -> Result<Option<Box<StatusRef>>, Reason> {
    let Some(Value::Object(status)) = claims.get("status") else { return Ok(None) };
    let list = match status.get("status_list") {
        None => return Ok(None),
        Some(Value::Object(list)) => list,
        Some(_) => return Err(Reason::MalformedToken),
    };
    let (Some(Value::Number(Number::Unsigned(index))), Some(uri)) = (list.get("idx"), list.string("uri")?) else {
        return Err(Reason::MalformedToken);
    };
    if !(1..=URI_BYTES_MAX).contains(&uri.len()) {
        return Err(Reason::MalformedToken);
    }
    Ok(Some(Box::new(StatusRef { list: uri.into(), index: *index })))
}

/// What the token of the list at `uri` holds, at `now` by the wall clock. An error says what is wrong with it.
pub(super) fn published(
    token: &Verified<'_>,
    uri: &str,
    leeway: Micros,
    now: Micros,
) -> Result<Published, &'static str> {
    let claims = &token.claims;
    if token.typ.as_deref().map(kind_of).as_deref() != Some("statuslist+jwt") {
        return Err("is of another type than statuslist+jwt");
    }
    // Else one list could be shown for another.
    if claims.string("sub") != Ok(Some(uri)) {
        return Err("has another `sub` than where it is");
    }
    let Dates { expires_at, issued_at, .. } = Dates::read(claims).map_err(|_| "has a date that is none")?;
    if issued_at.ok_or("has no `iat`")? > now + leeway {
        return Err("was issued in the future");
    }
    if expires_at.is_some_and(|at| now >= at + leeway) {
        return Err("has expired");
    }
    let ttl = match claims.get("ttl") {
        None => None,
        Some(Value::Number(Number::Unsigned(secs))) => Some(Micros::from_secs(*secs)),
        Some(_) => return Err("has a `ttl` that is no number of seconds"),
    };
    let Some(Value::Object(list)) = claims.get("status_list") else { return Err("has no `status_list`") };
    let list = inflate(list).ok_or("has a `status_list` that cannot be read")?;
    Ok(Published { list, ttl, expires_at })
}

/// §4.2.
fn inflate(list: &Object<'_>) -> Option<StatusList> {
    let Some(Value::Number(Number::Unsigned(bits))) = list.get("bits") else { return None };
    let packed = URL_SAFE_NO_PAD.decode(list.string("lst").ok()??).ok()?;
    let bytes = decompress_to_vec_zlib_with_limit(&packed, LIST_BYTES_MAX).ok()?;
    StatusList::new(*bits, bytes)
}

//! Where in tokens an issuer's claims are found.

use super::issuers::TEXT_BYTES_MAX;
use super::reader::{Item, Reader};
use super::values::word;
use crate::domain::issuer::{ChosenClaim, ClaimPath};

/// The longest name that is given to a claim.
const NAME_BYTES_MAX: usize = 64;

/// Every token's verdict carries them.
const CLAIMS_MAX: usize = 32;

/// OAuth's own claim, then the one of some providers.
pub(super) fn scope_claims() -> Vec<ClaimPath> {
    [["scope"], ["scp"]].map(|names| ClaimPath(names.map(str::to_owned).to_vec())).to_vec()
}

/// The plain claim, Keycloak's realm roles, and Keycloak's roles of the clients that the token is meant for. Not those
/// of every client: the ADMIN of one service is not the ADMIN of another.
pub(super) fn role_claims(audiences: &[String]) -> Vec<ClaimPath> {
    let path = |names: &[&str]| ClaimPath(names.iter().map(|&name| name.to_owned()).collect());
    let of_clients = audiences.iter().map(|audience| path(&["resource_access", audience, "roles"]));
    [path(&["roles"]), path(&["realm_access", "roles"])].into_iter().chain(of_clients).collect()
}

pub(super) fn claim_paths(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<ClaimPath>> {
    reader.list(item, claim_path)
}

/// A name, or names from the outside in.
fn claim_path(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<ClaimPath> {
    if item.is_list() {
        let names: Vec<Item<'_>> = reader.items(item)?;
        if names.is_empty() {
            reader.error(item, "is empty; name a claim");
            return None;
        }
        let read: Vec<Option<String>> =
            names.iter().map(|item| reader.parse(item, word("a claim's name", TEXT_BYTES_MAX))).collect();
        return read.into_iter().collect::<Option<Vec<String>>>().map(ClaimPath);
    }
    let name = reader.parse(item, word("a claim's name", TEXT_BYTES_MAX))?;
    // Names such as `https://example.com/roles` have dots of their own.
    if name.contains('.') && !name.contains('/') {
        let path = name.replace('.', ", ");
        reader.warning(
            item,
            format!("is the name of one claim, dots included; for a claim inside another write [{path}]"),
        );
    }
    Some(ClaimPath(vec![name]))
}

/// The place of one value.
pub(super) fn single_claim(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<ClaimPath> {
    let path = claim_path(reader, item)?;
    if path.0.iter().any(|name| name == "*") {
        reader.error(item, "has a `*`, which may stand for several members; name one");
        return None;
    }
    Some(path)
}

/// Claims by the names that they are given.
pub(super) fn chosen_claims(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<ChosenClaim>> {
    let mut claims = Vec::new();
    for (key, name, item) in reader.named(item)? {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(fits) {
            reader.error(&key, format!("a name must be 1 to {NAME_BYTES_MAX} letters, digits, `_`, `.` and `-`"));
        }
        if let Some(place) = single_claim(reader, &item) {
            claims.push(ChosenClaim { name: name.to_owned(), place });
        }
    }
    if claims.len() > CLAIMS_MAX {
        reader.error(item, format!("has more than {CLAIMS_MAX} entries; choose what rules and services need"));
    }
    Some(claims)
}

//! The section `identity_headers`.

use super::problem::nearest;
use super::reader::{Item, Reader};
use crate::domain::identity_headers::{Facet, HEADERS_MAX, IdentityHeader, check_name};

pub(super) fn identity_headers(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<IdentityHeader>> {
    let named = reader.named(item)?;
    if named.len() > HEADERS_MAX {
        reader.error(item, format!("has more than {HEADERS_MAX} entries; make it shorter"));
        return None;
    }
    let mut headers = Vec::new();
    for (key, name, item) in &named {
        let well_named = check_name(name).map_err(|must| reader.error(key, must)).is_ok();
        if let Some(facet) = reader.parse(item, facet).filter(|_| well_named) {
            headers.push(IdentityHeader { name: (*name).into(), facet });
        }
    }
    (headers.len() == named.len()).then_some(headers)
}

fn facet(text: &str) -> Result<Facet, String> {
    Facet::from_name(text).ok_or_else(|| {
        let names = Facet::NAMED.map(|(name, _)| name);
        match nearest(text, names.iter().copied()) {
            Some(near) => format!("must be what the header says of the caller; did you mean `{near}`?"),
            None => format!("must be what the header says of the caller: {} or claims.NAME", names.join(", ")),
        }
    })
}

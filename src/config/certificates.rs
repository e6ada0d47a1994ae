//! The sections `certificates` and `operators`.

use super::reader::{Item, Reader};
use super::values::scope;
use crate::domain::certificate::DNS_ISSUER;
use crate::domain::name::NamePattern;
use crate::domain::policy::Operators;

pub(super) fn certificates(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<NamePattern>> {
    let mut fields = reader.fields(item, "certificates")?;
    let names = fields.required(reader, "names", names);
    fields.finish(reader);
    names
}

/// `asks`: whether connections are asked for certificates.
pub(super) fn operators(reader: &mut Reader<'_>, item: &Item<'_>, asks: bool) -> Option<Operators> {
    let mut fields = reader.fields(item, "operators")?;
    let names = fields.required(reader, "names", names);
    let scopes =
        fields.required(reader, "scopes", |reader, item| reader.some(item, |reader, item| reader.parse(item, scope)));
    fields.finish(reader);
    if !asks {
        reader.error(item, "names certificates, and connections are not asked for any; add `listen.tls.client_ca`");
    }
    Some(Operators { names: names?, scopes: scopes? })
}

/// Patterns of names, at least one.
pub(super) fn names(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<NamePattern>> {
    reader.some(item, |reader, item| reader.parse(item, NamePattern::parse))
}

/// Who vouches for a caller with such a name.
pub(super) fn issuer(pattern: &NamePattern) -> String {
    match pattern {
        NamePattern::Spiffe { domain, .. } => format!("spiffe://{domain}"),
        NamePattern::Dns(_) | NamePattern::DnsBelow(_) | NamePattern::Uri(_) => DNS_ISSUER.to_owned(),
    }
}

//! The section `gateways`.

use super::reader::{Item, Reader};
use crate::domain::gateway::{Gateways, HOPS_MAX};

pub(super) fn gateways(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Gateways> {
    let default = Gateways::default();
    let mut fields = reader.fields(item, "gateways")?;
    let trusted_hops = fields.or(reader, "trusted_hops", default.trusted_hops, |reader, item| {
        reader.whole(item, 0..=HOPS_MAX).and_then(|hops| usize::try_from(hops).ok())
    });
    let forwarded_certificates =
        fields.or(reader, "forwarded_certificates", default.forwarded_certificates, |reader, item| reader.flag(item));
    fields.finish(reader);
    Some(Gateways { trusted_hops: trusted_hops?, forwarded_certificates: forwarded_certificates? })
}
